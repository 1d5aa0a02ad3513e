"""``publish`` and ``consume``: over fake producers and consumers, whose real ones are tested with the queues."""

from __future__ import annotations

import base64
import io
import json
import os
import signal
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest

from platformd.cli.commands import publish
from platformd.cli.records import delivery_document
from platformd.client import queues
from platformd.client.queues import Delivery, Published, Record
from platformd.core.errors import OutcomeUnknown, StorageFull
from tests.client.fake_api import FakeApi

from .conftest import Cli


class Pending:
    """An acknowledgement that comes when it is waited for."""

    def __init__(self, wait: Callable[[], Published]) -> None:
        self.wait = wait


class Log:
    """A stream in memory with the engine's rules: sequences, and de-duplication by (subject, msg_id)."""

    def __init__(self) -> None:
        self.records: list[Record] = []
        self.ids: set[tuple[str, str]] = set()
        self.options: dict[str, Any] = {}
        self.batches: list[int] = []
        self.waiting = self.most_waiting = 0
        self.fail_after: int | None = None
        self.acked: list[int] = []
        self.fetches: list[tuple[str, str, int, float]] = []
        self.on_empty: Callable[[], None] = lambda: None

    def append(self, records: Sequence[Record]) -> Published:
        self.waiting -= 1
        if self.fail_after is not None and len(self.records) >= self.fail_after:
            raise StorageFull("the disk is full", subject="stream/alerts")
        first, duplicates = len(self.records) + 1, []
        for i, record in enumerate(records):
            if record.msg_id and (record.subject, record.msg_id) in self.ids:
                duplicates.append(i)
            else:
                self.ids.add((record.subject, record.msg_id))
                self.records.append(record)
        appended = len(records) - len(duplicates)
        return Published(
            stream="alerts",
            first_sequence=first if appended else first - 1,
            appended=appended,
            duplicates=tuple(duplicates),
        )

    def producer(self, address: str, **options: Any) -> Log:
        self.options = {"address": address} | options
        return self

    def submit(self, records: Sequence[Record]) -> Pending:
        self.batches.append(len(records))
        self.waiting += 1
        self.most_waiting = max(self.most_waiting, self.waiting)
        return Pending(lambda: self.append(records))

    def consumer(self, address: str, stream: str, name: str) -> Log:
        self.options = {"address": address}
        self.name, self.stream, self.cursor = name, stream, 0
        return self

    def fetch(self, *, max_records: int, wait: float) -> tuple[Delivery, ...]:
        self.fetches.append((self.stream, self.name, max_records, wait))
        found = self.records[self.cursor : self.cursor + max_records]
        deliveries = tuple(
            Delivery(
                sequence=self.cursor + i + 1, subject=r.subject, payload=r.payload, msg_id=r.msg_id, headers=r.headers,
                time_ns=1_769_860_800_000_000_000, append_time_ns=1_769_860_800_500_000_000, deliveries=1,
            )
            for i, r in enumerate(found)
        )  # fmt: skip
        self.cursor += len(found)
        if not found:
            self.on_empty()
        return deliveries

    def ack(self, deliveries: Iterable[Delivery]) -> int:
        self.acked += [d.sequence for d in deliveries]
        return len(self.acked)

    def __enter__(self) -> Log:
        return self

    def __exit__(self, *_exception: object) -> None:
        """Nothing is held."""


@pytest.fixture
def log(api: FakeApi, monkeypatch: pytest.MonkeyPatch) -> Log:
    """The stream ``alerts`` of a daemon that names its sockets."""
    log = Log()
    api.status = {"queues": {"sockets": {"ingest": "ipc:///i", "fetch": "ipc:///f"}}}
    api.put("streams", "alerts")
    monkeypatch.setattr(queues, "Producer", log.producer)
    monkeypatch.setattr(queues, "Consumer", log.consumer)
    return log


