"""One HTTP/2 connection to a member, shared by all who ask it something.

Three tasks live as long as it does: the *writer* sends what is waiting; the *reader* hands on what arrives; the
*keeper* watches the clock: deadlines of calls, and whether the member still answers at all.

Bounds. Out: ``max_unsent`` bytes and ``max_in_flight`` calls; over them callers wait. In: the whole connection may
always send, so that nobody waits for anybody else; each exchange only what its window allows, which a
watch opens no faster than it is read.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import NamedTuple
from urllib.parse import unquote

import trio

from platformd.coordination.etcd import frames
from platformd.coordination.etcd.frames import Frame, FrameReader, HeaderReader, ProtocolError
from platformd.coordination.etcd.outgoing import CONNECTION_WINDOW, Outgoing
from platformd.coordination.etcd.stream import STREAM_WINDOW, Lost, Reply, Stream, TimedOut, framed
from platformd.coordination.etcd.wire import Malformed

SUSPECT_AFTER = 1.0
"""How long a member may keep a call waiting in silence before it is asked whether it lives, seconds."""

_RECEIVE = 64 * 1024
_MAX_HEADERS = 64 * 1024
_PING = b"platform"
_OK = Reply(0, "")
_HTTP_STATUS = {"400": 13, "401": 16, "403": 7, "404": 12, "429": 14, "502": 14, "503": 14, "504": 14}
# What gRPC makes of an answer that is no gRPC's: doc/http-grpc-status-mapping.md of grpc/grpc.


class Bounds(NamedTuple):
    """The limits of a connection; times in seconds. See ``EtcdSettings``."""

    max_in_flight: int
    max_unsent: int
    max_message: int
    keepalive_interval: float
    keepalive_timeout: float


class Connection:
    """A connection that was opened. ``run`` it; it is over when that returns.

    Args:
        transport: the socket, TLS done.
        bounds: its limits.
    """

    def __init__(self, transport: trio.abc.Stream, bounds: Bounds) -> None:
        self.lost: str | None = None
        """Why it is over; ``None`` while it is not."""
        self.draining = False
        """Nothing new may be sent: the member goes away, or we do not want it any more."""
        self.retired = False
        """We do not want it any more: it ends with the last exchange that is on it."""
        self.greeted = trio.Event()
        """The member has spoken HTTP/2, or the connection is over."""
        self.version = ""
        """etcd's, once it was asked."""
        self._transport = transport
        self._bounds = bounds
        self._frames = FrameReader()
        self._headers = HeaderReader()
        self._split: tuple[Frame, bytearray] | None = None  # headers whose block goes on in the next frame
        self._streams: dict[int, Stream] = {}
        self._outgoing = Outgoing(self._streams)
        self._credit = CONNECTION_WINDOW
        self._deadlines: dict[Stream, float] = {}  # of each call
        self._room = trio.lowlevel.ParkingLot()
        self._keeper = trio.Event()
        self._keeper_wakes = self._heard = self._pinged = trio.current_time()
        self._awaits_pong = False
        self._scope = trio.CancelScope()
        self._handlers: dict[int, Callable[[Frame], None]] = {
            frames.DATA: self._on_data,
            frames.HEADERS: self._on_headers,
            frames.CONTINUATION: self._on_continuation,
            frames.WINDOW_UPDATE: self._on_window,
            frames.SETTINGS: self._on_settings,
            frames.PING: self._on_ping,
            frames.RST_STREAM: self._on_reset,
            frames.GOAWAY: self._on_goaway,
            frames.PUSH_PROMISE: self._on_push,
        }

    # --- for those who ask ---

    @property
    def usable(self) -> bool:
        """Whether something new can be sent."""
        return self.lost is None and not self.draining

    async def call(self, headers: bytes, message: bytes, deadline: float, *, keep: bool) -> Reply:
        """One message there, one back.

        Args:
            headers: see ``frames.header_block``.
            message: the request.
            deadline: on trio's clock.
            keep: cancelled after it was sent, wait for the answer nevertheless (until the deadline). Cancelled before,
                it is not sent.

        Raises:
            Lost: no answer came.
            TimedOut: the deadline passed.
            Oversize: the answer is larger than ``max_message``.
        """
        await self._enter(deadline)
        stream = self._begin(headers, message, call=True)
        stream.keep = keep
        self._deadlines[stream] = deadline
        if deadline < self._keeper_wakes:
            self._keeper.set()
        try:
            while stream.end is None and stream.failure is None:
                await stream.wait()
        finally:
            self.close(stream)
        return stream.reply()

    def open(self, headers: bytes, message: bytes) -> Stream:
        """Begin an exchange of many messages; ``close`` it.

        Raises:
            Lost: the connection is over.
        """
        self._check_usable()
        return self._begin(headers, message, call=False)

    def close(self, stream: Stream) -> None:
        """Nobody waits for an exchange any more: it is withdrawn, or reset if the member knows of it."""
        self._deadlines.pop(stream, None)
        if stream.id == 0:
            stream.failure = stream.failure or Lost("withdrawn", sent=False)
        elif stream.id in self._streams:
            self._reset(stream)
        self._room.unpark()

    def stop(self, reason: str) -> None:
        """End the connection and all that is on it."""
        self._fail(reason)

    def retire(self) -> None:
        """Send nothing new; end when the last exchange has ended."""
        self.retired = True
        self._drain("the member is not well")
        self._keeper.set()

    async def _enter(self, deadline: float) -> None:
        """Wait for room."""
        bounds = self._bounds
        self._check_usable()
        while len(self._deadlines) >= bounds.max_in_flight or self._outgoing.unsent >= bounds.max_unsent:
            with trio.move_on_at(deadline) as scope:
                await self._room.park()
            if scope.cancelled_caught:
                raise TimedOut("too many requests are on their way", sent=False)
            self._check_usable()

    def _check_usable(self) -> None:
        if not self.usable:
            raise Lost(self.lost or "the member goes away", sent=False)

    def _begin(self, headers: bytes, message: bytes, *, call: bool) -> Stream:
        limit = self._bounds.max_message
        stream = Stream(headers, framed(message), call=call, limit=limit, touch=self._touch)
        self._outgoing.begin(stream)
        return stream

    def _touch(self, stream: Stream, more: int) -> None:
        """An exchange of many messages wants to send ``more`` bytes, or to receive some."""
        if more:
            self._outgoing.go_on(stream, more)
        elif stream.id in self._streams:
            self._open_window(stream)

    def _open_window(self, stream: Stream) -> None:
        if stream.credit <= STREAM_WINDOW // 2:
            self._outgoing.control(frames.window_update(stream.id, STREAM_WINDOW - stream.credit))
            stream.credit = STREAM_WINDOW

    # --- its life ---

    async def run(self) -> None:
        """Until it breaks or is stopped. What was on it is told; nothing is raised but bugs."""
        try:
            with self._scope:
                async with trio.open_nursery() as nursery:
                    for part in (self._read, self._write, self._keep):
                        nursery.start_soon(self._guard, part)
        finally:
            self._fail("the store is stopping")
            with trio.CancelScope(shield=True):
                await trio.aclose_forcefully(self._transport)

    async def _guard(self, part: Callable[[], Awaitable[None]]) -> None:
        try:
            await part()
        except ProtocolError as error:
            self._fail(f"the member does not speak HTTP/2 as it must: {error}")
        except Malformed as error:
            self._fail(error.message)
        except (OSError, trio.BrokenResourceError, trio.ClosedResourceError) as error:
            cause = error.__cause__ or error
            self._fail(getattr(cause, "strerror", None) or str(cause) or "the connection broke")

    def _fail(self, reason: str) -> None:
        """It is over: tell everyone."""
        if self.lost is None:
            self.lost = reason
            for stream in [*self._streams.values(), *self._outgoing.drop_fresh()]:
                _cut(stream, Lost(reason, sent=stream.handed))
            self._streams.clear()
            self._room.unpark_all()
            self.greeted.set()
        self._scope.cancel()

    def _drain(self, reason: str) -> None:
        """Nothing new is sent; what is on its way goes on."""
        self.draining = True
        for stream in self._outgoing.drop_fresh():
            _cut(stream, Lost(reason, sent=False))
        self._room.unpark_all()

    async def _write(self) -> None:
        while True:
            chunk = self._outgoing.take()
            if self._outgoing.exhausted and not self.draining:
                self._drain("the connection has had its 2^30 requests")
            if self._outgoing.unsent < self._bounds.max_unsent:
                self._room.unpark(count=self._bounds.max_in_flight)
            if chunk:
                await self._transport.send_all(chunk)
            else:
                await self._outgoing.wait()

    # --- the reader ---

    async def _read(self) -> None:
        while True:
            received = await self._transport.receive_some(_RECEIVE)
            if not received:
                self._fail("the member closed the connection")
                return
            self._heard, self._awaits_pong = trio.current_time(), False
            for frame in self._frames.feed(bytes(received)):
                if (self._split is not None) != (frame.type == frames.CONTINUATION):
                    raise ProtocolError("headers out of their order")
                handler = self._handlers.get(frame.type)
                if handler is not None:  # what is unknown is passed over: RFC 9113, 4.1
                    handler(frame)
            if self._credit <= CONNECTION_WINDOW // 2:
                self._outgoing.control(frames.window_update(0, CONNECTION_WINDOW - self._credit))
                self._credit = CONNECTION_WINDOW
            self._outgoing.ended()

    def _on_data(self, frame: Frame) -> None:
        self._credit -= len(frame.payload)
        stream = self._streams.get(frame.stream)
        if stream is None:  # reset by us, with this on its way
            return
        if len(frame.payload) > stream.credit:
            raise ProtocolError("more data than the window allows")
        stream.feed(frames.unpadded(frame.flags & frames.PADDED, frame.payload))
        if stream.failure is not None:
            self._reset(stream)
            stream.wake()
        elif frame.flags & frames.END_STREAM:
            self._ended(stream, Reply(13, "the answer ended without a status"))
        elif stream.call:
            self._open_window(stream)
        else:
            stream.wake()

    def _on_headers(self, frame: Frame) -> None:
        block = frames.unpadded(frame.flags, frame.payload, prioritized=True)
        if frame.flags & frames.END_HEADERS:
            self._on_block(frame, block)
        else:
            self._split = (frame, bytearray(block))

    def _on_continuation(self, frame: Frame) -> None:
        assert self._split is not None
        first, block = self._split
        block += frame.payload
        if frame.stream != first.stream or len(block) > _MAX_HEADERS:
            raise ProtocolError("headers out of their order, or too large")
        if frame.flags & frames.END_HEADERS:
            self._split = None
            self._on_block(first, bytes(block))

    def _on_block(self, frame: Frame, block: bytes) -> None:
        headers = self._headers.decode(block)
        stream = self._streams.get(frame.stream)
        if stream is not None and (frame.flags & frames.END_STREAM or headers.get(":status") != "200"):
            self._ended(stream, _reply(headers))

    def _ended(self, stream: Stream, reply: Reply) -> None:
        """The member has said its last word on an exchange."""
        if stream.unsent or not stream.call:
            self._reset(stream)
        else:
            del self._streams[stream.id]
        stream.end = reply
        stream.wake()

    def _reset(self, stream: Stream) -> None:
        self._outgoing.control(frames.reset(stream.id))
        self._gone(stream)

    def _gone(self, stream: Stream) -> None:
        del self._streams[stream.id]
        self._outgoing.forget(stream)

    def _on_window(self, frame: Frame) -> None:
        self._outgoing.allow(frame.stream, frames.number(frame.payload))

    def _on_settings(self, frame: Frame) -> None:
        if not frame.flags & frames.ACK:
            self._outgoing.settings(frames.peer_settings(frame.payload))
            self._outgoing.control(frames.frame(frames.SETTINGS, frames.ACK, 0))
            self.greeted.set()

    def _on_ping(self, frame: Frame) -> None:
        if not frame.flags & frames.ACK:  # an answer to ours counts by having come
            self._outgoing.control(frames.frame(frames.PING, frames.ACK, 0, frame.payload))

    def _on_reset(self, frame: Frame) -> None:
        code = frames.number(frame.payload)
        stream = self._streams.get(frame.stream)
        if stream is not None:
            self._gone(stream)
            _cut(stream, Lost(f"the member reset the request ({code})", sent=code != frames.REFUSED_STREAM))

    def _on_goaway(self, frame: Frame) -> None:
        last, code, text = frames.goaway(frame.payload)
        reason = "the member goes away" + (f" ({text or code})" if code else "")
        self._drain(reason)
        for stream in [stream for stream in self._streams.values() if stream.id > last]:
            self._gone(stream)
            _cut(stream, Lost(reason, sent=False))

    @staticmethod
    def _on_push(_frame: Frame) -> None:
        raise ProtocolError("a push, which was forbidden")

    # --- the keeper ---

    async def _keep(self) -> None:
        while self.lost is None:
            self._keeper = trio.Event()
            self._keeper_wakes = self._expire(trio.current_time())
            with trio.move_on_at(self._keeper_wakes):
                await self._keeper.wait()
            await trio.lowlevel.checkpoint()  # what has arrived meanwhile is read before silence is judged

    def _expire(self, now: float) -> float:
        """End calls that are late, and ask for a sign of life if it is time; when to look again."""
        if self.retired and not self._streams:
            self._fail("no longer used")
        for stream in [stream for stream, deadline in self._deadlines.items() if deadline <= now]:
            del self._deadlines[stream]
            _cut(stream, TimedOut("no answer in time", sent=stream.handed))
        return min([self._check_life(now), *self._deadlines.values()])

    def _check_life(self, now: float) -> float:
        bounds = self._bounds
        if self._awaits_pong:
            late = self._pinged + bounds.keepalive_timeout
            if late <= now:
                self._fail(f"the member has given no sign of life for {now - self._heard:.1f} s")
            return late
        patience = min(SUSPECT_AFTER, bounds.keepalive_interval) if self._deadlines else bounds.keepalive_interval
        due = max(self._heard + patience, self._pinged + bounds.keepalive_interval)
        if due > now:
            return due
        if not self._streams:
            return now + patience
        self._outgoing.control(frames.frame(frames.PING, 0, 0, _PING))
        self._awaits_pong, self._pinged = True, now
        return now + bounds.keepalive_timeout


def _cut(stream: Stream, failure: Lost) -> None:
    stream.failure = stream.failure or failure
    stream.wake()


def _reply(headers: dict[str, str]) -> Reply:
    """The status that the last headers of an exchange carry."""
    status = headers.get("grpc-status")
    if status == "0":
        return _OK
    if status is not None:
        code = int(status) if status.isascii() and status.isdigit() else 2
        return Reply(code, unquote(headers.get("grpc-message", "")))
    http = headers.get(":status", "none")
    return Reply(_HTTP_STATUS.get(http, 2), f"HTTP status {http}, which is not gRPC's")
