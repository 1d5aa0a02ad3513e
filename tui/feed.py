"""The connection to the daemon: it attaches, follows, and attaches again, for as long as the terminal is open.

Losing the daemon is an event like any other, never an end: attempts are spaced by a random back-off, so
that many terminals do not come back in step. After a lost connection the watch goes on where it was, as
long as the same process answers; a restarted daemon (or one on another state directory) is listed anew.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any, Final, Never

from platformd.client.aio import Client, Watch
from platformd.client.http import Target
from platformd.client.watching import WatchState
from platformd.core.errors import Gone, PlatformError

from .events import Bookmark, Changed, Connected, Connecting, Disconnected, Event, Listing, StatusRead
from .facts import Daemon, read_daemon

KINDS: Final = ("nodes", "streams", "pipelines")
"""What is followed."""
STATUS_INTERVAL: Final = 5.0
"""Seconds between two readings of ``GET /status``; also how soon a hung daemon is noticed."""
ANSWER_TIMEOUT: Final = 5.0
"""Seconds that an answer may take before the daemon counts as lost."""
FIRST_DELAY, MOST_DELAY = 0.25, 5.0
"""Seconds before the first new attempt, and the most before any."""


class Backoff:
    """How long to wait before the next attempt: doubling, and each time between a half and the whole."""

    def __init__(
        self, first: float = FIRST_DELAY, most: float = MOST_DELAY, chance: Callable[[], float] = random.random
    ) -> None:
        self._first, self._most, self._chance = first, most, chance
        self._delay = first

    def next(self) -> float:
        """Seconds to wait now."""
        delay, self._delay = self._delay, min(self._most, self._delay * 2)
        return delay * (0.5 + 0.5 * self._chance())

    def reset(self) -> None:
        """All is well again."""
        self._delay = self._first


class Feed:
    """Turns a daemon's control API into events.

    Args:
        target: where the daemon is.
        emit: takes each event, at once and in order.
        backoff: how attempts are spaced.
        now: seconds since the epoch.
        status_interval: seconds between two readings of the status.
        answer_timeout: seconds that an answer may take before the daemon counts as lost.
    """

    def __init__(
        self,
        target: Target,
        emit: Callable[[Event], None],
        *,
        backoff: Backoff | None = None,
        now: Callable[[], float] = time.time,
        status_interval: float = STATUS_INTERVAL,
        answer_timeout: float = ANSWER_TIMEOUT,
    ) -> None:
        self.target = target
        self.now = now
        self._emit, self._backoff = emit, backoff or Backoff()
        self._status_interval, self._answer_timeout = status_interval, answer_timeout
        self._kick = asyncio.Event()
        self._watch: WatchState | None = None
        self._daemon: Daemon | None = None

    def reconnect_now(self) -> None:
        """Try at once, giving up the present connection or the wait for the next attempt."""
        self._kick.set()

    async def run(self) -> Never:
        """Follow the daemon until cancelled."""
        while True:
            self._kick.clear()
            self._emit(Connecting(self.now()))
            try:
                await self._session()
                reason, delay = "reconnecting as asked", 0.0
            except Gone as error:
                # Only what was resumed can be gone: start over at once, unless that is what failed.
                resumed = self._watch is not None and self._watch.after is not None
                reason, delay = error.message, 0.0 if resumed else self._backoff.next()
                self._watch = None
            except PlatformError as error:
                reason, delay = error.message, self._backoff.next()
            self._emit(Disconnected(self.now(), reason, self.now() + delay))
            if delay:
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._kick.wait(), delay)

    async def _session(self) -> None:
        """One connection, until it is lost (raises ``PlatformError``) or given up (returns)."""
        timeout = self._answer_timeout
        async with Client(self.target, connect_timeout=timeout, timeout=timeout) as client:
            await _first_of(self._attached(client), self._kick.wait())

    async def _attached(self, client: Client) -> None:
        status = await client.status()
        daemon = read_daemon(status, self.now())
        if self._watch is None or self._daemon is None or not daemon.same_run(self._daemon):
            self._watch = WatchState(KINDS)
        self._daemon = daemon
        async with client.watch(self._watch) as changes:
            self._emit(Connected(self.now(), status))
            if self._watch.after is None:
                self._emit(Listing(self.now()))
            await _first_of(self._follow(changes), self._poll(client))

    async def _follow(self, changes: Watch) -> None:
        async for batch in changes:
            self._backoff.reset()
            for change in batch:
                if change.type == "bookmark":
                    self._emit(Bookmark(self.now(), change.revision))
                else:
                    self._emit(Changed(self.now(), change.type, change.document, change.revision))

    async def _poll(self, client: Client) -> None:
        while True:
            await asyncio.sleep(self._status_interval)
            self._emit(StatusRead(self.now(), await client.status()))


async def _first_of(*parts: Coroutine[Any, Any, object]) -> None:
    """Run ``parts`` together until one ends or fails; the others are cancelled."""
    tasks = [asyncio.ensure_future(part) for part in parts]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    for task in done:
        task.result()
