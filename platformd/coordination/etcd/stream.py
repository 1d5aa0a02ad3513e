"""One gRPC exchange on a connection: what is to be sent, what was received, and how it ended."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import trio

from platformd.coordination.etcd.wire import Malformed

STREAM_WINDOW = 128 * 1024
"""How many bytes a member may send on one exchange beyond what was taken: what a slow watch keeps in memory."""

_PREFIX = 5
# A gRPC message is preceded by a byte that says whether it is compressed, and its length in four.


class Reply(NamedTuple):
    """How an exchange ended: gRPC's status and message, and for a call the answer."""

    status: int
    message: str
    data: bytes = b""


class Lost(Exception):
    """The exchange was cut off before it was answered.

    Args:
        reason: by what.
        sent: whether any of it may have reached the member; if not, nothing was done.
    """

    def __init__(self, reason: str, *, sent: bool) -> None:
        super().__init__(reason)
        self.reason = reason
        self.sent = sent


class TimedOut(Lost):
    """The deadline passed."""


class Oversize(Exception):
    """The answer is larger than we take."""

    def __init__(self, size: int, limit: int) -> None:
        super().__init__(f"the answer has {size} bytes; max_message is {limit}")
        self.size = size
        self.limit = limit


def framed(message: bytes) -> bytes:
    """A message as gRPC sends it."""
    return b"\x00" + len(message).to_bytes(4, "big") + message


class Stream:
    """One exchange. The connection feeds it; one task at a time waits on it.

    Args:
        headers: its block of headers.
        unsent: what is to be sent, framed.
        call: one message there and one back; else messages go both ways until one side ends it.
        limit: the largest message that is taken.
        touch: to be called when there is so much more to send (bytes), or the peer's window can be opened (0).
    """

    __slots__ = (
        "call",
        "credit",
        "end",
        "failure",
        "handed",
        "headers",
        "id",
        "keep",
        "limit",
        "received",
        "task",
        "touch",
        "unsent",
        "window",
    )

    def __init__(
        self, headers: bytes, unsent: bytes, *, call: bool, limit: int, touch: Callable[[Stream, int], None]
    ) -> None:
        self.headers = headers
        self.unsent = unsent
        self.call = call
        self.limit = limit
        self.touch = touch
        self.id = 0
        """0 until the connection begins to send it."""
        self.window = 0
        """How much we may send."""
        self.credit = STREAM_WINDOW
        """How much the peer may send."""
        self.handed = False
        """The network may have some of it."""
        self.keep = False
        """Once it is handed over, it is waited for in spite of a cancellation."""
        self.received = bytearray()
        self.end: Reply | None = None
        self.failure: Lost | Oversize | None = None
        self.task: trio.lowlevel.Task | None = None

    # --- whoever waits for it ---

    async def wait(self) -> None:
        """Until the connection wakes it."""
        self.task = trio.lowlevel.current_task()
        await trio.lowlevel.wait_task_rescheduled(self._abort)

    def _abort(self, _raise_cancel: object) -> trio.lowlevel.Abort:
        if self.keep and self.handed:
            return trio.lowlevel.Abort.FAILED
        self.task = None
        if self.call and not self.handed:  # here, not when the task runs again: the writer may run before it
            self.failure = Lost("withdrawn", sent=False)
        return trio.lowlevel.Abort.SUCCEEDED

    def reply(self) -> Reply:
        """The answer of a call that is over.

        Raises:
            Lost: there is none.
            Oversize: it is too large.
        """
        if self.failure is not None:
            raise self.failure
        assert self.end is not None
        return self.end if self.end.status else Reply(0, "", self.take() or b"")

    def take(self) -> bytes | None:
        """The next message, if it is there as a whole.

        Raises:
            Malformed: it is compressed, which nobody asked for.
        """
        received = self.received
        if len(received) < _PREFIX:
            return None
        size = _PREFIX + int.from_bytes(received[1:_PREFIX], "big")
        if len(received) < size:
            return None
        if received[0]:
            raise Malformed("a compressed message")
        message = bytes(received[_PREFIX:size])
        del received[:size]
        return message

    async def receive(self) -> bytes | None:
        """The next message; ``None`` once ``end`` has come. Cancelled, it has taken nothing.

        Raises:
            Lost: it was cut off.
            Oversize: the message is too large.
        """
        while True:
            message = self.take()
            if message is not None or self.end is not None:
                return message
            if self.failure is not None:
                raise self.failure
            # Less than a message is here, and someone wants it: only now may the peer send more.
            self.touch(self, 0)
            await self.wait()

    def send(self, *messages: bytes) -> None:
        """Send further messages, soon; nothing if it was cut off."""
        if messages and self.failure is None and self.end is None:
            more = b"".join(map(framed, messages))
            self.unsent += more
            self.touch(self, len(more))

    # --- the connection ---

    def wake(self) -> None:
        """Have whoever waits look again."""
        task, self.task = self.task, None
        if task is not None:
            trio.lowlevel.reschedule(task)

    def feed(self, content: bytes) -> None:
        """Take what was received."""
        self.received += content
        self.credit -= len(content)
        if len(self.received) >= _PREFIX:
            size = int.from_bytes(self.received[1:_PREFIX], "big")
            if size > self.limit:
                self.failure = Oversize(size, self.limit)
