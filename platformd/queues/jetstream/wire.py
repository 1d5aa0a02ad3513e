"""NATS's client protocol as pure functions over bytes: what is sent, and what comes back.

A line of words, its end is CR LF; ``MSG``, ``HMSG``, ``PUB`` and ``HPUB`` are followed by as many bytes as the line
says. A header block is a line ``NATS/1.0``, perhaps with a status and its description, then ``Name: value`` lines
and an empty one. See https://docs.nats.io/reference/reference-protocols/nats-protocol and ADR-4.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

MAX_LINE = 1 << 20
"""Bytes of one line; a cluster's INFO names all of its members."""

_MESSAGE_WORDS = {b"MSG": (4, 5), b"HMSG": (5, 6)}


class ProtocolError(Exception):
    """What came is not NATS's protocol, or is over a limit."""


class Msg(NamedTuple):
    """A message that was delivered."""

    subject: bytes
    sid: bytes
    reply: bytes
    """Where an answer goes; empty: nowhere."""
    headers: bytes
    """The header block as it came; empty: none."""
    payload: bytes


class Line(NamedTuple):
    """Anything else: ``INFO``, ``PING``, ``PONG``, ``+OK`` or ``-ERR``, and what follows the word."""

    word: bytes
    rest: bytes


class Headers(NamedTuple):
    """A decoded header block."""

    status: int
    """0: none."""
    description: str
    fields: dict[str, str]
    """Of a name that comes twice, the last value."""


class Reader:
    """Takes bytes as they come, gives what is whole.

    Args:
        max_message: bytes of the largest message that is taken.
    """

    def __init__(self, max_message: int) -> None:
        self._max_message = max_message
        self._buffer = bytearray()

    def feed(self, data: bytes | bytearray) -> Iterator[Msg | Line]:
        """What ``data`` makes whole, in order.

        Raises:
            ProtocolError: it is not the protocol.
        """
        buffer = self._buffer
        buffer += data
        at = 0
        try:
            while (end := buffer.find(b"\r\n", at)) >= 0:
                word, _, rest = bytes(buffer[at:end]).partition(b" ")
                word = word.upper()
                if word not in _MESSAGE_WORDS:
                    at = end + 2
                    yield Line(word, rest)
                    continue
                found = self._message(word, rest, end + 2)
                if found is None:
                    return
                message, at = found
                yield message
            if len(buffer) - at > MAX_LINE:
                raise ProtocolError(f"a line is longer than {MAX_LINE} bytes")
        finally:
            del buffer[:at]

    def _message(self, word: bytes, rest: bytes, start: int) -> tuple[Msg, int] | None:
        """The message whose bytes begin at ``start``, and where it ends; ``None`` while it is not all there."""
        words = rest.split()
        shortest, longest = _MESSAGE_WORDS[word]
        if not shortest - 1 <= len(words) <= longest - 1:
            raise ProtocolError(f"{word!r} with {len(words)} words")
        sizes = words[-2:] if word == b"HMSG" else words[-1:]
        if not all(size.isdigit() and len(size) < 12 for size in sizes):
            raise ProtocolError(f"{word!r} with a size that is not a number")
        total = int(sizes[-1])
        header_size = int(sizes[0]) if word == b"HMSG" else 0
        if total > self._max_message or header_size > total:
            raise ProtocolError(
                f"a message of {total} bytes, {header_size} of headers; the limit is {self._max_message}"
            )
        end = start + total
        if len(self._buffer) < end + 2:
            return None
        subject, sid, *more = words[: -len(sizes)]
        headers = bytes(self._buffer[start : start + header_size])
        payload = bytes(self._buffer[start + header_size : end])
        return Msg(subject, sid, more[0] if more else b"", headers, payload), end + 2


def publish(subject: bytes, payload: bytes, *, reply: bytes = b"", headers: bytes = b"") -> bytes:
    """The bytes that publish a message; ``headers`` as ``encode_headers`` gives them."""
    to = subject + b" " + reply if reply else subject
    if headers:
        return b"HPUB %b %d %d\r\n%b%b\r\n" % (to, len(headers), len(headers) + len(payload), headers, payload)
    return b"PUB %b %d\r\n%b\r\n" % (to, len(payload), payload)


def subscribe(subject: bytes, sid: bytes) -> bytes:
    """The bytes that ask for what is published to ``subject``."""
    return b"SUB %b %b\r\n" % (subject, sid)


def encode_headers(fields: Iterable[tuple[str, str]]) -> bytes:
    """A header block; empty for no fields. Names and values are trusted to have no line ends."""
    lines = [f"{name}: {value}\r\n" for name, value in fields]
    return ("NATS/1.0\r\n" + "".join(lines) + "\r\n").encode() if lines else b""


def decode_headers(block: bytes) -> Headers:
    """The fields of a header block; of an empty one none. What is not UTF-8 is replaced."""
    first, _, rest = block.decode(errors="replace").partition("\r\n")
    _, _, status = first.partition(" ")
    code, _, description = status.strip().partition(" ")
    fields = {}
    for line in rest.split("\r\n"):
        name, colon, value = line.partition(":")
        if colon:
            fields[name] = value.strip(" \t")
    return Headers(int(code) if code.isdigit() else 0, description, fields)
