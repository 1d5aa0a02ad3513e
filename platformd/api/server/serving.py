"""All connections together: accepting them, holding their number down, and stopping."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable
from functools import partial
from typing import Final

import trio
from hypercorn.config import Config
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.typing import ASGIFramework

from platformd.api.server.connection import Connection, Limits
from platformd.api.server.protocol import problem_body, problem_headers
from platformd.api.server.sockets import BoundSocket, open_sockets
from platformd.api.server.tls import Certificates, TlsSocket, TlsStream
from platformd.api.server.websocket import WebSocketLimits
from platformd.core.errors import LimitReached
from platformd.core.peers import peer_credentials
from platformd.core.quantities import seconds, size_bytes
from platformd.core.settings import HttpSettings, Settings

MAX_REQUESTS_PER_CONNECTION: Final = 1_000_000
"""After so many a connection is closed. hypercorn's default of 1,000 makes busy clients reconnect for nothing."""
REQUEST_QUEUE: Final = 10
"""Pieces of a request body that may wait for the application; then no more is read from the client."""
_TURN_AWAY_SECONDS: Final = 0.1
"""The answer to a connection over the limit fits into a fresh socket's buffer; where not, it is not waited for."""


async def serve(
    app: ASGIFramework,
    settings: Settings,
    *,
    stopping: trio.Event,
    grace: float | None = None,
    opening: Callable[[Settings], list[BoundSocket]] = open_sockets,
    task_status: trio.TaskStatus[list[str]] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve ``app`` on the control socket (and the TCP address, if set) until ``stopping``.

    ``task_status.started`` gets the addresses once connections are accepted. On ``stopping``: the addresses
    are given up, idle connections are closed, WebSockets are told to go away, requests that are being served
    are finished. The application must end its endless responses itself (watches see the same event). What is
    left after ``grace`` is cut off, stalled writes included, so this returns within ``grace`` whatever the
    clients do. When cancelled it cuts everything off at once.

    Args:
        app: an ASGI application; its lifespan events are not sent.
        settings: ``daemon.socket``, ``daemon.socket_mode`` and the section ``http``.
        stopping: set by whoever wants it to stop.
        grace: seconds; ``None`` for half of ``daemon.stop_deadline``: the rings below need time as well.
        opening: listens where the settings say; called in a thread.
        task_status: trio's.

    Raises:
        Conflict, InvalidInput, Unavailable: the addresses cannot be had; as ``open_sockets``.
    """
    grace = seconds(settings.daemon.stop_deadline) / 2 if grace is None else grace
    bound = await trio.to_thread.run_sync(opening, settings)
    try:
        async with trio.open_nursery() as nursery:
            pool = ConnectionPool(app, settings.http)
            try:
                await _accept(pool, bound, nursery, stopping, task_status)
                await pool.stop()
                with trio.move_on_after(grace):
                    await pool.wait_empty()
            finally:
                # Shielded writes do not see the cancellation; a closed socket they do.
                pool.abort()
            nursery.cancel_scope.cancel()
    finally:
        for each in bound:
            each.release()


async def _accept(
    pool: ConnectionPool,
    bound: list[BoundSocket],
    nursery: trio.Nursery,
    stopping: trio.Event,
    task_status: trio.TaskStatus[list[str]],
) -> None:
    """Accept connections until ``stopping``, then give up the addresses."""
    listeners = [trio.SocketListener(trio.socket.from_stdlib_socket(each.socket)) for each in bound]
    async with trio.open_nursery() as accepting:
        await accepting.start(partial(trio.serve_listeners, pool.handle, listeners, handler_nursery=nursery))
        task_status.started([each.address for each in bound])
        await stopping.wait()
        for each in bound:
            each.unlink()
        accepting.cancel_scope.cancel()


class ConnectionPool:
    """The open connections. At the limit the one that is idle longest makes room; when none is idle, the
    new one is told so and closed. One peer (a user of the Unix socket, an address of TCP) has a limit of its own,
    so that it cannot take all places; there its own idle connections make room."""

    def __init__(self, app: ASGIFramework, settings: HttpSettings) -> None:
        self._app = app
        self._config = hypercorn_config(settings)
        self._context = WorkerContext(None)
        self._certificates = Certificates(settings) if settings.listen and settings.cert_file else None
        self._limits = Limits(
            read_timeout=seconds(settings.read_timeout),
            write_timeout=seconds(settings.write_timeout),
            keep_alive_timeout=seconds(settings.keep_alive_timeout),
            max_body=size_bytes(settings.max_body),
            websocket=WebSocketLimits(
                max_message=size_bytes(settings.websocket_max_message),
                buffer=size_bytes(settings.websocket_buffer),
                message_timeout=seconds(settings.read_timeout),
                write_timeout=seconds(settings.write_timeout),
                ping=seconds(settings.websocket_ping),
                close_timeout=seconds(settings.websocket_close),
            ),
        )
        self._max_connections = settings.max_connections
        self._max_per_peer = settings.max_connections_per_peer
        self._per_peer: dict[str, int] = {}
        """How many connections each peer has."""
        self._open: set[Connection] = set()
        self._idle: dict[Connection, None] = {}
        """In the order in which they became idle."""
        self._empty = trio.Event()

    def __len__(self) -> int:
        return len(self._open)

    async def handle(self, stream: trio.SocketStream) -> None:
        """Serve one connection until its end. Raises nothing but ``trio.Cancelled``."""
        peer = _peer_of(stream)
        if self._per_peer.get(peer, 0) >= self._max_per_peer and not self._make_room(peer):
            error = f"{self._max_per_peer} connections of {peer} are open and none of them is idle"
            await self._turn_away(stream, error, "http.max_connections_per_peer")
            return
        if len(self._open) >= self._max_connections and not self._make_room():
            error = f"{self._max_connections} connections are open and none of them is idle"
            await self._turn_away(stream, error, "http.max_connections")
            return
        own: trio.SocketStream | TlsStream = stream
        if self._secured(stream) and self._certificates is not None:
            own = TlsStream(TlsSocket(stream.socket, self._certificates.context()))
        connection = Connection(self._app, self._config, self._context, self._limits, own, self._on_idle)
        connection.peer = peer
        self._per_peer[peer] = self._per_peer.get(peer, 0) + 1
        self._open.add(connection)
        try:
            await connection.run()
        finally:
            self._forget(connection)

    async def stop(self) -> None:
        """Close connections that serve no request and all WebSockets; each response is its connection's last now."""
        await self._context.terminated.set()
        for connection in self._open:
            connection.wind_up()
        if not self._open:
            self._empty.set()

    def abort(self) -> None:
        """Cut off all connections."""
        for connection in tuple(self._open):
            connection.abort()

    async def wait_empty(self) -> None:
        """Wait, after ``stop``, until no connection is left."""
        await self._empty.wait()

    def _on_idle(self, connection: Connection, idle: bool) -> None:
        if idle:
            self._idle.setdefault(connection)
        else:
            self._idle.pop(connection, None)

    def _make_room(self, peer: str | None = None) -> bool:
        longest = next((one for one in self._idle if peer in {None, one.peer}), None)
        if longest is None:
            return False
        longest.abort()
        self._forget(longest)
        return True

    def _forget(self, connection: Connection) -> None:
        self._idle.pop(connection, None)
        if connection in self._open:
            self._open.remove(connection)
            self._per_peer[connection.peer] -= 1
            if not self._per_peer[connection.peer]:
                del self._per_peer[connection.peer]
        if not self._open and self._context.terminated.is_set():
            self._empty.set()

    def _secured(self, stream: trio.SocketStream) -> bool:
        return self._certificates is not None and stream.socket.family != trio.socket.AF_UNIX

    async def _turn_away(self, stream: trio.SocketStream, message: str, limit: str) -> None:
        if self._secured(stream):
            stream.socket.close()  # what could be said would have to be said in TLS
            return
        error = LimitReached(message, subject=limit, hint="try again later, or raise the limit")
        status, body = problem_body(error)
        headers = [*problem_headers(body), (b"retry-after", b"1")]
        head = b"".join(b"%s: %s\r\n" % header for header in headers)
        answer = b"HTTP/1.1 %d Limit reached\r\n%s\r\n%s" % (status, head, body)
        with trio.move_on_after(_TURN_AWAY_SECONDS), contextlib.suppress(trio.BrokenResourceError):
            await stream.send_all(answer)
        stream.socket.close()


def _peer_of(stream: trio.SocketStream) -> str:
    """Who is at the other end, as limits count: a user, or an address."""
    credentials = peer_credentials(stream.socket)
    if credentials is not None:
        return f"user {credentials.uid}"
    try:
        return f"address {stream.socket.getpeername()[0]}"
    except OSError:
        return "an address that is gone"


def hypercorn_config(settings: HttpSettings) -> Config:
    """The settings of hypercorn, each that matters here said out loud instead of left to its default.

    Sockets, deadlines and the end are not among them, nor anything about WebSockets: ``Connection``, ``serve`` and
    ``WebSocket`` have those.
    """
    config = Config()
    config.debug = False
    config.errorlog = logging.getLogger("platformd.api.server")
    config.accesslog = None  # the application writes it, with the peer and the request id
    config.include_server_header = False
    config.include_date_header = True
    config.h11_max_incomplete_size = size_bytes(settings.max_head)
    config.h11_pass_raw_headers = False
    config.keep_alive_max_requests = MAX_REQUESTS_PER_CONNECTION
    config.keep_alive_timeout = seconds(settings.keep_alive_timeout)
    config.read_timeout = None  # by request, not by read: see Connection
    config.max_app_queue_size = REQUEST_QUEUE
    config.max_requests = None
    config.server_names = []  # the application checks Host, on TCP only
    return config
