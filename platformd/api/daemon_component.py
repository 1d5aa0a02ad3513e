"""platformd as a component: its jobs are pipelines, which run until they are stopped.

A job is a pipeline resource, its id the resource's uid: whoever makes one here finds it under ``/v1/pipelines``, and
the other way round. Draining refuses new jobs here; resources are made as ever. It does not offer to pause: a pipeline
is suspended by its own spec, where everybody sees that it is.
"""

from __future__ import annotations

import logging
import os
from collections import OrderedDict
from typing import Annotated, Any, Final

import msgspec
import trio

from platformd import __version__
from platformd.api.component_routes import Changes, Submitted
from platformd.api.context import ApiContext
from platformd.api.metrics import HttpMetrics, Snapshot, render
from platformd.api.watch import Watches
from platformd.conductor.reconcile import loads
from platformd.conductor.validation import validate
from platformd.core.clock import rfc3339
from platformd.core.errors import (
    Conflict,
    FieldError,
    InvalidInput,
    NotFound,
    PreconditionFailed,
    Unavailable,
    Unprocessable,
    nearest,
)
from platformd.core.ids import uuid7
from platformd.core.settings import Settings
from platformd.model.component import (
    CONTROLS,
    ENDED,
    ComponentState,
    ConfigDocument,
    ControlAction,
    ControlDocument,
    ControlRequest,
    JobCounts,
    JobDocument,
    JobPage,
    JobState,
    NewJob,
    OfferedService,
    OfferedServices,
)
from platformd.model.kind import Kind
from platformd.model.node import NODE
from platformd.model.pipeline import PIPELINE, PipelineSpec
from platformd.model.resource import DEFAULT_TENANT, AnyResource, Name, Struct

LAG_SAMPLES: Final = 3
LAG_SLEEP_SECONDS: Final = 0.002
"""The loop's lag is measured while metrics are made: how late short sleeps end."""
MAX_REMEMBERED: Final = 1000
"""Jobs that were stopped here that are remembered; then the oldest is forgotten."""
LIVE: Final = frozenset({"daemon.log_level"})
"""Settings that can change while the daemon runs."""

_STATES: Final[dict[str, JobState]] = {
    "pending": "queued",
    "running": "running",
    "degraded": "running",
    "suspended": "paused",
    "error": "queued",
}
"""What the state of a pipeline is as that of a job; one with an error waits until its cause is gone."""
_POLL_SECONDS: Final = 0.25
_REFUSED: Final[frozenset[ControlAction]] = frozenset({"pause"})


class PipelineJob(Struct, frozen=True, kw_only=True):
    """What a job of the service ``pipeline`` takes."""

    spec: PipelineSpec
    """As in the resource."""
    name: Annotated[Name | None, msgspec.Meta(description="What it is called; a new name if not given.")] = None
    tenant: Annotated[Name, msgspec.Meta(description="Whose it is.")] = DEFAULT_TENANT


