"""Server-sent events, parsed from bytes as they come (WHATWG HTML §9.2.6, which sets the names used here)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from platformd.core.errors import TooLarge

MAX_EVENT_BYTES: Final = 16 << 20
"""The most bytes of one event that are kept while its end is awaited."""

_BOM: Final = b"\xef\xbb\xbf"


@dataclass(frozen=True)
class ServerEvent:
    """One event of the stream."""

    id: str
    """The last id that the stream has set, by this event or an earlier one; ``""`` before the first."""
    event: str
    """Its type; ``message`` when the stream names none."""
    data: str
    """Its data lines, with ``\\n`` between."""


class EventParser:
    """Takes bytes cut anywhere, gives the events that they complete."""

    def __init__(self, max_event_bytes: int = MAX_EVENT_BYTES) -> None:
        self._max_event_bytes = max_event_bytes
        self._rest = bytearray()
        """What has come of a line that has not ended."""
        self._skip_newline = False
        """The last byte was a carriage return: a newline right after it belongs to it."""
        self._started = False
        self._event = ""
        self._data: list[bytes] = []
        self._size = 0
        self.last_event_id = ""
        """What a client sends as ``Last-Event-ID`` to go on from here."""

    def feed(self, data: bytes) -> list[ServerEvent]:
        """The events that ``data`` completes, in order.

        Raises:
            TooLarge: one event is larger than ``max_event_bytes``.
        """
        events = []
        for line in self._lines(data):
            event = self._line(line)
            if event is not None:
                events.append(event)
        if self._size + len(self._rest) > self._max_event_bytes:
            raise TooLarge(f"an event of the watch is larger than {self._max_event_bytes} bytes")
        return events

    def _lines(self, data: bytes) -> list[bytes]:
        """The lines that ``data`` completes; they end in CR LF, LF or CR."""
        if self._skip_newline and data:
            self._skip_newline = False
            data = data.removeprefix(b"\n")
        # Only what is new is searched: a long line that comes in many pieces stays linear.
        if b"\n" not in data and b"\r" not in data:
            self._rest += data
            return []
        self._skip_newline = data.endswith(b"\r")
        text = bytes(self._rest) + data
        *lines, rest = text.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
        self._rest = bytearray(rest)
        if not self._started:
            self._started = True
            lines[0] = lines[0].removeprefix(_BOM)
        return lines

    def _line(self, line: bytes) -> ServerEvent | None:
        if not line:
            return self._dispatch()
        name, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if name == b"data":
            self._data.append(value)
            self._size += len(value) + 1
        elif name == b"event":
            self._event = value.decode("utf-8", "replace")
        elif name == b"id" and b"\0" not in value:
            self.last_event_id = value.decode("utf-8", "replace")
        return None  # comments (an empty name), "retry" and unknown fields say nothing here

    def _dispatch(self) -> ServerEvent | None:
        event, data = self._event, self._data
        self._event, self._data, self._size = "", [], 0
        if not data:
            return None
        return ServerEvent(self.last_event_id, event or "message", b"\n".join(data).decode("utf-8", "replace"))
