"""The store for trio programs: ``async with connect_store() as store``, and then the Store contract, over a socket.

Many tasks share one connection; what they ask within one turn of the loop is sent in one write. The connection is made
again by itself when the daemon restarts:

- reads, and keeping a lease alive, are asked again;
- a change whose answer was lost raises ``OutcomeUnknown``: it was done, or it was not;
- watches go on after the last revision that was delivered, without a gap and without repetition;
- leases live in the store, so they live on: keep them alive as before.

A call waits for a connection for ``patience`` seconds, then it raises ``Unavailable``, and nothing was done. Watches
that are in place wait as long as it takes. ``Cancelled`` always means that a change was not done: one that was sent
waits for its answer in spite of a cancellation, for at most ``CANCEL_SECONDS``, and then raises ``OutcomeUnknown``.

``platformd.client.store_blocking`` has the same for programs without trio.
"""

from __future__ import annotations

import random
import socket
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import trio

from platformd.client.http import HINT_NOT_RUNNING, Target
from platformd.client.store_core import Call, StoreCore
from platformd.client.store_requests import Backoff, Pages, connect_socket, refuse_snapshot, store_socket, store_token
from platformd.client.store_watching import WatchCore
from platformd.coordination.codec import frames
from platformd.coordination.codec.requests import wire_txn
from platformd.coordination.contract import (
    Compacted,
    Compare,
    EventType,
    KeyValue,
    Lease,
    Listing,
    Operation,
    Order,
    StoreStatus,
    TxnResult,
    WatchBatch,
)
from platformd.core.errors import Forbidden, LimitReached, OutcomeUnknown, PlatformError, Unavailable

RECEIVE_BYTES: Final = 256 * 1024
"""The most that is read at once."""
HELLO_SECONDS: Final = 5.0
"""How long the server may take to say hello."""
CANCEL_SECONDS: Final = 5.0
"""How long a cancelled change that was sent still waits for its answer."""
PATIENCE: Final = 30.0
"""How long a call waits for a connection, seconds, if nothing else is said."""


@asynccontextmanager
async def connect_store(
    target: Target | str | Path | None = None,
    *,
    name: str = "",
    patience: float = PATIENCE,
    chance: Callable[[], float] = random.random,
) -> AsyncIterator[RemoteStore]:
    """The daemon's store, for as long as the block lasts.

    The block is entered when the connection is there: a daemon that is not running is an error at once. An exception
    that leaves the block comes out as it is, not wrapped in a group.

    Args:
        target: where the daemon is: its control API, or the path of its control socket; ``None`` for what the
            environment says.
        name: how this program is called, for the daemon's log.
        patience: about how long a call waits for a connection that was lost, seconds.
        chance: gives numbers from 0 to 1, for the jitter of reconnecting.

    Raises:
        Unavailable: nobody answers there.
        Forbidden: this user may not open the socket.
        Unauthorized: the target's token is not good.
        Unsupported: the daemon is of another version.
        InvalidInput: the target is not on a Unix socket.
        LimitReached: the daemon has too many connections.
    """
    store = RemoteStore(store_socket(target), name, patience, chance, store_token(target))
    sock = await store.dial()
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(store.run, sock)
            try:
                yield store
            finally:
                store.close()
                nursery.cancel_scope.cancel()
    except BaseExceptionGroup as group:
        if len(group.exceptions) != 1:
            raise
        # The nursery wraps whatever leaves the block.
        error = group.exceptions[0]
        raise error from error.__cause__


