"""What a worker does with the records that it fetched: process, publish, and only then acknowledge.

A record may be processed twice (a worker died, or was slow) and its outputs still appear once: they carry
the packet's id as ``msg_id``, and the streams store an id once for each subject.

**A packet that kills its worker** must not kill every worker for ever. Records that come for the first time
are processed as a batch; if the worker dies, all of them come again, and nobody knows which one it was. So
records that come *again* are processed one at a time, each announced before (``trying``) and published and
acknowledged before the next. When a worker dies with one announced, that one is blamed by the controller,
and after ``rules.MAX_KILLS`` it is condemned: it becomes a dead letter without being processed. An innocent
record that travelled in the same batch is never blamed for it, nor does it wait: what was blamed before is tried
last. A packet that takes for ever is stopped by
the kernel's alarm, which needs nothing of the interpreter, and then is one that kills its worker.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

import msgspec

from platformd.core.errors import OutcomeUnknown, PlatformError, Unavailable
from platformd.pipelines.avro import PacketReader
from platformd.pipelines.messages import REASON, dead_letter, open_record, output, place
from platformd.pipelines.plan import Input, WorkerConfig
from platformd.pipelines.projection import PacketError
from platformd.pipelines.rules import Counts, Report
from platformd.pipelines.stages import Accept, Dead, Outcome, Publish, Reject, build
from platformd.queues.contract import Delivery, Published, Record

MAX_PUBLISH = 8 << 20
"""Bytes of payload in one batch of outputs."""
PACKET_DEADLINE = 5.0
"""Seconds that one packet may take; then the kernel ends the worker."""
RETRY_DELAY = 1.0
"""Seconds until records whose outputs could not be published come again."""


class Publisher(Protocol):
    """What is needed of ``platformd.client.queues.Producer``."""

    def publish_batch(self, records: Sequence[Record]) -> Published:
        """Durable on return."""
        ...


class Cursor(Protocol):
    """What is needed of ``platformd.client.queues.Consumer``."""

    def fetch(self, *, max_records: int, max_bytes: int, wait: float) -> tuple[Delivery, ...]:
        """Records, or none after ``wait`` seconds."""
        ...

    def ack(self, deliveries: Iterable[Delivery]) -> int:
        """They are done."""
        ...

    def nak(self, deliveries: Iterable[Delivery], delay: float = 0.0) -> int:
        """They shall come again."""
        ...

    def in_progress(self, deliveries: Iterable[Delivery]) -> int:
        """They are still being worked on."""
        ...


class Work:
    """The work of one stage on fetched records.

    Args:
        config: what stage it is.
        publisher: where outputs go.
        tell: is given a report; with ``urgent`` it must be out before the call returns.
        monotonic: seconds.
        alarm: end this process after so many seconds; 0 calls it off.
    """

    def __init__(
        self,
        config: WorkerConfig,
        publisher: Publisher,
        tell: Callable[[Report, bool], None],
        monotonic: Callable[[], float],
        alarm: Callable[[float], None] = lambda _: None,
    ) -> None:
        self._config = config
        self._publisher = publisher
        self._tell = tell
        self._monotonic = monotonic
        self._alarm = alarm
        self._step = build(config.stage)
        self._reader = PacketReader(config.fields)
        self._condemned = dict(config.condemned)
        self._suspects = frozenset(config.suspects)
        self.report = Report()

    def condemn(self, condemned: dict[str, str]) -> None:
        """Never process these records again."""
        self._condemned |= condemned

    def do(self, source: Input, cursor: Cursor, deliveries: Sequence[Delivery]) -> None:
        """Process, publish and acknowledge records.

        Raises:
            Unavailable, OutcomeUnknown: the daemon is gone; what was not acknowledged will come again.
        """
        fresh = [d for d in deliveries if d.deliveries <= 1]
        again = [d for d in deliveries if d.deliveries > 1]
        again.sort(key=lambda d: place(source.stream, d) in self._suspects)
        if fresh:
            self._batch(source, cursor, fresh, held=again)
        for i, delivery in enumerate(again):
            where = place(source.stream, delivery)
            if where not in self._condemned:
                self._say(urgent=True, trying=where)
            self._batch(source, cursor, [delivery], held=again[i + 1 :])
            # Written at once when it was the last: a worker that is killed while it waits tried nothing.
            self._say(urgent=i + 1 == len(again), trying="")

    def _batch(self, source: Input, cursor: Cursor, batch: Sequence[Delivery], held: Sequence[Delivery]) -> None:
        started = reminded = self._monotonic()
        counts = Counts(received=len(batch))
        outputs: list[Record] = []
        for delivery in batch:
            self._alarm(PACKET_DEADLINE)
            record, counts = self._process(source, delivery, counts)
            if record is not None:
                outputs.append(record)
            now = self._monotonic()
            if now - reminded > self._config.ack_wait / 3:
                cursor.in_progress([*batch, *held])
                reminded = now
        self._alarm(0)
        counts = msgspec.structs.replace(counts, busy_seconds=self._monotonic() - started)
        try:
            counts = self._publish(outputs, counts)
        except (Unavailable, OutcomeUnknown):
            raise
        except PlatformError as error:
            # The daemon is there and refuses: the disk is full, a stream was deleted. It may pass.
            cursor.nak(batch, RETRY_DELAY)
            self._say(trouble=str(error).split("\n")[0])
            return
        cursor.ack(batch)
        self._say(counts=_sum(self.report.counts, counts), trouble="")

    def _process(self, source: Input, delivery: Delivery, counts: Counts) -> tuple[Record | None, Counts]:
        """The record that a delivery becomes, and the counts with its fate in them."""
        try:
            outcome = self._outcome(source, delivery)
            if isinstance(outcome, Reject):
                return None, msgspec.structs.replace(counts, rejected=counts.rejected + 1)
            if isinstance(outcome, (Accept, Publish)):
                subject = outcome.subject if isinstance(outcome, Publish) else self._config.next_subject
                record = output(subject, outcome.envelope, delivery)
                return record, msgspec.structs.replace(counts, accepted=counts.accepted + 1)
            reason = outcome.reason
        except PacketError as error:
            reason = f"the packet {error.message}"
        letter = dead_letter(
            self._config.dead_letter,
            reason,
            pipeline=self._config.pipeline,
            stage=self._config.stage.name,
            stream=source.stream,
            delivery=delivery,
        )
        return letter, msgspec.structs.replace(counts, dead_lettered=counts.dead_lettered + 1)

    def _outcome(self, source: Input, delivery: Delivery) -> Outcome:
        condemned = self._condemned.get(place(source.stream, delivery))
        if condemned is not None:
            return Dead(condemned)
        return self._step(open_record(source.stream, delivery, self._reader, self._config.id_field))

    def _publish(self, outputs: Sequence[Record], counts: Counts) -> Counts:
        """Publish all outputs durably; those that were there already are no longer counted as new."""
        for group in _groups(outputs, self._config.streams):
            published = self._publisher.publish_batch(group)
            for position in published.duplicates:
                dead = REASON in group[position].headers
                counts = msgspec.structs.replace(
                    counts,
                    duplicates=counts.duplicates + 1,
                    accepted=counts.accepted - (not dead),
                    dead_lettered=counts.dead_lettered - dead,
                )
        return counts

    def _say(
        self,
        *,
        urgent: bool = False,
        counts: Counts | None = None,
        trying: str | None = None,
        trouble: str | None = None,
    ) -> None:
        before = self.report
        self.report = Report(
            counts=before.counts if counts is None else counts,
            trying=before.trying if trying is None else trying,
            trouble=before.trouble if trouble is None else trouble,
        )
        self._tell(self.report, urgent)


def _groups(records: Sequence[Record], streams: dict[str, str]) -> list[list[Record]]:
    """Batches to publish: each of one stream and of bounded size, in order."""
    batches: list[list[Record]] = []
    current: dict[str, tuple[list[Record], int]] = {}
    for record in records:
        stream = streams[record.subject]
        batch, size = current.get(stream, ([], 0))
        if not batch or size + len(record.payload) > MAX_PUBLISH:
            batch, size = [], 0
            batches.append(batch)
        batch.append(record)
        current[stream] = batch, size + len(record.payload)
    return batches


def _sum(first: Counts, second: Counts) -> Counts:
    return Counts(**{name: getattr(first, name) + getattr(second, name) for name in Counts.__struct_fields__})
