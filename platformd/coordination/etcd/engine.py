"""The distributed store: the contract's face over an etcd cluster."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Sequence

from platformd.coordination.contract import (
    Compare,
    Get,
    KeyValue,
    Lease,
    Listing,
    Operation,
    Put,
    StoreStatus,
    TxnResult,
    WatchBatch,
)
from platformd.coordination.etcd import messages
from platformd.coordination.etcd.channel import Channel
from platformd.coordination.etcd.errors import CompactedReply
from platformd.coordination.etcd.keyspace import Keyspace
from platformd.coordination.etcd.lease import Leases, no_lease
from platformd.coordination.etcd.reader import Reader
from platformd.coordination.etcd.watch import WatchHub
from platformd.coordination.etcd.wire import Malformed
from platformd.coordination.sqlite.txn import Limits, check, check_key, check_range, shown
from platformd.core.errors import InvalidInput, NotFound


class EtcdStore:
    """The distributed engine of ``contract.Store``. Made by ``open_etcd``; for one trio loop.

    Where etcd's promises differ from the embedded engine's, they are at the methods.
    """

    def __init__(
        self, channel: Channel, keyspace: Keyspace, reader: Reader, hub: WatchHub, leases: Leases, limits: Limits
    ) -> None:
        self._channel = channel
        self._keyspace = keyspace
        self._reader = reader
        self._hub = hub
        self._leases = leases
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
        by_revision: bool = False,
    ) -> Listing:
        """See ``Store.list``. With ``by_revision`` ordered by ``mod_revision``, then key."""
        check_range(key, end, self._limits)
        return await self._reader.list_range(
            key, end, _revision(revision), max(limit, 0), keys_only=keys_only, by_revision=by_revision
        )

    async def count(self, key: bytes, end: bytes | None) -> int:
        """How many keys are in [key, end); ``end=None`` for no upper bound."""
        check_range(key, end, self._limits)
        return (await self._reader.count(key, end))[0]

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

    async def compact(self, revision: int) -> None:
        """Drop history before ``revision``, which stays readable. Nothing happens if that was done already.

        Raises:
            FutureRevision: it does not exist yet.
        """
        with contextlib.suppress(CompactedReply):
            await self._channel.call(messages.COMPACT, messages.compaction(_revision(revision)))

    # --- watches ---

    @contextlib.asynccontextmanager
    async def watch(
        self, key: bytes, end: bytes | None, *, start_revision: int = 0, previous: bool = False
    ) -> AsyncIterator[AsyncIterator[WatchBatch]]:
        """See ``Store.watch``. A ``start_revision`` beyond the next one is refused, as ``FutureRevision``.

        While no member can be asked, iterating waits; it goes on without a gap when one is back.
        """
        check_range(key, end, self._limits)
        watcher = self._hub.add(self._keyspace.bounds(key, end), previous=previous)
        try:
            await watcher.begin(_revision(start_revision))
            yield watcher
        finally:
            self._hub.remove(watcher)

    # --- leases ---

    async def lease(self, ttl: float, *, lease_id: int = 0) -> Lease:
        """See ``Store.lease``. A time to live is rounded up to whole seconds, and at least the cluster's own
        minimum (2 s by default)."""
        return await (self._leases.keep_alive(lease_id) if lease_id else self._leases.grant(ttl))

    async def revoke(self, lease_id: int) -> int:
        """See ``Store.revoke``. The number is of the keys that were bound just before."""
        return await self._leases.revoke(lease_id)

    async def leases(self) -> tuple[Lease, ...]:
        """See ``Store.leases``. All of the cluster's, with those of their keys that are ours; to the second."""
        return await self._leases.list_all()

    async def status(self) -> StoreStatus:
        """See ``Store.status``. Keys and watchers are ours, leases and size the cluster's."""
        keys, revision = await self._reader.count(b"", None)
        member = messages.member_status(await self._channel.call(messages.STATUS, b""))
        return StoreStatus(
            engine="etcd",
            revision=revision,
            compact_revision=await self._reader.oldest(),
            keys=keys,
            leases=await self._leases.count(),
            watchers=len(self._hub),
            size_bytes=member.size_bytes,
        )


def _revision(revision: int) -> int:
    if revision < 0:
        raise InvalidInput(f"{revision} is not a revision", subject="store", hint="revisions count from 1; 0 is now")
    return revision
