"""The native engine's gate: batches from the sockets that are being looked at when something ends."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import pynng
import trio
import trio.testing

from platformd.client.queues import Producer
from platformd.core.clock import SystemClock
from platformd.core.errors import LimitReached, PlatformError
from platformd.core.settings import QueueSettings
from platformd.queues.codec import encode_batch
from platformd.queues.contract import Record, RecordFormat, StreamConfig
from platformd.queues.native.broker import statistics
from platformd.queues.native.engine import NativeStreams, open_native
from platformd.queues.statistics import SocketStatistics
from tests.support.daemon import short_directory

DEPTH = 40
SLOW = json.dumps(
    {
        "$defs": {
            **{f"d{i}": {"anyOf": [{"$ref": f"#/$defs/d{i + 1}"}] * 2} for i in range(DEPTH)},
            f"d{DEPTH}": {"type": "string"},
        },
        "$ref": "#/$defs/d0",
    }
)
"""Work that doubles with every definition."""
CONFIG = StreamConfig(subjects=("a.>",), format=RecordFormat(encoding="json", schema=SLOW, validate=True))


def publish(address: str, timeout: float) -> PlatformError | None:
    with Producer(address, timeout=timeout) as producer:
        try:
            producer.publish_batch([Record(subject="a.b", payload=b"1")])
        except PlatformError as error:
            return error
    return None


async def test_stopping_answers_what_is_being_checked() -> None:
    """A batch that is being looked at when the engine stops is not stored, and its publisher is told so."""
    outcome: list[PlatformError | None] = []

    async def produce(address: str) -> None:
        outcome.append(await trio.to_thread.run_sync(partial(publish, address, 5.0)))

    with short_directory() as directory:
        async with trio.open_nursery() as nursery:
            async with open_at(directory) as streams:
                await streams.put_stream("s", CONFIG)
                nursery.start_soon(produce, streams.addresses["ingest"])
                await asked(streams)
        assert isinstance(outcome[0], PlatformError)
        assert "nothing was stored" in outcome[0].message
        async with open_at(directory) as streams:
            assert streams.stream("s").last_sequence == 0


async def test_a_schema_that_takes_for_ever_holds_up_no_other_stream() -> None:
    """While one stream's batches run into their deadlines, another on the same socket is served; each publisher of
    the first is told that nothing was stored."""
    outcome: list[PlatformError | None] = []

    async def produce(address: str) -> None:
        outcome.append(await trio.to_thread.run_sync(partial(publish, address, 30.0)))

    with short_directory() as directory:
        async with open_at(directory) as streams:
            streams._checkers._processes[0]._deadline = 0.3
            await streams.put_stream("s", CONFIG)
            await streams.put_stream("free", StreamConfig(subjects=("b.>",)))
            async with trio.open_nursery() as nursery:
                for _ in range(2):
                    nursery.start_soon(produce, streams.addresses["ingest"])
                await asked(streams)

                def others() -> int:
                    with Producer(streams.addresses["ingest"]) as producer:
                        return producer.publish("b.c", b"x").first_sequence

                assert await trio.to_thread.run_sync(others) == 1
                assert not outcome
            assert [type(error) for error in outcome] == [LimitReached, LimitReached]
            assert streams.stream("s").last_sequence == 0


async def asked(streams: NativeStreams) -> None:
    """Wait until the first batch is at the checkers."""
    with trio.fail_after(10):
        while not streams._checkers._homes:  # noqa: ASYNC110 - it comes from another thread
            await trio.sleep(0.01)


def open_at(directory: Path):
    return open_native(directory / "streams", directory / "q", QueueSettings(), SystemClock())


POSITIVE = json.dumps({"type": "integer", "minimum": 1})


async def counted(streams: NativeStreams, stored: int, refused: int) -> SocketStatistics:
    """What push did, once it has done that much; C counts it and tells nobody."""
    with trio.fail_after(60):
        while (found := statistics(streams._engine)).push_records < stored or found.push_refused < refused:  # noqa: ASYNC110
            await trio.sleep(0.002)
    return found


async def test_push_stores_what_fits_and_counts_the_rest() -> None:
    """Of what plain programs push to a stream that validates, the records that fit are stored in their order, the
    others are counted as invalid, and what is wrong with the last of them is told; a batch is taken whole or not."""
    form = RecordFormat(encoding="json", schema=POSITIVE, validate=True)
    numbers = [n if n % 3 else -n for n in range(1, 301)]
    with short_directory() as directory:
        async with open_at(directory) as streams:
            await streams.put_stream("s", StreamConfig(subjects=("a.>",), format=form))
            await streams.put_stream("free", StreamConfig(subjects=("b.>",)))

            def push_all() -> None:
                with pynng.Push0(dial=streams.addresses["push"], send_timeout=60_000) as push:
                    for n in numbers:
                        push.send(b"a.b\n%d" % n)
                        push.send(b"b.b\n%d" % n)
                    for payloads in ((b"1000", b"1001"), (b"1002", b"-1")):
                        push.send(encode_batch([Record(subject="a.b", payload=payload) for payload in payloads], 1))

            await trio.to_thread.run_sync(push_all)
            found = await counted(streams, 200 + 300 + 2, 100 + 2)
            good = [n for n in numbers if n > 0] + [1000, 1001]
            assert [int(d.payload) for d in await streams.read("s", limit=1000)] == good
            assert [int(d.payload) for d in await streams.read("free", limit=1000)] == numbers
            assert (found.push_invalid, found.push_refused) == (102, 102)
            assert "minimum" in found.push_refusal


async def test_push_counts_what_could_not_be_looked_at() -> None:
    """Records whose check takes too long are not stored and are counted; push goes on for the other streams."""
    with short_directory() as directory:
        async with open_at(directory) as streams:
            streams._checkers._processes[0]._deadline = 0.2
            await streams.put_stream("s", CONFIG)
            await streams.put_stream("free", StreamConfig(subjects=("b.>",)))
            with pynng.Push0(dial=streams.addresses["push"], send_timeout=10_000) as push:
                for message in (b"a.b\n1", b"b.b\n1"):
                    await trio.to_thread.run_sync(push.send, message)
            found = await counted(streams, 1, 1)
            assert found.push_failed == 1
            assert "took longer" in found.push_refusal
            assert streams.stream("s").last_sequence == 0
            assert streams.stream("free").last_sequence == 1


async def test_stopping_leaves_nothing_of_push_at_the_gate() -> None:
    """More batches than may be looked at wait when the engine stops: it stops, and what was stored is in order."""
    with short_directory() as directory:
        async with open_at(directory) as streams:
            streams._checkers._processes[0]._deadline = 30
            await streams.put_stream("s", CONFIG)
            with pynng.Push0(dial=streams.addresses["push"], send_timeout=10_000) as push:
                for _ in range(40):
                    batch = encode_batch([Record(subject="a.b", payload=b"1")], 1)
                    await trio.to_thread.run_sync(push.send, batch)
                await asked(streams)
        async with open_at(directory) as streams:
            assert streams.stream("s").last_sequence == 0
