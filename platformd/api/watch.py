"""Watches over HTTP, as server-sent events or over a WebSocket: what they say, how many there are, where they begin.

Each change is one event; its ``id`` is a revision to go on from (``Last-Event-ID`` or ``?after``). Only the
last change of a revision carries that revision as its id, the ones before it carry the id before, so that a
client which is cut off between two changes of one revision misses neither. For the same reason everything
that was there at the beginning has id 0 (nothing is complete yet) until the first bookmark.

Memory is bounded by construction: one batch is taken from the conductor or the store when the one before it is
written. A client that does not read holds up its own watch only, until the server's write deadline cuts it off.

``kind_watch``, ``kv_watch``       what can be watched: resources, keys
``watch_events``, ``watch_socket`` the two forms of a watch
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Final, NamedTuple

import trio

from platformd.api.asked import asked
from platformd.api.context import ApiContext
from platformd.api.replies import Query
from platformd.core.errors import InvalidInput, LimitReached
from platformd.core.quantities import seconds

MAX_REVISION: Final = 2**63 - 1
CHUNK_BYTES: Final = 64 * 1024
"""Events of one batch are given out together up to about this size."""


class Said(NamedTuple):
    """One event of a watch."""

    name: str
    """``put``, ``added``, ``bookmark``…"""
    id: int
    """The revision to go on from."""
    data: bytes
    """JSON."""


Say = Callable[[list[Said]], Awaitable[None]]
"""How a watch gives out its events; returns when they are on their way."""


class Followed(ABC):
    """Something that can be watched.

    Args:
        after: the revision to go on from; ``None`` to begin with what is there.
    """

    def __init__(self, after: int | None) -> None:
        self.after = after
        self.safe = after or 0
        """Everything up to this revision has been given out."""

    @abstractmethod
    async def follow(self, say: Say) -> None:
        """Give out what happens, until cancelled.

        Raises:
            PlatformError: the watch cannot begin, or cannot go on.
        """


class Watches:
    """The places of all open watches.

    Args:
        context: the daemon.
        accepted: called when a watch over a WebSocket has begun.
    """

    def __init__(self, context: ApiContext, accepted: Callable[[], None]) -> None:
        self.accepted = accepted
        self.stopping = context.stopping
        """When the daemon begins to stop, watches end."""
        self.heartbeat = seconds(context.settings.http.watch_heartbeat)
        """Seconds of silence after which a stream carries a comment."""
        self._max = context.settings.http.max_watchers
        self.open = 0
        """How many there are now."""

    @contextmanager
    def place(self) -> Iterator[None]:
        """Holds the place of one watch.

        Raises:
            LimitReached: there are as many watches as may be.
        """
        self.check_room()
        self.open += 1
        try:
            yield
        finally:
            self.open -= 1

    def check_room(self) -> None:
        """See that there is a place.

        Raises:
            LimitReached: there are as many watches as may be.
        """
        if self.open >= self._max:
            raise LimitReached(
                f"{self._max} watches are open, which is the limit",
                subject="http.max_watchers",
                hint="watch several kinds on one connection (/v1/watch?kinds=a,b), or raise the limit",
            )

    async def end(self, scope: trio.CancelScope) -> None:
        """End a watch when the daemon begins to stop."""
        await self.stopping.wait()
        scope.cancel()

    @staticmethod
    async def end_when(ended: Callable[[], Awaitable[None]], scope: trio.CancelScope) -> None:
        """End a watch when whoever began it is not let in any more; asked again, they are told why."""
        await ended()
        scope.cancel()


def start_after(query: Query) -> int | None:
    """The revision to go on from; ``None`` (also for 0) to begin with what is there."""
    given = asked.headers.get("Last-Event-ID", "").strip()
    if not given:
        return query.number("after", 0, 0, MAX_REVISION) or None
    if not given.isascii() or not given.isdigit() or int(given[:20]) > MAX_REVISION:
        raise InvalidInput(f"{given[:40]!r} is not a revision", subject="Last-Event-ID")
    return int(given) or None


def check_watch(query: Query) -> Query:
    """``query``, if it asks for a watch.

    Raises:
        InvalidInput: it is not; there is nothing else to say over one.
    """
    if not query.flag("watch"):
        raise InvalidInput("only a watch is served over a WebSocket", subject=asked.path, hint="add ?watch")
    return query
