"""A Kafka cluster for tests: librdkafka's mock, in a process of its own, so that it can be stopped and continued.

Facts of the mock that shape tests: topics appear with four partitions when they are first used; a partition keeps at
most 5 MiB or 100,000 records; a group's first members wait three seconds, and one that dies is missed after its
session timeout; offsets are not found by time.
"""

from __future__ import annotations

import signal
import subprocess
import sys
from types import TracebackType
from typing import Any

from confluent_kafka import Consumer, Message, Producer, TopicPartition

_PROGRAM = """
import sys
from confluent_kafka import Producer
owner = Producer({"test.mock.num.brokers": 1, "log_level": 0})
broker = next(iter(owner.list_topics(timeout=30).brokers.values()))
print(f"{broker.host}:{broker.port}", flush=True)
sys.stdin.read()
"""
PATIENCE = 30.0
"""Seconds that an answer may take."""


class KafkaCluster:
    """A mock cluster of one broker; a context manager."""

    def __enter__(self) -> KafkaCluster:
        self._process = subprocess.Popen(
            [sys.executable, "-c", _PROGRAM], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self._process.stdout is not None
        self.address = self._process.stdout.readline().strip()
        assert self.address, "the mock cluster did not start"
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.communicate()

    def freeze(self) -> None:
        """Answer nobody until ``thaw``; nothing is lost."""
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Go on."""
        self._process.send_signal(signal.SIGCONT)

    def client(self, **properties: Any) -> dict[str, Any]:
        """The configuration of a client, underscores for dots."""
        return {
            "bootstrap.servers": self.address,
            "log_level": 0,
            **{name.replace("_", "."): value for name, value in properties.items()},
        }

    def produce(self, topic: str, values: list[bytes | None], **fields: Any) -> None:
        """Write records, and wait until they are there."""
        producer = Producer(self.client(enable_idempotence=True))
        for value in values:
            producer.produce(topic, value, **fields)
        assert producer.flush(PATIENCE) == 0

    def read(self, topic: str, count: int, partitions: int = 4) -> list[Message]:
        """The first ``count`` records of a topic, without a group."""
        consumer = Consumer(self.client(group_id="reader", enable_auto_commit=False, auto_offset_reset="earliest"))
        try:
            consumer.assign([TopicPartition(topic, p, 0) for p in range(partitions)])
            found: list[Message] = []
            while len(found) < count:
                messages = consumer.consume(count - len(found), PATIENCE)
                assert messages, f"{len(found)} of {count} records came"
                found += [m for m in messages if m.error() is None]
            return found
        finally:
            consumer.close()

    def committed(self, group: str, topic: str, partitions: int = 4) -> dict[int, int]:
        """What a group has committed, by partition; those without are left out."""
        consumer = Consumer(self.client(group_id=group, enable_auto_commit=False))
        try:
            wanted = [TopicPartition(topic, p) for p in range(partitions)]
            return {p.partition: p.offset for p in consumer.committed(wanted, PATIENCE) if p.offset >= 0}
        finally:
            consumer.close()
