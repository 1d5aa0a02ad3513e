"""One connection: what comes in, who may do it, what is in flight, its end.

The quick way. A program that uses the store hard sends small transactions, many at once. Where the engine has
``txn_soon`` (the embedded one has), such a transaction goes from the received bytes to the writer's queue and from
there to the outbox without a task of its own: a burst of sixty-four is decoded in one sweep, committed together, and
answered in one write. Everything else is done by one of two crews: a small one for what may have large answers, each
begun only when the client has taken what was sent before, and a larger one for the rest.
"""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Final, Protocol, runtime_checkable

import outcome
import trio

from platformd import __version__
from platformd.access import Gate, guarded
from platformd.api.door.answers import READS, WRITES
from platformd.api.door.crew import Crew
from platformd.api.door.outbox import Outbox
from platformd.api.door.watches import Watch
from platformd.coordination.codec import MAGIC, VERSION, FrameBuffer, Malformed, Request, decode_request, frames
from platformd.coordination.codec.replies import wire_outcome, wire_problem
from platformd.coordination.codec.requests import CancelRequest, CreditRequest, Hello, TxnRequest, WatchRequest, WirePut
from platformd.coordination.contract import Compare, Operation, Store, TxnResult
from platformd.core.errors import Forbidden, InvalidInput, PlatformError, Unauthorized, Unsupported
from platformd.core.peers import PeerCredentials
from platformd.model.access import NOBODY, Principal

log = logging.getLogger("platformd.api.door")

RECEIVE_BYTES: Final = 64 * 1024
"""The most that is read at once; after it the other connections have their turn."""
HELLO_SECONDS: Final = 5.0
"""How long a client may take to say who it is."""
SMALL_TXN: Final = 16
"""A transaction of at most so many operations, without ranges, is small: so is its answer."""
HEAVY_CREW: Final = 16
"""Requests of one connection with answers of any size that are worked on at once."""
_LAST_WORD_SECONDS: Final = 1.0
"""How long the problem that ends a connection may take to be sent."""


Job = tuple[Request, int]
"""A request and the length of its message."""
Done = Callable[[outcome.Value[TxnResult] | outcome.Error], None]


@runtime_checkable
class QuickStore(Protocol):
    """A store that does a transaction without a task that waits for it."""

    def txn_soon(
        self,
        compares: tuple[Compare, ...],
        then: tuple[Operation, ...],
        otherwise: tuple[Operation, ...],
        done: Done,
    ) -> bool:
        """Do it, then call ``done``; false, and nothing is done, if it would have to wait to be let in."""
        ...


@dataclass(frozen=True, kw_only=True)
class Bounds:
    """The bounds of one connection, from ``DoorSettings``."""

    max_frame: int
    max_in_flight: int
    max_credit: int


