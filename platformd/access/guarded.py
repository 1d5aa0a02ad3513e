"""A store through which one principal touches only what it may.

Every door that hands out keys hands them out through this, so that there is one check for all of them, and none that a
route can forget. Who may touch every key gets the store itself: nothing is checked twice on the quick way.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any, Final, Literal, Protocol, cast, runtime_checkable

from platformd.coordination.contract import (
    Compare,
    EventType,
    Get,
    KeyValue,
    Lease,
    Leases,
    Listing,
    Operation,
    Order,
    Put,
    Snapshot,
    Store,
    StoreStatus,
    TxnResult,
    WatchBatch,
)
from platformd.core.errors import NotFound
from platformd.model.access import SCOPES, Principal, Scope, allowed, check, key_spaces, may_touch, refusal

Family = Literal["kv", "locks"]
"""Which operations stand for touching keys."""

_EVERYTHING: Final = ("kv.write", "leases.write", "locks.write", "store.manage")


@runtime_checkable
class _Quick(Protocol):
    def txn_soon(self, compares: Any, then: Any, otherwise: Any, done: Callable[[Any], None]) -> bool: ...


def guarded(store: Store, principal: Principal, family: Family = "kv") -> Store:
    """``store`` as far as ``principal`` may touch it.

    Args:
        store: the users' part of the daemon's store.
        principal: who asks.
        family: whether keys are asked for as such, or as the places of locks.
    """
    if all(allowed(principal, operation, scope) for operation in _EVERYTHING for scope in SCOPES):
        return store
    return (_QuickGuarded if isinstance(store, _Quick) else Guarded)(store, principal, family)


def check_readable(store: Store, key: bytes, end: bytes | None) -> None:
    """See that all keys in [key, end) of a store from ``guarded`` may be read, before anything is begun.

    Raises:
        Unauthorized, Forbidden: they may not.
    """
    if isinstance(store, Guarded):
        store.check_readable(key, end)


class Guarded:
    """See ``guarded``. What is refused raises ``Forbidden``, or ``Unauthorized`` for who is not known."""

    def __init__(self, store: Store, principal: Principal, family: Family) -> None:
        self._store, self._principal = store, principal
        self._reads, self._writes = f"{family}.read", f"{family}.write"
        self.leases: Leases = _Leases(store.leases, principal)
        self.bound = principal.tenant is not None

    def _check(self, operation: str, key: bytes, end: bytes | None) -> None:
        if not may_touch(self._principal, operation, key, end):
            raise self._refusal(operation, key, end)

    def check_readable(self, key: bytes, end: bytes | None) -> None:
        """See that all keys in [key, end) may be read."""
        self._check(self._reads, key, end)

    def _refusal(self, operation: str, key: bytes, end: bytes | None) -> Exception:
        principal = self._principal
        error = refusal(principal, operation, self._scope(operation), key.decode(errors="replace"))
        if principal.tenant is not None and allowed(principal, operation, "own"):
            spaces = key_spaces(principal.tenant)
            inside = any(key.startswith(space) for space in spaces)
            what = "the range goes beyond" if inside and end is not None else "this is outside"
            error.message = f"{what} the keys of tenant {principal.tenant}"
            error.hint = f"they begin with {spaces[0].decode()}; names of locks and elections do, too"
        return error

    def _scope(self, operation: str) -> Scope:
        return "other" if allowed(self._principal, operation, "global") else "global"

    async def get(self, key: bytes, *, revision: int = 0) -> KeyValue | None:
        """See ``Store.get``."""
        self._check(self._reads, key, key + b"\x00")
        return await self._store.get(key, revision=revision)

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
        self._check(self._reads, key, end)
        return await self._store.list(
            key, end, revision=revision, limit=limit, keys_only=keys_only, count_only=count_only, order=order
        )

    async def txn(
        self, compares: Sequence[Compare], then: Sequence[Operation], otherwise: Sequence[Operation] = ()
    ) -> TxnResult:
        """See ``Store.txn``; one without puts and deletes is a read."""
        self.check_txn(compares, then, otherwise)
        if self.bound:
            for lease_id in {one.lease for one in (*then, *otherwise) if isinstance(one, Put) and one.lease}:
                await self.leases.get(lease_id)  # one that holds others' keys is not there for this principal
        return await self._store.txn(compares, then, otherwise)

    def check_txn(self, compares: Sequence[Compare], then: Sequence[Operation], otherwise: Sequence[Operation]) -> None:
        """See that every key of a transaction may be touched."""
        for compare in compares:
            self._check(self._reads, compare.key, compare.key + b"\x00")
        for operation in (*then, *otherwise):
            end = None if isinstance(operation, Put) else operation.end
            wanted = self._reads if isinstance(operation, Get) else self._writes
            self._check(wanted, operation.key, operation.key + b"\x00" if end is None else end)
            if not isinstance(operation, Get):
                # What a write did tells what was there.
                self._check(self._reads, operation.key, operation.key + b"\x00" if end is None else end)

    def watch(
        self,
        key: bytes,
        end: bytes | None,
        *,
        start_revision: int = 0,
        previous: bool = False,
        only: EventType | None = None,
    ) -> AbstractAsyncContextManager[AsyncIterator[WatchBatch]]:
        """See ``Store.watch``."""
        self._check(self._reads, key, end)
        return self._store.watch(key, end, start_revision=start_revision, previous=previous, only=only)

    async def compact(self, revision: int) -> None:
        """See ``Store.compact``."""
        check(self._principal, "store.manage", None, "store")
        await self._store.compact(revision)

    async def snapshot(self, path: Path) -> Snapshot:
        """See ``Store.snapshot``."""
        check(self._principal, "backup", None, "store")
        return await self._store.snapshot(path)

    async def status(self) -> StoreStatus:
        """See ``Store.status``."""
        check(self._principal, "store.read", None, "store")
        return await self._store.status()


class _QuickGuarded(Guarded):
    """The same of a store that does transactions without a task that waits for each."""

    def txn_soon(
        self,
        compares: tuple[Compare, ...],
        then: tuple[Operation, ...],
        otherwise: tuple[Operation, ...],
        done: Callable[[Any], None],
    ) -> bool:
        """See ``platformd.coordination.sqlite.SqliteStore.txn_soon``; not for leases, which are looked at first."""
        self.check_txn(compares, then, otherwise)
        if self.bound and any(isinstance(one, Put) and one.lease for one in (*then, *otherwise)):
            return False
        return cast("_Quick", self._store).txn_soon(compares, then, otherwise, done)


class _Leases:
    """Leases: to a tenant's principal one that holds keys of others is not there, and nobody lists all.

    One that holds no keys is anybody's who knows its id, which is a number of 63 bits that the store draws.
    """

    def __init__(self, leases: Leases, principal: Principal) -> None:
        self._leases, self._principal = leases, principal

    def _check(self, operation: str) -> None:
        scope: Scope = "own" if self._principal.tenant is not None else "global"
        if not allowed(self._principal, operation, scope):
            raise refusal(self._principal, operation, scope, "lease")

    async def grant(self, ttl: float, *, lease_id: int = 0) -> Lease:
        """See ``Leases.grant``."""
        self._check("leases.write")
        return await self._leases.grant(ttl, lease_id=lease_id)

    async def keep_alive(self, lease_id: int) -> Lease:
        """See ``Leases.keep_alive``."""
        await self._own("leases.write", lease_id)
        return await self._leases.keep_alive(lease_id)

    async def revoke(self, lease_id: int) -> int:
        """See ``Leases.revoke``."""
        await self._own("leases.write", lease_id)
        return await self._leases.revoke(lease_id)

    async def get(self, lease_id: int) -> Lease:
        """See ``Leases.get``."""
        return await self._own("leases.read", lease_id)

    async def list(self) -> tuple[Lease, ...]:
        """See ``Leases.list``."""
        self._check("leases.read")
        if self._principal.tenant is not None:
            error = refusal(self._principal, "leases.read", "other", "leases")
            error.hint = "leases are listed all together; ask for one by its id"
            raise error
        return await self._leases.list()

    async def _own(self, operation: str, lease_id: int) -> Lease:
        self._check(operation)
        lease = await self._leases.get(lease_id)
        if not all(may_touch(self._principal, "kv.read", key, key + b"\x00") for key in lease.keys):
            raise NotFound("there is no such lease", subject=f"lease {lease_id:x}")
        return lease
