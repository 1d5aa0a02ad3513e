"""One connection to a cluster of NATS servers, made again whenever it is lost.

Questions are answered to inboxes below one subject that only we listen on. Everything to be sent stands in one queue in
the order in which it was asked for; the *writer* sends it, the *reader* hands on what arrives, the *keeper* asks a
silent server for a sign of life. When a connection is lost every open question fails with whether it may have been
heard; nothing is sent again here, since only who asked knows whether it may be.

Bounds: ``max_unsent`` bytes wait for the network, over it callers wait; a message is at most ``max_message``; questions
are bounded by those who ask.
"""

from __future__ import annotations

import itertools
import logging
import secrets
from collections import deque
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager

import trio

from platformd.core.errors import PlatformError, Unavailable
from platformd.core.quantities import seconds, size_bytes
from platformd.core.settings_engines import NatsSettings
from platformd.queues.jetstream import wire
from platformd.queues.jetstream.dial import (
    Admitted,
    Info,
    Refused,
    Server,
    decode_info,
    dial,
    parse_servers,
    tls_context,
)
from platformd.queues.jetstream.inbox import Denied, Inbox, Lost

log = logging.getLogger("platformd.queues")

MAX_MESSAGE = 64 << 20
"""Bytes of the largest message that is taken; NATS's own upper limit for ``max_payload``."""
_RECEIVE = 256 * 1024
_SEND = 256 * 1024
_SID = b"1"


