"""The controller: queues and processes follow the resource, through failures, changes, suspension and deletion."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import msgspec
import pytest
import trio
from trio.testing import MockClock

from platformd.conductor import Conductor
from platformd.core.clock import SystemClock
from platformd.core.errors import NotFound, StorageFull
from platformd.core.ids import uuid7
from platformd.core.settings import PipelineSettings
from platformd.model.kinds import KINDS
from platformd.model.pipeline import PIPELINE, FilterStage, PipelineStatus, Stage
from platformd.model.resource import AnyResource
from platformd.pipelines import controller
from platformd.pipelines.rules import MAX_KILLS
from platformd.pipelines.supervision import MAX_LINE, STOP_DEADLINE
from tests.api.fakes import MemoryStore
from tests.pipelines.fakes import FakeProcess, FakeSpawner, FakeStreams
from tests.pipelines.resources import ANNOTATE, FILTER, ROUTE, pipeline


async def eventually(condition: Callable[[], Any], within: float = 60.0) -> Any:
    """Wait until ``condition`` gives something true, and return that."""
    with trio.fail_after(within):
        while True:
            found = condition()
            if found:
                return found
            await trio.sleep(0.01)


TWO = msgspec.structs.replace(FILTER, workers=2)


class Site:
    """A controller at work on fakes."""

    def __init__(self) -> None:
        clock = SystemClock()
        self.conductor = Conductor(MemoryStore(), clock, uuid7(clock), KINDS)  # type: ignore[arg-type]
        self.streams = FakeStreams(("alerts", "alerts.>"), ("out", "out.>"))
        self.spawner = FakeSpawner()
        self.settings = PipelineSettings()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        async with trio.open_nursery() as nursery:
            run = partial(controller.run, self.conductor, self.streams, self.settings, spawner=self.spawner)  # type: ignore[arg-type]
            await nursery.start(run)
            yield
            nursery.cancel_scope.cancel()

    async def apply(self, *stages: Stage, **spec: Any) -> None:
        await self.conductor.replace(pipeline(*stages, **spec))

    async def resource(self) -> AnyResource:
        return await self.conductor.get(PIPELINE, "demo")

    async def status(self) -> PipelineStatus:
        status: PipelineStatus = (await self.resource()).status
        return status

    async def until(self, condition: Callable[[PipelineStatus], bool], within: float = 60.0) -> PipelineStatus:
        """Wait until the status is so; the clock of the tests jumps."""
        with trio.fail_after(within):
            while True:
                status = await self.status()
                if condition(status):
                    return status
                await trio.sleep(0.05)

    async def until_running(self) -> PipelineStatus:
        return await self.until(lambda s: s.state == "running" and all(r.workers_ready for r in s.stages))


@pytest.fixture
async def site() -> Site:
    return Site()


@pytest.fixture
async def started(site: Site) -> AsyncIterator[Site]:
    async with site.running():
        await site.apply()
        await site.until_running()
        yield site


async def test_a_pipeline_comes_up(started: Site, autojump_clock: MockClock) -> None:
    """Its stream and cursors are there before its workers, and each worker knows its stage."""
    assert started.streams.configs["pipeline-demo"].subjects == ("pipeline.demo.>",)
    assert set(started.streams.cursors) == {
        ("alerts", "pipeline-demo"),
        ("pipeline-demo", "annotate"),
        ("pipeline-demo", "route"),
    }
    assert sorted(p.stage for p in started.spawner.processes) == ["annotate", "filter", "route"]
    status = await started.status()
    assert [(r.name, r.type, r.workers_ready, r.workers_desired) for r in status.stages] == [
        ("filter", "filter", 1, 1),
        ("annotate", "annotate", 1, 1),
        ("route", "route", 1, 1),
    ]
    assert status.observed_generation == 1


async def test_a_subject_without_a_stream_is_an_error(site: Site, autojump_clock: MockClock) -> None:
    """The status names the subject; a stream that appears later is found."""
    async with site.running():
        del site.streams.configs["out"]
        await site.apply()
        status = await site.until(lambda s: s.state == "error")
        assert status.reason == "SubjectNotCaptured"
        assert "'out.dead'" in status.message
        assert site.spawner.processes == []
        await site.streams.put_stream(
            "out", msgspec.structs.replace(site.streams.configs["alerts"], subjects=("out.>",))
        )
        await site.until_running()


async def test_a_refusal_of_the_queues_is_told(site: Site, autojump_clock: MockClock) -> None:
    """What the engine refuses is the status, and is tried again."""
    async with site.running():
        site.streams.refusal = StorageFull("the disk is full")
        await site.apply()
        status = await site.until(lambda s: s.state == "error")
        assert (status.reason, status.message) == ("QueuesRefused", "the disk is full")
        site.streams.refusal = None
        await site.until_running()


async def test_the_number_of_workers_follows_the_spec(started: Site, autojump_clock: MockClock) -> None:
    """Scaling starts and stops workers and replaces none."""
    await started.apply(TWO, ANNOTATE, ROUTE)
    await started.until(lambda s: s.stages[0].workers_ready == 2)
    assert len(started.spawner.processes) == 4
    await started.apply(FILTER, ANNOTATE, ROUTE)
    await started.until(lambda s: s.stages[0].workers_ready == 1)
    assert len(started.spawner.running("filter")) == 1
    assert len(started.spawner.processes) == 4


async def test_a_changed_expression_replaces_the_workers_of_its_stage(started: Site, autojump_clock: MockClock) -> None:
    """The new worker is there before the old one goes, and other stages go on."""
    old = started.spawner.running("filter")[0]
    await started.apply(FilterStage(name="filter", expression="candidate.rb > 0.9"), ANNOTATE, ROUTE)
    await started.until(lambda s: s.observed_generation == 2 and not old.running)
    (new,) = started.spawner.running("filter")
    assert new.config.stage.expression == "candidate.rb > 0.9"  # type: ignore[union-attr]
    assert old.input_closed
    assert not old.killed
    assert len(started.spawner.processes) == 4


async def test_suspending_stops_all_and_resuming_goes_on(started: Site, autojump_clock: MockClock) -> None:
    """A suspended pipeline has no processes and keeps its cursors."""
    await started.apply(suspend=True)
    status = await started.until(lambda s: s.state == "suspended" and not any(r.workers_ready for r in s.stages))
    assert [r.workers_desired for r in status.stages] == [0, 0, 0]
    assert not any(p.running for p in started.spawner.processes)
    assert ("alerts", "pipeline-demo") in started.streams.cursors
    await started.apply(suspend=False)
    await started.until_running()


async def test_pause_and_resume_are_actions(started: Site, autojump_clock: MockClock) -> None:
    """Pausing suspends a pipeline and answers what it is then; resuming takes that back."""
    paused: Any = await started.conductor.actions.perform(PIPELINE, "demo", "default", "pause", {})
    assert paused.spec.suspend
    await started.until(lambda s: s.state == "suspended")
    await started.conductor.actions.perform(PIPELINE, "demo", "default", "resume", None)
    await started.until_running()


async def test_a_worker_that_dies_is_replaced_with_growing_waits(site: Site, autojump_clock: MockClock) -> None:
    """A crash loop is slowed down, told with its cause, and does not stop the other stages."""
    site.spawner.ready = False
    async with site.running():
        await site.apply(FILTER, ROUTE)
        for number in range(1, 7):
            filters = await eventually(lambda: site.spawner.running("filter"))
            for process in site.spawner.running("route"):
                process.report()
            filters[0].exit(1, b"Traceback\nValueError: boom\n")
            await site.until(lambda s, n=number: s.stages[0].restarts == n)  # type: ignore[misc]
        status = await site.status()
        assert (status.state, status.reason) == ("degraded", "WorkerFailed")
        assert status.message == "stage filter: exit code 1: ValueError: boom"
        assert status.stages[1].workers_ready == 1
        starts = [t for t, p in zip(site.spawner.times, site.spawner.processes, strict=True) if p.stage == "filter"]
        waits = [b - a for a, b in itertools.pairwise(starts)]
        assert waits == pytest.approx([0.2, 0.4, 0.8, 1.6, 3.2], abs=0.3)
        site.spawner.ready = True
        await site.until_running()


async def test_a_system_that_cannot_start_processes_is_told(site: Site, autojump_clock: MockClock) -> None:
    """It is a failure like a crash: told, and tried again."""
    site.spawner.refusal = OSError(11, "Resource temporarily unavailable")
    async with site.running():
        await site.apply()
        status = await site.until(lambda s: s.state == "degraded")
        assert "cannot be started: Resource temporarily unavailable" in status.message
        site.spawner.refusal = None
        await site.until_running()


async def test_the_limit_of_processes_holds(site: Site, autojump_clock: MockClock) -> None:
    """With fewer places than workers each stage gets one first, and the status says what the limit is."""
    site.settings = PipelineSettings(max_workers=4)
    async with site.running():
        await site.apply(msgspec.structs.replace(FILTER, workers=9), ANNOTATE, ROUTE)
        status = await site.until(lambda s: s.reason == "MaxWorkers")
        assert "pipelines.max_workers is 4" in status.message
        assert [r.workers_ready for r in status.stages] == [2, 1, 1]
        assert len(site.spawner.processes) == 4


async def test_counts_are_sums_over_workers_and_restarts(started: Site, autojump_clock: MockClock) -> None:
    """Reports are totals of one process; the stage's counts go on when a process is replaced."""
    (first,) = started.spawner.running("filter")
    first.report(received=10, accepted=7, rejected=3)
    first.report(received=15, accepted=10, rejected=5, busy_seconds=0.5)
    await started.until(lambda s: s.stages[0].received == 15)
    first.exit(-9)
    await started.until(lambda s: s.stages[0].restarts == 1)
    await started.until_running()
    (second,) = started.spawner.running("filter")
    second.report(received=4, accepted=4)
    status = await started.until(lambda s: s.stages[0].received == 19)
    row = status.stages[0]
    assert (row.accepted, row.rejected, row.busy_seconds) == (14, 5, 0.5)


