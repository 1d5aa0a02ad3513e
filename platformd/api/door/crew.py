"""Tasks that answer requests, kept instead of started for each: waking a task costs a third of starting one."""

from __future__ import annotations

import collections
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

import trio

T = TypeVar("T")


class Crew(Generic[T]):
    """At most ``size`` tasks that work jobs off, begun as they are needed.

    Args:
        nursery: where they live, until it ends.
        size: how many there are at most; further jobs wait in line.
        work: does one job. What it raises ends the nursery.
    """

    def __init__(self, nursery: trio.Nursery, size: int, work: Callable[[T], Awaitable[None]]) -> None:
        self._nursery = nursery
        self._size = size
        self._work = work
        self._members = 0
        self._jobs: collections.deque[T] = collections.deque()
        self._idle = trio.lowlevel.ParkingLot()

    def give(self, job: T) -> None:
        """Have ``job`` done, in its turn. The caller bounds how many wait."""
        self._jobs.append(job)
        if self._idle:
            self._idle.unpark()
        elif self._members < self._size:
            self._members += 1
            self._nursery.start_soon(self._member)

    async def _member(self) -> None:
        while True:
            while self._jobs:
                await self._work(self._jobs.popleft())
            await self._idle.park()
