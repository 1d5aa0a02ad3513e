"""What was refused, to whom, and why: a bounded list for ``/v1/access/audit``, and a log that one client cannot flood.

The same refusal again is counted, not listed again; it is logged again when it has gone on for a minute. What is shown
of a request is its principal, its operation and its subject; never a header, never a token.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Iterable
from typing import Final

import msgspec

from platformd.core.clock import Clock, rfc3339
from platformd.core.errors import PlatformError
from platformd.model.access import Principal

log = logging.getLogger("platformd.access.audit")

MAX_ENTRIES: Final = 1000
"""Refusals that are remembered; the oldest are forgotten first."""
MAX_SUBJECT: Final = 256
"""Characters of what was asked for that are kept."""
AGAIN_NS: Final = 60 * 10**9
"""A refusal that goes on is logged once in so long."""


class Entry(msgspec.Struct, kw_only=True):
    """One refusal, and how often it came again."""

    who: str
    how: str
    role: str | None
    tenant: str | None
    operation: str
    subject: str
    address: str
    """From where: ``unix:PID``, an IP address."""
    code: str
    why: str
    first_at: str
    last_at: str
    count: int = 1


class Audit:
    """The refusals of one daemon.

    Args:
        clock: tells when.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._entries: OrderedDict[tuple[str, ...], tuple[Entry, int]] = OrderedDict()
        """With when each was logged last, nanoseconds."""
        self.refusals: dict[str, int] = {}
        """How many there were, by code."""

    def refused(self, principal: Principal, operation: str, address: str, error: PlatformError) -> None:
        """Put down that ``principal`` was refused ``operation``."""
        self.refusals[error.code] = self.refusals.get(error.code, 0) + 1
        now = self._clock.time_ns()
        subject = (error.subject or "")[:MAX_SUBJECT]
        key = (principal.name, operation, subject, address, error.code)
        found = self._entries.pop(key, None)
        if found is None:
            entry, logged = self._entry(principal, operation, subject, address, error, rfc3339(now)), 0
        else:
            entry, logged = found
            entry.count += 1
            entry.last_at = rfc3339(now)
        if now - logged >= AGAIN_NS:
            logged = now
            often = f" ({entry.count} times)" if entry.count > 1 else ""
            log.warning("refused %s to %s at %s: %s%s", operation, principal.name, address, error.message, often)
        self._entries[key] = (entry, logged)
        if len(self._entries) > MAX_ENTRIES:
            self._entries.popitem(last=False)

    @staticmethod
    def _entry(
        principal: Principal, operation: str, subject: str, address: str, error: PlatformError, now: str
    ) -> Entry:
        return Entry(
            who=principal.name,
            how=principal.how,
            role=principal.role,
            tenant=principal.tenant,
            operation=operation,
            subject=subject,
            address=address,
            code=error.code,
            why=error.message[:MAX_SUBJECT],
            first_at=now,
            last_at=now,
        )

    def done(self, principal: Principal, what: str) -> None:
        """Log a change of who may do what."""
        log.info("%s %s", principal.name, what)

    def entries(self) -> Iterable[Entry]:
        """The refusals, the newest first."""
        return [entry for entry, _ in reversed(self._entries.values())]
