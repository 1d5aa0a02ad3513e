"""How reads reach the rows: what the conformance suite cannot tell from the answers."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trio

from platformd.coordination.contract import Delete, Order, Put
from platformd.coordination.sqlite import open_sqlite, past, reader
from platformd.core.clock import SystemClock
from platformd.core.errors import InvalidInput
from platformd.core.settings import StoreSettings
from tests.conformance.store_engines import put

SETTINGS = StoreSettings()


async def test_both_ways_into_the_past_agree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lists, counts and gets of an old revision are the same whether they go through what changed since or along each
    key's chain, on the loop or in a thread, over deletions and rebirths."""
    orders: list[Order] = ["key", "-key", "mod_revision", "-mod_revision"]
    async with open_sqlite(tmp_path / "s.db", SETTINGS, SystemClock()) as store:
        for number in range(90):
            await put(store, b"k/%d" % (number % 9), b"%d" % number)
            if number % 4 == 0:
                await store.txn([], [Delete(b"k/%d" % (number % 7)), Put(b"k/other", b"")])
        newest = (await store.status()).revision
        for end in (b"k/5", None):
            for limit, order, keys_only in ((0, 0, True), (2, 0, False), (0, 1, False), (3, 2, True), (2, 3, False)):
                for revision in range(1, newest, 7):
                    answers = []
                    for recent in (0, 10**6):
                        monkeypatch.setattr(past, "RECENT_REVISIONS", recent)
                        monkeypatch.setattr(reader, "LOOP_REVISIONS", recent)
                        listed = await store.list(
                            b"k/", end, revision=revision, limit=limit, order=orders[order], keys_only=keys_only
                        )
                        counted = await store.list(b"k/", end, revision=revision, count_only=True)
                        answers.append((listed, counted, await store.get(b"k/3", revision=revision)))
                    assert answers[0] == answers[1]


async def test_past_of_a_hot_key_is_found(tmp_path: Path) -> None:
    """A key that changed thousands of times since is found at the end of its chain, and so is a deleted one."""
    async with open_sqlite(tmp_path / "s.db", SETTINGS, SystemClock()) as store:
        first = (await store.txn([], [Put(b"hot", b"first"), Put(b"gone", b"there")])).revision
        await store.txn([], [Delete(b"gone")])
        async with trio.open_nursery() as nursery:

            async def write() -> None:
                for _ in range(100):
                    await put(store, b"hot")

            for _ in range(50):
                nursery.start_soon(write)
        hot, gone = await store.get(b"hot", revision=first), await store.get(b"gone", revision=first)
        assert hot is not None
        assert gone is not None
        assert (hot.value, hot.mod_revision, gone.value) == (b"first", first, b"there")
        assert await store.get(b"hot", revision=first - 1) is None
        assert [kv.key for kv in (await store.list(b"", None, revision=first)).items] == [b"gone", b"hot"]


async def test_reads_of_the_past_do_not_scan(tmp_path: Path) -> None:
    """Every statement that reads the past seeks to what it needs, in the order that it needs."""
    async with open_sqlite(tmp_path / "s.db", SETTINGS, SystemClock()):
        connection = sqlite3.connect(f"file:{tmp_path}/s.db?mode=ro", uri=True)

        def plan(statement: str, parameters: Any) -> str:
            return " / ".join(row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {statement}", parameters))

        try:
            bounds = {"key": b"a", "end": b"b", "revision": 1, "limit": 1, "at": 2}
            for keys_only in (True, False):
                found = plan(past.recent(past.Range(b"a", b"b", 1, keys_only=keys_only)), bounds)
                assert "SEARCH current USING PRIMARY KEY (key>? AND key<?)" in found
                assert "SEARCH history USING PRIMARY KEY (revision>?)" in found
                assert "SCAN" not in found
            assert plan(past._FIRST_DELETION, (b"a", 1)) == (
                "SEARCH history USING COVERING INDEX history_deleted (key=? AND revision>?)"
            )
            found = plan(past._DELETED.format(below="AND key < ?"), (b"a", b"b", 1))
            assert found == "SEARCH history USING COVERING INDEX history_deleted (key>? AND key<?)"
            found = plan(past._CHAIN, bounds)
            assert found.count("SEARCH history USING PRIMARY KEY (revision=? AND key=?)") == 3
        finally:
            connection.close()


async def test_pages_of_a_list_are_counted_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the first page of a list counts its range; the others know what is left, and all of them tell the truth."""
    async with open_sqlite(tmp_path / "s.db", SETTINGS, SystemClock()) as store:
        await store.txn([], [Put(b"k/%02d" % n, b"") for n in range(50)])
        counted: list[str] = []
        for module, name in ((reader, "_count_now"), (past, "count")):
            monkeypatch.setattr(module, name, _noted(getattr(module, name), name, counted))
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
