"""What every queue engine promises to programs outside, over its sockets: also when it is killed or attacked."""

from __future__ import annotations

import itertools
import random
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from contextlib import contextmanager
from pathlib import Path

import pynng
import pytest
import trio
import trio.testing

from platformd.client.queues import Consumer, Producer
from platformd.core.errors import InvalidInput, NotFound, PreconditionFailed, TooLarge
from platformd.queues.codec import Status, decode_reply, encode_batch, encode_fetch, encode_publish
from platformd.queues.contract import ConsumerConfig, Record, RecordFormat, StreamConfig
from tests.conformance.streams_engines import ENGINES, in_thread, payloads, records

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(params=ENGINES)
def engine(request, tmp_path):
    """Each engine, not open yet."""
    return ENGINES[request.param](tmp_path)


@pytest.fixture
async def streams(engine):
    """The engine, open, with the stream ``s`` and its consumer ``c``."""
    async with engine.open() as opened:
        await opened.put_stream("s", StreamConfig(subjects=("a.>",)))
        await opened.put_consumer("s", "c", ConsumerConfig())
        yield opened


@pytest.fixture
def producer(streams):
    with Producer(streams.addresses["ingest"], timeout=5.0) as connected:
        yield connected


@pytest.fixture
def consumer(streams):
    with Consumer(streams.addresses["fetch"], "s", "c", timeout=5.0) as connected:
        yield connected


async def test_a_record_goes_through(producer, consumer):
    """What one program publishes another fetches as it was, and acknowledges."""
    published = await in_thread(producer.publish, "a.b", b"x", msg_id="1", headers={"k": "v"}, time_ns=5)
    assert (published.stream, published.first_sequence, published.appended) == ("s", 1, 1)
    (delivery,) = await in_thread(consumer.fetch)
    assert (delivery.sequence, delivery.subject, delivery.payload) == (1, "a.b", b"x")
    assert (delivery.msg_id, delivery.headers, delivery.time_ns, delivery.deliveries) == ("1", {"k": "v"}, 5, 1)
    assert (consumer.lag, consumer.ack_pending) == (0, 1)
    assert await in_thread(consumer.ack, [delivery]) == 1
    assert await in_thread(consumer.fetch, wait=0) == ()
    assert consumer.ack_pending == 0


async def test_many_batches_under_way_keep_their_order(streams, producer):
    """Batches that are submitted without waiting are stored in the order of their submission."""

    def submit():
        pending = [producer.submit(records(f"{i}a", f"{i}b")) for i in range(100)]
        return [p.wait().first_sequence for p in pending]

    assert await in_thread(submit) == list(range(1, 201, 2))
    assert payloads(await streams.read("s", limit=500)) == [f"{i}{x}" for i in range(100) for x in "ab"]


async def test_programs_and_the_daemon_share_a_stream(streams, producer, consumer):
    """Records from inside and outside are one sequence, and duplicates are found across both."""
    await streams.publish(records("1", ids=True))
    published = await in_thread(producer.publish_batch, records("1", "2", ids=True))
    assert (published.first_sequence, published.duplicates) == (2, (0,))
    assert payloads(await in_thread(consumer.fetch, max_records=1)) == ["1"]
    assert payloads(await streams.fetch("s", "c")) == ["2"]


async def test_a_lost_connection_frees_its_deliveries_at_once(streams, producer):
    """What a program held comes to the next one as soon as its connection is gone."""
    await in_thread(producer.publish_batch, records("1", "2"))

    def hold_and_go():
        with Consumer(streams.addresses["fetch"], "s", "c") as first:
            assert len(first.fetch()) == 2

    def take():
        with Consumer(streams.addresses["fetch"], "s", "c") as second:
            return second.fetch(wait=20)

    await in_thread(hold_and_go)
    with trio.fail_after(5):
        again = await in_thread(take)
    assert [d.deliveries for d in again] == [2, 2]


async def test_a_waiting_program_wakes_at_once(streams, producer, consumer):
    """A program that waits gets a record within moments of its publishing, wherever that was."""
    waits = []

    async def wait_for_record():
        (delivery,) = await in_thread(consumer.fetch, wait=20)
        waits.append(time.time_ns() - delivery.time_ns)

    for publish in (lambda: streams.publish(records("1")), lambda: in_thread(producer.publish, "a.b", b"2")):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait_for_record)
            while streams.consumers("s")[0].waiting == 0:  # noqa: ASYNC110 (the engine tells nobody)
                await trio.sleep(0.001)
            await publish()
    assert max(waits) < 0.9e9  # far below the second in which a consumer asks again by itself


