"""What goes out to one client: gathered while a turn of the loop lasts, then sent in one write."""

from __future__ import annotations

import socket
from typing import Any, Final

import trio

from platformd.coordination.codec import append_frame

MAX_WAITING: Final = 1 << 20
"""With more bytes than this waiting for the client, nothing more is read from it or for it. What was begun before may
still add its answers."""


class Outbox:
    """The sending side of a connection.

    Args:
        sock: the socket, not blocking.
    """

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._buffer = bytearray()
        self._sending = 0
        self._closed = False
        self._sender = trio.lowlevel.ParkingLot()
        self._room = trio.lowlevel.ParkingLot()
        self._empty = trio.lowlevel.ParkingLot()

    def put(self, message: tuple[Any, ...]) -> int:
        """Have ``message`` sent; its length. Never waits."""
        if self._closed:
            return 0
        if not self._buffer:
            self._sender.unpark()
        return append_frame(self._buffer, message)

    @property
    def full(self) -> bool:
        """Whether so much waits for the client that no more should be begun for it."""
        return len(self._buffer) + self._sending > MAX_WAITING

    async def wait_room(self) -> None:
        """Wait until it is not full. A checkpoint only if it is. First come, first served, one at a time."""
        while self.full:
            await self._room.park()
        self._room.unpark()  # it looks for itself, after this one has had its turn

    async def wait_empty(self) -> None:
        """Wait until all is sent."""
        while self._buffer or self._sending:
            await self._empty.park()

    def close(self) -> None:
        """Drop what waits, and what still comes."""
        self._closed = True
        self._buffer.clear()

    async def run(self) -> None:
        """Send until it is cancelled.

        Raises:
            OSError: the client is gone.
        """
        while True:
            while not self._buffer:
                await self._sender.park()
            data, self._buffer = self._buffer, bytearray()
            self._sending = len(data)
            await self._send(data)
            self._sending = 0
            if not self.full:
                self._room.unpark()
            if not self._buffer:
                self._empty.unpark_all()

    async def _send(self, data: bytearray) -> None:
        with memoryview(data) as rest:
            at = 0
            while True:
                try:
                    at += self._sock.send(rest[at:])
                except BlockingIOError:
                    await trio.lowlevel.wait_writable(self._sock)
                    continue
                self._sending = len(data) - at
                if not self._sending:
                    return
