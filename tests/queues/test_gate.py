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
from platformd.queues.contract import Record, RecordFormat, StreamConfig
from platformd.queues.native.broker import statistics
from platformd.queues.native.engine import NativeStreams, open_native
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
        outcome.append(await trio.to_thread.run_sync(partial(publish, address, 0.5)))

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


async def test_push_to_a_stream_that_validates_is_refused_by_name() -> None:
    """The push socket gives no answers, so nothing is looked at for it: what it brings is not stored, it is counted as
    refused, and the reason names the sockets to use."""
    with short_directory() as directory:
        async with open_at(directory) as streams:
            await streams.put_stream("s", CONFIG)
            with pynng.Push0(dial=streams.addresses["push"], send_timeout=10_000) as push:
                await trio.to_thread.run_sync(push.send, b"a.b\n1")
                with trio.fail_after(10):
                    while not (found := statistics(streams._engine)).push_refused:  # noqa: ASYNC110 - C counts it
                        await trio.sleep(0.01)
            assert "stream s validates: publish over the ingest socket or HTTP" in found.push_refusal
            assert streams.stream("s").last_sequence == 0
