"""The routes of the component control API, for whatever answers them: the daemon, or a component made with
``platformd.component``. See ``platformd.model.component`` for what it promises.
"""

from __future__ import annotations

import hashlib
import re
from typing import Annotated, Any, Final, Protocol

import msgspec
import trio
from quart import Response, request
from quart_trio import QuartTrio

from platformd.api.access import needs
from platformd.api.metrics import CONTENT_TYPE
from platformd.api.openapi import Answer, Body, Parameter, operation
from platformd.api.openapi.parameters import BODY_PROBLEMS, CURSOR, DRY_RUN, Revision
from platformd.api.replies import JSON, Query, etag, expected_revision, json_body, known_revision, reply
from platformd.conductor.validation import validate
from platformd.core.errors import (
    Conflict,
    FieldError,
    InvalidInput,
    LimitReached,
    NotFound,
    PlatformError,
    PreconditionFailed,
    Unavailable,
    Unprocessable,
)
from platformd.core.quantities import Duration, seconds
from platformd.model.component import (
    ENDED,
    JOB_STATES,
    MAX_PAGE,
    MAX_WAIT,
    PAGE_LIMIT,
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

TAG = "Component"
_KEY: Final = re.compile(r"^[\x20-\x7e]{1,255}$")
_JOB_ID: Final = Annotated[str, msgspec.Meta(min_length=1, max_length=256, description="The id of the job.")]

WAIT = Parameter(
    name="wait",
    description=f"Answer when something has changed, or after this long; at most {MAX_WAIT:g}s.",
    schema=Duration,
)


class Backend(Protocol):
    """What answers. All times are RFC 3339; every method may raise ``PlatformError``."""

    async def status(self) -> Any:
        """``ComponentStatus``, or a document that has all that it has."""
        ...

    async def services(self) -> OfferedServices:
        """What it offers."""
        ...

    async def jobs(self, *, limit: int, cursor: str, state: JobState | None, service: str) -> JobPage:
        """A page of its jobs."""
        ...

    async def submit(self, wanted: NewJob, key: str | None, fingerprint: bytes, *, dry_run: bool) -> Submitted:
        """A new job; or the one that was made with this ``key`` before, if the ``fingerprint`` is the same too."""
        ...

    async def job(self, number: str) -> JobDocument:
        """One job."""
        ...

    async def job_changed(self, number: str, wait: float) -> JobDocument:
        """The job once its state is another one, or after ``wait`` seconds."""
        ...

    async def dismiss(self, number: str) -> JobDocument:
        """Stop a job; the job as it is then."""
        ...

    async def config(self) -> ConfigDocument:
        """Its configuration."""
        ...

    async def configure(self, config: Any, expected: int | None, *, dry_run: bool) -> ConfigDocument:
        """Another configuration."""
        ...

    async def control(self) -> ControlDocument:
        """Its state."""
        ...

    async def control_changed(self, after: int, wait: float) -> ControlDocument:
        """Its state once the revision is beyond ``after``, or after ``wait`` seconds."""
        ...

    async def tell(self, wanted: ControlRequest, *, dry_run: bool) -> ControlDocument:
        """Pause, resume, drain, stop."""
        ...

    async def metrics(self) -> bytes:
        """The text format of Prometheus."""
        ...


class Submitted(msgspec.Struct, frozen=True):
    """What became of a ``POST /jobs/``."""

    job: JobDocument
    again: bool
    """The same request had been made before."""


class ComponentRoutes:
    """What every component answers."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    def add_to(self, app: QuartTrio) -> None:
        """Route requests here."""
        for path, name, method, view in (
            ("/status", "status", "GET", self.status),
            ("/services", "services", "GET", self.services),
            ("/jobs/", "list_jobs", "GET", self.list_jobs),
            ("/jobs/", "submit_job", "POST", self.submit_job),
            ("/jobs/<job_id>", "get_job", "GET", self.get_job),
            ("/jobs/<job_id>", "dismiss_job", "DELETE", self.dismiss_job),
            ("/config", "get_config", "GET", self.get_config),
            ("/config", "put_config", "PUT", self.put_config),
            ("/control", "get_control", "GET", self.get_control),
            ("/control", "control", "POST", self.control),
            ("/metrics", "metrics", "GET", self.metrics),
        ):
            app.add_url_rule(path, name, view, methods=[method])

    @needs("status.read")
    @operation("getStatus", TAG, answers={200: Answer("The status.", ComponentStatus)})
    async def status(self) -> Response:
        """GET /status: who it is, its state, since when, and how many jobs are where."""
        Query()
        return reply(await self._backend.status())

    @needs("status.read")
    @operation("listOfferedServices", TAG, answers={200: Answer("The services.", OfferedServices)})
    async def services(self) -> Response:
        """GET /services: what can be asked of this component, with a JSON Schema for the parameters."""
        Query()
        return reply(await self._backend.services())

    @needs("jobs.read")
    @operation(
        "listJobs",
        TAG,
        answers={200: Answer("A page of jobs, newest first.", JobPage)},
        parameters=(
            Parameter(name="state", description="Only jobs in this state.", schema=JobState),
            Parameter(name="service", description="Only jobs of this service."),
            Parameter(
                name="limit",
                description="The most jobs on the page.",
                schema=Annotated[int, msgspec.Meta(ge=1, le=MAX_PAGE)],
            ),
            CURSOR,
        ),
    )
    async def list_jobs(self) -> Response:
        """GET /jobs/: its jobs and how many are where. Jobs that ended are kept for a while."""
        query = Query("state", "service", "limit", "cursor")
        state = query.text("state")
        if state and state not in JOB_STATES:
            wrong = FieldError(
                path="state", message=f"{state!r} is not a state", hint=f"one of {', '.join(JOB_STATES)}"
            )
            raise InvalidInput("the query is not valid", subject="/jobs/", errors=(wrong,))
        page = await self._backend.jobs(
            limit=query.number("limit", PAGE_LIMIT, 1, MAX_PAGE),
            cursor=query.text("cursor"),
            state=next((known for known in JOB_STATES if known == state), None),
            service=query.text("service"),
        )
        return reply(page)

    @needs("jobs.write")
    @operation(
        "submitJob",
        TAG,
        answers={
            200: Answer("With `dry_run`: the job as it would be.", JobDocument),
            202: Answer("The job was accepted.", JobDocument, headers=("Location",)),
        },
        parameters=(DRY_RUN,),
        body=Body(NewJob),
        problems=(Conflict, LimitReached, Unavailable, *BODY_PROBLEMS),
    )
    async def submit_job(self) -> Response:
        """POST /jobs/: a new job of one of the services. Refused while it is draining or has too many that wait."""
        dry_run = Query("dry_run").flag("dry_run")
        key = request.headers.get("Idempotency-Key")
        if key is not None and not _KEY.match(key):
            raise InvalidInput(
                "is not 1 to 255 printable ASCII characters", subject="Idempotency-Key", hint="a UUID does well"
            )
        document = await json_body(JSON)
        wanted = _read(document, NewJob)
        fingerprint = hashlib.sha256(msgspec.json.encode(document, order="deterministic")).digest()
        submitted = await self._backend.submit(wanted, key, fingerprint, dry_run=dry_run)
        if dry_run:
            return reply(submitted.job)
        response = reply(submitted.job, 202, Location=f"/jobs/{submitted.job.id}")
        if submitted.again:
            response.headers["Idempotency-Replayed"] = "true"
        return response

    @needs("jobs.read")
    @operation(
        "getJob",
        TAG,
        answers={200: Answer("The job.", JobDocument)},
        parameters=(WAIT,),
        path={"job_id": _JOB_ID},
        problems=(NotFound,),
    )
    async def get_job(self, job_id: str) -> Response:
        """GET /jobs/JOB: one job; with ``wait`` once its state is another one."""
        wait = _wait(Query("wait"))
        job = await (self._backend.job(job_id) if wait is None else self._backend.job_changed(job_id, wait))
        return reply(job)

    @needs("jobs.write")
    @operation(
        "dismissJob",
        TAG,
        answers={
            200: Answer("It has ended, now or before.", JobDocument),
            202: Answer("It is being stopped.", JobDocument),
        },
        parameters=(DRY_RUN,),
        path={"job_id": _JOB_ID},
        problems=(NotFound,),
    )
    async def dismiss_job(self, job_id: str) -> Response:
        """DELETE /jobs/JOB: stop a job. One that has ended stays as it is."""
        dry_run = Query("dry_run").flag("dry_run")
        job = await (self._backend.job(job_id) if dry_run else self._backend.dismiss(job_id))
        return reply(job, 200 if job.state in ENDED or dry_run else 202)

    @needs("config.read")
    @operation("getConfig", TAG, answers={200: Answer("The configuration.", ConfigDocument, headers=("ETag",))})
    async def get_config(self) -> Response:
        """GET /config: the configuration with its JSON Schema; secrets are left out."""
        Query()
        config = await self._backend.config()
        if known_revision() == config.revision:
            return Response(b"", 304, {"ETag": etag(config.revision)})
        return reply(config, ETag=etag(config.revision))

    @needs("daemon.control")
    @operation(
        "putConfig",
        TAG,
        answers={200: Answer("The configuration as it is now.", ConfigDocument, headers=("ETag",))},
        parameters=(
            DRY_RUN,
            Parameter(name="If-Match", where="header", description="Only if this is its revision.", schema=str),
        ),
        body=Body({"type": "object", "description": "The configuration, whole."}),
        problems=(Conflict, PreconditionFailed, *BODY_PROBLEMS),
    )
    async def put_config(self) -> Response:
        """PUT /config: another configuration, whole. What cannot change while it runs is refused by name."""
        dry_run = Query("dry_run").flag("dry_run")
        expected, _ = expected_revision()
        config = await self._backend.configure(await json_body(JSON), expected, dry_run=dry_run)
        return reply(config, ETag=etag(config.revision))

    @needs("status.read")
    @operation(
        "getControl",
        TAG,
        answers={200: Answer("The state.", ControlDocument)},
        parameters=(
            WAIT,
            Parameter(name="after", description="With `wait`: the revision that is known.", schema=Revision),
        ),
    )
    async def get_control(self) -> Response:
        """GET /control: its state and what it can be told now; with ``wait`` once its revision is beyond ``after``."""
        query = Query("wait", "after")
        wait = _wait(query)
        if wait is None:
            return reply(await self._backend.control())
        return reply(await self._backend.control_changed(query.number("after", 0, 0, 10**18 - 1), wait))

    @needs("daemon.control")
    @operation(
        "control",
        TAG,
        answers={200: Answer("The state that it is in now.", ControlDocument)},
        parameters=(DRY_RUN,),
        body=Body(ControlRequest),
        problems=(Conflict, *BODY_PROBLEMS),
    )
    async def control(self) -> Response:
        """POST /control: pause, resume, drain or stop it. What is not legal in its state is refused, with what is."""
        dry_run = Query("dry_run").flag("dry_run")
        return reply(await self._backend.tell(_read(await json_body(JSON), ControlRequest), dry_run=dry_run))

    @needs("metrics.read")
    @operation("getMetrics", TAG, answers={200: Answer("The metrics.", str, ("text/plain",))})
    async def metrics(self) -> Response:
        """GET /metrics: the Prometheus text format."""
        Query()
        return Response(await self._backend.metrics(), content_type=CONTENT_TYPE)


def _read(document: Any, wanted: Any) -> Any:
    value, errors = validate(document, wanted, "")
    if errors:
        raise Unprocessable("the body is not valid", subject=request.path, errors=tuple(errors))
    return value


def _wait(query: Query) -> float | None:
    text = query.text("wait")
    if not text:
        return None
    try:
        return min(seconds(text), MAX_WAIT)
    except (ValueError, PlatformError) as error:
        wrong = FieldError(path="wait", message=f"{text[:40]!r} is not a duration", hint="such as 30s")
        raise InvalidInput("the query is not valid", subject=request.path, errors=(wrong,)) from error


class Changes:
    """Lets tasks wait for the next change of something."""

    def __init__(self) -> None:
        self._event = trio.Event()

    def happened(self) -> None:
        """Wake all who wait."""
        self._event.set()
        self._event = trio.Event()

    async def wait(self) -> None:
        """Until the next change."""
        await self._event.wait()
