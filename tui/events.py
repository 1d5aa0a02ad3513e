"""What can happen, as plain facts: the input of ``state.reduce``. Times are seconds since the epoch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

Document = Mapping[str, Any]
"""A JSON object as it came."""


@dataclass(frozen=True, slots=True)
class Connecting:
    """An attempt to reach the daemon begins."""

    now: float


@dataclass(frozen=True, slots=True)
class Connected:
    """The daemon answered ``GET /status`` and the watch is open."""

    now: float
    status: Document


@dataclass(frozen=True, slots=True)
class StatusRead:
    """A further answer to ``GET /status``."""

    now: float
    status: Document


@dataclass(frozen=True, slots=True)
class Disconnected:
    """An attempt failed or a connection was lost; the next attempt is at ``retry_at``."""

    now: float
    reason: str
    retry_at: float


@dataclass(frozen=True, slots=True)
class Listing:
    """A full listing begins: what it does not name until the next ``Bookmark`` is not there."""

    now: float


@dataclass(frozen=True, slots=True)
class Changed:
    """A resource as it is now, or was last when it is ``deleted``."""

    now: float
    type: Literal["added", "modified", "deleted"]
    resource: Document
    revision: int | None = None


@dataclass(frozen=True, slots=True)
class Bookmark:
    """Everything up to ``revision`` has been told."""

    now: float
    revision: int


@dataclass(frozen=True, slots=True)
class Tick:
    """Time went on; only sent while there is a countdown to show."""

    now: float


Event = Connecting | Connected | StatusRead | Disconnected | Listing | Changed | Bookmark | Tick
"""Any of them."""