async def test_refusals_reach_the_program(streams, producer):
    """Each refusal is its error, and says what was wrong."""
    with pytest.raises(NotFound, match="b"):
        await in_thread(producer.publish, "b", b"")
    with pytest.raises(TooLarge, match="65536"):
        await in_thread(producer.publish, "a.b", bytes(70_000))
    await streams.put_stream("t", StreamConfig(subjects=("t",)))
    with pytest.raises(InvalidInput):
        await in_thread(producer.publish_batch, records("x") + records("y", subject="t"))
    with Consumer(streams.addresses["fetch"], "s", "nobody") as consumer, pytest.raises(NotFound, match="nobody"):
        await in_thread(consumer.fetch)
    with Consumer(streams.addresses["fetch"], "nowhere", "c") as consumer, pytest.raises(NotFound, match="nowhere"):
        await in_thread(consumer.fetch)
    with Producer(streams.addresses["ingest"], stream="nowhere") as other, pytest.raises(NotFound, match="nowhere"):
        await in_thread(other.publish, "a.b", b"")
    assert streams.stream("s").last_sequence == 0


async def test_programs_expect_sequences(engine):
    """A program publishes only if the last sequence, of the stream or of the subject, is the one that it knows: so two
    that write to one subject never overwrite each other; also right after a start, when the log has to be read."""
    async with engine.open() as streams:
        await streams.put_stream("s", StreamConfig(subjects=("a.>",)))
        await streams.publish(records("1", "2", subject="a.x"))
        await streams.publish(records("3", subject="a.y"))
        address = streams.addresses["ingest"]

    def publish(subject, **expected):
        with Producer(address, timeout=30.0) as producer:
            return producer.publish(subject, b"", msg_id=repr(expected), **expected).first_sequence

    async with engine.open() as streams:
        assert await in_thread(publish, "a.x", expect_last_subject_sequence=2) == 4
        if "repeated expectations" not in engine.refuses:  # it is the one of before
            assert await in_thread(publish, "a.x", expect_last_subject_sequence=2) == 4
        with pytest.raises(PreconditionFailed, match="4"):
            await in_thread(publish, "a.x", expect_last_subject_sequence=3)
        assert await in_thread(publish, "a.new", expect_last_subject_sequence=0) == 5
        with pytest.raises(PreconditionFailed):
            await in_thread(publish, "a.y", expect_last_subject_sequence=0)
        assert await in_thread(publish, "a.y", expect_last_sequence=5) == 6
        with pytest.raises(PreconditionFailed):
            await in_thread(publish, "a.y", expect_last_sequence=5, expect_last_subject_sequence=6)
        assert await in_thread(publish, "a.y", expect_last_sequence=6, expect_last_subject_sequence=6) == 7
        for wrong in (-1, 2**64 - 1):
            with pytest.raises(InvalidInput):
                await in_thread(publish, "a.y", expect_last_subject_sequence=wrong)


async def test_a_stream_that_validates_keeps_expectations(engine):
    """Records are looked at, and the expectation holds when they are stored."""
    form = RecordFormat(encoding="json", validate=True)
    async with engine.open() as streams:
        await streams.put_stream("s", StreamConfig(subjects=("a.>",), format=form))
        await streams.publish(records("1", subject="a.x"))
    async with engine.open() as streams:

        def publish(payload, expected):
            with Producer(streams.addresses["ingest"], timeout=30.0) as producer:
                return producer.publish("a.x", payload, expect_last_subject_sequence=expected).first_sequence

        with pytest.raises(InvalidInput):
            await in_thread(publish, b"no json", 1)
        with pytest.raises(PreconditionFailed):
            await in_thread(publish, b"2", 0)
        assert await in_thread(publish, b"2", 1) == 2


async def test_programs_outlive_a_restart(engine):
    """Producers and consumers go on over restarts of the engine; every record comes, in order, stored once."""
    names = [str(i) for i in range(300)]
    got, consumed = [], trio.Event()

    def produce(address):
        with Producer(address, timeout=10.0) as producer:
            for name in names:
                producer.submit(records(name, ids=True))

    def consume(address):
        with Consumer(address, "s", "c", timeout=10.0) as consumer:
            while len(set(got)) < len(names):
                deliveries = consumer.fetch(wait=0.02)
                got.extend(payloads(deliveries))
                consumer.ack(deliveries)

    async def consume_all(address):
        await in_thread(consume, address)
        consumed.set()

    async with engine.open() as streams:
        await streams.put_stream("s", StreamConfig(subjects=("a.>",)))
        await streams.put_consumer("s", "c", ConsumerConfig())
        addresses = streams.addresses
    async with trio.open_nursery() as nursery:
        nursery.start_soon(consume_all, addresses["fetch"])
        nursery.start_soon(in_thread, produce, addresses["ingest"])
        for _ in range(3):
            async with engine.open():
                await trio.sleep(0.02)
        async with engine.open() as streams:
            await consumed.wait()
            assert payloads(await streams.read("s", limit=1000)) == names
    assert list(dict.fromkeys(got)) == names


