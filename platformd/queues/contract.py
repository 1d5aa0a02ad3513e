"""The Streams contract: what every queue engine promises, and the facts that go in and out.

A stream captures subjects into an append-only log with sequences 1, 2, 3, …; consumers are durable
cursors over it. Terms are JetStream's where they exist. Promises, proved by ``tests/conformance``:

- An acknowledgement means exactly the durability that was asked for. Records are delivered only once
  they are as durable as their publisher asked.
- Sequences have no gaps and never change. Records of one producer keep their order.
- A record whose (subject, ``msg_id``) was stored within the stream's duplicate window is acknowledged
  and not stored again, also across restarts.
- A record that was delivered and not acknowledged within ``ack_wait`` is delivered again, at once when
  the client that held it is gone.
- A torn tail is cut at recovery and reported; damage in the middle is an error that names the file.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Protocol

import msgspec

Durability = Literal["fsync", "os", "memory"]
"""What an acknowledgement means: on the disk; with the operating system (survives the daemon's death);
in the daemon's memory."""


class _Fact(msgspec.Struct, frozen=True, kw_only=True):
    pass


class StreamConfig(_Fact, frozen=True, kw_only=True):
    """What a stream is, for the engine."""

    subjects: tuple[str, ...]
    max_age: float = 0.0
    """Seconds; 0 for no limit."""
    max_bytes: int = 0
    """0 for no limit."""
    duplicate_window: float = 86400.0
    """Seconds; 0 never looks for duplicates."""
    duplicate_limit: int = 1_048_576


class StreamInfo(_Fact, frozen=True, kw_only=True):
    """What a stream has."""

    name: str
    config: StreamConfig
    messages: int
    bytes: int
    first_sequence: int
    """Of the oldest record that is kept; ``last_sequence + 1`` when there is none."""
    last_sequence: int
    consumers: int


class ConsumerConfig(_Fact, frozen=True, kw_only=True):
    """What a consumer wants."""

    filter_subject: str = ">"
    """Only records whose subject matches."""
    deliver_policy: Literal["all", "new", "by_sequence"] = "all"
    """Where a new consumer starts."""
    start_sequence: int = 1
    """For ``by_sequence``."""
    ack_policy: Literal["explicit", "none"] = "explicit"
    """``none``: delivered is done."""
    ack_wait: float = 30.0
    """Seconds until an unacknowledged record is delivered again."""
    max_deliver: int = 0
    """How often a record is delivered at most; 0 for no limit. What is over it is counted in
    ``ConsumerInfo.exhausted`` and not delivered again."""
    max_ack_pending: int = 1024
    """How many records may be out unacknowledged; when reached, fetches wait (and
    ``ConsumerInfo.stalled`` counts it)."""


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
    """Records given up after ``max_deliver``."""
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
    ) -> Published:
        """Append records, in order, to one stream.

        Args:
            stream: the stream they are for; empty: the one that captures their subjects.
            durability: what the return means.
            expect_last_sequence: append only if this is the stream's last sequence.

        Raises:
            NotFound: no stream captures a subject.
            InvalidInput: the subjects belong to several streams, or a subject is not valid.
            TooLarge: a record or the batch is over its limit.
            PreconditionFailed: ``expect_last_sequence`` does not hold.
            StorageFull: the disk is full; nothing was appended.
        """
        ...

    async def read(self, stream: str, *, after: int = 0, limit: int = 100, subject: str = ">") -> tuple[Delivery, ...]:
        """Look at records without a consumer: those after sequence ``after`` whose subject matches."""
        ...

    async def put_consumer(self, stream: str, name: str, config: ConsumerConfig) -> ConsumerInfo:
        """Create a consumer, or change the limits of one (its filter and start cannot change).

        Raises:
            NotFound: the stream is not there.
            Conflict: it is there with another filter.
            LimitReached: too many consumers.
        """
        ...

    async def delete_consumer(self, stream: str, name: str) -> None:
        """Remove a consumer; records are not touched.

        Raises:
            NotFound: it is not there.
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

    @property
    def addresses(self) -> dict[str, str]:
        """The nng addresses for programs outside: ``ingest`` and ``fetch``."""
        ...
