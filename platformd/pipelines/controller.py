"""The controller of Pipelines: observes streams and worker processes, asks the rules, and acts.

Level-triggered, from ``run_controller``; besides, a pipeline is looked at as soon as one of its workers has
ended. What must survive the daemon is in the resource's status (counts, the order of the stages) and in the
streams (cursors, packets); worker processes end with the daemon and are started anew.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Never

import msgspec
import trio

from platformd.conductor.conductor import Conductor
from platformd.conductor.reconcile import run_controller
from platformd.core.errors import NotFound, PlatformError
from platformd.core.quantities import seconds
from platformd.core.settings import PipelineSettings
from platformd.model.kind import NoParameters
from platformd.model.pipeline import PIPELINE, PipelineStatus, StageStatus
from platformd.model.resource import AnyResource
from platformd.pipelines.plan import (
    NotCaptured,
    Plan,
    StagePlan,
    Surroundings,
    WantedConsumer,
    WorkerConfig,
    leftovers,
    make_plan,
    own_stream,
    source_consumer,
)
from platformd.pipelines.rules import (
    MAX_KILLS,
    Condition,
    Failures,
    Report,
    Start,
    added,
    scale,
    status_of,
)
from platformd.pipelines.supervision import ProcessSpawner, Spawner
from platformd.pipelines.supervision import Worker as AnyWorker
from platformd.queues.contract import ConsumerConfig, ConsumerInfo, Streams

log = logging.getLogger(__name__)

Worker = AnyWorker[WorkerConfig, Report]

FINALIZER = "pipelines"
"""What this controller takes off when a pipeline's workers, cursors and stream are gone."""
SOON = 0.1
"""Seconds until a pipeline is looked at again whose workers are starting or stopping."""
RATE_SPAN = 1.0
"""Rates are measured over at least this many seconds: workers report five times a second at most."""
MAX_SUSPECTS = 1024
"""Records of a pipeline that are remembered for having killed a worker; the oldest are forgotten first."""


