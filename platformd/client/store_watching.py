"""Where a watch of the store stands, whatever happens to its connection; no I/O.

Received batches wait here for the program to take them. How many bytes may be on their way or waiting is bounded: the
server may send ``WINDOW`` bytes, and gets new credit for what the program has taken. So a program that is slow
holds back this watch alone: at the server it is then served from history.
"""

from __future__ import annotations

import collections
from typing import Any, Final

from platformd.coordination.codec.replies import EventsReply
from platformd.coordination.contract import EventType, WatchBatch

WINDOW: Final = 256 * 1024
"""Bytes of a watch's batches that are received but not taken, or on their way; one batch may go beyond it."""


class WatchCore:
    """One watch of [key, end); see ``Store.watch``."""

    def __init__(
        self, key: bytes, end: bytes | None, start_revision: int, *, previous: bool, only: EventType | None
    ) -> None:
        self.id = 0
        """On the present connection."""
        self.error: Exception | None = None
        """What ended it."""
        self.in_place = False
        """Whether it was, once: what is acknowledged from then on will be seen."""
        self.waiter: Any = None
        """The shell's own."""
        self._key, self._end, self._start = key, end, start_revision
        self._previous, self._only = previous, only
        self._seen = 0
        """Everything up to this revision was received."""
        self._batches: collections.deque[tuple[WatchBatch | EventsReply, int]] = collections.deque()
        self._held = 0
        """Bytes of ``_batches``."""
        self._window = WINDOW
        self._granted = 0
        """The server's credit, as far as is known here."""

    def request(self, max_credit: int) -> tuple[Any, ...]:
        """What to ask for now, after the id: all, or what comes after what was received."""
        self._window = min(WINDOW, max_credit)
        self._granted = self._window - self._held
        start = self._seen + 1 if self.in_place else self._start
        return (self._key, self._end, start, self._previous, self._only, self._granted)

    def begin(self, revision: int) -> None:
        """It is in place, and begins after ``revision``."""
        if not self.in_place:  # else it goes on after a lost connection, from where it was
            self.in_place, self._seen = True, revision
            self._batches.append((WatchBatch(revision=revision), 0))

    def add(self, reply: EventsReply, size: int) -> None:
        """Take a batch that came."""
        self._granted -= size
        if reply.revision > self._seen or reply.events:  # else it is the bookmark of where it goes on
            self._seen = max(self._seen, reply.revision)
            self._batches.append((reply, size))
            self._held += size

    def next(self) -> WatchBatch | None:
        """The next batch for the program; ``None`` until there is one.

        Raises:
            Exception: what ended the watch, after all that came before.
        """
        if self._batches:
            batch, size = self._batches.popleft()
            self._held -= size
            return batch if isinstance(batch, WatchBatch) else batch.fact
        if self.error is not None:
            raise self.error
        return None

    def credit_due(self) -> int:
        """How much credit to give the server now; 0 while it is not worth a message."""
        due = self._window - self._held - self._granted
        if due < self._window // 2:
            return 0
        self._granted += due
        return due
