"""A part of a store as a store of its own: every key below one prefix, which is put on and taken off.

Users' keys live below ``USER_KEYS``. So no user can read or change what the daemon itself keeps (resources live
below ``/resources/``), whatever key is asked for, and this file is the only one that knows where the line is.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Final, Literal, Protocol, cast, runtime_checkable

import msgspec
import outcome

from platformd.coordination.contract import (
    Compare,
    DeleteResult,
    Event,
    GetResult,
    KeyValue,
    Lease,
    Leases,
    Listing,
    Operation,
    Order,
    Put,
    PutResult,
    Snapshot,
    Store,
    StoreStatus,
    TxnResult,
    WatchBatch,
    prefix_end,
)
from platformd.core.errors import FieldError, Forbidden, InvalidInput, PlatformError

USER_KEYS: Final = b"/kv/"
"""What every key of a user begins with in the daemon's store; users never see it."""


def user_keys(store: Store) -> Namespace:
    """The users' part of the daemon's store; as quick as it, where it does transactions without a waiting task."""
    return QuickNamespace(store, USER_KEYS) if isinstance(store, _Quick) else Namespace(store, USER_KEYS)


class Namespace:
    """All keys of ``store`` that begin with ``prefix``, as a ``Store``.

    Revisions are the whole store's. A key may be as many bytes shorter as the prefix is long. Leases are shared:
    anybody's may be seen and kept alive, but one that holds keys elsewhere cannot be revoked from here.
    """

    def __init__(self, store: Store, prefix: bytes) -> None:
        self.prefix = prefix
        self._store = store
        self._end = prefix_end(prefix)
        self._cut = len(prefix)
        self.own_words = _OwnWords(prefix)
        self.leases: Leases = _Leases(self, store)

    async def get(self, key: bytes, *, revision: int = 0) -> KeyValue | None:
        """See ``Store.get``."""
        with self.own_words:
            kv = await self._store.get(self._key(key), revision=revision)
        return None if kv is None else self._taken(kv)

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
        with self.own_words:
            found = await self._store.list(
                *self._range(key, end),
                revision=revision,
                limit=limit,
                keys_only=keys_only,
                count_only=count_only,
                order=order,
            )
        return msgspec.structs.replace(found, items=self._all(found.items))

    async def txn(
        self, compares: Sequence[Compare], then: Sequence[Operation], otherwise: Sequence[Operation] = ()
    ) -> TxnResult:
        """See ``Store.txn``."""
        with self.own_words:
            result = await self._store.txn(*self._inside(compares, then, otherwise))
        return self._outside(result)

    @contextlib.asynccontextmanager
    async def watch(
        self,
        key: bytes,
        end: bytes | None,
        *,
        start_revision: int = 0,
        previous: bool = False,
        only: Literal["put", "delete"] | None = None,
    ) -> AsyncIterator[AsyncIterator[WatchBatch]]:
        """See ``Store.watch``."""
        with self.own_words:
            async with self._store.watch(
                *self._range(key, end), start_revision=start_revision, previous=previous, only=only
            ) as batches:
                yield _Batches(self, batches)

    async def compact(self, revision: int) -> None:
        """See ``Store.compact``: history is the whole store's, and so is this."""
        await self._store.compact(revision)

    async def snapshot(self, path: Path) -> Snapshot:
        """See ``Store.snapshot``: of the whole store."""
        return await self._store.snapshot(path)

    async def status(self) -> StoreStatus:
        """See ``Store.status``: of the whole store."""
        return await self._store.status()

    # --- prefixes on and off ---

    def _inside(
        self, compares: Sequence[Compare], then: Sequence[Operation], otherwise: Sequence[Operation]
    ) -> tuple[tuple[Compare, ...], tuple[Operation, ...], tuple[Operation, ...]]:
        return (
            tuple(Compare(self._key(c.key), c.target, c.operator, c.operand) for c in compares),
            tuple(self._operation(operation) for operation in then),
            tuple(self._operation(operation) for operation in otherwise),
        )

    def _outside(self, result: TxnResult) -> TxnResult:
        return msgspec.structs.replace(result, results=tuple(self._result(one) for one in result.results))

    def _key(self, key: bytes) -> bytes:
        """A key with its prefix. An empty one would be a key of the whole store, which could not refuse it."""
        if not key:
            raise InvalidInput("the key is empty", subject="store", hint="a key has at least one byte")
        return self.prefix + key

    def _range(self, key: bytes, end: bytes | None) -> tuple[bytes, bytes | None]:
        return self.prefix + key, self._end if end is None else self.prefix + end

    def _operation(self, operation: Operation) -> Operation:
        if isinstance(operation, Put):
            return Put(self._key(operation.key), operation.value, operation.lease)
        if operation.end is None:
            return type(operation)(self._key(operation.key))
        return type(operation)(self.prefix + operation.key, self.prefix + operation.end)

    def _result(self, result: PutResult | DeleteResult | GetResult) -> PutResult | DeleteResult | GetResult:
        if isinstance(result, PutResult):
            return PutResult(self._taken(result.previous)) if result.previous is not None else result
        if isinstance(result, GetResult):
            return GetResult(self._all(result.items))
        return DeleteResult(result.deleted, self._all(result.previous))

    def _taken(self, kv: KeyValue) -> KeyValue:
        return KeyValue(
            key=kv.key[self._cut :],
            value=kv.value,
            create_revision=kv.create_revision,
            mod_revision=kv.mod_revision,
            version=kv.version,
            lease=kv.lease,
        )

    def _all(self, kvs: Sequence[KeyValue]) -> tuple[KeyValue, ...]:
        return tuple([self._taken(kv) for kv in kvs])

    def batch(self, batch: WatchBatch) -> WatchBatch:
        """A watch's batch without the prefix."""
        if not batch.events:
            return batch
        events = [
            Event(
                type=event.type,
                kv=self._taken(event.kv),
                previous=None if event.previous is None else self._taken(event.previous),
            )
            for event in batch.events
        ]
        return WatchBatch(revision=batch.revision, events=tuple(events))

    def lease(self, lease: Lease) -> Lease:
        """A lease with those of its keys that are in here."""
        keys = tuple(key[self._cut :] for key in lease.keys if key.startswith(self.prefix))
        return msgspec.structs.replace(lease, keys=keys)


