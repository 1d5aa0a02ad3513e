"""Our keys among etcd's: the prefix put on and taken off, and ranges as etcd writes them."""

from __future__ import annotations

from typing import NamedTuple

from platformd.coordination.contract import prefix_end

_LOWEST = b"\x00"  # etcd knows no empty key: as a range's start this is the lowest, as its end it means "no end"


class Bounds(NamedTuple):
    """A range as etcd writes it."""

    key: bytes
    end: bytes
    """Empty: the key alone. ``\\x00``: no upper bound."""
    empty: bool = False
    """No key can be in it (then ``key`` alone stands in for it, so that etcd can be asked something)."""


class Keyspace:
    """All keys that start with ``prefix``, as if they were all there are."""

    def __init__(self, prefix: bytes) -> None:
        self.prefix = prefix
        self.cut = len(prefix)
        """How much of each key from etcd is the prefix."""
        self._end = prefix_end(prefix) or _LOWEST

    def key(self, key: bytes) -> bytes:
        """A key as etcd has it."""
        return self.prefix + key

    def bounds(self, key: bytes, end: bytes | None) -> Bounds:
        """The range [key, end); ``end=None`` for no upper bound."""
        first = self.prefix + key or _LOWEST
        if end is None:
            return Bounds(first, self._end)
        if key >= end or end == _LOWEST:
            return Bounds(first, b"", empty=True)
        return Bounds(first, self.prefix + end)

    def of_operation(self, key: bytes, end: bytes | None) -> Bounds:
        """What an operation of a transaction names: the key, or with ``end`` the range."""
        return Bounds(self.prefix + key, b"") if end is None else self.bounds(key, end)

    def owns(self, key: bytes) -> bool:
        """Whether a key from etcd is one of ours."""
        return key.startswith(self.prefix)
