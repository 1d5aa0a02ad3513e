"""Advisories for those who listen, each with a bounded place of its own."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import msgspec
import trio

from platformd.core.clock import Clock
from platformd.queues.contract import MAX_ADVISORIES, Advisory, AdvisoryKind


class _Listener:
    def __init__(self) -> None:
        self.waiting: deque[Advisory] = deque()
        self.lost = 0
        self.arrived = trio.Event()

    def __aiter__(self) -> _Listener:
        return self

    async def __anext__(self) -> Advisory:
        while not self.waiting:
            self.arrived = trio.Event()
            await self.arrived.wait()
        advisory = self.waiting.popleft()
        if self.lost:
            told = f"{advisory.detail} ({self.lost} advisories before this one were lost: the listener was too slow)"
            advisory, self.lost = msgspec.structs.replace(advisory, detail=told), 0
        return advisory


class Advisories:
    """Tells all who listen."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._listeners: set[_Listener] = set()

    def tell(self, kind: AdvisoryKind, stream: str, consumer: str, detail: str) -> None:
        """It happened now."""
        advisory = Advisory(
            kind=kind, stream=stream, consumer=consumer, time_ns=self._clock.time_ns(), detail=detail
        )  # fmt: skip
        for listener in self._all():
            if len(listener.waiting) >= MAX_ADVISORIES:
                listener.waiting.popleft()
                listener.lost += 1
            listener.waiting.append(advisory)
            listener.arrived.set()

    @asynccontextmanager
    async def listen(self) -> AsyncIterator[AsyncIterator[Advisory]]:
        """What happens while the block runs."""
        listener = _Listener()
        self._listeners.add(listener)
        try:
            yield listener
        finally:
            self._listeners.discard(listener)

    def _all(self) -> Iterator[_Listener]:
        return iter(tuple(self._listeners))
