"""The store for plain programs and their threads: ``with connect_store_blocking() as store``. No trio in it.

The same operations and the same promises as ``platformd.client.store``, over the same sans-I/O core. All threads share
one connection: what several of them ask together is committed together. There is no thread of the library's own: of
those that wait for an answer one reads for all; when it has its own, it hands the reading on to another that waits.

A watch has a connection of its own, since nobody might be there to read for it.
"""

from __future__ import annotations

import random
import select
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

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
from platformd.core.errors import DeadlineExceeded, OutcomeUnknown, PlatformError, Unavailable

RECEIVE_BYTES: Final = 256 * 1024
"""The most that is read at once."""
HELLO_SECONDS: Final = 5.0
"""How long the daemon may take to say hello."""
TIMEOUT: Final = 30.0
"""How long an answer may take, a lost connection included, seconds, if nothing else is said."""
_LOOK_AGAIN: Final = 1.0
"""Seconds after which a thread that waits looks whether it is to read."""


@contextmanager
def connect_store_blocking(
    target: Target | str | Path | None = None,
    *,
    name: str = "",
    timeout: float = TIMEOUT,
    chance: Callable[[], float] = random.random,
) -> Iterator[BlockingStore]:
    """The daemon's store, for as long as the block lasts, for all threads of the program.

    Args:
        target: where the daemon is: its control API, or the path of its control socket; ``None`` for what the
            environment says.
        name: how this program is called, for the daemon's log.
        timeout: how long each answer may take, seconds. Over it: ``DeadlineExceeded``, or ``OutcomeUnknown`` for a
            change that was sent.
        chance: gives numbers from 0 to 1, for the jitter of reconnecting.

    Raises: as ``platformd.client.store.connect_store``.
    """
    store = BlockingStore(store_socket(target), name, timeout, chance, store_token(target))
    try:
        yield store
    finally:
        store.close()


