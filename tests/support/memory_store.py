"""The whole Store contract in memory, on trio's clock: leases end and delays pass as a test's clock says.

What is asked may be delayed and may fail: ``pause`` is awaited before and after everything that is done, so that
a test can put any order and any loss between asking and hearing.
"""

from __future__ import annotations

import itertools
import math
import operator
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any

import trio

from platformd.coordination.contract import (
    Compacted,
    Compare,
    DeleteResult,
    Event,
    FutureRevision,
    Get,
    GetResult,
    KeyValue,
    Lease,
    Listing,
    Operation,
    Put,
    PutResult,
    StoreStatus,
    TxnResult,
    WatchBatch,
)
from platformd.core.errors import Conflict, InvalidInput, NotFound, Unsupported

OPERATORS: dict[str, Callable[[Any, Any], bool]] = {
    "==": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    ">": operator.gt,
}


async def at_once(_what: str) -> None:
    """No delay but trio's own."""
    await trio.lowlevel.checkpoint()


class MemoryStore:
    """A Store in a dict. Leases end when ``run_leases`` runs beside it."""

    def __init__(self, pause: Callable[[str], Awaitable[None]] = at_once) -> None:
        self.pause = pause
        self.revision = 1
        self.compacted = 1
        """The oldest revision that can be read."""
        self.watchers = 0
        self.keys: dict[bytes, KeyValue] = {}
        self.history: list[Event] = []
        self.leases = MemoryLeases(self)
        self.changed = trio.Event()

    # --- reads ---

    async def get(self, key: bytes, *, revision: int = 0) -> KeyValue | None:
        await self.pause("get")
        found = self._at(revision).get(key)
        await self.pause("got")
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
        order: str = "key",
    ) -> Listing:
        await self.pause("list")
        state = self._at(revision)
        found = [state[k] for k in sorted(state) if k >= key and (end is None or k < end)]
        if order.endswith("mod_revision"):
            found.sort(key=lambda kv: kv.mod_revision)
        if order.startswith("-"):
            found.reverse()
        items = [] if count_only else found[: limit or None]
        if keys_only:
            items = [self._without_value(kv) for kv in items]
        listing = Listing(
            items=tuple(items), revision=revision or self.revision, more=len(items) < len(found), count=len(found)
        )
        await self.pause("listed")
        return listing

    def _without_value(self, kv: KeyValue) -> KeyValue:
        return KeyValue(
            key=kv.key, value=b"", create_revision=kv.create_revision, mod_revision=kv.mod_revision,
            version=kv.version, lease=kv.lease,
        )  # fmt: skip

    def _at(self, revision: int) -> dict[bytes, KeyValue]:
        if revision > self.revision:
            raise FutureRevision(f"revision {revision} is not there yet", subject="store")
        if revision and revision < self.compacted:
            raise Compacted(revision, self.compacted)
        if revision in (0, self.revision):
            return self.keys
        state: dict[bytes, KeyValue] = {}
        for event in self.history:
            if event.kv.mod_revision <= revision:
                state[event.kv.key] = event.kv
        return {key: kv for key, kv in state.items() if kv.version}

    # --- writes ---

    async def txn(
        self, compares: Sequence[Compare], then: Sequence[Operation], otherwise: Sequence[Operation] = ()
    ) -> TxnResult:
        await self.pause("txn")
        succeeded = all(self._holds(compare) for compare in compares)
        branch = then if succeeded else otherwise
        puts = [one.key for one in branch if isinstance(one, Put)]
        if len(set(puts)) < len(puts):
            raise InvalidInput("a key is changed twice in one transaction", subject="transaction")
        for one in branch:
            if isinstance(one, Put) and one.lease:
                self.leases.alive(one.lease)
        before = self.revision
        results = tuple([self._do(one, before + 1) for one in branch])
        self._announce()
        result = TxnResult(succeeded=succeeded, revision=self.revision, results=results)
        await self.pause("done")
        return result

    def _announce(self) -> None:
        self.changed.set()
        self.changed = trio.Event()

    def _holds(self, compare: Compare) -> bool:
        found = self.keys.get(compare.key)
        if found is None and compare.target == "value":
            return False
        return OPERATORS[compare.operator](getattr(found, compare.target) if found else 0, compare.operand)

    def _do(self, one: Operation, revision: int) -> Any:
        if isinstance(one, Put):
            before = self.keys.get(one.key)
            kv = KeyValue(
                key=one.key,
                value=one.value,
                create_revision=before.create_revision if before else revision,
                mod_revision=revision,
                version=before.version + 1 if before else 1,
                lease=one.lease,
            )
            self._change(kv, before)
            return PutResult(before)
        end = one.key + b"\x00" if one.end is None else one.end
        found = tuple(self.keys[k] for k in sorted(self.keys) if one.key <= k < end)
        if isinstance(one, Get):
            return GetResult(found)
        for kv in found:
            self.remove(kv.key, revision)
        return DeleteResult(len(found), found)

    def remove(self, key: bytes, revision: int) -> None:
        gone = KeyValue(key=key, value=b"", create_revision=0, mod_revision=revision, version=0)
        self._change(gone, self.keys[key])

    def _change(self, kv: KeyValue, before: KeyValue | None) -> None:
        self.revision = kv.mod_revision
        if kv.version:
            self.keys[kv.key] = kv
        else:
            del self.keys[kv.key]
        self.history.append(Event(type="put" if kv.version else "delete", kv=kv, previous=before))

    def end_lease(self, lease_id: int) -> int:
        """What the end of a lease does to its keys."""
        keys = [key for key, kv in self.keys.items() if kv.lease == lease_id]
        revision = self.revision + 1
        for key in sorted(keys):
            self.remove(key, revision)
        self._announce()
        return len(keys)

    # --- watches ---

    @asynccontextmanager
    async def watch(
        self,
        key: bytes,
        end: bytes | None,
        *,
        start_revision: int = 0,
        previous: bool = False,
        only: str | None = None,
    ) -> AsyncIterator[AsyncIterator[WatchBatch]]:
        await self.pause("watch")
        start = start_revision or self.revision + 1
        if start < self.compacted:
            raise Compacted(start, self.compacted)
        if start > self.revision + 1:
            raise FutureRevision(f"cannot watch from {start}", subject="store")
        self.watchers += 1

        def wanted(event: Event) -> bool:
            inside = event.kv.key >= key and (end is None or event.kv.key < end)
            return inside and only in (None, event.type)

        try:
            async with aclosing(self._batches(wanted, start, previous=previous)) as batches:
                yield batches
        finally:
            self.watchers -= 1

    async def _batches(
        self, wanted: Callable[[Event], bool], start: int, *, previous: bool
    ) -> AsyncGenerator[WatchBatch, None]:
        yield WatchBatch(revision=start - 1)
        while True:
            changed = self.changed
            await self.pause("batch")
            if self.revision >= start:
                if start < self.compacted:
                    raise Compacted(start, self.compacted)
                found = [e for e in self.history if e.kv.mod_revision >= start and wanted(e)]
                events = found if previous else [Event(type=e.type, kv=e.kv) for e in found]
                start = self.revision + 1
                if events:
                    yield WatchBatch(revision=start - 1, events=tuple(events))
                    continue
            await changed.wait()

    # --- the rest ---

    async def compact(self, revision: int) -> None:
        await trio.lowlevel.checkpoint()
        self.compacted = revision

    async def snapshot(self, path: Path) -> Any:
        raise Unsupported("memory has no file", subject=str(path))

    async def status(self) -> StoreStatus:
        await trio.lowlevel.checkpoint()
        return StoreStatus(
            engine="memory", revision=self.revision, compact_revision=self.compacted, keys=len(self.keys),
            leases=len(self.leases.deadlines), watchers=self.watchers, size_bytes=0,
        )  # fmt: skip


