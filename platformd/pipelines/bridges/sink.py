"""From a stream to Kafka: a record is acknowledged only when Kafka has reported it delivered.

Records are given to librdkafka as they come, up to a bound of records and bytes; its reports come back in ``poll`` and
are acknowledged together. The producer is idempotent, so that its own retries double nothing and keep the order of each
partition; after a crash of ours, what was not acknowledged is sent again, perhaps a second time.

A record that waits for Kafka is told to the stream as in progress, so that it is not given out again meanwhile. What
Kafka will never take becomes a dead letter; what it refuses for another reason (no such topic, no permission) comes
again from the stream after ``RETRY_DELAY``.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from functools import partial
from typing import Protocol

import msgspec
from confluent_kafka import KafkaError, KafkaException, Message, Producer

from platformd.core.errors import OutcomeUnknown, PlatformError, Unavailable
from platformd.model.bridge import MAX_LISTED, PartitionStatus
from platformd.pipelines.avro import PacketReader
from platformd.pipelines.bridges import headers
from platformd.pipelines.bridges.formats import Formats
from platformd.pipelines.bridges.kafka import Connection, describe, error_of
from platformd.pipelines.bridges.letters import dead_letter, first_line, publish_letter
from platformd.pipelines.bridges.plan import BridgeConfig, BridgeCounts, BridgeReport
from platformd.pipelines.expressions import EvaluationError, Expression
from platformd.pipelines.messages import ORIGIN, place
from platformd.pipelines.projection import PacketError
from platformd.pipelines.work import Cursor, Publisher
from platformd.queues.contract import Delivery

IDLE_POLL = 0.5
"""Seconds to wait for a record when nothing is under way."""
BUSY_POLL = 0.01
"""The same while Kafka's reports may come."""
RETRY_DELAY = 1.0
"""Seconds until a record comes again that Kafka refused for now."""
FLUSH = 3.0
"""Seconds that Kafka has to report what is under way, when we are told to stop."""
MAX_FETCH = 4 << 20
"""Bytes that are fetched at once; one larger record comes alone."""

_NEVER = frozenset({KafkaError.MSG_SIZE_TOO_LARGE, KafkaError.INVALID_MSG_SIZE, KafkaError.INVALID_RECORD})


class SinkCursor(Cursor, Protocol):
    """What is needed of ``platformd.client.queues.Consumer``."""

    lag: int


