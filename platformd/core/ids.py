"""Identifiers: sortable by creation, unguessable, and passed in so that tests own them."""

from __future__ import annotations

import os
import re
from collections.abc import Callable

from platformd.core.clock import Clock

NewId = Callable[[], str]
"""Makes a new unique identifier."""

NAME_PATTERN = r"^(?!.*\.\.)[a-z0-9]([a-z0-9._-]{0,61}[a-z0-9])?$(?!\n)"
"""Names of resources and tenants: lower-case letters, digits, ``.``, ``_``, ``-``; 1 to 63 characters.
``$`` alone would let a line end through; this form is good for JSON Schema too."""

_NAME = re.compile(NAME_PATTERN)


def is_name(text: str) -> bool:
    """Whether ``text`` can name a resource or a tenant."""
    return _NAME.match(text) is not None


def uuid7(clock: Clock, random_bytes: Callable[[int], bytes] = os.urandom) -> NewId:
    """A maker of version 7 UUIDs (RFC 9562 §5.7): 48 bits of milliseconds, then random bits."""

    def new() -> str:
        milliseconds = clock.time_ns() // 1_000_000
        value = (milliseconds & ((1 << 48) - 1)) << 80 | int.from_bytes(random_bytes(10), "big")
        value = value & ~(0xF << 76) | 0x7 << 76
        value = value & ~(0x3 << 62) | 0x2 << 62
        text = f"{value:032x}"
        return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"

    return new