class Client:
    """A connection that comes back. ``run`` it; ask through ``inbox`` and ``send``."""

    def __init__(self, settings: NatsSettings) -> None:
        self.info = Info()
        """Of the server that we are, or were last, connected to."""
        self.lives = 0
        """Connections so far."""
        self.why = "not connected yet"
        """Why there is no connection, while there is none."""
        self._settings = settings
        self._servers = parse_servers(settings)
        self._tls = tls_context(settings)
        self._root = b"_INBOX." + secrets.token_hex(11).encode()
        self._numbers = itertools.count(1)
        self._inboxes: dict[bytes, Inbox] = {}
        self._subscribed: dict[bytes, Inbox] = {}
        self._life: _Life | None = None
        self.on_stray: Callable[[bytes], None] = lambda _reply: None
        """Gets the reply subject of what arrives for a subscription that has ended."""
        self._outgoing: deque[tuple[bytes, Inbox | None]] = deque()
        self._unsent = 0
        self._max_unsent = size_bytes(settings.max_unsent)
        self._wake = trio.Event()
        self._room = trio.lowlevel.ParkingLot()
        self._connected = trio.Event()
        self._up = False
        self._stopped = False

    # For those who ask

    @property
    def connected(self) -> bool:
        """Whether something can be sent now."""
        return self._up

    async def ready(self, deadline: float) -> None:
        """Wait until something can be sent.

        Raises:
            Unavailable: it could not before the deadline (on trio's clock), or we are stopping.
        """
        while True:
            if self._stopped:
                raise Unavailable("the queues are stopping", subject="queues", hint="try again when the daemon is back")
            if self._up and self._unsent < self._max_unsent:
                return
            with trio.move_on_at(deadline) as scope:
                await (self._room.park() if self._up else self._connected.wait())
            if scope.cancelled_caught:
                raise self.unavailable()

    def unavailable(self) -> Unavailable:
        """The error for having no connection."""
        servers = ", ".join(str(server) for server in self._servers)
        return Unavailable(
            f"no NATS server can be asked ({self.why}); nothing was done",
            subject="nats",
            hint=f"see that a server runs at {servers}",
        )

    @contextmanager
    def inbox(self) -> Iterator[Inbox]:
        """A place for answers, for as long as the block runs."""
        inbox = self.open_inbox()
        try:
            yield inbox
        finally:
            self.close_inbox(inbox)

    def open_inbox(self) -> Inbox:
        """As ``inbox``, for who closes it elsewhere."""
        token = b"%d" % next(self._numbers)
        inbox = self._inboxes[token] = Inbox(self._root + b"." + token)
        return inbox

    def close_inbox(self, inbox: Inbox) -> None:
        """What still comes for it is not wanted."""
        del self._inboxes[inbox.address.rpartition(b".")[2]]

    @contextmanager
    def subscription(self) -> Iterator[Inbox]:
        """An inbox with a subscription of its own, for messages that keep their subject. After ``ready``.

        When the block is left the server is told; what is on its way then goes to ``on_stray``.

        Raises:
            Lost: there is no connection.
        """
        sid = b"%d" % next(self._numbers)
        inbox = Inbox(self._root + b"-" + sid)
        self.send(wire.subscribe(inbox.address, sid))
        life, self._subscribed[sid] = self._life, inbox
        try:
            yield inbox
        finally:
            del self._subscribed[sid]
            while (message := inbox.get_nowait()) is not None:
                self.on_stray(message.reply)
            if self._up and self._life is life:
                self.send(b"UNSUB %b\r\n" % sid)

    def send(self, data: bytes, inbox: Inbox | None = None) -> None:
        """Queue bytes for the server; after ``ready``. ``inbox``: where the answer comes.

        Raises:
            Lost: there is no connection.
        """
        if not self._up:
            raise Lost(self.why, sent=False)
        self._outgoing.append((data, inbox))
        self._unsent += len(data)
        self._wake.set()

    # Its life

    async def run(
        self,
        on_connected: Callable[[], Awaitable[None]],
        *,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Connect, and connect again, until cancelled; started with the first connection.

        Args:
            on_connected: called beside each new connection.

        Raises:
            Unavailable: no server could be reached within ``request_timeout`` at the start.
            Unauthorized, Unsupported, InvalidInput: a server cannot be used at the start.
        """
        started = False
        patience = trio.current_time() + seconds(self._settings.request_timeout)
        delay = first_delay = seconds(self._settings.retry_delay)
        for server in itertools.cycle(self._servers):
            began = trio.current_time()
            try:
                admitted = await self._dial(server)
            except (Refused, PlatformError) as error:
                self.why = f"{server}: {error.message if isinstance(error, PlatformError) else error}"
                if not started and (isinstance(error, PlatformError) or trio.current_time() > patience):
                    raise (error if isinstance(error, PlatformError) else self.unavailable()) from error
                await trio.sleep(delay)
                delay = min(delay * 2, seconds(self._settings.retry_delay_max))
                continue
            await self._live(admitted, on_connected, None if started else task_status)
            started = True
            log.warning("the connection to %s was lost: %s", server, self.why)
            delay = first_delay
            if trio.current_time() - began < first_delay:
                await trio.sleep(first_delay)  # one that lets us in and throws us out at once

    def stop(self) -> None:
        """Fail everything that is under way and all that comes."""
        self._stopped = True
        self._fail("the queues are stopping")
        self._connected.set()

    async def _dial(self, server: Server) -> Admitted:
        with trio.move_on_after(seconds(self._settings.connect_timeout)):
            return await dial(server, self._settings, self._tls, MAX_MESSAGE)
        raise Refused(f"no answer within {self._settings.connect_timeout}")

    async def _live(
        self,
        admitted: Admitted,
        on_connected: Callable[[], Awaitable[None]],
        task_status: trio.TaskStatus[None] | None,
    ) -> None:
        """Use a connection until it is lost."""
        life = self._life = _Life(admitted.stream)
        self.info, self.why = admitted.info, ""
        self.lives += 1
        self._up = True
        self.send(wire.subscribe(self._root + b".>", _SID))
        self._connected.set()
        try:
            async with trio.open_nursery() as nursery:
                for event in admitted.early:
                    self._take(event)
                nursery.start_soon(self._guard, life, nursery.cancel_scope, self._read, life, admitted.reader)
                nursery.start_soon(self._guard, life, nursery.cancel_scope, self._write, life)
                nursery.start_soon(self._guard, life, nursery.cancel_scope, self._keep, life)
                nursery.start_soon(on_connected)
                if task_status is not None:
                    task_status.started()
        finally:
            self._fail(life.reason or "cancelled")
            self._connected = trio.Event()
            with trio.CancelScope(shield=True):
                await trio.aclose_forcefully(admitted.stream)

    async def _guard(
        self, life: _Life, scope: trio.CancelScope, part: Callable[..., Awaitable[None]], *arguments: object
    ) -> None:
        """Run one of the three; when it ends, for whatever expected reason, so does the connection."""
        try:
            await part(*arguments)
        except (trio.BrokenResourceError, trio.ClosedResourceError, OSError) as error:
            life.reason = life.reason or str(error.__cause__ or error) or "broken"
        except (wire.ProtocolError, Lost) as error:
            life.reason = life.reason or str(error)
        scope.cancel()

    async def _read(self, life: _Life, reader: wire.Reader) -> None:
        while data := await life.stream.receive_some(_RECEIVE):
            life.heard = trio.current_time()
            for event in reader.feed(data):
                self._take(event)
        life.reason = life.reason or "the server closed it"

    def _take(self, event: wire.Msg | wire.Line) -> None:
        if isinstance(event, wire.Msg) and event.sid != _SID:
            subscribed = self._subscribed.get(event.sid)
            if subscribed is not None:
                subscribed.put(event)
            else:
                self.on_stray(event.reply)
        elif isinstance(event, wire.Msg):
            token = event.subject[len(self._root) + 1 :].partition(b".")[0]
            inbox = self._inboxes.get(token)
            if inbox is not None:
                inbox.put(event)
        elif event.word == b"PING":
            self.send(b"PONG\r\n")
        elif event.word == b"-ERR":
            self._refused(event.rest.decode(errors="replace").strip("' "))
        elif event.word == b"INFO":
            try:
                self.info = decode_info(event.rest)
            except ValueError as error:
                raise wire.ProtocolError(f"INFO cannot be read: {error}") from error

    def _refused(self, text: str) -> None:
        if not text.lower().startswith("permissions violation"):
            raise wire.ProtocolError(text)
        subject = text.partition('"')[2].partition('"')[0].encode()
        log.warning("the NATS server refuses: %s", text)
        for inbox in self._open():
            if inbox.asked == subject:
                inbox.fail(Denied(text))

    async def _write(self, life: _Life) -> None:
        while True:
            while self._outgoing:
                parts, size = [], 0
                while self._outgoing and size < _SEND:
                    data, inbox = self._outgoing.popleft()
                    parts.append(data)
                    size += len(data)
                    if inbox is not None:
                        inbox.sent = True
                await life.stream.send_all(b"".join(parts))
                self._unsent -= size
                self._room.unpark_all()
            self._wake = trio.Event()
            await self._wake.wait()

    async def _keep(self, life: _Life) -> None:
        interval = seconds(self._settings.keepalive_interval)
        patience = seconds(self._settings.keepalive_timeout)
        while True:
            await trio.sleep_until(life.heard + interval)
            asked = trio.current_time()
            if life.heard + interval > asked:
                continue
            self.send(b"PING\r\n")
            await trio.sleep(patience)
            if life.heard < asked:
                life.reason = f"the server was silent for {asked - life.heard + patience:.1f} s"
                return

    def _open(self) -> list[Inbox]:
        return [*self._inboxes.values(), *self._subscribed.values()]

    def _fail(self, reason: str) -> None:
        self._up = False
        self.why = reason
        self._outgoing.clear()
        self._unsent = 0
        for inbox in self._open():
            inbox.fail(Lost(reason, sent=inbox.sent))
        self._room.unpark_all()


class _Life:
    """What the parts of one connection share."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self.stream = stream
        self.reason = ""
        self.heard = trio.current_time()