async def test_counts_survive_the_daemon(site: Site, autojump_clock: MockClock) -> None:
    """A new controller goes on from what the status says."""
    async with site.running():
        await site.apply()
        await site.until_running()
        site.spawner.running("filter")[0].report(received=10, rejected=10)
        await site.until(lambda s: s.stages[0].received == 10)
    assert not any(p.running for p in site.spawner.processes)
    async with site.running():
        await site.until(lambda s: bool(site.spawner.running("filter")))
        site.spawner.running("filter")[0].report(received=5, accepted=5)
        status = await site.until(lambda s: s.stages[0].received == 15)
        assert status.stages[0].rejected == 10


async def test_rates_and_lags_are_told(started: Site, autojump_clock: MockClock) -> None:
    """Packets per second over the last interval, and what waits for each stage."""
    started.streams.backlogs["alerts", "pipeline-demo"] = 40
    started.streams.backlogs["pipeline-demo", "route"] = 5
    started.spawner.running("filter")[0].report(received=100)
    status = await started.until(lambda s: s.stages[0].packets_per_second > 0)
    assert status.stages[0].packets_per_second == pytest.approx(100, rel=0.2)
    assert [r.lag for r in status.stages] == [40, 0, 5]
    await started.until(lambda s: s.stages[0].packets_per_second == 0)


