"""The embedded store: the contract's face. What is behind it is put together, and ended, in ``lifetime``."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import trio

from platformd.coordination.contract import (
    Compacted,
    Compare,
    FutureRevision,
    KeyValue,
    Lease,
    Listing,
    Operation,
    StoreStatus,
    TxnResult,
    WatchBatch,
)
from platformd.coordination.sqlite.lease import Entry, LeaseTable
from platformd.coordination.sqlite.queue import WriteQueue, copy_of
from platformd.coordination.sqlite.reader import Reader
from platformd.coordination.sqlite.txn import Limits, check, check_key, check_range
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
        leases: LeaseTable,
        counts: Counts,
    ) -> None:
        self._path = path
        self._limits = limits
        self._queue = queue
        self._reader = reader
        self._hub = hub
        self._leases = leases
        self._counts = counts
        self._closed: PlatformError | None = None

    # --- reads ---

    async def get(self, key: bytes, *, revision: int = 0) -> KeyValue | None:
        """See ``Store.get``."""
        check_key(key, self._limits)
        await self._turn()
        return self._reader.get(key, _revision(revision))

    async def list(
        self, key: bytes, end: bytes | None, *, revision: int = 0, limit: int = 0, keys_only: bool = False
    ) -> Listing:
        """See ``Store.list``."""
        check_range(key, end, self._limits)
        await self._turn()
        return await self._reader.list_range(key, end, _revision(revision), max(limit, 0), keys_only=keys_only)

    async def _turn(self) -> None:
        """The checkpoint of a read stands before it, so that the answer is of after the last wait."""
        await trio.lowlevel.checkpoint()
        self._check_open()

    def _check_open(self) -> None:
        if self._closed is not None:
            raise copy_of(self._closed)

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
        self._check_open()
        return await self._queue.submit(Transaction(compares, then, otherwise, size))

    # --- watches ---

    @contextlib.asynccontextmanager
    async def watch(
        self, key: bytes, end: bytes | None, *, start_revision: int = 0, previous: bool = False
    ) -> AsyncIterator[AsyncIterator[WatchBatch]]:
        """See ``Store.watch``. A ``start_revision`` beyond the next one is refused, as ``FutureRevision``."""
        check_range(key, end, self._limits)
        await self._turn()
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
        watcher = self._hub.open(key, end, start - 1, previous=previous)
        try:
            yield watcher
        finally:
            self._hub.close(watcher)

    # --- leases ---

    async def lease(self, ttl: float, *, lease_id: int = 0) -> Lease:
        """See ``Store.lease``."""
        self._check_open()
        entry = await (self._leases.keep_alive(lease_id) if lease_id else self._leases.grant(ttl))
        return _lease(entry)

    async def revoke(self, lease_id: int) -> int:
        """See ``Store.revoke``. Beyond ``LEASE_KEYS_PER_REVISION`` keys it takes more than one revision."""
        self._check_open()
        return await self._leases.revoke(lease_id)

    async def leases(self) -> tuple[Lease, ...]:
        """See ``Store.leases``."""
        await self._turn()
        keys = await self._reader.leased_keys()
        return tuple(_lease(entry, keys.get(entry.id, ())) for entry in self._leases.entries())

    async def status(self) -> StoreStatus:
        """See ``Store.status``."""
        await self._turn()
        oldest, newest = self._reader.bounds()
        return StoreStatus(
            engine="sqlite",
            revision=newest,
            compact_revision=oldest,
            keys=self._counts.keys,
            leases=len(self._leases),
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


def _revision(revision: int) -> int:
    if revision < 0:
        raise InvalidInput(f"{revision} is not a revision", subject="store", hint="revisions count from 1; 0 is now")
    return revision


def _lease(entry: Entry, keys: Sequence[bytes] = ()) -> Lease:
    remaining = 0.0 if entry.ended else max(0.0, entry.deadline - trio.current_time())
    return Lease(id=entry.id, ttl=entry.ttl, remaining=remaining, keys=tuple(keys))
