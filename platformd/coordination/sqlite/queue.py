"""The bounded way from trio's tasks to the writer thread, and back.

A task hands a job in and sleeps; the writer takes what is waiting, commits it, and one callback per batch on
trio's side wakes all the tasks (``run_sync_soon`` costs a system call and a pass of the loop: per batch, not
per job).

Cancellation. A job is *waiting* until the writer takes it. Cancelling the task of a waiting job takes the
job out again: nothing was and nothing will be done. Once it is taken its outcome stands, so the task then
waits for it (one commit) in spite of the cancellation, and returns or raises it; the cancellation comes up at
the task's next checkpoint. So ``Cancelled`` out of ``submit`` always means "not done".

Bounds. At most ``max_jobs`` jobs and ``MAX_PENDING_BYTES`` of their bytes are waiting or under way; callers over
that wait in line, first come, first served.
"""

from __future__ import annotations

import collections
import threading
from collections.abc import Callable, Sequence
from typing import Any, Generic, Protocol, TypeVar

import outcome
import trio

from platformd.coordination.sqlite.txn import Overlay
from platformd.core.errors import PlatformError

MAX_PENDING_BYTES = 64 * 1024 * 1024
"""The most bytes of keys and values that wait for the writer; a single larger job goes in alone."""

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


class Work(Protocol[T_co]):
    """What a job does, in the writer thread."""

    @property
    def size(self) -> int:
        """Bytes of keys and values that it carries."""
        ...

    def apply(self, overlay: Overlay) -> T_co:
        """Work it out on the batch so far; a ``PlatformError`` refuses this job alone."""
        ...


Result = outcome.Value[T] | outcome.Error
"""What came of a job."""


class Job(Generic[T]):
    """Work on its way: what is to be done, who waits for it (a task, or a function to be called), what came of it."""

    __slots__ = ("result", "taken", "waits", "work")

    def __init__(self, work: Work[T], waits: trio.lowlevel.Task | Callable[[Result[T]], None]) -> None:
        self.work = work
        self.waits = waits
        self.taken = False
        self.result: Result[T] | None = None


