"""The component control API: the small web API that every component of a platform answers.

One client, one checker and one screen serve all components, because each answers the same:

====================  ====================================================================================
``GET /``             its name, its version, and ``links``: where all of this is, ``openapi`` too
``GET /status``       who it is, its state, since when, and how many jobs are where
``GET /services``     what can be asked of it, each with a JSON Schema of its parameters
``GET /jobs/``        its jobs, newest first, with their numbers by state
``POST /jobs/``       a new job: 202 with its ``Location``; ``Idempotency-Key`` makes repeating it safe
``GET /jobs/ID``      one job; ``?wait=30s`` answers when it has changed state, or the time is over
``DELETE /jobs/ID``   stop it: 200 when it has ended, 202 while it is being stopped
``GET /config``       its configuration with a schema; the ETag is its revision
``PUT /config``       another configuration, whole; ``If-Match`` is honoured
``GET /control``      its state and the actions that are legal now; ``?wait=30s&after=REVISION`` waits for a change
``POST /control``     ``{"action": "pause"}``: pause, resume, drain, stop
``GET /metrics``      its counts, in the text format of Prometheus
====================  ====================================================================================

``links.openapi`` is all this as OpenAPI 3.1. Whatever goes wrong is a problem document (RFC 9457). A job is a batch
that ends, or a service that runs until it is stopped. The states of jobs are those of OGC API - Processes (accepted,
running, successful, failed, dismissed), with ``queued`` and ``paused`` beside them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Literal

import msgspec

JobState = Literal["accepted", "queued", "running", "paused", "successful", "failed", "dismissed"]
"""Where a job is."""

ComponentState = Literal["starting", "running", "paused", "draining", "stopping"]
"""How a component is: paused starts no jobs and holds those that can be held, draining takes no new ones."""

ControlAction = Literal["pause", "resume", "drain", "stop"]
"""What a component can be told."""

RunsUntil = Literal["done", "stopped"]
"""When a job of a service ends: by itself, or when somebody stops it."""

JOB_STATES: Final[tuple[JobState, ...]] = (
    "accepted", "queued", "running", "paused", "successful", "failed", "dismissed",
)  # fmt: skip
"""All of them, in the order of a job's life."""

ENDED: Final[frozenset[JobState]] = frozenset({"successful", "failed", "dismissed"})
"""The states that nothing follows."""

JOB_TRANSITIONS: Final[Mapping[JobState, frozenset[JobState]]] = {
    "accepted": frozenset({"queued", "running", "failed", "dismissed"}),
    "queued": frozenset({"running", "failed", "dismissed"}),
    "running": frozenset({"paused", "successful", "failed", "dismissed"}),
    "paused": frozenset({"running", "failed", "dismissed"}),
    "successful": frozenset(),
    "failed": frozenset(),
    "dismissed": frozenset(),
}
"""The states that may follow each."""

CONTROLS: Final[Mapping[ComponentState, Mapping[ControlAction, ComponentState]]] = {
    "starting": {"stop": "stopping"},
    "running": {"pause": "paused", "drain": "draining", "stop": "stopping"},
    "paused": {"resume": "running", "drain": "draining", "stop": "stopping"},
    "draining": {"resume": "running", "stop": "stopping"},
    "stopping": {},
}
"""What each action makes of each state. An action that a state does not have is refused, and the legal are named."""

PAGE_LIMIT: Final = 100
"""How many jobs a page of ``GET /jobs/`` has, unless asked otherwise."""
MAX_PAGE: Final = 1000
"""The most jobs on a page."""
MAX_WAIT: Final = 60.0
"""The longest wait of a long poll, in seconds; a longer wish becomes this."""


def may_follow(state: JobState, following: JobState) -> bool:
    """Whether a job that was seen in ``state`` may be seen in ``following`` later, with states in between unseen."""
    reached: set[JobState] = {state}
    while True:
        more = {after for seen in reached for after in JOB_TRANSITIONS[seen]} - reached
        if not more:
            return following in reached
        reached |= more


class _Document(msgspec.Struct, kw_only=True):
    """What goes over the wire. Members that are not known are passed over, so that components may say more."""


class JobCounts(_Document):
    """How many jobs are where."""

    today: int = 0
    """Jobs that began to run since midnight UTC."""
    accepted: int = 0
    queued: int = 0
    running: int = 0
    paused: int = 0
    successful: int = 0
    """Of those that are still kept, as are the next two."""
    failed: int = 0
    dismissed: int = 0


class ComponentStatus(_Document):
    """``GET /status``."""

    name: str
    version: str
    state: ComponentState
    started_at: str
    """RFC 3339, UTC."""
    uptime_seconds: float
    jobs: JobCounts


class OfferedService(_Document):
    """What a component does when it is asked."""

    name: str
    description: str
    parameters: dict[str, Any]
    """A JSON Schema (2020-12) of what ``POST /jobs/`` takes as ``parameters``."""
    runs_until: RunsUntil = "done"


class OfferedServices(_Document):
    """``GET /services``."""

    items: list[OfferedService]


class NewJob(_Document, forbid_unknown_fields=True):
    """``POST /jobs/``."""

    service: str
    """One of ``GET /services``."""
    parameters: dict[str, Any] = {}
    """What that service's schema says."""


class JobDocument(_Document):
    """One job."""

    id: str
    service: str
    state: JobState
    parameters: dict[str, Any]
    created_at: str
    """RFC 3339, UTC, as all of its times."""
    started_at: str | None = None
    ended_at: str | None = None
    progress: float | None = None
    """From 0 to 1, where the job knows."""
    message: str | None = None
    """What it does, or why it ended, in a sentence."""
    stopping: bool = False
    """It was told to stop, and has not ended yet."""
    result: Any = None
    """What it gave, once it is successful."""
    error: dict[str, Any] | None = None
    """Why it failed: a problem document."""


class JobPage(_Document):
    """``GET /jobs/``."""

    items: list[JobDocument]
    """Newest first."""
    jobs: JobCounts
    cursor: str | None = None
    """Where the next page begins; none when this was the last."""


class ConfigDocument(_Document):
    """``GET /config``."""

    config: dict[str, Any]
    parameters: dict[str, Any]
    """A JSON Schema of ``config``."""
    revision: int
    """Counts changes; the ETag."""


class ControlRequest(_Document, forbid_unknown_fields=True):
    """``POST /control``."""

    action: ControlAction


class ControlDocument(_Document):
    """``GET /control``."""

    state: ComponentState
    actions: list[ControlAction]
    """Those that are legal now."""
    revision: int
    """Counts changes of the state."""
