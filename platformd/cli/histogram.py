"""Latencies in a few hundred counters: exact to 3 %, merged by adding, drawn as text.

Values are whole microseconds. Below 64 each has a counter of its own; above, every power of two has 32 (HdrHistogram's
layout), so a counter's values differ by less than 1/32.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from platformd.core.quantities import format_seconds

_BITS: Final = 5
_EXACT: Final = 1 << (_BITS + 1)
QUANTILES: Final = (("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("p99.9", 0.999))
"""What is reported, by its name."""
BAR: Final = 40
"""Characters of the longest bar."""
ROWS: Final = 16
"""Rows of a plot at most; what is beyond them is in the last one."""


class Histogram:
    """Counts values."""

    def __init__(self) -> None:
        self._counts: dict[int, int] = {}
        self.count = 0
        self.total = 0
        """Sum of all values, microseconds."""
        self.maximum = 0

    def add(self, microseconds: int, times: int = 1) -> None:
        """Count a value; a clock that went back counts as 0."""
        value = max(microseconds, 0)
        index = _index(value)
        self._counts[index] = self._counts.get(index, 0) + times
        self.count += times
        self.total += value * times
        self.maximum = max(self.maximum, value)

    def merge(self, other: Histogram) -> None:
        """Add all that ``other`` has counted."""
        for index, times in other._counts.items():
            self._counts[index] = self._counts.get(index, 0) + times
        self.count += other.count
        self.total += other.total
        self.maximum = max(self.maximum, other.maximum)

    def quantile(self, part: float) -> int:
        """The least value, microseconds, that at least ``part`` of all are not above; 0 when there are none."""
        wanted, seen = part * self.count, 0
        for index in sorted(self._counts):
            seen += self._counts[index]
            if seen >= wanted:
                return min(_highest(index), self.maximum)
        return self.maximum

    def summary(self) -> dict[str, Any]:
        """Seconds, by name; for documents."""
        if not self.count:
            return {"count": 0}
        quantiles = {name: self.quantile(part) / 1e6 for name, part in QUANTILES}
        return {"count": self.count, "mean": self.total / self.count / 1e6, **quantiles, "max": self.maximum / 1e6}

    def to_document(self) -> dict[str, Any]:
        """All of it, to be given to another process."""
        return {"counts": sorted(self._counts.items()), "total": self.total, "maximum": self.maximum}

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> Histogram:
        """What ``to_document`` said."""
        made = cls()
        made._counts = {int(index): int(times) for index, times in document["counts"]}
        made.count = sum(made._counts.values())
        made.total, made.maximum = int(document["total"]), int(document["maximum"])
        return made

    def plot(self) -> list[str]:
        """A line for each doubling of the latency, with a bar of its part."""
        rows: dict[int, int] = {}
        for index, times in self._counts.items():
            octave = _highest(index).bit_length()
            rows[octave] = rows.get(octave, 0) + times
        octaves = list(range(min(rows), max(rows) + 1)) if rows else []
        if len(octaves) > ROWS:
            for octave in octaves[ROWS:]:
                rows[octaves[ROWS - 1]] = rows.get(octaves[ROWS - 1], 0) + rows.pop(octave, 0)
            octaves = octaves[:ROWS]
        most = max(rows.values(), default=1)
        lines = []
        for octave in octaves:
            times = rows.get(octave, 0)
            last = octave == octaves[-1]
            edge = self.maximum if last else (1 << octave)
            bar = "█" * round(times / most * BAR) or ("▏" if times else "")
            lines.append(f"≤ {format_seconds(edge / 1e6):>7}  {100 * times / self.count:5.1f}%  {bar}".rstrip())
        return lines


def _index(value: int) -> int:
    if value < _EXACT:
        return value
    shift = value.bit_length() - _BITS - 1
    return (shift << _BITS) + (value >> shift)


def _highest(index: int) -> int:
    """The highest value that has this counter."""
    if index < _EXACT:
        return index
    shift = (index >> _BITS) - 1
    return ((index - (shift << _BITS) + 1) << shift) - 1
