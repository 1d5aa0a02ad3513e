"""The embedded store: the contract's face. What is behind it is put together, and ended, in ``lifetime``."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path

import trio

from platformd.coordination.checks import Limits, check, check_key, check_range
from platformd.coordination.contract import (
    Compacted,
    Compare,
    EventType,
    FutureRevision,
    KeyValue,
    Lease,
    Listing,
    Operation,
    Order,
    Snapshot,
    StoreStatus,
    TxnResult,
    WatchBatch,
)
from platformd.coordination.sqlite.compaction import compact_to
from platformd.coordination.sqlite.lease import Entry, LeaseTable
from platformd.coordination.sqlite.past import ORDERS, Range
from platformd.coordination.sqlite.queue import Result, WriteQueue, copy_of
from platformd.coordination.sqlite.reader import Reader
from platformd.coordination.sqlite.rows import Wanted
from platformd.coordination.sqlite.snapshot import write_snapshot
from platformd.coordination.sqlite.watch import WatchHub
from platformd.coordination.sqlite.work import Transaction
from platformd.coordination.sqlite.writer import Counts, Delivery, size_on_disk
from platformd.core.errors import InvalidInput, PlatformError, Unavailable


class SqliteStore:
    """The embedded engine of ``contract.Store``. Made by ``open_sqlite``; for one trio loop."""

    def __init__(
        self,
        path: Path,
        limits: Limits,
        queue: WriteQueue,
        reader: Reader,
        hub: WatchHub,
        table: LeaseTable,
        counts: Counts,
    ) -> None:
        self.leases = SqliteLeases(self, table)
        """See ``Store.leases``."""
        self._path = path
        self._limits = limits
        self._queue = queue
        self._reader = reader
        self._hub = hub
        self._table = table
        self._counts = counts
        self._closed: PlatformError | None = None

    # --- reads ---

    async def get(self, key: bytes, *, revision: int = 0) -> KeyValue | None:
        """See ``Store.get``."""
        check_key(key, self._limits)
        await self.turn()
        if _revision(revision):
            return await self._reader.get_past(key, revision)
        return self._reader.get(key)

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
        """See ``Store.list``."""
        check_range(key, end, self._limits)
        if order not in ORDERS:
            raise InvalidInput(f"cannot order by {order!r}", subject="store", hint=f"one of {', '.join(ORDERS)}")
        wanted = Range(key, end, _revision(revision), max(limit, 0), keys_only, order)
        await self.turn()
        return await (self._reader.count(wanted) if count_only else self._reader.list_range(wanted))

    async def turn(self) -> None:
        """The checkpoint of a read stands before it, so that the answer is of after the last wait."""
        await trio.lowlevel.checkpoint()
        self.check_open()

    def check_open(self) -> None:
        """Refuse if the store is stopping."""
        if self._closed is not None:
            raise copy_of(self._closed)

    async def leased_keys(self, lease_id: int) -> tuple[bytes, ...]:
        """The keys that are bound to a lease, ordered."""
        return await self._reader.leased_keys(lease_id)

    # --- writes ---

    async def txn(
        self, compares: Sequence[Compare], then: Sequence[Operation], otherwise: Sequence[Operation] = ()
    ) -> TxnResult:
        """See ``Store.txn``.

        Cancelled while it still waits for the writer, it is not done and will not be. Once the writer has taken it, it
        returns its result (or raises its error) in spite of a cancellation: never half, never unknown.
        """
        compares, then, otherwise = tuple(compares), tuple(then), tuple(otherwise)
        size = check(compares, then, otherwise, self._limits)
        self.check_open()
        return await self._queue.submit(Transaction(compares, then, otherwise, size))

    def txn_soon(
        self,
        compares: tuple[Compare, ...],
        then: tuple[Operation, ...],
        otherwise: tuple[Operation, ...],
        done: Callable[[Result[TxnResult]], None],
    ) -> bool:
        """``txn`` without a task that waits for it: ``done`` is called with what came of it. See ``submit_soon``.

        Raises: as ``txn``, for what can be refused at once.
        """
        size = check(compares, then, otherwise, self._limits)
        self.check_open()
        return self._queue.submit_soon(Transaction(compares, then, otherwise, size), done)

    async def compact(self, revision: int) -> None:
        """See ``Store.compact``. It goes in small steps, between which others write."""
        await self.turn()
        oldest, newest = self._reader.bounds()
        if _revision(revision) > newest:
            raise FutureRevision(
                f"cannot compact to revision {revision}; the newest is {newest}",
                subject="store",
                hint="a revision from another store, or from before a restore, means nothing here",
            )
        if revision < oldest:
            raise Compacted(revision, oldest)
        await compact_to(self._queue, self.counts, revision)

    async def snapshot(self, path: Path) -> Snapshot:
        """See ``Store.snapshot``. It is a store of its own: ``restore`` makes it one that goes on."""
        await self.turn()
        return await write_snapshot(self._path, path)

    # --- watches ---

    @contextlib.asynccontextmanager
    async def watch(
        self,
        key: bytes,
        end: bytes | None,
        *,
        start_revision: int = 0,
        previous: bool = False,
        only: EventType | None = None,
    ) -> AsyncIterator[AsyncIterator[WatchBatch]]:
        """See ``Store.watch``. A ``start_revision`` beyond the next one is refused, as ``FutureRevision``."""
        check_range(key, end, self._limits)
        if only not in (None, "put", "delete"):
            raise InvalidInput(f"cannot watch {only!r} only", subject="watch", hint="put, delete, or both")
        await self.turn()
        oldest, newest = self._reader.bounds()
        start = _revision(start_revision) or newest + 1
        if start < oldest:
            raise Compacted(start, oldest)
        if start > newest + 1:
            raise FutureRevision(
                f"cannot watch from revision {start}; the newest is {newest}",
                subject="store",
                hint="list again and go on from its revision: the store was restored, or is another one",
            )
        watcher = self._hub.open(Wanted(key, end, previous, only), start - 1)
        try:
            yield watcher
        finally:
            self._hub.close(watcher)

    # --- the rest ---

    async def status(self) -> StoreStatus:
        """See ``Store.status``."""
        await self.turn()
        oldest, newest = self._reader.bounds()
        return StoreStatus(
            engine="sqlite",
            revision=newest,
            compact_revision=oldest,
            keys=self._counts.keys,
            leases=len(self._table),
            watchers=len(self._hub),
            size_bytes=size_on_disk(self._path),
        )

    # --- for ``lifetime`` ---

    def newest(self) -> int:
        """The newest revision that was dispatched."""
        return self._hub.revision

    def counts(self) -> Counts:
        """How the file is."""
        return self._counts

    def delivered(self, delivery: Delivery) -> None:
        """A batch is durable, or refused: tell the watchers, then those who asked. In trio's thread, at once."""
        self._counts = delivery.counts
        self._hub.dispatch(delivery.history)
        self._queue.answer(delivery.jobs)

    def refuse(self) -> Unavailable:
        """From here on everyone who asks is refused, and watches end; with the error that is returned."""
        self._closed = Unavailable("the store is stopping", subject=str(self._path))
        self._hub.close_all(self._closed)
        return self._closed


