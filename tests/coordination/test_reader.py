"""How reads reach the rows: what the conformance suite cannot tell from the answers."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trio

from platformd.coordination.contract import Put
from platformd.coordination.sqlite import open_sqlite, reader
from platformd.core.clock import SystemClock
from platformd.core.errors import InvalidInput
from platformd.core.settings import StoreSettings
from tests.conformance.store_engines import put

SETTINGS = StoreSettings()


async def test_both_ways_into_the_past_agree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A list of an old revision is the same whether it goes through what changed since or through the range's index."""
    async with open_sqlite(tmp_path / "s.db", SETTINGS, SystemClock()) as store:
        for number in range(60):
            await put(store, b"k/%d" % (number % 9), b"%d" % number)
        newest = (await store.status()).revision
        for end in (b"k/5", None):
            for limit in (0, 2):
                for revision in range(1, newest + 1, 7):
                    lists = []
                    for recent in (0, 10**6):
                        monkeypatch.setattr(reader, "RECENT_REVISIONS", recent)
                        lists.append(await store.list(b"k/", end, revision=revision, limit=limit))
                    assert lists[0] == lists[1]


@pytest.mark.parametrize("keys_only", [True, False])
async def test_reads_do_not_scan(tmp_path: Path, keys_only: bool) -> None:
    """Every statement that reads a range seeks to it, and to its end, in the order that it needs."""
    async with open_sqlite(tmp_path / "s.db", SETTINGS, SystemClock()):
        connection = sqlite3.connect(f"file:{tmp_path}/s.db?mode=ro", uri=True)
        try:
            for recent, place in ((True, "PRIMARY KEY (revision>?)"), (False, "history_by_key (key>? AND key<?)")):
                statement = reader._past(keys_only=keys_only, bounded=True, recent=recent)
                bounds = {"key": b"a", "end": b"b", "revision": 1, "limit": 1}
                plan = " / ".join(row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {statement}", bounds))
                assert "SEARCH current USING PRIMARY KEY (key>? AND key<?)" in plan
                assert place in plan
                assert "SCAN" not in plan
        finally:
            connection.close()


async def test_pages_of_a_list_are_counted_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the first page of a list counts its range; the others know what is left, and all of them tell the truth."""
    async with open_sqlite(tmp_path / "s.db", SETTINGS, SystemClock()) as store:
        await store.txn([], [Put(b"k/%02d" % n, b"") for n in range(50)])
        counted: list[str] = []
        for name in ("_count_now", "_count_past"):
            monkeypatch.setattr(reader, name, _noted(getattr(reader, name), name, counted))
        page = await store.list(b"k/", b"k0", limit=7)
        left = [page.count]
        while page.more:
            await put(store, b"k/99")  # so that the rest is of the past
            page = await store.list(page.items[-1].key + b"\x00", b"k0", revision=page.revision, limit=7)
            left.append(page.count)
        assert left == list(range(50, 0, -7))
        assert counted == ["_count_now"]


def _noted(function: Callable[..., int], name: str, into: list[str]) -> Callable[..., int]:
    def noting(*arguments: Any) -> int:
        into.append(name)
        return function(*arguments)

    return noting


async def test_what_there_is_not_is_refused(tmp_path: Path) -> None:
    """A watch of another type of event than there are is refused by name."""
    async with open_sqlite(tmp_path / "s.db", SETTINGS, SystemClock()) as store:
        with pytest.raises(InvalidInput, match="moves"):
            async with store.watch(b"", None, only="moves"):  # type: ignore[arg-type]
                pass


async def test_long_lists_wait_for_a_snapshot(tmp_path: Path) -> None:
    """More long lists at once than there are snapshots are all answered, and short reads do not wait for them."""
    async with open_sqlite(tmp_path / "s.db", SETTINGS, SystemClock()) as store:
        for start in range(0, 1000, 100):
            await store.txn([], [Put(b"k/%04d" % n, b"") for n in range(start, start + 100)])
        finished: list[int] = []

        async def read() -> None:
            finished.append(len((await store.list(b"", None)).items))

        async with trio.open_nursery() as nursery:
            for _ in range(3 * reader.MAX_SNAPSHOTS):
                nursery.start_soon(read)
            await trio.lowlevel.checkpoint()
            assert await store.get(b"k/0000") is not None
            assert len(finished) < 3 * reader.MAX_SNAPSHOTS
        assert finished == [1000] * (3 * reader.MAX_SNAPSHOTS)
