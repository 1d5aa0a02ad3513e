"""The Streams contract: what every queue engine promises, and the facts that go in and out.

A stream captures subjects into an append-only log with sequences 1, 2, 3, …; consumers are durable
cursors over it. Terms are JetStream's where they exist. Promises, proved by ``tests/conformance``:

- An acknowledgement means exactly the durability that was asked for. Records are delivered only once
  they are as durable as their publisher asked.
- Sequences have no gaps and never change. Records of one producer keep their order.
- A record whose (subject, ``msg_id``) was stored within the stream's duplicate window is acknowledged
  and not stored again: also when that record has been removed since, and also across restarts as long as it has not.
  A restart learns the ids from the records themselves: that of a removed record is known afterwards only if its
  segment is still there, so whoever publishes it again may store it a second time.
- A record that was delivered and not acknowledged within ``ack_wait`` is delivered again, at once when
  the client that held it is gone.
- A torn tail is cut at recovery and reported; damage in the middle is an error that names the file.
- Removing records (limits, retention, purge) leaves gaps in what can be read and never in the sequences:
  the others keep theirs.
- What an engine cannot do is refused as ``Unsupported`` with the name of it, when it is asked for.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Literal, Protocol

import msgspec

from platformd.model.schema import Encoding, Framing

Durability = Literal["fsync", "os", "memory"]
"""What an acknowledgement means: on the disk; with the operating system (survives the daemon's death);
in the daemon's memory."""


Retention = Literal["limits", "interest", "work_queue"]
"""When a record is removed before its limits say so. ``limits``: never. ``interest``: when every consumer whose
filter matches it is done with it; a record that matches none when it is appended is not kept. ``work_queue``: when
its one consumer is done with it; the filters of consumers may not overlap, and what no consumer matches waits."""

Discard = Literal["old", "new"]
"""What gives way at ``max_bytes``, ``max_records`` or ``max_records_per_subject``: the oldest record, or the new one,
whose batch is then refused as ``LimitReached``."""

Compression = Literal["none", "zstd"]
"""How a stream's full log files (segments) are kept; the newest, which is written to, is never compressed. Compressing
goes on in the background and changes no other promise. When it is turned on, old segments are compressed too; when it
is turned off, what is compressed stays so. A segment that would hardly become smaller stays as it is. Limits in bytes
count what is on the disk."""


class _Fact(msgspec.Struct, frozen=True, kw_only=True):
    pass


class RecordFormat(_Fact, frozen=True, kw_only=True):
    """What the payloads of a stream are."""

    encoding: Encoding = "bytes"
    framing: Framing = "container"
    """For ``avro``."""
    schema: str = ""
    """As JSON, with no reference left in it; empty: none."""
    validate: bool = False
    """Whether a batch with a payload that does not fit is refused."""


class StreamConfig(_Fact, frozen=True, kw_only=True):
    """What a stream is, for the engine."""

    subjects: tuple[str, ...]
    max_age: float = 0.0
    """Seconds; 0 for no limit."""
    max_bytes: int = 0
    """0 for no limit."""
    max_records: int = 0
    """0 for no limit."""
    max_records_per_subject: int = 0
    """0 for no limit."""
    max_record_bytes: int = 0
    """A record's payload, headers, subject and msg_id; 0 for the engine's limit."""
    discard: Discard = "old"
    retention: Retention = "limits"
    compression: Compression = "none"
    duplicate_window: float = 86400.0
    """Seconds; 0 never looks for duplicates."""
    duplicate_limit: int = 1_048_576
    format: RecordFormat = RecordFormat()


class StreamInfo(_Fact, frozen=True, kw_only=True):
    """What a stream has."""

    name: str
    config: StreamConfig
    messages: int
    bytes: int
    """On the disk, of the records that are kept: where segments are compressed, after that. An estimate where records
    were removed from the middle."""
    first_sequence: int
    """Of the oldest record that is kept; ``last_sequence + 1`` when there is none."""
    last_sequence: int
    consumers: int
    first_time_ns: int = 0
    """When the oldest record that is kept was appended; 0 when there is none."""
    last_time_ns: int = 0
    """When the newest was appended; 0 when nothing was yet."""
    publish_rate: float = 0.0
    """Records a second, averaged over about the last ten seconds."""
    publish_bytes_rate: float = 0.0
    uncompressed_bytes: int = 0
    """What ``bytes`` would be without compression; the same where nothing is compressed."""


DeliverPolicy = Literal["all", "new", "last", "last_per_subject", "by_sequence", "by_time"]
"""Where a consumer begins. ``last``: at the newest record that matches. ``last_per_subject``: with the newest of every
matching subject, in the order of their sequences, and then everything after them."""

AckPolicy = Literal["explicit", "all", "none"]
"""``all``: acknowledging a record that is out acknowledges all that are out with lower sequences too (``nak``,
``term`` and ``in_progress`` are of the one record). ``none``: delivered is done."""

MAX_BACKOFF_STEPS = 16
"""Of one consumer's back-off list."""

DEAD_LETTER_HEADERS = (
    "Dead-Reason",
    "Dead-Stream",
    "Dead-Consumer",
    "Dead-Sequence",
    "Dead-Subject",
    "Dead-Deliveries",
    "Dead-Msg-Id",
)
"""What a dead letter says of where it comes from; its payload, time and other headers are the record's. Reason is
``max_deliver`` or ``term`` with, behind a colon, what the consumer said. The letter's own msg_id names its stream,
consumer and sequence, so that it is stored once; the record's, when it had one, is in ``Dead-Msg-Id``."""


class ConsumerConfig(_Fact, frozen=True, kw_only=True):
    """What a consumer wants."""

    filter_subject: str = ">"
    """Only records whose subject matches."""
    deliver_policy: DeliverPolicy = "all"
    """Where a new consumer starts."""
    start_sequence: int = 1
    """For ``by_sequence``."""
    start_time_ns: int = 0
    """For ``by_time``: the first record that was appended then or later."""
    ack_policy: AckPolicy = "explicit"
    """Between ``none`` and the others it cannot change."""
    ack_wait: float = 30.0
    """Seconds until an unacknowledged record is delivered again."""
    backoff: tuple[float, ...] = ()
    """Seconds until the second, third, … delivery of an unacknowledged record, instead of ``ack_wait``; the last
    one goes on. At most ``MAX_BACKOFF_STEPS``."""
    max_deliver: int = 0
    """How often a record is delivered at most; 0 for no limit. What is over it is counted in
    ``ConsumerInfo.exhausted``, goes to ``dead_letter_subject`` and is not delivered again."""
    dead_letter_subject: str = ""
    """Where a record goes that was given up (``max_deliver`` or ``term``), with the headers of ``DEAD_LETTER_HEADERS``,
    before it counts as done; empty: nowhere. A stream must capture it, another one than the consumer's. Until the
    letter is stored the record counts against ``max_ack_pending``, and is not lost by a crash or a seek; a letter is
    doubled by neither, within the duplicate window of the stream that takes it."""
    max_ack_pending: int = 1024
    """How many records may be out unacknowledged; when reached, fetches wait, ``ConsumerInfo.stalled`` counts it
    and an ``Advisory`` tells it."""
    inactive_after: float = 0.0
    """Seconds without a fetch or an acknowledgement after which the consumer is removed; 0: never."""


class ConsumerInfo(_Fact, frozen=True, kw_only=True):
    """Where a consumer is."""

    stream: str
    name: str
    config: ConsumerConfig
    ack_floor: int
    """All records up to this sequence are done."""
    delivered_sequence: int
    """The highest sequence that was delivered."""
    pending: int
    """Matching records that were never delivered: the lag."""
    ack_pending: int
    """Delivered and neither acknowledged nor given up."""
    redelivered: int
    """Deliveries beyond the first, since the daemon started."""
    exhausted: int
    """Records given up after ``max_deliver`` or by ``term``."""
    stalled: int
    """How often a fetch had to wait because of ``max_ack_pending``."""
    waiting: int
    """Fetches that wait now."""


class Record(_Fact, frozen=True, kw_only=True):
    """What is published."""

    subject: str
    payload: bytes
    msg_id: str = ""
    """Names the record on its subject, for de-duplication; at most 255 bytes of UTF-8."""
    headers: dict[str, str] = {}
    time_ns: int = 0
    """The producer's clock; 0: filled in when it is encoded."""


class Published(_Fact, frozen=True, kw_only=True):
    """The acknowledgement of a batch."""

    stream: str
    first_sequence: int
    """Of the first record that was stored."""
    appended: int
    duplicates: tuple[int, ...] = ()
    """Positions in the batch of the records that were there already."""


class Delivery(_Fact, frozen=True, kw_only=True):
    """A record as a consumer gets it."""

    sequence: int
    subject: str
    payload: bytes
    msg_id: str
    headers: dict[str, str]
    time_ns: int
    """The producer's clock at publishing."""
    append_time_ns: int
    """The daemon's clock at appending."""
    deliveries: int
    """1 for the first time."""


AckKind = Literal["ack", "nak", "in_progress", "term"]


class Ack(_Fact, frozen=True, kw_only=True):
    """What a consumer says of a delivery."""

    sequence: int
    kind: AckKind = "ack"
    delay: float = 0.0
    """For ``nak``: seconds until it is delivered again."""
    reason: str = ""
    """For ``term``: why, for the dead letter; at most ``MAX_REASON`` bytes of UTF-8."""


MAX_ADVISORIES = 1024
"""How many wait for one who listens."""
MAX_REASON = 256
"""Bytes of ``Ack.reason``."""


class Advisory(_Fact, frozen=True, kw_only=True):
    """Something an operator should know, when it happens and not at every record that it happens to."""

    kind: AdvisoryKind
    stream: str
    consumer: str = ""
    time_ns: int
    detail: str
    """One sentence. When advisories before this one were lost, it says how many, in brackets."""


AdvisoryKind = Literal[
    "stalled",
    "resumed",
    "exhausted",
    "dead_letter_failed",
    "storage_full",
    "consumer_removed",
    "live_dropped",
    "compression_failed",
]
"""``stalled``: a consumer reached ``max_ack_pending``; ``resumed``: it is below it again. ``exhausted``: records were
given up. ``dead_letter_failed``: one could not be written, and is tried again. ``storage_full``: publishing is refused.
``consumer_removed``: ``inactive_after`` passed. ``live_dropped``: live subscribers were too slow.
``compression_failed``: a segment stays uncompressed, because the disk is full, in which case it is tried again, or
because it is damaged."""


class Streams(Protocol):
    """An engine, in process. Programs outside use its sockets through ``platformd.client.queues``."""

    async def put_stream(self, name: str, config: StreamConfig) -> StreamInfo:
        """Create a stream or change its limits.

        Raises:
            Conflict: a subject is captured by another stream.
            LimitReached: too many streams.
        """
        ...

    async def delete_stream(self, name: str) -> None:
        """Remove a stream, its records and its consumers.

        Raises:
            NotFound: it is not there.
        """
        ...

    def streams(self) -> tuple[StreamInfo, ...]:
        """All streams, by name."""
        ...

    def stream(self, name: str) -> StreamInfo:
        """One stream.

        Raises:
            NotFound: it is not there.
        """
        ...

    def stream_for(self, subject: str) -> str | None:
        """The name of the stream that captures ``subject``."""
        ...

    async def publish(
        self,
        records: Sequence[Record],
        *,
        stream: str = "",
        durability: Durability = "fsync",
        expect_last_sequence: int | None = None,
        expect_last_subject_sequence: int | None = None,
    ) -> Published:
        """Append records, in order, to one stream.

        Args:
            stream: the stream they are for; empty: the one that captures their subjects.
            durability: what the return means.
            expect_last_sequence: append only if this is the stream's last sequence.
            expect_last_subject_sequence: append only if this is the sequence of the newest record that the stream
                keeps on the subject of the first record; 0: there is none.

        Raises:
            NotFound: no stream captures a subject.
            InvalidInput: the subjects belong to several streams, or a subject is not valid. Or a payload does not fit
                the stream's ``format``, and that says ``validate``: ``errors`` has the records' positions.
            TooLarge: a record or the batch is over its limit.
            PreconditionFailed: ``expect_last_sequence`` or ``expect_last_subject_sequence`` does not hold.
            LimitReached: the stream is full and its ``discard`` is ``new``.
            StorageFull: the disk is full; nothing was appended.
        """
        ...

    async def read(self, stream: str, *, after: int = 0, limit: int = 100, subject: str = ">") -> tuple[Delivery, ...]:
        """Look at records without a consumer: those after sequence ``after`` whose subject matches."""
        ...

    async def wait(self, stream: str, after: int) -> int:
        """Wait until records behind sequence ``after`` can be read; the last sequence that can.

        Whatever is up to it can be read. It costs nothing while nothing comes, however many wait. ``-1`` is behind
        nothing: it returns at once.

        Raises:
            NotFound: the stream is not there, or goes meanwhile.
            Unavailable: the engine stops.
        """
        ...

    async def purge(self, stream: str, *, subject: str = ">", before: int = 0, keep: int = 0) -> int:
        """Remove records; how many. When it returns they are gone for good, also after a crash.

        Args:
            subject: only those whose subject matches.
            before: only those before this sequence; 0: all.
            keep: leave so many of the newest that match.

        Raises:
            NotFound: the stream is not there.
        """
        ...

    async def put_consumer(self, stream: str, name: str, config: ConsumerConfig) -> ConsumerInfo:
        """Create a consumer, or change the limits of one (its filter and start cannot change).

        Raises:
            NotFound: the stream is not there, or none captures ``dead_letter_subject``.
            Conflict: it is there with another filter, another start, or with instead of without acknowledgements.
            InvalidInput: a field is out of its bounds, or the stream captures ``dead_letter_subject`` itself.
            LimitReached: too many consumers.
        """
        ...

    async def delete_consumer(self, stream: str, name: str) -> None:
        """Remove a consumer; records are not touched.

        Raises:
            NotFound: it is not there.
        """
        ...

    async def seek(
        self, stream: str, consumer: str, policy: DeliverPolicy, *, sequence: int = 1, time_ns: int = 0
    ) -> ConsumerInfo:
        """Move a consumer's cursor, forwards or back, as if it were made anew there: what is out is forgotten, and
        acknowledgements of it are stale.

        Raises:
            NotFound: the stream or the consumer is not there.
        """
        ...

    def consumers(self, stream: str) -> tuple[ConsumerInfo, ...]:
        """The consumers of a stream, by name.

        Raises:
            NotFound: the stream is not there.
        """
        ...

    async def fetch(
        self, stream: str, consumer: str, *, max_records: int = 256, max_bytes: int = 1 << 20, wait: float = 0.0
    ) -> tuple[Delivery, ...]:
        """Up to ``max_records`` records, at least one byte-wise even if it is over ``max_bytes``; waits up
        to ``wait`` seconds for the first."""
        ...

    async def ack(self, stream: str, consumer: str, acks: Sequence[Ack]) -> int:
        """Say what became of deliveries; how many of them were known (others were stale)."""
        ...

    def advisories(self) -> AbstractAsyncContextManager[AsyncIterator[Advisory]]:
        """What happens from now on. One who is slow loses the oldest (``MAX_ADVISORIES``) and is told how many."""
        ...

    @property
    def addresses(self) -> dict[str, str]:
        """The nng addresses for programs outside: ``ingest``, ``fetch`` and, where the engine has them, ``push`` and
        ``live``; for those with TCP addresses also ``push-tcp``, ``push-tls`` and so on."""
        ...
