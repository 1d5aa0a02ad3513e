"""A sink: a record is acknowledged only when Kafka has reported it, and what never can be is a dead letter."""

from __future__ import annotations

import pytest

pytest.importorskip("confluent_kafka", reason="the extra kafka is not installed")

from confluent_kafka import KafkaError, KafkaException

from platformd.core.errors import StorageFull
from platformd.model.bridge import BridgeFormat, BridgeKey
from platformd.pipelines.bridges.formats import Formats
from platformd.pipelines.bridges.kafka import Connection
from platformd.pipelines.bridges.plan import BridgeReport
from platformd.pipelines.bridges.sink import RETRY_DELAY, Key, Sink
from platformd.pipelines.messages import ORIGIN, REASON
from platformd.pipelines.projection import PacketError
from platformd.queues.contract import Delivery
from tests.pipelines.bridges.fakes import Clock, FakeCursor, FakeError, FakeProducer, FakeQueues
from tests.pipelines.bridges.resources import config
from tests.pipelines.bridges.test_formats import ALERT, container


def delivery(sequence: int, payload: bytes = b"x", **fields: object) -> Delivery:
    values = {"subject": "alerts.a", "msg_id": f"id-{sequence}", "headers": {}, "time_ns": 1_700_000_000_123_456_789}
    return Delivery(
        sequence=sequence,
        payload=payload,
        append_time_ns=1,
        deliveries=1,
        **(values | fields),  # type: ignore[arg-type]
    )


class Bench:
    """A sink on fakes."""

    def __init__(self, **changes: object) -> None:
        self.log: list[str] = []
        self.clock = Clock()
        self.kafka = FakeProducer(self.clock, self.log)
        self.cursor = FakeCursor(self.clock, self.log)
        self.queues = FakeQueues(self.log)
        self.connection = Connection()
        self.report = BridgeReport()
        self.config = config("sink", **changes)
        self.rounds = 0
        self.sink = Sink(
            self.config, self.kafka, self.connection, self.cursor, self.queues, Formats(self.config.format),
            self.tell, self.stopping, self.clock,
        )  # fmt: skip

    def tell(self, report: BridgeReport, urgent: bool) -> None:
        self.report = report

    def stopping(self) -> bool:
        self.rounds -= 1
        return self.rounds < 0

    def run(self, *deliveries: Delivery, rounds: int = 3) -> None:
        self.cursor.ready.extend(deliveries)
        self.rounds = rounds
        self.sink.run()


def test_records_are_acknowledged_when_kafka_has_reported_them() -> None:
    """Nothing is acknowledged before its report."""
    bench = Bench()
    bench.kafka.answers = False
    bench.run(*(delivery(i) for i in range(1, 6)))
    assert [s["value"] for s in bench.kafka.sent] == [b"x"] * 5
    assert not bench.cursor.acked
    assert bench.report.in_flight == 5
    bench.kafka.answers = True
    bench.run(rounds=1)
    assert bench.cursor.acked == [1, 2, 3, 4, 5]
    assert bench.report.counts.records_out == 5
    assert bench.log.index("report") < bench.log.index("ack")


def test_what_kafka_gets() -> None:
    """Headers, time and key of a record go with it; a tombstone is one again; our own headers stay here."""
    bench = Bench(key=BridgeKey(header="Kafka-Key"))
    headers = {"h": "1", "Kafka-Key": "k", "Kafka-Null": "1", "Kafka-Topic": "ztf"}
    bench.run(delivery(1, b"", headers=headers), delivery(2, b"v"))
    first, second = bench.kafka.sent
    assert (first["topic"], first["value"], first["key"]) == ("out", None, b"k")
    assert first["headers"] == [("h", b"1")]
    assert first["timestamp"] == 1_700_000_000_123
    assert (second["value"], second["key"]) == (b"v", None)


def test_what_is_under_way_is_bounded() -> None:
    """No more is fetched than may be in flight, in records and in bytes."""
    bench = Bench(max_in_flight=7, batch=5)
    bench.kafka.answers = False
    bench.run(*(delivery(i) for i in range(1, 20)), rounds=6)
    assert len(bench.kafka.sent) == 7
    assert [records for records, _ in bench.cursor.asked] == [5, 2]
    small = Bench(max_in_flight_bytes=100)
    small.kafka.answers = False
    small.run(delivery(1, b"x" * 60), rounds=1)
    small.run(delivery(2, b"x" * 60), rounds=1)
    small.run(delivery(3, b"x" * 60), rounds=3)
    assert [size for _, size in small.cursor.asked] == [100, 40]
    assert len(small.kafka.sent) == 2


