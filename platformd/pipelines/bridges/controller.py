"""The controller of Bridges: keeps one process for each, and its status.

Level-triggered, from ``run_controller``; a bridge is looked at as soon as its worker has ended, too. What must survive
is elsewhere: a source's offsets in Kafka, a sink's cursor in its stream, counts in the status.
"""

from __future__ import annotations

import itertools
import logging
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Never

import msgspec
import trio

from platformd.conductor.conductor import Conductor
from platformd.conductor.facts import Change
from platformd.conductor.reconcile import Key, run_controller
from platformd.core.errors import NotFound, PlatformError
from platformd.core.quantities import seconds
from platformd.core.settings import PipelineSettings
from platformd.model.bridge import BRIDGE, BridgeStatus
from platformd.model.kind import NoParameters
from platformd.model.resource import AnyResource
from platformd.model.schema import SCHEMA
from platformd.pipelines.bridges.plan import (
    BridgeConfig,
    BridgePlan,
    BridgeReport,
    cursor_name,
    make_plan,
)
from platformd.pipelines.bridges.rules import Condition, added, status_of
from platformd.pipelines.plan import NotCaptured, WantedConsumer
from platformd.pipelines.rules import Failures
from platformd.pipelines.supervision import ProcessSpawner, Spawner
from platformd.pipelines.supervision import Worker as AnyWorker
from platformd.queues.contract import ConsumerInfo, Streams
from platformd.queues.encodings.forms import schema_text

log = logging.getLogger(__name__)

Worker = AnyWorker[BridgeConfig, BridgeReport]

FINALIZER = "bridges"
"""What this controller takes off when a bridge's worker and cursor are gone."""
MODULE = "platformd.pipelines.bridges.worker"
SOON = 0.1
"""Seconds until a bridge is looked at again whose worker is starting or stopping."""
RATE_SPAN = 1.0
"""Rates are measured over at least this many seconds."""


