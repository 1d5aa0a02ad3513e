"""Publishing a batch: its records in one write, in order, and their acknowledgements collected.

JetStream acknowledges each record by itself. The bytes of a batch stand together in the one connection, so its records
get consecutive sequences unless a program beside platformd publishes in between. An expectation must hold for the batch
as a whole, and so must a stream's limits when it discards what is new. Servers of 2.12 and newer store up to
``MAX_ATOMIC`` records as one; they refuse that when a record of them is a duplicate. Then, and with older servers, the
first record goes alone and the rest when that one is stored, with everybody else held at the stream's gate; and when a
record in the middle is refused, those before it are stored. The error says how many (``details["stored"]``); with
msg_ids the batch can be published again.
"""

from __future__ import annotations

import secrets
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import msgspec
import trio

from platformd.core.clock import Clock
from platformd.core.errors import (
    InvalidInput,
    LimitReached,
    NotFound,
    PlatformError,
    PreconditionFailed,
    StorageFull,
    TooLarge,
)
from platformd.core.quantities import size_bytes
from platformd.core.settings import QueueSettings
from platformd.core.settings_engines import NatsSettings
from platformd.queues.checks import named, whole
from platformd.queues.codec import encode_batch
from platformd.queues.codec.frames import durability_code
from platformd.queues.contract import Durability, Published, Record
from platformd.queues.jetstream import errors, wire
from platformd.queues.jetstream.advisories import Advisories
from platformd.queues.jetstream.api import NO_RESPONDERS, Api
from platformd.queues.jetstream.errors import ApiError
from platformd.queues.jetstream.inbox import Denied, Inbox, Lost, TimedOut
from platformd.queues.jetstream.limits import unsupported
from platformd.queues.jetstream.names import Names
from platformd.queues.jetstream.records import MAX_HEADERS, encode_headers, stored_size
from platformd.queues.jetstream.state import StreamState

MAX_ATOMIC = 1000
"""Records that JetStream stores as one."""
RECORD_PATIENCE = 0.02
"""Seconds that are waited longer for each record of a batch: servers that sync always sync each by itself."""
ATOMIC_SINCE = (2, 12)
_NOT_AS_ONE = "atomic publish"
"""In the description of errors that say that records cannot be stored as one, and not that they cannot be stored."""

_EXPECT = "Nats-Expected-Last-Sequence"
_EXPECT_SUBJECT = "Nats-Expected-Last-Subject-Sequence"


class PubAck(msgspec.Struct, frozen=True):
    """The acknowledgement of one message."""

    seq: int = 0
    duplicate: bool = False
    count: int = 0
    """Of records that were stored as one; ``seq`` is the last one's."""
    error: ApiError | None = None


_decode = msgspec.json.Decoder(PubAck).decode


@dataclass(eq=False, kw_only=True)
class Batch:
    """Records that were checked."""

    state: StreamState
    records: Sequence[Record]
    size: int
    """Bytes, as a batch on our wire."""
    time_ns: int
    expect: tuple[tuple[str, str], ...]
    """Further headers of the first record."""
    stored: list[int] = field(default_factory=list)
    """Sequences of the records that were stored."""
    duplicates: list[int] = field(default_factory=list)
    stored_bytes: int = 0
    error: PlatformError | None = None
    """Of the first record that was refused."""
    newest: int = 0
    """The highest sequence that was named."""


