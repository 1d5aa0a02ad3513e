"""How a value went over time: a bounded ring of samples at a fixed interval, kept by the client.

The daemon tells a value when it changes, so a ring holds a value until the next one comes. Nothing is
made up for the time without a connection: those samples are ``None``.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

LIMIT = 120
"""Samples of a ring; older ones go."""


@dataclass(frozen=True, slots=True)
class Ring:
    """Samples, the oldest first. Frozen: each change makes a new ring."""

    interval: float = 1.0
    """Seconds between samples."""
    slot: int = 0
    """The number of the newest sample: time divided by ``interval``."""
    values: tuple[float | None, ...] = ()
    held: bool = True
    """Whether the newest value still holds; not after the connection was lost."""

    def push(self, now: float, value: float) -> Ring:
        """The ring with ``value`` as the sample of the time ``now`` (seconds)."""
        ring = self.advance(now)
        values = (*ring.values[:-1], value) if ring.values else (value,)
        return replace(ring, values=values, held=True)

    def advance(self, now: float) -> Ring:
        """The ring up to the time ``now``, the newest value held (or unknown) until then."""
        slot = int(now // self.interval)
        if not self.values:
            return replace(self, slot=slot)
        missing = min(slot - self.slot, LIMIT)
        if missing <= 0:  # the same sample, or a clock that was set back
            return self
        filler = self.values[-1] if self.held else None
        return replace(self, slot=slot, values=(*self.values, *(filler,) * missing)[-LIMIT:])

    def cut(self) -> Ring:
        """The ring when the connection is lost: what comes next is unknown."""
        return replace(self, held=False)

    @property
    def last(self) -> float | None:
        """The newest sample."""
        return self.values[-1] if self.values else None

    def ago(self, seconds: float) -> float | None:
        """The sample ``seconds`` before the newest, or the oldest known one after that."""
        back = int(seconds // self.interval)
        return next((v for v in self.values[-1 - back :] if v is not None), None)


def growing(ring: Ring, over: float = 10.0) -> bool:
    """Whether the value rose over the last ``over`` seconds, by more than a twentieth of itself."""
    now, then = ring.last, ring.ago(over)
    return now is not None and then is not None and now - then > 0.05 * now
