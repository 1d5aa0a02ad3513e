"""When a request is sent again, so that a restart of the daemon is not an error for its programs; no I/O.

What was certainly not done (nobody answered, or ``503`` or ``429`` said so) may always be sent again. What may have
been done is sent again only where twice is the same as once: reading, a plain PUT, and a POST with an
``Idempotency-Key``, which the daemon answers a second time without doing it. Conditional writes and DELETE are not:
their second answer would be a false report.
"""

from __future__ import annotations

import random
import secrets
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

from platformd.client.http import Request, Response
from platformd.client.problems import problem_of
from platformd.core.errors import (
    DeadlineExceeded,
    KeyInUse,
    LimitReached,
    OutcomeUnknown,
    PlatformError,
    Unavailable,
)

KEY: Final = "idempotency-key"
"""The header that makes a POST repeatable."""


@dataclass(frozen=True, kw_only=True)
class Retry:
    """How long, and how often, a request is tried again."""

    within: float = 15.0
    """Seconds from the first attempt to the last; 0: only one."""
    first: float = 0.05
    """Seconds before the second attempt; doubled each time, with jitter."""
    longest: float = 1.0
    """The longest wait between two attempts."""


NEVER: Final = Retry(within=0.0)
"""One attempt."""


class Attempts:
    """The attempts of one request.

    Args:
        request: what is to be sent; ``request`` is what is sent, each time.
        retry: how long it is tried.
        clock: seconds, as of ``time.monotonic`` or ``trio.current_time``.
        jitter: a number from 0 to 1.
    """

    def __init__(
        self, request: Request, retry: Retry, clock: Callable[[], float], jitter: Callable[[], float] = random.random
    ) -> None:
        if retry.within and request.method == "POST" and not _has_key(request):
            request = replace(request, headers=(*request.headers, (KEY, secrets.token_hex(16))))
        self.request = request
        self._retry, self._clock, self._jitter = retry, clock, jitter
        self._begun = clock()
        self._failed = 0

    def after_answer(self, response: Response) -> float | None:
        """Seconds to wait before the next attempt, after ``response``; ``None`` when it is the answer."""
        if response.status < 400:
            return None
        return self.after_error(problem_of(response.status, response.headers, response.body))

    def after_error(self, error: PlatformError) -> float | None:
        """Seconds to wait before the next attempt, after ``error``; ``None`` when it is to be raised."""
        if not self._may_repeat(error):
            return None
        wait: float = min(self._retry.longest, self._retry.first * 2.0**self._failed) * (0.5 + self._jitter() / 2)
        if self._clock() + wait - self._begun > self._retry.within:
            return None
        self._failed += 1
        return wait

    def _may_repeat(self, error: PlatformError) -> bool:
        if type(error) in (Unavailable, LimitReached):
            return True
        if isinstance(error, KeyInUse):
            return self._failed > 0  # the first request is ours
        return isinstance(error, OutcomeUnknown | DeadlineExceeded) and self.request.repeatable


def _has_key(request: Request) -> bool:
    return any(name == KEY for name, _ in request.headers)