class DaemonComponent:
    """What the daemon answers; see ``platformd.api.component_routes.Backend``."""

    def __init__(self, context: ApiContext, watches: Watches, http: HttpMetrics) -> None:
        self._context, self._watches, self._http = context, watches, http
        self._kinds = {kind.name for kind in context.conductor.kinds}
        self._settings: Settings = context.settings
        self._new_id = uuid7(context.clock)
        self._config_revision = 1
        self._draining = False
        self._state_revision = 1
        self._changes = Changes()
        self._stopped: OrderedDict[str, JobDocument] = OrderedDict()

    # -- what it is -------------------------------------------------------------------------------------------------

    async def status(self) -> dict[str, Any]:
        """How the daemon is."""
        context = self._context
        streams = context.streams.streams()
        return {
            "name": "platformd",
            "version": __version__,
            "state": self._state(),
            "started_at": rfc3339(context.started_ns),
            "uptime_seconds": round((context.clock.time_ns() - context.started_ns) / 1e9, 3),
            "pid": os.getpid(),
            "state_dir": str(context.settings.state_path),
            "node": context.node_name,
            "leadership": await _leadership(context),
            "jobs": self._counts(await self._jobs()),
            "store": await context.store.status(),
            "store_socket": f"unix:{context.settings.store_socket_path}",
            "queues": {
                "streams": len(streams),
                "consumers": sum(stream.consumers for stream in streams),
                "sockets": context.sockets,
            },
            "watchers": self._watches.open,
        }

    async def services(self) -> OfferedServices:
        """What can be asked of the daemon."""
        return OfferedServices(
            items=[
                OfferedService(
                    name=PIPELINE.singular,
                    description=PIPELINE.summary,
                    parameters=msgspec.json.schema(PipelineJob),
                    runs_until="stopped",
                )
            ]
        )

    async def metrics(self) -> bytes:
        """The Prometheus text format."""
        context = self._context
        streams = context.streams.streams()
        snapshot = Snapshot(
            version=__version__,
            started_ns=context.started_ns,
            store=await context.store.status(),
            streams=streams,
            consumers=tuple(c for stream in streams for c in context.streams.consumers(stream.name)),
            pipelines=await self._all(PIPELINE),
            nodes=await self._all(NODE),
            watchers=self._watches.open,
            loop_lag_seconds=await loop_lag(),
            controllers=loads(context.conductor),
            sockets=context.socket_statistics() if context.socket_statistics else None,
        )
        # Thousands of series take tens of milliseconds: not on the loop.
        return await trio.to_thread.run_sync(render, snapshot, self._http)

    # -- jobs -------------------------------------------------------------------------------------------------------

    async def jobs(self, *, limit: int, cursor: str, state: JobState | None, service: str) -> JobPage:
        """A page of jobs, newest first; the cursor is the last one's id."""
        known = await self._jobs()
        ids = [job.id for job in known]
        start = ids.index(cursor) + 1 if cursor in ids else 0
        if cursor and not start:
            raise InvalidInput(
                "the job that this page goes on after is gone", subject="cursor", hint="list from the start"
            )
        fitting = [job for job in known[start:] if state in (None, job.state) and service in ("", job.service)]
        more = fitting[limit - 1].id if len(fitting) > limit else None
        return JobPage(items=fitting[:limit], jobs=self._counts(known), cursor=more)

    async def job(self, number: str) -> JobDocument:
        """One job."""
        found = next((job for job in await self._jobs() if job.id == number), None)
        if found is None:
            raise NotFound("is not there", subject=f"job/{number}", hint="see GET /jobs/; old jobs are forgotten")
        return found

    async def job_changed(self, number: str, wait: float) -> JobDocument:
        """The job once its state is another one."""
        first = job = await self.job(number)
        with trio.move_on_after(wait):
            async with self._context.conductor.watch([PIPELINE], None) as batches:
                while job.state == first.state and job.state not in ENDED:
                    with trio.move_on_after(_POLL_SECONDS):  # one that was stopped is not in the watch
                        await anext(batches)
                    job = await self.job(number)
        return await self.job(number)

    async def submit(self, wanted: NewJob, key: str | None, fingerprint: bytes, *, dry_run: bool) -> Submitted:
        """A new pipeline. Keys are looked after around every request, not here."""
        if wanted.service != PIPELINE.singular:
            near = nearest(wanted.service, [PIPELINE.singular]) or PIPELINE.singular
            subject = f"service/{wanted.service}"
            raise Unprocessable("the daemon does not offer it", subject=subject, hint=f"did you mean {near}?")
        parameters, errors = validate(wanted.parameters, PipelineJob, "parameters")
        if errors:
            raise Unprocessable("not what pipeline takes", subject="service/pipeline", errors=tuple(errors))
        if self._state() != "running":
            raise Unavailable(f"it is {self._state()} and takes no new jobs", subject="platformd")
        conductor = self._context.conductor
        name = parameters.name or f"job-{self._new_id()}"
        document = {"kind": PIPELINE.name, "name": name, "spec": wanted.parameters["spec"]}
        resource = conductor.decode(PIPELINE, document, tenant=parameters.tenant)
        job = _job_of(await conductor.create(resource, dry_run=dry_run))
        return Submitted(job, False)

    async def dismiss(self, number: str) -> JobDocument:
        """Delete a pipeline; its workers are stopped first."""
        job = await self.job(number)
        if job.state in ENDED:
            return job
        name, tenant = str(job.parameters["name"]), str(job.parameters["tenant"])
        last, gone = await self._context.conductor.delete(PIPELINE, name, tenant)
        ended = msgspec.structs.replace(
            _job_of(last), state="dismissed", ended_at=self._now(), stopping=False, message="it was stopped"
        )
        self._stopped[number] = ended
        _bound(self._stopped)
        return ended if gone else await self.job(number)

    async def _jobs(self) -> list[JobDocument]:
        present = [_job_of(pipeline) for pipeline in await self._all(PIPELINE)]
        there = {job.id for job in present}
        ended = [job for job in self._stopped.values() if job.id not in there]
        return sorted([*present, *ended], key=lambda job: (job.created_at, job.id), reverse=True)

    def _counts(self, jobs: list[JobDocument]) -> JobCounts:
        found: dict[str, int] = {}
        for job in jobs:
            found[job.state] = found.get(job.state, 0) + 1
        day = self._now()[:10]
        return JobCounts(today=sum((job.started_at or "").startswith(day) for job in jobs), **found)

    # -- configuration and control ------------------------------------------------------------------------------------

    async def config(self) -> ConfigDocument:
        """The settings as they are in force."""
        return ConfigDocument(
            config=msgspec.to_builtins(self._settings),
            parameters=msgspec.json.schema(Settings),
            revision=self._config_revision,
        )

    async def configure(self, config: Any, expected: int | None, *, dry_run: bool) -> ConfigDocument:
        """Other settings; those that need a restart are refused by name."""
        if expected is not None and expected != self._config_revision:
            raise PreconditionFailed(
                f"revision {expected} was expected, but it is {self._config_revision}", subject="config"
            )
        wanted, errors = validate(config, Settings, "")
        if errors:
            raise Unprocessable("not a configuration of platformd", subject="config", errors=tuple(errors))
        changed = _differences(msgspec.to_builtins(self._settings), msgspec.to_builtins(wanted))
        fixed = tuple(FieldError(path=path, message="needs a restart") for path in changed if path not in LIVE)
        if fixed:
            raise Conflict(
                "some of it cannot change while the daemon runs",
                subject="config",
                hint=f"change the file and restart; while it runs: {', '.join(sorted(LIVE))}",
                errors=fixed,
            )
        if changed and not dry_run:
            self._settings = wanted
            self._config_revision += 1
            logging.getLogger().setLevel(wanted.daemon.log_level.upper())
        return await self.config()

    async def control(self) -> ControlDocument:
        """The state, and what is legal in it."""
        state = self._state()
        actions = [action for action in CONTROLS[state] if action not in _REFUSED]
        return ControlDocument(state=state, actions=actions, revision=self._state_revision)

    async def control_changed(self, after: int, wait: float) -> ControlDocument:
        """The state once its revision is beyond ``after``."""
        with trio.move_on_after(wait):
            while self._state_revision <= after and not self._context.stopping.is_set():
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(_first, self._changes.wait, nursery.cancel_scope)
                    nursery.start_soon(_first, self._context.stopping.wait, nursery.cancel_scope)
        return await self.control()

    async def tell(self, wanted: ControlRequest, *, dry_run: bool) -> ControlDocument:
        """Drain, resume, stop."""
        legal = (await self.control()).actions
        if wanted.action not in legal:
            raise Conflict(
                f"is {self._state()}, and cannot {wanted.action}",
                subject="platformd",
                hint=f"legal now: {', '.join(legal) or 'nothing'}",
            )
        if not dry_run:
            self._draining = wanted.action == "drain"
            self._state_revision += 1
            if wanted.action == "stop":
                self._context.stop()
            self._changes.happened()
        return await self.control()

    def _state(self) -> ComponentState:
        if self._context.stopping.is_set():
            return "stopping"
        if self._context.state() == "starting":
            return "starting"
        return "draining" if self._draining else "running"

    async def _all(self, kind: Kind) -> tuple[AnyResource, ...]:
        if kind.name not in self._kinds:
            return ()
        return (await self._context.conductor.list(kind, None)).items

    def _now(self) -> str:
        return rfc3339(self._context.clock.time_ns())