class MemoryLeases:
    """Leases on trio's clock."""

    def __init__(self, store: MemoryStore) -> None:
        self._store = store
        self._ids = itertools.count(1)
        self.ttls: dict[int, float] = {}
        self.deadlines: dict[int, float] = {}

    def alive(self, lease_id: int) -> None:
        self._expire()
        if lease_id not in self.deadlines:
            raise NotFound("it ended or was never granted", subject=f"lease {lease_id:x}")

    def _expire(self) -> None:
        for lease_id, deadline in sorted(self.deadlines.items()):
            if deadline <= trio.current_time():
                del self.deadlines[lease_id], self.ttls[lease_id]
                self._store.end_lease(lease_id)

    async def run(self) -> None:
        """End leases when they are due."""
        while True:
            self._expire()
            with trio.move_on_at(min(self.deadlines.values(), default=math.inf)):
                await self._store.changed.wait()

    async def grant(self, ttl: float, *, lease_id: int = 0) -> Lease:
        await self._store.pause("grant")
        if lease_id in self.deadlines:
            raise Conflict("it is there", subject=f"lease {lease_id:x}")
        lease_id = lease_id or next(self._ids)
        self.ttls[lease_id], self.deadlines[lease_id] = ttl, trio.current_time() + ttl
        self._store.changed.set()
        self._store.changed = trio.Event()
        lease = self._lease(lease_id)
        await self._store.pause("granted")
        return lease

    def _lease(self, lease_id: int, *, keys: bool = False) -> Lease:
        bound = tuple(sorted(k for k, kv in self._store.keys.items() if kv.lease == lease_id)) if keys else ()
        remaining = self.deadlines[lease_id] - trio.current_time()
        return Lease(id=lease_id, ttl=self.ttls[lease_id], remaining=remaining, keys=bound)

    async def keep_alive(self, lease_id: int) -> Lease:
        await self._store.pause("keep")
        self.alive(lease_id)
        self.deadlines[lease_id] = trio.current_time() + self.ttls[lease_id]
        lease = self._lease(lease_id)
        await self._store.pause("kept")
        return lease

    async def revoke(self, lease_id: int) -> int:
        await self._store.pause("revoke")
        self.alive(lease_id)
        del self.deadlines[lease_id], self.ttls[lease_id]
        deleted = self._store.end_lease(lease_id)
        await self._store.pause("revoked")
        return deleted

    async def get(self, lease_id: int) -> Lease:
        await self._store.pause("lease")
        self.alive(lease_id)
        return self._lease(lease_id, keys=True)

    async def list(self) -> tuple[Lease, ...]:
        await self._store.pause("leases")
        self._expire()
        return tuple(self._lease(lease_id) for lease_id in sorted(self.deadlines))