class BlockingStore:
    """``contract.Store`` with methods that block. Made by ``connect_store_blocking``; for any number of threads."""

    def __init__(self, path: str, name: str, timeout: float, chance: Callable[[], float], token: str = "") -> None:
        self._how = (path, name, chance, timeout, token)
        self._path = path
        self._timeout = timeout
        self._line = _Line(*self._how)
        self._leading = False
        """Whether a thread is reading for all."""
        self._leases = BlockingLeases(self._ask)
        self._line.dial()

    def close(self) -> None:
        """Close the connection; whoever still waits gets ``Unavailable``. Watches have their own."""
        self._line.close()

    def get(self, key: bytes, *, revision: int = 0) -> KeyValue | None:
        """See ``Store.get``."""
        found: KeyValue | None = self._ask(frames.GET, key, revision)
        return found

    def list(
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
                whole = pages.add(self._ask(frames.LIST, *pages.request()))
            except Compacted:
                if not pages.start_over():
                    raise
            else:
                if whole is not None:
                    return whole

    def txn(
        self, compares: Sequence[Compare], then: Sequence[Operation], otherwise: Sequence[Operation] = ()
    ) -> TxnResult:
        """See ``Store.txn``.

        Raises:
            OutcomeUnknown: the answer was lost, or did not come in time.
            PlatformError: as ``Store.txn``.
        """
        done: TxnResult = self._ask(frames.TXN, *wire_txn(compares, then, otherwise), repeatable=False)
        return done

    @contextmanager
    def watch(
        self,
        key: bytes,
        end: bytes | None,
        *,
        start_revision: int = 0,
        previous: bool = False,
        only: EventType | None = None,
    ) -> Iterator[BlockingWatch]:
        """See ``Store.watch``. It goes on over lost connections; one thread may iterate it."""
        core = WatchCore(key, end, start_revision, previous=previous, only=only)
        watch = BlockingWatch(core, _Line(*self._how), self._timeout)
        try:
            watch.begin()
            yield watch
        finally:
            watch.close()

    @property
    def leases(self) -> BlockingLeases:
        """See ``Store.leases``."""
        return self._leases

    def compact(self, revision: int) -> None:
        """See ``Store.compact``."""
        self._ask(frames.COMPACT, revision, repeatable=False)

    def snapshot(self, path: Path) -> Any:
        """Not through the door.

        Raises:
            Unsupported: always.
        """
        raise refuse_snapshot(path)

    def status(self) -> StoreStatus:
        """See ``Store.status``."""
        found: StoreStatus = self._ask(frames.STATUS)
        return found

    def ping(self) -> None:
        """An answer says that the daemon's loop is alive."""
        self._ask(frames.PING)

    def _ask(self, kind: int, *fields: Any, repeatable: bool = True) -> Any:
        deadline = time.monotonic() + self._timeout
        line = self._line
        call = line.call(kind, fields, repeatable=repeatable)
        try:
            while not call.done:
                left = deadline - time.monotonic()
                if left <= 0:
                    raise line.give_up(call, self._timeout)
                if self._take_lead():
                    try:
                        line.turn(left)
                    finally:
                        self._leading = False
                else:
                    call.waiter.wait(min(left, _LOOK_AGAIN))
                    call.waiter.clear()
        finally:
            if not self._leading:
                line.wake_one()  # to read, now that this one does not
        return call.fact()

    def _take_lead(self) -> bool:
        with self._line.lock:
            lead, self._leading = not self._leading, True
            return lead


class BlockingLeases:
    """``contract.Leases`` with methods that block."""

    def __init__(self, ask: Callable[..., Any]) -> None:
        self._ask = ask

    def grant(self, ttl: float, *, lease_id: int = 0) -> Lease:
        """See ``Leases.grant``. Without an id of one's own it is asked again after a lost connection: a lease that
        nobody knows of ends by itself."""
        granted: Lease = self._ask(frames.GRANT, ttl, lease_id, repeatable=not lease_id)
        return granted

    def keep_alive(self, lease_id: int) -> Lease:
        """See ``Leases.keep_alive``."""
        kept: Lease = self._ask(frames.KEEP_ALIVE, lease_id)
        return kept

    def revoke(self, lease_id: int) -> int:
        """See ``Leases.revoke``."""
        deleted: int = self._ask(frames.REVOKE, lease_id, repeatable=False)
        return deleted

    def get(self, lease_id: int) -> Lease:
        """See ``Leases.get``."""
        found: Lease = self._ask(frames.LEASE, lease_id)
        return found

    def list(self) -> tuple[Lease, ...]:
        """See ``Leases.list``."""
        found: tuple[Lease, ...] = self._ask(frames.LEASES)
        return found


class BlockingWatch:
    """An open watch: iterate it for ``WatchBatch``es, or ask for the ``next`` one with a timeout."""

    def __init__(self, core: WatchCore, line: _Line, timeout: float) -> None:
        self._core = core
        self._line = line
        self._timeout = timeout

    def begin(self) -> None:
        """Wait until it is in place.

        Raises:
            PlatformError: it is refused, or there is no connection.
        """
        self._line.dial()
        self._line.watch(self._core)
        deadline = time.monotonic() + self._timeout
        while not self._core.in_place:
            if self._core.error is not None:
                raise self._core.error
            left = deadline - time.monotonic()
            if left <= 0:
                raise DeadlineExceeded(f"the watch is not in place after {self._timeout:g} s", subject="watch")
            self._line.turn(left)

    def __iter__(self) -> Iterator[WatchBatch]:
        while True:
            batch = self.next()
            assert batch is not None
            yield batch

    def next(self, timeout: float | None = None) -> WatchBatch | None:
        """The next batch; ``None`` if there is none within ``timeout`` seconds (``None``: as long as it takes).

        Raises:
            PlatformError: what ended the watch; see ``Store.watch``.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        while (batch := self._core.next()) is None:
            left = _LOOK_AGAIN if deadline is None else deadline - time.monotonic()
            if left <= 0:
                return None
            self._line.turn(left)
        self._line.give_credit(self._core)
        return batch

    def close(self) -> None:
        """End it."""
        self._line.close()


class _Line:
    """A connection that is made again when it is lost, and the core behind it.

    ``turn`` is for one thread at a time; the rest for any.
    """

    def __init__(self, path: str, name: str, chance: Callable[[], float], patience: float, token: str = "") -> None:
        self.lock = threading.Lock()
        """For the core, and for who reads; never held while waiting."""
        self._sending = threading.Lock()
        self._path = path
        self._core = StoreCore(name, path, token)
        self._backoff = Backoff(chance, patience)
        self._sock: socket.socket | None = None
        self._closed = False

    # --- asking ---

    def call(self, kind: int, fields: tuple[Any, ...], *, repeatable: bool) -> Call:
        """Ask; the call's ``waiter`` is set when there is news for it."""
        with self.lock:
            self._check_open()
            call = self._core.call(kind, *fields, repeatable=repeatable)
            call.waiter = threading.Event()
        self._flush()
        return call

    def watch(self, watch: WatchCore) -> None:
        """Begin a watch."""
        with self.lock:
            self._core.watch(watch)
        self._flush()

    def give_credit(self, watch: WatchCore) -> None:
        """A batch of it was taken."""
        with self.lock:
            self._core.give_credit(watch)
        self._flush()

    def give_up(self, call: Call, timeout: float) -> PlatformError:
        """Nobody waits for it any more; what that means."""
        with self.lock:
            sent = call.id and not call.repeatable
            self._core.forget(call)
        message = f"no answer within {timeout:g} s"
        if sent:
            hint = "look whether it was done before doing it again"
            return OutcomeUnknown(message, subject=self._path, hint=hint)
        return DeadlineExceeded(message, subject=self._path, hint=HINT_NOT_RUNNING)

    def wake_one(self) -> None:
        """Have somebody who waits look whether it is to read."""
        with self.lock:
            call = self._core.anyone()
            if call is not None:
                call.waiter.set()

    # --- the connection ---

    def dial(self) -> None:
        """Make a connection whose server has said hello.

        Raises:
            PlatformError: there is none.
        """
        sock = connect_socket(self._path)
        sock.settimeout(HELLO_SECONDS)
        with self.lock:
            if self._closed:
                sock.close()
                self._check_open()
            self._core.open()
            self._sock = sock
        try:
            self._flush()
            deadline = time.monotonic() + HELLO_SECONDS
            while not self._core.ready:
                if not self._read(sock, deadline - time.monotonic()):
                    raise Unavailable("no daemon says hello there", subject=self._path, hint=HINT_NOT_RUNNING)
        except BaseException:
            self._hang_up("no daemon said hello")
            raise
        self._backoff.reset()

    def turn(self, seconds: float) -> None:
        """Wait for something to come, at most ``seconds``, and take it; without a connection, try to make one."""
        sock = self._sock
        if sock is None:
            try:
                self.dial()
            except PlatformError:
                self._check_open()
                time.sleep(min(seconds, self._backoff.next()))
            return
        try:
            alive = self._read(sock, seconds) is not False
            reason = "the daemon closed the connection"
        except PlatformError as error:
            alive, reason = False, str(error)
        if not alive:
            self._hang_up(reason)
            self._check_open()

    def close(self) -> None:
        """End everything: whoever still waits gets ``Unavailable``."""
        with self.lock:
            self._closed = True
            _wake(self._core.close(Unavailable("the connection was closed", subject=self._path)))
        self._hang_up("the connection was closed")

    def _check_open(self) -> None:
        if self._closed:
            raise Unavailable("the connection was closed", subject=self._path)

    def _read(self, sock: socket.socket, seconds: float) -> bool | None:
        """Take what has come; ``None`` if nothing did in time, false if the connection is gone.

        Raises:
            PlatformError: the server refuses the connection, or cannot be understood.
        """
        try:
            poll = select.poll()
            poll.register(sock, select.POLLIN)
            if not poll.poll(max(0.0, seconds) * 1000):
                return None
            data = sock.recv(RECEIVE_BYTES)
        except (OSError, ValueError):  # ValueError: it was closed meanwhile
            return False
        if not data:
            return False
        with self.lock:
            _wake(self._core.receive(data))
            more = self._core.has_output
        if more:
            self._flush()
        return True

    def _flush(self) -> None:
        """Send what is asked, with what other threads have asked meanwhile."""
        with self._sending:
            with self.lock:
                sock = self._sock
                data = self._core.take() if sock is not None else None
            if not data or sock is None:
                return
            try:
                sock.sendall(data)
            except OSError:  # whoever reads sees the end, and says what is lost
                _shut_down(sock)

    def _hang_up(self, reason: str) -> None:
        with self.lock:
            sock, self._sock = self._sock, None
            _wake(self._core.lose(reason))
        if sock is not None:
            _shut_down(sock)
            with self._sending:
                sock.close()


def _shut_down(sock: socket.socket) -> None:
    """End a connection so that every thread that uses it sees it."""
    try:
        sock.shutdown(socket.SHUT_RDWR)
    except OSError:
        return


def _wake(woken: Sequence[Call | WatchCore]) -> None:
    for one in woken:
        if one.waiter is not None:
            one.waiter.set()
