"""The controller: cursors and processes follow the resource, through failures, changes and deletion."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio
from trio.testing import MockClock

from platformd.conductor import Conductor
from platformd.core.clock import SystemClock
from platformd.core.errors import NotFound
from platformd.core.ids import uuid7
from platformd.core.settings import PipelineSettings
from platformd.model.bridge import BRIDGE, BridgeFormat, BridgeStatus, PartitionStatus
from platformd.model.kinds import KINDS
from platformd.model.resource import Resource
from platformd.model.schema import SchemaSpec, SchemaStatus, SchemaVersion
from platformd.pipelines.bridges import controller
from platformd.pipelines.bridges.plan import BridgeConfig, BridgeCounts, BridgeReport
from tests.api.fakes import MemoryStore
from tests.pipelines.bridges.resources import bridge
from tests.pipelines.fakes import FakeProcess, FakeSpawner, FakeStreams

AVRO = {"type": "record", "name": "a", "fields": []}


def told(process: FakeProcess) -> BridgeConfig:
    return msgspec.json.decode(process.lines[0], type=BridgeConfig)


def say(process: FakeProcess, **fields: Any) -> None:
    process.write(msgspec.json.encode(BridgeReport(**fields)) + b"\n")


class Site:
    """A controller at work on fakes."""

    def __init__(self) -> None:
        clock = SystemClock()
        self.conductor = Conductor(MemoryStore(), clock, uuid7(clock), KINDS)  # type: ignore[arg-type]
        self.streams = FakeStreams(("alerts", "alerts.>"), ("dead", "dead.>"))
        self.spawner = FakeSpawner()
        self.settings = PipelineSettings(max_bridges=2)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        async with trio.open_nursery() as nursery:
            run = partial(
                controller.run, self.conductor, self.streams, self.settings, Path("/files"), spawner=self.spawner
            )  # type: ignore[arg-type]
            await nursery.start(run)
            yield
            nursery.cancel_scope.cancel()

    async def apply(self, direction: str = "source", **fields: Any) -> None:
        await self.conductor.replace(bridge(direction, **fields))

    async def schema(self, *versions: int) -> None:
        entries = tuple(SchemaVersion(version=v, schema=AVRO | {"doc": str(v)}) for v in versions)
        spec = SchemaSpec(type="avro", compatibility="none", versions=entries)
        await self.conductor.replace(Resource(kind="Schema", name="lsst", spec=spec, status=SchemaStatus()))

    async def until(self, condition: Callable[[BridgeStatus], bool], name: str = "demo") -> BridgeStatus:
        """Wait until the status is so; the clock of the tests jumps."""
        with trio.fail_after(120):
            while True:
                status: BridgeStatus = (await self.conductor.get(BRIDGE, name)).status
                if condition(status):
                    return status
                await trio.sleep(0.05)

    async def until_state(self, state: str, name: str = "demo") -> BridgeStatus:
        return await self.until(lambda s: s.state == state, name)

    async def started(self) -> FakeProcess:
        """The process of a bridge that runs."""
        await self.until(lambda _: any(p.running and p.lines for p in self.spawner.processes))
        process = next(p for p in self.spawner.processes if p.running)
        say(process, ready=True)
        await self.until_state("running")
        return process


async def until_gone(site: Site) -> None:
    """Wait until the bridge is deleted."""
    with trio.fail_after(60):
        while True:
            try:
                await site.conductor.get(BRIDGE, "demo")
            except NotFound:
                return
            await trio.sleep(0.05)


@pytest.fixture
async def site() -> AsyncIterator[Site]:
    site = Site()
    async with site.running():
        yield site


async def test_a_source_comes_up(site: Site, autojump_clock: MockClock) -> None:
    """Its process is told what it needs, and it runs when Kafka has let it in."""
    await site.apply()
    await site.until(lambda s: s.reason == "Connecting")
    process = await site.started()
    config = told(process)
    assert (config.bridge, config.group, config.files) == ("demo", "platformd-demo", "/files")
    assert config.ingest == site.streams.addresses["ingest"]
    assert not site.streams.cursors


async def test_a_sink_has_a_cursor(site: Site, autojump_clock: MockClock) -> None:
    """The cursor is there before the process, follows the limits, and moves with the subject."""
    await site.apply("sink")
    process = await site.started()
    assert told(process).consumer == "bridge-demo"
    assert site.streams.cursors["alerts", "bridge-demo"].filter_subject == "alerts.>"
    site.streams.configs["other"] = msgspec.structs.replace(site.streams.configs["dead"], subjects=("other.>",))
    await site.apply("sink", subject="other.a", start="latest")
    await site.until(lambda _: not process.running and len(site.spawner.processes) == 2)
    assert list(site.streams.cursors) == [("other", "bridge-demo")]
    assert site.streams.cursors["other", "bridge-demo"].deliver_policy == "new"
    await site.apply("sink", subject="other.a", start="earliest")
    await site.until(lambda s: len(site.spawner.processes) == 3)
    assert site.streams.cursors["other", "bridge-demo"].deliver_policy == "new"


async def test_counts_come_from_reports_and_stay(site: Site, autojump_clock: MockClock) -> None:
    """What a process counts is added up over its successors; places and troubles are those of the present one."""
    await site.apply()
    process = await site.started()
    row = PartitionStatus(topic="ztf", partition=1, offset=7, lag=3)
    say(process, ready=True, counts=BridgeCounts(records_in=8, records_out=7, errors=1), lag=3, assigned=1,
        partitions=(row,), in_flight=1, last_error="once")  # fmt: skip
    status = await site.until(lambda s: s.records_out == 7)
    assert (status.lag, status.assigned, status.partitions, status.in_flight) == (3, 1, (row,), 1)
    process.exit(1, b"it broke\n")
    await site.until(lambda s: s.restarts == 1)
    process = await site.started()
    say(process, ready=True, counts=BridgeCounts(records_in=2, records_out=2))
    status = await site.until(lambda s: s.records_out == 9)
    assert (status.records_in, status.errors, status.last_error) == (10, 1, "once")


async def test_trouble_is_told_at_once(site: Site, autojump_clock: MockClock) -> None:
    """What its process cannot do is the bridge's message, until it can again."""
    await site.apply()
    process = await site.started()
    say(process, ready=True, trouble="no broker of Kafka can be reached")
    status = await site.until_state("degraded")
    assert status.message == "no broker of Kafka can be reached"
    say(process, ready=True)
    await site.until_state("running")


