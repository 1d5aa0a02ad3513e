"""The store's connection without its socket: what to send, and what the bytes that come back mean; no I/O.

``StoreCore`` outlives connections. A shell (trio in ``store``, plain threads in ``store_blocking``) opens a socket and
says so (``open``), sends what ``take`` returns, gives what it reads to ``receive`` and wakes those who are named in the
answer, and says when the connection is gone (``lose``). Every rule of the protocol is written here, once:

- What is asked while there is no connection waits, and so does what is over the server's ``max_in_flight``.
- A lost connection: what was never sent, and what may be repeated (reads, keeping a lease alive), is sent again on the
  next one. A change that was sent and not answered has an unknown outcome, unless the server said goodbye:
  then everything that it left unanswered was not done, and is sent again.
- Watches are asked for again from the revision after the last one that was received: no gap, nothing twice.
"""

from __future__ import annotations

import collections
from typing import Any, Final

from platformd.client.store_watching import WatchCore
from platformd.coordination.codec import MAGIC, MAX_REPLY, VERSION, FrameBuffer, append_frame, decode_reply, frames
from platformd.coordination.codec.replies import EventsReply, Goodbye, HelloReply, ProblemReply, Reply, WatchingReply
from platformd.core.errors import InvalidInput, OutcomeUnknown, PlatformError, TooLarge

MAX_IN_FLIGHT: Final = 4096
"""The most requests on one connection, also to a server that would take more."""


class Call:
    """A request, and what came of it: ``reply`` or ``error``, once ``done``."""

    __slots__ = ("done", "error", "fields", "id", "kind", "repeatable", "reply", "waiter")

    def __init__(self, kind: int, fields: tuple[Any, ...], *, repeatable: bool) -> None:
        self.kind = kind
        self.fields = fields
        self.repeatable = repeatable
        """Whether doing it twice is as good as once."""
        self.id = 0
        """On the present connection; 0 while it waits for one."""
        self.done = False
        self.reply: Any = None
        self.error: PlatformError | None = None
        self.waiter: Any = None
        """The shell's own."""

    def fact(self) -> Any:
        """The answer, as the contract has it. Not to be asked before it is ``done``.

        Raises:
            PlatformError: what it was refused with.
        """
        if self.error is not None:
            raise self.error
        return self.reply.fact


