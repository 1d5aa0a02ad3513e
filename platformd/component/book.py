"""The book of jobs: what there is, what may follow, what is kept. No waiting, no clock of its own.

Jobs live in memory, like the component: work that must outlive it belongs into a stream.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import msgspec

from platformd.core.clock import Clock, rfc3339
from platformd.core.errors import Conflict, InvalidInput, LimitReached, NotFound, Unprocessable
from platformd.core.ids import NewId
from platformd.model.component import ENDED, JOB_TRANSITIONS, JobCounts, JobDocument, JobPage, JobState


class _Key(NamedTuple):
    fingerprint: bytes
    job: str


class Book:
    """All jobs of a component.

    Args:
        clock: of their stamps.
        new_id: of their ids, which sort by age.
        max_queued: jobs that wait at once.
        max_ended: jobs that are kept after their end.
        max_keys: idempotency keys that are remembered.
        changed: called when a job is another one.
    """

    def __init__(
        self,
        clock: Clock,
        new_id: NewId,
        *,
        max_queued: int,
        max_ended: int,
        max_keys: int,
        changed: Callable[[], None] = lambda: None,
    ) -> None:
        self._clock, self._new_id, self._changed = clock, new_id, changed
        self._max_queued, self._max_ended, self._max_keys = max_queued, max_ended, max_keys
        self._jobs: OrderedDict[str, JobDocument] = OrderedDict()
        self._waiting: OrderedDict[str, None] = OrderedDict()
        self._ended: OrderedDict[str, None] = OrderedDict()
        self._keys: OrderedDict[str, _Key] = OrderedDict()
        self._places: dict[str, int] = {}  # each job's number in the order of their making
        self._made = 0
        self._today = ("", 0)

    # -- reading ----------------------------------------------------------------------------------------------------

    def get(self, number: str) -> JobDocument:
        """One job.

        Raises:
            NotFound: there is none of that id, or it ended so long ago that it is forgotten.
        """
        try:
            return self._jobs[number]
        except KeyError:
            raise NotFound(
                "is not there", subject=f"job/{number}", hint="see GET /jobs/; old jobs are forgotten"
            ) from None

    def __iter__(self) -> Iterator[JobDocument]:
        return iter(self._jobs.values())

    def next_waiting(self) -> JobDocument | None:
        """The job that has waited longest."""
        return self._jobs[next(iter(self._waiting))] if self._waiting else None

    def counts(self) -> JobCounts:
        """How many are where."""
        found: dict[str, int] = {}
        for job in self._jobs.values():
            found[job.state] = found.get(job.state, 0) + 1
        day, today = self._today
        return JobCounts(today=today if day == self._day() else 0, **found)

    def page(self, *, limit: int, cursor: str, state: JobState | None, service: str) -> JobPage:
        """Jobs, newest first.

        Raises:
            InvalidInput: the cursor is not one of ours.
        """
        if cursor and not (cursor.isascii() and cursor.isdigit() and len(cursor) < 19):
            raise InvalidInput("is not a cursor of this listing", subject="cursor", hint="list again from the start")
        before = int(cursor) if cursor else self._made + 1
        items: list[JobDocument] = []
        for job in reversed(self._jobs.values()):
            if self._places[job.id] < before and state in (None, job.state) and service in ("", job.service):
                if len(items) == limit:
                    return JobPage(items=items, jobs=self.counts(), cursor=str(self._places[items[-1].id]))
                items.append(job)
        return JobPage(items=items, jobs=self.counts())

    # -- writing ----------------------------------------------------------------------------------------------------

    def known(self, key: str | None, fingerprint: bytes) -> JobDocument | None:
        """The job that was made with ``key`` before.

        Raises:
            Unprocessable: another request was made with it.
        """
        found = self._keys.get(key) if key is not None else None
        if found is None:
            return None
        if found.fingerprint != fingerprint:
            raise Unprocessable(
                "was used for another request before",
                subject="Idempotency-Key",
                hint="take a new key for a new request",
            )
        return self._jobs.get(found.job)

    def check_room(self) -> None:
        """Whether another job may wait.

        Raises:
            LimitReached: too many do.
        """
        if len(self._waiting) >= self._max_queued:
            raise LimitReached(
                f"{self._max_queued} jobs wait already; max_queued is {self._max_queued}",
                subject="jobs",
                hint="try again when some have ended",
            )

    def draft(self, service: str, parameters: dict[str, Any]) -> JobDocument:
        """A job that is not in the book."""
        return JobDocument(
            id=self._new_id(), service=service, state="accepted", parameters=parameters, created_at=self._now()
        )

    def add(self, job: JobDocument, key: str | None = None, fingerprint: bytes = b"") -> JobDocument:
        """Take a job in, to wait; what was made with ``key`` is known from now on."""
        job = self._jobs[job.id] = msgspec.structs.replace(job, state="queued")
        self._waiting[job.id] = None
        self._made += 1
        self._places[job.id] = self._made
        if key is not None:
            self._keys[key] = _Key(fingerprint, job.id)
            self._keys.move_to_end(key)
            while len(self._keys) > self._max_keys:
                self._keys.popitem(last=False)
        self._changed()
        return job

    def move(self, number: str, state: JobState, **members: Any) -> JobDocument:
        """A job is in another state now.

        Raises:
            Conflict: that cannot follow; the hint names what can.
        """
        job = self._jobs[number]
        if state not in JOB_TRANSITIONS[job.state]:
            legal = ", ".join(sorted(JOB_TRANSITIONS[job.state])) or "nothing"
            raise Conflict(f"is {job.state}, and cannot be {state}", subject=f"job/{number}", hint=f"legal: {legal}")
        now = self._now()
        if state == "running" and job.started_at is None:
            members["started_at"] = now
            day = self._day()
            self._today = (day, self._today[1] + 1 if self._today[0] == day else 1)
        if state in ENDED:
            members |= {"ended_at": now, "stopping": False}
            self._ended[number] = None
        self._waiting.pop(number, None)
        self._jobs[number] = job = msgspec.structs.replace(job, state=state, **members)
        while len(self._ended) > self._max_ended:
            oldest, _ = self._ended.popitem(last=False)
            del self._jobs[oldest], self._places[oldest]
        self._changed()
        return job

    def note(self, number: str, **members: Any) -> JobDocument:
        """A job says more of itself."""
        job = self._jobs[number] = msgspec.structs.replace(self._jobs[number], **members)
        return job

    def _now(self) -> str:
        return rfc3339(self._clock.time_ns())

    def _day(self) -> str:
        return self._now()[:10]