class Connection:
    """A client's connection, from its hello to its end.

    Args:
        store: what it is about.
        gate: says who may do what with it.
        sock: the socket, not blocking.
        peer: who is at the other end.
        bounds: its bounds.
    """

    def __init__(
        self, store: Store, gate: Gate, sock: socket.socket, peer: PeerCredentials | None, bounds: Bounds
    ) -> None:
        self._gate = gate
        self._sock = sock
        self._peer = peer
        self._bounds = bounds
        self._whole = store
        self._enter_as(NOBODY if peer is None else gate.peer(peer))
        self._frames = FrameBuffer(bounds.max_frame)
        self._outbox = Outbox(sock)
        self._watches: dict[int, Watch] = {}
        self._in_flight = 0
        self._bytes_in_flight = 0
        self._reader = trio.lowlevel.ParkingLot()
        """Where reading waits until less is in flight."""
        self._reading = trio.CancelScope()
        self._stopping = False
        self._nursery: trio.Nursery
        self._heavy: Crew[Job]
        self._light: Crew[Job]

    def _enter_as(self, principal: Principal) -> None:
        """From now on this is who asks."""
        self._principal = principal
        self._store = guarded(self._whole, principal)
        self._quick = self._store.txn_soon if isinstance(self._store, QuickStore) else None

    def stop(self) -> None:
        """Read no more; answer what was read, say goodbye and close."""
        self._stopping = True
        self._reading.cancel()

    async def run(self) -> None:
        """Serve it until it ends. Raises nothing but ``trio.Cancelled``: a failure ends this connection alone."""
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                self._heavy = Crew(nursery, HEAVY_CREW, self._answer_heavy)
                self._light = Crew(nursery, self._bounds.max_in_flight, self._answer)
                nursery.start_soon(self._outbox.run)
                await self._serve()
                nursery.cancel_scope.cancel()
        except* OSError as gone:
            log.debug("a connection was lost: %s", gone.exceptions[0])
        except* Exception:
            log.exception("a connection failed and was closed; the others go on")
        finally:
            self._outbox.close()
            self._sock.close()

    async def _serve(self) -> None:
        try:
            with trio.move_on_after(HELLO_SECONDS) as in_time:
                greeted = await self._greet()
            if in_time.cancelled_caught or not greeted:
                return
            with self._reading:
                await self._read()
        except PlatformError as error:
            self._outbox.put(wire_problem(0, error))
            with trio.move_on_after(_LAST_WORD_SECONDS):
                await self._outbox.wait_empty()
            return
        if self._stopping:
            await self._say_goodbye()

    async def _say_goodbye(self) -> None:
        """The pool has a deadline for it."""
        for watch in tuple(self._watches.values()):
            watch.cancel()
        while self._in_flight:
            await self._reader.park()
        self._outbox.put((frames.GOODBYE,))
        await self._outbox.wait_empty()

    # --- what comes in ---

    async def _greet(self) -> bool:
        """Exchange hellos; false if the client left.

        Raises:
            InvalidInput: it says something else.
            Unsupported: it is of another version.
            Unauthorized: its token is not good.
            LimitReached: too many tokens from there were not good.
            TooLarge: its first message is over the limit.
        """
        while (message := self._frames.next()) is None:
            data = await self._receive()
            if not data:
                return False
            self._frames.feed(data)
        hello = decode_request(message)
        if not isinstance(hello, Hello) or hello.magic != MAGIC:
            raise InvalidInput("a client says hello first", subject="store door")
        if hello.version != VERSION:
            raise Unsupported(
                f"the client speaks version {hello.version}, this server {VERSION}",
                subject="store door",
                hint="use a client and a daemon of the same release",
            )
        if hello.token:
            self._enter_as(self._gate.token(hello.token, self._address))
            self._nursery.start_soon(self._end_with, hello.token)
        bounds = self._bounds
        limits = (bounds.max_frame, bounds.max_in_flight, bounds.max_credit)
        self._outbox.put((frames.HELLO, MAGIC, VERSION, f"platformd {__version__}", *limits))
        log.debug("%r of process %s connected", hello.name, self._peer.pid if self._peer else "?")
        return True

    async def _end_with(self, token: str) -> None:
        """Stop when the token does not count any more; a client that connects again is told why."""
        await self._gate.wait_ended(token)
        self.stop()

    async def _read(self) -> None:
        """Take requests until the client ends the connection, or the reading scope is cancelled.

        Raises:
            InvalidInput: what comes cannot be read any more.
            TooLarge: a message is over the limit.
        """
        max_in_flight, max_frame = self._bounds.max_in_flight, self._bounds.max_frame
        while True:
            while self._in_flight >= max_in_flight or self._bytes_in_flight >= max_frame:
                await self._reader.park()
            if self._outbox.full:
                await self._outbox.wait_room()
            message = self._frames.next()
            if message is not None:
                self._take(message)
                continue
            data = await self._receive()
            if not data:
                return
            self._frames.feed(data)

    async def _receive(self) -> bytes:
        """What has come; empty if the client has gone."""
        while True:
            await trio.lowlevel.wait_readable(self._sock)
            try:
                return self._sock.recv(RECEIVE_BYTES)
            except BlockingIOError:
                continue
            except ConnectionResetError:
                return b""

    def _take(self, message: bytes | bytearray) -> None:
        """Begin what a message asks for.

        Raises:
            Malformed: it is no message of a client, not even one that could be refused by its id.
        """
        try:
            request = decode_request(message)
        except Malformed as error:
            if not error.request_id:
                raise
            self._outbox.put(wire_problem(error.request_id, error))
            return
        if isinstance(request, CreditRequest | CancelRequest):
            self._steer(request)
            return
        if isinstance(request, Hello):
            raise InvalidInput("a client says hello once", subject="store door")
        size = len(message)
        self._in_flight += 1
        self._bytes_in_flight += size
        if isinstance(request, TxnRequest):
            self._take_txn(request, size)
        elif isinstance(request, WatchRequest):
            self._take_watch(request, size)
        elif type(request) in WRITES:
            self._light.give((request, size))
        else:
            self._heavy.give((request, size))

    def _steer(self, request: CreditRequest | CancelRequest) -> None:
        watch = self._watches.get(request.id)
        if watch is None:  # it ended while this was on its way
            return
        if isinstance(request, CreditRequest):
            watch.give(request.credit)
        else:
            watch.cancel()

    # --- what is in flight ---

    def _take_watch(self, request: WatchRequest, size: int) -> None:
        if request.id in self._watches:
            error = InvalidInput(f"watch {request.id} is there already", subject="store door")
            self._refuse(request.id, size, error)
            return
        watch = self._watches[request.id] = Watch(
            self._store, request, self._outbox, self._bounds.max_credit, self._note
        )
        self._nursery.start_soon(self._run_watch, watch, request.id, size)

    async def _run_watch(self, watch: Watch, request_id: int, size: int) -> None:
        opening = True

        def answered() -> None:
            nonlocal opening
            if opening:
                opening = False
                self._finish(size)

        try:
            await watch.run(answered)
        finally:
            answered()
            del self._watches[request_id]

    def _take_txn(self, request: TxnRequest, size: int) -> None:
        if not _is_small(request):
            self._heavy.give((request, size))
            return
        if self._quick is not None:
            try:
                done = partial(self._txn_done, request.id, size)
                if self._quick(request.compares, request.then, request.otherwise, done):
                    return
            except PlatformError as error:
                self._refuse(request.id, size, error)
                return
        self._light.give((request, size))

    def _txn_done(self, request_id: int, size: int, result: outcome.Value[TxnResult] | outcome.Error) -> None:
        if isinstance(result, outcome.Value):
            self._outbox.put(wire_outcome(request_id, result.value))
            self._finish(size)
        else:
            assert isinstance(result.error, PlatformError)  # the writer refuses with nothing else
            self._refuse(request_id, size, result.error)

    async def _answer_heavy(self, job: Job) -> None:
        await self._outbox.wait_room()
        await self._answer(job)

    async def _answer(self, job: Job) -> None:
        request, size = job
        kind = type(request)
        try:
            answer = await (READS.get(kind) or WRITES[kind])(self._store, request)
        except PlatformError as error:
            assert not isinstance(request, Hello)
            self._refuse(request.id, size, error)
        else:
            self._outbox.put(answer)
            self._finish(size)

    def _refuse(self, request_id: int, size: int, error: PlatformError) -> None:
        self._note(error)
        self._outbox.put(wire_problem(request_id, error))
        self._finish(size)

    def _finish(self, size: int) -> None:
        self._in_flight -= 1
        self._bytes_in_flight -= size
        self._reader.unpark()

    @property
    def _address(self) -> str:
        return f"unix:{self._peer.pid}" if self._peer else "store door"

    def _note(self, error: PlatformError) -> None:
        """Put down a refusal; other errors are none."""
        if isinstance(error, Forbidden | Unauthorized):
            self._gate.refused(self._principal, str(error.details.get("operation", "store door")), self._address, error)


def _is_small(request: TxnRequest) -> bool:
    """Whether the answer is of bounded size too: few operations, each on one key."""
    if len(request.compares) + len(request.then) + len(request.otherwise) > SMALL_TXN:
        return False
    for branch in (request.then, request.otherwise):
        for operation in branch:
            if not isinstance(operation, WirePut) and operation.end is not None:
                return False
    return True
