"""Much of everything: many streams, subjects and consumers; a log of 10 GB; what an idle engine does.

The long log is written with prepared frames, its pages are dropped from the system's cache, and the engine is opened
on it anew with a consumer that has all of it before it.
"""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from time import perf_counter

from platformd.client.endpoints import Endpoint
from platformd.client.link import Link
from platformd.client.queues import Consumer, Producer, Record
from platformd.queues.codec import encode_batch, encode_publish
from tests.bench.harness import Figure, Skipped, at_most
from tests.bench.queues_host import Host, hosted, wakeups
from tests.bench.queues_peers import PAYLOAD
from tests.support.daemon import DaemonProcess, short_directory

STREAMS = 1_000
SUBJECTS = 10
"""Of each stream."""
BATCH = 512
EXAMPLES = Path(__file__).parents[2] / "config" / "examples" / "queues.yaml"
TIMERS = ("pd-timer", "nng:aio:expire")
IDLE_CALM = 2.0
"""Seconds until what a start leaves to do is done."""


def scale(directory: Path, quick: bool) -> Iterator[Figure | Skipped]:
    """All rows of this file."""
    yield from many(directory, 0.7 if quick else 4.0)
    yield from long_log(directory, (1 if quick else 10) * 10**9)
    yield from idle(directory, 3.0 if quick else 10.0)


# Many streams, subjects and consumers


def many(directory: Path, seconds: float) -> Iterator[Figure]:
    """The same load with one stream of ten subjects, and with a thousand streams, ten thousand subjects, and so on."""
    names = [f"m{number:04d}" for number in range(STREAMS)]
    small = one = base = spread = (0.0, 0.0)
    with hosted(directory / "small") as few, hosted(directory / "many") as host:
        few.stream(names[0], max_bytes=4 << 30)
        few.consumer(names[0], max_ack_pending=65536)
        host.stream(*names, max_bytes=4 << 30)
        host.consumer(*names, max_ack_pending=65536)
        for _ in range(3):  # in turn, so that both see the same machine; the best of each
            small = _better(small, _round(few, names[:1], seconds / 3))
            one = _better(one, _round(host, names[:1], seconds / 3))
            base = _better(base, _round(few, names[:1], seconds / 3, durability="os"))
            spread = _better(spread, _round(host, names, seconds / 3, durability="os"))
        host.delete(*names)
        few.delete(*names[:1])
    with hosted(directory / "listened") as host:
        host.stream(names[0], max_bytes=4 << 30)
        for number in range(STREAMS):
            host.consumer(names[0], name=f"c{number}")
        listened = publish(host, names[:1], seconds)
    title = f"{STREAMS:,} streams, {STREAMS * SUBJECTS:,} subjects, {STREAMS:,} consumers"
    for name, value, peer in (
        (f"{title}: publish, fsync, to one of them", one[0], small[0]),
        (f"{title}: fetch and ack, one of them", one[1], small[1]),
        (f"{title}: publish, os, to each in turn", spread[0], base[0]),
        (f"{title}: fetch and ack, each in turn", spread[1], base[1]),
        (f"one stream with {STREAMS:,} consumers: publish, fsync", listened, small[0]),
    ):
        yield Figure(
            name=name,
            value=1e6 / value,
            unit="us/record",
            peer="one stream, ten subjects, one consumer",
            peer_value=1e6 / peer,
            ratio_aim=at_most(1.3),
        )


def _better(left: tuple[float, float], right: tuple[float, float]) -> tuple[float, float]:
    return max(left[0], right[0]), max(left[1], right[1])


def _round(host: Host, streams: list[str], seconds: float, durability: str = "fsync") -> tuple[float, float]:
    """Published and consumed records a second."""
    published = publish(host, streams, seconds, durability)
    return published, _consume(host, streams, seconds)


def publish(host: Host, streams: list[str], seconds: float, durability: str = "fsync") -> float:
    """Records a second to the streams in turn, over all of their subjects."""
    batches = [
        [Record(subject=f"{name}.{i % SUBJECTS}", payload=bytes(PAYLOAD), time_ns=1) for i in range(BATCH)]
        for name in streams
    ]
    with Producer(host.address("ingest"), durability=durability) as producer:  # type: ignore[arg-type]
        count, begin = 0, perf_counter()
        while perf_counter() - begin < seconds:
            producer.submit(batches[count % len(batches)])
            count += 1
        producer.flush()
        return count * BATCH / (perf_counter() - begin)


def _consume(host: Host, streams: list[str], seconds: float) -> float:
    consumers = [Consumer(host.address("fetch"), name, "c") for name in streams]
    for consumer in consumers:  # connected, and the beginning of its log was read
        consumer.ack(consumer.fetch(max_records=1, wait=0))
    count, number, begin = 0, 0, perf_counter()
    while perf_counter() - begin < seconds:
        consumer = consumers[number % len(consumers)]
        deliveries = consumer.fetch(max_records=BATCH, wait=0)
        if not deliveries:
            break
        consumer.ack(deliveries)
        count, number = count + len(deliveries), number + 1
    taken = perf_counter() - begin
    for consumer in consumers:
        consumer.close()
    return count / taken


