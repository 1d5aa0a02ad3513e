"""What other stores of this kind got wrong, each as the behaviour that this one must have.

The list is the track record that etcd's robustness tests keep (tests/robustness/README.md there). The rest of it is
proved elsewhere: no acknowledged write lost and no revision twice after a crash (``test_crash``), whole revisions and
no duplicates on watches (``conformance``), stale reads (``conformance``). Users and clusters are not of this engine.
"""

from __future__ import annotations

import random
import shutil
import sqlite3
from pathlib import Path

import pytest
import trio
import trio.testing

from platformd.coordination.contract import (
    Compacted,
    Compare,
    Delete,
    Event,
    FutureRevision,
    Get,
    GetResult,
    Operation,
    Put,
    WatchBatch,
)
from platformd.coordination.sqlite import compaction, open_sqlite
from platformd.coordination.sqlite.queue import Work, WriteQueue
from platformd.coordination.sqlite.watch import PROGRESS_INTERVAL
from platformd.coordination.sqlite.work import Compact
from platformd.core.clock import SystemClock
from platformd.core.settings import StoreSettings
from tests.conformance.store_engines import events_until, put

SETTINGS = StoreSettings()


async def test_bookmark_is_never_ahead_of_the_events(tmp_path: Path, mock_clock: trio.testing.MockClock) -> None:
    """Whatever a bookmark says is delivered: nothing of that revision or before comes after it, however fast the
    writer is and however often bookmarks are due. (etcd 15220: progress notifications overtook events.)"""
    async with (
        open_sqlite(tmp_path / "s.db", StoreSettings(watch_buffer=4), SystemClock()) as store,
        store.watch(b"k", b"l") as watch,
        trio.open_nursery() as nursery,
    ):
        written: list[int] = []

        async def write() -> None:
            for number in range(200):
                name = b"k" if number % 3 else b"other"
                revision = await put(store, name)
                if name == b"k":
                    written.append(revision)
                if number % 20 == 0:
                    mock_clock.jump(PROGRESS_INTERVAL)
            written.append(await put(store, b"k/last"))

        nursery.start_soon(write)
        seen: list[int] = []
        told = 0
        last = b""
        generator = random.Random(2)
        while last != b"k/last":
            for _ in range(generator.randrange(4)):
                await trio.lowlevel.checkpoint()
            batch = await anext(watch)
            assert all(event.kv.mod_revision > told for event in batch.events)
            seen += [event.kv.mod_revision for event in batch.events]
            last = batch.events[-1].kv.key if batch.events else last
            assert batch.revision >= max([told, *seen])
            told = batch.revision
            acknowledged = [revision for revision in written if revision <= told]
            assert seen[: len(acknowledged)] == acknowledged
    assert seen == written


async def test_watch_from_the_future_gets_nothing_of_the_past(tmp_path: Path) -> None:
    """A watch from the next revision never shows an older event, nor a bookmark before its start; further ahead it is
    refused. (etcd 20221: watches from the future got old events and notifications.)"""
    async with open_sqlite(tmp_path / "s.db", SETTINGS, SystemClock()) as store:
        for _ in range(20):
            newest = await put(store, b"k")
        with pytest.raises(FutureRevision):
            async with store.watch(b"k", None, start_revision=newest + 2):
                pass
        async with store.watch(b"k", None, start_revision=newest + 1) as watch, trio.open_nursery() as nursery:
            nursery.start_soon(put, store, b"k")  # on its way while the watch begins
            assert await anext(watch) == WatchBatch(revision=newest)
            assert [e.kv.mod_revision for e in await events_until(watch, newest + 1)] == [newest + 1]