class RemoteStore:
    """``contract.Store`` over a connection. Made by ``connect_store``; for the tasks of one trio loop."""

    def __init__(self, path: str, name: str, patience: float, chance: Callable[[], float], token: str = "") -> None:
        self._path = path
        self._patience = patience
        self._backoff = Backoff(chance, patience)
        self._core = StoreCore(name, path, token)
        self._leases = RemoteLeases(self._ask)
        self._sock: socket.socket | None = None
        self._rest = memoryview(b"")
        """What the socket did not take."""
        self._sender = trio.lowlevel.ParkingLot()
        self._alone = True
        """Whether the last answers were for one caller only."""
        self._since: dict[Call | WatchCore, float] = {}
        """Since when each has been waiting for a connection."""
        self._closed: PlatformError | None = None

    # --- the Store contract ---

    async def get(self, key: bytes, *, revision: int = 0) -> KeyValue | None:
        """See ``Store.get``."""
        found: KeyValue | None = await self._ask(frames.GET, key, revision)
        return found

    async def list(
        self,
        key: bytes,
        end: bytes | None,
        *,
        revision: int = 0,
        limit: int = 0,
        keys_only: bool = False,
        count_only: bool = False,
        order: Order = "key",
    ) -> Listing:
        """See ``Store.list``. A long one comes in parts, all of one revision."""
        pages = Pages(key, end, revision=revision, limit=limit, keys_only=keys_only, count_only=count_only, order=order)
        while True:
            try:
                whole = pages.add(await self._ask(frames.LIST, *pages.request()))
            except Compacted:
                if not pages.start_over():
                    raise
            else:
                if whole is not None:
                    return whole

    async def txn(
        self, compares: Sequence[Compare], then: Sequence[Operation], otherwise: Sequence[Operation] = ()
    ) -> TxnResult:
        """See ``Store.txn``.

        Raises:
            OutcomeUnknown: the connection was lost after it was sent.
            PlatformError: as ``Store.txn``.
        """
        done: TxnResult = await self._ask(frames.TXN, *wire_txn(compares, then, otherwise), repeatable=False)
        return done

    @asynccontextmanager
    async def watch(
        self,
        key: bytes,
        end: bytes | None,
        *,
        start_revision: int = 0,
        previous: bool = False,
        only: EventType | None = None,
    ) -> AsyncIterator[AsyncIterator[WatchBatch]]:
        """See ``Store.watch``. It goes on over lost connections."""
        core = WatchCore(key, end, start_revision, previous=previous, only=only)
        watch = _Watch(core, self._gave)
        await trio.lowlevel.checkpoint()
        self._check_open()
        try:
            self._core.watch(core)
            self._flush_soon()
            await watch.wait_in_place()
            yield watch
        finally:
            self._core.cancel(core)
            self._since.pop(core, None)
            self._flush_soon()
            core.error = core.error or trio.ClosedResourceError("the watch's block was left")

    @property
    def leases(self) -> RemoteLeases:
        """See ``Store.leases``."""
        return self._leases

    async def compact(self, revision: int) -> None:
        """See ``Store.compact``."""
        await self._ask(frames.COMPACT, revision, repeatable=False)

    async def snapshot(self, path: Path) -> Any:
        """Not through the door.

        Raises:
            Unsupported: always.
        """
        raise refuse_snapshot(path)

    async def status(self) -> StoreStatus:
        """See ``Store.status``."""
        found: StoreStatus = await self._ask(frames.STATUS)
        return found

    async def ping(self) -> None:
        """An answer says that the daemon's loop is alive."""
        await self._ask(frames.PING)

    # --- asking ---

    async def _ask(self, kind: int, *fields: Any, repeatable: bool = True) -> Any:
        self._check_open()
        if not repeatable:
            # Once it is sent it cannot be cancelled, so a loop of changes can be only here.
            await trio.lowlevel.checkpoint_if_cancelled()
        core = self._core
        call = core.call(kind, *fields, repeatable=repeatable)
        if call.done:
            await trio.lowlevel.checkpoint()
            return call.fact()
        if self._alone and core.in_flight == 1:
            self._flush()
        else:
            self._flush_soon()

        def abort(_: Callable[[], None]) -> trio.lowlevel.Abort:
            if call.id and not repeatable:
                # It was sent, so it may be done: ``Cancelled`` would say that it is not.
                trio.lowlevel.spawn_system_task(self._give_up_later, call)
                return trio.lowlevel.Abort.FAILED
            core.forget(call)
            self._since.pop(call, None)
            return trio.lowlevel.Abort.SUCCEEDED

        call.waiter = trio.lowlevel.current_task()
        await trio.lowlevel.wait_task_rescheduled(abort)
        return call.fact()

    async def _give_up_later(self, call: Call) -> None:
        """End the wait of a cancelled change whose answer does not come."""
        await trio.sleep(CANCEL_SECONDS)
        if call.waiter is not None:
            self._core.fail(call, OutcomeUnknown("it was cancelled, and no answer came", subject=self._path))
            self._wake([call])

    def _check_open(self) -> None:
        if self._closed is not None:
            raise Unavailable(self._closed.message, subject=self._path)

    def _wake(self, woken: Sequence[Call | WatchCore]) -> None:
        calls = 0
        for one in woken:
            if isinstance(one, WatchCore):
                one.waiter.unpark_all()
                continue
            calls += 1
            if one.waiter is not None:
                trio.lowlevel.reschedule(one.waiter)
                one.waiter = None
        if calls:
            self._alone = calls == 1

    def _gave(self, core: WatchCore) -> None:
        """A program took a batch of a watch."""
        self._core.give_credit(core)
        self._flush_soon()

    # --- sending ---

    def _flush_soon(self) -> None:
        """Send with what else is asked in this turn of the loop."""
        if self._core.has_output:
            self._sender.unpark()

    def _flush(self) -> None:
        """Send now what the socket takes."""
        if self._sock is None:
            return
        if not self._rest:
            self._rest = memoryview(self._core.take())
        try:
            self._rest = self._rest[self._sock.send(self._rest) :]
        except BlockingIOError:
            pass
        except OSError:
            self._rest = memoryview(b"")  # the reading side sees it too, and says what is lost
        if self._rest:
            self._sender.unpark()

    async def _send(self, sock: socket.socket) -> None:
        while True:
            while not self._rest and not self._core.has_output:
                await self._sender.park()
            self._flush()
            if self._rest:
                await trio.lowlevel.wait_writable(sock)

    # --- the connection ---

    async def dial(self) -> socket.socket:
        """A new connection whose server has said hello.

        Raises:
            PlatformError: there is none; see ``connect_store``.
        """
        sock = connect_socket(self._path)
        try:
            self._core.open()
            self._sock = sock
            self._flush()
            with trio.move_on_after(HELLO_SECONDS):
                while not self._core.ready:
                    data = await _receive(sock)
                    if not data:
                        break
                    self._wake(self._core.receive(data))
            if not self._core.ready:
                raise Unavailable("no daemon says hello there", subject=self._path, hint=HINT_NOT_RUNNING)
        except BaseException:
            self._hang_up("no daemon said hello")
            raise
        return sock

    async def run(self, sock: socket.socket) -> None:
        """Keep the connection, and make it again whenever it is lost."""
        try:
            while True:
                reason = await self._exchange(sock)
                self._hang_up(reason)
                sock = await self._dial_again()
        finally:
            self._hang_up("the connection was closed")

    async def _exchange(self, sock: socket.socket) -> str:
        """Send and receive until the connection is lost; why it was."""
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._send, sock)
                try:
                    while data := await _receive(sock):
                        self._wake(self._core.receive(data))
                    return "the daemon closed the connection"
                finally:
                    nursery.cancel_scope.cancel()
        except* OSError as lost:
            reason = str(lost.exceptions[0])
        except* PlatformError as refused:
            reason = str(refused.exceptions[0])
        return reason

    def _hang_up(self, reason: str) -> None:
        sock, self._sock, self._rest = self._sock, None, memoryview(b"")
        if sock is not None:
            sock.close()
        self._wake(self._core.lose(reason))

    async def _dial_again(self) -> socket.socket:
        self._since.clear()
        while True:
            try:
                sock = await self.dial()
            except PlatformError as error:
                self._lose_patience(error)
            else:
                self._since.clear()
                self._backoff.reset()
                return sock
            await trio.sleep(self._backoff.next())

    def _lose_patience(self, error: PlatformError) -> None:
        """Tell those who have waited long enough."""
        now = trio.current_time()
        over = error if isinstance(error, Forbidden | LimitReached) else None
        for one in self._core.waiting():
            since = self._since.setdefault(one, now)
            if now - since >= self._patience:
                message = f"no connection for {self._patience:g} s: {error.message}"
                told = type(over) if over is not None else Unavailable
                self._core.fail(one, told(message, subject=self._path, hint=error.hint))
                self._since.pop(one)
                self._wake([one])

    def close(self) -> None:
        """End everything: whoever still waits gets ``Unavailable``."""
        self._closed = Unavailable("the connection was closed", subject=self._path)
        self._wake(self._core.close(self._closed))