# A long log


def long_log(directory: Path, size: int) -> Iterator[Figure | Skipped]:
    """Opening it, and what a backlog takes of memory."""
    title = f"a log of {size / 1e9:g} GB"
    state = os.statvfs(directory)
    if state.f_bavail * state.f_frsize < size * 1.2:
        yield Skipped(name=title, reason=f"the disk has less than {size * 1.2 / 1e9:g} GB")
        return
    with hosted(directory / "long") as host:
        host.stream("long")
        host.consumer("long", max_ack_pending=65536)
        warm = _fill(host, size // 20)  # what publishing itself takes is there, then
        empty = host.memory_kib()
        backlog = warm + _fill(host, size - size // 20)
        full = host.memory_kib()
    _forget(directory / "long")
    with hosted(directory / "long") as host:
        opened = host.opened
        again = host.memory_kib()
        with Consumer(host.address("fetch"), "long", "c") as consumer:
            begin = perf_counter()
            first = consumer.fetch(max_records=1000)
            taken = perf_counter() - begin
            assert len(first) == 1000
            consumer.ack(first)
        host.delete("long")
    yield Figure(name=f"{title}: open", value=opened, unit="s", aim=at_most(2))
    yield Figure(name=f"{title}: the first 1,000 records", value=taken * 1e3, unit="ms")
    for name, memory in (("as it was published", full), ("opened again", again)):
        grown = (memory - empty) / 1024
        yield Figure(
            name=f"a backlog of {backlog / 1e6:.0f} M records, {name}: memory", value=grown, unit="MiB", aim=at_most(16)
        )


def _fill(host: Host, size: int) -> int:
    """Publish so many bytes in prepared frames of 1 MiB; how many records they are."""
    record = Record(subject="long.a", payload=bytes(PAYLOAD), time_ns=1)
    count = (1 << 20) // (PAYLOAD + 24)
    frame = encode_publish(encode_batch([record] * count, 1), durability="os")
    link = Link(Endpoint(address=host.address("ingest")), timeout=10)
    pending = deque([link.request(frame, timeout=10)])
    batches = -(-size // len(frame))
    for _ in range(batches - 1):
        if len(pending) == 8:
            exchange = pending.popleft()
            exchange.receive(60)
            link.release(exchange)
        pending.append(link.request(frame, timeout=60))
    for exchange in pending:
        exchange.receive(60)
    link.close()
    return batches * count


def _forget(directory: Path) -> None:
    """Drop the files' pages from the system's cache, as after a start of the machine."""
    os.sync()
    for path in directory.rglob("*"):
        if path.is_file():
            file = os.open(path, os.O_RDONLY)
            try:
                os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
            finally:
                os.close(file)


# Idle


def idle(directory: Path, seconds: float) -> Iterator[Figure]:
    """How often an engine with a thousand streams and consumers wakes up when nobody asks for anything; a daemon."""
    names = [f"i{number:04d}" for number in range(STREAMS)]
    with hosted(directory / "idle") as host:
        host.stream(*names)
        host.consumer(*names)
        with Producer(host.address("ingest"), durability="os") as producer:
            for name in names:
                producer.submit([Record(subject=f"{name}.a", payload=bytes(PAYLOAD))])
        yield from _quiet("idle engine, 1,000 streams and consumers", host.wakeups, seconds)
    with short_directory() as place, DaemonProcess(place) as daemon:
        process = daemon.process
        assert process is not None
        daemon.command("apply", "-f", str(EXAMPLES))
        yield from _quiet("idle daemon, its streams and consumers", lambda: wakeups(process.pid), seconds)
        daemon.kill()


def _quiet(title: str, look: Callable[[], dict[str, int]], seconds: float) -> Iterator[Figure]:
    """Wake-ups of the engine's and nng's threads but those of their timers, and of Python's, which has the daemon's."""
    time.sleep(IDLE_CALM)
    before = look()
    time.sleep(seconds)
    after = look()
    rates = {name: (count - before.get(name, 0)) / seconds for name, count in after.items()}
    timers = sum(rates.pop(name, 0.0) for name in TIMERS)
    native = {name: rate for name, rate in rates.items() if name.startswith(("pd-", "nng"))}
    woken = ", ".join(f"{name} {rate:.1f}" for name, rate in native.items() if rate)
    note = f" ({woken})" if woken else ""
    yield Figure(name=f"{title}: wake-ups of C{note}", value=sum(native.values()), unit="/s", aim=at_most(0))
    yield Figure(name=f"{title}: of C's timers", value=timers, unit="/s")
    yield Figure(name=f"{title}: of Python", value=sum(rates.values()) - sum(native.values()), unit="/s")
