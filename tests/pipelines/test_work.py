"""A worker's work: processed, published, and only then acknowledged; nothing lost, nothing counted twice."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from platformd.core.errors import PlatformError, StorageFull, Unavailable
from platformd.pipelines import messages, work
from platformd.pipelines.plan import Input, WorkerConfig
from platformd.pipelines.rules import Counts, Report
from platformd.pipelines.work import Work
from platformd.pipelines.worker import POLL, POLL_BACKLOG, REPORT_INTERVAL, STOP_DEADLINE, Loop, Reporter
from platformd.queues.contract import Delivery
from tests.pipelines.fakes import FakeCursor, FakePublisher
from tests.pipelines.packets import alert, container
from tests.pipelines.resources import ROUTE, worker_config

SOURCE = Input(stream="alerts", consumer="pipeline-demo")


def delivery(sequence: int, payload: bytes, deliveries: int = 1) -> Delivery:
    return Delivery(
        sequence=sequence,
        subject="alerts.ztf",
        payload=payload,
        msg_id="",
        headers={},
        time_ns=1000 + sequence,
        append_time_ns=0,
        deliveries=deliveries,
    )


def good(sequence: int, deliveries: int = 1) -> Delivery:
    return delivery(sequence, container(alert(sequence, rb=0.9)), deliveries)


def bad(sequence: int) -> Delivery:
    return delivery(sequence, container(alert(sequence, rb=0.1)))


class Bench:
    """A worker's work with everything around it in memory."""

    def __init__(self, config: WorkerConfig | None = None) -> None:
        self.log: list[str] = []
        self.publisher = FakePublisher(self.log)
        self.cursor = FakeCursor(self.log)
        self.reports: list[tuple[Report, bool]] = []
        self.alarms: list[float] = []
        self.now = 0.0
        self.work = Work(
            config or worker_config(),
            self.publisher,
            lambda report, urgent: self.reports.append((report, urgent)),
            lambda: self.now,
            self.alarms.append,
        )

    def do(self, *deliveries: Delivery) -> None:
        self.work.do(SOURCE, self.cursor, deliveries)

    @property
    def counts(self) -> dict[str, Any]:
        return {k: v for k, v in msgspec.to_builtins(self.work.report.counts).items() if v}


def test_a_batch_is_published_before_it_is_acknowledged() -> None:
    """Accepted packets go on, rejected ones end, and both are acknowledged after the publishing."""
    bench = Bench()
    bench.do(good(1), bad(2), good(3))
    assert bench.log == ["publish", "ack"]
    assert bench.cursor.acked == [1, 2, 3]
    assert [(r.subject, r.msg_id) for r in bench.publisher.records] == [
        ("pipeline.demo.annotate", "1"),
        ("pipeline.demo.annotate", "3"),
    ]
    assert bench.publisher.records[0].headers[messages.PUBLISHED] == "1001"
    assert bench.counts == {"received": 3, "accepted": 2, "rejected": 1}


def test_what_cannot_be_processed_becomes_a_dead_letter() -> None:
    """Garbage and packets that make the expression fail end on the dead-letter subject, and the rest goes on."""
    bench = Bench()
    bench.do(delivery(1, b"garbage"), delivery(2, container(alert(2))), good(3))
    dead = [r for r in bench.publisher.records if r.subject == "out.dead"]
    assert [r.headers[messages.ORIGIN] for r in dead] == ["alerts:1", "alerts:2"]
    assert dead[0].headers[messages.REASON].startswith("the packet is not an Avro object container")
    assert "candidate.rb is null" in dead[1].headers[messages.REASON]
    assert dead[0].payload == b"garbage"
    assert bench.cursor.acked == [1, 2, 3]
    assert bench.counts == {"received": 3, "accepted": 1, "dead_lettered": 2}


def test_streams_get_one_batch_each() -> None:
    """Outputs of one stream travel together, in order; a batch is not larger than its limit."""
    bench = Bench()
    bench.do(good(1), delivery(2, b"x"), good(3), delivery(4, b"y"))
    assert sorted(bench.publisher.batches) == [2, 2]