class Sink:
    """Takes from a stream, sends, and acknowledges what was delivered.

    Args:
        config: what it is.
        kafka: configured by ``sink_config``; its callbacks are ``connection``'s.
        connection: what librdkafka tells.
        cursor: where records come from.
        publisher: of dead letters.
        formats: what payloads become.
        tell: is given a report from time to time; with ``True`` at once.
        stopping: whether it was told to stop.
        monotonic: seconds.
    """

    def __init__(
        self,
        config: BridgeConfig,
        kafka: Producer,
        connection: Connection,
        cursor: SinkCursor,
        publisher: Publisher,
        formats: Formats,
        tell: Callable[[BridgeReport, bool], None],
        stopping: Callable[[], bool],
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._config = config
        self._kafka = kafka
        self._connection = connection
        self._cursor = cursor
        self._publisher = publisher
        self._formats = formats
        self._tell = tell
        self._stopping = stopping
        self._monotonic = monotonic
        self._key = Key(config)
        self._out: dict[int, Delivery] = {}
        """By sequence: what Kafka has not reported yet."""
        self._out_bytes = 0
        self._delivered: list[Delivery] = []
        self._refused: list[Delivery] = []
        self._never: list[tuple[Delivery, str]] = []
        self._offsets: dict[int, int] = {}
        """By partition: the last offset that was reported."""
        self._reminded = self._monotonic()
        self._trouble = ""
        self._counts = BridgeCounts()

    def run(self) -> None:
        """Work until told to stop."""
        while not self._stopping():
            self.once()
        self._kafka.flush(FLUSH)
        self._settle()
        self._say(urgent=True)

    def once(self) -> None:
        """Fetch what there is room for, send it, and acknowledge what was reported."""
        self._kafka.poll(0.0)
        self._settle()
        room = self._config.max_in_flight - len(self._out)
        room_bytes = self._config.max_in_flight_bytes - self._out_bytes
        if room > 0 and room_bytes > 0:
            found = self._cursor.fetch(
                max_records=min(self._config.batch, room),
                max_bytes=min(MAX_FETCH, room_bytes),
                wait=BUSY_POLL if self._out else IDLE_POLL,
            )
            self._counts = msgspec.structs.replace(self._counts, records_in=self._counts.records_in + len(found))
            for delivery in found:
                self._send(delivery)
        else:
            self._kafka.poll(0.1)
        self._remind()
        self._say()

    def _send(self, delivery: Delivery) -> None:
        if delivery.sequence in self._out:
            return  # it came again while we still have it: its report will do for both
        try:
            key = self._key(delivery)
            value = None if headers.NULL in delivery.headers else self._formats.outbound(delivery.payload)
        except PacketError as error:
            self._never.append((delivery, f"the record {error.message}"))
            return
        try:
            self._kafka.produce(
                self._config.topics[0],
                value,
                key,
                on_delivery=partial(self._reported, delivery),
                timestamp=max(delivery.time_ns // 1_000_000, 0),
                headers=headers.to_kafka(delivery.headers),
            )
        except BufferError:
            self._refused.append(delivery)  # librdkafka's own bound, which is ours and a little more
            return
        except KafkaException as exception:
            self._failed(delivery, error_of(exception))
            return
        self._out[delivery.sequence] = delivery
        self._out_bytes += len(delivery.payload)

    def _reported(self, delivery: Delivery, error: KafkaError | None, message: Message) -> None:
        self._out.pop(delivery.sequence, None)
        self._out_bytes -= len(delivery.payload)
        if error is not None:
            self._failed(delivery, error)
            return
        self._connection.works()
        self._trouble = ""
        self._delivered.append(delivery)
        partition, offset = message.partition(), message.offset()
        if partition is not None and offset is not None:
            self._offsets[partition] = max(offset, self._offsets.get(partition, -1))

    def _failed(self, delivery: Delivery, error: KafkaError) -> None:
        self._connection.failed(error)
        if error.fatal():
            raise KafkaException(error)
        if error.code() in _NEVER:
            self._never.append((delivery, f"Kafka refuses it: {describe(error)}"))
        else:
            self._trouble = f"Kafka refuses records: {describe(error)}"
            self._refused.append(delivery)

    def _settle(self) -> None:
        """Tell the stream what became of records."""
        if self._delivered:
            done, self._delivered = self._delivered, []
            self._cursor.ack(done)
            self._counts = msgspec.structs.replace(
                self._counts,
                records_out=self._counts.records_out + len(done),
                bytes=self._counts.bytes + sum(len(d.payload) for d in done),
            )
        if self._refused:
            refused, self._refused = self._refused, []
            self._cursor.nak(refused, RETRY_DELAY)
        while self._never:
            self._bury(*self._never.pop(0))

    def _bury(self, delivery: Delivery, reason: str) -> None:
        where = place(self._config.stream, delivery)
        letter = dead_letter(
            self._config.dead_letter,
            reason,
            bridge=self._config.bridge,
            payload=delivery.payload,
            headers=delivery.headers,
            own={ORIGIN: where},
            msg_id=f"{where}:{self._config.consumer}",
            time_ns=delivery.time_ns,
        )
        try:
            new = publish_letter(self._publisher, letter)
        except (Unavailable, OutcomeUnknown):
            raise
        except PlatformError as error:
            self._connection.errors += 1
            self._connection.last_error = first_line(error)
            self._trouble = f"a dead letter cannot be published: {first_line(error)}"
            self._cursor.nak([delivery], RETRY_DELAY)
            return
        self._cursor.ack([delivery])
        self._counts = msgspec.structs.replace(
            self._counts,
            dead_lettered=self._counts.dead_lettered + new,
            duplicates=self._counts.duplicates + (not new),
        )

    def _remind(self) -> None:
        """Keep what waits for Kafka from being given out again."""
        now = self._monotonic()
        if self._out and now - self._reminded > self._config.ack_wait / 3:
            self._cursor.in_progress(self._out.values())
            self._reminded = now
        elif not self._out:
            self._reminded = now

    def _say(self, *, urgent: bool = False) -> None:
        topic = self._config.topics[0]
        rows = [PartitionStatus(topic=topic, partition=p, offset=o) for p, o in sorted(self._offsets.items())]
        report = BridgeReport(
            counts=msgspec.structs.replace(self._counts, errors=self._connection.errors),
            ready=self._connection.ever_up,
            assigned=len(rows),
            partitions=tuple(rows[:MAX_LISTED]),
            lag=self._cursor.lag,
            in_flight=len(self._out),
            trouble=self._connection.trouble(needed=bool(self._out)) or self._trouble,
            last_error=self._connection.last_error,
        )
        self._tell(report, urgent)


class Key:
    """The key of a record, as its bridge says.

    Args:
        config: the bridge.
    """

    def __init__(self, config: BridgeConfig) -> None:
        self._header = config.key.header
        self._subject = config.key.subject
        self._expression = Expression(config.key.expression) if config.key.expression else None
        self._reader: PacketReader | None = None
        if self._expression is not None and "packet" in self._expression.variables:
            self._reader = PacketReader(_fields(self._expression.reads))

    def __call__(self, delivery: Delivery) -> bytes | None:
        """The key.

        Raises:
            PacketError: the expression fails on the record, or its packet cannot be read.
        """
        if self._subject:
            return delivery.subject.encode()
        if self._header:
            return headers.value_of(delivery.headers, self._header)
        if self._expression is None:
            return None
        context = {"subject": delivery.subject, "headers": delivery.headers, "msg_id": delivery.msg_id}
        packet = {} if self._reader is None else {"packet": self._reader.read(delivery.payload)}
        try:
            value = self._expression.value({k: v for k, v in (context | packet).items() if self._wants(k)})
        except EvaluationError as error:
            raise PacketError(f"has no key: the expression fails on it: {error.message}") from error
        if isinstance(value, bytes):
            return value
        if isinstance(value, str | int | float) and not isinstance(value, bool):
            return str(value).encode()
        if value is None:
            return None
        raise PacketError(f"has no key: the expression gives a {type(value).__name__}, not a string, number or bytes")

    def _wants(self, name: str) -> bool:
        return self._expression is not None and name in self._expression.variables


def _fields(reads: Iterable[str] | None) -> tuple[str, ...] | None:
    """The packet's fields of what an expression reads; ``None`` for all."""
    if reads is None:
        return None
    fields = []
    for path in reads:
        root, _, rest = path.partition(".")
        if root == "packet":
            if not rest:
                return None
            fields.append(rest)
    return tuple(sorted(fields))
