"""One connection: its reads and writes, its deadlines and its end.

Stands where hypercorn has its ``TCPServer`` and gives the protocol object the same interface, but:

- **Nothing leaves it.** Whatever goes wrong in here is logged and ends this connection alone.
- **Telling it something never waits.** "Idle now" and "closed" are plain assignments, so a task that is
  being cancelled still gets them said. (hypercorn starts a task or waits for a lock there; quart-trio
  cancels the caller at that very moment, and the connection hangs for good.)
- **Every wait has an end.** The reading scope's deadline is the keep-alive timeout between requests and
  the read timeout while one comes in. A write is shielded, for half a response is worse than none, but each
  piece has a deadline of its own, and ``abort`` cuts it off at once.
- **Closing is polite** where the client may still be sending: end our side, read and drop what comes for
  a moment, then close. Otherwise the kernel answers the client's next segment with a reset, which can
  destroy the response on its way (RFC 9112 §9.6).
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

import h11
import trio
from hypercorn.config import Config
from hypercorn.events import Closed, Event, RawData, Updated
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.typing import ASGIFramework, ASGIReceiveEvent, ASGISendEvent, ConnectionState, Scope
from hypercorn.utils import parse_socket_addr

from platformd.api.server.protocol import GOING_AWAY, STOPPING, ControlProtocol
from platformd.api.server.tls import Names, TlsSocket, TlsStream
from platformd.api.server.websocket import WebSocketLimits
from platformd.core.errors import DeadlineExceeded
from platformd.core.peers import peer_credentials

log = logging.getLogger("platformd.api.server")

RECEIVE_BYTES: Final = 64 * 1024
"""The most that is read at once, and so the most of pipelined requests that is kept."""
WRITE_BYTES: Final = 64 * 1024
"""A response is written in pieces of this size; each has ``write_timeout``."""
LINGER_SECONDS: Final = 2.0
"""How long what a client still sends is read and dropped before its connection is closed."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """The bounds of one connection, from ``HttpSettings``; seconds and bytes."""

    read_timeout: float
    write_timeout: float
    keep_alive_timeout: float
    max_body: int
    websocket: WebSocketLimits


class RequestTasks:
    """Runs the application for each request of a connection (hypercorn calls this a task group)."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self._nursery = nursery

    def spawn(self, run: Callable[[], Awaitable[None]]) -> None:
        """Start a task that lives as long as the connection, or longer."""
        self._nursery.start_soon(run)

    async def spawn_app(
        self, app: ASGIFramework, config: Config, scope: Scope, send: Callable[[ASGISendEvent | None], Awaitable[None]]
    ) -> Callable[[ASGIReceiveEvent], Awaitable[None]]:
        """Start ``app`` on a request; returns how to give it what comes in."""
        into, out = trio.open_memory_channel[ASGIReceiveEvent](config.max_app_queue_size)

        async def give(message: ASGIReceiveEvent) -> None:
            # The application has finished: nobody wants the rest of the request.
            with contextlib.suppress(trio.BrokenResourceError):
                await into.send(message)

        self._nursery.start_soon(self._run, app, scope, out, send)
        return give

    async def _run(
        self,
        app: ASGIFramework,
        scope: Scope,
        out: trio.MemoryReceiveChannel[ASGIReceiveEvent],
        send: Callable[[ASGISendEvent | None], Awaitable[None]],
    ) -> None:
        try:
            with out:
                await app(scope, out.receive, send)
        except* Exception:
            log.exception("the application failed on %s %s", scope.get("method"), scope.get("path"))
        finally:
            await send(None)


