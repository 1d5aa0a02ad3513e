"""Values as a terminal shows them: short, of bounded width, without control characters.

Everything here is readable without colour, and needs no glyphs beyond the block elements
(U+2581 to U+2588) that every monospace font has.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

from platformd.core.quantities import format_bytes

UNSAFE = frozenset({"Cc", "Cf", "Co", "Cs", "Zl", "Zp"})
"""The Unicode categories that can do more to a terminal than stand in a cell."""
BLOCKS = "▁▂▃▄▅▆▇█"
"""Eighths of a cell from below, for sparklines."""
FULL, EMPTY = "█", "░"
"""The filled and the empty part of a bar."""
PARTS = " ▏▎▍▌▋▊▉"
"""Eighths of a cell from the left, for the end of a bar."""


def printable(text: object) -> str:
    """``text`` with each control or format character as a space.

    Names, reasons and messages come from other programs; an escape sequence in them must not reach the
    terminal.
    """
    return "".join(" " if unicodedata.category(c) in UNSAFE else c for c in str(text))


def plain(text: object, limit: int = 500) -> str:
    """``text`` as one printable line of at most ``limit`` characters."""
    line = " ".join(printable(text).split())
    return line if len(line) <= limit else line[: limit - 1] + "…"


def count(value: float, width: int = 7) -> str:
    """A whole number in at most ``width`` characters (at least 5): ``1,234``, ``12.3M``."""
    exact = f"{int(value):,}"
    if len(exact) <= width:
        return exact
    bare = str(int(value))
    if len(bare) <= width:
        return bare
    scaled = float(value)
    for unit in "kMGTP":
        scaled /= 1000
        # Rounding may add a digit, so what is too wide is tried with fewer, then with the next unit.
        for digits in (2, 1, 0):
            short = f"{scaled:.{digits}f}{unit}"
            if abs(scaled) < 1000 and len(short) <= width:
                return short
    return short


def rate(value: float) -> str:
    """A number per second in at most six characters: ``0``, ``0.4``, ``12.5``, ``1234``, ``12.3k``."""
    if value < 0.05:
        return "0"
    if value < 100:
        return f"{value:.1f}"
    if value < 10_000:
        return f"{value:.0f}"
    return count(value, 6)


def bytes_(value: float) -> str:
    """A number of bytes in at most seven characters: ``812B``, ``64.0K``, ``1.5G`` (binary units)."""
    return format_bytes(value).replace("iB", "")


def percent(value: float) -> str:
    """A share from 0 to 100 in four characters: ``  7%``."""
    return f"{value:3.0f}%"


def span(value: float) -> str:
    """A span of ``value`` seconds, coarse, so that a shown uptime seldom changes: ``12s``, ``5m``, ``3h12m``."""
    whole = max(0, int(value))
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m"
    if whole < 86400:
        return f"{whole // 3600}h{whole % 3600 // 60:02}m"
    return f"{whole // 86400}d{whole % 86400 // 3600:02}h"


def mean_time(seconds: float | None) -> str:
    """A short time in at most six characters: ``850us``, ``12.3ms``, ``1.20s``; ``-`` for none."""
    if seconds is None:
        return "-"
    if seconds < 1e-3:
        return f"{seconds * 1e6:.0f}us"
    if seconds < 1:
        return f"{seconds * 1e3:.3g}ms"
    return f"{seconds:.3g}s" if seconds < 100 else f"{seconds:.0f}s"


def bar(share: float, width: int) -> tuple[str, str]:
    """A bar of ``width`` cells with ``share`` (0 to 1) of it filled: the filled and the empty text.

    A share above nothing always shows at least a sliver.
    """
    eighths = round(min(1.0, max(0.0, share)) * width * 8)
    if share > 0:
        eighths = max(1, eighths)
    whole, part = divmod(eighths, 8)
    filled = FULL * whole + (PARTS[part] if part else "")
    return filled, EMPTY * (width - len(filled))


def sparkline(values: Sequence[float | None], width: int, top: float | None = None) -> str:
    """The last ``width`` of ``values`` as one line of blocks, right-aligned.

    Args:
        values: the oldest first; ``None`` where nothing was known, shown as a space.
        width: in cells.
        top: the value of a full block; ``None`` takes the largest value shown.
    """
    shown = list(values[-width:]) if width > 0 else []
    highest = top if top is not None else max((v for v in shown if v is not None), default=0.0)
    return "".join(_block(v, highest) for v in shown).rjust(width)


def _block(value: float | None, highest: float) -> str:
    if value is None:
        return " "
    if highest <= 0 or value <= 0:
        return BLOCKS[0]
    # Anything above nothing stands out from nothing, however small beside the highest.
    return BLOCKS[max(1, min(7, round(value / highest * 7)))]
