"""Servers that are killed, held, away, or not what they should be."""

from __future__ import annotations

import contextlib
import random
import time
from functools import partial

import pytest
import trio
import trio.testing

from platformd.client.queues import Consumer, Producer
from platformd.core.errors import OutcomeUnknown, Unavailable, Unsupported
from platformd.queues.contract import Ack, ConsumerConfig, Record, StreamConfig
from tests.conformance.streams_engines import acks, in_thread, payloads, records

A = StreamConfig(subjects=("a.>",))


@pytest.fixture
async def streams(engine):
    """The engine, open, with the stream ``s`` and its consumer ``c``."""
    async with engine() as opened:
        await opened.put_stream("s", A)
        await opened.put_consumer("s", "c", ConsumerConfig())
        yield opened


async def test_a_killed_server_comes_back(server, streams):
    """While it is away everything says so; then everything goes on, with all that was acknowledged."""
    await streams.publish(records("1", "2"))
    one, two = await streams.fetch("s", "c")
    server.kill()
    with trio.fail_after(10):
        with pytest.raises((Unavailable, OutcomeUnknown)):
            await streams.publish(records("lost", subject="a.x"))
        with trio.move_on_after(0.1) as scope:
            await streams.publish(records("never"))
        assert scope.cancelled_caught
    assert streams.stream("s").last_sequence == 2  # what was known is known
    await trio.to_thread.run_sync(server.start)
    with trio.fail_after(10):
        assert await streams.ack("s", "c", acks([one, two])) in {0, 2}  # it may have forgotten that it delivered them
        published = await streams.publish(records("3"))
        assert payloads(await streams.fetch("s", "c", wait=5))[-1] == "3"
    assert payloads(await streams.read("s", subject="a.b")) == ["1", "2", "3"]
    assert streams.stream("s").last_sequence == published.first_sequence


async def test_without_a_server_nothing_was_done(engine, server):
    """A publish that cannot be sent is refused as such, and says why."""
    async with engine(request_timeout="300ms") as streams:
        await streams.put_stream("s", A)
        server.kill()
        with (
            trio.fail_after(5),
            contextlib.suppress(OutcomeUnknown, Unavailable),
        ):  # the loss may show while this is on its way
            await streams.publish(records("x"))
        for ask in (partial(streams.publish, records("x")), partial(streams.read, "s")):
            with trio.fail_after(5), pytest.raises(Unavailable, match="nothing was done"):
                await ask()


async def test_a_held_server_is_noticed(engine, server):
    """A server that is silent is given up; what was sent to it has an unknown outcome, what is acknowledged stays."""
    async with engine(request_timeout="1500ms", keepalive_interval="100ms", keepalive_timeout="700ms") as streams:
        await streams.put_stream("s", A)
        await streams.publish(records("1", ids=True))
        server.pause()
        try:
            with trio.fail_after(5), pytest.raises(OutcomeUnknown, match="silent"):
                await streams.publish(records("2", ids=True))
            with trio.fail_after(5), pytest.raises(Unavailable):
                await streams.publish(records("3", ids=True))
        finally:
            server.go_on()
        with trio.fail_after(10):
            await streams.publish(records("1", "2", "3", ids=True))
        kept = payloads(await streams.read("s"))
        assert (sorted(kept), kept[0]) == (["1", "2", "3"], "1")


async def test_a_waiting_fetch_outlives_a_restart(server, streams):
    """A fetch that waits gets the next record, although its server was away meanwhile."""
    got = []

    async def wait():
        with trio.fail_after(15):
            got.extend(await streams.fetch("s", "c", wait=60))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait)
        await trio.testing.wait_all_tasks_blocked(0.02)
        await trio.to_thread.run_sync(lambda: (server.kill(), server.start()))
        with trio.fail_after(10):
            await streams.publish(records("x"))
    assert payloads(got) == ["x"]


async def test_what_a_dead_daemon_held_comes_at_once(engine):
    """A daemon that is gone without a word holds nothing up: its successor gets what was out, with its count."""
    async with engine() as streams:
        await streams.put_stream("s", A)
        await streams.put_consumer("s", "c", ConsumerConfig(filter_subject="a.b"))
        for i in range(4):
            await streams.publish(records(f"{i}") + records("no", subject="a.no"))
        zero, *_ = await streams.fetch("s", "c", max_records=3)
        await streams.ack("s", "c", acks([zero]))
    async with engine() as streams:
        again = await streams.fetch("s", "c")
        assert [(d.payload, d.deliveries) for d in again] == [(b"1", 2), (b"2", 2), (b"3", 1)]
        assert await streams.ack("s", "c", acks(again)) == 3
        assert streams.consumers("s")[0].ack_pending == 0