class Publisher:
    """Publishes to the streams that it is given."""

    def __init__(
        self,
        api: Api,
        names: Names,
        queues: QueueSettings,
        settings: NatsSettings,
        clock: Clock,
        advisories: Advisories,
    ) -> None:
        self.client = api.client
        self._api = api
        self._names = names
        self._clock = clock
        self._advisories = advisories
        self._synced = settings.sync == "always"
        self._max_batch = size_bytes(queues.max_batch)
        self._max_record = size_bytes(queues.max_record)
        self._max_pending = size_bytes(queues.max_pending_appends)
        self._pending = 0
        self._room = trio.lowlevel.ParkingLot()
        self._full: set[str] = set()

    def check(
        self,
        state: StreamState,
        records: Sequence[Record],
        durability: Durability,
        expect_last_sequence: int | None,
        expect_last_subject_sequence: int | None,
        *,
        size: int = 0,
    ) -> Batch:
        """The records as a batch that can be published. ``size``: as a client encoded it; 0: unknown.

        Raises:
            InvalidInput, TooLarge: as ``contract.Streams.publish``.
            Unsupported: ``fsync``, and the servers do not say that they sync.
        """
        if durability_code(durability) == durability_code("fsync") and not self._synced:
            raise unsupported(
                named(state.name),
                "durability 'fsync' while nats.sync is 'interval', since the servers acknowledge before they sync",
                'publish with durability os, or set sync_interval: always at the servers and sync = "always" in [nats]',
            )
        size = size or len(encode_batch(records, 0))
        if size > self._max_batch:
            raise TooLarge(f"the batch has {size} bytes; the limit is {self._max_batch}", subject="batch")
        self._check_sizes(state, records)
        expect = []
        for name, value in ((_EXPECT, expect_last_sequence), (_EXPECT_SUBJECT, expect_last_subject_sequence)):
            if value is not None:
                expect.append((name, str(whole("expect_last_sequence", value))))
        return Batch(
            state=state, records=records, size=size, time_ns=self._clock.time_ns(), expect=tuple(expect)
        )  # fmt: skip

    def _check_sizes(self, state: StreamState, records: Sequence[Record]) -> None:
        own = state.config.max_record_bytes
        for position, record in enumerate(records):
            headers = len(msgspec.msgpack.encode(record.headers)) if record.headers else 0
            size = len(record.payload) + headers + len(record.msg_id.encode())
            where = f"records[{position}]"
            if size > self._max_record:
                raise TooLarge(f"the record has {size} bytes; the limit is {self._max_record}", subject=where)
            if own and size + len(record.subject) > own:
                message = f"the record has {size + len(record.subject)} bytes; its stream's limit is {own}"
                raise TooLarge(message, subject=where)

    async def begin(self, batch: Batch) -> Submission:
        """Queue a batch for the server; waits for room and for a connection. Batches are stored in the order of this.

        Raises:
            PlatformError: nothing was queued; or, with an expectation, its first record was refused.
        """
        while self._pending and self._pending + batch.size > self._max_pending:
            await self._room.park()
        self._pending += batch.size
        submission = Submission(self, batch)
        try:
            async with batch.state.gate:
                deadline = trio.current_time() + self._api.timeout
                several = len(batch.records) > 1
                if several and (batch.expect or batch.state.config.discard == "new"):
                    await self._send_as_one(submission, deadline)
                if submission.committed:
                    pass
                elif several and batch.expect:
                    await self._send(submission, 0, 1, deadline)
                    await self.collect(submission)
                    if batch.error is not None:
                        raise self._failed(batch)
                    await self._send(submission, 1, len(batch.records), deadline)
                else:
                    await self._send(submission, 0, len(batch.records), deadline)
        except BaseException:
            submission.close()
            raise
        return submission

    async def _send_as_one(self, submission: Submission, deadline: float) -> None:
        """Store all or nothing, if the server can; ``submission.committed`` says whether it did.

        Raises:
            PlatformError: it was refused; nothing is stored.
        """
        batch = submission.batch
        await self._api.client.ready(deadline)
        if self._api.client.info.release < ATOMIC_SINCE or len(batch.records) > MAX_ATOMIC:
            return
        await self._send(submission, 0, len(batch.records), deadline, atomic=secrets.token_hex(12))
        message = await self._answer(submission)
        while not message.headers and not message.payload:  # of one that waits for the last
            message = await self._answer(submission)
        ack = self._note(batch, len(batch.records) - 1, message)
        submission.awaited = 0
        if batch.error is None and ack is not None:
            batch.stored = list(range(ack.seq - len(batch.records) + 1, ack.seq + 1))
            submission.committed = True
        elif ack is not None and ack.error is not None and _NOT_AS_ONE in ack.error.description:
            batch.error, batch.stored_bytes = None, 0
        else:
            raise self._failed(batch)

    async def _send(self, submission: Submission, first: int, end: int, deadline: float, *, atomic: str = "") -> None:
        batch = submission.batch
        while True:
            await self._api.client.ready(deadline)
            if batch.state.gone:
                raise NotFound("there is no such stream any more", subject=named(batch.state.name))
            inbox = submission.open(first, end)
            data, stored = self._encode(batch, inbox.address, first, end, atomic)
            try:
                self._api.client.send(data, inbox)
            except Lost:
                continue
            batch.stored_bytes += stored
            return

    def _encode(self, batch: Batch, address: bytes, first: int, end: int, atomic: str) -> tuple[bytes, int]:
        """What is sent, and the bytes that it takes in the stream."""
        parts, stored = [], 0
        dedupe = batch.state.config.duplicate_window > 0
        limit = self._api.client.info.max_payload
        for position in range(first, end):
            record = batch.records[position]
            subject = self._names.subject(record.subject)
            more = batch.expect if position == 0 else ()
            if atomic:
                more += (("Nats-Batch-Id", atomic), ("Nats-Batch-Sequence", str(position + 1)))
                more += (("Nats-Batch-Commit", "1"),) if position == end - 1 else ()
            headers = encode_headers(record, subject, batch.time_ns, dedupe=dedupe, more=more)
            if len(headers) > MAX_HEADERS:
                message = f"its headers have {len(headers)} bytes; JetStream's limit is {MAX_HEADERS}"
                raise TooLarge(message, subject=f"records[{position}]")
            if len(headers) + len(record.payload) > limit:
                size = len(headers) + len(record.payload)
                raise TooLarge(
                    f"the record has {size} bytes with its headers; the server's limit is {limit}",
                    subject=f"records[{position}]",
                    hint="raise max_payload at the servers",
                )
            to = subject.encode()
            stored += stored_size(to, headers, record.payload)
            parts.append(wire.publish(to, record.payload, reply=b"%b.%d" % (address, position), headers=headers))
        return b"".join(parts), stored

    async def collect(self, submission: Submission) -> None:
        """Take the acknowledgements of what was sent last.

        Raises:
            OutcomeUnknown: not all came.
            Forbidden: the account may not publish.
        """
        for _ in range(submission.awaited):
            message = await self._answer(submission)
            self._note(submission.batch, int(message.subject.rpartition(b".")[2]), message)
        submission.awaited = 0

    async def _answer(self, submission: Submission) -> wire.Msg:
        subject = named(submission.batch.state.name)
        inbox = submission.inbox
        assert inbox is not None
        try:
            patience = self._api.timeout + submission.awaited * RECORD_PATIENCE
            return await inbox.get(trio.current_time() + patience)
        except Lost as lost:
            if not inbox.sent and not submission.batch.stored:
                raise self._api.client.unavailable() from lost
            raise errors.unknown(lost.reason, subject) from lost
        except TimedOut as late:
            raise errors.unknown(f"no answer within {self._api.timeout:g} s", subject) from late
        except Denied as refusal:
            raise errors.denied(str(refusal), subject) from refusal

    def _note(self, batch: Batch, position: int, message: wire.Msg) -> PubAck | None:
        subject = named(batch.state.name)
        if message.headers and wire.decode_headers(message.headers).status == NO_RESPONDERS:
            batch.error = batch.error or errors.no_leader(subject)
            return None
        ack = _decode(message.payload)
        batch.newest = max(batch.newest, ack.seq)
        if ack.error is not None:
            batch.error = batch.error or errors.refused(ack.error, subject)
        elif ack.duplicate:
            batch.duplicates.append(position)
        else:
            batch.stored.append(ack.seq)
        return ack

    def finish(self, submission: Submission) -> Published:
        """What became of a batch whose acknowledgements were collected.

        Raises:
            PlatformError: a record was refused.
        """
        batch, state = submission.batch, submission.batch.state
        if batch.stored:
            share = batch.stored_bytes * len(batch.stored) // len(batch.records)
            state.appended(max(batch.stored), len(batch.stored), share, self._clock.time_ns())
            if state.consumers:
                subjects = Counter(record.subject for record in batch.records)
                for consumer in state.consumers.values():
                    consumer.appended(batch.stored, subjects)
        if batch.error is not None:
            raise self._failed(batch)
        self._full.discard(state.name)
        return Published(
            stream=state.name,
            first_sequence=min(batch.stored) if batch.stored else max(state.counts.last_seq, batch.newest),
            appended=len(batch.stored),
            duplicates=tuple(sorted(batch.duplicates)),
        )

    @staticmethod
    def _where(batch: Batch) -> str:
        subjects = list(dict.fromkeys(record.subject for record in batch.records))
        return f"; on {', '.join(subjects[:4])}" + (" and others" if len(subjects) > 4 else "")

    def _failed(self, batch: Batch) -> PlatformError:
        error = batch.error
        assert error is not None
        if isinstance(error, StorageFull) and batch.state.name not in self._full:
            self._full.add(batch.state.name)
            self._advisories.tell("storage_full", batch.state.name, "", error.message)
        if isinstance(error, LimitReached):
            config = batch.state.config
            limits = {n: getattr(config, n) for n in ("max_records", "max_bytes", "max_records_per_subject")}
            error.message += " (" + ", ".join(f"{n} {v}" for n, v in limits.items() if v) + self._where(batch) + ")"
        elif isinstance(error, PreconditionFailed):
            error.message += f" ({', '.join(f'{n}: {v}' for n, v in batch.expect)}{self._where(batch)})"
        if batch.stored:
            error.message += f"; {len(batch.stored)} of {len(batch.records)} records were stored"
            error.details["stored"] = len(batch.stored)
        return error

    def subject(self, record: Record) -> bytes:
        """What a record's subject is called there."""
        return self._names.subject(record.subject).encode()

    def release(self, size: int) -> None:
        """A batch is done."""
        self._pending -= size
        self._room.unpark_all()


