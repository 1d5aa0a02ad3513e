"""Frames: their lengths, and the numbers that say what is in them."""

from __future__ import annotations

import struct
from typing import Any, Final

import msgspec

from platformd.core.errors import TooLarge

VERSION: Final = 1
"""Of the format. A server refuses a client of another one."""

MAGIC: Final = "platformd-store"
"""The first thing that each side says, so that a stranger is known as one."""

MAX_REPLY: Final = 256 << 20
"""The largest frame that a client takes, bytes: above what a server sends (a txn's ranges read at most 64 MiB)."""

# What a message is: the first element of its array. Requests:
HELLO: Final = 0
GET: Final = 1
LIST: Final = 2
TXN: Final = 3
WATCH: Final = 4
CREDIT: Final = 5
CANCEL: Final = 6
GRANT: Final = 7
KEEP_ALIVE: Final = 8
REVOKE: Final = 9
LEASE: Final = 10
LEASES: Final = 11
COMPACT: Final = 12
STATUS: Final = 13
PING: Final = 14
# Replies, beside HELLO, LEASE, LEASES and STATUS:
KEY_VALUE: Final = 1
LISTING: Final = 2
OUTCOME: Final = 3
WATCHING: Final = 4
EVENTS: Final = 5
COUNT: Final = 9
DONE: Final = 14
PROBLEM: Final = 16
GOODBYE: Final = 17
# Operations and their results:
PUT: Final = 1
DELETE: Final = 2
READ: Final = 3

MAX_INT: Final = 2**63 - 1
"""The largest revision, id or count."""

_LENGTH = struct.Struct(">I")
_HOLE = bytes(_LENGTH.size)
_encode_into = msgspec.msgpack.Encoder().encode_into


def append_frame(buffer: bytearray, message: tuple[Any, ...]) -> int:
    """Append the frame of ``message`` to ``buffer``; the length of the message.

    Raises:
        TypeError, OverflowError: something in it is not of a type that travels; ``buffer`` is as before.
    """
    start = len(buffer)
    buffer += _HOLE
    try:
        _encode_into(message, buffer, -1)
    except BaseException:
        del buffer[start:]
        raise
    length = len(buffer) - start - _LENGTH.size
    _LENGTH.pack_into(buffer, start, length)
    return length


class FrameBuffer:
    """Cuts what was received into messages.

    Args:
        max_frame: the longest message that is taken, bytes.
    """

    def __init__(self, max_frame: int) -> None:
        self.max_frame = max_frame
        self._held: bytes | bytearray = b""
        self._at = 0

    def feed(self, data: bytes) -> None:
        """Take what was received."""
        if self._at == len(self._held):
            self._held, self._at = data, 0
            return
        if isinstance(self._held, bytearray):
            del self._held[: self._at]
        else:
            self._held = bytearray(memoryview(self._held)[self._at :])
        self._at = 0
        self._held += data

    def next(self) -> bytes | bytearray | None:
        """The next message, or ``None`` until there is more.

        Raises:
            TooLarge: it is over ``max_frame``; what comes after it cannot be read.
        """
        start = self._at + _LENGTH.size
        if len(self._held) < start:
            return None
        (length,) = _LENGTH.unpack_from(self._held, self._at)
        if length > self.max_frame:
            raise TooLarge(
                f"a message of {length} bytes; max_frame is {self.max_frame}",
                subject="store door",
                hint="write less in one transaction, or raise door.max_frame",
            )
        end = start + length
        if len(self._held) < end:
            return None
        self._at = end
        return self._held[start:end]

    @property
    def waiting(self) -> int:
        """Bytes that are held."""
        return len(self._held) - self._at
