"""What the writer remembers of the keys that it wrote: always what the file has, and bounded."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from platformd.coordination.contract import KeyValue, Put
from platformd.coordination.sqlite import open_sqlite, rows
from platformd.coordination.sqlite.schema import open_writer
from platformd.core.clock import SystemClock
from platformd.core.errors import StorageFull
from platformd.core.settings import StoreSettings
from tests.conformance.store_engines import put


def fact(key: bytes, value: bytes, version: int = 1) -> KeyValue:
    return KeyValue(key=key, value=value, create_revision=2, mod_revision=2, version=version, lease=0)


def test_what_a_commit_made_is_known_without_a_read(tmp_path: Path) -> None:
    """A put key is answered from memory, a deleted one is looked up again, a large one is not kept."""
    with closing(open_writer(tmp_path / "s.db")) as connection:
        state = rows.StoredState(connection)
        large = fact(b"large", b"x" * (rows.REMEMBERED_VALUE + 1))
        state.became({b"a": fact(b"a", b"1"), b"b": fact(b"b", b"1"), b"large": large})
        assert (state.one(b"a"), state.one(b"large")) == (fact(b"a", b"1"), None)
        state.became({b"a": None, b"b": fact(b"b", b"2", 2)})
        assert (state.one(b"a"), state.one(b"b")) == (None, fact(b"b", b"2", 2))
        state.forget()
        assert state.one(b"b") is None


def test_the_longest_unchanged_goes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No more than ``REMEMBERED_KEYS`` are kept; one that was changed again counts as new."""
    monkeypatch.setattr(rows, "REMEMBERED_KEYS", 2)
    with closing(open_writer(tmp_path / "s.db")) as connection:
        state = rows.StoredState(connection)
        for key in (b"a", b"b", b"a", b"c"):
            state.became({key: fact(key, b"v")})
        assert [state.one(key) is not None for key in (b"a", b"b", b"c")] == [True, False, True]


class FullOnce:
    """A connection whose next COMMIT finds the disk full."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self.full = False

    def execute(self, statement: str, *arguments: object) -> sqlite3.Cursor:
        if statement == "COMMIT" and self.full:
            self.full = False
            error = sqlite3.OperationalError("database or disk is full")
            error.sqlite_errorcode = sqlite3.SQLITE_FULL
            error.sqlite_errorname = "SQLITE_FULL"
            raise error
        return self._connection.execute(statement, *arguments)

    def __getattr__(self, name: str) -> object:
        return getattr(self._connection, name)


async def test_a_failed_commit_leaves_no_trace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a commit that failed, the next change of the key builds on what the file has."""
    opened: list[FullOnce] = []

    def open_it(path: Path) -> FullOnce:
        opened.append(FullOnce(open_writer(path)))
        return opened[0]

    monkeypatch.setattr("platformd.coordination.sqlite.lifetime.open_writer", open_it)
    async with open_sqlite(tmp_path / "s.db", StoreSettings(), SystemClock()) as store:
        await put(store, b"k", b"1")
        opened[0].full = True
        with pytest.raises(StorageFull):
            await put(store, b"k", b"2")
        result = await store.txn([], [Put(b"k", b"3")])
        assert result.results[0].previous.value == b"1"  # type: ignore[union-attr]
        found = await store.get(b"k")
        assert found is not None
        assert (found.value, found.version) == (b"3", 2)
