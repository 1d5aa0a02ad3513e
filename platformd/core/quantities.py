"""Durations and sizes as people write them: ``500ms``, ``30s``, ``5m``, ``64MiB``.

In documents (specs, settings) they stay strings, with the types ``Duration`` and ``Size`` giving the
pattern to validation and to JSON Schema; at the point of use ``seconds`` and ``size_bytes`` make
numbers of them.
"""

from __future__ import annotations

import re
from typing import Annotated

import msgspec

from platformd.core.errors import InvalidInput

_DURATION = r"^(0|([0-9]+(\.[0-9]+)?(us|ms|s|m|h|d))+)$(?!\n)"
_SIZE = r"^[0-9]+(\.[0-9]+)?(B|KiB|MiB|GiB|TiB)?$(?!\n)"

Duration = Annotated[
    str,
    msgspec.Meta(
        pattern=_DURATION,
        description="A duration with its unit: us, ms, s, m, h or d; units may follow each other.",
        examples=["500ms", "30s", "1h30m"],
        extra_json_schema={"x-unit": "duration"},
    ),
]
"""A span of time as a string with a unit."""

Size = Annotated[
    str,
    msgspec.Meta(
        pattern=_SIZE,
        description="A number of bytes, with a binary unit: B, KiB, MiB, GiB or TiB.",
        examples=["512KiB", "64MiB", "10GiB"],
        extra_json_schema={"x-unit": "size"},
    ),
]
"""A number of bytes as a string with a binary unit."""

_SECONDS = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_BYTES = {"": 1, "B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40}


def seconds(duration: str) -> float:
    """``duration`` in seconds.

    Raises:
        InvalidInput: it is not a duration.
    """
    if not re.match(_DURATION, duration):
        raise InvalidInput(
            f"{duration!r} is not a duration", hint="write a number and a unit: 500ms, 30s, 5m, 1h30m, 7d"
        )
    return sum(float(n) * _SECONDS[u] for n, _, u in re.findall(r"([0-9]+(\.[0-9]+)?)([a-z]+)", duration))


def size_bytes(size: str) -> int:
    """``size`` in bytes.

    Raises:
        InvalidInput: it is not a size.
    """
    match = re.match(r"^([0-9]+(?:\.[0-9]+)?)(B|KiB|MiB|GiB|TiB)?$(?!\n)", size)
    if match is None:
        raise InvalidInput(f"{size!r} is not a size", hint="write bytes with a binary unit: 512KiB, 64MiB, 10GiB")
    return int(float(match[1]) * _BYTES[match[2] or ""])


def format_seconds(value: float) -> str:
    """``value`` seconds for a person: ``1.2ms``, ``3.5s``, ``2m5s``, ``3h12m``, ``4d2h``."""
    if value < 0:
        return "-" + format_seconds(-value)
    if value < 1e-3:
        return f"{value * 1e6:.0f}us"
    if value < 1:
        return f"{value * 1e3:.3g}ms"
    if value < 60:
        return f"{value:.3g}s"
    whole = int(value)
    if whole < 3600:
        return f"{whole // 60}m{whole % 60}s"
    if whole < 86400:
        return f"{whole // 3600}h{whole % 3600 // 60}m"
    return f"{whole // 86400}d{whole % 86400 // 3600}h"


def format_bytes(value: float) -> str:
    """``value`` bytes for a person: ``812B``, ``64.0KiB``, ``1.5GiB``."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(value) < 1024:
            return f"{value:.0f}B" if unit == "B" else f"{value:.1f}{unit}"
        value /= 1024
    return f"{value:.1f}TiB"
