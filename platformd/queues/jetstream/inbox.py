"""Where the answers to one question arrive."""

from __future__ import annotations

from collections import deque

import trio

from platformd.queues.jetstream.wire import Msg


class Lost(Exception):
    """The connection is gone.

    Args:
        reason: why.
        sent: whether the server may have what was asked.
    """

    def __init__(self, reason: str, *, sent: bool) -> None:
        super().__init__(reason)
        self.reason = reason
        self.sent = sent


class TimedOut(Exception):
    """The deadline passed without an answer."""


class Denied(Exception):
    """The account may not publish there; the text is the server's."""


class Inbox:
    """Takes what is sent to ``address`` and below it. Made by ``Client.inbox``; who made it closes it."""

    def __init__(self, address: bytes) -> None:
        self.address = address
        self.asked = b""
        """The subject of the question, by which a server's refusal is known."""
        self.sent = False
        """Whether the question went, or may have gone, to the server."""
        self._messages: deque[Msg] = deque()
        self._failure: Exception | None = None
        self._arrived = trio.Event()

    def __len__(self) -> int:
        return len(self._messages)

    def put(self, message: Msg) -> None:
        """It came."""
        self._messages.append(message)
        self._arrived.set()

    def fail(self, failure: Exception) -> None:
        """Nothing more will come."""
        self._failure = self._failure or failure
        self._arrived.set()

    def get_nowait(self) -> Msg | None:
        """The next that has come."""
        return self._messages.popleft() if self._messages else None

    async def get(self, deadline: float) -> Msg:
        """The next.

        Args:
            deadline: on trio's clock.

        Raises:
            Lost: the connection is gone; what had come before was given first.
            Denied: the account may not ask this.
            TimedOut: the deadline passed.
        """
        while not self._messages:
            if self._failure is not None:
                raise self._failure
            self._arrived = trio.Event()
            with trio.move_on_at(deadline) as scope:
                await self._arrived.wait()
            if scope.cancelled_caught and not self._messages and self._failure is None:
                raise TimedOut
        return self._messages.popleft()
