"""The embedded store, in process: ``python -m tests.bench.coordination [--quick] [--json]``.

Puts of 256 B on 10,000 keys, each durable when it returns, by one task and by 64; point gets; the time from before
a put to the arrival of its event at a watch; then much of everything (``coordination_scale``). Beside them, in the
same run on the same disk, what the device itself takes to make 4 KiB durable: a single put cannot be faster than
that, and only group commit can beat its rate; and what the barest group commit in Python does (``store_ceiling``).
A daemon over its socket beside etcd comes first (``coordination_peers``, which can be measured alone).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from time import perf_counter

import trio

from platformd.coordination.contract import Put, Store
from platformd.coordination.sqlite import open_sqlite
from platformd.core.clock import SystemClock
from platformd.core.settings import StoreSettings
from tests.bench.coordination_peers import figures as peers
from tests.bench.coordination_scale import growth, leases, watchers
from tests.bench.harness import Figure, Skipped, at_least, at_most, fdatasync_ms, percentile, run, scratch
from tests.bench.store_ceiling import ceiling

KEYS = 10_000
VALUE = b"v" * 256


def key(number: int) -> bytes:
    """One of the keys, spread over all of them."""
    return b"/bench/%08d" % (number * 7919 % KEYS)


async def fill(store: Store) -> None:
    """Put every key once."""
    for start in range(0, KEYS, 100):
        await store.txn([], [Put(key(number), VALUE) for number in range(start, start + 100)])


async def puts(store: Store, tasks: int, total: int) -> tuple[float, list[float]]:
    """``total`` puts by ``tasks`` tasks: puts in a second, and what each took in milliseconds."""
    samples: list[float] = []

    async def write(task: int) -> None:
        for number in range(task, total, tasks):
            begin = perf_counter()
            await store.txn([], [Put(key(number), VALUE)])
            samples.append((perf_counter() - begin) * 1000)

    begin = perf_counter()
    async with trio.open_nursery() as nursery:
        for task in range(tasks):
            nursery.start_soon(write, task)
    return total / (perf_counter() - begin), samples


async def gets(store: Store, total: int) -> list[float]:
    """What each of ``total`` point gets took, in microseconds."""
    samples = []
    for number in range(total):
        begin = perf_counter()
        await store.get(key(number))
        samples.append((perf_counter() - begin) * 1e6)
    return samples


async def deliveries(store: Store, total: int) -> list[float]:
    """Milliseconds from before each put to its event's arrival, while eight other tasks write other keys."""
    samples: list[float] = []
    begun: dict[bytes, float] = {}
    async with trio.open_nursery() as nursery:

        async def disturb(task: int) -> None:
            while True:
                await store.txn([], [Put(b"/other/%d" % task, VALUE)])

        async def follow(*, task_status: trio.TaskStatus[None]) -> None:
            async with store.watch(b"/watched/", b"/watched0") as watch:
                task_status.started()
                async for batch in watch:
                    now = perf_counter()
                    samples.extend((now - begun[event.kv.key]) * 1000 for event in batch.events)

        await nursery.start(follow)
        for task in range(8):
            nursery.start_soon(disturb, task)
        for number in range(total):
            name = b"/watched/%d" % number
            begun[name] = perf_counter()
            await store.txn([], [Put(name, VALUE)])
        while len(samples) < total:
            await trio.lowlevel.checkpoint()
        nursery.cancel_scope.cancel()
    return samples


async def measure(directory: Path, quick: bool) -> list[Figure]:
    """All figures of one store."""
    scale = 1 if quick else 10
    device = percentile(fdatasync_ms(directory, 200 * scale), 50)
    rate, sync = "one fdatasync each", "fdatasync 4 KiB p50"
    rows = [Figure(name="device: fdatasync 4 KiB p50", value=device, unit="ms")]
    async with open_sqlite(directory / "store.db", StoreSettings(), SystemClock()) as store:
        await fill(store)
        for tasks, total, aim, aim_p99 in ((1, 500, 1000, 10), (64, 4000, 25_000, 25)):
            per_second, samples = await puts(store, tasks, total * scale)
            bare = directory / f"bare{tasks}"
            bare.mkdir()
            most, bare_samples = await ceiling(bare, [key(n) for n in range(KEYS)], VALUE, tasks, total * scale)
            name = f"durable puts of 256 B, {tasks} task{'s' if tasks > 1 else ''}"
            p50, p99 = percentile(samples, 50), percentile(samples, 99)
            rows += [
                Figure(name=name, value=per_second, unit="1/s", peer=rate, peer_value=1000 / device, aim=at_least(aim)),
                Figure(
                    name="  of the bare ceiling",
                    value=per_second,
                    unit="1/s",
                    peer="bare group commit",
                    peer_value=most,
                ),
                Figure(
                    name=f"{name}: p50",
                    value=p50,
                    unit="ms",
                    peer=sync,
                    peer_value=device,
                    aim=at_most(1.6 * device) if tasks == 1 else None,
                ),
                Figure(
                    name="  beside the bare ceiling: p50",
                    value=p50,
                    unit="ms",
                    peer="bare group commit",
                    peer_value=percentile(bare_samples, 50),
                ),
                Figure(name=f"{name}: p99", value=p99, unit="ms", peer=sync, peer_value=device, aim=at_most(aim_p99)),
            ]
        p50 = percentile(await gets(store, 2000 * scale), 50)
        rows.append(Figure(name="point get: p50", value=p50, unit="us", aim=at_most(50)))
        p99 = percentile(await deliveries(store, 200 * scale), 99)
        name = "put to watch event, 8 other writers: p99"
        rows.append(Figure(name=name, value=p99, unit="ms", peer=sync, peer_value=device, aim=at_most(25)))
    return rows


def figures(quick: bool) -> Iterator[Figure | Skipped]:
    """Measure in a directory that is gone afterwards."""
    yield from peers(quick)
    with scratch() as directory:
        for part in (measure, watchers, growth, leases):
            yield from trio.run(part, Path(directory), quick)


if __name__ == "__main__":
    run(figures)
