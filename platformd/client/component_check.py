"""Whether somebody's component keeps what ``platformd.model.component`` promises: each is tried, each failure told.

Nothing is believed of the component: what it answers is looked at as it came. It is only read, unless a service and its
parameters are named, of which some jobs are then made and stopped, and unless its state may be changed too.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from platformd.client.blocking import Client
from platformd.client.component_inquiry import Broken, Inquiry, check_job, check_status, check_time
from platformd.client.http import Response, Target
from platformd.core.errors import InvalidInput, PlatformError
from platformd.model.component import (
    CONTROLS,
    ENDED,
    ComponentStatus,
    ConfigDocument,
    ControlDocument,
    JobDocument,
    JobPage,
    OfferedServices,
    may_follow,
)

NOWHERE = "/no-such-path-of-any-component"
UNKNOWN_JOB = "/jobs/00000000-no-such-job"
ABSURD = "no-such-member-of-any-configuration"


@dataclass(frozen=True)
class Verdict:
    """What came of one check."""

    name: str
    promise: str
    """What was tried, in a sentence."""
    outcome: Literal["passed", "failed", "skipped"]
    why: str = ""
    """What was wrong, or why it was not tried."""


@dataclass(frozen=True, kw_only=True)
class Wishes:
    """What the check may do.

    Args:
        service: of which jobs may be made; empty: none are made.
        parameters: with which a job of it runs.
        disturb: whether the component may be paused and resumed, and its configuration written (as it is).
        only: the names of checks; empty: all.
        patience: seconds that a job may take to end, and a state to come.
    """

    service: str = ""
    parameters: Mapping[str, Any] | None = None
    disturb: bool = False
    only: tuple[str, ...] = ()
    patience: float = 30.0


class Skipped(Exception):
    """A promise was not tried; the text says why."""


def check_component(target: Target, wishes: Wishes, *, token: str = "", timeout: float = 30.0) -> Iterator[Verdict]:
    """Try every promise of the component at ``target``, one verdict after the other.

    Raises:
        Unavailable, Forbidden, DeadlineExceeded: nobody answers there at all.
        InvalidInput: there is no check of a name in ``wishes.only``.
    """
    with Client(target, timeout=timeout) as client:
        examiner = _Examiner(client, wishes, token)
        known = examiner.checks()
        unknown = [name for name in wishes.only if name not in dict(known)]
        if unknown:
            hint = f"known: {', '.join(name for name, _ in known)}"
            raise InvalidInput("there is no such check", subject=unknown[0], hint=hint)
        examiner.ask("GET", "/status")  # who is not there is not examined
        for name, check in known:
            if wishes.only and name not in wishes.only:
                continue
            promise = (check.__doc__ or "").strip().rstrip(".")
            try:
                check()
            except Broken as broken:
                yield Verdict(name, promise, "failed", str(broken))
            except Skipped as skipped:
                yield Verdict(name, promise, "skipped", str(skipped))
            except PlatformError as error:
                yield Verdict(name, promise, "failed", str(error))
            else:
                yield Verdict(name, promise, "passed")


class _Examiner(Inquiry):
    def __init__(self, client: Client, wishes: Wishes, token: str) -> None:
        super().__init__(client, token)
        self._wishes = wishes
        self._offered: OfferedServices | None = None

    def checks(self) -> list[tuple[str, Callable[[], None]]]:
        """All checks, in their order."""
        found = [
            self.status, self.uptime, self.services, self.schemas, self.jobs_listing, self.jobs_filter,
            self.unknown_job, self.unknown_service, self.malformed_body, self.wrong_type, self.unknown_member,
            self.wrong_parameters, self.unknown_query, self.job, self.job_states, self.idempotency,
            self.other_request, self.dry_run, self.dismissed, self.dismissed_again, self.jobs_paging, self.config,
            self.config_schema, self.config_conditional, self.config_unknown, self.config_written, self.control,
            self.control_wait, self.control_unknown, self.control_illegal, self.pause, self.metrics, self.openapi,
            self.unknown_path, self.method, self.head,
        ]  # fmt: skip
        return [(check.__name__.replace("_", "-"), check) for check in found]

    # -- what it is -------------------------------------------------------------------------------------------------

    def status(self) -> None:
        """GET /status says name, version, state, since when, and how many jobs are where."""
        status: ComponentStatus = self.read(ComponentStatus, self.ask("GET", "/status"))
        check_time("started_at", status.started_at)
        for name in ("name", "version"):
            if not getattr(status, name):
                raise Broken(f"{name} is empty")

    def uptime(self) -> None:
        """The uptime grows, and fits to the start."""
        first = self.read(ComponentStatus, self.ask("GET", "/status"))
        second = self.read(ComponentStatus, self.ask("GET", "/status"))
        if second.uptime_seconds < first.uptime_seconds and second.started_at == first.started_at:
            raise Broken(f"it was {first.uptime_seconds}, then {second.uptime_seconds}")
        if first.uptime_seconds < 0:
            raise Broken(f"it is {first.uptime_seconds}")

    def services(self) -> None:
        """GET /services lists what it offers, each with a name, a description and a schema."""
        self._offered = None
        names = [service.name for service in self._services().items]
        if len(set(names)) != len(names) or "" in names:
            raise Broken(f"the names are not all different: {', '.join(names)}")
        for service in self._services().items:
            if not service.description:
                raise Broken(f"{service.name} has no description")

    def schemas(self) -> None:
        """The parameters of each service are a JSON Schema of objects."""
        import jsonschema_rs

        for service in self._services().items:
            try:
                jsonschema_rs.meta.validate(service.parameters)
                jsonschema_rs.validator_for(service.parameters)
            except (jsonschema_rs.ValidationError, ValueError) as error:
                raise Broken(f"of {service.name} they are none: {str(error).splitlines()[0]}") from error

    def metrics(self) -> None:
        """GET /metrics is the text format of Prometheus."""
        from prometheus_client.parser import text_string_to_metric_families

        response = self.ask("GET", "/metrics")
        check_status(response, 200)
        if not response.headers.get("content-type", "").startswith("text/plain"):
            raise Broken(f"its Content-Type is {response.headers.get('content-type')!r}, not text/plain")
        try:
            families = list(text_string_to_metric_families(response.body.decode()))
        except (ValueError, UnicodeError) as error:
            raise Broken(f"it cannot be parsed: {error}") from error
        if not families:
            raise Broken("it is empty")

    def openapi(self) -> None:
        """GET / links to an OpenAPI 3.1 document that has these paths."""
        links = self.read(dict[str, Any], self.ask("GET", "/")).get("links")
        where = links.get("openapi") if isinstance(links, dict) else None
        if not isinstance(where, str) or not where.startswith("/"):
            raise Broken(f"its link openapi is {where!r}, not a path")
        response = self.ask("GET", where)
        document = self.read(dict[str, Any], response)
        if not str(document.get("openapi", "")).startswith("3.1"):
            raise Broken(f"it says openapi {document.get('openapi')!r}, not 3.1")
        paths = document.get("paths") or {}
        wanted = ("/status", "/services", "/jobs/", "/config", "/control", "/metrics")
        missing = [path for path in wanted if path not in paths and path.rstrip("/") not in paths]
        if missing:
            raise Broken(f"it has no {', '.join(missing)}")

    def unknown_path(self) -> None:
        """A path that is not there is a problem: 404."""
        self.refused(self.ask("GET", NOWHERE), 404)

    def method(self) -> None:
        """A method that a path does not have is a problem: 405, with Allow."""
        response = self.ask("DELETE", "/status")
        self.refused(response, 405)
        if "GET" not in response.headers.get("allow", ""):
            raise Broken(f"its Allow is {response.headers.get('allow', '')!r}, without GET")

    def head(self) -> None:
        """HEAD answers as GET does, without the body."""
        response = self.ask("HEAD", "/status")
        check_status(response, 200)
        if response.body:
            raise Broken("it has a body")

    # -- jobs -------------------------------------------------------------------------------------------------------

    def jobs_listing(self) -> None:
        """GET /jobs/ lists jobs, newest first, with the numbers by state."""
        page: JobPage = self.read(JobPage, self.ask("GET", "/jobs/"))
        stamps = [check_time(f"created_at of {job.id}", job.created_at) for job in page.items]
        if stamps != sorted(stamps, reverse=True):
            raise Broken("the newest is not first")
        for job in page.items:
            check_job(job)

    def jobs_filter(self) -> None:
        """GET /jobs/?state= lists only jobs in that state, and refuses a state that there is not."""
        page: JobPage = self.read(JobPage, self.ask("GET", "/jobs/", query={"state": "running"}))
        others = [job.state for job in page.items if job.state != "running"]
        if others:
            raise Broken(f"asked for running, it lists {', '.join(others[:3])}")
        self.refused(self.ask("GET", "/jobs/", query={"state": "flying"}), 400, 422)

    def jobs_paging(self) -> None:
        """Pages of one job each list each job once."""
        whole: JobPage = self.read(JobPage, self.ask("GET", "/jobs/"))
        if len(whole.items) < 2:
            raise Skipped("there are less than two jobs")
        first: JobPage = self.read(JobPage, self.ask("GET", "/jobs/", query={"limit": "1"}))
        if len(first.items) != 1 or first.cursor is None:
            raise Broken("a page of one has not one job and a cursor")
        second: JobPage = self.read(JobPage, self.ask("GET", "/jobs/", query={"limit": "1", "cursor": first.cursor}))
        if [job.id for job in second.items] == [first.items[0].id]:
            raise Broken("the second page has the job of the first")

    def unknown_job(self) -> None:
        """A job that is not there is a problem: 404, for GET and DELETE."""
        self.refused(self.ask("GET", UNKNOWN_JOB), 404)
        self.refused(self.ask("DELETE", UNKNOWN_JOB), 404)

    def unknown_service(self) -> None:
        """A job of a service that is not offered is refused."""
        self.refused(self._submit("no-such-service", {}), 400, 404, 422)

    def malformed_body(self) -> None:
        """A body that is not JSON is refused: 400."""
        broken = self.ask("POST", "/jobs/", body=b'{"service": ')
        self.refused(broken, 400, 422)

    def wrong_type(self) -> None:
        """A body of another media type is refused: 415."""
        self.refused(self.ask("POST", "/jobs/", body=b"service=x", content_type="text/csv"), 415)

    def unknown_member(self) -> None:
        """A member that a job does not have is refused."""
        service = self._services().items[0].name if self._services().items else "any"
        body = {"service": service, "parameters": {}, ABSURD: 1}
        self.refused(self.ask("POST", "/jobs/", json=body), 400, 422)

    def wrong_parameters(self) -> None:
        """Parameters that the schema does not allow are refused, with their paths."""
        import jsonschema_rs

        for service in self._services().items:
            wrong: dict[str, Any] = {ABSURD: [{}]}
            try:
                allowed = jsonschema_rs.validator_for(service.parameters).is_valid(wrong)
            except (jsonschema_rs.ValidationError, ValueError):
                continue  # that is another check's to say
            if not allowed:
                problem = self.refused(self._submit(service.name, wrong), 400, 422)
                if not isinstance(problem.get("errors"), list) or not problem["errors"]:
                    raise Broken(f"of {service.name}: the problem has no errors with their paths")
                return
        raise Skipped("no service refuses unknown parameters")

    def unknown_query(self) -> None:
        """A query parameter that there is not is refused: 400."""
        self.refused(self.ask("GET", "/jobs/", query={"no_such_parameter": "1"}), 400, 422)

    def job(self) -> None:
        """POST /jobs/ is answered 202 with the job and its Location."""
        job = self._new_job()
        self._dismiss(job.id)

    def job_states(self) -> None:
        """A job goes through legal states only, and ends when it is stopped or done."""
        job = self._new_job()
        seen = job.state
        ends_itself = any(s.name == self._wishes.service and s.runs_until == "done" for s in self._services().items)
        deadline = time.monotonic() + self._wishes.patience
        stop_at = deadline - 0.7 * self._wishes.patience if ends_itself else 0.0
        while job.state not in ENDED:
            if time.monotonic() > deadline:
                raise Broken(f"it is {job.state} after {self._wishes.patience:g} s")
            if time.monotonic() > stop_at:
                self._dismiss(job.id)
                stop_at = deadline
            job = self.read(JobDocument, self.ask("GET", f"/jobs/{job.id}", query={"wait": "1s"}))
            if job.state != seen and not may_follow(seen, job.state):
                raise Broken(f"it was {seen}, then {job.state}")
            seen = job.state
            check_job(job)

    def idempotency(self) -> None:
        """The same request with the same Idempotency-Key makes one job."""
        key = f"check-{time.time_ns()}"
        first = self._new_job(key)
        second = self._new_job(key)
        self._dismiss(first.id)
        if first.id != second.id:
            self._dismiss(second.id)
            raise Broken(f"it made {first.id} and {second.id}")

    def other_request(self) -> None:
        """Another request with the same Idempotency-Key is refused."""
        key = f"check-{time.time_ns()}"
        job = self._new_job(key)
        response = self._submit("no-such-service", {}, key)
        self._dismiss(job.id)
        self.refused(response, 400, 409, 422)

    def dry_run(self) -> None:
        """POST /jobs/?dry_run makes no job."""
        wishes = self._named()
        body = {"service": wishes.service, "parameters": dict(wishes.parameters or {})}
        job: JobDocument = self.read(JobDocument, self.ask("POST", "/jobs/", query={"dry_run": "true"}, json=body))
        if self.ask("GET", f"/jobs/{job.id}").status != 404:
            raise Broken(f"it made {job.id}")

    def dismissed(self) -> None:
        """DELETE /jobs/ID stops a job: it is dismissed, if it has not ended before."""
        job = self._new_job()
        ended = self._ended(self._dismiss(job.id))
        if ended.state not in ENDED:
            raise Broken(f"it is {ended.state} after {self._wishes.patience:g} s")

    def dismissed_again(self) -> None:
        """DELETE of a job that has ended changes nothing."""
        job = self._new_job()
        before = self._ended(self._dismiss(job.id))
        after = self._dismiss(job.id)
        if (after.state, after.ended_at) != (before.state, before.ended_at):
            raise Broken(f"it was {before.state} ({before.ended_at}), then {after.state} ({after.ended_at})")

    # -- configuration and control ------------------------------------------------------------------------------------

    def config(self) -> None:
        """GET /config gives the configuration with its schema and its revision as ETag."""
        response = self.ask("GET", "/config")
        config: ConfigDocument = self.read(ConfigDocument, response)
        if response.headers.get("etag") != f'"{config.revision}"':
            raise Broken(f"the ETag is {response.headers.get('etag')!r}, the revision {config.revision}")

    def config_schema(self) -> None:
        """The configuration is what its own schema allows."""
        import jsonschema_rs

        config: ConfigDocument = self.read(ConfigDocument, self.ask("GET", "/config"))
        try:
            jsonschema_rs.validate(config.parameters, config.config)
        except (jsonschema_rs.ValidationError, ValueError) as error:
            raise Broken(str(error).splitlines()[0]) from error

    def config_conditional(self) -> None:
        """PUT /config with an If-Match that does not hold is refused: 412."""
        config: ConfigDocument = self.read(ConfigDocument, self.ask("GET", "/config"))
        headers = {"if-match": f'"{config.revision + 1_000_000}"'}
        self.refused(self.ask("PUT", "/config", json=config.config, headers=headers), 412)

    def config_unknown(self) -> None:
        """A configuration with a member that there is not is refused."""
        config: ConfigDocument = self.read(ConfigDocument, self.ask("GET", "/config"))
        answer = self.ask("PUT", "/config", query={"dry_run": "true"}, json={**config.config, ABSURD: 1})
        self.refused(answer, 400, 409, 422)

    def config_written(self) -> None:
        """PUT /config of what it is already changes nothing."""
        self._disturbing()
        before: ConfigDocument = self.read(ConfigDocument, self.ask("GET", "/config"))
        answer = self.ask("PUT", "/config", json=before.config, headers={"if-match": f'"{before.revision}"'})
        after: ConfigDocument = self.read(ConfigDocument, answer)
        if after.config != before.config:
            raise Broken("the configuration is another one now")

    def control(self) -> None:
        """GET /control says its state, and the actions that are legal."""
        control: ControlDocument = self.read(ControlDocument, self.ask("GET", "/control"))
        foreign = set(control.actions) - set(CONTROLS[control.state])
        if foreign:
            raise Broken(f"it is {control.state}, and says that it can {', '.join(sorted(foreign))}")

    def control_wait(self) -> None:
        """GET /control?wait= waits as long as nothing changes, and not for what has changed already."""
        control: ControlDocument = self.read(ControlDocument, self.ask("GET", "/control"))
        query = {"wait": "300ms", "after": str(control.revision)}
        self.read(ControlDocument, self.ask("GET", "/control", query=query))
        if control.revision > 0:
            query = {"wait": "60s", "after": str(control.revision - 1)}
            self.read(ControlDocument, self.ask("GET", "/control", query=query))

    def control_unknown(self) -> None:
        """An action that there is not is refused."""
        self.refused(self.ask("POST", "/control", json={"action": "explode"}), 400, 422)

    def control_illegal(self) -> None:
        """An action that is not legal now is refused, 409, and the legal ones are named."""
        control: ControlDocument = self.read(ControlDocument, self.ask("GET", "/control"))
        illegal = [action for action in ("resume", "pause", "drain") if action not in control.actions]
        if not illegal:
            raise Skipped("everything is legal now")
        problem = self.refused(
            self.ask("POST", "/control", query={"dry_run": "true"}, json={"action": illegal[0]}), 409
        )
        named = f"{problem.get('detail')} {problem.get('hint')}"
        if not all(action in named for action in control.actions):
            raise Broken(f"it does not name {', '.join(control.actions)}")

    def pause(self) -> None:
        """Paused, its state is paused; resumed, it runs."""
        self._disturbing()
        control: ControlDocument = self.read(ControlDocument, self.ask("GET", "/control"))
        if "pause" not in control.actions:
            raise Skipped(f"it is {control.state}, and does not offer to pause")
        self.read(ControlDocument, self.ask("POST", "/control", json={"action": "pause"}))
        paused = self.read(ControlDocument, self.ask("GET", "/control")).state
        self.read(ControlDocument, self.ask("POST", "/control", json={"action": "resume"}))
        resumed = self.read(ControlDocument, self.ask("GET", "/control")).state
        if (paused, resumed) != ("paused", "running"):
            raise Broken(f"after pause it is {paused}, after resume {resumed}")

    # -- inside -----------------------------------------------------------------------------------------------------

    def _services(self) -> OfferedServices:
        if self._offered is None:
            found: OfferedServices = self.read(OfferedServices, self.ask("GET", "/services"))
            self._offered = found
        return self._offered

    def _named(self) -> Wishes:
        if not self._wishes.service:
            raise Skipped("no service is named of which jobs may be made")
        return self._wishes

    def _disturbing(self) -> None:
        if not self._wishes.disturb:
            raise Skipped("its state is not to be changed")

    def _submit(self, service: str, parameters: Mapping[str, Any], key: str = "") -> Response:
        headers = {"idempotency-key": key} if key else {}
        return self.ask("POST", "/jobs/", json={"service": service, "parameters": dict(parameters)}, headers=headers)

    def _new_job(self, key: str = "") -> JobDocument:
        wishes = self._named()
        response = self._submit(wishes.service, wishes.parameters or {}, key)
        job: JobDocument = self.read(JobDocument, response, 202)
        location = response.headers.get("location", "")
        if not location.rstrip("/").endswith(f"/jobs/{job.id}"):
            raise Broken(f"its Location is {location!r}, not that of {job.id}")
        check_job(job)
        return job

    def _dismiss(self, number: str) -> JobDocument:
        job: JobDocument = self.read(JobDocument, self.ask("DELETE", f"/jobs/{number}"), 200, 202)
        return job

    def _ended(self, job: JobDocument) -> JobDocument:
        deadline = time.monotonic() + self._wishes.patience
        while job.state not in ENDED and time.monotonic() < deadline:
            job = self.read(JobDocument, self.ask("GET", f"/jobs/{job.id}", query={"wait": "1s"}))
        return job
