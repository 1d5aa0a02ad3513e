"""HTTP/2 (RFC 9113) and its header compression (RFC 7541), as far as a gRPC client needs them. No I/O.

A general HTTP/2 library spends five times as long on a small request as everything else together does, and what
it is general about is not needed here: requests differ only in their path and token, answers only in
their status. So the client tells the server that it keeps no dynamic header table
(``SETTINGS_HEADER_TABLE_SIZE`` 0) and uses none itself. Then a block of headers means the same wherever it
stands: ours are made once, and theirs are looked up by their bytes before anything is decoded.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import NamedTuple

import hpack

DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(10)
"""Types of frames."""

END_STREAM = ACK = 0x1
END_HEADERS, PADDED, PRIORITIZED = 0x4, 0x8, 0x20
"""Flags of frames."""

NO_ERROR, CANCEL, REFUSED_STREAM = 0x0, 0x8, 0x7
"""Error codes."""

MAX_STREAM_ID = 2**31 - 1
MAX_WINDOW = 2**31 - 1
DEFAULT_WINDOW = 65_535
MAX_FRAME = 16_384
"""The largest frame that we take, which is the least that a peer may be asked to keep to."""

_HEADER_TABLE_SIZE, _ENABLE_PUSH, _MAX_STREAMS, _INITIAL_WINDOW, _MAX_FRAME_SIZE = 1, 2, 3, 4, 5
_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_HEAD = struct.Struct(">IBI")
_HEAD_SIZE = 9
_KNOWN_BLOCKS = 256


class ProtocolError(Exception):
    """The peer does not speak HTTP/2 as it must."""


class Frame(NamedTuple):
    """One frame."""

    type: int
    flags: int
    stream: int
    payload: bytes


class PeerSettings(NamedTuple):
    """What the peer's SETTINGS say of what we need to know; ``None``: nothing."""

    max_streams: int | None = None
    initial_window: int | None = None
    max_frame: int | None = None


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """A frame as it is sent."""
    return _HEAD.pack(len(payload) << 8 | kind, flags, stream) + payload


def preface(stream_window: int, connection_window: int) -> bytes:
    """What a connection begins with, and the windows that the peer gets."""
    settings = struct.pack(">HIHIHI", _HEADER_TABLE_SIZE, 0, _ENABLE_PUSH, 0, _INITIAL_WINDOW, stream_window)
    return _PREFACE + frame(SETTINGS, 0, 0, settings) + window_update(0, connection_window - DEFAULT_WINDOW)


def window_update(stream: int, more: int) -> bytes:
    """Let the peer send ``more`` bytes (on the whole connection: stream 0)."""
    return frame(WINDOW_UPDATE, 0, stream, more.to_bytes(4, "big"))


def reset(stream: int, code: int = CANCEL) -> bytes:
    """End a stream at once."""
    return frame(RST_STREAM, 0, stream, code.to_bytes(4, "big"))


def number(payload: bytes) -> int:
    """What a WINDOW_UPDATE or a RST_STREAM says.

    Raises:
        ProtocolError: its size is wrong.
    """
    if len(payload) != 4:
        raise ProtocolError("a frame of the wrong size")
    return int.from_bytes(payload, "big") & MAX_WINDOW


def goaway(payload: bytes) -> tuple[int, int, str]:
    """What a GOAWAY says: the last stream that was taken, the error code, and the text.

    Raises:
        ProtocolError: it is cut off.
    """
    if len(payload) < 8:
        raise ProtocolError("a frame of the wrong size")
    last, code = struct.unpack_from(">II", payload)
    return last & MAX_STREAM_ID, code, payload[8:].decode(errors="replace")


def peer_settings(payload: bytes) -> PeerSettings:
    """What a SETTINGS frame says.

    Raises:
        ProtocolError: a value is out of its range.
    """
    if len(payload) % 6:
        raise ProtocolError("a frame of the wrong size")
    found = dict(struct.iter_unpack(">HI", payload))
    window, size = found.get(_INITIAL_WINDOW), found.get(_MAX_FRAME_SIZE)
    if (window or 0) > MAX_WINDOW or not MAX_FRAME <= (size or MAX_FRAME) < 1 << 24:
        raise ProtocolError("a setting out of its range")
    return PeerSettings(found.get(_MAX_STREAMS), window, size)


def unpadded(flags: int, payload: bytes, *, prioritized: bool = False) -> bytes:
    """The content of a DATA or HEADERS frame.

    Raises:
        ProtocolError: it is shorter than its padding.
    """
    start, end = 0, len(payload)
    if flags & PADDED:
        start, end = 1, end - (payload[0] if payload else 0)
    if prioritized and flags & PRIORITIZED:
        start += 5
    if start > end:
        raise ProtocolError("a frame shorter than its padding")
    return payload[start:end] if flags else payload


class FrameReader:
    """Cuts what is received into frames."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, received: bytes) -> Iterator[Frame]:
        """The frames that are complete with what was ``received``. Must be used up before the next call.

        Raises:
            ProtocolError: a frame is larger than we allowed.
        """
        data = self._rest + received if self._rest else received
        at, end = 0, len(data)
        while end - at >= _HEAD_SIZE:
            head, flags, stream = _HEAD.unpack_from(data, at)
            size = head >> 8
            if size > MAX_FRAME:
                raise ProtocolError(f"a frame of {size} bytes")
            stop = at + _HEAD_SIZE + size
            if stop > end:
                break
            yield Frame(head & 0xFF, flags, stream & MAX_STREAM_ID, data[at + _HEAD_SIZE : stop])
            at = stop
        self._rest = data[at:]


class HeaderReader:
    """Decodes blocks of headers of a peer that keeps no table; the few that come again and again only once."""

    def __init__(self) -> None:
        self._decoder = hpack.Decoder()
        self._decoder.max_allowed_table_size = 0
        self._decoder.header_table_size = 0
        self._known: dict[bytes, dict[str, str]] = {}

    def decode(self, block: bytes) -> dict[str, str]:
        """The headers by name.

        Raises:
            ProtocolError: it is not a block of headers.
        """
        found = self._known.get(block)
        if found is None:
            try:
                pairs = self._decoder.decode(block, raw=True)
            except hpack.HPACKError as error:
                raise ProtocolError(f"headers that cannot be read: {error}") from error
            found = {bytes(name).decode("latin-1"): bytes(value).decode("latin-1") for name, value in pairs}
            if len(self._known) < _KNOWN_BLOCKS:
                self._known[block] = found
        return found


def header_block(path: str, authority: str, *, tls: bool, metadata: dict[str, str]) -> bytes:
    """The headers of a gRPC request."""
    static = b"\x83" + (b"\x87" if tls else b"\x86")  # :method POST and :scheme, by their place in the static table
    named = {":path": path, ":authority": authority, "te": "trailers", "content-type": "application/grpc"}
    return static + b"".join(_literal(name, value) for name, value in (named | metadata).items())


def _literal(name: str, value: str) -> bytes:
    """A header that enters no table, its strings as they are."""
    return b"\x00" + _string(name.encode("latin-1")) + _string(value.encode("latin-1"))


def _string(raw: bytes) -> bytes:
    size = len(raw)
    if size < 127:
        return bytes([size]) + raw
    out = bytearray([127])
    size -= 127
    while size > 127:
        out.append(size & 127 | 128)
        size >>= 7
    out.append(size)
    return bytes(out) + raw
