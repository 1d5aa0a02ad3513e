"""What goes out over one WebSocket: a bounded queue of frames, written in order by one task.

Frames that answer at once (pong, ping) do not queue. There is one place for each of them, and a newer one replaces
what was not written yet, which RFC 6455 §5.5.3 allows: however many pings come, no more than one pong waits.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Final, Literal

import trio

from platformd.api.server.tls import TlsSocket

Socket = trio.socket.SocketType | TlsSocket
"""What a WebSocket runs on."""

JOIN_BYTES: Final = 64 * 1024
"""Frames are written together up to about this size: one system call, one wake-up of the client."""


class Outbox:
    """The sending side of a WebSocket.

    Args:
        limit: bytes that may wait; then ``put`` waits until some are taken.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._frames: deque[bytes] = deque()
        self._urgent: dict[str, bytes] = {}
        self._waiting = 0
        """Bytes in ``_frames`` and of what is being written."""
        self._closed = False
        self._work = trio.Event()
        self._room = trio.lowlevel.ParkingLot()
        self._empty = trio.lowlevel.ParkingLot()

    @property
    def busy(self) -> bool:
        """Whether anything waits or is being written."""
        return bool(self._waiting or self._urgent)

    async def put(self, frame: bytes) -> None:
        """Have ``frame`` written after those before it; waits while too much waits. Dropped after the last frame."""
        await trio.lowlevel.checkpoint()
        while self._waiting >= self._limit and not self._closed:
            await self._room.park()
        self._add(frame)

    def put_urgent(self, kind: Literal["ping", "pong"], frame: bytes) -> None:
        """Have ``frame`` written before those that wait, in the place of another of its kind. Never waits."""
        if frame and not self._closed:
            self._urgent[kind] = frame
            self._work.set()

    def put_last(self, frame: bytes, *, drop: bool) -> None:
        """Have ``frame`` written, and nothing after it; with ``drop`` instead of what waits. Never waits."""
        if drop:
            self._waiting -= sum(map(len, self._frames))
            self._frames.clear()
        self._urgent.clear()
        self._add(frame)
        self._closed = True
        self._room.unpark_all()

    async def wait_empty(self) -> None:
        """Wait until all is written."""
        while self.busy:
            await self._empty.park()

    async def run(self, sock: Socket, patience: float, on_stall: Callable[[], None]) -> None:
        """Write until it is cancelled.

        Args:
            sock: the socket.
            patience: seconds that the peer may take no byte.
            on_stall: called when it has taken none for so long. The writing goes on: half a frame cannot be taken back.

        Raises:
            OSError, trio.ClosedResourceError: the connection is gone.
        """
        while True:
            await self._work.wait()
            data = self._take()
            with memoryview(data) as rest:
                done = 0
                while done < len(data):
                    with trio.move_on_after(patience) as waiting:
                        done += await sock.send(rest[done:])
                    if waiting.cancelled_caught:
                        on_stall()
            self._waiting -= len(data)
            if self._waiting < self._limit:
                self._room.unpark_all()
            if not self.busy:
                self._empty.unpark_all()

    def _add(self, frame: bytes) -> None:
        if frame and not self._closed:
            self._frames.append(frame)
            self._waiting += len(frame)
            self._work.set()

    def _take(self) -> bytes:
        """The next bytes to write; they count as waiting until they are written."""
        parts = list(self._urgent.values())
        self._waiting += sum(map(len, parts))
        self._urgent.clear()
        size = 0
        while self._frames and size < JOIN_BYTES:
            parts.append(self._frames.popleft())
            size += len(parts[-1])
        if not self._frames:
            self._work = trio.Event()
        return b"".join(parts)