class Connection:
    """A client's connection, from accepting it to its end.

    Args:
        app: the application.
        config: hypercorn's settings.
        context: says whether the server is stopping.
        limits: the bounds.
        stream: the socket.
        on_idle: called with this connection and whether it is idle, each time that changes.
    """

    def __init__(
        self,
        app: ASGIFramework,
        config: Config,
        context: WorkerContext,
        limits: Limits,
        stream: trio.SocketStream | TlsStream,
        on_idle: Callable[[Connection, bool], None],
    ) -> None:
        self._app, self._config, self._context, self._limits = app, config, context, limits
        self._stream, self._on_idle = stream, on_idle
        self.peer = ""
        """Whose it is, as limits count; set by the pool."""
        self._reading = trio.CancelScope()
        self._writing = trio.Lock()
        self._protocol: ControlProtocol
        self._opening = trio.CancelScope()
        self._opened = False
        """TLS has come about, where there is any, and ``_protocol`` is there."""
        self._receiving = 0
        """The request (by number) that ``_receive_deadline`` is for."""
        self._receive_deadline = float("inf")
        self._closing = False
        """It was decided to end the connection, for another reason than a deadline."""
        self._lost = False
        """The peer is gone, or cut off: nothing more can be said."""

    async def run(self) -> None:
        """Serve the connection until it ends. Raises nothing but ``trio.Cancelled``."""
        try:
            await self._serve()
        except* (trio.BrokenResourceError, trio.ClosedResourceError, OSError) as gone:
            log.debug("a connection was lost: %s", gone.exceptions[0])
        except* Exception:
            log.exception("a connection failed and was closed; the others go on")
        finally:
            self.abort()

    def abort(self) -> None:
        """Close the socket now, whatever is being read or written."""
        self._lost = True
        self.close()
        self._stream.socket.close()

    def close(self) -> None:
        """End the connection: tell the application that it is over. No more is read."""
        self._closing = True
        self._opening.cancel()
        self._reading.cancel()

    def wind_up(self) -> None:
        """End soon, for the server stops: a connection without a request now, a WebSocket with a closing handshake."""
        if not self._opened or self.between_requests:
            self.close()
        elif self._protocol.websocket is not None:
            self._protocol.websocket.close(GOING_AWAY, STOPPING)

    @property
    def between_requests(self) -> bool:
        """Whether no request of this connection has come in whole and waits for its answer."""
        return self._protocol.connection.their_state is h11.IDLE

    async def _serve(self) -> None:
        sock = self._stream.socket
        plain = sock.plain if isinstance(sock, TlsSocket) else sock
        client = parse_socket_addr(plain.family, plain.getpeername())
        server = parse_socket_addr(plain.family, plain.getsockname())
        names: Names = ()
        if isinstance(sock, TlsSocket):
            if not await self._open_tls(sock):
                return
            names = sock.names()
        state = ConnectionState({"peercred": peer_credentials(plain), "certificate": names})
        async with trio.open_nursery() as nursery:
            self._protocol = ControlProtocol(
                self._app,
                self._config,
                self._context,
                RequestTasks(nursery),
                state,
                isinstance(sock, TlsSocket),
                client,
                server,
                self._send,
            )
            self._opened = True
            self._protocol.max_body = self._limits.max_body
            self._protocol.websocket_limits = self._limits.websocket
            self._update_deadline()
            with self._reading:
                await self._read()
                if self._protocol.websocket is not None:
                    await self._protocol.websocket.run(sock)
                    self._lost = True  # it has had its own farewell
            if self._reading.cancelled_caught and not self._closing and self._protocol.receiving:
                await self._say_too_slow()
            await self._protocol.handle(Closed())
            if not self._lost and self._protocol.unread:
                await self._linger()

    async def _open_tls(self, sock: TlsSocket) -> bool:
        """Whether TLS came about. Until then the connection is one that makes room for others."""
        self._on_idle(self, True)
        with self._opening:
            try:
                await sock.handshake()
            except trio.TooSlowError:
                log.info("a client did not finish its TLS handshake")
                return False
            self._on_idle(self, False)
            return True
        return False

    async def _read(self) -> None:
        """Take what comes until the peer ends it, it becomes a WebSocket, or the reading scope is cancelled."""
        while self._protocol.websocket is None:
            try:
                data = await self._stream.receive_some(RECEIVE_BYTES)
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                data = b""
            if not data:
                self._lost = True
                return
            await self._protocol.handle(RawData(bytes(data)))
            self._update_deadline()

    def _update_deadline(self) -> None:
        """Set the reading deadline by what is being waited for: a request, its rest, or the application."""
        protocol = self._protocol
        if protocol.receiving:
            if self._receiving != protocol.request_number:
                self._receiving = protocol.request_number
                self._receive_deadline = trio.current_time() + self._limits.read_timeout
            self._expect(self._receive_deadline, idle=False)
        elif self.between_requests:
            self._expect(trio.current_time() + self._limits.keep_alive_timeout, idle=True)
        else:
            self._expect(float("inf"), idle=False)

    def _expect(self, deadline: float, *, idle: bool) -> None:
        self._reading.deadline = deadline
        self._on_idle(self, idle)

    async def _send(self, event: Event) -> None:
        """What the protocol has to say: bytes to write, or news of the connection."""
        if isinstance(event, RawData):
            await self._write(event.data)
        elif isinstance(event, Closed):
            self.close()
        elif isinstance(event, Updated):
            if event.idle:
                self._update_deadline()
            else:
                # A request begins. Until what came with it is handled, no deadline may end the reading.
                self._expect(float("inf"), idle=False)

    async def _write(self, data: bytes) -> None:
        if self._lost:
            return
        view = memoryview(data)
        with trio.CancelScope(shield=True) as scope:
            try:
                async with self._writing:
                    for start in range(0, len(view), WRITE_BYTES):
                        scope.deadline = trio.current_time() + self._limits.write_timeout
                        await self._stream.send_all(view[start : start + WRITE_BYTES])
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                self._lost = True
        if scope.cancelled_caught:
            log.info("a client took no byte of its response for %g s and was cut off", self._limits.write_timeout)
            self.abort()
        if self._lost:
            self.close()
            await self._protocol.handle(Closed())

    async def _say_too_slow(self) -> None:
        error = DeadlineExceeded(
            f"the request did not come in whole within {self._limits.read_timeout:g} s", hint="see http.read_timeout"
        )
        await self._protocol.refuse(error, 408)

    async def _linger(self) -> None:
        with trio.move_on_after(LINGER_SECONDS), contextlib.suppress(trio.BrokenResourceError, OSError):
            await self._stream.send_eof()
            while await self._stream.receive_some(RECEIVE_BYTES):
                pass