class WriteQueue:
    """Jobs that wait for the writer.

    Args:
        max_jobs: the most jobs that wait or are under way.
    """

    def __init__(self, max_jobs: int) -> None:
        self._line = _Line(max_jobs, MAX_PENDING_BYTES)
        self._waiting: collections.deque[Job[Any]] = collections.deque()
        self._open: set[Job[Any]] = set()  # handed in and not answered; trio's side only
        self._lock = threading.Lock()  # holds for microseconds on both sides: never across I/O
        self._wake = threading.Event()
        self._closed: PlatformError | None = None

    # --- trio's side ---

    async def submit(self, work: Work[T]) -> T:
        """Have ``work`` done by the writer; what came of it.

        Raises:
            Unavailable: the store is stopping, or its writer failed; it was not done.
            PlatformError: what the work or its commit was refused with.
        """
        size = work.size
        await self._line.enter(size)
        try:
            if self._closed is not None:
                raise copy_of(self._closed)
            return await self._hand_over(work)
        finally:
            self._line.leave(size)

    def submit_soon(self, work: Work[T], done: Callable[[Result[T]], None]) -> bool:
        """Have ``work`` done by the writer, then call ``done`` with what came of it, without a task that waits.

        For whoever has many on their way at once: ``done`` is called on trio's side, within the one callback of the
        batch; it must neither raise nor take long. It cannot be taken back.

        Returns:
            False, and it is not done, if there is no room for it now.

        Raises:
            Unavailable: the store is stopping, or its writer failed; it was not done.
        """
        if self._closed is not None:
            raise copy_of(self._closed)
        if not self._line.try_enter(work.size):
            return False
        self._append(Job(work, done))
        return True

    def _append(self, job: Job[Any]) -> None:
        self._open.add(job)
        with self._lock:
            self._waiting.append(job)
        if not self._wake.is_set():
            self._wake.set()

    async def _hand_over(self, work: Work[T]) -> T:
        job = Job(work, trio.lowlevel.current_task())
        self._append(job)

        def abort(_: Callable[[], None]) -> trio.lowlevel.Abort:
            with self._lock:
                if job.taken:
                    return trio.lowlevel.Abort.FAILED
                self._waiting.remove(job)
            self._open.discard(job)
            return trio.lowlevel.Abort.SUCCEEDED

        result: T = await trio.lowlevel.wait_task_rescheduled(abort)
        return result

    @property
    def pending(self) -> int:
        """Jobs that wait or are under way."""
        return self._line.inside

    def close(self, reason: PlatformError) -> None:
        """Let nothing more in: what waits already is still done. Later callers get ``reason``."""
        if self._closed is None:
            self._closed = reason
        self._wake.set()

    def answer(self, jobs: Sequence[Job[Any]]) -> None:
        """Wake everyone whose job has a result (on trio's side)."""
        for job in jobs:
            if job in self._open:  # else its task was told long ago that nobody knows
                self._open.discard(job)
                assert job.result is not None
                self._tell(job, job.result)

    def abandon(self, error: PlatformError) -> None:
        """The writer does not come back: everyone who waits is told ``error``."""
        self.close(error)
        while self._open:
            self._tell(self._open.pop(), outcome.Error(copy_of(error)))

    def _tell(self, job: Job[Any], result: Result[Any]) -> None:
        if isinstance(job.waits, trio.lowlevel.Task):
            trio.lowlevel.reschedule(job.waits, result)
        else:
            self._line.leave(job.work.size)
            job.waits(result)

    # --- the writer's side ---

    def take(self, max_jobs: int, max_bytes: int, patience: float | None = None) -> list[Job[Any]] | None:
        """What is waiting, at most ``max_jobs`` and about ``max_bytes``; sleeps until there is something.

        Returns an empty list once the queue is closed and everything in it was taken; ``None`` if there was nothing for
        ``patience`` seconds.
        """
        while True:
            if not self._wake.wait(patience):
                return None
            with self._lock:
                batch = self._take_now(max_jobs, max_bytes)
                if batch or self._closed is not None:
                    return batch
                # Under the lock: a job that is appended after this sets it again.
                self._wake.clear()

    def _take_now(self, max_jobs: int, max_bytes: int) -> list[Job[Any]]:
        batch: list[Job[Any]] = []
        size = 0
        while self._waiting and len(batch) < max_jobs and (not batch or size < max_bytes):
            job = self._waiting.popleft()
            job.taken = True
            size += job.work.size
            batch.append(job)
        return batch


def copy_of(error: PlatformError) -> PlatformError:
    """The same error again: one exception object must not be raised in several tasks."""
    again = type(error)(error.message, subject=error.subject, hint=error.hint)
    again.__cause__ = error.__cause__
    return again


class _Line:
    """Admission by number and by bytes, first come, first served."""

    def __init__(self, max_jobs: int, max_bytes: int) -> None:
        self.inside = 0
        self._bytes = 0
        self._max_jobs = max_jobs
        self._max_bytes = max_bytes
        self._outside: collections.OrderedDict[trio.lowlevel.Task, int] = collections.OrderedDict()

    def _fits(self, size: int) -> bool:
        return self.inside < self._max_jobs and (self.inside == 0 or self._bytes + size <= self._max_bytes)

    def try_enter(self, size: int) -> bool:
        """Enter if there is room, and nobody waits for it."""
        if self._outside or not self._fits(size):
            return False
        self.inside += 1
        self._bytes += size
        return True

    async def enter(self, size: int) -> None:
        """Wait for room; a checkpoint only if there is none (``submit`` always has one)."""
        if self.try_enter(size):
            return
        task = trio.lowlevel.current_task()
        self._outside[task] = size

        def abort(_: Callable[[], None]) -> trio.lowlevel.Abort:
            del self._outside[task]
            self._admit()  # a smaller one behind it may fit
            return trio.lowlevel.Abort.SUCCEEDED

        await trio.lowlevel.wait_task_rescheduled(abort)

    def leave(self, size: int) -> None:
        self.inside -= 1
        self._bytes -= size
        self._admit()

    def _admit(self) -> None:
        while self._outside:
            task, size = next(iter(self._outside.items()))
            if not self._fits(size):
                return
            del self._outside[task]
            # Counted here, in its name, so that nobody slips in before it runs.
            self.inside += 1
            self._bytes += size
            trio.lowlevel.reschedule(task)
