"""The distributed store: the contract's face over an etcd cluster."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import get_args

from platformd.coordination.checks import Limits, check, check_key, check_range, shown
from platformd.coordination.contract import (
    Compare,
    EventType,
    Get,
    KeyValue,
    Listing,
    Operation,
    Order,
    Put,
    Snapshot,
    StoreStatus,
    TxnResult,
    WatchBatch,
)
from platformd.coordination.etcd import messages
from platformd.coordination.etcd.channel import Channel
from platformd.coordination.etcd.keyspace import Keyspace
from platformd.coordination.etcd.lease import EtcdLeases, no_lease
from platformd.coordination.etcd.reader import Query, Reader
from platformd.coordination.etcd.watch import WatchHub
from platformd.coordination.etcd.wire import Malformed
from platformd.core.errors import InvalidInput, NotFound, Unsupported


class EtcdStore:
    """The distributed engine of ``contract.Store``. Made by ``open_etcd``; for one trio loop.

    Where etcd's promises differ from the embedded engine's, they are at the methods.
    """

    def __init__(
        self, channel: Channel, keyspace: Keyspace, reader: Reader, hub: WatchHub, leases: EtcdLeases, limits: Limits
    ) -> None:
        self.leases = leases
        """See ``Store.leases``."""
        self._channel = channel
        self._keyspace = keyspace
        self._reader = reader
        self._hub = hub
        self._limits = limits

    async def ping(self) -> None:
        """See that the cluster answers.

        Raises:
            Unavailable, Unauthorized: it does not.
        """
        await self._reader.newest()

    # --- reads ---

    async def get(self, key: bytes, *, revision: int = 0) -> KeyValue | None:
        """See ``Store.get``."""
        check_key(key, self._limits)
        return await self._reader.get(key, _revision(revision))

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
        if order not in _ORDERS:
            raise InvalidInput(f"cannot order by {order!r}", subject="store", hint=f"one of {', '.join(_ORDERS)}")
        query = Query(key, end, _revision(revision), max(limit, 0), keys_only, order)
        return await (self._reader.count(query) if count_only else self._reader.list_range(query))

    # --- writes ---

    async def txn(
        self, compares: Sequence[Compare], then: Sequence[Operation], otherwise: Sequence[Operation] = ()
    ) -> TxnResult:
        """See ``Store.txn``.

        Cancelled before it was sent, it is not done and will not be. Once it was sent, its answer is waited for in
        spite of a cancellation, for at most ``request_timeout``.

        Raises:
            OutcomeUnknown: it was sent and not answered: it may have been done.
            Unavailable: no member could be asked; nothing was done.
        """
        compares, then, otherwise = tuple(compares), tuple(then), tuple(otherwise)
        check(compares, then, otherwise, self._limits)
        try:
            if not compares and len(then) == 1 and isinstance(then[0], Put):
                return await self._put(then[0])
            return await self._txn(compares, then, otherwise)
        except NotFound as error:
            puts = [operation for operation in (*then, *otherwise) if isinstance(operation, Put) and operation.lease]
            if not puts:
                raise
            raise no_lease([put.lease for put in puts], shown(puts[0].key)) from error

    async def _put(self, put: Put) -> TxnResult:
        """The most frequent transaction by far, as etcd's own request for it, which costs it less."""
        answer = await self._channel.call(messages.PUT, messages.put_request(put, self._keyspace), change=True)
        result, revision = messages.put_response(answer, self._keyspace.cut)
        return TxnResult(succeeded=True, revision=revision, results=(result,))

    async def _txn(
        self, compares: tuple[Compare, ...], then: tuple[Operation, ...], otherwise: tuple[Operation, ...]
    ) -> TxnResult:
        request = messages.txn_request(compares, then, otherwise, self._keyspace)
        change = not all(isinstance(operation, Get) for operation in (*then, *otherwise))
        answer = messages.txn_response(await self._channel.call(messages.TXN, request, change=change))
        branch = then if answer.succeeded else otherwise
        if len(answer.answers) != len(branch):
            raise Malformed("another number of operations than was asked for")
        results = tuple(
            messages.operation_result(operation, what, self._keyspace.cut)
            for operation, what in zip(branch, answer.answers, strict=True)
        )
        return TxnResult(succeeded=answer.succeeded, revision=answer.revision, results=results)

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
        """See ``Store.watch``.

        While no member can be asked, iterating waits; it goes on without a gap when one is back.
        """
        check_range(key, end, self._limits)
        watcher = self._hub.add(self._keyspace.bounds(key, end), previous=previous, only=only)
        try:
            await watcher.begin(_revision(start_revision))
            yield watcher
        finally:
            self._hub.remove(watcher)

    # --- the store as a whole ---

    async def compact(self, revision: int) -> None:
        """See ``Store.compact``. It is the history of all who use the cluster."""
        await self._reader.compact(_revision(revision))

    async def snapshot(self, path: Path) -> Snapshot:
        """See ``Store.snapshot``.

        Raises:
            Unsupported: always. A cluster's state is copied by its own tools.
        """
        raise Unsupported(
            "etcd's state is the cluster's, not ours to copy into a file",
            subject=str(path),
            hint="etcdctl snapshot save FILE",
        )

    async def status(self) -> StoreStatus:
        """See ``Store.status``. Keys and watchers are ours, leases and size the cluster's."""
        listed = await self._reader.count(Query(b"", None))
        member = messages.member_status(await self._channel.call(messages.STATUS, b""))
        return StoreStatus(
            engine="etcd",
            revision=listed.revision,
            compact_revision=await self._reader.oldest(),
            keys=listed.count,
            leases=await self.leases.count(),
            watchers=len(self._hub),
            size_bytes=member.size_bytes,
        )


_ORDERS: tuple[Order, ...] = get_args(Order)


def _revision(revision: int) -> int:
    if revision < 0:
        raise InvalidInput(f"{revision} is not a revision", subject="store", hint="revisions count from 1; 0 is now")
    return revision
