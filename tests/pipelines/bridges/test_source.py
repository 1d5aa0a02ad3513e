"""A source: no offset without its record on the disk, through refusals, rebalances and stops."""

from __future__ import annotations

import msgspec
import pytest

pytest.importorskip("confluent_kafka", reason="the extra kafka is not installed")

from confluent_kafka import KafkaError, KafkaException

from platformd.core.errors import InvalidInput, PlatformError, StorageFull, TooLarge
from platformd.model.bridge import BridgeFormat
from platformd.pipelines.bridges import headers
from platformd.pipelines.bridges.formats import Formats
from platformd.pipelines.bridges.kafka import Connection
from platformd.pipelines.bridges.letters import BRIDGE
from platformd.pipelines.bridges.plan import BridgeReport
from platformd.pipelines.bridges.source import Source
from platformd.pipelines.bridges.taken import token
from platformd.pipelines.messages import MAX_DEAD_LETTER, ORIGINAL_SIZE, REASON
from tests.pipelines.bridges.fakes import Clock, FakeConsumer, FakeError, FakeMessage, FakeQueues
from tests.pipelines.bridges.resources import config


class Bench:
    """A source on fakes, with one partition."""

    def __init__(self, **changes: object) -> None:
        self.log: list[str] = []
        self.clock = Clock()
        self.kafka = FakeConsumer(self.clock, self.log)
        self.queues = FakeQueues(self.log)
        self.connection = Connection()
        self.report = BridgeReport()
        self.troubles: list[str] = []
        self.rounds = 1
        self.config = config(**changes)
        self.source = Source(
            self.config, self.kafka, self.connection, self.queues, Formats(self.config.format),
            self.tell, self.stopping, self.clock,
        )  # fmt: skip

    def tell(self, report: BridgeReport, urgent: bool) -> None:
        self.report = report
        if report.trouble:
            self.troubles.append(report.trouble)

    def stopping(self) -> bool:
        self.rounds -= 1
        return self.rounds < 0

    def run(self, *messages: FakeMessage, rounds: int = 4, partitions: tuple[int, ...] = (0,)) -> None:
        self.kafka.messages.extend(messages)
        self.kafka.at_poll.appendleft(lambda: self.kafka.give(*partitions))
        self.rounds = rounds
        self.source.run()


def some(count: int, first: int = 0, partition: int = 0) -> list[FakeMessage]:
    return [FakeMessage(b"v%d" % i, i, partition=partition) for i in range(first, first + count)]


def test_records_are_durable_before_their_offsets_are_stored() -> None:
    """Each batch is acknowledged by the queues before librdkafka hears of its offsets."""
    bench = Bench()
    bench.run(*some(30))
    assert bench.queues.payloads("alerts.ztf") == [b"v%d" % i for i in range(30)]
    assert bench.kafka.committed_offsets == {("ztf", 0): 30}
    for i, entry in enumerate(bench.log):
        if entry == "store":
            assert bench.log[:i].count("durable") >= bench.log[: i + 1].count("store")
    assert bench.kafka.closed
    assert bench.report.counts.records_in == bench.report.counts.records_out == 30


def test_what_a_record_becomes() -> None:
    """Key, headers, place and time of a Kafka record are a record's here, and name it."""
    bench = Bench(subject="kafka.{topic}.{partition}.{key}")
    message = FakeMessage(
        b"v", 7, topic="lsst.v7", partition=3, key=b"a b", headers=[("h", b"1"), ("h", b"\xff"), ("n", None)],
        milliseconds=1_700_000_000_123,
    )  # fmt: skip
    bench.kafka.messages.append(message)
    lot = bench.source._lot([message])
    (record,) = lot.records
    assert record.subject == "kafka.lsst:v7.3.a%20b"
    assert record.msg_id == "lsst.v7/3/7@1700000000123"
    assert record.time_ns == 1_700_000_000_123_000_000
    assert record.headers == {
        "h": "1", "h;2;base64": "/w==", "n;null": "",
        "Kafka-Topic": "lsst.v7", "Kafka-Partition": "3", "Kafka-Offset": "7", "Kafka-Key": "a b",
    }  # fmt: skip


def test_a_record_of_another_time_is_another_record() -> None:
    """A topic that was made anew begins at offset 0 again, and its records are not taken for the old ones."""
    bench = Bench()
    bench.run(FakeMessage(b"old", 0, milliseconds=1000), FakeMessage(b"new", 0, milliseconds=2000))
    assert bench.queues.payloads("alerts.ztf") == [b"old", b"new"]