async def test_an_idle_pipeline_writes_nothing(started: Site, autojump_clock: MockClock) -> None:
    """Without changes the status is not written again: no revision, no event for watchers."""
    await trio.sleep(5)
    before = (await started.resource()).revision
    await trio.sleep(60)
    assert (await started.resource()).revision == before


async def test_trouble_is_told_and_passes(started: Site, autojump_clock: MockClock) -> None:
    """A worker that lives and cannot publish degrades the pipeline until it can."""
    (process,) = started.spawner.running("route")
    process.report(trouble="stream/out: the disk is full")
    status = await started.until(lambda s: s.reason == "CannotPublish")
    assert status.message == "stage route: stream/out: the disk is full"
    process.report()
    await started.until(lambda s: s.state == "running")


async def test_a_record_that_kills_workers_is_condemned(started: Site, autojump_clock: MockClock) -> None:
    """After so many deaths with the record announced, new and living workers are told not to process it."""
    await started.apply(TWO, ANNOTATE, ROUTE)
    await started.until(lambda s: s.stages[0].workers_ready == 2)
    survivor = started.spawner.running("filter")[0]
    for number in range(1, MAX_KILLS + 1):
        (victim,) = await eventually(lambda: [p for p in started.spawner.running("filter") if p is not survivor])
        assert victim.config.condemned == {}
        assert victim.config.suspects == (("alerts:8",) if number > 1 else ())
        victim.report(trying="alerts:7")
        victim.report(trying="alerts:8")  # 7 was survived; 8 is being tried
        await trio.sleep(0.01)
        victim.exit(-11)
        await started.until(lambda s, n=number: s.stages[0].restarts == n)  # type: ignore[misc]
    verdict = {"alerts:8": f"killed the worker {MAX_KILLS} times, at last by SIGSEGV"}
    assert msgspec.json.decode(survivor.lines[1]) == {"condemned": verdict}
    await started.until(lambda s: s.stages[0].workers_ready == 2)
    (new,) = [p for p in started.spawner.running("filter") if p is not survivor]
    assert new.config.condemned == verdict


