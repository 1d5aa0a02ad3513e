"""Kafka and the queues in memory, for the two directions of a bridge."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from confluent_kafka import TopicPartition

from platformd.core.errors import PlatformError
from platformd.queues.contract import Delivery, Published, Record


class Clock:
    """Time that passes only where somebody waits."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class FakeError:
    """An error of Kafka."""

    def __init__(self, code: int, text: str = "it does not like it", *, fatal: bool = False) -> None:
        self._code, self._text, self._fatal = code, text, fatal

    def code(self) -> int:
        return self._code

    def str(self) -> str:
        return self._text

    def name(self) -> str:
        return f"E{self._code}"

    def fatal(self) -> bool:
        return self._fatal


class FakeMessage:
    """A record of Kafka."""

    def __init__(
        self,
        value: bytes | None,
        offset: int = 0,
        *,
        topic: str = "ztf",
        partition: int = 0,
        key: bytes | None = None,
        headers: list[tuple[str, bytes | None]] | None = None,
        milliseconds: int = 1_700_000_000_000,
        error: FakeError | None = None,
    ) -> None:
        self._value, self._offset, self._topic, self._partition = value, offset, topic, partition
        self._key, self._headers, self._milliseconds, self._error = key, headers, milliseconds, error

    def value(self) -> bytes | None:
        return self._value

    def offset(self) -> int:
        return self._offset

    def topic(self) -> str:
        return self._topic

    def partition(self) -> int:
        return self._partition

    def key(self) -> bytes | None:
        return self._key

    def headers(self) -> list[tuple[str, bytes | None]] | None:
        return self._headers

    def timestamp(self) -> tuple[int, int]:
        return (1, self._milliseconds) if self._milliseconds else (0, -1)

    def error(self) -> FakeError | None:
        return self._error


def parts(*numbers: int, topic: str = "ztf") -> list[TopicPartition]:
    return [TopicPartition(topic, number) for number in numbers]


class FakeConsumer:
    """A consumer of a group: gives what it was given, and does what a test says at its next poll."""

    def __init__(self, clock: Clock, log: list[str]) -> None:
        self.messages: deque[FakeMessage] = deque()
        self.at_poll: deque[Callable[[], None]] = deque()
        self.stored: dict[tuple[str, int], int] = {}
        self.committed_offsets: dict[tuple[str, int], int] = {}
        self.paused: set[tuple[str, int]] = set()
        self.assigned: list[TopicPartition] = []
        self.ends: dict[int, int] = {}
        self.times: dict[int, int] = {}
        self.closed = False
        self._clock, self._log = clock, log

    def subscribe(self, topics: list[str], *, on_assign: Any, on_revoke: Any, on_lost: Any) -> None:
        self.topics = topics
        self._on_assign, self._on_revoke, self._on_lost = on_assign, on_revoke, on_lost

    def give(self, *numbers: int) -> None:
        """The group gives partitions."""
        self.assigned = parts(*numbers)
        self._on_assign(self, parts(*numbers))

    def revoke(self, *numbers: int) -> None:
        """The group takes partitions away."""
        self._on_revoke(self, parts(*numbers))
        self.assigned = [p for p in self.assigned if p.partition not in numbers]

    def lose(self, *numbers: int) -> None:
        """The group has given partitions to others."""
        self._on_lost(self, parts(*numbers))
        self.assigned = []

    def poll(self, timeout: float = -1) -> FakeMessage | None:
        if self.at_poll:
            self.at_poll.popleft()()
        if self.messages and not self.paused:
            return self.messages.popleft()
        self._clock.now += timeout
        return None

    def consume(self, num_messages: int = 1, timeout: float = -1) -> list[FakeMessage]:
        found = []
        while self.messages and len(found) < num_messages:
            found.append(self.messages.popleft())
        return found

    def assign(self, partitions: list[TopicPartition]) -> None:
        self.assigned = partitions

    def assignment(self) -> list[TopicPartition]:
        return self.assigned

    def pause(self, partitions: list[TopicPartition]) -> None:
        self.paused |= {(p.topic, p.partition) for p in partitions}

    def resume(self, partitions: list[TopicPartition]) -> None:
        self.paused -= {(p.topic, p.partition) for p in partitions}

    def store_offsets(self, *, offsets: list[TopicPartition]) -> None:
        ours = {(p.topic, p.partition) for p in self.assigned}
        assert {(p.topic, p.partition) for p in offsets} <= ours
        self._log.append("store")
        self.stored |= {(p.topic, p.partition): p.offset for p in offsets}

    def commit(self, *, asynchronous: bool, offsets: list[TopicPartition] | None = None) -> None:
        self._log.append("commit")
        if offsets is not None:
            self.committed_offsets |= {(p.topic, p.partition): p.offset for p in offsets}
            return
        self.committed_offsets |= self.stored

    def committed(self, partitions: list[TopicPartition], timeout: float = -1) -> list[TopicPartition]:
        return [
            TopicPartition(p.topic, p.partition, self.committed_offsets.get((p.topic, p.partition), -1001))
            for p in partitions
        ]

    def get_watermark_offsets(self, partition: TopicPartition, timeout: float = -1) -> tuple[int, int]:
        return 0, self.ends.get(partition.partition, 0)

    def offsets_for_times(self, partitions: list[TopicPartition], timeout: float = -1) -> list[TopicPartition]:
        self.asked_times = {p.offset for p in partitions}
        return [TopicPartition(p.topic, p.partition, self.times.get(p.partition, -1)) for p in partitions]

    def close(self) -> None:
        self.closed = True