def test_large_outputs_are_split(monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch of outputs stays within what the queues take."""
    monkeypatch.setattr(work, "MAX_PUBLISH", 100)
    bench = Bench()
    bench.do(*(good(i) for i in range(1, 6)))
    assert len(bench.publisher.records) == 5
    assert len(bench.publisher.batches) > 2


def test_what_was_there_already_is_counted_as_such() -> None:
    """A packet that comes again after its worker died is published once and counted once."""
    bench = Bench()
    bench.do(good(1), delivery(2, b"x"))
    bench.do(good(1, deliveries=2))
    bench.do(delivery(2, b"x", deliveries=2))
    assert len(bench.publisher.records) == 2
    assert bench.counts == {"received": 4, "accepted": 1, "dead_lettered": 1, "duplicates": 2}


def test_a_refusal_gives_the_records_back() -> None:
    """A full disk keeps records in the stream: nothing is acknowledged or counted, and the trouble is told."""
    bench = Bench()
    bench.publisher.refusals.append(StorageFull("the disk is full"))
    bench.do(good(1), good(2))
    assert bench.cursor.naked == [1, 2]
    assert bench.cursor.acked == []
    assert bench.work.report.trouble == "the disk is full"
    assert bench.counts == {}
    bench.do(good(1), good(2))
    assert bench.work.report.trouble == ""
    assert bench.counts["accepted"] == 2


def test_a_daemon_that_is_gone_ends_the_work() -> None:
    """Nothing can be given back to it: the records come again by themselves."""
    bench = Bench()
    bench.publisher.refusals.append(Unavailable("gone"))
    with pytest.raises(Unavailable):
        bench.do(good(1))
    assert bench.log == []


def test_what_comes_again_is_tried_alone() -> None:
    """Records of a worker that died are announced, processed, published and acknowledged one by one."""
    bench = Bench()
    bench.do(good(1, deliveries=2), good(2), good(3, deliveries=3), good(4))
    assert bench.publisher.batches == [2, 1, 1]
    assert bench.cursor.acked == [2, 4, 1, 3]
    urgent = [report.trying for report, urgent in bench.reports if urgent]
    assert urgent == ["alerts:1", "alerts:3", ""]


def test_what_killed_a_worker_is_tried_last() -> None:
    """Records that came again with it do not wait for the verdict."""
    bench = Bench(worker_config(suspects=("alerts:1", "elsewhere:2")))
    bench.do(good(1, deliveries=3), good(2, deliveries=3), good(3))
    assert bench.cursor.acked == [3, 2, 1]


def test_a_condemned_record_is_not_processed() -> None:
    """It becomes a dead letter with the verdict, whether it was known at the start or later."""
    bench = Bench(worker_config(condemned={"alerts:1": "killed the worker 5 times"}))
    bench.work.condemn({"alerts:2": "killed it too"})
    bench.do(good(1, deliveries=6), good(2, deliveries=6), good(3))
    dead = {
        r.headers[messages.ORIGIN]: r.headers[messages.REASON]
        for r in bench.publisher.records
        if r.subject == "out.dead"
    }
    assert dead == {"alerts:1": "killed the worker 5 times", "alerts:2": "killed it too"}
    assert not any(report.trying for report, _ in bench.reports)


def test_a_long_batch_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a worker holds longer than a third of ack_wait is said to be in progress, what waits included."""
    bench = Bench(worker_config(ack_wait=30.0))
    step = bench.work._step

    def slow(envelope: Any) -> Any:
        bench.now += 6.0
        return step(envelope)

    monkeypatch.setattr(bench.work, "_step", slow)
    bench.do(good(1), good(2), good(3), good(9, deliveries=2))
    assert bench.cursor.extended == [1, 2, 3, 9]
    assert bench.counts["busy_seconds"] == 24.0


def test_every_packet_has_a_deadline() -> None:
    """The alarm is set anew for each packet and off when the batch is done."""
    bench = Bench()
    bench.do(good(1), good(2))
    assert bench.alarms == [work.PACKET_DEADLINE, work.PACKET_DEADLINE, 0]


def test_a_route_publishes_to_its_subjects() -> None:
    """The last stage takes envelopes and publishes to the subjects of its routes."""
    first = Bench()
    first.do(good(1))
    (record,) = first.publisher.records
    opened = messages.read_envelope(record.payload)
    for latitude, subject in ((3.0, "out.near"), (40.0, "out.far")):
        annotated = msgspec.structs.replace(opened, annotations={"galactic_latitude": latitude})
        payload = msgspec.msgpack.encode(annotated)
        last = Bench(worker_config(ROUTE))
        last.do(msgspec.structs.replace(delivery(1, payload), headers=record.headers))
        assert [r.subject for r in last.publisher.records] == [subject]
        assert last.publisher.records[0].headers[messages.PUBLISHED] == "1001"


# -- the process's loop ------------------------------------------------------------------------------------


class FakeTime:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_reports_are_written_now_and_then() -> None:
    """At most one in the interval unless urgent; what was held back is written when there is time."""
    lines: list[bytes] = []
    clock = FakeTime()
    reporter = Reporter(lines.append, clock)
    reporter.tell(Report(), False)
    reporter.tell(Report(counts=Counts(received=1)), False)
    assert (lines, reporter.waiting) == ([b"{}\n"], True)
    reporter.tell(Report(counts=Counts(received=2), trying="a:1"), True)
    assert len(lines) == 2
    assert not reporter.waiting
    clock.now += REPORT_INTERVAL
    reporter.tell(Report(counts=Counts(received=3)), False)
    assert len(lines) == 3
    assert msgspec.json.decode(lines[2], type=Report).counts.received == 3


def loop_over(bench: Bench, *cursors: FakeCursor, leave: Callable[[int], None]) -> tuple[Loop, list[bytes]]:
    lines: list[bytes] = []
    inputs = [(SOURCE, c) for c in cursors]
    return Loop(bench.work, inputs, Reporter(lines.append, FakeTime()), leave), lines


def test_the_loop_asks_its_inputs_in_turn() -> None:
    """A backlog beside the stage's own input is read too; with one input a fetch may wait."""
    bench = Bench()
    first, second = FakeCursor([], (), ()), FakeCursor([], (good(5),))
    left: list[int] = []
    loop, _ = loop_over(bench, first, second, leave=left.append)

    class Enough(Exception):
        pass

    def last_fetch(**_: Any) -> tuple[Delivery, ...]:
        raise Enough

    second_fetch = second.fetch
    second.fetch = lambda **k: last_fetch() if second.acked else second_fetch(**k)  # type: ignore[method-assign]
    with pytest.raises(Enough):
        loop.run()
    assert second.acked == [5]
    assert set(first.waits) == {POLL_BACKLOG}
    single, _ = loop_over(bench, alone := FakeCursor([]), leave=left.append)
    single.once(SOURCE, alone)
    assert alone.waits == [POLL]


def test_the_end_of_input_ends_an_idle_worker_at_once() -> None:
    """With nothing in hand the process is left in the middle of a long poll, the last counts written."""
    bench = Bench()
    left: list[int] = []
    loop, lines = loop_over(bench, FakeCursor([]), leave=left.append)
    loop._reporter.tell(Report(), False)
    loop._reporter.tell(Report(counts=Counts(received=9)), False)
    loop.listen(iter([b'{"condemned":{"alerts:7":"x"}}\n']))  # type: ignore[arg-type]
    assert left == [0]
    assert b'"received":9' in lines[-1]
    bench.do(good(7, deliveries=2))
    assert bench.publisher.records[0].headers[messages.REASON] == "x"


def test_the_end_of_input_waits_for_what_is_in_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch is finished and acknowledged before the process is left, and none is begun after."""
    bench = Bench()
    left: list[int] = []
    cursor = FakeCursor(bench.log, (good(1),), (good(2),))
    loop, _ = loop_over(bench, cursor, leave=lambda code: left.append(len(cursor.acked) * 10 + code))
    stopper = threading.Thread(target=loop.stop)
    step = bench.work._step

    def stopping(envelope: Any) -> Any:
        stopper.start()
        return step(envelope)

    monkeypatch.setattr(bench.work, "_step", stopping)
    loop.run()
    stopper.join()
    assert left == [10]
    assert cursor.acked == [1]


def test_what_takes_too_long_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """After its deadline a worker that was told to stop leaves what it has; it will come again."""
    monkeypatch.setattr("platformd.pipelines.worker.STOP_DEADLINE", 0.01)
    assert STOP_DEADLINE > 0.01
    bench = Bench()
    left: list[int] = []
    loop, _ = loop_over(bench, FakeCursor([]), leave=left.append)
    with loop._hand:
        stopper = threading.Thread(target=loop.stop)
        stopper.start()
        stopper.join()
    assert left == [1]


def test_errors_of_the_platform_have_a_message_for_the_status() -> None:
    """Only the first line of a refusal is the trouble; hints and details are for elsewhere."""
    bench = Bench()
    bench.publisher.refusals.append(PlatformError("no", subject="stream/out", hint="do something"))
    bench.do(good(1))
    assert bench.work.report.trouble == "stream/out: no"