def test_a_payload_is_published(cli: Cli, log: Log) -> None:
    """One record with id, headers and durability, and where it went."""
    words = ("publish", "a.b", "héllo", "--msg-id", "7", "-H", "k=v=w", "--header", "e=", "--durability", "os")
    assert cli(*words, "--stream", "alerts").out == "stream/alerts 1 published (sequence 1)\n"
    assert log.records == [Record(subject="a.b", payload="héllo".encode(), msg_id="7", headers={"k": "v=w", "e": ""})]
    assert log.options == {"address": "ipc:///i", "stream": "alerts", "durability": "os", "max_in_flight": 8}
    assert cli(*words).out == "stream/alerts 1 already there\n"
    assert cli(*words, "-o", "json").json() == {
        "stream": "alerts", "published": 0, "duplicates": 1, "first_sequence": 0, "last_sequence": 0,
    }  # fmt: skip


def test_standard_input_is_one_record(cli: Cli, log: Log) -> None:
    """Without a payload, or with ``-``, all of standard input is the record, binary or empty."""
    cli("publish", "a", stdin=b"\x00\n\xff")
    cli("publish", "a", "-", stdin=b"")
    assert [r.payload for r in log.records] == [b"\x00\n\xff", b""]


def test_files_are_records(cli: Cli, log: Log, tmp_path: Path) -> None:
    """Each file is a record, also when the shell has expanded a pattern after one --file."""
    paths = [tmp_path / name for name in ("a", "b", "c")]
    for path in paths:
        path.write_bytes(path.name.encode() * 2)
    a, b, c = map(str, paths)
    assert cli("publish", "x", "--file", a, b, c).out == "stream/alerts 3 published (sequence 1 to 3)\n"
    cli("publish", "x", "-f", a, "-f", c)
    assert [r.payload for r in log.records] == [b"aa", b"bb", b"cc", b"aa", b"cc"]


def test_lines_are_records_and_go_as_they_come(cli: Cli, log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    """A line is a record wherever reads cut it; what has come goes at once, and few batches wait at a time."""

    class Trickle(io.BytesIO):
        def read1(self, size: int | None = -1) -> bytes:
            return self.read(3)

    text = b"".join(b"line %d\n" % i for i in range(40)) + b"\n\nlast"
    stdin = io.TextIOWrapper(Trickle(text))
    monkeypatch.setattr(sys, "stdin", stdin)
    ran = cli("publish", "x", "--lines")
    assert ran.out == "stream/alerts 43 published (sequence 1 to 43)\n"
    assert [r.payload for r in log.records] == text.split(b"\n")
    assert len(log.batches) > 20
    assert log.most_waiting == publish.MAX_IN_FLIGHT


def test_an_empty_input_publishes_nothing(cli: Cli, log: Log) -> None:
    """No line is no record, which is said and is no error."""
    assert cli("publish", "x", "--lines", stdin=b"").out == "nothing was published: the input is empty\n"
    assert log.records == []


def test_a_failure_says_how_far_it_came(cli: Cli, log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    """The daemon's refusal is the error, and its hint says what was acknowledged before."""
    monkeypatch.setattr(publish, "READ_BYTES", 4)
    log.fail_after = 5
    ran = cli("publish", "x", "--lines", stdin=b"a\nb\n" * 20)
    assert (ran.code, ran.out) == (6, "")
    assert ran.err == "error: stream/alerts: the disk is full\nhint: 6 records before were acknowledged\n"


def test_a_failure_of_the_first_batch_says_no_more(cli: Cli, log: Log) -> None:
    """Where nothing was acknowledged nothing is said about it."""
    log.fail_after = 0
    assert cli("publish", "x", "y").err == "error: stream/alerts: the disk is full\n"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("publish x y z", "z: is one payload too many"),
        ("publish x y --lines", "--lines: reads standard input"),
        ("publish x --lines --msg-id 1", "--msg-id: names one record"),
        ("publish x -f a -f b --msg-id 1", "--msg-id: names one record"),
        ("publish x y -H nope", "--header nope: is not KEY=VALUE"),
        ("publish x -f /nonexistent/f", "/nonexistent/f: cannot be read: No such file"),
        ("publish x -f /", "/: cannot be read: Is a directory"),
        ("publish x y --durability maybe", "Invalid value"),
        ("consume alerts --from yesterday", "--from yesterday: is not all, new or a sequence"),
        ("consume alerts --from 0", "--from 0: is not all, new or a sequence"),
        ("consume alerts --subject a..b", "--subject a..b: has an empty token"),
        ("consume alerts --count 0", "Invalid value"),
    ],
)
def test_what_cannot_be_meant_is_refused(cli: Cli, log: Log, words: str, message: str) -> None:
    """Contradictions and what is not readable are usage errors; nothing is published or made."""
    ran = cli(*words.split(), stdin=b"a\nb\n")
    assert ran.code == 2
    assert message in ran.err
    assert (log.records, log.fetches) == ([], [])