class _OwnWords:
    """Takes the prefix out of what an error says: its reader knows nothing of it. A class, for every call enters it."""

    __slots__ = ("_prefix",)

    def __init__(self, prefix: bytes) -> None:
        self._prefix = prefix.decode()

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if not isinstance(error, PlatformError):
            return
        if error.subject is not None:
            error.subject = error.subject.removeprefix(self._prefix)
        error.errors = tuple(
            FieldError(path=e.path, message=e.message.replace(f" {self._prefix}", " "), hint=e.hint)
            for e in error.errors
        )


Done = Callable[[outcome.Value[TxnResult] | outcome.Error], None]


@runtime_checkable
class _Quick(Protocol):
    def txn_soon(
        self,
        compares: tuple[Compare, ...],
        then: tuple[Operation, ...],
        otherwise: tuple[Operation, ...],
        done: Done,
    ) -> bool: ...


class QuickNamespace(Namespace):
    """A namespace of a store that does transactions without a task that waits for each."""

    def __init__(self, store: _Quick, prefix: bytes) -> None:
        super().__init__(cast("Store", store), prefix)
        self._quick = store

    def txn_soon(
        self,
        compares: tuple[Compare, ...],
        then: tuple[Operation, ...],
        otherwise: tuple[Operation, ...],
        done: Done,
    ) -> bool:
        """See ``platformd.coordination.sqlite.SqliteStore.txn_soon``."""

        def told(what: outcome.Value[TxnResult] | outcome.Error) -> None:
            done(outcome.capture(self._unwrapped, what))

        with self.own_words:
            return self._quick.txn_soon(*self._inside(compares, then, otherwise), told)

    def _unwrapped(self, what: outcome.Value[TxnResult] | outcome.Error) -> TxnResult:
        with self.own_words:
            return self._outside(what.unwrap())


class _Batches:
    def __init__(self, namespace: Namespace, batches: AsyncIterator[WatchBatch]) -> None:
        self._namespace = namespace
        self._batches = batches

    def __aiter__(self) -> _Batches:
        return self

    async def __anext__(self) -> WatchBatch:
        return self._namespace.batch(await anext(self._batches))


class _Leases:
    """The leases of the whole store, with the keys of a namespace."""

    def __init__(self, namespace: Namespace, store: Store) -> None:
        self._namespace = namespace
        self._store = store

    async def grant(self, ttl: float, *, lease_id: int = 0) -> Lease:
        """See ``Leases.grant``."""
        return await self._store.leases.grant(ttl, lease_id=lease_id)

    async def keep_alive(self, lease_id: int) -> Lease:
        """See ``Leases.keep_alive``."""
        return self._namespace.lease(await self._store.leases.keep_alive(lease_id))

    async def revoke(self, lease_id: int) -> int:
        """See ``Leases.revoke``.

        Raises:
            Forbidden: it holds keys that are not in here.
        """
        lease = await self._store.leases.get(lease_id)
        if len(self._namespace.lease(lease).keys) != len(lease.keys):
            raise Forbidden("it holds what is not yours to delete", subject=f"lease {lease_id:x}")
        return await self._store.leases.revoke(lease_id)

    async def get(self, lease_id: int) -> Lease:
        """See ``Leases.get``."""
        return self._namespace.lease(await self._store.leases.get(lease_id))

    async def list(self) -> tuple[Lease, ...]:
        """See ``Leases.list``."""
        return await self._store.leases.list()
