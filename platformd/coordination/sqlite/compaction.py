"""Compaction: history loses its beginning all the time, in small steps, so that it never has to stop the store.

What is kept: everything younger than ``history_age``, at least the newest ``history_revisions``, and what an open watch
still has to read, but no more than ``HOLD_FACTOR`` times the first two for the latter: a stuck watcher is told
``Compacted``, it does not fill the disk.

How old a revision is comes from *marks*: now and then the newest revision is written down with the time. All that
is not newer than a mark is at least as old as it, so nothing goes too early.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, Never

import trio

from platformd.coordination.sqlite.queue import WriteQueue
from platformd.coordination.sqlite.work import Compact, MarkTime, Shrink
from platformd.coordination.sqlite.writer import Counts, spare_pages
from platformd.core.clock import Clock
from platformd.core.errors import PlatformError

HOLD_FACTOR = 2
"""How many times as much history as usual is kept for a watch that is slow to read it."""

STEP_ROWS = 1024
"""Rows of history that go in one commit."""

STEP_PAUSE = 0.01
"""Between steps, seconds: the writer's time belongs to callers first."""

SHRINK_PAGES = 256
"""Free pages that are given back to the file system in one commit."""

_MARKS_PER_AGE = 32
_MIN_TICK, _MAX_TICK = 1.0, 300.0


class Mark(NamedTuple):
    """At this time (nanoseconds since the epoch) this was the newest revision."""

    revision: int
    time_ns: int


class Keep(NamedTuple):
    """How much history stays."""

    age: float
    """Seconds."""
    revisions: int


def tick(keep: Keep) -> float:
    """How often to mark and to look, seconds."""
    return min(max(keep.age / _MARKS_PER_AGE, _MIN_TICK), _MAX_TICK)


def target(marks: Sequence[Mark], now_ns: int, newest: int, keep: Keep, floor: int | None) -> int:
    """The revision before which history can go now.

    Args:
        marks: what is known about age, oldest first.
        now_ns: now, nanoseconds since the epoch.
        newest: the store's revision.
        keep: how much is kept.
        floor: the oldest revision that a watch still has to read; ``None`` if none has to.
    """
    usual = _before(marks, now_ns, newest, keep)
    if floor is None or floor >= usual:
        return usual
    longest = _before(marks, now_ns, newest, Keep(keep.age * HOLD_FACTOR, keep.revisions * HOLD_FACTOR))
    return min(usual, max(floor, longest))


def _before(marks: Sequence[Mark], now_ns: int, newest: int, keep: Keep) -> int:
    limit_ns = now_ns - int(keep.age * 1e9)
    old = [mark.revision for mark in marks if mark.time_ns <= limit_ns]
    by_count = newest - keep.revisions + 1
    # The newest revision itself always stays: the store's revision is read from it.
    return max(0, min(old[-1] + 1 if old else 0, by_count, newest))


async def compact_to(queue: WriteQueue, counts: Callable[[], Counts], upto: int) -> None:
    """Cut history off before revision ``upto``, step by step.

    Raises:
        PlatformError: the writer could not; the steps before that are done.
    """
    while (before := counts().compact_revision) < upto:
        await queue.submit(Compact(upto, STEP_ROWS))
        if counts().compact_revision == before:
            return
        if counts().compact_revision < upto:
            await trio.sleep(STEP_PAUSE)


class Compactor:
    """Keeps the history of one store short.

    Args:
        queue: where its work is done.
        keep: how much history stays.
        clock: where marks get their time.
        revision: tells the store's newest revision.
        floor: tells the oldest revision that a watch still has to read.
        counts: tells how the file is.
        marks: those on disk, oldest first.
    """

    def __init__(
        self,
        queue: WriteQueue,
        keep: Keep,
        clock: Clock,
        revision: Callable[[], int],
        floor: Callable[[], int | None],
        counts: Callable[[], Counts],
        marks: Sequence[Mark],
    ) -> None:
        self._queue = queue
        self._keep = keep
        self._clock = clock
        self._revision = revision
        self._floor = floor
        self._counts = counts
        self._marks = list(marks)

    async def run(self) -> Never:
        """Mark and compact, for ever."""
        while True:
            await trio.sleep(tick(self._keep))
            try:
                await self.step()
            except PlatformError:
                continue  # a full disk, most likely, which callers are told: at the next tick again

    async def step(self) -> None:
        """Mark the time, then compact and shrink as far as can be now.

        Raises:
            PlatformError: the writer could not.
        """
        await self._mark()
        upto = target(self._marks, self._clock.time_ns(), self._revision(), self._keep, self._floor())
        await compact_to(self._queue, self._counts, upto)
        self._marks = [mark for mark in self._marks if mark.revision >= self._counts().compact_revision]
        while spare := spare_pages(self._counts()):
            await self._queue.submit(Shrink(min(spare, SHRINK_PAGES)))
            await trio.sleep(STEP_PAUSE)

    async def _mark(self) -> None:
        revision, now_ns = self._revision(), self._clock.time_ns()
        # A clock that was set back leaves marks in the future, which would hold history for ever.
        self._marks = [Mark(mark.revision, min(mark.time_ns, now_ns)) for mark in self._marks]
        if not self._marks or self._marks[-1].revision < revision:
            await self._queue.submit(MarkTime(revision, now_ns))
            self._marks.append(Mark(revision, now_ns))