class RemoteLeases:
    """``contract.Leases`` over a connection."""

    def __init__(self, ask: Callable[..., Any]) -> None:
        self._ask = ask

    async def grant(self, ttl: float, *, lease_id: int = 0) -> Lease:
        """See ``Leases.grant``. Without an id of one's own it is asked again after a lost connection: a lease that
        nobody knows of ends by itself."""
        granted: Lease = await self._ask(frames.GRANT, ttl, lease_id, repeatable=not lease_id)
        return granted

    async def keep_alive(self, lease_id: int) -> Lease:
        """See ``Leases.keep_alive``."""
        kept: Lease = await self._ask(frames.KEEP_ALIVE, lease_id)
        return kept

    async def revoke(self, lease_id: int) -> int:
        """See ``Leases.revoke``."""
        deleted: int = await self._ask(frames.REVOKE, lease_id, repeatable=False)
        return deleted

    async def get(self, lease_id: int) -> Lease:
        """See ``Leases.get``."""
        found: Lease = await self._ask(frames.LEASE, lease_id)
        return found

    async def list(self) -> tuple[Lease, ...]:
        """See ``Leases.list``."""
        found: tuple[Lease, ...] = await self._ask(frames.LEASES)
        return found


class _Watch:
    """An open watch. Iterating it gives ``WatchBatch``es; one task may do so."""

    def __init__(self, core: WatchCore, gave: Callable[[WatchCore], None]) -> None:
        self._core = core
        self._gave = gave
        self._lot = core.waiter = trio.lowlevel.ParkingLot()

    async def wait_in_place(self) -> None:
        """Wait until it is in place, or refused."""
        while not self._core.in_place:
            if self._core.error is not None:
                raise self._core.error
            await self._lot.park()

    def __aiter__(self) -> _Watch:
        return self

    async def __anext__(self) -> WatchBatch:
        # From the checkpoint to the return there is no other one, so a cancelled wait loses no events.
        await trio.lowlevel.checkpoint()
        while (batch := self._core.next()) is None:
            await self._lot.park()
        self._gave(self._core)
        return batch


async def _receive(sock: socket.socket) -> bytes:
    while True:
        await trio.lowlevel.wait_readable(sock)
        try:
            return sock.recv(RECEIVE_BYTES)
        except BlockingIOError:
            continue
        except ConnectionResetError:
            return b""
