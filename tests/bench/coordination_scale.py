"""The embedded store with much in it and many at it: watchers, a million keys, tens of thousands of leases."""

from __future__ import annotations

import gc
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from time import perf_counter
from typing import Any

import psutil
import trio
import trio.testing

from platformd.coordination.contract import Put, Store
from platformd.coordination.sqlite import open_sqlite
from platformd.core.clock import SystemClock
from platformd.core.garbage import settle
from platformd.core.settings import StoreSettings
from tests.bench.harness import Figure, at_most, percentile

VALUE = b"v" * 256
PACE = 0.05
"""Seconds between the puts that are watched, so that one's deliveries are through before the next."""


def opened(directory: Path, name: str, **settings: Any) -> AbstractAsyncContextManager[Store]:
    """A store in the directory."""
    return open_sqlite(directory / name, StoreSettings(**settings), SystemClock())


@asynccontextmanager
async def watching(store: Store, count: int, samples: list[float], begun: dict[bytes, float]) -> AsyncIterator[None]:
    """``count`` watches of one prefix that note how long after ``begun`` each event came, in milliseconds."""
    ready = 0
    all_ready = trio.Event()

    async def follow() -> None:
        nonlocal ready
        async with store.watch(b"/w/", b"/w0") as watch:
            ready += 1
            if ready == count:
                all_ready.set()
            async for batch in watch:
                now = perf_counter()
                samples.extend((now - begun[event.kv.key]) * 1000 for event in batch.events)

    async with trio.open_nursery() as nursery:
        for _ in range(count):
            nursery.start_soon(follow)
        await all_ready.wait()
        yield
        nursery.cancel_scope.cancel()


async def paced_puts(store: Store, total: int, begun: dict[bytes, float]) -> None:
    """Put keys that are watched, one after the other; ``begun`` is when each was begun."""
    for number in range(total):
        name = b"/w/%d" % number
        begun[name] = perf_counter()
        await store.txn([], [Put(name, VALUE)])
        await trio.sleep(PACE)


async def watchers(directory: Path, quick: bool) -> list[Figure]:
    """Delivery to a thousand watchers of one prefix; the same beside one that does not read; idle ones' memory."""
    count, total = (200, 20) if quick else (1000, 100)
    rows: list[Figure] = []
    settle()  # as the daemon does
    async with opened(directory, "watch.db", max_watchers=20_000, watch_buffer=64) as store:
        alone: list[float] = []
        begun: dict[bytes, float] = {}
        async with watching(store, count, alone, begun):
            await paced_puts(store, total, begun)
        beside: list[float] = []
        async with store.watch(b"/w/", b"/w0") as stuck:
            await anext(stuck)
            for number in range(100):  # more than its buffer, so that it has fallen behind
                await store.txn([], [Put(b"/w/full/%d" % number, VALUE)])
            begun.clear()
            async with watching(store, count, beside, begun):
                await paced_puts(store, total, begun)
        name = f"put to event at {count} watchers of a prefix"
        p99 = percentile(alone, 99)
        rows.append(Figure(name=f"{name}: p50", value=percentile(alone, 50), unit="ms"))
        rows.append(Figure(name=f"{name}: p99", value=p99, unit="ms", aim=at_most(10)))
        rows.append(
            Figure(
                name="  beside one that does not read: p99",
                value=percentile(beside, 99),
                unit="ms",
                peer="without it",
                peer_value=p99,
            )
        )
    async with opened(directory, "idle.db", max_watchers=20_000) as store:
        rows.append(await idle_memory(store, 1000 if quick else 10_000))
    return rows


async def idle_memory(store: Store, count: int) -> Figure:
    """What ``count`` watches that wait cost, tasks included."""
    process = psutil.Process()
    gc.collect()
    before = process.memory_info().rss

    async def follow(number: int) -> None:
        key = b"/idle/%08d" % number
        async with store.watch(key, key + b"\x00") as watch:
            await anext(watch)  # the first bookmark
            await anext(watch)

    async with trio.open_nursery() as nursery:
        for number in range(count):
            nursery.start_soon(follow, number)
        await trio.testing.wait_all_tasks_blocked()
        used = (process.memory_info().rss - before) / 1e6
        nursery.cancel_scope.cancel()
    return Figure(name=f"{count} idle watches, tasks included: memory", value=used, unit="MB", aim=at_most(count / 100))


def big_key(number: int, keys: int) -> bytes:
    """One of ``keys`` keys, spread over all of them."""
    return b"/grow/%010d" % (number * 7_368_787 % keys)


