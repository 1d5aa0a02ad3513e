"""From Kafka to a stream: no offset is committed whose record is not on the disk here.

Records are taken in lots, each published as one batch; several are under way. Lots are settled in the order in which
they were taken, and only a settled lot's offsets are given to librdkafka, which commits them (``store_offsets``). So a
crash at any point makes records come again and none get lost; and those that come again carry the ``msg_id`` that they
had, by which the stream knows them:

    TOPIC/PARTITION/OFFSET@MILLISECONDS     of the record's own time

The time is there because an offset alone does not name a record for ever: a topic that is made anew, or another
cluster, begins at 0 again, and its records must not be taken for those that the stream has.

**When records are refused**: what the queues will never take (too large, not valid) becomes a dead letter, found by
publishing the lot's records one by one. Anything else may pass (the disk is full, the stream is not there, the daemon
restarts): all partitions are paused, Kafka is still polled so that the group keeps us, and the lot is tried again.

**When partitions are taken away**, what is under way is settled and committed before they go. If that cannot be done
soon, they go without: the lots still settle later, but tell nobody the offsets of partitions that are another's now.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import msgspec
from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from platformd.client.producer import Pending
from platformd.core.errors import PlatformError
from platformd.model.bridge import MAX_LISTED, PartitionStatus
from platformd.model.subjects import subject_error
from platformd.pipelines.bridges import headers
from platformd.pipelines.bridges.formats import Formats
from platformd.pipelines.bridges.kafka import Connection, describe, error_of
from platformd.pipelines.bridges.letters import REFUSALS, dead_letter, first_line, publish_letter
from platformd.pipelines.bridges.plan import BridgeConfig, BridgeCounts, BridgeReport
from platformd.pipelines.bridges.taken import Place, msg_id_of, own_headers, place_of, size_of, time_of, token
from platformd.pipelines.projection import PacketError
from platformd.queues.contract import Published, Record

LOTS = 4
"""Batches under way."""
MAX_LOT = 4 << 20
"""Bytes of payload after which a lot takes no more."""
CHUNK = 64
"""Messages that are asked of librdkafka at once."""
IDLE_POLL = 0.5
"""Seconds to wait for a record when nothing is under way."""
RETRY_FIRST, RETRY_LAST = 0.1, 5.0
"""Seconds between attempts to publish what was refused; they double."""
ASK_TIMEOUT = 10.0
"""Seconds that a broker may take to tell offsets."""


class LotPublisher(Protocol):
    """What is needed of ``platformd.client.queues.Producer``."""

    def submit(self, records: Sequence[Record]) -> Pending:
        """On their way when it returns."""
        ...

    def publish_batch(self, records: Sequence[Record]) -> Published:
        """Durable when it returns."""
        ...


class Stopped(Exception):
    """It was told to stop while it waited."""


@dataclass(eq=False)
class _Lot:
    """Records that were taken together."""

    records: list[Record] = field(default_factory=list)
    dead: list[Record] = field(default_factory=list)
    offsets: dict[Place, int] = field(default_factory=dict)
    """Where each partition goes on when this lot is settled."""
    taken: int = 0
    size: int = 0
    pending: Pending | None = None
    refused: PlatformError | None = None


class Source:
    """Takes from Kafka, publishes, and lets offsets be committed.

    Args:
        config: what it is.
        kafka: configured by ``source_config``; its callbacks are ``connection``'s.
        connection: what librdkafka tells.
        publisher: durable on acknowledgement.
        formats: what payloads become.
        tell: is given a report from time to time; with ``True`` at once.
        stopping: whether it was told to stop.
        monotonic: seconds.
    """

    def __init__(
        self,
        config: BridgeConfig,
        kafka: Consumer,
        connection: Connection,
        publisher: LotPublisher,
        formats: Formats,
        tell: Callable[[BridgeReport, bool], None],
        stopping: Callable[[], bool],
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._config = config
        self._kafka = kafka
        self._connection = connection
        self._publisher = publisher
        self._formats = formats
        self._tell = tell
        self._stopping = stopping
        self._monotonic = monotonic
        self._lots: deque[_Lot] = deque()
        self._owned: dict[Place, int] = {}
        """Our partitions, and where each goes on; -1 before its first record."""
        self._late: list[Message] = []
        """What came although it was paused."""
        self._held = False
        self._joined = False
        self._trouble = ""
        self._counts = BridgeCounts()

    def run(self) -> None:
        """Work until told to stop."""
        topics = list(self._config.topics) or [self._config.pattern]
        self._kafka.subscribe(topics, on_assign=self._on_assign, on_revoke=self._on_revoke, on_lost=self._on_lost)
        try:
            while not self._stopping():
                self.once()
            while self._lots:
                self._settle(self._lots[0])
                self._lots.popleft()
        except Stopped:
            pass
        self._commit()
        self._say(urgent=True)
        self._kafka.close()

    def once(self) -> None:
        """Take one lot, and settle what is due."""
        while self._lots and self._full():
            self._settle(self._lots[0])
            self._lots.popleft()
        messages = self._take(0.0 if self._late else (self._config.linger if self._lots else IDLE_POLL))
        if messages:
            lot = self._lot(messages)
            self._lots.append(lot)
            self._submit(lot)
        # With nothing new there is time to wait for what is under way.
        while self._lots and (not messages or len(self._lots) > LOTS):
            self._settle(self._lots[0])
            self._lots.popleft()
        self._say()

    def _full(self) -> bool:
        size = sum(lot.size for lot in self._lots)
        return sum(lot.taken for lot in self._lots) >= self._config.max_in_flight or (
            size >= self._config.max_in_flight_bytes
        )

    # -- taking ------------------------------------------------------------------------------------------

    def _take(self, wait: float) -> list[Message]:
        """What comes: waits for the first record, and then for more until the lot is full or has lingered."""
        found, self._late = self._late, []
        first = None if found else self._kafka.poll(wait)
        if first is not None:
            found.append(first)
        until = self._monotonic() + self._config.linger
        size = sum(map(size_of, found))
        while found and len(found) < self._config.batch and size < MAX_LOT:
            room = min(CHUNK, self._config.batch - len(found))
            more = self._kafka.consume(room, max(until - self._monotonic(), 0.0))
            found += more
            size += sum(map(size_of, more))
            if len(more) < room:
                break
        return [message for message in found if self._good(message)]

    def _good(self, message: Message) -> bool:
        error = message.error()
        if error is None:
            self._connection.works()
            return True
        self._connection.failed(error)
        if error.fatal():
            raise KafkaException(error)
        self._trouble = f"Kafka cannot give it records: {describe(error)}"
        return False

    def _lot(self, messages: Iterable[Message]) -> _Lot:
        lot = _Lot()
        for message in messages:
            place = place_of(message)
            offset = message.offset()
            assert offset is not None
            lot.offsets[place] = offset + 1
            lot.taken += 1
            self._convert(message, lot)
        lot.size = sum(len(r.payload) for r in (*lot.records, *lot.dead))
        self._trouble = ""
        self._counts = msgspec.structs.replace(self._counts, records_in=self._counts.records_in + lot.taken)
        return lot

    def _convert(self, message: Message, lot: _Lot) -> None:
        found = message.headers() or ()
        theirs = headers.from_kafka(found.items() if isinstance(found, dict) else found)
        own, msg_id, time_ns = own_headers(message), msg_id_of(message), time_of(message)
        value = message.value() or b""
        try:
            subject = self._subject(message)
            payload = self._formats.inbound(value, own)
        except PacketError as error:
            lot.dead.append(
                dead_letter(
                    self._config.dead_letter,
                    f"the record {error.message}",
                    bridge=self._config.bridge,
                    payload=value,
                    headers=theirs,
                    own=own,
                    msg_id=msg_id,
                    time_ns=time_ns,
                )
            )
            return
        record = Record(subject=subject, payload=payload, msg_id=msg_id, headers=theirs | own, time_ns=time_ns)
        lot.records.append(record)

    def _subject(self, message: Message) -> str:
        template = self._config.subject
        if "{" not in template:
            return template
        topic, partition = place_of(message)
        subject = (
            template.replace("{topic}", topic.replace(".", ":"))
            .replace("{partition}", str(partition))
            .replace("{key}", token(message.key()))
        )
        wrong = subject_error(subject, pattern=False)
        if wrong:
            raise PacketError(f"makes a subject that {wrong}")
        return subject

    # -- settling ----------------------------------------------------------------------------------------

    def _submit(self, lot: _Lot) -> None:
        if lot.records:
            try:
                lot.pending = self._publisher.submit(lot.records)
            except PlatformError as error:
                lot.refused = error

    def _settle(self, lot: _Lot, *, patient: bool = True) -> bool:
        """Bring a lot to the disk and store its offsets; with ``patient`` for as long as that takes.

        Returns:
            Whether it is there.

        Raises:
            Stopped: it was told to stop before.
        """
        delay = RETRY_FIRST
        attempt = self._first_attempt
        while True:
            try:
                attempt(lot)
                break
            except PlatformError as error:
                self._connection.errors += 1
                self._connection.last_error = first_line(error)
                self._trouble = f"records cannot be published: {first_line(error)}"
                if not patient:
                    return False
            self._hold(delay)
            delay = min(delay * 2, RETRY_LAST)
            attempt = self._another_attempt
        self._release()
        # Partitions may have gone while it waited; ``offsets`` has those that are still ours.
        stored = [TopicPartition(topic, partition, offset) for (topic, partition), offset in lot.offsets.items()]
        if stored:
            self._kafka.store_offsets(offsets=stored)
        self._owned |= lot.offsets
        return True

    def _first_attempt(self, lot: _Lot) -> None:
        """Take what came of the lot as it was submitted."""
        if lot.records:
            try:
                if lot.refused is not None:
                    raise lot.refused
                assert lot.pending is not None
                self._published(lot.records, lot.pending.wait())
            except REFUSALS:
                self._one_by_one(lot)
            lot.records = []
        self._bury(lot)

    def _another_attempt(self, lot: _Lot) -> None:
        if lot.records:
            try:
                self._published(lot.records, self._publisher.publish_batch(lot.records))
            except REFUSALS:
                self._one_by_one(lot)
            lot.records = []
        self._bury(lot)

    def _one_by_one(self, lot: _Lot) -> None:
        """Publish each record by itself, to find those that will never be taken."""
        while lot.records:
            record = lot.records[0]
            try:
                self._published([record], self._publisher.publish_batch([record]))
            except REFUSALS as error:
                lot.dead.append(
                    dead_letter(
                        self._config.dead_letter,
                        f"the record is refused: {first_line(error)}",
                        bridge=self._config.bridge,
                        payload=record.payload,
                        headers=record.headers,
                        own={k: v for k, v in record.headers.items() if k in headers.OWN},
                        msg_id=record.msg_id,
                        time_ns=record.time_ns,
                    )
                )
            lot.records = lot.records[1:]

    def _bury(self, lot: _Lot) -> None:
        while lot.dead:
            new = publish_letter(self._publisher, lot.dead[0])
            counts = self._counts
            self._counts = msgspec.structs.replace(
                counts, dead_lettered=counts.dead_lettered + new, duplicates=counts.duplicates + (not new)
            )
            lot.dead.pop(0)

    def _published(self, records: Sequence[Record], published: Published) -> None:
        again = len(published.duplicates)
        self._counts = msgspec.structs.replace(
            self._counts,
            records_out=self._counts.records_out + len(records) - again,
            bytes=self._counts.bytes
            + sum(len(r.payload) for r in records)
            - sum(len(records[i].payload) for i in published.duplicates),
            duplicates=self._counts.duplicates + again,
        )

    def _hold(self, delay: float) -> None:
        """Wait, with all partitions paused, and still in the group."""
        if not self._held:
            self._held = True
            self._kafka.pause(self._kafka.assignment())
        self._say()
        until = self._monotonic() + delay
        while (left := until - self._monotonic()) > 0:
            if self._stopping():
                raise Stopped
            message = self._kafka.poll(min(left, 0.2))
            if message is not None:
                self._late.append(message)
                self._kafka.pause(self._kafka.assignment())

    def _release(self) -> None:
        if self._held:
            self._held = False
            self._trouble = ""
            self._kafka.resume(self._kafka.assignment())

    # -- the group ---------------------------------------------------------------------------------------

    def _on_assign(self, _: object, partitions: list[TopicPartition]) -> None:
        self._joined = True
        self._connection.works()
        if not self._held:
            self._trouble = ""
        for partition in partitions:
            self._owned[partition.topic, partition.partition] = -1
        if self._config.start != "earliest" and partitions:
            self._begin(partitions)
        if self._held:
            self._kafka.pause(partitions)

    def _begin(self, partitions: list[TopicPartition]) -> None:
        """Begin where the specification says in partitions without an offset, and commit that at once: a crash before
        the first record must not choose anew.
        """
        known = {(p.topic, p.partition): p for p in self._kafka.committed(partitions, ASK_TIMEOUT)}
        new = [p for p in partitions if known[p.topic, p.partition].offset < 0]
        if not new:
            return
        if self._config.start == "time":
            wanted = [TopicPartition(p.topic, p.partition, self._config.start_time_ns // 1_000_000) for p in new]
            found = {(p.topic, p.partition): p.offset for p in self._kafka.offsets_for_times(wanted, ASK_TIMEOUT)}
        else:
            found = {(p.topic, p.partition): -1 for p in new}
        for place, offset in found.items():
            if offset < 0:  # nothing is as new as that: at the end
                found[place] = self._kafka.get_watermark_offsets(TopicPartition(*place), ASK_TIMEOUT)[1]
        # Committed before the assignment stands, which then begins there, whatever the protocol of the group is.
        chosen = [TopicPartition(*place, offset) for place, offset in found.items()]
        self._kafka.commit(offsets=chosen, asynchronous=False)
        self._owned |= found

    def _on_revoke(self, _: object, partitions: list[TopicPartition]) -> None:
        try:
            # While one waits to be tried again the others would only fail as it did.
            while self._lots and not self._held and self._settle(self._lots[0], patient=False):
                self._lots.popleft()
        finally:
            self._disown(partitions)
        self._commit()

    def _on_lost(self, _: object, partitions: list[TopicPartition]) -> None:
        self._disown(partitions)

    def _disown(self, partitions: Iterable[TopicPartition]) -> None:
        gone = {(p.topic, p.partition) for p in partitions}
        for place in gone:
            self._owned.pop(place, None)
            for lot in self._lots:
                lot.offsets.pop(place, None)
        self._late = [m for m in self._late if m.error() is not None or place_of(m) not in gone]

    def _commit(self) -> None:
        try:
            self._kafka.commit(asynchronous=False)
        except KafkaException as exception:
            error = error_of(exception)
            if error.code() != KafkaError._NO_OFFSET:  # noqa: SLF001 - that is how the library names it
                self._connection.failed(error)

    # -- reporting ---------------------------------------------------------------------------------------

    def _say(self, *, urgent: bool = False) -> None:
        lags = self._connection.lags
        rows = [
            PartitionStatus(topic=topic, partition=number, offset=offset, lag=lags.get((topic, number), -1))
            for (topic, number), offset in self._owned.items()
        ]
        rows.sort(key=lambda row: (-row.lag, row.topic, row.partition))
        report = BridgeReport(
            counts=msgspec.structs.replace(self._counts, errors=self._connection.errors),
            ready=self._joined,
            assigned=len(rows),
            partitions=tuple(rows[:MAX_LISTED]),
            lag=sum(max(row.lag, 0) for row in rows),
            in_flight=sum(lot.taken for lot in self._lots),
            trouble=self._connection.trouble(needed=True) or self._trouble,
            last_error=self._connection.last_error,
        )
        self._tell(report, urgent)