def test_what_comes_again_is_counted_and_not_doubled() -> None:
    """Records that were stored before a crash are duplicates, and their offsets are committed now."""
    bench = Bench()
    again = some(5)
    before = Bench()
    before.run(*some(5))
    bench.queues.records = before.queues.records
    bench.run(*again, *some(2, first=5))
    assert len(bench.queues.records) == 7
    assert bench.report.counts.duplicates == 5
    assert bench.report.counts.records_out == 2
    assert bench.kafka.committed_offsets == {("ztf", 0): 7}


def test_a_topic_with_a_long_name_still_names_its_records() -> None:
    """A msg_id is at most 255 bytes, whatever the topic is called."""
    bench = Bench()
    (record,) = bench.source._lot([FakeMessage(b"", 1 << 62, topic="t" * 249, partition=99)]).records
    assert len(record.msg_id) <= 255
    assert "/99/" in record.msg_id


def test_poison_becomes_a_dead_letter() -> None:
    """What is not what the format says goes to the dead letters, with where it was and why, and holds up nothing."""
    bench = Bench(format=BridgeFormat(type="registry"))
    good = b"\0\0\0\0\x07body"
    bench.run(FakeMessage(good, 0), FakeMessage(b"\x01bad", 1, key=b"k", headers=[("h", b"1")]), FakeMessage(good, 2))
    assert bench.queues.payloads("alerts.ztf") == [good, good]
    (letter,) = [r for r in bench.queues.records if r.subject == "dead.ztf"]
    assert letter.payload == b"\x01bad"
    assert "schema registry" in letter.headers[REASON]
    assert letter.headers[BRIDGE] == "demo"
    assert letter.headers[headers.OFFSET] == "1"
    assert letter.headers["h"] == "1"
    assert bench.kafka.committed_offsets == {("ztf", 0): 3}
    assert bench.report.counts.dead_lettered == 1


@pytest.mark.parametrize("error", [TooLarge("1 over the limit"), InvalidInput("it does not fit")])
def test_what_the_queues_never_take_becomes_a_dead_letter(error: PlatformError) -> None:
    """The one record of a batch that is refused is found; the others are stored."""
    bench = Bench()
    bench.queues.refuse = lambda rs: error if any(r.payload == b"v3" and r.subject != "dead.ztf" for r in rs) else None
    bench.run(*some(8))
    assert bench.queues.payloads("alerts.ztf") == [b"v%d" % i for i in range(8) if i != 3]
    assert bench.queues.payloads("dead.ztf") == [b"v3"]
    assert bench.kafka.committed_offsets == {("ztf", 0): 8}
    assert bench.report.counts.records_out == 7


def test_a_dead_letter_is_cut_to_what_its_stream_takes() -> None:
    """A poisonous record that is too large for the dead letters as well leaves its headers there."""
    bench = Bench()
    bench.queues.refuse = lambda rs: TooLarge("no") if any(len(r.payload) > 100 for r in rs) else None
    big = b"x" * (MAX_DEAD_LETTER + 5)
    bench.run(FakeMessage(big, 0))
    (letter,) = bench.queues.records
    assert (letter.subject, letter.payload) == ("dead.ztf", b"")
    assert letter.headers[ORIGINAL_SIZE] == str(len(big))


def test_while_the_queues_refuse_kafka_is_paused_and_polled() -> None:
    """A full disk pauses all partitions and is told; when it has room again everything goes on, nothing lost."""
    bench = Bench()
    refusals = [StorageFull("the disk is full")] * 3
    paused: list[bool] = []

    def refuse(records: object) -> PlatformError | None:
        paused.append(bool(bench.kafka.paused))
        return refusals.pop() if refusals else None

    bench.queues.refuse = refuse
    bench.run(*some(25), rounds=30)
    assert bench.queues.payloads("alerts.ztf") == [b"v%d" % i for i in range(25)]
    assert paused[1:4] == [True, True, True]
    assert not bench.kafka.paused
    assert "the disk is full" in bench.troubles[0]
    assert not bench.report.trouble
    assert bench.kafka.committed_offsets == {("ztf", 0): 25}


def test_told_to_stop_while_the_queues_refuse() -> None:
    """It ends, and what is not stored is not committed."""
    bench = Bench()
    bench.queues.refuse = lambda _: StorageFull("the disk is full")
    bench.run(*some(5), rounds=6)
    assert bench.kafka.closed
    assert not bench.kafka.committed_offsets


def test_partitions_are_given_up_with_what_is_durable() -> None:
    """When the group takes a partition, what is under way is settled and committed first."""
    bench = Bench()
    bench.kafka.messages.extend(some(5))
    bench.kafka.at_poll.extend([lambda: None, lambda: bench.kafka.revoke(0)])
    bench.run(rounds=3)
    assert bench.log.index("durable") < bench.log.index("commit")
    assert bench.kafka.committed_offsets == {("ztf", 0): 5}
    assert bench.report.assigned == 0


