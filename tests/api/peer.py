"""A WebSocket client for tests: wsproto without any input or output of its own, over a stream, and raw frames."""

from __future__ import annotations

import contextlib
import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import trio
from wsproto import ConnectionType, WSConnection, events
from wsproto.connection import ConnectionState

from tests.api.wire import Answer

KEY = b"dGhlIHNhbXBsZSBub25jZQ=="
MASK = b"\x01\x02\x03\x04"


@dataclass
class Closed:
    """How the server closed."""

    code: int
    reason: str


class Refused(Exception):
    """The handshake was answered with something else than 101."""

    def __init__(self, answer: Answer) -> None:
        super().__init__(answer)
        self.answer = answer


class Peer:
    """The client's side of one WebSocket, after its handshake."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self.stream = stream
        self._ws = WSConnection(ConnectionType.CLIENT)
        self.headers: dict[str, str] = {}
        """Of the answer to the handshake."""
        self.pings = 0
        """How many came."""
        self.pongs: list[bytes] = []

    @classmethod
    async def open(
        cls,
        stream: trio.SocketStream,
        path: str,
        headers: Mapping[str, str] | None = None,
        *,
        host: str = "localhost",
        subprotocols: tuple[str, ...] = (),
        behind: bytes = b"",
    ) -> Peer:
        """A WebSocket over a new connection; ``behind`` is sent in the same segment as the handshake.

        Raises:
            Refused: the server would not.
        """
        peer = cls(stream)
        extra = [(k.encode(), v.encode()) for k, v in (headers or {}).items()]
        offer = events.Request(host=host, target=path, extra_headers=extra, subprotocols=list(subprotocols))
        await stream.send_all(peer._ws.send(offer) + behind)
        first = await peer.event()
        if isinstance(first, events.RejectConnection):
            raise Refused(await peer._refusal(first))
        assert isinstance(first, events.AcceptConnection)
        peer.headers = {name.decode(): value.decode() for name, value in first.extra_headers}
        return peer

    async def _refusal(self, first: events.RejectConnection) -> Answer:
        body = b""
        while True:
            part = await self.event()
            assert isinstance(part, events.RejectData)
            body += bytes(part.data)
            if part.body_finished:
                found = {name.decode(): value.decode() for name, value in first.headers}
                return Answer(first.status_code, found, body)

    async def event(self) -> Any:
        """The next thing that the server says; its pings are answered and counted."""
        while True:
            for event in self._ws.events():
                if isinstance(event, events.Ping):
                    self.pings += 1
                    await self._answer(event)
                elif isinstance(event, events.Pong):
                    self.pongs.append(bytes(event.payload))
                else:
                    return event
            data = bytes(await self.stream.receive_some(65536))
            self._ws.receive_data(data or None)

    async def receive(self) -> str | bytes | Closed:
        """The next whole message, or how the server closed, which is answered; 1006 when it did not say."""
        text: list[Any] = []
        while True:
            event = await self.event()
            if isinstance(event, events.CloseConnection):
                if self._ws.state is ConnectionState.REMOTE_CLOSING:
                    await self._answer(event)
                return Closed(int(event.code), event.reason or "")
            text.append(event.data)
            if event.message_finished:
                return event.data[:0].join(text)  # type: ignore[no-any-return]

    async def json(self) -> Any:
        """The next message as JSON."""
        found = await self.receive()
        assert isinstance(found, str), found
        return json.loads(found)

    async def closed(self) -> Closed:
        """How the server closes, whatever it says before."""
        while not isinstance(found := await self.receive(), Closed):
            pass
        return found

    async def ended(self) -> bool:
        """Wait for the end of the connection; whether it ended without a reset."""
        try:
            while await self.stream.receive_some(65536):
                pass
        except trio.BrokenResourceError:
            return False
        return True

    async def _answer(self, event: events.Ping | events.CloseConnection) -> None:
        with contextlib.suppress(trio.BrokenResourceError):  # what came before the end is still to be read
            await self.send(event.response())

    async def send(self, event: events.Event) -> None:
        await self.stream.send_all(self._ws.send(event))

    async def say(self, data: str | bytes, *, finished: bool = True) -> None:
        kind = events.TextMessage if isinstance(data, str) else events.BytesMessage
        await self.send(kind(data=data, message_finished=finished))  # type: ignore[arg-type]

    async def close(self, code: int = 1000, reason: str = "") -> Closed:
        """Close properly; how the server answers."""
        await self.send(events.CloseConnection(code=code, reason=reason))
        return await self.closed()


def frame(payload: bytes = b"hello", *, opcode: int = 1, fin: bool = True, masked: bool = True, rsv: int = 0) -> bytes:
    """Any frame, allowed or not."""
    mark = 0x80 if masked else 0
    size = len(payload)
    if size < 126:
        length = bytes([mark | size])
    elif size < 65536:
        length = bytes([mark | 126]) + struct.pack("!H", size)
    else:
        length = bytes([mark | 127]) + struct.pack("!Q", size)
    if masked:
        payload = MASK + bytes(byte ^ MASK[i % 4] for i, byte in enumerate(payload))
    return bytes([fin << 7 | rsv << 4 | opcode]) + length + payload


def announced(size: int) -> bytes:
    """The head of a frame of bytes that says it has ``size`` of them."""
    return b"\x82\xff" + struct.pack("!Q", size) + MASK


def offer(path: str = "/v1/kv?watch", *headers: bytes, key: bytes = KEY, version: bytes = b"13") -> bytes:
    """A handshake as bytes."""
    lines = (
        b"Host: localhost",
        b"Upgrade: websocket",
        b"Connection: Upgrade",
        b"Sec-WebSocket-Key: " + key,
        b"Sec-WebSocket-Version: " + version,
        *headers,
    )
    return b"GET " + path.encode() + b" HTTP/1.1\r\n" + b"".join(line + b"\r\n" for line in lines) + b"\r\n"