async def test_kill_9_of_the_server_in_the_middle(server, streams):
    """Killed five times while programs publish and fetch: nothing acknowledged is lost, stored twice, or missed."""
    acknowledged, got, stop = [], [], []

    def produce():
        with Producer(streams.addresses["ingest"], timeout=30.0) as producer:
            for i in range(10_000):
                batch = records(*(f"{i}.{k}" for k in range(5)), ids=True)
                producer.publish_batch(batch)
                acknowledged.extend(r.payload.decode() for r in batch)
                if stop:
                    return

    def consume():
        with Consumer(streams.addresses["fetch"], "s", "c", timeout=30.0) as consumer:
            while not stop or len(set(got)) < len(acknowledged):
                deliveries = consumer.fetch(wait=0.2)
                got.extend(payloads(deliveries))
                consumer.ack(deliveries)

    choose = random.Random(3)
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(in_thread, produce)
            nursery.start_soon(in_thread, consume)
            for _ in range(5):
                seen, most = len(acknowledged), time.monotonic() + 20
                while len(acknowledged) < seen + choose.randint(20, 200) and time.monotonic() < most:  # noqa: ASYNC110 (threads)
                    await trio.sleep(0.002)
                assert len(acknowledged) > seen
                server.kill()
                await trio.sleep(choose.random() * 0.1)
                await trio.to_thread.run_sync(server.start)
            stop.append(True)
    kept = payloads(await streams.read("s", limit=100_000))
    assert len(set(kept)) == len(kept)
    assert kept == acknowledged
    assert set(got) == set(acknowledged)
    assert streams.consumers("s")[0].pending == 0


async def test_a_cut_batch_is_stored_once_with_ids(server, streams):
    """A batch whose connection is lost half-way can be published again: no record of it is there twice."""
    names = [str(i) for i in range(2000)]
    unknown = []

    async def publish():
        try:
            await streams.publish(records(*names, ids=True))
        except OutcomeUnknown as error:
            unknown.append(error.message)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(publish)
        await trio.sleep(0.02)
        server.kill()
    assert "not answered" in unknown[0]
    await trio.to_thread.run_sync(server.start)
    with trio.fail_after(20):
        published = await streams.publish(records(*names, ids=True))
    assert published.appended + len(published.duplicates) == 2000
    assert payloads(await streams.read("s", limit=5000)) == names


async def test_a_deleted_stream_is_noticed(server, engine, streams):
    """What another program deletes is not found, soon, and whoever waits is told."""
    del server
    async with engine("other") as other:
        await other.delete_consumer("s", "c")
        with trio.fail_after(5):
            while streams.consumers("s"):  # noqa: ASYNC110 (nobody is told)
                await trio.sleep(0.01)
        await other.delete_stream("s")
        with trio.fail_after(5):
            while streams.streams():  # noqa: ASYNC110 (nobody is told)
                await trio.sleep(0.01)
    assert streams.stream_for("a.b") is None


class _Greeter:
    """Something that listens, says one thing, and is no NATS server for us."""

    def __init__(self, says):
        self.says = says

    async def __call__(self, stream):
        async with stream:
            with contextlib.suppress(trio.BrokenResourceError):  # it may hang up before it has heard all
                await stream.send_all(self.says)
                await stream.receive_some(1000)


@pytest.mark.parametrize(
    ("says", "error", "match"),
    [
        (b'INFO {"version":"2.9.10","headers":true,"jetstream":true}\r\n', Unsupported, r"2\.9\.10"),
        (b'INFO {"version":"dev","headers":true,"jetstream":true}\r\n', Unsupported, "2.10 or newer"),
        (b'INFO {"version":"2.10.0","headers":true}\r\n', Unsupported, "no JetStream"),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", Unavailable, "not a NATS server"),
        (b"INFO {}}\r\n", Unavailable, "greeting"),
        (b"x" * (2 << 20), Unavailable, "longer"),
    ],
)
async def test_what_is_no_usable_server_is_refused(engine, says, error, match):
    """Too old, without JetStream, or something else: the engine does not open, and says what it found."""
    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(partial(trio.serve_tcp, _Greeter(says), 0, host="127.0.0.1"))
        port = listeners[0].socket.getsockname()[1]
        with trio.fail_after(5), pytest.raises(error, match=match):
            async with engine(servers=(f"nats://127.0.0.1:{port}",), request_timeout="100ms"):
                pass
        nursery.cancel_scope.cancel()


async def test_servers_stand_in_for_each_other(engine, server):
    """A server that is not there is passed over."""
    async with engine(servers=("nats://127.0.0.1:1", server.url)) as streams:
        await streams.put_stream("s", A)
        assert (await streams.publish([Record(subject="a.b", payload=b"")])).appended == 1


async def test_acknowledging_late_is_known(streams):
    """A delivery that came again to somebody else is theirs; its first holder's acknowledgement still counts."""
    await streams.publish(records("1"))
    await streams.put_consumer("s", "d", ConsumerConfig(ack_wait=0.05))
    await streams.fetch("s", "d")
    (again,) = await streams.fetch("s", "d", wait=5)
    assert again.deliveries == 2
    assert await streams.ack("s", "d", [Ack(sequence=again.sequence)]) == 1
    assert await streams.ack("s", "d", [Ack(sequence=again.sequence)]) == 0
