"""The door's socket and all its connections: accepting them, holding their number down, and stopping."""

from __future__ import annotations

import contextlib
import socket
from functools import partial
from typing import Final

import trio

from platformd.access import Gate
from platformd.api.door.connection import Bounds, Connection
from platformd.api.server.sockets import BoundSocket, open_store_socket
from platformd.coordination.codec import append_frame
from platformd.coordination.codec.replies import wire_problem
from platformd.coordination.contract import Store
from platformd.core.errors import LimitReached
from platformd.core.peers import peer_credentials
from platformd.core.quantities import seconds, size_bytes
from platformd.core.settings import DoorSettings, Settings

_FIRST_ID: Final = 0
"""A problem with this id is the connection's."""


async def serve_door(
    store: Store,
    settings: Settings,
    *,
    gate: Gate,
    stopping: trio.Event,
    grace: float | None = None,
    task_status: trio.TaskStatus[str] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve ``store`` on its socket beside the control socket until ``stopping``.

    ``task_status.started`` gets the address once connections are accepted. On ``stopping``: the address is given
    up, requests that were received are answered, watches end, each client is told goodbye (what has no answer then was
    not done). What is left after ``grace`` is cut off.

    Args:
        store: the engine.
        settings: ``daemon.socket``, ``daemon.socket_mode`` and the section ``door``.
        gate: says who may do what with it.
        stopping: set by whoever wants it to stop.
        grace: seconds; ``None`` for half of ``daemon.stop_deadline``.
        task_status: trio's.

    Raises:
        Conflict, InvalidInput, Unavailable: the address cannot be had; as ``open_sockets``.
    """
    grace = seconds(settings.daemon.stop_deadline) / 2 if grace is None else grace
    bound = await trio.to_thread.run_sync(open_store_socket, settings)
    try:
        pool = _Pool(store, gate, settings.door)
        async with trio.open_nursery() as nursery:
            await _accept(pool, bound, nursery, stopping, task_status)
            pool.stop()
            with trio.move_on_after(grace):
                await pool.wait_empty()
            nursery.cancel_scope.cancel()
    finally:
        bound.release()


async def _accept(
    pool: _Pool,
    bound: BoundSocket,
    nursery: trio.Nursery,
    stopping: trio.Event,
    task_status: trio.TaskStatus[str],
) -> None:
    """Accept connections until ``stopping``, then give up the address."""
    listener = trio.SocketListener(trio.socket.from_stdlib_socket(bound.socket))
    async with trio.open_nursery() as accepting:
        await accepting.start(partial(trio.serve_listeners, pool.handle, [listener], handler_nursery=nursery))
        task_status.started(bound.address)
        await stopping.wait()
        bound.unlink()
        accepting.cancel_scope.cancel()


class _Pool:
    """The open connections."""

    def __init__(self, store: Store, gate: Gate, settings: DoorSettings) -> None:
        self._store, self._gate = store, gate
        self._bounds = Bounds(
            max_frame=size_bytes(settings.max_frame),
            max_in_flight=settings.max_in_flight,
            max_credit=size_bytes(settings.watch_credit),
        )
        self._max_connections = settings.max_connections
        self._open: set[Connection] = set()
        self._changed = trio.lowlevel.ParkingLot()

    async def handle(self, stream: trio.SocketStream) -> None:
        """Serve one connection until its end. Raises nothing but ``trio.Cancelled``."""
        # The connection reads and writes the plain socket, in as few steps as trio's waiting needs.
        sock = socket.socket(fileno=stream.socket.detach())
        sock.setblocking(False)
        if len(self._open) >= self._max_connections:
            self._turn_away(sock)
            return
        connection = Connection(self._store, self._gate, sock, peer_credentials(sock), self._bounds)
        self._open.add(connection)
        try:
            await connection.run()
        finally:
            self._open.discard(connection)
            self._changed.unpark_all()

    def stop(self) -> None:
        """Have all connections end."""
        for connection in self._open:
            connection.stop()

    async def wait_empty(self) -> None:
        """Wait until there is none."""
        while self._open:
            await self._changed.park()

    def _turn_away(self, sock: socket.socket) -> None:
        error = LimitReached(
            f"{self._max_connections} connections are open, which is door.max_connections",
            subject="store door",
            hint="share a connection between a program's tasks, or raise the limit",
        )
        answer = bytearray()
        append_frame(answer, wire_problem(_FIRST_ID, error))
        with sock, contextlib.suppress(OSError):
            sock.send(answer)  # it fits into a fresh socket's buffer
