"""What a component answers: its jobs are run here, held, and stopped."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from functools import partial
from typing import Any

import msgspec
import trio

from platformd.api.component_routes import Changes, Submitted
from platformd.component.book import Book
from platformd.component.declaration import Component, Service, schema_of
from platformd.component.handle import Job, JobStopped
from platformd.component.metrics import render
from platformd.component.options import Options
from platformd.conductor.validation import validate
from platformd.core.clock import Clock, SystemClock, rfc3339
from platformd.core.errors import Conflict, PlatformError, PreconditionFailed, TooLarge, Unavailable, Unprocessable
from platformd.core.ids import uuid7
from platformd.core.quantities import seconds, size_bytes
from platformd.model.component import (
    CONTROLS,
    ENDED,
    ComponentState,
    ComponentStatus,
    ConfigDocument,
    ControlDocument,
    ControlRequest,
    JobDocument,
    JobPage,
    JobState,
    NewJob,
    OfferedServices,
)

log = logging.getLogger("platformd.component")


class JobFailed(PlatformError):
    """A job's function raised something; the log has where."""

    code, status, exit_code, title = "job_failed", 500, 1, "Job failed"


class Backend:
    """A component that runs. ``run`` it for as long as it answers."""

    def __init__(
        self, component: Component, options: Options, stopping: trio.Event, clock: Clock | None = None
    ) -> None:
        self._component, self._options = component, options
        self._clock = clock or SystemClock()
        self._stopping = stopping
        self._started_ns = self._clock.time_ns()
        self._state: ComponentState = "starting"
        self._state_revision = 1
        self._config_revision = 1
        self._changes = Changes()
        self._book = Book(
            self._clock,
            uuid7(self._clock),
            max_queued=options.max_queued,
            max_ended=options.max_ended,
            max_keys=options.max_keys,
            changed=self._changes.happened,
        )
        self._running: dict[str, tuple[Job, trio.CancelScope]] = {}
        self._threads = trio.CapacityLimiter(options.max_running)
        self._wanted: dict[str, Any] = {}  # the parameters of jobs that wait, as their function wants them

    # -- the component's life ---------------------------------------------------------------------------------------

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Run jobs until the component is to stop; then give those that run the time to."""
        async with trio.open_nursery() as nursery:
            async with trio.open_nursery() as watching:
                watching.start_soon(self._start_jobs, nursery)
                self._become("running")
                task_status.started()
                await self._stopping.wait()
                if self._state != "stopping":
                    self._become("stopping")
                watching.cancel_scope.cancel()
            nursery.cancel_scope.deadline = trio.current_time() + seconds(self._options.stop_deadline)
            for job in list(self._book):
                if job.state not in ENDED:
                    self._stop(job)

    async def _start_jobs(self, nursery: trio.Nursery) -> None:
        while True:
            waiting = self._book.next_waiting()
            room = len(self._running) < self._options.max_running
            if waiting is None or not room or self._state in ("paused", "stopping"):
                await self._changes.wait()
                continue
            number = waiting.id
            handle = Job(number, partial(self._reported, number), partial(self._held, number))
            scope = trio.CancelScope()
            self._running[number] = handle, scope
            self._book.move(number, "running")
            service = self._component.find(waiting.service)
            nursery.start_soon(self._work, service, handle, scope, self._wanted.pop(number))

    async def _work(self, service: Service, handle: Job, scope: trio.CancelScope, parameters: Any) -> None:
        """Run one job to its end, whatever that is."""
        end: tuple[JobState, dict[str, Any]] = ("dismissed", {"message": "it was stopped"})
        try:
            with scope:
                end = await self._outcome(service, handle, parameters)
        finally:
            self._running.pop(handle.id, None)
            state, members = end
            if state == "successful" and self._book.get(handle.id).state == "paused":
                self._book.move(handle.id, "running")  # it ended without looking up
            self._book.move(handle.id, state, **members)

    async def _outcome(self, service: Service, handle: Job, parameters: Any) -> tuple[JobState, dict[str, Any]]:
        try:
            if service.in_thread:
                # Left behind rather than waited for when the component is cut off: a thread cannot be cancelled.
                result = await trio.to_thread.run_sync(
                    service.function, handle, parameters, abandon_on_cancel=True, limiter=self._threads
                )
            else:
                result = await service.function(handle, parameters)
            return "successful", {"result": self._as_json(result), "message": handle.message}
        except JobStopped:
            return "dismissed", {"message": "it was stopped"}
        except Exception as error:  # noqa: BLE001 - whatever a stranger's function raises, its job has failed
            return "failed", self._failure(service, handle, error)

    def _as_json(self, result: Any) -> Any:
        encoded = msgspec.json.encode(result)
        limit = size_bytes(self._options.max_result)
        if len(encoded) > limit:
            raise TooLarge(
                f"the result has {len(encoded)} bytes; max_result is {self._options.max_result}",
                hint="put it into a stream or a file, and return where it is",
            )
        return msgspec.json.decode(encoded)

    @staticmethod
    def _failure(service: Service, handle: Job, error: BaseException) -> dict[str, Any]:
        while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
            error = error.exceptions[0]
        if not isinstance(error, PlatformError):
            log.error("job %s of %s failed", handle.id, service.name, exc_info=error)
            error = JobFailed(f"{type(error).__name__}: {error}", subject=f"job/{handle.id}")
        return {"error": error.to_problem(), "message": error.message}

    def _reported(self, number: str) -> None:
        if number in self._running:
            handle, _ = self._running[number]
            self._book.note(number, progress=handle.progress, message=handle.message)

    def _held(self, number: str, held: bool) -> None:
        if number in self._running:
            state = self._book.get(number).state
            if held and state == "running":
                self._book.move(number, "paused")
            elif not held and state == "paused":
                self._book.move(number, "running")

    def _become(self, state: ComponentState) -> None:
        self._state = state
        self._state_revision += 1
        for handle, _ in self._running.values():
            if state == "paused":
                handle.hold()
            else:
                handle.go_on()
        self._changes.happened()

    async def _until(self, happened: Callable[[], bool], wait: float) -> None:
        with trio.move_on_after(wait):
            while not happened():
                await self._changes.wait()

    # -- what it answers --------------------------------------------------------------------------------------------

    async def status(self) -> dict[str, Any]:
        """See ``platformd.api.component_routes.Backend``, as for all that follow."""
        status = ComponentStatus(
            name=self._component.name,
            version=self._component.version,
            state=self._state,
            started_at=rfc3339(self._started_ns),
            uptime_seconds=round((self._clock.time_ns() - self._started_ns) / 1e9, 3),
            jobs=self._book.counts(),
        )
        return {**msgspec.to_builtins(status), "pid": os.getpid()}

    async def services(self) -> OfferedServices:
        """What it offers."""
        return OfferedServices(items=[service.offered() for service in self._component.services.values()])

    async def jobs(self, *, limit: int, cursor: str, state: JobState | None, service: str) -> JobPage:
        """A page of its jobs."""
        return self._book.page(limit=limit, cursor=cursor, state=state, service=service)

    async def submit(self, wanted: NewJob, key: str | None, fingerprint: bytes, *, dry_run: bool) -> Submitted:
        """A new job."""
        before = self._book.known(key, fingerprint)
        if before is not None:
            return Submitted(before, True)
        service = self._component.find(wanted.service)
        parameters, errors = validate(wanted.parameters, service.parameters, "parameters")
        if errors:
            raise Unprocessable(
                f"not what {service.name} takes", subject=f"service/{service.name}", errors=tuple(errors)
            )
        if self._state in ("draining", "stopping", "starting"):
            raise Unavailable(f"it is {self._state} and takes no new jobs", subject=self._component.name)
        self._book.check_room()
        job = self._book.draft(service.name, wanted.parameters)
        if not dry_run:
            self._wanted[job.id] = parameters
            job = self._book.add(job, key, fingerprint)
        return Submitted(job, False)

    async def job(self, number: str) -> JobDocument:
        """One job."""
        return self._book.get(number)

    async def job_changed(self, number: str, wait: float) -> JobDocument:
        """The job once its state is another one."""
        found = self._book.get(number)
        if found.state not in ENDED:
            await self._until(lambda: self._book.get(number).state != found.state, wait)
        return self._book.get(number)

    async def dismiss(self, number: str) -> JobDocument:
        """Stop a job."""
        job = self._book.get(number)
        if job.state not in ENDED:
            self._stop(job)
        return self._book.get(number)

    def _stop(self, job: JobDocument) -> None:
        if job.id not in self._running:
            self._wanted.pop(job.id, None)
            self._book.move(job.id, "dismissed", message="it was stopped before it began")
            return
        handle, scope = self._running[job.id]
        self._book.note(job.id, stopping=True)
        handle.stop()
        if not self._component.find(job.service).in_thread:
            scope.cancel()

    async def config(self) -> ConfigDocument:
        """Its configuration."""
        return self._config_of(self._component.config, self._config_revision)

    def _config_of(self, config: Any, revision: int) -> ConfigDocument:
        if config is None:
            nothing = {"type": "object", "properties": {}, "additionalProperties": False}
            return ConfigDocument(config={}, parameters=nothing, revision=revision)
        return ConfigDocument(config=msgspec.to_builtins(config), parameters=schema_of(type(config)), revision=revision)

    async def configure(self, config: Any, expected: int | None, *, dry_run: bool) -> ConfigDocument:
        """Another configuration."""
        if expected is not None and expected != self._config_revision:
            raise PreconditionFailed(
                f"revision {expected} was expected, but it is {self._config_revision}",
                subject="config",
                hint="read it again, make your change, and send it with the new revision",
            )
        current = self._component.config
        wanted, errors = validate(config, type(current) if current is not None else _Nothing, "")
        if errors:
            raise Unprocessable("not a configuration of this component", subject="config", errors=tuple(errors))
        if current is None or wanted == current:
            return await self.config()
        if self._component.on_configure is not None:
            try:
                self._component.on_configure(wanted)
            except (ValueError, TypeError) as error:
                raise Unprocessable(str(error), subject="config") from error
        if dry_run:
            return self._config_of(wanted, self._config_revision)
        self._component.config = wanted
        self._config_revision += 1
        self._changes.happened()
        return await self.config()

    async def control(self) -> ControlDocument:
        """Its state."""
        return ControlDocument(state=self._state, actions=list(CONTROLS[self._state]), revision=self._state_revision)

    async def control_changed(self, after: int, wait: float) -> ControlDocument:
        """Its state once the revision is beyond ``after``."""
        await self._until(lambda: self._state_revision > after, wait)
        return await self.control()

    async def tell(self, wanted: ControlRequest, *, dry_run: bool) -> ControlDocument:
        """Pause, resume, drain, stop."""
        legal = CONTROLS[self._state]
        if wanted.action not in legal:
            raise Conflict(
                f"is {self._state}, and cannot {wanted.action}",
                subject=self._component.name,
                hint=f"legal now: {', '.join(legal) or 'nothing'}",
            )
        if not dry_run:
            self._become(legal[wanted.action])
            if wanted.action == "stop":
                self._stopping.set()
        return await self.control()

    async def metrics(self) -> bytes:
        """The text format of Prometheus."""
        return render(self._component, self._state, self._started_ns, self._book.counts(), tuple(self._book))


class _Nothing(msgspec.Struct, forbid_unknown_fields=True):
    """A configuration without members."""
