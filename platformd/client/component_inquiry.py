"""Asking a component whose answers are not believed: what is sent, and what must be true of whatever comes back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from platformd.client.blocking import Client
from platformd.client.http import Response, make_request
from platformd.core.clock import parse_rfc3339
from platformd.model.component import ENDED, JobDocument

PROBLEM = "application/problem+json"


class Broken(Exception):
    """A promise is not kept; the text says how."""


class Inquiry:
    """Requests to one component."""

    def __init__(self, client: Client, token: str) -> None:
        self._client = client
        self._headers = {"authorization": f"Bearer {token}"} if token else {}

    def ask(
        self, method: str, path: str, *, query: Mapping[str, str] | None = None, json: Any = None, **more: Any
    ) -> Response:
        """One request, whatever its answer."""
        headers = {**self._headers, **more.pop("headers", {})}
        return self._client.send(make_request(method, path, query=query, json=json, headers=headers, **more))

    def read(self, wanted: Any, response: Response, *statuses: int) -> Any:
        """A good answer as what it is to be."""
        check_status(response, *(statuses or (200,)))
        media_type = response.headers.get("content-type", "").partition(";")[0].strip().lower()
        if media_type != "application/json":
            raise Broken(f"its Content-Type is {media_type!r}, not application/json")
        try:
            return msgspec.json.decode(response.body, type=wanted)
        except (msgspec.DecodeError, ValueError) as error:
            raise Broken(f"it is not {_a(wanted.__name__)}: {error}") from error

    def refused(self, response: Response, *statuses: int) -> dict[str, Any]:
        """A refusal: a problem document with one of these statuses."""
        check_status(response, *statuses)
        media_type = response.headers.get("content-type", "").partition(";")[0].strip().lower()
        if media_type != PROBLEM:
            raise Broken(f"its Content-Type is {media_type!r}, not {PROBLEM}")
        try:
            problem = msgspec.json.decode(response.body, type=dict[str, Any])
        except (msgspec.DecodeError, ValueError) as error:
            raise Broken(f"the problem is not a JSON object: {error}") from error
        if problem.get("status") != response.status:
            raise Broken(f"the problem says status {problem.get('status')!r}, the answer {response.status}")
        for member in ("title", "detail"):
            if not isinstance(problem.get(member), str) or not problem[member]:
                raise Broken(f"the problem has no {member}")
        return problem


def check_status(response: Response, *statuses: int) -> None:
    """Whether it has one of these statuses.

    Raises:
        Broken: it has another.
    """
    if response.status not in statuses:
        wanted = " or ".join(map(str, statuses))
        raise Broken(
            f"it is answered {response.status}, not {wanted}: {response.body[:200].decode('utf-8', 'replace')}"
        )


def check_time(what: str, text: str) -> int:
    """The nanoseconds of a time.

    Raises:
        Broken: it is not an RFC 3339 time.
    """
    try:
        return parse_rfc3339(text)
    except ValueError as error:
        raise Broken(f"{what} is {text!r}, which is not an RFC 3339 time") from error


def check_job(job: JobDocument) -> None:
    """What holds for every job as it is shown."""
    stamps = {name: getattr(job, name) for name in ("created_at", "started_at", "ended_at")}
    known = [check_time(f"{name} of {job.id}", stamp) for name, stamp in stamps.items() if stamp is not None]
    if known != sorted(known):
        raise Broken(f"{job.id} began before it was made, or ended before it began")
    if (job.state in ENDED) != (job.ended_at is not None):
        raise Broken(f"{job.id} is {job.state}, and ended_at is {job.ended_at!r}")
    if job.state == "failed" and job.error is None:
        raise Broken(f"{job.id} failed without an error")
    if job.progress is not None and not 0 <= job.progress <= 1:
        raise Broken(f"the progress of {job.id} is {job.progress}, not from 0 to 1")


def _a(word: str) -> str:
    return f"an {word}" if word[:1] in "AEIOU" else f"a {word}"