def test_what_waits_for_kafka_is_not_given_out_again() -> None:
    """The stream is told in time that records are still being worked on."""
    bench = Bench(max_in_flight=1)
    bench.kafka.answers = False
    bench.run(delivery(1), rounds=150)
    assert bench.clock.now - 100.0 > bench.config.ack_wait / 3
    assert bench.cursor.extended == [1]


def test_a_record_that_comes_again_is_not_sent_again() -> None:
    """While its report is awaited, a second delivery of it is left to that."""
    bench = Bench()
    bench.kafka.answers = False
    bench.run(delivery(1), delivery(1))
    assert len(bench.kafka.sent) == 1


@pytest.mark.parametrize("code", [KafkaError.MSG_SIZE_TOO_LARGE, KafkaError.INVALID_RECORD])
def test_what_kafka_never_takes_becomes_a_dead_letter(code: int) -> None:
    """It is published there before it is acknowledged; the others are sent."""
    bench = Bench()
    bench.kafka.verdict = lambda sent: FakeError(code, "no") if sent["value"] == b"bad" else None
    bench.run(delivery(1), delivery(2, b"bad"), delivery(3))
    (letter,) = bench.queues.records
    assert (letter.subject, letter.payload) == ("dead.out", b"bad")
    assert letter.headers[ORIGIN] == "alerts:2"
    assert letter.msg_id == "alerts:2:bridge-demo"
    assert sorted(bench.cursor.acked) == [1, 2, 3]
    assert bench.report.counts.dead_lettered == 1
    assert bench.report.counts.records_out == 2


def test_what_the_producer_refuses_at_once() -> None:
    """An error from ``produce`` itself is the same as one from a report; a full queue lets the record come again."""
    bench = Bench()
    bench.kafka.raises.extend([KafkaException(KafkaError(KafkaError.MSG_SIZE_TOO_LARGE)), BufferError()])
    bench.run(delivery(1), delivery(2), delivery(3))
    assert bench.queues.payloads("dead.out") == [b"x"]
    assert bench.cursor.naked == [(2, RETRY_DELAY)]
    assert sorted(bench.cursor.acked) == [1, 3]


def test_what_kafka_refuses_for_now_comes_again() -> None:
    """A topic that is not there is told as trouble, and nothing is given up."""
    bench = Bench()
    bench.kafka.verdict = lambda _: FakeError(KafkaError.UNKNOWN_TOPIC_OR_PART, "no such topic")
    bench.run(delivery(1))
    assert bench.cursor.naked == [(1, RETRY_DELAY)]
    assert not bench.cursor.acked
    assert "no such topic" in bench.report.trouble
    bench.kafka.verdict = lambda _: None
    bench.run(delivery(1))
    assert bench.cursor.acked == [1]
    assert not bench.report.trouble


def test_undecodable_records_become_dead_letters() -> None:
    """A record that is not what the format says is not sent."""
    bench = Bench(format=BridgeFormat(type="container"))
    good = container(ALERT)
    bench.run(delivery(1, b"garbage"), delivery(2, good))
    assert [s["value"] for s in bench.kafka.sent] == [good]
    (letter,) = bench.queues.records
    assert "not an Avro object container" in letter.headers[REASON]
    assert sorted(bench.cursor.acked) == [1, 2]


def test_a_dead_letter_that_cannot_be_published_comes_again() -> None:
    """Its record is not acknowledged before the letter is on the disk."""
    bench = Bench(format=BridgeFormat(type="container"))
    bench.queues.refuse = lambda _: StorageFull("the disk is full")
    bench.run(delivery(1, b"garbage"))
    assert bench.cursor.naked == [(1, RETRY_DELAY)]
    assert not bench.cursor.acked
    assert "the disk is full" in bench.report.trouble


def test_keys() -> None:
    """The subject, a header, or what an expression gives of headers and packet."""
    form = BridgeFormat(type="container")

    def key(wanted: BridgeKey, **fields: object) -> bytes | None:
        return Key(config("sink", key=wanted, format=form))(delivery(1, container(ALERT), **fields))

    assert key(BridgeKey()) is None
    assert key(BridgeKey(subject=True)) == b"alerts.a"
    assert key(BridgeKey(header="h"), headers={"h;base64": "/w=="}) == b"\xff"
    assert key(BridgeKey(header="h")) is None
    assert key(BridgeKey(expression="packet.diaObjectId")) == b"12345678901"
    assert key(BridgeKey(expression='packet.note + "/" + headers["h"]'), headers={"h": "1"}) == b"bright/1"
    assert key(BridgeKey(expression="msg_id")) == b"id-1"
    assert key(BridgeKey(expression="null")) is None
    for broken in ("packet.missing", 'headers["none"]', "true", "[1]"):
        with pytest.raises(PacketError, match="has no key"):
            key(BridgeKey(expression=broken))