async def latencies(store: Store, keys: int, total: int) -> tuple[float, float]:
    """The p50 of a get and of a durable put, microseconds, by one task."""
    got, written = [], []
    for number in range(total):
        begin = perf_counter()
        await store.get(big_key(number, keys))
        got.append((perf_counter() - begin) * 1e6)
    for number in range(total):
        begin = perf_counter()
        await store.txn([], [Put(big_key(number, keys), VALUE)])
        written.append((perf_counter() - begin) * 1e6)
    return percentile(got, 50), percentile(written, 50)


async def growth(directory: Path, quick: bool) -> list[Figure]:
    """A store of a million keys beside one of ten thousand; how it starts, counts and compacts."""
    small, large, total = 10_000, 100_000 if quick else 1_000_000, 500 if quick else 3000
    peers = await grown(directory, "small.db", small, total)
    async with opened(directory, "large.db") as store:
        await fill(store, large)
        loaded = await latencies(store, large, total)
        begin = perf_counter()
        assert (await store.list(b"", None, limit=1)).count == large
        counting = perf_counter() - begin
        held = await while_compacting(store, large)
    begin = perf_counter()
    async with opened(directory, "large.db") as store:
        started = perf_counter() - begin
        assert (await store.status()).keys == large
    rows = []
    for what, value, peer in zip(("get", "durable put"), loaded, peers, strict=True):
        rows.append(
            Figure(
                name=f"{what} with {large} keys: p50",
                value=value,
                unit="us",
                peer=f"with {small}",
                peer_value=peer,
                aim=at_most(1.3 * peer),
            )
        )
    held_p99, held_max, steps = held
    return [
        *rows,
        Figure(name=f"start with {large} keys", value=started, unit="s", aim=at_most(2)),
        Figure(name=f"count of {large} keys", value=counting, unit="s"),
        Figure(name=f"put while {steps} revisions are compacted: p99", value=held_p99, unit="ms"),
        Figure(name="  the longest", value=held_max, unit="ms", aim=at_most(20)),
    ]


async def grown(directory: Path, name: str, keys: int, total: int) -> tuple[float, float]:
    async with opened(directory, name) as store:
        await fill(store, keys)
        return await latencies(store, keys, total)


async def fill(store: Store, keys: int) -> None:
    """All keys, eight transactions of a hundred at a time."""

    async def part(task: int) -> None:
        for start in range(task * 100, keys, 800):
            await store.txn([], [Put(big_key(n, keys), VALUE) for n in range(start, min(start + 100, keys))])

    async with trio.open_nursery() as nursery:
        for task in range(8):
            nursery.start_soon(part, task)


async def while_compacting(store: Store, keys: int) -> tuple[float, float, int]:
    """What puts take while all of history goes: p99 and the longest, milliseconds; and how many revisions went."""
    status = await store.status()
    samples: list[float] = []
    async with trio.open_nursery() as nursery:

        async def write() -> None:
            number = 0
            while True:
                number += 1
                begin = perf_counter()
                await store.txn([], [Put(big_key(number, keys), VALUE)])
                samples.append((perf_counter() - begin) * 1000)

        nursery.start_soon(write)
        await store.compact(status.revision)
        nursery.cancel_scope.cancel()
    return percentile(samples, 99), max(samples), status.revision - status.compact_revision


async def leases(directory: Path, quick: bool) -> list[Figure]:
    """Leases that are all kept alive every ten seconds: how late the loop is meanwhile."""
    count, window = (5000, 5) if quick else (50_000, 20)
    lags: list[float] = []
    async with opened(directory, "leases.db") as store:
        ids: list[int] = []

        async def grant() -> None:
            for _ in range(count // 100):
                ids.append((await store.leases.grant(30)).id)

        async with trio.open_nursery() as nursery:
            for _ in range(100):
                nursery.start_soon(grant)
        renewed = 0
        async with trio.open_nursery() as nursery:

            async def renew(task: int) -> None:
                nonlocal renewed
                own = ids[task::100]
                while True:
                    for lease_id in own:
                        await store.leases.keep_alive(lease_id)
                        renewed += 1
                        await trio.sleep(10 / len(own))

            for task in range(100):
                nursery.start_soon(renew, task)
            begin = perf_counter()
            while perf_counter() - begin < window:
                before = perf_counter()
                await trio.sleep(0.002)
                lags.append((perf_counter() - before - 0.002) * 1000)
            rate = renewed / (perf_counter() - begin)
            nursery.cancel_scope.cancel()
        assert (await store.status()).leases == len(ids)
    return [
        Figure(name=f"{count} leases, kept alive: keep-alives", value=rate, unit="1/s"),
        Figure(name="  lag of the loop meanwhile: p99", value=percentile(lags, 99), unit="ms", aim=at_most(20)),
    ]