def test_nothing_to_publish_on_a_terminal_is_refused(cli: Cli, log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    """Someone who forgot the payload is told, rather than left in front of a silent terminal."""
    monkeypatch.setattr(sys, "stdin", type("Terminal", (), {"isatty": lambda _self: True})())
    ran = cli("publish", "x")
    assert (ran.code, ran.err.startswith("error: x: nothing to publish")) == (2, True)


def test_a_payload_over_the_limit_is_refused(cli: Cli, log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither a file, standard input nor a line grows without a limit."""
    monkeypatch.setattr(publish, "MAX_PAYLOAD_BYTES", 10)
    monkeypatch.setattr(publish, "READ_BYTES", 4)
    for words in (("publish", "x"), ("publish", "x", "--lines"), ("publish", "x", "-f", __file__)):
        ran = cli(*words, stdin=b"x" * 11)
        assert (ran.code, "is larger than 10 bytes" in ran.err) == (2, True)


def test_a_daemon_without_queue_sockets_is_unavailable(cli: Cli, api: FakeApi) -> None:
    """While the daemon names no socket there is nothing to connect to."""
    api.status = {"queues": {"sockets": {}}}
    for words in (("publish", "a", "b"), ("consume", "a")):
        ran = cli(*words)
        assert (ran.code, "socket" in ran.err) == (6, True)


def test_progress_is_shown_on_a_terminal_only(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    """A terminal gets a bar that counts acknowledged records; a pipe gets nothing."""

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    for stream, seen in ((Terminal(), True), (io.StringIO(), False)):
        monkeypatch.setattr(sys, "stderr", stream)
        with publish._progress(3, shown=True) as advance:
            advance(3)
        assert ("3/3" in stream.getvalue()) is seen


def fill(log: Log, *payloads: bytes) -> None:
    for i, payload in enumerate(payloads):
        log.records.append(Record(subject="alerts.a", payload=payload, msg_id=f"m{i}" if i else "", headers={}))


TABLE = """\
SEQUENCE   SUBJECT    TIME                       SIZE   MSG-ID   PAYLOAD
1          alerts.a   2026-01-31T12:00:00.000Z   5B     <none>   hello
2          alerts.a   2026-01-31T12:00:00.000Z   2B     m1       <binary>
3          alerts.a   2026-01-31T12:00:00.000Z   70B    m2       xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx…
4          alerts.a   2026-01-31T12:00:00.000Z   7B     m3       a b\ufffd[1m
"""


def test_records_as_a_table(cli: Cli, log: Log) -> None:
    """A line for each record, with a harmless preview of its payload."""
    fill(log, b"hello", b"\xff\x00", b"x" * 70, b"a\nb\x1b[1m")
    assert cli("consume", "alerts").out == TABLE


def test_records_as_documents(cli: Cli, log: Log) -> None:
    """One JSON document on each line, binary payloads in base64 only."""
    fill(log, b"hello", b"\xff\x00")
    lines = [json.loads(line) for line in cli("consume", "alerts", "-o", "json").out.splitlines()]
    assert lines[0] == {
        "stream": "alerts", "sequence": 1, "subject": "alerts.a", "time": "2026-01-31T12:00:00.000000Z",
        "append_time": "2026-01-31T12:00:00.500000Z", "deliveries": 1, "msg_id": "", "headers": {},
        "payload": base64.b64encode(b"hello").decode(), "text": "hello",
    }  # fmt: skip
    assert (lines[1]["payload"], "text" in lines[1]) == ("/wA=", False)


@pytest.mark.parametrize(
    ("delimiter", "expected"),
    [((), b"a\n\xff\n\n"), (("--delimiter", ""), b"a\xff\n"), (("--delimiter", r"\0"), b"a\0\xff\n\0"),
     (("--delimiter", "--"), b"a--\xff\n--")],
)  # fmt: skip
def test_records_raw(cli: Cli, log: Log, delimiter: tuple[str, ...], expected: bytes) -> None:
    """Payloads byte by byte, with what was asked for after each."""
    fill(log, b"a", b"\xff\n")
    assert cli("consume", "alerts", "-o", "raw", *delimiter).raw == expected


def test_a_reader_without_a_name_leaves_no_consumer(cli: Cli, api: FakeApi, log: Log) -> None:
    """A consumer is made for the occasion, needs no acknowledgements, and is removed."""
    fill(log, b"a", b"b")
    assert cli("consume", "alerts", "--subject", "alerts.*", "--from", "42", "--count", "1", "-o", "raw").out == "a\n"
    made = api.seen[1]
    assert made.method == "PUT"
    assert made.path.startswith("/v1/streams/alerts/consumers/cli-")
    assert json.loads(made.body) == {
        "filter_subject": "alerts.*", "deliver_policy": "by_sequence", "start_sequence": 42, "ack_policy": "none",
    }  # fmt: skip
    assert (api.seen[-1].method, api.seen[-1].path, api.consumers) == ("DELETE", made.path, {})
    assert (log.acked, log.options["address"]) == ([], "ipc:///f")
    assert log.fetches == [("alerts", made.path.rpartition("/")[2], 1, 0.0)]


def test_a_named_consumer_is_made_once_and_acknowledges(cli: Cli, api: FakeApi, log: Log) -> None:
    """A durable consumer is created when it is not there, taken as it is when it is, and stays."""
    fill(log, b"a", b"b", b"c")
    assert cli("consume", "alerts", "--consumer", "me", "--count", "2", "-o", "raw").out == "a\nb\n"
    assert log.acked == [1, 2]
    assert api.consumers["alerts", "me"]["config"] == {"filter_subject": ">", "deliver_policy": "all"}
    cli("consume", "alerts", "--consumer", "me", "--from", "new", "--no-follow", "--no-ack")
    assert [s.method for s in api.seen].count("PUT") == 1
    assert (log.acked, len(api.consumers)) == ([1, 2], 1)


def test_records_are_acknowledged_only_once_written(cli: Cli, log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the reader of our output has gone, what it did not get is not acknowledged."""
    fill(log, b"a")

    class Closed(io.RawIOBase):
        gone = True

        def writable(self) -> bool:
            return True

        def write(self, data: Any) -> int:
            if self.gone:
                raise BrokenPipeError
            return len(data)

        def fileno(self) -> int:
            return os.open(os.devnull, os.O_WRONLY)

    closed = Closed()
    output = io.TextIOWrapper(io.BufferedWriter(closed), write_through=True)
    monkeypatch.setattr(sys, "stdout", output)
    assert cli("consume", "alerts", "--consumer", "me", "-o", "json").code == 141
    assert log.acked == []
    closed.gone = False  # or closing what is left would fail, which Python 3.13 reports
    output.close()


def test_a_consumer_with_another_subject_is_a_conflict(cli: Cli, api: FakeApi, log: Log) -> None:
    """A durable consumer's filter cannot change, so asking for another one is refused."""
    cli("consume", "alerts", "--consumer", "me", "--subject", "alerts.a")
    assert cli("consume", "alerts", "--consumer", "me").code == 0
    ran = cli("consume", "alerts", "--consumer", "me", "--subject", "alerts.b")
    assert (ran.code, "it is there with the subject 'alerts.a'" in ran.err) == (5, True)


def test_a_consumer_that_needs_no_acknowledgement_gets_none(cli: Cli, api: FakeApi, log: Log) -> None:
    """Where delivered is done, nothing is acknowledged."""
    fill(log, b"a")
    api.consumers["alerts", "me"] = {"name": "me", "config": {"filter_subject": ">", "ack_policy": "none"}}
    assert cli("consume", "alerts", "--consumer", "me", "-o", "raw").out == "a\n"
    assert log.acked == []


def test_following_waits_for_more(cli: Cli, log: Log) -> None:
    """--follow, and --from new by itself, go on until the count is reached."""
    rounds = []

    def more() -> None:
        rounds.append(1)
        if len(rounds) % 3 == 0:
            fill(log, b"later")

    log.on_empty = more
    assert cli("consume", "alerts", "--from", "new", "--count", "1", "-o", "raw").out == "later\n"
    assert cli("consume", "alerts", "--follow", "--count", "2", "-o", "raw").out == "later\nlater\n"
    assert {wait for *_, wait in log.fetches} == {0.5}


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_ends_it_and_the_consumer_is_removed(
    cli: Cli, api: FakeApi, log: Log, number: signal.Signals, code: int
) -> None:
    """Ctrl-C and SIGTERM leave no consumer behind, and the handler is put back."""
    before = signal.getsignal(signal.SIGTERM)
    log.on_empty = lambda: os.kill(os.getpid(), number)
    ran = cli("consume", "alerts", "--follow")
    assert (ran.code, ran.err, api.consumers) == (code, "", {})
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_consumer_that_cannot_be_removed_is_named(cli: Cli, api: FakeApi, log: Log) -> None:
    """What is left behind is told, and does not hide how the reading went."""
    api.answers.append(lambda seen: (500, {}, b"no") if seen.method == "DELETE" else None)
    ran = cli("consume", "alerts")
    assert ran.code == 0
    assert "the consumer cli-" in ran.err
    assert "could not be removed" in ran.err


def test_a_stream_that_is_not_there_is_not_found(cli: Cli, log: Log) -> None:
    """The daemon's refusal is the error, with and without a named consumer."""
    for words in (("consume", "nope"), ("consume", "nope", "--consumer", "me")):
        ran = cli(*words)
        assert (ran.code, ran.err) == (3, "error: stream/nope: there is no such stream\n")


def test_an_unknown_outcome_is_told_as_such(cli: Cli, log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the producer cannot know, neither do we."""

    def submit(_records: Sequence[Record]) -> Pending:
        raise OutcomeUnknown("the connection was lost", subject="ipc:///i")

    monkeypatch.setattr(log, "submit", submit)
    assert cli("publish", "x", "y").code == 6


def _delivery(payload: bytes, **headers: str) -> Delivery:
    return Delivery(
        sequence=1, subject="s", payload=payload, msg_id="", headers=headers, time_ns=0, append_time_ns=0, deliveries=1
    )


def test_messagepack_is_shown_as_what_it_says() -> None:
    """A record that says it is MessagePack is shown decoded; one that lies, or says nothing, is not."""
    packed = msgspec.msgpack.encode({"id": "7", "annotations": {"galactic_latitude": -57.5}, "raw": b"\x00"})
    kind = {"content-type": "application/vnd.platformd.envelope+msgpack"}
    shown = delivery_document(_delivery(packed, **kind), "alerts")
    assert shown["content"] == {"id": "7", "annotations": {"galactic_latitude": -57.5}, "raw": "AA=="}
    assert "content" not in delivery_document(_delivery(b"\xc1\xff", **kind), "alerts")
    assert "content" not in delivery_document(_delivery(packed), "alerts")
