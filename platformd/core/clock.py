"""Time as a parameter, so that tests own it.

``Clock`` is what code takes; ``SystemClock`` is the real one. Waiting is trio's own, whose test clock
jumps; this is for stamps that leave the process.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Protocol


class Clock(Protocol):
    """Where stamps come from."""

    def time_ns(self) -> int:
        """Nanoseconds since the Unix epoch (may jump)."""
        ...

    def monotonic(self) -> float:
        """Seconds since some fixed point (never goes back)."""
        ...


class SystemClock:
    """The machine's clock."""

    def time_ns(self) -> int:
        """Nanoseconds since the Unix epoch."""
        return time.time_ns()

    def monotonic(self) -> float:
        """Seconds since some fixed point."""
        return time.monotonic()


def rfc3339(time_ns: int) -> str:
    """``time_ns`` as an RFC 3339 UTC timestamp with microseconds: ``2026-01-31T12:00:00.000000Z``."""
    stamp = datetime.fromtimestamp(time_ns // 1_000_000_000, UTC)
    return f"{stamp:%Y-%m-%dT%H:%M:%S}.{time_ns % 1_000_000_000 // 1000:06d}Z"


def parse_rfc3339(text: str) -> int:
    """The nanoseconds since the epoch of an RFC 3339 timestamp.

    Raises:
        ValueError: it is not one.
    """
    stamp = datetime.fromisoformat(text)
    if stamp.tzinfo is None:
        raise ValueError(f"{text!r} has no time zone")
    whole = int(stamp.timestamp())
    return whole * 1_000_000_000 + stamp.microsecond * 1000
