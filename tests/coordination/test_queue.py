"""The way to the writer thread: its bounds, its order, and what a cancellation means. The test plays the writer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import outcome
import pytest
import trio
import trio.testing

from platformd.coordination.sqlite import queue as queue_module
from platformd.coordination.sqlite.queue import Job, WriteQueue
from platformd.coordination.sqlite.txn import Overlay
from platformd.core.errors import OutcomeUnknown, Unavailable


@dataclass(frozen=True)
class Nothing:
    """Work that is never done here, only carried."""

    name: int = 0
    size: int = 1

    def apply(self, overlay: Overlay) -> None:
        raise AssertionError


def take(queue: WriteQueue, max_jobs: int = 100, max_bytes: int = 10**9) -> list[Job[Any]]:
    """Take what is waiting, as the writer does; there must be something."""
    jobs = queue.take(max_jobs, max_bytes, patience=0)
    assert jobs
    return jobs


def answer(queue: WriteQueue, jobs: list[Job[Any]]) -> None:
    for job in jobs:
        job.result = outcome.Value(job.work)
    queue.answer(jobs)


async def test_jobs_are_taken_in_order_and_bounded() -> None:
    """The writer gets jobs in the order in which they came, as many as it asks for, by number and by bytes."""
    queue = WriteQueue(100)
    async with trio.open_nursery() as nursery:
        for number in range(10):
            nursery.start_soon(queue.submit, Nothing(number, 10))
            await trio.testing.wait_all_tasks_blocked()
        batches = [take(queue, max_jobs=4), take(queue, max_bytes=25), take(queue)]
        assert [[job.work.name for job in batch] for batch in batches] == [[0, 1, 2, 3], [4, 5, 6], [7, 8, 9]]
        for batch in batches:
            answer(queue, batch)


async def test_cancelled_while_waiting_is_not_done() -> None:
    """A job whose task is cancelled before the writer took it is never seen by the writer."""
    queue = WriteQueue(100)
    async with trio.open_nursery() as nursery:
        with trio.CancelScope() as scope:
            nursery.start_soon(trio.lowlevel.checkpoint)
            scope.cancel()
            await queue.submit(Nothing(1))
        assert scope.cancelled_caught
        nursery.start_soon(queue.submit, Nothing(2))
        await trio.testing.wait_all_tasks_blocked()
        jobs = take(queue)
        assert [job.work.name for job in jobs] == [2]
        answer(queue, jobs)
    assert queue.pending == 0


async def test_cancelled_when_taken_waits_for_the_outcome() -> None:
    """A job that the writer has is answered in spite of a cancellation, which comes at the next checkpoint."""
    queue = WriteQueue(100)
    reached: list[object] = []
    async with trio.open_nursery() as nursery:
        scope = trio.CancelScope()

        async def write() -> None:
            with scope:
                reached.append(await queue.submit(Nothing(1)))
                await trio.lowlevel.checkpoint()
                reached.append("never")

        nursery.start_soon(write)
        await trio.testing.wait_all_tasks_blocked()
        jobs = take(queue)
        scope.cancel()
        await trio.testing.wait_all_tasks_blocked()
        assert reached == []
        answer(queue, jobs)
    assert reached == [Nothing(1)]


async def test_callers_wait_in_line_when_it_is_full(monkeypatch: pytest.MonkeyPatch) -> None:
    """At most so many jobs and bytes are inside; the others wait and come in first come, first served."""
    monkeypatch.setattr(queue_module, "MAX_PENDING_BYTES", 10)
    queue = WriteQueue(3)
    order: list[int] = []

    async def submit(name: int, size: int) -> None:
        await queue.submit(Nothing(name, size))
        order.append(name)

    async with trio.open_nursery() as nursery:
        for name, size in enumerate((4, 4, 4, 1, 50, 1)):
            nursery.start_soon(submit, name, size)
            await trio.testing.wait_all_tasks_blocked()
        taken: list[list[int]] = []
        while len(order) < 6:
            jobs = take(queue)
            taken.append(sorted(job.work.name for job in jobs))  # those let in together run in any order
            answer(queue, jobs)
            await trio.testing.wait_all_tasks_blocked()
    assert taken == [[0, 1], [2, 3], [4], [5]]
    assert queue.pending == 0


async def test_leaving_the_line_lets_the_next_one_in(monkeypatch: pytest.MonkeyPatch) -> None:
    """A caller that gives up in the line does not hold up a smaller one behind it."""
    monkeypatch.setattr(queue_module, "MAX_PENDING_BYTES", 10)
    queue = WriteQueue(5)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(queue.submit, Nothing(0, 6))
        await trio.testing.wait_all_tasks_blocked()
        scope = trio.CancelScope()

        async def large() -> None:
            with scope:
                await queue.submit(Nothing(1, 6))

        nursery.start_soon(large)
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(queue.submit, Nothing(2, 2))
        await trio.testing.wait_all_tasks_blocked()
        assert queue.pending == 1
        scope.cancel()
        await trio.testing.wait_all_tasks_blocked()
        jobs = take(queue)
        assert [job.work.name for job in jobs] == [0, 2]
        answer(queue, jobs)


async def test_closed_queue_runs_dry() -> None:
    """What is inside when it is closed is still taken; who comes later is refused; then the writer is let go."""
    queue = WriteQueue(10)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(queue.submit, Nothing(1))
        await trio.testing.wait_all_tasks_blocked()
        queue.close(Unavailable("stopping"))
        with pytest.raises(Unavailable, match="stopping"):
            await queue.submit(Nothing(2))
        jobs = take(queue)
        assert [job.work.name for job in jobs] == [1]
        answer(queue, jobs)
    assert queue.take(1, 1) == []


def test_writer_is_told_when_there_is_nothing() -> None:
    """With patience the writer does not sleep for ever on an empty queue."""
    assert WriteQueue(1).take(1, 1, patience=0) is None


async def test_abandoned_jobs_are_told_and_late_answers_ignored() -> None:
    """When the writer is given up, everyone is told that the outcome is unknown; its late answer harms nobody."""
    queue = WriteQueue(10)

    async def submit() -> None:
        with pytest.raises(OutcomeUnknown, match="stuck"):
            await queue.submit(Nothing(1))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(submit)
        nursery.start_soon(submit)
        await trio.testing.wait_all_tasks_blocked()
        jobs = take(queue, max_jobs=1)
        queue.abandon(OutcomeUnknown("the disk is stuck"))
    answer(queue, jobs)
