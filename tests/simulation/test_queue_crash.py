"""The queue engine's process is killed again and again at random points under full load, with everything under way:
batches that wait for their sync, segments that begin, deliveries that are out, acknowledgements on their way.

Producers and consumers do nothing about it; their clients come back by themselves. At the end the log and what
everybody was told are laid side by side.
"""

from __future__ import annotations

import itertools
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import trio

from platformd.client.queues import Consumer, Producer
from platformd.queues.contract import Delivery, Record
from tests.conformance.streams_engines import NativeEngine

ROOT = Path(__file__).resolve().parents[2]
PRODUCERS = 3
CONSUMERS = 2
BATCH = 20
IN_FLIGHT = 8
PAYLOAD = bytes(400)
TIMEOUT = 60.0


@contextmanager
def hosted(engine: NativeEngine) -> Iterator[subprocess.Popen[bytes]]:
    """The engine in a process of its own, ready; killed at the end."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.conformance.streams_host", engine.name, str(engine.directory.parent)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        yield process
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


class Told:
    """What producers and consumers were told, by threads that go on over every kill."""

    def __init__(self, engine: NativeEngine) -> None:
        self.stored: list[list[str]] = [[] for _ in range(PRODUCERS)]
        """Ids that were acknowledged, by producer."""
        self.delivered: set[int] = set()
        """Sequences that came at least once."""
        self.done: set[int] = set()
        """Sequences whose acknowledgement was taken, and said to be. (Of one whose answer a kill took nobody knows.)"""
        self.nothing_left = threading.Event()
        """Nobody produces any more, and all that is there was delivered and acknowledged."""
        self.again: list[int] = []
        """Sequences that came although they were done before they were asked for: there must be none."""
        self._lock = threading.Lock()
        self._stop_producing = threading.Event()
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._produce, args=(engine, n)) for n in range(PRODUCERS)]
        self._consuming = [threading.Thread(target=self._consume, args=(engine,)) for _ in range(CONSUMERS)]
        self.failures: list[BaseException] = []

    def start(self) -> None:
        for thread in (*self._threads, *self._consuming):
            thread.start()

    def count(self) -> int:
        """How much was told so far."""
        return sum(map(len, self.stored)) + len(self.done)

    def stop_producing(self) -> None:
        self._stop_producing.set()
        for thread in self._threads:
            thread.join(TIMEOUT)

    def stop(self) -> None:
        self._stop_producing.set()
        self._stop.set()
        for thread in (*self._threads, *self._consuming):
            thread.join(TIMEOUT)
            assert not thread.is_alive()

    def _produce(self, engine: NativeEngine, number: int) -> None:
        try:
            with Producer(f"ipc://{engine.sockets}/ingest.sock", timeout=TIMEOUT, max_in_flight=IN_FLIGHT) as producer:
                pending = deque()
                for batch in itertools.count():
                    ids = [f"{number}.{batch * BATCH + k}" for k in range(BATCH)]
                    found = [Record(subject=f"a.{number}", payload=PAYLOAD, msg_id=one) for one in ids]
                    pending.append((ids, producer.submit(found)))
                    while pending and (len(pending) == IN_FLIGHT or self._stop_producing.is_set()):
                        ids, oldest = pending.popleft()
                        oldest.wait()
                        self.stored[number] += ids
                    if self._stop_producing.is_set():
                        return
        except BaseException as error:
            self.failures.append(error)
            raise

    def _consume(self, engine: NativeEngine) -> None:
        try:
            with Consumer(f"ipc://{engine.sockets}/fetch.sock", "s", "c", timeout=TIMEOUT) as consumer:
                while not self._stop.is_set():
                    with self._lock:
                        before = frozenset(self.done) if len(self.done) < 5000 else None
                    over = not any(thread.is_alive() for thread in self._threads)
                    deliveries = consumer.fetch(max_records=100, wait=0.05)
                    if over and not deliveries and consumer.lag == consumer.ack_pending == 0:
                        self.nothing_left.set()
                    self._take(deliveries, before)
                    for part in (deliveries[1::2], deliveries[::2]):  # so that the engine has holes to remember
                        if part and consumer.ack(part) == len(part):
                            with self._lock:
                                self.done.update(d.sequence for d in part)
        except BaseException as error:
            self.failures.append(error)
            raise

    def _take(self, deliveries: tuple[Delivery, ...], before: frozenset[int] | None) -> None:
        with self._lock:
            self.delivered.update(d.sequence for d in deliveries)
            if before is not None:
                self.again += [d.sequence for d in deliveries if d.sequence in before]


async def everything(engine: NativeEngine) -> tuple[list[Delivery], int, int]:
    """The whole log; the consumer's floor, and its lag."""
    async with engine.open() as streams:
        kept: list[Delivery] = []
        while page := await streams.read("s", after=kept[-1].sequence if kept else 0, limit=10_000):
            kept += page
        (info,) = streams.consumers("s")
        return kept, info.ack_floor, info.pending + info.ack_pending


def kill_and_check(directory: Path, seed: object, rounds: int) -> int:
    """Work, kill, look whether it all fits; how many records there are at the end."""
    engine = NativeEngine(directory)
    choose = random.Random(f"{seed}/queue")
    told = Told(engine)
    try:
        for number in range(rounds):
            with hosted(engine):
                if number == 0:
                    told.start()
                wanted, until = told.count() + choose.randrange(50, 3000), time.monotonic() + TIMEOUT
                while told.count() < wanted:
                    assert time.monotonic() < until, f"nothing was done in round {number}: {told.failures}"
                    time.sleep(choose.random() * 0.004)
        with hosted(engine):
            told.stop_producing()
            assert told.nothing_left.wait(TIMEOUT), f"records are left that nobody gets: {told.failures}"
            told.stop()
    finally:
        told.stop()
    kept, floor, lag = trio.run(everything, engine)
    _compare(told, kept)
    assert lag == 0
    assert floor == len(kept)
    return len(kept)


def _compare(told: Told, kept: list[Delivery]) -> None:
    assert told.failures == []
    assert [d.sequence for d in kept] == list(range(1, len(kept) + 1)), "sequences have a gap"
    times = Counter(d.msg_id for d in kept)
    assert [one for one, count in times.items() if count > 1] == [], "stored twice"
    for number, stored in enumerate(told.stored):
        assert [one for one in stored if one not in times] == [], "acknowledged and lost"
        mine = [int(d.msg_id.partition(".")[2]) for d in kept if d.msg_id.startswith(f"{number}.")]
        assert mine == sorted(mine), "out of order"
    assert told.delivered == {d.sequence for d in kept}, "never delivered, or never stored"
    assert told.again == [], "came again although its acknowledgement was taken"


def test_killed_under_load(tmp_path: Path, seed: int) -> None:
    """Killed six times: nothing acknowledged is lost or doubled, no gap, in order, and what is done stays done."""
    assert kill_and_check(tmp_path, seed, 6) > 500


@pytest.mark.slow
def test_killed_a_hundred_times_under_load(tmp_path: Path, seed: int) -> None:
    """The same over a hundred kills."""
    assert kill_and_check(tmp_path, seed, 100) > 10_000