class Submission:
    """A batch on its way; ``result`` once, or ``close``."""

    def __init__(self, publisher: Publisher, batch: Batch) -> None:
        self.batch = batch
        self.inbox: Inbox | None = None
        self.awaited = 0
        self.committed = False
        """It was stored as one already."""
        self._publisher = publisher
        self._closed = False

    def open(self, first: int, end: int) -> Inbox:
        """A new place for the acknowledgements of these records."""
        self._leave()
        self.inbox, self.awaited = self._publisher.client.open_inbox(), end - first
        self.inbox.asked = self._publisher.subject(self.batch.records[first])
        return self.inbox

    async def result(self) -> Published:
        """Wait until it is acknowledged.

        Raises: as ``contract.Streams.publish``.
        """
        try:
            await self._publisher.collect(self)
            return self._publisher.finish(self)
        finally:
            self.close()

    def close(self) -> None:
        """Nobody waits any more."""
        if not self._closed:
            self._closed = True
            self._leave()
            self._publisher.release(self.batch.size)

    def _leave(self) -> None:
        if self.inbox is not None:
            self._publisher.client.close_inbox(self.inbox)
            self.inbox = None


def route(records: Sequence[Record], names: Sequence[str | None]) -> str:
    """The one stream that captures all records; ``names``: the one that captures each.

    Raises:
        NotFound: nobody captures one.
        InvalidInput: there are several.
    """
    for record, name in zip(records, names, strict=True):
        if name is None:
            raise NotFound(
                f"no stream captures {record.subject!r}",
                subject="publish",
                hint="create a stream that captures the subject",
            )
        if name != names[0]:
            raise InvalidInput(
                f"{records[0].subject!r} belongs to stream {names[0]!r}, {record.subject!r} to {name!r}",
                subject="publish",
                hint="publish the records of each stream in a batch of their own",
            )
    assert names[0] is not None
    return names[0]
