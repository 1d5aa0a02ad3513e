"""The client of any component: what ``platformd.model.component`` promises, as methods.

::

    with ComponentClient("http://127.0.0.1:7100") as component:
        job = component.submit("measure", {"ra": 10.7, "dec": 41.3})
        print(component.wait(job.id, timeout=60).result)
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from types import TracebackType
from typing import Any, TypeVar
from urllib.parse import quote

import msgspec

from platformd.client.blocking import Client
from platformd.client.http import Target
from platformd.core.errors import DeadlineExceeded, PlatformError
from platformd.core.ids import uuid7
from platformd.model.component import (
    ENDED,
    ComponentStatus,
    ConfigDocument,
    ControlAction,
    ControlDocument,
    JobDocument,
    JobPage,
    JobState,
    OfferedService,
    OfferedServices,
)

T = TypeVar("T")

POLL_SECONDS = 15.0
"""How long one long poll lasts at most; shorter than what a silent connection is given."""


class ComponentClient:
    """Talks to one component. Every method raises the error that the component answers with.

    Args:
        where: ``http://HOST:PORT``, ``unix:///PATH``, or a target.
        token: shown as a bearer token, if not empty.
        timeout: seconds that an answer may keep silent.
    """

    def __init__(self, where: str | Target, *, token: str = "", timeout: float = 30.0) -> None:
        self._client = Client(Target.parse(where) if isinstance(where, str) else where, timeout=timeout)
        self._headers = {"authorization": f"Bearer {token}"} if token else {}
        self._new_key = uuid7(_Now())

    def __enter__(self) -> ComponentClient:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._client.close()

    def status(self) -> ComponentStatus:
        """Who it is and how it is."""
        return self._ask(ComponentStatus, "GET", "/status")

    def services(self) -> list[OfferedService]:
        """What it offers."""
        return self._ask(OfferedServices, "GET", "/services").items

    def jobs(self, *, state: JobState | None = None, service: str = "") -> Iterator[JobDocument]:
        """Its jobs, newest first, a page at a time."""
        query = ({"state": state} if state else {}) | ({"service": service} if service else {})
        while True:
            page = self._ask(JobPage, "GET", "/jobs/", query=query)
            yield from page.items
            if page.cursor is None:
                return
            query = query | {"cursor": page.cursor}

    def submit(self, service: str, parameters: Mapping[str, Any] | None = None, *, key: str = "") -> JobDocument:
        """A new job. It has an idempotency key, so that a lost answer makes no second one.

        Args:
            service: one that it offers.
            parameters: as the service's schema says.
            key: the idempotency key; a new one if empty.
        """
        headers = {"idempotency-key": key or self._new_key()}
        body = {"service": service, "parameters": dict(parameters or {})}
        return self._ask(JobDocument, "POST", "/jobs/", json=body, headers=headers)

    def job(self, number: str, *, wait: str = "") -> JobDocument:
        """One job; with ``wait``, a duration, once its state is another one."""
        return self._ask(JobDocument, "GET", f"/jobs/{quote(number, safe='')}", query={"wait": wait} if wait else None)

    def wait(self, number: str, *, timeout: float = 3600.0) -> JobDocument:
        """The job once it has ended.

        Raises:
            DeadlineExceeded: it has not, after ``timeout`` seconds.
        """
        deadline = time.monotonic() + timeout
        job = self.job(number)
        while job.state not in ENDED:
            left = deadline - time.monotonic()
            if left <= 0:
                raise DeadlineExceeded(f"is {job.state} after {timeout:g} s", subject=f"job/{number}")
            wait = f"{max(1, int(min(left, POLL_SECONDS) * 1000))}ms"
            job = self.job(number, wait=wait)
        return job

    def dismiss(self, number: str) -> JobDocument:
        """Stop a job; it may need a moment."""
        return self._ask(JobDocument, "DELETE", f"/jobs/{quote(number, safe='')}")

    def config(self) -> ConfigDocument:
        """Its configuration."""
        return self._ask(ConfigDocument, "GET", "/config")

    def configure(self, config: Mapping[str, Any], *, expected: int | None = None) -> ConfigDocument:
        """Give it another configuration, whole; only if ``expected`` is its revision, if given."""
        headers = {} if expected is None else {"if-match": f'"{expected}"'}
        return self._ask(ConfigDocument, "PUT", "/config", json=dict(config), headers=headers)

    def control(self) -> ControlDocument:
        """Its state, and what it can be told."""
        return self._ask(ControlDocument, "GET", "/control")

    def tell(self, action: ControlAction) -> ControlDocument:
        """Pause, resume, drain, stop."""
        return self._ask(ControlDocument, "POST", "/control", json={"action": action})

    def _ask(
        self,
        wanted: type[T],
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        json: Any = None,
        headers: Mapping[str, str] | None = None,
    ) -> T:
        answer = self._client.request(
            method, path, query=query, json=json, headers={**self._headers, **(headers or {})}
        )
        try:
            return msgspec.convert(answer.json(), wanted)
        except msgspec.ValidationError as error:
            raise PlatformError(
                f"its answer is not what a component answers: {error}",
                subject=f"{method} {path}",
                hint="`platformd component check` says all that is wrong with it",
            ) from error


class _Now:
    """The machine's clock; what makes keys needs no more of one."""

    def time_ns(self) -> int:
        return time.time_ns()

    def monotonic(self) -> float:
        return time.monotonic()
