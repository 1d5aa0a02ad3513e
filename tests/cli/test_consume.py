"""``consume`` and how records are printed, over a fake consumer."""

from __future__ import annotations

import base64
import io
import json
import os
import signal
import sys
from typing import Any

import msgspec
import pytest

from platformd.cli.records import Seen
from platformd.client.queues import Delivery
from tests.client.fake_api import FakeApi

from .conftest import Cli
from .fake_log import Log, fill, log

__all__ = ["log"]

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
        "inactive_after": 3600.0,
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


def test_records_in_the_form_that_is_asked_for(cli: Cli, log: Log) -> None:
    """--format prints a template for each record, payloads byte by byte."""
    fill(log, b"hello", b"\xff\x00")
    form = r"{{sequence}}\t{{ subject }} {{msg_id}} {{size}} {{header nope}}{{text}} \{{"
    assert cli("consume", "alerts", "--format", form).raw == b"1\talerts.a  5 hello {{\n2\talerts.a m1 2 \xff\x00 {{\n"
    every = "{{stream}} {{time}} {{append_time}} {{deliveries}} {{headers}} {{payload}} {{json}}"
    first = cli("consume", "alerts", "--format", every, "--delimiter", "|").out.split("|")[0]
    assert first.startswith("alerts 2026-01-31T12:00:00.000000Z 2026-01-31T12:00:00.500000Z 1 {} aGVsbG8= {")
    assert cli("consume", "alerts", "--format", "{{header}}").code == 2


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("--nak", "1m"), [("nak", 1, 60.0), ("nak", 2, 60.0)]),
        (("--term", "--reason", "bad"), [("term", 1, "bad"), ("term", 2, "bad")]),
    ],
)
def test_records_can_be_given_back_or_up(cli: Cli, log: Log, words: tuple[str, ...], expected: list[Any]) -> None:
    """--nak and --term say something else than that records are done."""
    fill(log, b"a", b"b")
    assert cli("consume", "alerts", "--consumer", "me", "-o", "raw", *words).out == "a\nb\n"
    assert (log.acked, log.others) == ([], expected)


def test_an_idle_reader_ends(cli: Cli, log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    """--idle follows, and ends when nothing came for so long since the last record."""
    now = [0.0]
    monkeypatch.setattr("platformd.cli.commands.consume.time.monotonic", lambda: now[0])

    def empty() -> None:
        now[0] += 0.5
        if len(log.records) < 3:
            fill(log, b"more")

    log.on_empty = empty
    assert cli("consume", "alerts", "--idle", "2s", "-o", "raw").out == "more\n" * 3
    assert [wait for *_, wait in log.fetches[-4:]] == [0.5] * 4


def _delivery(payload: bytes, **headers: str) -> Delivery:
    return Delivery(
        sequence=1, subject="s", payload=payload, msg_id="", headers=headers, time_ns=0, append_time_ns=0, deliveries=1
    )


def _shown(delivery: Delivery) -> dict[str, Any]:
    return Seen.of_delivery(delivery, "alerts").document()


def test_messagepack_is_shown_as_what_it_says() -> None:
    """A record that says it is MessagePack is shown decoded; one that lies, or says nothing, is not."""
    packed = msgspec.msgpack.encode({"id": "7", "annotations": {"galactic_latitude": -57.5}, "raw": b"\x00"})
    kind = {"content-type": "application/vnd.platformd.envelope+msgpack"}
    shown = _shown(_delivery(packed, **kind))
    assert shown["content"] == {"id": "7", "annotations": {"galactic_latitude": -57.5}, "raw": "AA=="}
    assert "content" not in _shown(_delivery(b"\xc1\xff", **kind))
    assert "content" not in _shown(_delivery(packed))
