"""What controllers tell of resources: recorded as ``Event`` resources, counted when it happens again, and bounded.

Telling never waits and never fails: it goes into a bounded place in memory, and is written once a second, so that a
worker that dies ten times a second is one write a second. A kill of the daemon loses what was told in its last second.
"""

from __future__ import annotations

import logging
import re
from hashlib import blake2s
from typing import Final, Never

import msgspec
import trio

from platformd.conductor.actor import acting
from platformd.conductor.retention import Bounds
from platformd.conductor.writing import ROOT, Step, Writer
from platformd.core.errors import PlatformError
from platformd.core.ids import NewId
from platformd.core.quantities import seconds
from platformd.core.settings import EventSettings
from platformd.model.event import EVENT, About, EventSpec, EventStatus
from platformd.model.kind import subject_of
from platformd.model.resource import AnyResource, Resource, Status

log = logging.getLogger(__name__)

INTERVAL: Final = 1.0
"""Seconds between writes."""
MAX_WAITING: Final = 1024
"""Different events that wait to be written; what is beyond is counted and dropped."""
MAX_MESSAGE: Final = 1000
"""Characters of a message; what is longer is cut."""
MAX_SUBJECT: Final = 50
"""Characters of an event's name that say what it is about."""


class _Waiting:
    def __init__(self, now: str) -> None:
        self.first_at = self.last_at = now
        self.count = 0


class Events:
    """Where controllers tell what happened.

    Args:
        writer: writes them.
        new_id: for uids.
    """

    def __init__(self, writer: Writer, new_id: NewId) -> None:
        self._writer, self._new_id = writer, new_id
        self._waiting: dict[tuple[str, EventSpec], _Waiting] = {}
        self._told = trio.Event()
        self.dropped = 0
        """How many were told when there was no room for them."""

    def tell(self, about: AnyResource, reason: str, message: str = "", *, warning: bool = False) -> None:
        """Something happened to ``about``; never waits.

        Args:
            about: the resource.
            reason: one CamelCase word for programs.
            message: one sentence for people.
            warning: whether somebody should look.
        """
        spec = EventSpec(
            about=About(kind=about.kind, name=about.name, uid=about.uid),
            type="warning" if warning else "normal",
            reason=reason,
            message=" ".join(message.split())[:MAX_MESSAGE],
            source=acting().actor,
        )
        now = self._writer.now()
        key = (about.tenant, spec)
        if key not in self._waiting and len(self._waiting) >= MAX_WAITING:
            self.dropped += 1
            if self.dropped == 1:
                log.warning("%s: more than %d events wait; some are dropped", subject_of(about), MAX_WAITING)
            return
        waiting = self._waiting.setdefault(key, _Waiting(now))
        waiting.count += 1
        waiting.last_at = now
        self._told.set()

    def tell_state(self, before: AnyResource, status: Status) -> None:
        """A resource entered another state. A state with a reason is one that somebody should look at."""
        old, new = before.status.state, status.state
        if old == new:
            return  # it only was not dated before
        reason = status.reason or "".join(word.capitalize() for word in re.findall("[A-Za-z0-9]+", new))
        message = f"{old} → {new}" + (f": {status.message}" if status.message else "")
        self.tell(before, reason, message, warning=bool(status.reason))

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> Never:
        """Write what is told."""
        task_status.started()
        while True:
            await self._told.wait()
            self._told = trio.Event()
            try:
                await self.write()
            except PlatformError as error:
                log.warning("events cannot be written, and wait: %s", error)
                self._told.set()
            await trio.sleep(INTERVAL)

    async def write(self) -> None:
        """Write what was told up to now."""
        for (tenant, spec), waiting in list(self._waiting.items()):
            count = waiting.count
            await self._write(tenant, spec, waiting)
            waiting.count -= count
            if not waiting.count:
                del self._waiting[tenant, spec]

    async def _write(self, tenant: str, spec: EventSpec, waiting: _Waiting) -> None:
        name = event_name(spec)
        seen = await self._writer.look(EVENT, name, tenant)
        status = EventStatus(state="recorded", count=waiting.count, first_at=waiting.first_at, last_at=waiting.last_at)
        if seen.resource is None:
            wanted: AnyResource = Resource(
                kind=EVENT.name,
                name=name,
                tenant=tenant,
                uid=self._new_id(),
                generation=1,
                created_at=waiting.first_at,
                updated_at=waiting.first_at,
                spec=spec,
                status=status,
            )
        else:
            before: EventStatus = seen.resource.status
            again = msgspec.structs.replace(status, count=before.count + waiting.count, first_at=before.first_at)
            wanted = msgspec.structs.replace(seen.resource, status=again)
        step = Step(kind=EVENT, seen=seen, what="status", wanted=wanted)
        if await self._writer.commit([step]) is None:
            await self._write(tenant, spec, waiting)  # somebody deleted it, or another daemon counted it


def event_name(spec: EventSpec) -> str:
    """The name of the event's resource: what it is about, and a hash of all that makes it the same event."""
    digest = blake2s(msgspec.msgpack.encode(spec), digest_size=6).hexdigest()
    subject = f"{spec.about.kind.lower()}.{spec.about.name}"[:MAX_SUBJECT].rstrip("-._")
    return f"{subject}.{digest}"


def event_bounds(settings: EventSettings) -> Bounds:
    """What ``retention`` keeps of events."""
    return Bounds(
        prefix=ROOT + EVENT.name.encode() + b"/",
        object_of=lambda key: key.rpartition(b".")[0],
        per_object=settings.events_per_object,
        overall=settings.events,
        max_age=seconds(settings.max_age),
    )
