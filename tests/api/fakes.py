"""A Store and Streams in memory, with what the API needs of their contracts, and a context over them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import trio

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
from platformd.core.errors import Conflict, NotFound
from platformd.core.ids import uuid7
from platformd.core.settings import Settings, load
from platformd.model.kinds import KINDS
from platformd.model.subjects import subject_matches
from platformd.queues.contract import (
    ConsumerConfig,
    ConsumerInfo,
    Delivery,
    Published,
    Record,
    StreamConfig,
    StreamInfo,
)


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
        self, key: bytes, end: bytes | None, *, revision: int = 0, limit: int = 0, keys_only: bool = False
    ) -> Listing:
        await trio.lowlevel.checkpoint()
        if self.broken is not None:
            raise self.broken
        found = [self._keys[k] for k in sorted(self._keys) if k >= key and (end is None or k < end)]
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
            yield self._batches(key, end, start)
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


class MemoryStreams:
    """The Streams contract as far as the API uses it."""

    addresses = {"ingest": "ipc:///ingest", "fetch": "ipc:///fetch"}

    def __init__(self) -> None:
        self._configs: dict[str, StreamConfig] = {}
        self._records: dict[str, list[Record]] = {}
        self._consumers: dict[str, dict[str, ConsumerConfig]] = {}

    async def put_stream(self, name: str, config: StreamConfig) -> StreamInfo:
        await trio.lowlevel.checkpoint()
        self._configs[name] = config
        self._records.setdefault(name, [])
        self._consumers.setdefault(name, {})
        return self.stream(name)

    def streams(self) -> tuple[StreamInfo, ...]:
        return tuple(self.stream(name) for name in sorted(self._configs))

    def stream(self, name: str) -> StreamInfo:
        if name not in self._configs:
            raise NotFound("there is no such stream", subject=f"stream/{name}")
        records = self._records[name]
        return StreamInfo(
            name=name,
            config=self._configs[name],
            messages=len(records),
            bytes=sum(len(r.payload) for r in records),
            first_sequence=1,
            last_sequence=len(records),
            consumers=len(self._consumers[name]),
        )

    async def publish(
        self,
        records: Sequence[Record],
        *,
        stream: str = "",
        durability: str = "fsync",
        expect_last_sequence: int | None = None,
    ) -> Published:
        await trio.lowlevel.checkpoint()
        self.stream(stream)
        kept = self._records[stream]
        (record,) = records
        if record.msg_id and any((r.subject, r.msg_id) == (record.subject, record.msg_id) for r in kept):
            return Published(stream=stream, first_sequence=0, appended=0, duplicates=(0,))
        kept.append(record)
        return Published(stream=stream, first_sequence=len(kept), appended=1)

    async def read(self, stream: str, *, after: int = 0, limit: int = 100, subject: str = ">") -> tuple[Delivery, ...]:
        await trio.lowlevel.checkpoint()
        self.stream(stream)
        found = [
            Delivery(
                sequence=i,
                subject=r.subject,
                payload=r.payload,
                msg_id=r.msg_id,
                headers=r.headers,
                time_ns=r.time_ns,
                append_time_ns=r.time_ns,
                deliveries=0,
            )
            for i, r in enumerate(self._records[stream], 1)
            if i > after and subject_matches(subject, r.subject)
        ]
        return tuple(found[:limit])

    async def put_consumer(self, stream: str, name: str, config: ConsumerConfig) -> ConsumerInfo:
        await trio.lowlevel.checkpoint()
        self.stream(stream)
        before = self._consumers[stream].get(name)
        if before is not None and before.filter_subject != config.filter_subject:
            raise Conflict("is there with another filter", subject=f"consumer/{name}")
        self._consumers[stream][name] = config
        return self._info(stream, name)

    async def delete_consumer(self, stream: str, name: str) -> None:
        await trio.lowlevel.checkpoint()
        self.stream(stream)
        if self._consumers[stream].pop(name, None) is None:
            raise NotFound("there is no such consumer", subject=f"consumer/{name}")

    def consumers(self, stream: str) -> tuple[ConsumerInfo, ...]:
        self.stream(stream)
        return tuple(self._info(stream, name) for name in sorted(self._consumers[stream]))

    def _info(self, stream: str, name: str) -> ConsumerInfo:
        return ConsumerInfo(
            stream=stream,
            name=name,
            config=self._consumers[stream][name],
            ack_floor=0,
            delivered_sequence=0,
            pending=len(self._records[stream]),
            ack_pending=0,
            redelivered=0,
            exhausted=0,
            stalled=0,
            waiting=0,
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
        settings=settings,
        clock=clock,
        state=lambda: "running",
        started_ns=clock.time_ns(),
        sockets=MemoryStreams.addresses,
        stopping=trio.Event(),
        node_name="here",
    )