class StoreCore:
    """The client's side of connections to one store.

    Args:
        name: how this program is called, for the server's log.
        subject: the address, for messages.
    """

    def __init__(self, name: str, subject: str, token: str = "") -> None:
        self._name = name
        self._token = token
        self._subject = subject
        self._frames = FrameBuffer(MAX_REPLY)
        self._hello: HelloReply | None = None
        self._goodbye = False
        self._waiting: collections.deque[Call] = collections.deque()
        self._calls: dict[int, Call] = {}
        self._watches: set[WatchCore] = set()
        self._watching: dict[int, WatchCore] = {}
        self._last_id = 0
        self._taken_id = 0
        """Requests up to this one were handed to the socket."""
        self._out = bytearray()
        self._woken: list[Call | WatchCore] = []

    # --- the connection ---

    @property
    def ready(self) -> bool:
        """Whether the server has said hello."""
        return self._hello is not None

    @property
    def in_flight(self) -> int:
        """Requests that were sent, or will be with the next ``take``, and are not answered."""
        return len(self._calls)

    def open(self) -> None:
        """There is a new connection: say hello."""
        self._frames = FrameBuffer(MAX_REPLY)
        self._goodbye = False
        self._out.clear()
        append_frame(self._out, (frames.HELLO, MAGIC, VERSION, self._name, *([self._token] if self._token else [])))

    def take(self) -> bytearray:
        """What is to be sent now; from here on it counts as sent."""
        out, self._out = self._out, bytearray()
        self._taken_id = self._last_id
        return out

    def receive(self, data: bytes) -> list[Call | WatchCore]:
        """Take what was received; those that have something new for their waiters.

        Raises:
            PlatformError: the server refuses the connection, or says what cannot be understood: it is to be closed and
                given up (``lose``).
        """
        self._frames.feed(data)
        woken = self._woken
        while (message := self._frames.next()) is not None:
            reply = decode_reply(message)
            if isinstance(reply, EventsReply):
                self._take_events(reply, len(message), woken)
            elif self._hello is None or isinstance(reply, HelloReply | Goodbye):
                self._take_control(reply, woken)
            else:
                self._take_answer(reply, woken)
        if self._waiting and self._hello is not None:
            self._send_waiting(woken)
        self._woken = []
        return woken

    def lose(self, reason: str) -> list[Call | WatchCore]:
        """The connection is gone: those whose outcome stays unknown. Everything else goes on with the next one."""
        self._hello = None
        woken, self._woken = self._woken, []  # there are some if ``receive`` raised
        again: list[Call] = []
        for call in self._calls.values():
            if call.repeatable or self._goodbye or call.id > self._taken_id:
                call.id = 0
                again.append(call)
            else:
                hint = "look whether it was done before doing it again"
                call.error = OutcomeUnknown(f"the answer was lost: {reason}", subject=self._subject, hint=hint)
                call.done = True
                woken.append(call)
        self._calls.clear()
        self._watching.clear()
        self._waiting.extendleft(reversed(again))
        self._out.clear()
        return woken

    # --- requests ---

    def call(self, kind: int, *fields: Any, repeatable: bool) -> Call:
        """Ask. The answer may be there at once: one that says why it cannot be sent."""
        call = Call(kind, fields, repeatable=repeatable)
        if self._hello is None or self._waiting or len(self._calls) >= self._room():
            self._waiting.append(call)
        else:
            self._send(call)
        return call

    def forget(self, call: Call) -> None:
        """Nobody waits for it any more. What was not handed to the connection yet is not done."""
        if call.id:
            self._calls.pop(call.id, None)
        elif call in self._waiting:
            self._waiting.remove(call)

    def anyone(self) -> Call | None:
        """A request that has no answer yet, if there is one."""
        return next(iter(self._calls.values()), None) or (self._waiting[0] if self._waiting else None)

    def waiting(self) -> list[Call | WatchCore]:
        """What waits for a connection: requests, and watches that are not in place yet."""
        return [*self._waiting, *(watch for watch in self._watches if not watch.in_place)]

    def fail(self, one: Call | WatchCore, error: PlatformError) -> None:
        """Give up one of ``waiting``."""
        if isinstance(one, Call):
            self.forget(one)
            one.error, one.done = error, True
        else:
            self._watches.discard(one)
            one.error = error

    def close(self, error: PlatformError) -> list[Call | WatchCore]:
        """All that is open ends with ``error``."""
        woken: list[Call | WatchCore] = [*self._calls.values(), *self._waiting, *self._watches]
        for one in woken:
            if isinstance(one, Call):
                one.done = True
            one.error = error
        self._calls.clear()
        self._waiting.clear()
        self._watches.clear()
        self._watching.clear()
        return woken

    def _room(self) -> int:
        assert self._hello is not None
        return min(MAX_IN_FLIGHT, self._hello.max_in_flight)

    def _send(self, call: Call) -> None:
        assert self._hello is not None
        self._last_id += 1
        start = len(self._out)
        try:
            length = append_frame(self._out, (call.kind, self._last_id, *call.fields))
        except (TypeError, ValueError, OverflowError) as error:
            call.error = InvalidInput(f"cannot be sent: {error}", subject=self._subject)
        else:
            if length <= self._hello.max_frame:
                call.id = self._last_id
                self._calls[call.id] = call
                return
            del self._out[start:]
            call.error = TooLarge(
                f"the request has {length} bytes; the server takes {self._hello.max_frame}",
                subject=self._subject,
                hint="write less in one transaction, or raise door.max_frame",
            )
        call.done = True

    def _send_waiting(self, woken: list[Call | WatchCore]) -> None:
        room = self._room()
        while self._waiting and len(self._calls) < room:
            call = self._waiting.popleft()
            self._send(call)
            if call.done:
                woken.append(call)

    # --- watches ---

    def watch(self, watch: WatchCore) -> None:
        """Have a watch go on, over all connections until it is cancelled or refused."""
        self._watches.add(watch)
        if self._hello is not None:
            self._ask_for(watch)

    def cancel(self, watch: WatchCore) -> None:
        """End a watch."""
        self._watches.discard(watch)
        if self._watching.pop(watch.id, None) is not None:
            append_frame(self._out, (frames.CANCEL, watch.id))

    def give_credit(self, watch: WatchCore) -> None:
        """Tell the server what a watch's program has taken, once that is worth a message."""
        if watch.id in self._watching and (due := watch.credit_due()):
            append_frame(self._out, (frames.CREDIT, watch.id, due))

    @property
    def has_output(self) -> bool:
        """Whether ``take`` has something."""
        return bool(self._out)

    def _ask_for(self, watch: WatchCore) -> None:
        assert self._hello is not None
        self._last_id += 1
        try:
            append_frame(self._out, (frames.WATCH, self._last_id, *watch.request(self._hello.max_credit)))
        except (TypeError, ValueError, OverflowError) as error:
            watch.error = InvalidInput(f"cannot be sent: {error}", subject=self._subject)
            self._watches.discard(watch)
        else:
            watch.id = self._last_id
            self._watching[watch.id] = watch

    # --- what came ---

    def _take_answer(self, reply: Any, woken: list[Call | WatchCore]) -> None:
        call = self._calls.pop(reply.id, None)
        if call is None:
            self._take_watch(reply, woken)
            return
        if isinstance(reply, ProblemReply):
            call.error = reply.error
        else:
            call.reply = reply
        call.done = True
        woken.append(call)

    def _take_watch(self, reply: Any, woken: list[Call | WatchCore]) -> None:
        if isinstance(reply, ProblemReply) and not reply.id:
            raise reply.error
        watch = self._watching.get(reply.id)
        if watch is None:  # whoever asked is gone
            return
        if isinstance(reply, WatchingReply):
            watch.begin(reply.revision)
        elif isinstance(reply, ProblemReply):
            watch.error = reply.error
            del self._watching[reply.id]
            self._watches.discard(watch)
        woken.append(watch)

    def _take_events(self, reply: EventsReply, size: int, woken: list[Call | WatchCore]) -> None:
        watch = self._watching.get(reply.id)
        if watch is not None:
            watch.add(reply, size)
            woken.append(watch)

    def _take_control(self, reply: Reply, woken: list[Call | WatchCore]) -> None:
        if isinstance(reply, Goodbye):
            self._goodbye = True
        elif isinstance(reply, ProblemReply):
            raise reply.error
        elif self._hello is None and isinstance(reply, HelloReply) and reply.magic == MAGIC:
            self._hello = reply
            for watch in tuple(self._watches):
                self._ask_for(watch)
                if watch.error is not None:
                    woken.append(watch)
        else:
            raise InvalidInput("what answers there is not a store's door", subject=self._subject)
