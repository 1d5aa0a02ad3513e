"""The store over its own socket: ``python -m tests.bench.store_door [--quick] [--json]``.

A program in this process and a whole daemon (``platformd run``) in another, on the same disk. Beside each figure the
same one through the Store contract in process, in rounds that alternate; the best round of each counts. Puts are of
256 B over 10,000 keys that are there, so each answer carries the value before; each is durable when it returns.
"""

from __future__ import annotations

import threading
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from time import perf_counter

import trio

from platformd.client.store import connect_store
from platformd.client.store_blocking import connect_store_blocking
from platformd.coordination.contract import Put, Store
from platformd.coordination.sqlite import open_sqlite
from platformd.core.clock import SystemClock
from platformd.core.settings import StoreSettings
from tests.bench.coordination import VALUE, deliveries, fill, gets, key, puts
from tests.bench.harness import Aim, Figure, at_least, at_most, percentile, run, scratch
from tests.support.daemon import DaemonProcess

WATCHES = 1000

Measured = dict[str, float]


async def many_gets(store: Store, tasks: int, total: int) -> float:
    """``total`` point gets by ``tasks`` tasks: gets in a second."""

    async def read(task: int) -> None:
        for number in range(task, total, tasks):
            await store.get(key(number))

    begin = perf_counter()
    async with trio.open_nursery() as nursery:
        for task in range(tasks):
            nursery.start_soon(read, task)
    return total / (perf_counter() - begin)


async def fan_out(store: Store, watches: int, total: int) -> list[float]:
    """Milliseconds from before each put to its event's arrival at each of ``watches`` watches of one prefix."""
    samples: list[float] = []
    begun: dict[int, float] = {}
    arrived = trio.lowlevel.ParkingLot()
    async with trio.open_nursery() as nursery:

        async def follow(*, task_status: trio.TaskStatus[None]) -> None:
            async with store.watch(b"/fan/", b"/fan0") as watch:
                task_status.started()
                async for batch in watch:
                    now = perf_counter()
                    samples.extend((now - begun[int(event.kv.value)]) * 1000 for event in batch.events)
                    arrived.unpark_all()

        for _ in range(watches):
            await nursery.start(follow)
        for number in range(total):
            begun[number] = perf_counter()
            await store.txn([], [Put(b"/fan/k", b"%d" % number)])
            while len(samples) < watches * (number + 1):
                await arrived.park()
        nursery.cancel_scope.cancel()
    return samples


async def measure(store: Store, scale: int) -> Measured:
    """One round of everything that both ways can do."""
    found: Measured = {}
    for tasks, total in ((1, 300), (64, 3000), (256, 3000)):
        found[f"puts {tasks}"], samples = await puts(store, tasks, total * scale)
        found[f"puts {tasks} p50"] = percentile(samples, 50)
        found[f"puts {tasks} p99"] = percentile(samples, 99)
    found["gets 64"] = await many_gets(store, 64, 4000 * scale)
    found["get p50"] = percentile(await gets(store, 500 * scale), 50)
    found["watch p99"] = percentile(await deliveries(store, 100 * scale), 99)
    found["fan-out p99"] = percentile(await fan_out(store, WATCHES, 5 * scale), 99)
    return found


def measure_blocking(address: Path, scale: int) -> Measured:
    """Puts by plain threads."""
    found: Measured = {}
    with connect_store_blocking(address) as store:
        for threads, total in ((1, 300), (16, 1500)):
            samples: list[float] = []

            def write(first: int, step: int, end: int, samples: list[float] = samples) -> None:
                for number in range(first, end, step):
                    begin = perf_counter()
                    store.txn([], [Put(key(number), VALUE)])
                    samples.append((perf_counter() - begin) * 1000)

            workers = [threading.Thread(target=write, args=(first, threads, total * scale)) for first in range(threads)]
            begin = perf_counter()
            for worker in workers:
                worker.start()
            for worker in workers:
                worker.join()
            found[f"threads {threads}"] = total * scale / (perf_counter() - begin)
            found[f"threads {threads} p50"] = percentile(samples, 50)
    return found


def rounds(directory: Path, quick: bool) -> tuple[list[Measured], list[Measured], list[Measured]]:
    """All rounds: in process, over the socket, over the socket by threads."""
    scale, count = (1, 1) if quick else (4, 3)

    async def in_process() -> Measured:
        async with open_sqlite(directory / "store.db", StoreSettings(), SystemClock()) as store:
            await fill(store)
            return await measure(store, scale)

    async def over_socket() -> Measured:
        async with connect_store(daemon.socket) as store:
            await fill(store)
            return await measure(store, scale)

    steps: list[tuple[list[Measured], Callable[[], Measured]]] = [
        ([], _run(in_process)),
        ([], _run(over_socket)),
        ([], lambda: measure_blocking(daemon.socket, scale)),
    ]
    with DaemonProcess(directory) as daemon:
        for _ in range(count):
            for found, step in steps:
                found.append(step())
    return steps[0][0], steps[1][0], steps[2][0]


def _run(part: Callable[[], Awaitable[Measured]]) -> Callable[[], Measured]:
    return lambda: trio.run(part)


ROWS: tuple[tuple[str, str, str, Aim | None], ...] = (
    ("puts 1", "durable puts of 256 B, 1 task", "1/s", None),
    ("puts 1 p50", "durable puts of 256 B, 1 task: p50", "ms", at_most(0.8)),
    ("puts 64", "durable puts of 256 B, 64 tasks", "1/s", at_least(15_000)),
    ("puts 64 p50", "durable puts of 256 B, 64 tasks: p50", "ms", None),
    ("puts 64 p99", "durable puts of 256 B, 64 tasks: p99", "ms", None),
    ("puts 256", "durable puts of 256 B, 256 tasks", "1/s", None),
    ("gets 64", "point gets, 64 tasks", "1/s", None),
    ("get p50", "point get, 1 task: p50", "us", None),
    ("watch p99", "put to watch event, 8 other writers: p99", "ms", at_most(10)),
    ("fan-out p99", f"put to event at {WATCHES} watches: p99", "ms", None),
)
THREADS: tuple[tuple[str, str, str], ...] = (
    ("threads 1", "durable puts of 256 B, 1 plain thread", "1/s"),
    ("threads 1 p50", "durable puts of 256 B, 1 plain thread: p50", "ms"),
    ("threads 16", "durable puts of 256 B, 16 plain threads", "1/s"),
)


def best(found: list[Measured], name: str, unit: str) -> float:
    """The best round's figure: the highest rate, the shortest time."""
    values = [each[name] for each in found]
    return max(values) if unit == "1/s" else min(values)


def figures(quick: bool) -> Iterator[Figure]:
    """Measure in a directory that is gone afterwards."""
    with scratch() as directory:
        inside, outside, threads = rounds(Path(directory), quick)
    for name, text, unit, aim in ROWS:
        value, peer_value = best(outside, name, unit), best(inside, name, unit)
        yield Figure(name=f"socket: {text}", value=value, unit=unit, peer="in process", peer_value=peer_value, aim=aim)
    for name, text, unit in THREADS:
        yield Figure(name=f"socket: {text}", value=best(threads, name, unit), unit=unit)


if __name__ == "__main__":
    run(figures)