async def test_deletion_at_the_compacted_revision_is_not_lost(tmp_path: Path) -> None:
    """Compacting exactly on a deletion leaves it to be watched, by those who watch already and those who come.
    (etcd 18089 and 19179: the delete event was dropped.)"""
    async with open_sqlite(tmp_path / "s.db", SETTINGS, SystemClock()) as store:
        first = await put(store, b"k")
        async with store.watch(b"k", b"l", start_revision=first) as behind:
            deleted = (await store.txn([], [Delete(b"k")])).revision
            await put(store, b"k/2")
            async with store.watch(b"k", b"l", start_revision=deleted, previous=True) as slow:
                await store.compact(deleted)
                events = await events_until(slow, deleted + 1)
                assert [(e.type, e.kv.mod_revision) for e in events] == [("delete", deleted), ("put", deleted + 1)]
                assert events[0].previous is not None
            assert (await anext(behind)).revision == first - 1
            with pytest.raises(Compacted):  # not a silent gap: its first event is gone
                await anext(behind)
        async with store.watch(b"k", b"l", start_revision=deleted) as late:
            assert [e.type for e in await events_until(late, deleted + 1)] == ["delete", "put"]


async def test_compacted_read_beside_a_transaction(tmp_path: Path) -> None:
    """Compaction between the operations' batch neighbours changes neither a transaction's reads nor its answer, and a
    refused old read leaves writers alone. (etcd 18667: a compacted range within a transaction crashed the member.)"""
    async with open_sqlite(tmp_path / "s.db", SETTINGS, SystemClock()) as store:
        old = await put(store, b"k", b"0")
        refused = 0

        async def read_old() -> None:
            nonlocal refused
            for _ in range(20):
                try:
                    await store.get(b"k", revision=old)
                except Compacted:
                    refused += 1

        async with trio.open_nursery() as nursery:
            for number in range(1, 20):
                result = await store.txn(
                    [Compare(b"k", "version", "==", number)], [Put(b"k", b"%d" % number), Get(b"k")]
                )
                assert result.succeeded
                assert isinstance(result.results[1], GetResult)
                assert result.results[1].items[0].value == b"%d" % number
                nursery.start_soon(store.compact, result.revision)
                nursery.start_soon(read_old)
        assert refused > 0
        assert await put(store, b"k") == old + 20


async def test_transaction_gives_each_event_once(tmp_path: Path) -> None:
    """A transaction that changes many keys, with a lease and reads in between, is one event for each key, live and from
    history. (etcd 17247: a transaction's event came twice.)"""
    async with open_sqlite(tmp_path / "s.db", SETTINGS, SystemClock()) as store:
        await store.leases.grant(60, lease_id=5)
        for name in (b"a", b"b"):
            await put(store, name)
        async with store.watch(b"", None) as live:
            start = (await anext(live)).revision + 1
            changes: list[Operation] = [
                Put(b"c", b"", 5),
                Get(b"a", b"z"),
                Delete(b"a"),
                Delete(b"a", b"b"),
                Delete(b"b"),
                Put(b"d", b""),
            ]
            revision = (await store.txn([], changes)).revision
            await store.leases.revoke(5)
            seen = [(e.type, e.kv.key) for e in await events_until(live, revision + 1)]
        assert seen == [("delete", b"a"), ("delete", b"b"), ("put", b"c"), ("put", b"d"), ("delete", b"c")]
        async with store.watch(b"", None, start_revision=start) as past:
            assert [(e.type, e.kv.key) for e in await events_until(past, revision + 1)] == seen


async def test_starved_watch_loses_nothing(tmp_path: Path) -> None:
    """A watch that is read seldom among many others that are read at once, with values that fill its buffer by bytes
    and by number, gets all. (etcd 17529: events were lost on a starved stream.)"""
    async with open_sqlite(tmp_path / "s.db", StoreSettings(watch_buffer=16), SystemClock()) as store:
        written: list[int] = []
        async with store.watch(b"k", b"l") as starved, trio.open_nursery() as others:

            async def read_at_once() -> None:
                async with store.watch(b"k", b"l") as watch:
                    await events_until(watch, 10**9)

            for _ in range(20):
                others.start_soon(read_at_once)
            seen: list[Event] = []
            for number in range(300):
                written.append(await put(store, b"k/%d" % (number % 5), b"v" * (200_000 if number % 50 == 0 else 10)))
                if number % 90 == 89:
                    seen += (await anext(starved)).events
            seen += await events_until(starved, written[-1])
            others.cancel_scope.cancel()
        assert [event.kv.mod_revision for event in seen] == written


