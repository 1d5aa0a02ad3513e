"""``publish``, over a fake producer, and what publishing and consuming both refuse."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from platformd.cli import record_sources
from platformd.cli.commands import publish
from platformd.client.queues import Record
from platformd.core.errors import OutcomeUnknown
from tests.client.fake_api import FakeApi

from .conftest import Cli
from .fake_log import Log, Pending, log

__all__ = ["log"]


def test_a_payload_is_published(cli: Cli, log: Log) -> None:
    """One record with id, headers and durability, and where it went."""
    words = ("publish", "a.b", "héllo", "--msg-id", "7", "-H", "k=v=w", "--header", "e=", "--durability", "os")
    assert cli(*words, "--stream", "alerts").out == "stream/alerts 1 published (sequence 1)\n"
    assert log.records == [Record(subject="a.b", payload="héllo".encode(), msg_id="7", headers={"k": "v=w", "e": ""})]
    assert log.options == {
        "address": "ipc:///i", "tls": None, "stream": "alerts", "durability": "os", "max_in_flight": 8,
    }  # fmt: skip
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
    monkeypatch.setattr(record_sources, "READ_BYTES", 4)
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
        ("publish x --lines --count 2", "--count: repeats PAYLOAD"),
        ("publish x y --count 2 --msg-id 1", "--msg-id: names one record"),
        ("publish x y --count 2 --msg-id {{nn}}", "--msg-id: {{nn}} is not known"),
        ("publish x{{random}} {{n --count 2", "'{{' has no end"),
        ("publish x.{{n}}. y --count 2", "SUBJECT: 'x.1.' has an empty token"),
        ("publish x y --rate 0", "Invalid value"),
        ("consume alerts --nak 5s", "--nak: is about a durable consumer"),
        ("consume alerts --consumer c --nak soon", "'soon' is not a duration"),
        ("consume alerts --consumer c --nak 5s --term", "--nak and --term: exclude each other"),
        ("consume alerts --consumer c --reason x", "--reason: says why records are given up"),
        ("consume alerts --format {{nope}}", "--format: {{nope}} is not known"),
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
    monkeypatch.setattr(record_sources, "MAX_PAYLOAD_BYTES", 10)
    monkeypatch.setattr(record_sources, "READ_BYTES", 4)
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


def test_an_unknown_outcome_is_told_as_such(cli: Cli, log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the producer cannot know, neither do we."""

    def submit(_records: Sequence[Record]) -> Pending:
        raise OutcomeUnknown("the connection was lost", subject="ipc:///i")

    monkeypatch.setattr(log, "submit", submit)
    assert cli("publish", "x", "y").code == 6


def test_a_payload_is_published_again_and_again(cli: Cli, log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    """--count makes payload, subject, headers and ids templates; batches stay small enough to be on their way."""
    monkeypatch.setattr(record_sources, "BATCH_RECORDS", 2)
    words = ("publish", "a.{{n}}", "no {{Count}}", "--count", "5", "--msg-id", "i{{n}}", "-H", "k=v{{.n}}")
    assert cli(*words).out == "stream/alerts 5 published (sequence 1 to 5)\n"
    assert [(r.subject, r.payload, r.msg_id, r.headers) for r in log.records] == [
        (f"a.{n}", f"no {n}".encode(), f"i{n}", {"k": f"v{n}"}) for n in range(1, 6)
    ]
    assert log.batches == [2, 2, 1]
    cli("publish", "a", "-", "--count", "2", stdin=b"\xff{{n}}")
    assert [r.payload for r in log.records[5:]] == [b"\xff1", b"\xff2"]


def test_templates_are_used_only_when_they_are_meant(cli: Cli, log: Log) -> None:
    """One payload is taken as it is, whatever is in it, unless it is said to be a template; lines likewise."""
    cli("publish", "a", "{{n}}")
    cli("publish", "a", "{{n}}", "--count", "1", "--no-template")
    cli("publish", "a", "{{n}}", "--template")
    cli("publish", "a", "--lines", stdin=b"{{n}}\n")
    cli("publish", "a", "--lines", "--template", "--msg-id", "{{n}}", stdin=b"{{n}}\nplain\n")
    assert [r.payload for r in log.records] == [b"{{n}}", b"{{n}}", b"1", b"{{n}}", b"1", b"plain"]
    assert [r.msg_id for r in log.records[-2:]] == ["1", "2"]


def test_a_rate_is_kept() -> None:
    """Batches are cut and wait for their time; a pause of the source is not made up for by a burst."""
    time, sleeps = [0.0], []

    def sleep(seconds: float) -> None:
        sleeps.append(round(seconds, 3))
        time[0] += seconds

    def source() -> Any:
        yield list(range(12))
        time[0] += 10
        yield list(range(8))

    parts = list(record_sources.paced(source(), 80, now=lambda: time[0], sleep=sleep))
    assert [len(part) for part in parts] == [4] * 5
    assert sleeps == [0.05, 0.05, 0.05]
    assert [len(p) for p in record_sources.paced([[0, 1]], 0.5, now=lambda: time[0], sleep=sleep)] == [1, 1]  # type: ignore[list-item]
    assert sleeps[-1] == 2.0


def test_tenants_have_streams_of_their_own(cli: Cli, api: FakeApi, log: Log) -> None:
    """The queue sockets are told what the engine calls a tenant's stream; a subject is looked for among theirs."""
    api.put("streams", "alerts", "site", spec={"subjects": ["a.>"]})
    api.put("streams", "other", "site", spec={"subjects": ["b", "c.*"]})
    name = {"name": "site..alerts"}
    api.answers.append(
        lambda seen: (200, {}, json.dumps(name).encode()) if seen.path.endswith("/streams/alerts/info") else None
    )
    cli("publish", "a.b", "x", "--tenant", "site")
    assert log.options["stream"] == "site..alerts"
    assert cli("publish", "nobody", "x", "--tenant", "site").code == 3
    ambiguous = cli("publish", "*.b", "x", "--tenant", "site")
    assert (ambiguous.code, "it is in alerts, other" in ambiguous.err) == (5, True)
