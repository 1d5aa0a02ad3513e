"""The frames of a WebSocket, without any input or output: wsproto, with what it leaves open decided.

- A message has a limit, counted as its pieces come in, so a length that is only announced costs nothing.
- Once the peer has closed, or has broken the protocol, nothing more that it sends is looked at or kept.
- No extension: compression would let a few bytes become many, and ties up memory for each connection.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from wsproto import events
from wsproto.connection import Connection, ConnectionState, ConnectionType
from wsproto.frame_protocol import CloseReason


class Message(NamedTuple):
    """A whole message."""

    data: str | bytes


class Ping(NamedTuple):
    """The peer wants to hear from us; ``answer`` is the frame."""

    answer: bytes


class Ending(NamedTuple):
    """Nothing more will come: the peer closes, or has done what makes us close."""

    code: int
    """To close with."""
    reason: str


class Frames:
    """The server's side of one WebSocket.

    Args:
        max_message: bytes; a longer message ends the connection.
    """

    def __init__(self, max_message: int) -> None:
        self._wsproto = Connection(ConnectionType.SERVER)
        self._max_message = max_message
        self._pieces: list[Any] = []
        """Of one message, all of one type."""
        self._size = 0
        self.unfinished = False
        """Whether a message has begun to come in and has not come in whole."""
        self.deaf = False
        """Whether nothing more is understood of what comes in."""

    def receive(self, data: bytes) -> Iterator[Message | Ping | Ending]:
        """What ``data`` brings, in order. An ``Ending`` is the last."""
        if self.deaf:
            return
        self._wsproto.receive_data(data)
        for event in self._wsproto.events():
            if isinstance(event, events.Message):
                found = self._piece(event)
                if found is not None:
                    yield found
            elif isinstance(event, events.Ping):
                yield Ping(self._send(event.response()))
            elif isinstance(event, events.CloseConnection):
                self.deaf = True
                yield Ending(event.code, event.reason or "")
            if self.deaf:
                return

    def message(self, data: str | bytes) -> bytes:
        """The frame of a whole message; nothing when we have closed."""
        return self._send(events.TextMessage(data) if isinstance(data, str) else events.BytesMessage(data))

    def ping(self) -> bytes:
        """The frame that asks the peer for a sign of life; nothing when we have closed."""
        return self._send(events.Ping())

    def close(self, code: int, reason: str) -> bytes:
        """Our last frame. A reason that is too long is cut; a peer's close without a code is answered with one such."""
        if self._wsproto.state not in (ConnectionState.OPEN, ConnectionState.REMOTE_CLOSING):
            return b""
        return bytes(self._wsproto.send(events.CloseConnection(code=code, reason=reason or None)))

    def _piece(self, event: events.Message[Any]) -> Message | Ending | None:
        if event.data:
            self._pieces.append(event.data)
            self._size += len(event.data.encode() if isinstance(event.data, str) else event.data)
        if self._size > self._max_message:
            self.deaf = True
            self._pieces.clear()
            return Ending(CloseReason.MESSAGE_TOO_BIG, f"the limit for a message is {self._max_message} bytes")
        self.unfinished = not event.message_finished
        if self.unfinished:
            return None
        pieces, self._pieces, self._size = self._pieces, [], 0
        return Message(event.data[:0].join(pieces))

    def _send(self, event: events.Event) -> bytes:
        return bytes(self._wsproto.send(event)) if self._wsproto.state is ConnectionState.OPEN else b""