class FakePending:
    """A batch on its way; it is stored when somebody waits for it."""

    def __init__(self, publish: Callable[[Sequence[Record]], Published], records: Sequence[Record]) -> None:
        self._publish, self._records = publish, records
        self._known: Published | PlatformError | None = None

    def wait(self) -> Published:
        if self._known is None:
            try:
                self._known = self._publish(self._records)
            except PlatformError as error:
                self._known = error
        if isinstance(self._known, PlatformError):
            raise self._known
        return self._known


class FakeQueues:
    """Keeps what is published, and knows an id once for each subject."""

    def __init__(self, log: list[str]) -> None:
        self.records: list[Record] = []
        self.refuse: Callable[[Sequence[Record]], PlatformError | None] = lambda _: None
        self.attempts = 0
        self._log = log

    def submit(self, records: Sequence[Record]) -> FakePending:
        self._log.append("submit")
        return FakePending(self.publish_batch, list(records))

    def publish_batch(self, records: Sequence[Record]) -> Published:
        self.attempts += 1
        refusal = self.refuse(records)
        if refusal is not None:
            raise refusal
        self._log.append("durable")
        there = {(r.subject, r.msg_id) for r in self.records}
        duplicates = tuple(i for i, r in enumerate(records) if (r.subject, r.msg_id) in there)
        self.records += [r for i, r in enumerate(records) if i not in duplicates]
        return Published(stream="s", first_sequence=1, appended=len(records) - len(duplicates), duplicates=duplicates)

    def payloads(self, subject: str) -> list[bytes]:
        return [r.payload for r in self.records if r.subject == subject]


class FakeProducer:
    """Kafka's producer: reports when it is polled, what the test says."""

    def __init__(self, clock: Clock, log: list[str]) -> None:
        self.sent: list[dict[str, Any]] = []
        self.waiting: deque[tuple[Any, int]] = deque()
        self.answers = True
        """Whether reports come."""
        self.verdict: Callable[[dict[str, Any]], FakeError | None] = lambda _: None
        self.raises: deque[BaseException] = deque()
        self._clock, self._log = clock, log

    def produce(self, topic: str, value: bytes | None = None, key: bytes | None = None, **more: Any) -> None:
        if self.raises:
            raise self.raises.popleft()
        self.sent.append({"topic": topic, "value": value, "key": key, **more})
        self.waiting.append((self.sent[-1], len(self.sent) - 1))

    def poll(self, timeout: float = -1) -> int:
        self._clock.now += timeout
        while self.answers and self.waiting:
            sent, offset = self.waiting.popleft()
            error = self.verdict(sent)
            self._log.append("report")
            sent["on_delivery"](error, FakeMessage(None, offset, topic="out", partition=1))
        return 0

    def flush(self, timeout: float = -1) -> int:
        self.poll(0.0)
        return len(self.waiting)


class FakeCursor:
    """Gives what it was given, and remembers what became of it."""

    def __init__(self, clock: Clock, log: list[str]) -> None:
        self.ready: deque[Delivery] = deque()
        self.asked: list[tuple[int, int]] = []
        self.acked: list[int] = []
        self.naked: list[tuple[int, float]] = []
        self.extended: list[int] = []
        self.lag = 0
        self._clock, self._log = clock, log

    def fetch(self, *, max_records: int, max_bytes: int, wait: float) -> tuple[Delivery, ...]:
        self.asked.append((max_records, max_bytes))
        if not self.ready:
            self._clock.now += wait
        return tuple(self.ready.popleft() for _ in range(min(max_records, len(self.ready))))

    def ack(self, deliveries: Iterable[Delivery]) -> int:
        self._log.append("ack")
        self.acked += [d.sequence for d in deliveries]
        return 1

    def nak(self, deliveries: Iterable[Delivery], delay: float = 0.0) -> int:
        self.naked += [(d.sequence, delay) for d in deliveries]
        return 1

    def in_progress(self, deliveries: Iterable[Delivery]) -> int:
        self.extended += [d.sequence for d in deliveries]
        return 1