async def test_a_death_with_nothing_announced_blames_nothing(started: Site, autojump_clock: MockClock) -> None:
    """An operator's kill -9 of an idle worker, however often, condemns no record."""
    for number in range(1, MAX_KILLS + 3):
        process = started.spawner.running("filter")[0]
        process.report(trying="alerts:1")
        process.report(received=1, accepted=1)
        await trio.sleep(0.01)
        process.exit(-9)
        await started.until(lambda s, n=number: s.stages[0].restarts == n and s.stages[0].workers_ready == 1)  # type: ignore[misc]
    assert started.spawner.running("filter")[0].config.condemned == {}


async def there(site: Site) -> bool:
    try:
        await site.resource()
    except NotFound:
        return False
    return True


async def delete(site: Site) -> None:
    await site.conductor.delete(PIPELINE, "demo")
    with trio.fail_after(30):
        while True:
            if not await there(site):
                return
            await trio.sleep(0.05)


async def test_deleting_leaves_nothing(started: Site, autojump_clock: MockClock) -> None:
    """Workers first, then cursors and stream, then the resource; the user's streams stay."""
    await delete(started)
    assert not any(p.running for p in started.spawner.processes)
    assert started.streams.cursors == {}
    assert set(started.streams.configs) == {"alerts", "out"}


async def test_a_new_pipeline_of_an_old_name_starts_from_zero(started: Site, autojump_clock: MockClock) -> None:
    """Counts belong to the object, not to its name."""
    started.spawner.running("filter")[0].report(received=10)
    await started.until(lambda s: s.stages[0].received == 10)
    await delete(started)
    await started.apply()
    status = await started.until_running()
    assert status.stages[0].received == 0


async def test_a_worker_that_does_not_stop_is_killed(site: Site, autojump_clock: MockClock) -> None:
    """Stopping has a deadline."""
    site.spawner.obedient = False
    async with site.running():
        await site.apply()
        await site.until_running()
        before = trio.current_time()
        await site.apply(suspend=True)
        await site.until(lambda s: not any(p.running for p in site.spawner.processes))
        assert all(p.killed for p in site.spawner.processes)
        assert STOP_DEADLINE <= trio.current_time() - before < STOP_DEADLINE + 2


@pytest.mark.parametrize("noise", [b"not json\n", b"x" * (MAX_LINE + 1)])
async def test_a_worker_that_writes_noise_is_killed(started: Site, autojump_clock: MockClock, noise: bytes) -> None:
    """What does not speak the protocol is replaced; memory is bounded."""
    process = started.spawner.running("filter")[0]
    process.write(noise)
    await started.until(lambda s: s.stages[0].restarts == 1)
    assert process.killed
    await started.until_running()


async def test_stopping_the_daemon_stops_the_workers(site: Site, autojump_clock: MockClock) -> None:
    """Cancelling the controller ends every process in order, within a deadline."""
    async with site.running():
        await site.apply()
        await site.until_running()
    assert all(p.input_closed and not p.running and not p.killed for p in site.spawner.processes)


