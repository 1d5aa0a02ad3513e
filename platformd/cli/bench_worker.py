"""One producer or consumer of ``platformd bench queues``, in a process of its own, so that it has a core of its own.

It speaks JSON lines: takes its task from standard input, says ``{"ready": true}``, begins at the next line, says every
``REPORT_SECONDS`` how far it is, and at the end what it measured. The end of standard input ends it: a parent that died
leaves nobody behind.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any, Final

import msgspec

from platformd.cli.histogram import Histogram
from platformd.client.queues import Consumer, Delivery, Pending, Producer, Record
from platformd.core.errors import PlatformError

REPORT_SECONDS: Final = 0.2
WAIT_SECONDS: Final = 0.2
"""How long one fetch waits; whether to stop is looked at between fetches."""


class Task(msgspec.Struct, frozen=True, kw_only=True):
    """What a worker does."""

    role: str
    """``producer`` or ``consumer``."""
    address: str
    stream: str
    subject: str = ""
    consumer: str = ""
    size: int = 128
    batch: int = 512
    durability: str = "fsync"
    in_flight: int = 8
    count: int = 0
    """Records to publish; 0: until ``duration`` is over."""
    duration: float = 0.0
    rate: float = 0.0
    """Records a second; 0: as many as go."""
    acknowledge: bool = True


class Measured:
    """What a worker has done."""

    def __init__(self, say: Callable[[dict[str, Any]], None]) -> None:
        self._say = say
        self.records = self.bytes = 0
        self.latency = Histogram()
        self._told = self._begun = time.monotonic()
        self.first: float | None = None
        self.last = 0.0
        self._cpu = _cpu_seconds()

    def add(self, records: int, size: int) -> None:
        """Count what was done, and say so from time to time."""
        self.last = time.monotonic()
        self.records += records
        self.bytes += size
        if self.last - self._told >= REPORT_SECONDS:
            self._told = self.last
            self._say({"records": self.records, "bytes": self.bytes})

    def result(self) -> dict[str, Any]:
        """The last that is said."""
        return {
            "done": True,
            "records": self.records,
            "bytes": self.bytes,
            "seconds": self.last - self.first if self.first is not None else 0.0,
            "cores": (_cpu_seconds() - self._cpu) / max(time.monotonic() - self._begun, 1e-9),
            "latency": self.latency.to_document(),
        }


def _cpu_seconds() -> float:
    used = os.times()
    return used.user + used.system


def publish(task: Task, producer: Producer, measured: Measured, stopped: Callable[[], bool]) -> None:
    """Publish the same batch until there is an end."""
    record = Record(subject=task.subject, payload=os.urandom(task.size))
    batch = [record] * task.batch
    waiting: deque[tuple[Pending, float, int]] = deque()
    sent = 0
    measured.first = begun = time.monotonic()
    until = begun + task.duration if task.duration else float("inf")
    due = begun

    def settle() -> None:
        pending, since, records = waiting.popleft()
        pending.wait()
        measured.latency.add(int((time.monotonic() - since) * 1e6))
        measured.add(records, records * task.size)

    while time.monotonic() < until and (not task.count or sent < task.count) and not stopped():
        while len(waiting) >= task.in_flight or (waiting and waiting[0][0].done):
            settle()
        since = time.monotonic()
        if task.rate:
            while due > time.monotonic() and waiting:
                settle()
            time.sleep(max(due - time.monotonic(), 0.0))
            since = due  # not when we came to it: a stall counts for all that it held up
        part = batch if not task.count else batch[: task.count - sent]
        waiting.append((producer.submit(part), since, len(part)))
        sent += len(part)
        due += len(part) / task.rate if task.rate else 0.0
        if task.in_flight == 1:
            settle()
    while waiting:
        settle()


def consume(task: Task, consumer: Consumer, measured: Measured, stopped: Callable[[], bool]) -> None:
    """Fetch until it is told to stop; latencies are from publishing to here."""
    while not stopped():
        deliveries = consumer.fetch(max_records=task.batch, max_bytes=1 << 20, wait=WAIT_SECONDS)
        if not deliveries:
            continue
        if measured.first is None:
            measured.first = time.monotonic()
        if task.acknowledge:
            consumer.ack(deliveries)
        count_latencies(measured.latency, deliveries, time.time_ns())
        measured.add(len(deliveries), sum(len(d.payload) for d in deliveries))


def count_latencies(latency: Histogram, deliveries: tuple[Delivery, ...], now_ns: int) -> None:
    """Count how old ``deliveries`` are; records of one batch have one time, and are counted together."""
    stamp, times = deliveries[0].time_ns, 0
    for delivery in deliveries:
        if delivery.time_ns != stamp:
            latency.add((now_ns - stamp) // 1000, times)
            stamp, times = delivery.time_ns, 0
        times += 1
    latency.add((now_ns - stamp) // 1000, times)


def main() -> int:
    """Do the task that standard input says."""

    def say(document: dict[str, Any]) -> None:
        sys.stdout.buffer.write(msgspec.json.encode(document) + b"\n")
        sys.stdout.buffer.flush()

    task = msgspec.json.decode(sys.stdin.buffer.readline(), type=Task)
    stop = threading.Event()
    say({"ready": True})
    if not sys.stdin.buffer.readline():
        return 1
    measured = Measured(say)

    def wait_for_end() -> None:
        sys.stdin.buffer.read()
        stop.set()

    threading.Thread(target=wait_for_end, daemon=True).start()
    try:
        if task.role == "producer":
            with Producer(
                task.address,
                stream=task.stream,
                durability=task.durability,  # type: ignore[arg-type]
                max_in_flight=task.in_flight,
            ) as producer:
                publish(task, producer, measured, stop.is_set)
        else:
            with Consumer(task.address, task.stream, task.consumer) as consumer:
                consume(task, consumer, measured, stop.is_set)
    except PlatformError as error:
        say({"error": error.to_problem()})
        return error.exit_code
    say(measured.result())
    # Without tidying up: the other thread still reads standard input.
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    sys.exit(main())