def _hostile_frames():
    batch = encode_batch([Record(subject="a.b", payload=b"hostile", msg_id="h")] * 3, 1)
    good = encode_publish(batch)
    fetch = encode_fetch("s", "c", wait=0, max_records=1, max_bytes=1)
    yield from (b"", b"\0", b"x" * 23, b"x" * 24, bytes(24), b"\xff" * 4096, b"GET / HTTP/1.1\r\n\r\n")
    yield from (frame[:n] for frame in (good, fetch) for n in range(1, len(frame), 7))
    yield b"\x02" + good[1:]
    yield from (good[:1] + bytes([operation]) + good[2:] for operation in (0, 3, 9, 255))
    for offset, size in ((4, 2), (6, 2), (28, 4), (66, 2), (68, 4), (76, 4), (88, 1), (96, 4), (100, 2), (104, 4)):
        yield good[:offset] + b"\xff" * size + good[offset + size :]
    yield encode_publish(b"")
    yield encode_publish(batch[:-8])
    yield encode_publish(batch + bytes(8))
    yield fetch[:16] + b"\xff" * 8 + fetch[24:]
    choose = random.Random(7)
    for _ in range(200):
        frame = bytearray(choose.choice((good, fetch)))
        for _ in range(choose.randint(1, 4)):
            frame[choose.randrange(len(frame))] = choose.randrange(256)
        if frame[1] == 2:
            frame[8:16] = bytes(8)  # or it would be a proper request to wait
        yield bytes(frame)


async def test_hostile_frames_harm_nobody(streams, producer, consumer):
    """Garbage, truncated frames and huge lengths are answered with a refusal; everybody else goes on."""

    def attack(address):
        statuses = set()
        with pynng.Req0(dial=address, resend_time=-1, recv_timeout=3000) as socket:
            for frame in _hostile_frames():
                socket.send(frame)
                answer = socket.recv()
                if frame[1:2] == answer[1:2]:
                    statuses.add(decode_reply(answer, answer[1]).status)
        return statuses

    for address in (streams.addresses["ingest"], streams.addresses["fetch"]):
        statuses = await in_thread(attack, address)
        assert {Status.INVALID, Status.BAD_VERSION} <= statuses
    before = streams.stream("s").last_sequence
    published = await in_thread(producer.publish, "a.b", b"good")
    assert published.first_sequence == before + 1
    assert payloads(await in_thread(consumer.fetch))[-1] == "good"
    kept = await streams.read("s", limit=1000)
    assert [d.sequence for d in kept] == list(range(1, before + 2))


async def test_a_monstrous_frame_harms_nobody(streams, producer):
    """A frame far over every limit is not taken into memory: its sender is cut off, the others go on."""

    def attack():
        with pynng.Req0(dial=streams.addresses["ingest"], resend_time=-1, recv_timeout=1000) as socket:
            socket.send(bytes(64 << 20))
            with pytest.raises((pynng.ConnectionReset, pynng.Timeout)):
                socket.recv()

    await in_thread(attack)
    assert (await in_thread(producer.publish, "a.b", b"good")).first_sequence == 1


@contextmanager
def hosted(engine):
    """The engine in a process of its own, ready; killed at the end if it still lives."""
    directory = engine.directory.parent
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.conformance.streams_host", engine.name, str(directory)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
    )
    try:
        assert process.stdout.readline() == b"ready\n"
        yield process
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def _produce(address, acknowledged, stop):
    """Publish batches of five, four under way, until told to stop; note what is acknowledged."""
    with Producer(address, timeout=30.0, max_in_flight=4) as producer:
        pending = deque()

        def settle():
            names, oldest = pending.popleft()
            oldest.wait()
            acknowledged.extend(names)

        for i in itertools.count():
            names = [f"{i}.{k}" for k in range(5)]
            pending.append((names, producer.submit(records(*names, ids=True))))
            if len(pending) == 4:
                settle()
            if stop.is_set():
                break
        while pending:
            settle()


async def _everything(engine):
    async with engine.open() as streams:
        kept = []
        while page := await streams.read("s", after=kept[-1].sequence if kept else 0, limit=10_000):
            kept += page
        return kept


def test_kill_9_loses_nothing_and_doubles_nothing(engine):
    """Killed five times while it is written to, an engine has every acknowledged record, each once, without a gap."""
    acknowledged, stop = [], threading.Event()
    producing = threading.Thread(target=_produce, args=(f"ipc://{engine.sockets}/ingest.sock", acknowledged, stop))
    choose = random.Random(11)
    for kill in range(5):
        with hosted(engine) as process:
            if kill == 0:
                producing.start()
            seen, until = len(acknowledged), time.monotonic() + 10
            while len(acknowledged) < seen + choose.randint(20, 200) and time.monotonic() < until:
                time.sleep(0.002)
            assert len(acknowledged) > seen
            process.send_signal(signal.SIGKILL)
    with hosted(engine):
        stop.set()
        producing.join()
    kept = trio.run(_everything, engine)
    assert [d.sequence for d in kept] == list(range(1, len(kept) + 1))
    assert len(set(payloads(kept))) == len(kept)
    assert payloads(kept) == acknowledged