def test_partitions_that_go_while_the_queues_refuse_are_abandoned() -> None:
    """What could not be stored in time is not committed for a partition that is another's now; ours goes on."""
    bench = Bench()
    refusing = True
    bench.queues.refuse = lambda _: StorageFull("full") if refusing else None

    def revoke() -> None:
        nonlocal refusing
        bench.kafka.revoke(0)
        refusing = False

    bench.kafka.at_poll.extend([lambda: None, lambda: None, revoke])
    bench.run(*some(3), *some(4, partition=1), rounds=20, partitions=(0, 1))
    assert bench.kafka.committed_offsets == {("ztf", 1): 4}
    assert len(bench.queues.records) == 7


def test_lost_partitions_are_not_committed() -> None:
    """When the group has given our partitions away already, nothing of them is stored or committed."""
    bench = Bench()
    bench.kafka.messages.extend(some(5))
    bench.kafka.at_poll.extend([lambda: bench.kafka.lose(0)])
    bench.run(rounds=3)
    assert not bench.kafka.committed_offsets
    assert len(bench.queues.records) == 5


def test_what_is_under_way_is_bounded() -> None:
    """At max_in_flight nothing more is taken before something is durable."""
    bench = Bench(batch=10, max_in_flight=20)
    bench.kafka.at_poll.appendleft(lambda: bench.kafka.give(0))
    bench.kafka.messages.extend(some(100))
    bench.rounds = 100
    most = 0
    bench.source._kafka.subscribe(["ztf"], on_assign=bench.source._on_assign, on_revoke=None, on_lost=None)
    while bench.kafka.messages:
        bench.source.once()
        most = max(most, bench.report.in_flight)
    assert 0 < most <= 20 + 10


def test_the_start_is_chosen_once() -> None:
    """With start: latest the end of a new partition is committed at once, and a known partition goes on."""
    bench = Bench(start="latest")
    bench.kafka.ends = {0: 50, 1: 60}
    bench.kafka.committed_offsets[("ztf", 1)] = 20
    bench.run(partitions=(0, 1), rounds=1)
    assert bench.kafka.committed_offsets == {("ztf", 0): 50, ("ztf", 1): 20}


def test_a_start_in_time() -> None:
    """With start: time Kafka is asked for the first records that are as new; where there are none, the end it is."""
    bench = Bench(start="time", start_time_ns=1_700_000_000_000_000_000)
    bench.kafka.times, bench.kafka.ends = {0: 33}, {0: 50, 1: 60}
    bench.run(partitions=(0, 1), rounds=1)
    assert bench.kafka.asked_times == {1_700_000_000_000}
    assert bench.kafka.committed_offsets == {("ztf", 0): 33, ("ztf", 1): 60}


def test_errors_of_kafka_are_told_until_records_come() -> None:
    """What Kafka says instead of a record is the bridge's trouble; a record ends that."""
    bench = Bench()
    bench.run(FakeMessage(None, error=FakeError(3, "no such topic")), rounds=1)
    assert "no such topic" in bench.report.trouble
    assert bench.report.counts.errors == 1
    bench.run(*some(1))
    assert not bench.report.trouble


def test_a_fatal_error_ends_it() -> None:
    """What librdkafka cannot recover from ends the process, for the daemon to start another."""
    bench = Bench()
    with pytest.raises(KafkaException):
        bench.run(FakeMessage(None, error=FakeError(KafkaError._FATAL, fatal=True)))


@pytest.mark.parametrize(
    ("key", "expected"),
    [(None, "-"), (b"", "-"), (b"ZTF18abc", "ZTF18abc"), (b"a.b*>", "a%2Eb%2A%3E"), (b"\xff%", "%FF%25")],
)
def test_keys_as_tokens(key: bytes | None, expected: str) -> None:
    """Any key is one token of a subject, and different keys are different tokens."""
    assert token(key) == expected


def test_reports_list_partitions_with_the_greatest_lag_first() -> None:
    """Lags come from librdkafka; all partitions are counted."""
    bench = Bench()
    topics = {"ztf": {"partitions": {"0": {"consumer_lag": 5}, "1": {"consumer_lag": 9}, "-1": {"consumer_lag": -1}}}}
    bench.connection.on_statistics(msgspec.json.encode({"brokers": {}, "topics": topics}).decode())
    bench.run(partitions=(0, 1), rounds=1)
    assert [(p.partition, p.lag) for p in bench.report.partitions] == [(1, 9), (0, 5)]
    assert (bench.report.lag, bench.report.assigned, bench.report.ready) == (14, 2, True)
