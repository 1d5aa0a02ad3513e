"""When to keep a lease alive, and how long one may rely on it: decisions without a clock or a connection.

The store's promise is that a lease lasts at least its time to live from the moment that the store *received* the
last keep-alive. The holder knows that moment only from below: it is not earlier than when the holder *asked*. So
what may be relied on ends one time to live after the last question that was answered, whatever became of the later
ones. An unanswered question proves nothing either way; it is asked again, soon, until that moment has passed.
Then the lease is possibly lost, and whoever holds something by it must stop as if it were.
"""

from __future__ import annotations

from typing import Final

KEEP_FRACTION: Final = 1 / 3
"""A keep-alive is due after this part of the time to live: two may fail before the lease is at risk."""
RETRY_FRACTION: Final = 1 / 10
"""After a failure the next one is due after this part of the time to live,"""
MAX_RETRY: Final = 1.0
"""but not later than this, seconds."""


class Keeping:
    """One lease, as its holder may see it. All times are seconds of one monotonic clock.

    Args:
        asked_at: when the grant (or the first keep-alive) was asked for.
        ttl: the time to live that was granted.
    """

    def __init__(self, asked_at: float, ttl: float) -> None:
        self.kept(asked_at, ttl)

    def kept(self, asked_at: float, ttl: float) -> None:
        """A question that was asked at ``asked_at`` has been answered with a time to live."""
        self.ttl = ttl
        self.deadline = asked_at + ttl
        """Until when the lease may be relied on."""
        self.due = asked_at + ttl * KEEP_FRACTION
        """When to ask next."""

    def failed(self, now: float) -> None:
        """A question was not answered."""
        self.due = min(now + min(self.ttl * RETRY_FRACTION, MAX_RETRY), self.deadline)

    def over(self, now: float) -> bool:
        """Whether the lease may not be relied on any more."""
        return now >= self.deadline
