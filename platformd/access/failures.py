"""How often an address may show what is wrong.

There is nothing to guess in 256 random bits, so this does not protect secrets: it keeps a program with an old token
from filling the log and the audit, a few hundred times a second. A right token is let in whatever was wrong before it,
for else one broken program would lock out all that come from its address.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

from platformd.core.errors import LimitReached

MAX_ADDRESSES: Final = 1024
"""Addresses that are remembered; the one that failed longest ago is forgotten first."""
WINDOW: Final = 60.0
"""Seconds in which so many failures are answered one by one."""


class Failures:
    """Failures by address: a bucket that fills with each and leaks evenly.

    Args:
        limit: failures in ``WINDOW`` seconds; then each is told to wait.
        now: seconds that only grow.
    """

    def __init__(self, limit: int, now: Callable[[], float]) -> None:
        self._limit, self._now = limit, now
        self._seen: OrderedDict[str, tuple[float, float]] = OrderedDict()
        """Address → (when it failed last, how full its bucket was then)."""

    def __len__(self) -> int:
        return len(self._seen)

    def count(self, address: str) -> None:
        """One more failure of ``address``.

        Raises:
            LimitReached: there were too many; ``details`` has ``retry_after`` in seconds.
        """
        now = self._now()
        last, level = self._seen.pop(address, (now, 0.0))
        level = max(0.0, level - (now - last) * self._limit / WINDOW)
        over = level + 1 > self._limit
        self._seen[address] = (now, level if over else level + 1)
        if len(self._seen) > MAX_ADDRESSES:
            self._seen.popitem(last=False)
        if over:
            wait = math.ceil((level + 1 - self._limit) * WINDOW / self._limit)
            raise LimitReached(
                f"{self._limit} wrong tokens a minute came from there, which is access.max_failures",
                subject=address,
                hint=f"wait {wait} s, and show a token that is valid",
                details={"retry_after": wait},
            )
