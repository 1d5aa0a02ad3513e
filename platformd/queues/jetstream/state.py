"""What the engine knows of its streams and consumers without asking: questions about them must not wait.

Counts are JetStream's, from its last answer; what we did since is added to them, so that whoever publishes or fetches
sees it at once. An answer that is older than what we did is not taken.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import trio

from platformd.model.subjects import subject_matches
from platformd.queues.contract import ConsumerConfig, ConsumerInfo, Delivery, StreamConfig, StreamInfo
from platformd.queues.jetstream.api import ConsumerAnswer, StreamCounts
from platformd.queues.jetstream.inbox import Inbox
from platformd.queues.jetstream.records import nanoseconds

RATE_SPAN = 10.0
"""Seconds over which rates are averaged."""
_SAMPLES = 64


class Rate:
    """Of a number that grows."""

    def __init__(self) -> None:
        self._samples: deque[tuple[float, int]] = deque(maxlen=_SAMPLES)

    def note(self, now: float, number: int) -> None:
        """It is this now."""
        samples = self._samples
        while len(samples) > 1 and samples[1][0] < now - RATE_SPAN:
            samples.popleft()
        if not samples or now - samples[-1][0] > RATE_SPAN / _SAMPLES:
            samples.append((now, number))

    def per_second(self, now: float, number: int) -> float:
        """How fast it grew."""
        before = next(((t, n) for t, n in self._samples if t >= now - RATE_SPAN), (now, number))
        span = max(now - before[0], 1.0)
        return max(number - before[1], 0) / span


@dataclass(eq=False)
class StreamState:
    """One of our streams."""

    name: str
    there: str
    """Its name at JetStream."""
    config: StreamConfig
    counts: StreamCounts = field(default_factory=StreamCounts)
    consumers: dict[str, ConsumerState] = field(default_factory=dict)
    gate: trio.Lock = field(default_factory=trio.Lock)
    """Held while the bytes of a batch are queued, so that batches do not mix."""
    first_time_ns: int = 0
    last_time_ns: int = 0
    rate: Rate = field(default_factory=Rate)
    gone: bool = False
    grown: trio.Event = field(default_factory=trio.Event)
    """Set, and another one taken, when there are more records; set when it is gone."""

    @property
    def limited(self) -> bool:
        """Whether records go by themselves, so that what is there cannot be known without asking."""
        c = self.config
        return bool(
            c.max_bytes or c.max_records or c.max_records_per_subject or c.max_age or c.retention != "limits"
        )  # fmt: skip

    def take(self, counts: StreamCounts) -> None:
        """JetStream says so."""
        if counts.last_seq < self.counts.last_seq:
            return
        grew = counts.last_seq > self.counts.last_seq
        self.counts = counts
        if grew:
            self.wake()
        self.first_time_ns = nanoseconds(counts.first_ts) if counts.messages else 0
        self.last_time_ns = max(self.last_time_ns, nanoseconds(counts.last_ts)) if counts.last_seq else 0
        self.rate.note(trio.current_time(), counts.last_seq)

    def appended(self, last_sequence: int, records: int, size: int, time_ns: int) -> None:
        """We appended."""
        before = self.counts
        self.rate.note(trio.current_time(), before.last_seq)
        if not before.messages:
            self.first_time_ns = time_ns
        self.last_time_ns = time_ns
        self.counts = StreamCounts(
            messages=before.messages + records,
            bytes=before.bytes + size,
            first_seq=before.first_seq if before.messages else last_sequence - records + 1,
            last_seq=max(before.last_seq, last_sequence),
        )
        self.wake()

    def wake(self) -> None:
        """Tell those who wait for more."""
        self.grown.set()
        self.grown = trio.Event()

    def saw(self, records: Sequence[Delivery]) -> None:
        """These are in it: acknowledgements do not say when a record was appended, records do."""
        if records[-1].sequence == self.counts.last_seq:
            self.last_time_ns = records[-1].append_time_ns
        if records[0].sequence == self.counts.first_seq:
            self.first_time_ns = records[0].append_time_ns

    def info(self) -> StreamInfo:
        """For those who ask."""
        counts = self.counts
        rate = self.rate.per_second(trio.current_time(), counts.last_seq)
        return StreamInfo(
            name=self.name,
            config=self.config,
            messages=counts.messages,
            bytes=counts.bytes,
            uncompressed_bytes=counts.bytes,
            first_sequence=counts.first_seq if counts.messages else counts.last_seq + 1,
            last_sequence=counts.last_seq,
            consumers=len(self.consumers),
            first_time_ns=self.first_time_ns,
            last_time_ns=self.last_time_ns,
            publish_rate=rate,
            publish_bytes_rate=rate * counts.bytes / counts.messages if counts.messages else 0.0,
        )


@dataclass(eq=False)
class Held:
    """A delivery that somebody has."""

    ack: bytes
    """Where its acknowledgement goes."""
    deliveries: int
    deadline: float
    """On trio's clock: when it is late."""
    subject: str


