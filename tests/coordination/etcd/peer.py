"""The other end of a connection, played by the package h2: an HTTP/2 that is not ours, and does what a test says."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import h2.config
import h2.connection
import h2.events
import h2.settings
import trio
import trio.testing

from platformd.coordination.etcd import frames
from platformd.coordination.etcd.connection import Bounds, Connection
from platformd.coordination.etcd.stream import framed

BOUNDS = Bounds(
    max_in_flight=100, max_unsent=1 << 20, max_message=1 << 20, keepalive_interval=5.0, keepalive_timeout=3.0
)
HEADERS = frames.header_block("/service/Method", "etcd", tls=False, metadata={"hasleader": "true"})


class Peer:
    """A server of HTTP/2, step by step."""

    def __init__(self, stream: Any, **settings: int) -> None:
        self.stream = stream
        self.state = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False, header_encoding="utf-8"))
        chosen: dict[h2.settings.SettingCodes | int, int] = {int(name[1:]): value for name, value in settings.items()}
        self.state.local_settings = h2.settings.Settings(client=False, initial_values=chosen)
        self.events: list[h2.events.Event] = []
        self.requests: dict[int, bytearray] = {}

    async def begin(self) -> None:
        self.state.initiate_connection()
        await self.flush()

    async def flush(self) -> None:
        await self.stream.send_all(self.state.data_to_send())

    async def next(self, kind: type[h2.events.Event]) -> Any:
        """The next event of a kind; data is gathered in ``requests`` on the way."""
        while True:
            for index, event in enumerate(self.events):
                if isinstance(event, kind):
                    del self.events[index]
                    return event
            received = await self.stream.receive_some(65536)
            assert received, "the client has closed the connection"
            for event in self.state.receive_data(received):
                self.events.append(event)
                if isinstance(event, h2.events.DataReceived):
                    self.requests.setdefault(event.stream_id, bytearray()).extend(event.data)
            await self.flush()

    async def request(self) -> tuple[int, dict[str, str]]:
        """The next request's number and headers, once it has come as a whole."""
        event = await self.next(h2.events.RequestReceived)
        await self.next(h2.events.StreamEnded)
        return event.stream_id, dict(event.headers)

    async def no_request(self) -> None:
        """See that no further request comes."""
        with trio.move_on_after(0.02):
            await self.next(h2.events.RequestReceived)
            raise AssertionError("a request came")

    async def answer(self, number: int, message: bytes | None, status: int = 0, text: str = "") -> None:
        """A whole gRPC answer."""
        self.state.send_headers(number, [(":status", "200"), ("content-type", "application/grpc")])
        if message is not None:
            self.state.send_data(number, framed(message))
        self.state.send_headers(number, [("grpc-status", str(status)), ("grpc-message", text)], end_stream=True)
        await self.flush()

    async def send(self, number: int, content: bytes) -> None:
        """A piece of a stream."""
        self.state.send_data(number, content)
        await self.flush()


@asynccontextmanager
async def connected(bounds: Bounds = BOUNDS, **settings: int) -> AsyncIterator[tuple[Connection, Peer]]:
    """A connection that runs, and its peer. ``s4=100`` sets the peer's setting 4 (the window of a stream)."""
    ours, theirs = trio.testing.memory_stream_pair()
    async with trio.open_nursery() as nursery:
        connection = Connection(ours, bounds)
        nursery.start_soon(connection.run)
        peer = Peer(theirs, **settings)
        await peer.begin()
        await connection.greeted.wait()
        yield connection, peer
        connection.stop("the test is over")