async def test_a_process_that_dies_is_started_again(site: Site, autojump_clock: MockClock) -> None:
    """With growing delays, and what it died of in the message."""
    site.spawner.ready = False
    await site.apply()
    for i in range(5):
        await site.until(lambda _, i=i: len(site.spawner.processes) == i + 1)
        site.spawner.processes[-1].exit(1, b"its first line is no password\n")
    status = await site.until_state("degraded")
    assert "no password" in status.message
    waits = [later - earlier for earlier, later in zip(site.spawner.times, site.spawner.times[1:], strict=False)]
    assert waits == sorted(waits)
    assert waits[-1] > waits[0]


async def test_a_change_replaces_the_process(site: Site, autojump_clock: MockClock) -> None:
    """The old one has ended before the new one starts."""
    await site.apply()
    first = await site.started()
    site.spawner.obedient = False
    first._obedient = False
    await site.apply(topics=("other",))
    await site.until(lambda _: first.input_closed)
    assert len(site.spawner.processes) == 1
    first.exit(0)
    second = await site.started()
    assert told(second).topics == ("other",)
    assert (await site.until_state("running")).restarts == 0
    second._obedient = True


async def test_pausing(site: Site, autojump_clock: MockClock) -> None:
    """A paused bridge has no process and keeps its cursor; it goes on when it is told to."""
    await site.apply("sink")
    process = await site.started()
    await site.apply("sink", paused=True)
    await site.until_state("paused")
    await site.until(lambda _: not process.running)
    assert site.streams.cursors
    await site.conductor.actions.perform(BRIDGE, "demo", "default", "resume", {})
    again = await site.started()
    await site.conductor.actions.perform(BRIDGE, "demo", "default", "pause", {})
    await site.until(lambda s: s.state == "paused" and not again.running)


async def test_nothing_captures_its_subject(site: Site, autojump_clock: MockClock) -> None:
    """It says which subject, and comes up when a stream does."""
    await site.apply(subject="nowhere.x")
    status = await site.until_state("error")
    assert "nowhere.x" in status.message
    assert not site.spawner.processes
    site.streams.configs["new"] = msgspec.structs.replace(site.streams.configs["dead"], subjects=("nowhere.>",))
    await site.started()


async def test_schemas_of_the_register(site: Site, autojump_clock: MockClock) -> None:
    """A missing Schema is said; its process gets all versions, and is replaced when one is added."""
    await site.apply(format=BridgeFormat(type="registry", register="lsst"))
    status = await site.until_state("error")
    assert "lsst" in status.message
    await site.schema(703)
    process = await site.started()
    assert list(told(process).schemas) == ["703"]
    await site.schema(703, 704)
    await site.until(lambda _: len(site.spawner.processes) == 2)
    assert list(told(await site.started()).schemas) == ["703", "704"]


async def test_the_limit_of_processes(site: Site, autojump_clock: MockClock) -> None:
    """Over the limit a bridge waits, says so, and starts when there is room."""
    await site.apply()
    await site.started()
    await site.apply(name="second")
    await site.until(lambda _: len(site.spawner.processes) == 2, "second")
    await site.apply(name="third")
    status = await site.until_state("degraded", "third")
    assert "pipelines.max_bridges is 2" in status.message
    await site.conductor.delete(BRIDGE, "second")
    await site.until(lambda _: len(site.spawner.processes) == 3, "third")


async def test_deletion_takes_everything_with_it(site: Site, autojump_clock: MockClock) -> None:
    """The process ends, the cursor goes, then the resource."""
    await site.apply("sink")
    process = await site.started()
    await site.conductor.delete(BRIDGE, "demo")
    await until_gone(site)
    assert not process.running
    assert not site.streams.cursors


async def test_a_bridge_that_is_made_anew(site: Site, autojump_clock: MockClock) -> None:
    """Deleted and applied again it has a process of its own and counts from nothing."""
    await site.apply()
    process = await site.started()
    say(process, ready=True, counts=BridgeCounts(records_out=7))
    await site.until(lambda s: s.records_out == 7)
    await site.conductor.delete(BRIDGE, "demo")
    await until_gone(site)
    await site.apply(topics=("other",))
    assert told(await site.started()).topics == ("other",)
    assert (await site.until_state("running")).records_out == 0
