"""Advisories for those who listen, each with a bounded place of its own, and the daemon's log of them."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Never

import msgspec
import trio

from platformd.queues.contract import MAX_ADVISORIES, Advisory, Streams

GOOD_NEWS = ("resumed",)
"""Kinds that are no reason to worry."""

log = logging.getLogger("platformd.queues")


class Advisories:
    """Tells all who listen."""

    def __init__(self) -> None:
        self._listeners: set[_Listener] = set()

    def tell(self, advisory: Advisory) -> None:
        """Tell everybody; never waits."""
        for listener in self._listeners:
            listener.put(advisory)

    @asynccontextmanager
    async def listen(self) -> AsyncIterator[AsyncIterator[Advisory]]:
        """What happens while the block runs."""
        listener = _Listener()
        self._listeners.add(listener)
        try:
            yield listener
        finally:
            self._listeners.discard(listener)


class _Listener:
    def __init__(self) -> None:
        self._waiting: deque[Advisory] = deque()
        self._lost = 0
        self._arrived = trio.Event()

    def put(self, advisory: Advisory) -> None:
        if len(self._waiting) == MAX_ADVISORIES:
            self._waiting.popleft()
            self._lost += 1
        self._waiting.append(advisory)
        self._arrived.set()

    def __aiter__(self) -> _Listener:
        return self

    async def __anext__(self) -> Advisory:
        await trio.lowlevel.checkpoint()
        while not self._waiting:
            self._arrived = trio.Event()
            await self._arrived.wait()
        advisory, lost = self._waiting.popleft(), self._lost
        self._lost = 0
        return with_lost(advisory, lost)


def with_lost(advisory: Advisory, lost: int) -> Advisory:
    """``advisory``, saying how many before it were lost."""
    if not lost:
        return advisory
    return msgspec.structs.replace(advisory, detail=f"{advisory.detail} ({lost} advisories before this one were lost)")


async def log_advisories(streams: Streams, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> Never:
    """Write each into the daemon's log."""
    async with streams.advisories() as advisories:
        task_status.started()
        async for advisory in advisories:
            level = logging.INFO if advisory.kind in GOOD_NEWS else logging.WARNING
            whose = f"{advisory.stream}/{advisory.consumer}" if advisory.consumer else advisory.stream
            log.log(level, "%s: %s: %s", whose, advisory.kind, advisory.detail)
    raise AssertionError("advisories do not end")