async def run(
    conductor: Conductor,
    streams: Streams,
    settings: PipelineSettings,
    files: Path,
    *,
    spawner: Spawner | None = None,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> Never:
    """Keep bridges as they should be. Started when all are known. Cancelling stops all workers.

    Args:
        conductor: where Bridges are.
        streams: where their records are.
        settings: limits and delays.
        files: the folder of passwords, keys and schemas.
        spawner: makes worker processes.
        task_status: told when all are known.
    """
    conductor.actions.register(BRIDGE, "pause", partial(_pause, conductor, True))
    conductor.actions.register(BRIDGE, "resume", partial(_pause, conductor, False))
    async with trio.open_nursery() as nursery:
        controller = _Controller(conductor, streams, settings, files, spawner or ProcessSpawner(MODULE), nursery)
        related = {SCHEMA.name: controller.users_of}
        await nursery.start(partial(run_controller, conductor, BRIDGE, controller.reconcile, related=related))
        task_status.started()
    raise AssertionError("unreachable")


async def _pause(conductor: Conductor, paused: bool, bridge: AnyResource, _: NoParameters) -> None:
    """The actions pause and resume."""
    await conductor.patch(BRIDGE, bridge.name, bridge.tenant, {"spec": {"paused": paused}})


@dataclass(eq=False)
class _Running:
    """What the daemon knows of a bridge beside its resource."""

    uid: str
    status: BridgeStatus
    """Its counts, of the present and of earlier daemons."""
    worker: Worker | None = None
    failures: Failures = field(default_factory=Failures)
    measured: tuple[float, int, int] = (float("-inf"), 0, 0)
    """When rates were measured last, and the records and bytes that were out then."""
    written: float = float("-inf")
    """When the counts were last written to the status."""
    register: str = ""
    """The Schema that it refers to."""
    lock: trio.Lock = field(default_factory=trio.Lock)


class _Controller:
    def __init__(
        self,
        conductor: Conductor,
        streams: Streams,
        settings: PipelineSettings,
        files: Path,
        spawner: Spawner,
        nursery: trio.Nursery,
    ) -> None:
        self._conductor = conductor
        self._streams = streams
        self._files = files
        self._spawner = spawner
        self._nursery = nursery  # owned by ``run``, in which this object lives
        self._max_bridges = settings.max_bridges
        self._delay = seconds(settings.restart_delay)
        self._delay_max = seconds(settings.restart_delay_max)
        self._interval = seconds(settings.status_interval)
        self._running: dict[tuple[str, str], _Running] = {}
        self._ids = itertools.count(1)

    def users_of(self, change: Change) -> list[Key]:
        """The bridges that refer to a Schema."""
        schema = change.resource
        return [
            Key(BRIDGE.name, tenant, name)
            for (tenant, name), running in self._running.items()
            if tenant == schema.tenant and running.register == schema.name
        ]

    async def reconcile(self, resource: AnyResource) -> float | None:
        """Bring one bridge nearer to what it should be; seconds until the next look."""
        running = self._running_of(resource)
        async with running.lock:
            if resource.deleting_at is not None:
                return await self._delete(resource, running)
            running.register = resource.spec.format.register
            plan, problem = None, None
            try:
                plan = await self._prepare(resource)
            except NotCaptured as error:
                problem = ("SubjectNotCaptured", f"{error}; create a stream that does")
            except NotFound as error:
                problem = ("NotFound", str(error).replace("\n", "; "))
            except PlatformError as error:
                problem = ("QueuesRefused", str(error))
            self._drive(resource, running, None if plan is None or resource.spec.paused else plan.config)
            await self._report(resource, running, problem)
            return self._next_look(running)

    def _running_of(self, resource: AnyResource) -> _Running:
        key = (resource.tenant, resource.name)
        running = self._running.get(key)
        if running is None or running.uid != resource.uid:
            left = running.worker if running is not None else None
            running = self._running[key] = _Running(uid=resource.uid, status=resource.status, worker=left)
        return running

    def _next_look(self, running: _Running) -> float:
        if running.worker is not None:
            return self._interval if running.worker.state == "ready" and running.worker.report.ready else SOON
        wait = running.failures.not_before(self._delay, self._delay_max) - trio.current_time()
        return max(SOON, wait) if wait > 0 else self._interval

    # -- queues ------------------------------------------------------------------------------------------

    async def _prepare(self, resource: AnyResource) -> BridgePlan:
        """The plan, when the cursor that it needs is there."""
        schemas = await self._schemas(resource)
        streams, addresses = self._streams.streams(), self._streams.addresses
        plan = make_plan(resource, streams, addresses, schemas=schemas, files=str(self._files))
        wanted = plan.consumer
        name = cursor_name(resource)
        for stream in streams:
            if (wanted is None or stream.name != wanted.stream) and name in self._cursors(stream.name):
                await self._streams.delete_consumer(stream.name, name)
        if wanted is not None:
            await self._ensure(wanted)
        return plan

    async def _schemas(self, resource: AnyResource) -> dict[int, str]:
        name = resource.spec.format.register
        if not name:
            return {}
        schema = await self._conductor.get(SCHEMA, name, resource.tenant)
        return {v.version: schema_text(v.schema) for v in schema.spec.versions}

    def _cursors(self, stream: str) -> dict[str, ConsumerInfo]:
        try:
            return {c.name: c for c in self._streams.consumers(stream)}
        except NotFound:
            return {}

    async def _ensure(self, wanted: WantedConsumer) -> None:
        found = self._cursors(wanted.stream).get(wanted.name)
        config = wanted.config
        if found is not None and found.config.filter_subject != config.filter_subject:
            await self._streams.delete_consumer(wanted.stream, wanted.name)
        elif found is not None:
            # Where it begins is of no concern any more, and cannot change.
            config = msgspec.structs.replace(
                config, deliver_policy=found.config.deliver_policy, start_time_ns=found.config.start_time_ns
            )
            if config == found.config:
                return
        await self._streams.put_consumer(wanted.stream, wanted.name, config)

    async def _delete(self, resource: AnyResource, running: _Running) -> float | None:
        if running.worker is not None:
            if running.worker.state != "stopping":
                running.worker.stop()
            return SOON
        name = cursor_name(resource)
        for stream in self._streams.streams():
            if name in self._cursors(stream.name):
                await self._streams.delete_consumer(stream.name, name)
        await self._conductor.finalize(resource, FINALIZER)
        self._running.pop((resource.tenant, resource.name), None)
        return None

    # -- the worker --------------------------------------------------------------------------------------

    def _drive(self, resource: AnyResource, running: _Running, config: BridgeConfig | None) -> None:
        """Start the worker, or stop the one that should not be; never two at a time, since a group would share the
        topic between them.
        """
        worker = running.worker
        if worker is not None:
            same = config is not None and worker.config.fingerprint == config.fingerprint
            if not same and worker.state != "stopping":
                worker.stop()
            return
        waits = running.failures.not_before(self._delay, self._delay_max) > trio.current_time()
        if config is None or waits or self._free() <= 0:
            return
        worker = running.worker = Worker(next(self._ids), config, BridgeReport(), partial(self._reported, running))
        self._nursery.start_soon(self._follow, resource.tenant, resource.name, running, worker)

    def _free(self) -> int:
        return self._max_bridges - sum(r.worker is not None for r in self._running.values())

    async def _follow(self, tenant: str, name: str, running: _Running, worker: Worker) -> None:
        died_of = await worker.run(self._spawner)
        current = self._running.get((tenant, name), running)
        for each in (running, current):  # a bridge that was made anew has taken over the worker of the old one
            if each.worker is worker:
                each.worker = None
        if died_of:
            log.warning("bridge/%s: worker %d: %s", name, worker.pid, died_of)
            running.failures = running.failures.another(trio.current_time(), died_of)
            running.status = msgspec.structs.replace(running.status, restarts=running.status.restarts + 1)
        try:
            await self.reconcile(await self._conductor.get(BRIDGE, name, tenant))
        except PlatformError as error:
            log.debug("bridge/%s: the next look will tell: %s", name, error)

    def _reported(self, running: _Running, worker: Worker, new: BridgeReport, old: BridgeReport) -> None:
        status = added(running.status, new.counts, old.counts)
        running.status = msgspec.structs.replace(status, last_error=new.last_error or status.last_error)

    # -- status ------------------------------------------------------------------------------------------

    async def _report(self, resource: AnyResource, running: _Running, problem: tuple[str, str] | None) -> None:
        now = trio.current_time()
        worker = running.worker
        failures = running.failures
        condition = Condition(
            problem=problem,
            failure=failures.message if failures.recent(now) else "",
            working=worker is not None and worker.state == "ready",
            no_room=worker is None and self._free() <= 0,
            max_workers=self._max_bridges,
        )
        running.status = self._with_rates(running, now)
        report = worker.report if worker is not None else BridgeReport()
        status = status_of(resource, running.status, report, condition)
        if now - running.written >= self._interval:
            running.written = now
        elif _outline(status) == _outline(resource.status):
            return
        await self._conductor.set_status(resource, status)

    def _with_rates(self, running: _Running, now: float) -> BridgeStatus:
        status = running.status
        since, records, size = running.measured
        span = now - since  # endless before the first measurement, which makes the first rate 0
        if span < RATE_SPAN:
            return status
        running.measured = now, status.records_out, status.bytes
        return msgspec.structs.replace(
            status,
            records_per_second=round((status.records_out - records) / span, 1),
            bytes_per_second=round((status.bytes - size) / span, 1),
        )


def _outline(status: BridgeStatus) -> tuple[object, ...]:
    """What of a status is written at once when it changes; counts wait for the interval."""
    return status.state, status.reason, status.message, status.observed_generation, status.restarts