def _job_of(pipeline: AnyResource) -> JobDocument:
    state = _STATES.get(pipeline.status.state, "queued")
    return JobDocument(
        id=pipeline.uid,
        service=PIPELINE.singular,
        state=state,
        parameters={
            "name": pipeline.name,
            "tenant": pipeline.tenant,
            "spec": msgspec.to_builtins(pipeline.spec),
        },
        created_at=pipeline.created_at or "",
        started_at=pipeline.status.since if state in ("running", "paused") else None,
        message=pipeline.status.message or None,
        stopping=pipeline.deleting_at is not None,
    )


def _differences(before: Any, after: Any, path: str = "") -> list[str]:
    if isinstance(before, dict) and isinstance(after, dict):
        names = sorted(before.keys() | after.keys())
        prefix = f"{path}." if path else ""
        return [d for name in names for d in _differences(before.get(name), after.get(name), prefix + name)]
    return [] if before == after else [path]


def _bound(remembered: OrderedDict[str, Any]) -> None:
    while len(remembered) > MAX_REMEMBERED:
        remembered.popitem(last=False)


async def _first(wait: Any, scope: trio.CancelScope) -> None:
    await wait()
    scope.cancel()


async def loop_lag() -> float:
    """By how many seconds the latest of a few short sleeps ended late."""
    worst = 0.0
    for _ in range(LAG_SAMPLES):
        before = trio.current_time()
        await trio.sleep(LAG_SLEEP_SECONDS)
        worst = max(worst, trio.current_time() - before - LAG_SLEEP_SECONDS)
    return worst


async def _leadership(context: ApiContext) -> dict[str, object]:
    leading = context.leading
    if leading is None:
        return {"shared": False, "leads": True, "leader": None}
    return {"shared": True, "leads": leading.leads, "leader": await leading.leader()}
