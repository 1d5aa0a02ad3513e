"""The Streams contract in memory, as far as the API uses it."""

from __future__ import annotations

from collections.abc import Sequence

import trio

from platformd.core.errors import Conflict, NotFound
from platformd.model.subjects import subject_matches
from platformd.queues.contract import (
    Ack,
    ConsumerConfig,
    ConsumerInfo,
    DeliverPolicy,
    Delivery,
    Published,
    Record,
    StreamConfig,
    StreamInfo,
)


class MemoryConsumer:
    """A cursor: what comes next, and what is out."""

    def __init__(self, config: ConsumerConfig) -> None:
        self.config = config
        self.next = 1
        self.out: dict[int, int] = {}
        """Deliveries of what is neither acknowledged nor given up, by sequence."""
        self.again: list[int] = []


class MemoryStreams:
    """An engine in memory. ``hidden`` records are appended and cannot be read yet, as while a disk is written to."""

    addresses = {"ingest": "ipc:///ingest", "fetch": "ipc:///fetch"}

    def __init__(self) -> None:
        self._configs: dict[str, StreamConfig] = {}
        self._records: dict[str, dict[int, Record]] = {}
        self._last: dict[str, int] = {}
        self._consumers: dict[str, dict[str, MemoryConsumer]] = {}
        self._changed = trio.Event()
        self._hidden: set[int] = set()
        self.reads: list[tuple[int, str]] = []
        """After what and for which subject records were read."""
        self.acks: list[Ack] = []
        self.calls: list[tuple[object, ...]] = []
        self.waiting = 0
        """Fetches that wait now."""

    @property
    def hidden(self) -> set[int]:
        """Sequences that cannot be read yet."""
        return self._hidden

    @hidden.setter
    def hidden(self, sequences: set[int]) -> None:
        self._hidden = sequences
        self._wake()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = trio.Event()

    async def wait(self, stream: str, after: int) -> int:
        await trio.lowlevel.checkpoint()
        while True:
            self.stream(stream)
            visible = min(self.hidden, default=self._last[stream] + 1) - 1
            if visible > after:
                return visible
            await self._changed.wait()

    async def put_stream(self, name: str, config: StreamConfig) -> StreamInfo:
        await trio.lowlevel.checkpoint()
        self._configs[name] = config
        self._records.setdefault(name, {})
        self._last.setdefault(name, 0)
        self._consumers.setdefault(name, {})
        return self.stream(name)

    async def delete_stream(self, name: str) -> None:
        await trio.lowlevel.checkpoint()
        for of in (self._configs, self._records, self._last, self._consumers):
            of.pop(name, None)
        self._wake()

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
            bytes=sum(len(r.payload) for r in records.values()),
            first_sequence=min(records, default=self._last[name] + 1),
            last_sequence=self._last[name],
            consumers=len(self._consumers[name]),
        )

    async def publish(
        self,
        records: Sequence[Record],
        *,
        stream: str = "",
        durability: str = "fsync",
        expect_last_sequence: int | None = None,
        expect_last_subject_sequence: int | None = None,
    ) -> Published:
        await trio.lowlevel.checkpoint()
        self.stream(stream)
        self.calls.append(("publish", durability, expect_last_sequence, expect_last_subject_sequence))
        kept, duplicates, first = self._records[stream], [], self._last[stream] + 1
        for i, record in enumerate(records):
            if record.msg_id and any((r.subject, r.msg_id) == (record.subject, record.msg_id) for r in kept.values()):
                duplicates.append(i)
            else:
                self._last[stream] += 1
                kept[self._last[stream]] = record
        self._wake()
        appended = len(records) - len(duplicates)
        return Published(
            stream=stream, first_sequence=first if appended else 0, appended=appended, duplicates=tuple(duplicates)
        )

    async def read(self, stream: str, *, after: int = 0, limit: int = 100, subject: str = ">") -> tuple[Delivery, ...]:
        await trio.lowlevel.checkpoint()
        self.stream(stream)
        self.reads.append((after, subject))
        visible = min(self.hidden, default=self._last[stream] + 1)
        found = [
            self._delivery(sequence, record, 0)
            for sequence, record in self._records[stream].items()
            if after < sequence < visible and subject_matches(subject, record.subject)
        ]
        return tuple(found[:limit])

    @staticmethod
    def _delivery(sequence: int, record: Record, deliveries: int) -> Delivery:
        return Delivery(
            sequence=sequence,
            subject=record.subject,
            payload=record.payload,
            msg_id=record.msg_id,
            headers=record.headers,
            time_ns=record.time_ns,
            append_time_ns=record.time_ns,
            deliveries=deliveries,
        )

    async def purge(self, stream: str, *, subject: str = ">", before: int = 0, keep: int = 0) -> int:
        await trio.lowlevel.checkpoint()
        self.stream(stream)
        records = self._records[stream]
        matching = [s for s, r in records.items() if subject_matches(subject, r.subject) and (not before or s < before)]
        gone = matching[: len(matching) - keep] if keep else matching
        for sequence in gone:
            del records[sequence]
        return len(gone)

    async def put_consumer(self, stream: str, name: str, config: ConsumerConfig) -> ConsumerInfo:
        await trio.lowlevel.checkpoint()
        self.stream(stream)
        before = self._consumers[stream].get(name)
        if before is None:
            self._consumers[stream][name] = MemoryConsumer(config)
        elif before.config.filter_subject != config.filter_subject:
            raise Conflict("is there with another filter", subject=f"consumer/{name}")
        else:
            before.config = config
        return self._info(stream, name)

    async def delete_consumer(self, stream: str, name: str) -> None:
        await trio.lowlevel.checkpoint()
        self._consumer(stream, name)
        del self._consumers[stream][name]

    async def seek(
        self, stream: str, consumer: str, policy: DeliverPolicy, *, sequence: int = 1, time_ns: int = 0
    ) -> ConsumerInfo:
        await trio.lowlevel.checkpoint()
        found = self._consumer(stream, consumer)
        self.calls.append(("seek", stream, consumer, policy, sequence, time_ns))
        found.next = {"all": 1, "new": self._last[stream] + 1}.get(policy, sequence)
        found.out.clear()
        return self._info(stream, consumer)

    async def fetch(
        self, stream: str, consumer: str, *, max_records: int = 256, max_bytes: int = 1 << 20, wait: float = 0.0
    ) -> tuple[Delivery, ...]:
        found = self._consumer(stream, consumer)
        taken: list[Delivery] = []
        self.waiting += 1
        try:
            with trio.move_on_after(wait):
                while not (taken := self._take(stream, found, max_records, max_bytes)) and wait:
                    await self._changed.wait()
        finally:
            self.waiting -= 1
        await trio.lowlevel.cancel_shielded_checkpoint()
        return tuple(taken)

    def _take(self, stream: str, found: MemoryConsumer, max_records: int, max_bytes: int) -> list[Delivery]:
        fresh = [s for s in self._records[stream] if s >= found.next]
        taken, size = list[Delivery](), 0
        for sequence in (found.again + fresh)[:max_records]:
            record = self._records[stream][sequence]
            size += len(record.payload)
            if taken and size > max_bytes:
                break
            found.out[sequence] = found.out.get(sequence, 0) + 1
            found.next = max(found.next, sequence + 1)
            taken.append(self._delivery(sequence, record, found.out[sequence]))
        found.again = [s for s in found.again if s not in {d.sequence for d in taken}]
        return taken

    async def ack(self, stream: str, consumer: str, acks: Sequence[Ack]) -> int:
        await trio.lowlevel.checkpoint()
        found = self._consumer(stream, consumer)
        self.acks += acks
        known = [a for a in acks if a.sequence in found.out]
        for ack in known:
            if ack.kind == "nak":
                found.again.append(ack.sequence)
            elif ack.kind != "in_progress":
                del found.out[ack.sequence]
        return len(known)

    def consumers(self, stream: str) -> tuple[ConsumerInfo, ...]:
        self.stream(stream)
        return tuple(self._info(stream, name) for name in sorted(self._consumers[stream]))

    def _consumer(self, stream: str, name: str) -> MemoryConsumer:
        self.stream(stream)
        if name not in self._consumers[stream]:
            raise NotFound("there is no such consumer", subject=f"consumer/{name}")
        return self._consumers[stream][name]

    def _info(self, stream: str, name: str) -> ConsumerInfo:
        found = self._consumers[stream][name]
        return ConsumerInfo(
            stream=stream,
            name=name,
            config=found.config,
            ack_floor=0,
            delivered_sequence=found.next - 1,
            pending=sum(s >= found.next for s in self._records[stream]),
            ack_pending=len(found.out),
            redelivered=0,
            exhausted=0,
            stalled=0,
            waiting=0,
        )