async def run(
    conductor: Conductor,
    streams: Streams,
    settings: PipelineSettings,
    *,
    spawner: Spawner | None = None,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> Never:
    """Keep pipelines as they should be. Started when all are known. Cancelling stops all workers."""
    conductor.actions.register(PIPELINE, "pause", partial(_suspend, conductor, True))
    conductor.actions.register(PIPELINE, "resume", partial(_suspend, conductor, False))
    async with trio.open_nursery() as nursery:
        controller = _Controller(
            conductor, streams, settings, spawner or ProcessSpawner("platformd.pipelines.worker"), nursery
        )
        await nursery.start(partial(run_controller, conductor, PIPELINE, controller.reconcile))
        task_status.started()
    raise AssertionError("unreachable")


async def _suspend(conductor: Conductor, suspend: bool, pipeline: AnyResource, _: NoParameters) -> None:
    """The actions ``pause`` and ``resume``."""
    await conductor.patch(PIPELINE, pipeline.name, pipeline.tenant, {"spec": {"suspend": suspend}})


@dataclass(eq=False)
class _Running:
    """What the daemon knows of a pipeline beside its resource."""

    uid: str
    stages: dict[str, StageStatus]
    """Counts by stage, of the present and of earlier daemons."""
    workers: dict[int, Worker] = field(default_factory=dict)
    failures: dict[str, Failures] = field(default_factory=dict)
    kills: dict[str, int] = field(default_factory=dict)
    """How many workers a record has taken with it."""
    condemned: dict[str, str] = field(default_factory=dict)
    measured: tuple[float, dict[str, int]] = (float("-inf"), {})
    """When rates were measured last, and how many packets each stage had received then."""
    written: float = float("-inf")
    """When the counts were last written to the status."""
    lock: trio.Lock = field(default_factory=trio.Lock)


class _Controller:
    def __init__(
        self,
        conductor: Conductor,
        streams: Streams,
        settings: PipelineSettings,
        spawner: Spawner,
        nursery: trio.Nursery,
    ) -> None:
        self._conductor = conductor
        self._streams = streams
        self._spawner = spawner
        self._nursery = nursery  # owned by ``run``, in which this object lives
        self._max_workers = settings.max_workers
        self._delay = seconds(settings.restart_delay)
        self._delay_max = seconds(settings.restart_delay_max)
        self._interval = seconds(settings.status_interval)
        self._running: dict[tuple[str, str], _Running] = {}
        self._ids = itertools.count(1)

    async def reconcile(self, resource: AnyResource) -> float | None:
        """Bring one pipeline nearer to what it should be; seconds until the next look."""
        running = self._running_of(resource)
        async with running.lock:
            if resource.deleting_at is not None:
                return await self._delete(resource, running)
            plan, problem = None, None
            try:
                plan = await self._prepare(resource, running)
            except NotCaptured as error:
                problem = ("SubjectNotCaptured", f"{error}; create a stream that does")
            except PlatformError as error:
                problem = ("QueuesRefused", str(error))
            stages = plan.stages if plan is not None and not resource.spec.suspend else ()
            self._scale(resource, running, stages)
            await self._report(resource, running, stages, problem)
            return self._next_look(running)

    def _next_look(self, running: _Running) -> float:
        """Soon while workers start or stop; when the next one may be started; else for the counts."""
        if any(w.state != "ready" for w in running.workers.values()):
            return SOON
        now = trio.current_time()
        waits = [f.not_before(self._delay, self._delay_max) - now for f in running.failures.values()]
        return max(SOON, min((w for w in waits if w > 0), default=self._interval))

    def _running_of(self, resource: AnyResource) -> _Running:
        key = (resource.tenant, resource.name)
        running = self._running.get(key)
        if running is None or running.uid != resource.uid:
            left = running.workers if running is not None else {}
            running = _Running(uid=resource.uid, stages={s.name: s for s in resource.status.stages}, workers=left)
            self._running[key] = running
        return running

    # -- queues ------------------------------------------------------------------------------------------

    async def _prepare(self, resource: AnyResource, running: _Running) -> Plan:
        """The plan, when the stream and the cursors that it needs are there."""
        around = Surroundings(
            streams=self._streams.streams(),
            backlogs=self._cursors(own_stream(resource)),
            addresses=self._streams.addresses,
            order=tuple(s.name for s in resource.status.stages),
        )
        plan = make_plan(resource, around)
        existing = next((s for s in around.streams if s.name == plan.stream), None)
        if existing is None or existing.config != plan.stream_config:
            await self._streams.put_stream(plan.stream, plan.stream_config)
        for wanted in plan.consumers:
            await self._ensure(wanted, plan.stream)
        source = plan.consumers[0]
        for stream in around.streams:
            if stream.name != source.stream and source.name in self._cursors(stream.name):
                await self._streams.delete_consumer(stream.name, source.name)
        # A worker that was started before the chain changed may still publish for a stage that is gone.
        fingerprints = {s.config.fingerprint for s in plan.stages}
        if all(w.config.fingerprint in fingerprints for w in running.workers.values()):
            read = {i.consumer for s in plan.stages for i in s.config.inputs}
            for name in around.backlogs.keys() - read:
                await self._streams.delete_consumer(plan.stream, name)
        return plan

    def _cursors(self, stream: str) -> dict[str, ConsumerInfo]:
        try:
            return {c.name: c for c in self._streams.consumers(stream)}
        except NotFound:
            return {}

    async def _ensure(self, wanted: WantedConsumer, own: str) -> None:
        found = self._cursors(wanted.stream).get(wanted.name)
        if found is not None and found.config.filter_subject != wanted.config.filter_subject:
            await self._streams.delete_consumer(wanted.stream, wanted.name)
            found = None
        if found is not None:
            config = _from_where_it_was(wanted.config, found.config)
            if config != found.config:
                await self._streams.put_consumer(wanted.stream, wanted.name, config)
            return
        config = wanted.config
        if wanted.stream == own:
            # Whatever is on the subject of a stage that had no cursor was processed when it had one.
            last = self._streams.stream(own).last_sequence
            config = msgspec.structs.replace(config, deliver_policy="by_sequence", start_sequence=last + 1)
        await self._streams.put_consumer(wanted.stream, wanted.name, config)

    async def _delete(self, resource: AnyResource, running: _Running) -> float | None:
        for worker in running.workers.values():
            if worker.state != "stopping":
                worker.stop()
        if running.workers:
            return SOON
        name = source_consumer(resource)
        for stream in self._streams.streams():
            if name in self._cursors(stream.name):
                await self._streams.delete_consumer(stream.name, name)
        with contextlib.suppress(NotFound):
            await self._streams.delete_stream(own_stream(resource))
        await self._conductor.finalize(resource, FINALIZER)
        self._running.pop((resource.tenant, resource.name), None)
        return None

    # -- workers -----------------------------------------------------------------------------------------

    def _scale(self, resource: AnyResource, running: _Running, stages: tuple[StagePlan, ...]) -> None:
        actions = scale(
            stages,
            [w.fact for w in running.workers.values()],
            free=self._free(),
            now=trio.current_time(),
            not_before={n: f.not_before(self._delay, self._delay_max) for n, f in running.failures.items()},
        )
        plans = {s.name: s for s in stages}
        for action in actions:
            if isinstance(action, Start):
                config = msgspec.structs.replace(
                    plans[action.stage].config, condemned=running.condemned, suspects=tuple(running.kills)
                )
                worker = Worker(next(self._ids), config, Report(), partial(self._reported, running))
                running.workers[worker.id] = worker
                self._nursery.start_soon(self._follow, resource.tenant, resource.name, running, worker)
            else:
                running.workers[action.worker].stop()

    def _free(self) -> int:
        return self._max_workers - sum(len(r.workers) for r in self._running.values())

    async def _follow(self, tenant: str, name: str, running: _Running, worker: Worker) -> None:
        died_of = await worker.run(self._spawner)
        del running.workers[worker.id]
        if died_of:
            log.warning("pipeline/%s stage %s: worker %d: %s", name, worker.stage, worker.pid, died_of)
            failures = running.failures.get(worker.stage, Failures())
            running.failures[worker.stage] = failures.another(trio.current_time(), died_of)
            stage = running.stages.get(worker.stage)
            if stage is not None:
                running.stages[worker.stage] = msgspec.structs.replace(stage, restarts=stage.restarts + 1)
            if worker.report.trying:
                await _blame(running, worker, died_of)
        try:
            resource = await self._conductor.get(PIPELINE, name, tenant)
            if died_of:
                told = f"a worker of stage {worker.stage} ended: {died_of}"
                self._conductor.events.tell(resource, "WorkerEnded", told, warning=True)
            await self.reconcile(resource)
        except PlatformError as error:
            log.debug("pipeline/%s: the next look will tell: %s", name, error)

    def _reported(self, running: _Running, worker: Worker, new: Report, old: Report) -> None:
        stage = running.stages.get(worker.stage)
        if stage is not None:
            running.stages[worker.stage] = added(stage, new.counts, old.counts)

    # -- status ------------------------------------------------------------------------------------------

    async def _report(
        self,
        resource: AnyResource,
        running: _Running,
        stages: tuple[StagePlan, ...],
        problem: tuple[str, str] | None,
    ) -> None:
        now = trio.current_time()
        workers = running.workers.values()
        rows = self._rows(resource, running, {s.name: s.workers for s in stages}, now)
        condition = Condition(
            problem=problem,
            failures={name: f.message for name, f in running.failures.items() if f.recent(now)},
            troubles={w.stage: w.report.trouble for w in workers if w.report.trouble},
            no_room=self._free() <= 0,
            max_workers=self._max_workers,
        )
        status = status_of(resource, rows, condition)
        if now - running.measured[0] >= RATE_SPAN:
            running.measured = now, {row.name: row.received for row in rows}
        if now - running.written >= self._interval:
            running.written = now
        elif _outline(status) == _outline(resource.status):
            return
        await self._conductor.set_status(resource, status)

    def _rows(
        self, resource: AnyResource, running: _Running, desired: Mapping[str, int], now: float
    ) -> tuple[StageStatus, ...]:
        """The stages as they are now: in order, those that were taken out before the one that follows them."""
        spec = resource.spec
        own, source = own_stream(resource), source_consumer(resource)
        backlogs = self._cursors(own)
        order = tuple(s.name for s in resource.status.stages)
        extra = leftovers(spec, Surroundings(streams=(), backlogs=backlogs, addresses={}, order=order))
        first = next((c[source] for s in self._streams.streams() if source in (c := self._cursors(s.name))), None)
        rows: dict[str, StageStatus] = {}
        for i, stage in enumerate(spec.stages):
            for name in extra.get(stage.name, ()):
                if name != stage.name:
                    rows[name] = self._row(running, name, "removed", (backlogs[name],), 0, now)
            cursors = [backlogs.get(stage.name)] + ([first] if i == 0 else [])
            kind = str(type(stage).__struct_config__.tag)
            infos = tuple(c for c in cursors if c is not None)
            rows[stage.name] = self._row(running, stage.name, kind, infos, desired.get(stage.name, 0), now)
        running.stages = rows
        return tuple(rows.values())

    def _row(
        self, running: _Running, name: str, kind: str, cursors: tuple[ConsumerInfo, ...], desired: int, now: float
    ) -> StageStatus:
        before = running.stages.get(name) or StageStatus(name=name, type=kind)
        since, received = running.measured
        rate = before.packets_per_second
        span = now - since  # endless before the first measurement, which makes the first rate 0
        if span >= RATE_SPAN:
            rate = round((before.received - received.get(name, before.received)) / span, 1)
        return msgspec.structs.replace(
            before,
            type=kind if kind != "removed" else before.type,
            workers_ready=sum(w.stage == name and w.state == "ready" for w in running.workers.values()),
            workers_desired=desired,
            lag=sum(c.pending for c in cursors),
            in_flight=sum(c.ack_pending for c in cursors),
            packets_per_second=rate,
            busy_seconds=round(before.busy_seconds, 6),
        )


def _from_where_it_was(wanted: ConsumerConfig, found: ConsumerConfig) -> ConsumerConfig:
    """What is wanted of a cursor that is there: its start cannot change any more."""
    return msgspec.structs.replace(wanted, deliver_policy=found.deliver_policy, start_sequence=found.start_sequence)


async def _blame(running: _Running, worker: Worker, died_of: str) -> None:
    """Count a worker's death against the record that it was trying, and condemn that if it was the last straw."""
    record = worker.report.trying
    kills = running.kills.pop(record, 0) + 1
    running.kills[record] = kills
    if len(running.kills) > MAX_SUSPECTS:
        running.kills.pop(next(iter(running.kills)))
    if kills < MAX_KILLS:
        return
    verdict = {record: f"killed the worker {kills} times, at last by {died_of}"}
    log.error("record %s of stage %s %s: it becomes a dead letter", record, worker.stage, verdict[record])
    running.condemned = dict(list(running.condemned.items())[1 - MAX_SUSPECTS :]) | verdict
    for other in list(running.workers.values()):
        if other.stage == worker.stage:
            await other.condemn(verdict)


def _outline(status: PipelineStatus) -> tuple[object, ...]:
    """What of a status is written at once when it changes; counts wait for the interval."""
    workers = tuple((s.name, s.workers_ready, s.workers_desired, s.restarts) for s in status.stages)
    return status.state, status.reason, status.message, status.observed_generation, workers
