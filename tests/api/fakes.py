"""A Store and Streams in memory, with what the API needs of their contracts, and a context over them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any

import trio

from platformd.access import Gate
from platformd.api.context import ApiContext
from platformd.conductor import Conductor
from platformd.coordination.contract import (
    Compacted,
    Compare,
    Delete,
    DeleteResult,
    Event,
    Get,
    GetResult,
    KeyValue,
    Listing,
    Operation,
    Put,
    PutResult,
    StoreStatus,
    TxnResult,
    WatchBatch,
)
from platformd.core.clock import SystemClock
from platformd.core.ids import uuid7
from platformd.core.settings import Settings, load
from platformd.model.kinds import KINDS
from tests.api.fake_streams import MemoryStreams


class MemoryStore:
    """The Store contract without leases, in a dict."""

    def __init__(self) -> None:
        self.revision = 0
        self.compacted = 0
        self.watchers = 0
        self.broken: Exception | None = None
        """Raised by every read, when set."""
        self._keys: dict[bytes, KeyValue] = {}
        self._log: list[Event] = []
        self._changed = trio.Event()

    async def get(self, key: bytes, *, revision: int = 0) -> KeyValue | None:
        await trio.lowlevel.checkpoint()
        if self.broken is not None:
            raise self.broken
        return self._keys.get(key)

    async def list(
        self,
        key: bytes,
        end: bytes | None,
        *,
        revision: int = 0,
        limit: int = 0,
        keys_only: bool = False,
        order: str = "key",
    ) -> Listing:
        await trio.lowlevel.checkpoint()
        if self.broken is not None:
            raise self.broken
        found = [self._keys[k] for k in sorted(self._keys) if k >= key and (end is None or k < end)]
        found.sort(key=lambda kv: kv.mod_revision if order.endswith("mod_revision") else 0)
        found = found[::-1] if order.startswith("-") else found
        more = bool(limit) and len(found) > limit
        items = tuple(found[:limit] if limit else found)
        return Listing(items=items, revision=self.revision, more=more, count=len(found))

    async def txn(
        self, compares: Sequence[Compare], then: Sequence[Operation], otherwise: Sequence[Operation] = ()
    ) -> TxnResult:
        await trio.lowlevel.checkpoint()
        succeeded = all(self._holds(compare) for compare in compares)
        branch = then if succeeded else otherwise
        if any(isinstance(operation, Put | Delete) for operation in branch):
            self.revision += 1
        results = tuple(self._do(operation) for operation in branch)
        self._changed.set()
        self._changed = trio.Event()
        return TxnResult(succeeded=succeeded, revision=self.revision, results=results)

    def _holds(self, compare: Compare) -> bool:
        found = self._keys.get(compare.key)
        value = getattr(found, compare.target) if found else 0
        assert compare.operator == "=="
        return bool(value == compare.operand)

    def _do(self, operation: Operation) -> Any:
        before = self._keys.get(operation.key)
        if isinstance(operation, Get):
            return GetResult((before,) if before else ())
        if isinstance(operation, Put):
            kv = KeyValue(
                key=operation.key,
                value=operation.value,
                create_revision=before.create_revision if before else self.revision,
                mod_revision=self.revision,
                version=before.version + 1 if before else 1,
            )
            self._keys[operation.key] = kv
            self._log.append(Event(type="put", kv=kv, previous=before))
            return PutResult(before)
        if before is None:
            return DeleteResult(0)
        del self._keys[operation.key]
        gone = KeyValue(key=operation.key, value=b"", create_revision=0, mod_revision=self.revision, version=0)
        self._log.append(Event(type="delete", kv=gone, previous=before))
        return DeleteResult(1, (before,))

    @asynccontextmanager
    async def watch(
        self, key: bytes, end: bytes | None, *, start_revision: int = 0, previous: bool = False
    ) -> AsyncIterator[AsyncIterator[WatchBatch]]:
        await trio.lowlevel.checkpoint()
        start = start_revision or self.revision + 1
        if start <= self.compacted:
            raise Compacted(start, self.compacted + 1)
        self.watchers += 1
        try:
            async with aclosing(self._batches(key, end, start)) as batches:
                yield batches
        finally:
            self.watchers -= 1

    async def _batches(self, key: bytes, end: bytes | None, start: int) -> AsyncIterator[WatchBatch]:
        yield WatchBatch(revision=start - 1)
        while True:
            changed = self._changed
            events = tuple(
                e
                for e in self._log
                if e.kv.mod_revision >= start and e.kv.key >= key and (end is None or e.kv.key < end)
            )
            reached = self.revision
            if reached >= start:
                yield WatchBatch(revision=reached, events=events)
            start = reached + 1
            await changed.wait()

    async def status(self) -> StoreStatus:
        await trio.lowlevel.checkpoint()
        return StoreStatus(
            engine="memory",
            revision=self.revision,
            compact_revision=self.compacted + 1,
            keys=len(self._keys),
            leases=0,
            watchers=self.watchers,
            size_bytes=0,
        )


def make_settings(directory: Path, **http: Any) -> Settings:
    """Settings for a server of its own below ``directory``; keywords go into the section ``http``."""
    return load(
        overrides={
            "daemon": {"state_dir": str(directory), "socket": str(directory / "s.sock"), "socket_mode": "0600"},
            "http": http,
        }
    )


def make_context(settings: Settings, given: Any | None = None) -> ApiContext:
    """A context over things in memory (or over the store ``given``)."""
    clock = SystemClock()
    store: Any = MemoryStore() if given is None else given
    return ApiContext(
        conductor=Conductor(store, clock, uuid7(clock), KINDS),
        streams=MemoryStreams(),  # type: ignore[arg-type]
        store=store,
        gate=Gate(settings.access, store, clock),
        settings=settings,
        clock=clock,
        state=lambda: "running",
        started_ns=clock.time_ns(),
        sockets=MemoryStreams.addresses,
        stopping=trio.Event(),
        node_name="here",
        stop=lambda: None,
    )