class SqliteLeases:
    """``contract.Leases`` of the embedded engine."""

    def __init__(self, store: SqliteStore, table: LeaseTable) -> None:
        self._store = store
        self._table = table

    async def grant(self, ttl: float, *, lease_id: int = 0) -> Lease:
        """See ``Leases.grant``."""
        self._store.check_open()
        return _lease(await self._table.grant(ttl, lease_id))

    async def keep_alive(self, lease_id: int) -> Lease:
        """See ``Leases.keep_alive``."""
        self._store.check_open()
        return _lease(await self._table.keep_alive(lease_id))

    async def revoke(self, lease_id: int) -> int:
        """See ``Leases.revoke``. Beyond ``LEASE_KEYS_PER_REVISION`` keys it takes more than one revision."""
        self._store.check_open()
        return await self._table.revoke(lease_id)

    async def get(self, lease_id: int) -> Lease:
        """See ``Leases.get``."""
        await self._store.turn()
        self._table.get(lease_id)
        keys = await self._store.leased_keys(lease_id)
        return _lease(self._table.get(lease_id), keys)

    async def list(self) -> tuple[Lease, ...]:
        """See ``Leases.list``."""
        await self._store.turn()
        return tuple(_lease(entry) for entry in self._table.entries())


def _revision(revision: int) -> int:
    if revision < 0:
        raise InvalidInput(f"{revision} is not a revision", subject="store", hint="revisions count from 1; 0 is now")
    return revision


def _lease(entry: Entry, keys: Sequence[bytes] = ()) -> Lease:
    remaining = 0.0 if entry.ended else max(0.0, entry.deadline - trio.current_time())
    return Lease(id=entry.id, ttl=entry.ttl, remaining=remaining, keys=tuple(keys))