# -- changing chains ---------------------------------------------------------------------------------------


def inputs(process: FakeProcess) -> list[str]:
    return [i.consumer for i in process.config.inputs]


async def test_a_stage_that_is_taken_out_is_drained(started: Site, autojump_clock: MockClock) -> None:
    """Its backlog goes to the next stage, it is listed until that is done, then its cursor goes."""
    started.streams.backlogs["pipeline-demo", "annotate"] = 3
    route_all = msgspec.structs.replace(ROUTE, routes=ROUTE.routes[1:])
    await started.apply(FILTER, route_all)
    status = await started.until(lambda s: s.observed_generation == 2 and s.stages[-1].workers_ready == 1)
    assert [(r.name, r.lag, r.workers_desired) for r in status.stages] == [
        ("filter", 0, 1),
        ("annotate", 3, 0),
        ("route", 0, 1),
    ]
    await eventually(lambda: inputs(started.spawner.running("route")[-1]) == ["route", "annotate"])
    await trio.sleep(5)
    assert ("pipeline-demo", "annotate") in started.streams.cursors
    started.streams.backlogs.clear()
    await started.until(lambda s: [r.name for r in s.stages] == ["filter", "route"])
    await eventually(lambda: ("pipeline-demo", "annotate") not in started.streams.cursors)
    await started.until(lambda s: len(started.spawner.running("route")) == 1)
    assert inputs(started.spawner.running("route")[0]) == ["route"]


async def test_a_cursor_stays_while_an_old_worker_may_publish_for_it(started: Site, autojump_clock: MockClock) -> None:
    """An old worker of the stage before may still have packets for the stage that is gone."""
    started.spawner.obedient = False
    started.spawner.ready = False
    await started.apply(FILTER, msgspec.structs.replace(ROUTE, routes=ROUTE.routes[1:]))
    await started.until(lambda s: s.observed_generation == 2)
    await trio.sleep(3)
    assert ("pipeline-demo", "annotate") in started.streams.cursors


async def test_a_stage_that_comes_back_does_not_repeat_its_past(started: Site, autojump_clock: MockClock) -> None:
    """A new cursor on the pipeline's own stream begins at its end: all before was processed under the old one."""
    started.streams.last["pipeline-demo"] = 500
    later = FilterStage(name="later", expression="candidate.magpsf < 19.0")
    await started.apply(FILTER, later, ANNOTATE, ROUTE)
    await started.until(lambda s: len(s.stages) == 4 and s.stages[1].workers_ready == 1)
    config = started.streams.cursors["pipeline-demo", "later"]
    assert (config.deliver_policy, config.start_sequence) == ("by_sequence", 501)
    assert started.streams.cursors["alerts", "pipeline-demo"].deliver_policy == "all"


async def test_another_source_moves_the_cursor(started: Site, autojump_clock: MockClock) -> None:
    """A cursor's filter cannot change, and a cursor on a stream that is no longer the source goes."""
    await started.apply(source="alerts.lsst")
    await started.until(lambda s: s.observed_generation == 2)
    assert started.streams.cursors["alerts", "pipeline-demo"].filter_subject == "alerts.lsst"
    await started.streams.put_stream(
        "other", msgspec.structs.replace(started.streams.configs["out"], subjects=("other.>",))
    )
    await started.apply(source="other.packets")
    await started.until(lambda s: s.observed_generation == 3)
    assert ("alerts", "pipeline-demo") not in started.streams.cursors
    assert started.streams.cursors["other", "pipeline-demo"].filter_subject == "other.packets"


async def test_limits_of_a_cursor_follow_the_spec(started: Site, autojump_clock: MockClock) -> None:
    """A changed ack_wait reaches the cursor, whose place stays."""
    await started.apply(ack_wait="5s")
    await started.until(lambda s: s.observed_generation == 2)
    assert started.streams.cursors["pipeline-demo", "route"].ack_wait == 5.0
    assert started.streams.cursors["pipeline-demo", "route"].start_sequence == 1