async def test_revision_does_not_fall_when_it_crashes_in_a_compaction(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files taken after every single step of a compaction open at the same revision with the same keys; the compaction
    is done up to some whole revision. (etcd 17780: the revision decreased after a crash in a compaction.)"""
    monkeypatch.setattr(compaction, "STEP_ROWS", 3)
    monkeypatch.setattr(compaction, "STEP_PAUSE", 0.0)
    path = tmp_path / "s.db"
    copies: list[Path] = []
    async with open_sqlite(path, SETTINGS, SystemClock()) as store:
        for number in range(10):
            await store.txn([], [Put(b"k/%d" % n, b"%d" % number) for n in range(4)])
        newest = (await store.txn([], [Delete(b"k/0")])).revision
        listed = await store.list(b"", None)

        async def submit_and_copy(queue: WriteQueue, work: Work[object]) -> object:
            result = await submit(queue, work)
            if isinstance(work, Compact):
                directory = tmp_path / f"crash{len(copies)}"
                directory.mkdir()
                for suffix in ("", "-wal"):
                    shutil.copy(f"{path}{suffix}", directory / f"s.db{suffix}")
                copies.append(directory / "s.db")
            return result

        submit = WriteQueue.submit
        monkeypatch.setattr(WriteQueue, "submit", submit_and_copy)
        await store.compact(newest)
        monkeypatch.undo()
    assert len(copies) > 5
    oldest = []
    for copy in copies:
        async with open_sqlite(copy, SETTINGS, SystemClock()) as store:
            status = await store.status()
            assert (status.revision, status.keys) == (newest, 3)
            assert await store.list(b"", None) == listed
            assert await store.list(b"", None, revision=newest) == listed
            oldest.append(status.compact_revision)
            assert await put(store, b"new") == newest + 1
    assert oldest == sorted(set(oldest))
    assert oldest[-1] == newest


async def test_acknowledged_write_is_there_after_a_crash_of_the_only_member(tmp_path: Path) -> None:
    """The files as they are the moment that a write is acknowledged have it, after every one of many writes.
    (etcd 14370: a single member answered before the write was on its disk.)"""
    path = tmp_path / "s.db"
    async with open_sqlite(path, SETTINGS, SystemClock()) as store:
        for number in range(15):
            revision = await put(store, b"k", b"%d" % number)
            directory = tmp_path / f"crash{number}"
            directory.mkdir()
            for suffix in ("", "-wal"):
                shutil.copy(f"{path}{suffix}", directory / f"s.db{suffix}")
            connection = sqlite3.connect(directory / "s.db")
            try:
                found = connection.execute("SELECT value, mod_revision FROM current WHERE key = x'6b'").fetchone()
            finally:
                connection.close()
            assert found == (b"%d" % number, revision)


async def test_watch_does_not_go_back_in_time_after_a_restart(tmp_path: Path) -> None:
    """Resumed after a restart, a watch goes on after what it had, whatever happened between; it never sees an event
    again. (etcd 15271: after a partition a watch was sent back in time.)"""
    path = tmp_path / "s.db"
    seen: list[int] = []
    written: list[int] = []
    position = 0
    for _ in range(4):
        async with open_sqlite(path, SETTINGS, SystemClock()) as store:
            written += [await put(store, b"k") for _ in range(3)]  # before it is back
            start = position + 1 if position else written[0]
            async with store.watch(b"k", b"l", start_revision=start) as watch:
                written.append(await put(store, b"k"))
                while position < written[-1]:
                    batch = await anext(watch)
                    assert batch.revision >= position
                    seen += [event.kv.mod_revision for event in batch.events]
                    position = batch.revision
            written.append(await put(store, b"k"))  # after it has gone
    assert seen == written[:-1]
