"""Event: something that happened to a resource, as a controller tells it. The same thing again is counted."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from platformd.model.kind import Column, Kind
from platformd.model.resource import Name, Status, Struct


class About(Struct, frozen=True, kw_only=True):
    """The resource that it happened to."""

    kind: str
    """Its kind: ``Pipeline``."""
    name: Name
    """Its name; it is in the event's tenant."""
    uid: str = ""
    """Its uid: a later object of that name is another."""


class EventSpec(Struct, frozen=True, kw_only=True):
    """What happened."""

    about: About
    """To what."""
    type: Literal["normal", "warning"] = "normal"
    """Whether somebody should look."""
    reason: Annotated[str, msgspec.Meta(min_length=1, max_length=63, pattern="^[A-Za-z0-9]+$")]
    """What it was, one CamelCase word for programs: ``WorkerRestarted``."""
    message: Annotated[str, msgspec.Meta(max_length=1000)] = ""
    """The same for a person, one sentence."""
    source: str = ""
    """Who tells it: ``controller:pipelines``."""


class EventStatus(Status, frozen=True, kw_only=True):
    """``recorded``, and how often it happened."""

    count: int = 1
    """How often."""
    first_at: str | None = None
    """When it happened first, RFC 3339 UTC."""
    last_at: str | None = None
    """When it happened last, RFC 3339 UTC."""


EVENT = Kind(
    name="Event",
    plural="events",
    summary="Something that happened to a resource, as a controller tells it.",
    spec=EventSpec,
    status=EventStatus,
    aliases=("ev",),
    granted=True,
    recorded=False,
    example={"about": {"kind": "Stream", "name": "alerts"}, "reason": "Moved", "message": "to the second disk"},
    filters={"kind": "spec.about.kind", "name": "spec.about.name", "type": "spec.type", "reason": "spec.reason"},
    columns=(
        Column(title="LAST", path="status.last_at", format="age"),
        Column(title="TYPE", path="spec.type"),
        Column(title="REASON", path="spec.reason"),
        Column(title="KIND", path="spec.about.kind"),
        Column(title="OBJECT", path="spec.about.name"),
        Column(title="COUNT", path="status.count", format="count"),
        Column(title="MESSAGE", path="spec.message", wide=True),
        Column(title="SOURCE", path="spec.source", wide=True),
    ),
)
