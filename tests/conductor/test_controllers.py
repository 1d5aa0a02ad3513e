"""The controllers that stand on the conductor: ownership, streams, the registry, the host."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio

from platformd.conductor import Conductor, ownership
from platformd.conductor import streams as stream_controller
from platformd.conductor.reconcile import loads, run_controller
from platformd.core.clock import SystemClock
from platformd.core.errors import Conflict, NotFound, PlatformError, Unprocessable
from platformd.health import controller as health
from platformd.health.host import HostCollector, read_pressure
from platformd.model.kind import Kind
from platformd.model.node import NODE
from platformd.model.resource import AnyResource
from platformd.model.service import ENDPOINT, SERVICE
from platformd.model.stream import STREAM, StreamStatus
from platformd.queues.contract import StreamConfig, StreamInfo
from platformd.registry import controller as registry


async def eventually(probe: Callable[[], Awaitable[bool]]) -> None:
    """Wait until ``probe`` says yes, at most five seconds."""
    with trio.fail_after(5):
        while not await probe():  # noqa: ASYNC110 - what is waited for is in a store, which has no event for it
            await trio.sleep(0.005)


async def create(conductor: Conductor, kind: Kind, name: str, spec: dict[str, Any], **more: Any) -> AnyResource:
    return await conductor.create(conductor.decode(kind, {"name": name, "spec": spec} | more))


async def is_gone(conductor: Conductor, kind: Kind, name: str) -> bool:
    try:
        await conductor.get(kind, name)
    except NotFound:
        return True
    return False


async def state_is(conductor: Conductor, kind: Kind, name: str, state: str) -> bool:
    return bool((await conductor.get(kind, name)).status.state == state)


async def test_belongings_go_with_their_owner(conductor: Conductor, nursery: trio.Nursery) -> None:
    """What belongs to a deleted object is deleted, also down a chain, and nothing else is."""
    await nursery.start(ownership.run, conductor)
    await create(conductor, SERVICE, "a", {})
    await create(conductor, NODE, "b", {}, owner={"kind": "Service", "name": "a"})
    await create(conductor, SERVICE, "c", {}, owner={"kind": "Node", "name": "b"})
    await create(conductor, SERVICE, "d", {})
    await conductor.delete(SERVICE, "a")
    await eventually(partial(is_gone, conductor, NODE, "b"))
    await eventually(partial(is_gone, conductor, SERVICE, "c"))
    assert (await conductor.get(SERVICE, "d")).name == "d"


async def test_a_service_counts_its_endpoints(conductor: Conductor, nursery: trio.Nursery) -> None:
    """Endpoints that come, move and go change the services they concern."""
    await nursery.start(registry.run, conductor)
    await create(conductor, ENDPOINT, "e", {"service": "a", "address": "h"})
    await eventually(partial(state_is, conductor, ENDPOINT, "e", "orphaned"))
    await create(conductor, SERVICE, "a", {})
    await create(conductor, SERVICE, "b", {})
    await eventually(partial(state_is, conductor, ENDPOINT, "e", "registered"))
    await eventually(partial(state_is, conductor, SERVICE, "a", "available"))
    await conductor.patch(ENDPOINT, "e", "default", {"spec": {"service": "b"}})
    await eventually(partial(state_is, conductor, SERVICE, "a", "empty"))
    await eventually(partial(state_is, conductor, SERVICE, "b", "available"))
    await conductor.delete(ENDPOINT, "e")
    await eventually(partial(state_is, conductor, SERVICE, "b", "empty"))


async def test_the_host_is_measured(conductor: Conductor, nursery: trio.Nursery) -> None:
    """The Node is there with real figures when the collector has started, and comes back if deleted."""
    await nursery.start(health.run, conductor, HostCollector(SystemClock()), "here", 0.01)
    status = (await conductor.get(NODE, "here")).status
    assert status.state == "passing"
    assert 0 < status.memory_used_bytes < status.memory_total_bytes
    assert status.daemon_rss_bytes > 1 << 20
    first = await conductor.get(NODE, "here")
    await conductor.delete(NODE, "here")

    async def is_back() -> bool:
        try:
            return (await conductor.get(NODE, "here")).uid != first.uid
        except NotFound:
            return False

    await eventually(is_back)


def test_pressure_is_read_where_the_kernel_has_it(tmp_path: Path) -> None:
    """The averages are taken by name, and a kernel without PSI has none."""
    (tmp_path / "io").write_text(
        "some avg10=1.50 avg60=0.1 avg300=0 total=1\nfull avg10=0.25 avg60=0 avg300=0 total=1\n"
    )
    assert read_pressure(tmp_path) == {"io.some": 1.5, "io.full": 0.25}
    assert read_pressure(tmp_path / "none") == {}


class FakeStreams:
    """The part of an engine that the stream controller uses."""

    def __init__(self) -> None:
        self.there: dict[str, StreamConfig] = {}
        self.refusal: PlatformError | None = None
        self.purged: list[tuple[str, str, int, int]] = []

    def stream(self, name: str) -> StreamInfo:
        if name not in self.there:
            raise NotFound("no such stream", subject=name)
        config = self.there[name]
        return StreamInfo(
            name=name,
            config=config,
            messages=5,
            bytes=10,
            uncompressed_bytes=35,
            first_sequence=1,
            last_sequence=5,
            consumers=0,
            first_time_ns=1_500_000_000_000_000_000,
        )

    async def put_stream(self, name: str, config: StreamConfig) -> StreamInfo:
        if self.refusal is not None:
            raise self.refusal
        self.there[name] = config
        return self.stream(name)

    async def purge(self, name: str, *, subject: str, before: int, keep: int) -> int:
        self.purged.append((name, subject, before, keep))
        return 3

    async def delete_stream(self, name: str) -> None:
        if self.there.pop(name, None) is None:
            raise NotFound("no such stream", subject=name)


@pytest.fixture
async def streams(conductor: Conductor, nursery: trio.Nursery) -> FakeStreams:
    fake = FakeStreams()
    engine: Any = fake
    await nursery.start(stream_controller.run, conductor, engine)
    return fake


SPEC: dict[str, Sequence[str] | str | int] = {
    "subjects": ["a.>"],
    "max_age": "1h",
    "max_bytes": "1MiB",
    "max_records": 7,
    "max_records_per_subject": 2,
    "max_record_bytes": "1KiB",
    "discard": "new",
    "retention": "work_queue",
    "compression": "zstd",
}


async def test_a_stream_is_made_changed_and_removed(conductor: Conductor, streams: FakeStreams) -> None:
    """The engine follows the resource, and the resource goes only after the records."""
    await create(conductor, STREAM, "s", SPEC)
    await eventually(partial(state_is, conductor, STREAM, "s", "active"))
    config = streams.there["s"]
    assert (config.max_records_per_subject, config.retention) == (2, "work_queue")
    assert (config.max_age, config.max_records, config.max_record_bytes, config.discard) == (3600, 7, 1024, "new")
    assert config.compression == "zstd"
    status = (await conductor.get(STREAM, "s")).status
    assert (status.messages, status.first_record_at, status.last_record_at) == (5, "2017-07-14T02:40:00.000000Z", None)
    assert (status.bytes, status.compression_ratio) == (10, 3.5)
    await conductor.patch(STREAM, "s", "default", {"spec": {"max_bytes": "2MiB"}})

    async def is_changed() -> bool:
        return streams.there["s"].max_bytes == 2 << 20

    await eventually(is_changed)
    await conductor.delete(STREAM, "s")
    await eventually(partial(is_gone, conductor, STREAM, "s"))
    assert streams.there == {}


async def test_purge_is_an_action(conductor: Conductor, streams: FakeStreams) -> None:
    """The engine is told which records of which stream, and everything that is wrong is said before it is."""
    await create(conductor, STREAM, "s", SPEC)
    perform = partial(conductor.actions.perform, STREAM, "s", "default")
    purged: Any = await perform("purge", {"subject": "a.b", "keep": 2})
    assert (purged.removed, streams.purged) == (3, [("s", "a.b", 0, 2)])
    with pytest.raises(Unprocessable) as refused:
        await perform("purge", {"before": -1, "keeep": 1})
    assert [error.path for error in refused.value.errors] == ["before", "keeep"]
    with pytest.raises(Unprocessable) as refused:
        await perform("purge", {"subject": "a..b"})
    assert [error.path for error in refused.value.errors] == ["subject"]
    with pytest.raises(NotFound, match="did you mean purge"):
        await perform("purg", {})
    assert len(streams.purged) == 1


async def test_a_refused_stream_says_why(conductor: Conductor, streams: FakeStreams) -> None:
    """A stream whose subjects another one has is in error, with the engine's words, and can still be deleted."""
    streams.refusal = Conflict("'a.>' is captured by stream t", subject="s")
    await create(conductor, STREAM, "s", SPEC)
    await eventually(partial(state_is, conductor, STREAM, "s", "error"))
    status = (await conductor.get(STREAM, "s")).status
    assert status.reason == "SubjectsTaken"
    assert "captured by stream t" in status.message
    await conductor.delete(STREAM, "s")
    await eventually(partial(is_gone, conductor, STREAM, "s"))


