"""Watches over the door: credit, slow clients, cancellation."""

from __future__ import annotations

import tracemalloc
from pathlib import Path
from typing import Any

import trio
import trio.testing

from platformd.api.door.outbox import MAX_WAITING
from platformd.coordination.codec import frames
from platformd.coordination.codec.replies import EventsReply, ProblemReply, WatchingReply
from platformd.coordination.contract import Put
from platformd.coordination.sqlite import SqliteStore, open_sqlite
from platformd.core.clock import SystemClock
from platformd.core.settings import StoreSettings
from tests.api.door.wire import PATIENCE, Raw, connect, door, watchers


def watch(request_id: int, credit: int, key: bytes = b"k", **changes: Any) -> tuple[Any, ...]:
    asked = {"start": 0, "previous": False, "only": None} | changes
    return (frames.WATCH, request_id, key, None, asked["start"], asked["previous"], asked["only"], credit)


async def put(store: SqliteStore, key: bytes, value: bytes) -> int:
    return (await store.txn((), (Put(key, value),))).revision


async def quiet(raw: Raw) -> bool:
    """Whether nothing comes but an answer to a ping, also when everybody had time to send it."""
    await trio.testing.wait_all_tasks_blocked(0.02)
    await raw.send((frames.PING, 5_000_000))
    return bool((await raw.receive()).id == 5_000_000)


async def test_batches_stop_with_the_credit(tmp_path: Path) -> None:
    """A watch sends what its credit is for, waits, and goes on with new credit where it was."""
    async with open_sqlite(tmp_path / "store.db", StoreSettings(watch_buffer=4), SystemClock()) as store:
        async with door(tmp_path, store=store) as address, await connect(address) as raw:
            await raw.hello()
            await raw.send(watch(1, 1))
            opened = await raw.receive()
            assert isinstance(opened, WatchingReply)
            first = await put(store, b"k", b"0")
            batch = await raw.receive()
            assert isinstance(batch, EventsReply)
            assert batch.revision == first
            for number in range(50):
                last = await put(store, b"k", b"%d" % number)
            assert await quiet(raw)
            await raw.send((frames.CREDIT, 1, 1 << 20))
            seen = [batch.revision]
            while seen[-1] < last:
                seen += [event.kv.mod_revision for event in (await raw.receive()).events]
            assert seen == list(range(first, last + 1))


async def test_credit_has_a_most(tmp_path: Path) -> None:
    """However much credit a client gives, no more than ``watch_credit`` counts."""
    async with open_sqlite(tmp_path / "store.db", StoreSettings(), SystemClock()) as store:
        async with door(tmp_path, store=store, watch_credit="1KiB") as address, await connect(address) as raw:
            await raw.hello()
            await raw.send(watch(1, 2**62), (frames.CREDIT, 1, 2**62))
            await raw.receive()
            for number in range(1, 3):
                revision = await put(store, b"k", bytes(1000))
                assert (await raw.receive()).revision == revision, number
            await put(store, b"k", bytes(1000))
            assert await quiet(raw)


async def test_slow_watcher_costs_no_memory_and_nobody_else_waits(tmp_path: Path) -> None:
    """Thirty megabytes go past a watcher without credit and one that does not read; another one gets them all."""
    value, count = bytes(60_000), 500
    async with open_sqlite(tmp_path / "store.db", StoreSettings(watch_buffer=16), SystemClock()) as store:
        async with door(tmp_path, store=store) as address:
            async with await connect(address) as broke, await connect(address) as deaf, await connect(address) as good:
                for raw, credit in ((broke, 0), (deaf, 1 << 20), (good, 1 << 20)):
                    await raw.hello()
                    await raw.send(*(watch(i, credit) for i in range(1, 11 if raw is deaf else 2)))
                opened = [await good.receive(), await broke.receive()]
                assert all(isinstance(each, WatchingReply) for each in opened)
                tracemalloc.start()
                try:
                    begun, _ = tracemalloc.get_traced_memory()
                    seen = 0
                    for _ in range(count):
                        await put(store, b"k", value)
                        with trio.fail_after(PATIENCE):
                            seen += len((await good.receive()).events)
                        await good.send((frames.CREDIT, 1, 1 << 20))
                    held = tracemalloc.get_traced_memory()[0] - begun
                finally:
                    tracemalloc.stop()
                assert seen == count
                # Each of the eleven has at most a buffer of 16 events, shared, and the deaf one's outbox is full.
                assert held < 16 * len(value) + 2 * MAX_WAITING + (4 << 20)
                # Given credit, the first one reads all that it missed from history.
                await broke.send((frames.CREDIT, 1, 1 << 20))
                missed = 0
                while missed < count:
                    missed += len((await broke.receive()).events)
                    await broke.send((frames.CREDIT, 1, 1 << 20))
                assert missed == count


async def test_cancelled_watch_is_silent(tmp_path: Path) -> None:
    """After the cancellation nothing of the watch comes, and its place in the store is free."""
    async with open_sqlite(tmp_path / "store.db", StoreSettings(), SystemClock()) as store:
        async with door(tmp_path, store=store) as address, await connect(address) as raw:
            await raw.hello()
            await raw.send(watch(1, 1000))
            await raw.receive()
            await raw.send((frames.CANCEL, 1))
            assert await raw.alive()
            assert await watchers(store) == 0
            await put(store, b"k", b"v")
            assert await quiet(raw)
            await raw.send((frames.CANCEL, 1), (frames.CREDIT, 77, 5))  # it is gone, and that one never was
            assert await quiet(raw)


async def test_refused_watch_says_why(tmp_path: Path) -> None:
    """A start that is compacted, one in the future, one too many and an id twice are refused by the watch's id."""
    async with open_sqlite(tmp_path / "store.db", StoreSettings(max_watchers=1), SystemClock()) as store:
        for _ in range(3):
            newest = await put(store, b"k", b"v")
        await store.compact(newest)
        async with door(tmp_path, store=store) as address, await connect(address) as raw:
            await raw.hello()
            await raw.send(watch(1, 1, start=newest - 1))
            gone = await raw.receive()
            assert (gone.id, gone.problem["code"], gone.problem["compact_revision"]) == (1, "gone", newest)
            await raw.send(watch(2, 1, start=newest + 9))
            assert (await raw.receive()).problem["code"] == "future_revision"
            await raw.send(watch(3, 1))
            assert isinstance(await raw.receive(), WatchingReply)
            await raw.send(watch(4, 1), watch(3, 1))
            codes = {}
            for _ in range(2):
                reply = await raw.receive()
                assert isinstance(reply, ProblemReply)
                codes[reply.id] = reply.problem["code"]
            assert codes == {4: "limit_reached", 3: "invalid_input"}
