"""A WebSocket from the end of its handshake to the end of its connection.

Every wait has an end here too:

- A peer that is silent is pinged; silent for as long again, it is closed (1008). One that is half open never answers.
- A message has the same time from its first byte to its last as a request has (1008), and a limit (1009).
- A message that the application does not take in time closes the connection (1013); until then nothing is read.
- What the peer does not take waits in a bounded outbox, and then the application waits. When the peer takes no byte
  for the write timeout, what waits is dropped, and it is closed (1008): should it wake up, it learns why.
- The closing handshake has a deadline, whoever begins it; then the connection is cut off.

Telling it to close never waits, so that whoever is being cancelled can say it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import trio
from wsproto.frame_protocol import CloseReason

from platformd.api.server.frames import Ending, Frames, Message, Ping
from platformd.api.server.outbox import Outbox, Socket

RECEIVE_BYTES: Final = 16 * 1024
"""The most that is read at once."""
TURN: Final = 64
"""After so many frames others have their turn: there can be thousands in what is read at once."""
INBOX: Final = 1
"""Messages that may wait for the application; then no more is read from the peer."""
TAKE_SECONDS: Final = 10.0
"""How long the application may take none of the messages that wait for it."""


@dataclass(frozen=True, kw_only=True)
class WebSocketLimits:
    """The bounds of one WebSocket, from ``HttpSettings``; seconds and bytes."""

    max_message: int
    buffer: int
    message_timeout: float
    write_timeout: float
    ping: float
    close_timeout: float


class WebSocket:
    """One accepted WebSocket.

    Args:
        limits: the bounds.
        received: what the client sent behind its handshake.
    """

    def __init__(self, limits: WebSocketLimits, received: bytes) -> None:
        self._limits, self._received = limits, received
        self._frames = Frames(limits.max_message)
        self._outbox = Outbox(limits.buffer)
        self._into, self.messages = trio.open_memory_channel[Message](INBOX)
        """What the peer sends; ends when the WebSocket is closing."""
        self.code: int | None = None
        """What it was closed with, from either side; 1006 when the peer was lost. ``None`` while it is open."""
        self._life = trio.CancelScope()
        self._heard = 0.0
        """When the peer was last heard, or was pinged."""
        self._pinged = False
        self._message_deadline = float("inf")

    async def send(self, data: str | bytes) -> None:
        """Send a message. Waits while too much waits to be taken; does nothing when the WebSocket is closing."""
        await self._outbox.put(self._frames.message(data))

    def close(self, code: int, reason: str = "", *, drop: bool = False) -> None:
        """Begin the closing handshake; what was sent before goes first, except with ``drop``. Only the first counts."""
        if self.code is not None:
            return
        self.code = code
        self._into.close()
        self._outbox.put_last(self._frames.close(code, reason), drop=drop)
        self._life.deadline = trio.current_time() + self._limits.close_timeout

    async def run(self, sock: Socket) -> None:
        """Receive and send until both sides have closed, the peer is gone, or the closing took too long."""
        try:
            with self._life:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._write, sock, nursery.cancel_scope)
                    if await self._read(sock):
                        await self._outbox.wait_empty()
                        sock.shutdown(trio.socket.SHUT_WR)
                        while await sock.recv(RECEIVE_BYTES):  # until it has seen that: see ``Connection``, on closing
                            pass
                    nursery.cancel_scope.cancel()
        except* (OSError, trio.ClosedResourceError):
            pass  # the peer is gone, which is one way to end
        finally:
            self.abandon()

    def abandon(self) -> None:
        """The peer is gone, and nothing more can be said to it."""
        self.code = self.code or CloseReason.ABNORMAL_CLOSURE
        self._into.close()
        self._outbox.put_last(b"", drop=True)

    async def _write(self, sock: Socket, everything: trio.CancelScope) -> None:
        def stalled() -> None:
            text = f"nothing was taken for {self._limits.write_timeout:g} s"
            self.close(CloseReason.POLICY_VIOLATION, text, drop=True)

        try:
            await self._outbox.run(sock, self._limits.write_timeout, stalled)
        except (OSError, trio.ClosedResourceError):
            everything.cancel()

    async def _read(self, sock: Socket) -> bool:
        """Take what comes until nothing more will; whether the peer is still there to be told anything."""
        data, self._received = self._received, b""
        self._heard = trio.current_time()
        while True:
            if data:
                await self._take(data)
                if self._frames.deaf:
                    return True
            with trio.CancelScope(deadline=self._deadline()) as waiting:
                data = await sock.recv(RECEIVE_BYTES)
                if not data:
                    return False
                self._heard, self._pinged = trio.current_time(), False
            if waiting.cancelled_caught:
                data = b""
                self._on_silence()

    async def _take(self, data: bytes) -> None:
        for number, found in enumerate(self._frames.receive(data), 1):
            if number % TURN == 0:
                await trio.lowlevel.checkpoint()
            if isinstance(found, Ping):
                self._outbox.put_urgent("pong", found.answer)
            elif isinstance(found, Ending):
                self.close(found.code, found.reason)
            else:
                await self._give(found)
        if not self._frames.unfinished:
            self._message_deadline = float("inf")
        elif self._message_deadline == float("inf"):
            self._message_deadline = trio.current_time() + self._limits.message_timeout

    async def _give(self, message: Message) -> None:
        if self.code is not None:
            return
        self._message_deadline = float("inf")
        with trio.move_on_after(TAKE_SECONDS) as patience:
            try:
                await self._into.send(message)
            except (trio.ClosedResourceError, trio.BrokenResourceError):
                return  # closing, or the application has ended
        if patience.cancelled_caught:
            self.close(CloseReason.TRY_AGAIN_LATER, "messages come faster than they are taken")

    def _deadline(self) -> float:
        return min(self._message_deadline, self._heard + self._limits.ping) if self.code is None else float("inf")

    def _on_silence(self) -> None:
        now = trio.current_time()
        if now >= self._message_deadline:
            text = f"a message did not come in whole within {self._limits.message_timeout:g} s"
            self.close(CloseReason.POLICY_VIOLATION, text)
        elif self._outbox.busy:
            self._heard = now  # it cannot have seen a ping; how long it may take to read is the write timeout
        elif self._pinged:
            self.close(CloseReason.POLICY_VIOLATION, f"no sign of life within {self._limits.ping:g} s of a ping")
        else:
            self._heard, self._pinged = now, True
            self._outbox.put_urgent("ping", self._frames.ping())