async def test_a_controller_is_not_woken_by_its_own_reports(conductor: Conductor, nursery: trio.Nursery) -> None:
    """Statuses that change without a change of state wake nobody; a new generation, a new state and deletion do."""
    looked: list[int] = []

    async def reconcile(resource: AnyResource) -> float | None:
        looked.append(resource.generation)
        return None

    await nursery.start(run_controller, conductor, STREAM, reconcile)
    created = await create(conductor, STREAM, "s", SPEC)
    await conductor.set_status(created, StreamStatus(state="active"))
    for i in range(20):
        await conductor.set_status(created, StreamStatus(state="active", messages=i))
    await conductor.patch(STREAM, "s", "default", {"spec": {"max_age": "2h"}})

    async def is_seen() -> bool:
        return 2 in looked

    await eventually(is_seen)
    assert len(looked) <= 3
    await conductor.delete(STREAM, "s")
    before = len(looked)

    async def is_seen_again() -> bool:
        return len(looked) > before

    await eventually(is_seen_again)


async def test_all_owners_are_looked_after_with_one_watch(
    conductor: Conductor, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was there before the start is read once for all kinds, and what is orphaned is found all the same."""
    await create(conductor, SERVICE, "a", {})
    await create(conductor, NODE, "b", {}, owner={"kind": "Service", "name": "a"})
    await create(conductor, ENDPOINT, "c", {"service": "a", "address": "h"}, owner={"kind": "Service", "name": "a"})
    await conductor.delete(SERVICE, "a")
    watches = []
    watch = conductor.watch
    monkeypatch.setattr(conductor, "watch", lambda *given, **named: watches.append(given) or watch(*given, **named))
    await nursery.start(ownership.run, conductor)
    await eventually(partial(is_gone, conductor, NODE, "b"))
    await eventually(partial(is_gone, conductor, ENDPOINT, "c"))
    assert len(watches) == 1


async def test_only_what_is_owned_is_looked_at_for_its_owner(conductor: Conductor, nursery: trio.Nursery) -> None:
    """What has no owner takes no look; what gets one later does, goes with it, and is forgotten when it is gone."""
    await create(conductor, SERVICE, "a", {})
    await create(conductor, NODE, "b", {})
    await nursery.start(ownership.run, conductor)

    def looked() -> dict[str, int]:
        return {load.controller: load.objects for load in loads(conductor) if load.objects}

    assert looked() == {}
    await conductor.patch(NODE, "b", "default", {"owner": {"kind": "Service", "name": "a"}})

    async def is_looked_at() -> bool:
        return looked() == {"owners-of-nodes": 1}

    await eventually(is_looked_at)
    await conductor.patch(NODE, "b", "default", {"owner": None})
    await conductor.delete(NODE, "b")

    async def is_forgotten() -> bool:
        return looked() == {}

    await eventually(is_forgotten)
    await create(conductor, NODE, "b", {})
    await conductor.patch(NODE, "b", "default", {"owner": {"kind": "Service", "name": "a"}})
    await conductor.delete(SERVICE, "a")
    await eventually(partial(is_gone, conductor, NODE, "b"))