class Dying(NamedTuple):
    """A record that was given up, and is not yet a dead letter."""

    ack: bytes
    """Where JetStream is told."""
    deliveries: int
    reason: str


@dataclass(eq=False)
class ConsumerState:
    """One of our consumers."""

    stream: StreamState
    name: str
    there: str
    config: ConsumerConfig
    begin: dict[str, Any] = field(default_factory=dict)
    """Where it began, as JetStream says it, which a change must repeat."""
    held: dict[int, Held] = field(default_factory=dict)
    """By sequence. Bounded by ``max_ack_pending``, which JetStream keeps."""
    refused: dict[int, Held] = field(default_factory=dict)
    """Refused, and not delivered again yet."""
    dying: dict[int, Dying] = field(default_factory=dict)
    """Given up, and not yet a dead letter. JetStream counts them as out, so they are bounded as ``held``."""
    burying: set[int] = field(default_factory=set)
    """Of them, those whose letters are being written."""
    remembered: bool = False
    """Whether its metadata has any of them."""
    letters_fail: bool = False
    """Whether the last letter could not be written."""
    listening: set[Inbox] = field(default_factory=set)
    """Of fetches that wait."""
    ack_floor: int = 0
    delivered_sequence: int = 0
    delivered_consumer_sequence: int = 0
    pending: int = 0
    ack_pending: int = 0
    redelivered: int = 0
    exhausted: int = 0
    stalled: int = 0
    waiting: int = 0
    used: float = field(default_factory=trio.current_time)
    """When somebody last fetched or acknowledged, on trio's clock."""
    is_stalled: bool = False
    gone: bool = False
    moving: bool = False
    """Between its end and its new beginning, in a seek."""
    generation: int = 0
    """Counts what we did to it, so that an answer to an older question is known as such."""

    def appended(self, sequences: Sequence[int], subjects: Mapping[str, int]) -> None:
        """Records were appended to its stream: ``subjects`` counts them by subject."""
        pattern = self.config.filter_subject
        new = sum(sequence > self.delivered_sequence for sequence in sequences)
        if pattern == ">":
            self.pending += new
        else:
            self.pending += min(new, sum(n for s, n in subjects.items() if subject_matches(pattern, s)))

    def purged(self, pattern: str, before: int) -> None:
        """What was out and is gone from the stream is not out any more."""
        for records in (self.held, self.refused):
            for sequence in [s for s, h in records.items() if s < before and subject_matches(pattern, h.subject)]:
                del records[sequence]
        self.generation += 1

    def take(self, answer: ConsumerAnswer) -> None:
        """JetStream says so."""
        self.ack_floor = answer.ack_floor.stream_seq
        self.delivered_sequence = answer.delivered.stream_seq
        self.delivered_consumer_sequence = answer.delivered.consumer_seq
        self.pending = answer.num_pending
        self.ack_pending = answer.num_ack_pending

    def late_after(self, deliveries: int) -> float:
        """Seconds until a record that was delivered so often is delivered again."""
        steps = self.config.backoff
        return steps[min(deliveries, len(steps)) - 1] if steps else self.config.ack_wait

    def end(self, error: Exception) -> None:
        """It is not there any more; whoever waits is told."""
        self.gone = True
        self.wake(error)

    def wake(self, error: Exception) -> None:
        """Those who wait get this."""
        for inbox in tuple(self.listening):
            inbox.fail(error)

    def info(self) -> ConsumerInfo:
        """For those who ask."""
        return ConsumerInfo(
            stream=self.stream.name,
            name=self.name,
            config=self.config,
            ack_floor=self.ack_floor,
            delivered_sequence=self.delivered_sequence,
            pending=min(self.pending, self.stream.counts.messages),
            ack_pending=max(self.ack_pending - len(self.dying), 0),
            redelivered=self.redelivered,
            exhausted=self.exhausted,
            stalled=self.stalled,
            waiting=self.waiting,
        )


def ack_subject(consumer: ConsumerState, sequence: int, consumer_sequence: int) -> bytes:
    """Where the acknowledgement of a delivery goes that another process got; ADR-15.

    Args:
        consumer_sequence: of any delivery that was made; JetStream finds the record by its own sequence.
    """
    return f"$JS.ACK.{consumer.stream.there}.{consumer.there}.1.{sequence}.{consumer_sequence}.0.0".encode()
