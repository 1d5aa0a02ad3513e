"""``stream``, ``consumer``, ``subscribe`` and the rest of the life of records, on a daemon that runs."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from itertools import count

import pytest

from platformd.cli.commands.stream import bytes_on_disk
from platformd.core.errors import PreconditionFailed
from platformd.core.processes import own_module
from tests.support.daemon import DaemonProcess, environment, short_directory

from .conftest import Cli

_NUMBERS = count(1)


@pytest.fixture(scope="module")
def running() -> Iterator[DaemonProcess]:
    """A daemon for all tests of this module."""
    with short_directory() as directory, DaemonProcess(directory) as process:
        yield process


@pytest.fixture
def daemon(running: DaemonProcess, monkeypatch: pytest.MonkeyPatch) -> DaemonProcess:
    """It, and the environment pointing at it."""
    monkeypatch.setenv("PLATFORMD_SOCKET", str(running.socket))
    return running


@pytest.fixture
def name(cli: Cli, daemon: DaemonProcess) -> Iterator[str]:
    """A stream of this name that captures subjects that begin with it."""
    made = f"s{next(_NUMBERS)}"
    assert cli("stream", "create", made, "--subject", f"{made}.>").out == f"stream/{made} created\n"
    yield made
    cli("stream", "delete", made, "--ignore-not-found")


def test_the_life_of_a_stream(cli: Cli, daemon: DaemonProcess) -> None:
    """Made with its limits, listed, shown with what is in it, looked at, and deleted."""
    words = (
        "--subject",
        "l.*",
        "--subject",
        "m",
        "--max-age",
        "2d",
        "--max-bytes",
        "1GiB",
        "--set",
        "duplicate_limit=9",
    )
    made = cli("stream", "create", "life", *words, "--description", "try", "-o", "json").json()
    assert (
        made["spec"] | {"max_age": "2d", "max_bytes": "1GiB", "duplicate_limit": 9, "description": "try"}
        == made["spec"]
    )
    assert (made["spec"]["subjects"], made["status"]["state"]) == (["l.*", "m"], "active")
    assert cli("stream", "create", "life", "--subject", "x").code == 5
    assert cli("publish", "l.a", "{{n}}", "--count", "150").out == "stream/life 150 published (sequence 1 to 150)\n"
    assert "life" in cli("stream", "ls", "-o", "name").out
    info = cli("stream", "info", "life", "-o", "json").json()
    assert (info["messages"], info["last_sequence"], info["consumers"]) == (150, 150, [])
    text = cli("stream", "info", "life").out
    assert "subjects           l.*, m\nrecords            150\n" in text
    assert "1 to 150" in text
    peeked = cli("stream", "peek", "life", "--count", "130", "--from", "5", "--format", "{{sequence}}{{text}}").out
    assert peeked.split() == [f"{i}{i}" for i in range(5, 135)]
    assert cli("stream", "peek", "life", "--last", "2", "-o", "raw").out == "149\n150\n"
    assert cli("stream", "peek", "life", "--last", "2", "--subject", "m").out == ""
    assert cli("stream", "delete", "life").out == "stream/life deleted\n"
    assert cli("stream", "info", "life").code == 3


def test_what_the_engine_refuses_is_said_as_it_is(cli: Cli, name: str) -> None:
    """A subject that another stream has, a field that there is not, and what the engine does not do."""
    taken = cli("stream", "create", "other", "--subject", f"{name}.a")
    assert taken.code != 0
    assert f"which stream '{name}' captures" in taken.err
    assert cli("stream", "delete", "other").code == 0
    unknown = cli("stream", "create", "other", "--subject", "x", "--set", "no=1")
    assert (unknown.code, "spec.no: is not a known field" in unknown.err) == (2, True)
    assert cli("stream", "create", "other", "--subject", "x", "--set", "nothing").code == 2
    refused = cli("consumer", "create", name, "c", "--subject", "a..b")
    assert (refused.code, "has an empty token" in refused.err) == (2, True)


def test_purging_needs_to_be_told_what(cli: Cli, name: str) -> None:
    """Nothing is removed by accident: which records is said, or --all."""
    cli("publish", f"{name}.a", "x")
    for words in ((), ("--all", "--keep", "1")):
        ran = cli("stream", "purge", name, *words)
        assert (ran.code, "which records?" in ran.err) == (2, True)
    assert cli("stream", "peek", name, "-o", "raw").out == "x\n"


def test_records_are_removed_for_good(cli: Cli, name: str) -> None:
    """By subject, before a sequence, or all but the newest; a subscription is told what it does not get."""
    cli("publish", f"{name}.a", "{{n}}", "--count", "6")
    cli("publish", f"{name}.b", "b")
    assert cli("stream", "purge", name, "--subject", f"{name}.b").out == f"stream/{name} 1 records removed\n"
    assert cli("stream", "purge", name, "--before", "3", "-o", "json").json() == {"stream": name, "removed": 2}
    assert cli("stream", "purge", name, "--keep", "2").out == f"stream/{name} 2 records removed\n"
    ran = cli("subscribe", f"{name}.a", "--from", "all", "--count", "2", "-o", "raw")
    assert ran.out == "5\n6\n"
    assert ran.err == f"4 records of stream {name} did not come: they were removed before (4 in all)\n"
    assert cli("stream", "purge", name, "--all").code == 0
    assert cli("stream", "peek", name).out == ""
    assert cli("publish", f"{name}.a", "x").out == f"stream/{name} 1 published (sequence 8)\n"


def test_a_work_queue(cli: Cli, daemon: DaemonProcess) -> None:
    """With --retention work_queue what is acknowledged is gone, and filters that overlap are refused in the engine's
    words."""
    cli("stream", "create", "work", "--subject", "work", "--retention", "work_queue", "--max-records-per-subject", "9")
    cli("publish", "work", "{{n}}", "--count", "3")
    assert cli("consume", "work", "--consumer", "c", "--count", "2", "-o", "raw").out == "1\n2\n"
    assert cli("consumer", "create", "work", "d").code == 5
    info = cli("stream", "info", "work", "-o", "json").json()
    assert (info["config"]["retention"], info["config"]["max_records_per_subject"]) == ("work_queue", 9)
    assert cli("stream", "delete", "work").code == 0


def test_without_a_queue_socket(name: str, daemon: DaemonProcess) -> None:
    """All of it over HTTP alone, on the real engine: publish, look, fetch, acknowledge, move, and be refused."""
    with daemon.client as client:
        path = f"/v1/streams/{name}"
        lines = b"".join(json.dumps({"json": {"n": n}, "msg_id": str(n)}).encode() + b"\n" for n in range(5))
        batch = f"{path}/messages/batch"
        lines_of = {"query": {"subject": f"{name}.a"}, "body": lines, "content_type": "application/x-ndjson"}
        assert client.request("POST", batch, **lines_of).json()["appended"] == 5  # type: ignore[arg-type]
        assert client.request("POST", batch, **lines_of).json()["duplicates"] == [0, 1, 2, 3, 4]  # type: ignore[arg-type]
        expecting = {"subject": f"{name}.a", "expect_last_sequence": "4"}
        with pytest.raises(PreconditionFailed):
            client.request("POST", f"{path}/messages", query=expecting, body=b"x")
        consumer = f"{path}/consumers/c"
        client.request("PUT", consumer, json={"ack_wait": 60.0})
        first = client.request("POST", f"{consumer}/fetch", query={"max_records": "3", "wait": "5s"}).json()["items"]
        assert [(i["sequence"], i["text"]) for i in first] == [(1, '{"n":0}'), (2, '{"n":1}'), (3, '{"n":2}')]
        said = {"sequences": [1, 2], "acks": [{"sequence": 3, "kind": "nak"}]}
        assert client.request("POST", f"{consumer}/ack", json=said).json() == {"known": 3}
        again = client.request("POST", f"{consumer}/fetch").json()["items"]
        assert sorted((i["sequence"], i["deliveries"]) for i in again) == [(3, 2), (4, 1), (5, 1)]
        moved = client.request("POST", f"{consumer}/seek", json={"policy": "last"}).json()
        assert (moved["pending"], moved["ack_pending"]) == (1, 0)
        assert client.request("POST", f"{path}/purge", json={"keep": 1}).json()["removed"] == 4


def test_the_life_of_a_consumer(cli: Cli, name: str) -> None:
    """Made, listed, read from, moved back, shown, and deleted."""
    cli("publish", f"{name}.a", "{{n}}", "--count", "5")
    made = cli("consumer", "create", name, "c", "--subject", f"{name}.*", "--ack-wait", "1m", "--max-deliver", "3")
    assert made.out == f"stream/{name}/consumer/c configured, 5 records pending\n"
    assert cli("consumer", "ls", name, "-o", "name").out == "c\n"
    assert cli("consume", name, "--consumer", "c", "--count", "3", "-o", "raw").out == "1\n2\n3\n"
    (listed,) = [c for c in cli("consumer", "ls", "-o", "json").json()["items"] if c["stream"] == name]
    assert (listed["stream"], listed["ack_floor"], listed["pending"]) == (name, 3, 2)
    moved = cli("consumer", "seek", name, "c", "--to", "2")
    assert moved.out == f"stream/{name}/consumer/c moved, 4 records pending\n"
    assert cli("consume", name, "--consumer", "c", "-o", "raw").out == "2\n3\n4\n5\n"
    assert cli("consumer", "seek", name, "c", "--to", "1h", "-o", "json").json()["pending"] == 5
    shown = cli("consumer", "info", name, "c").out
    assert "ack wait          1m0s" in shown
    assert cli("consumer", "delete", name, "c").out == f"stream/{name}/consumer/c deleted\n"
    assert cli("consumer", "delete", name, "c").code == 3
    assert cli("consumer", "delete", name, "c", "--ignore-not-found").code == 0
    assert cli("consumer", "info", name, "c").code == 3
    assert cli("consumer", "seek", name, "c", "--to", "sometime").code == 2


def test_a_subscription_follows_the_log(cli: Cli, name: str) -> None:
    """From the beginning, from a sequence, or the last few; only what matches; no consumer is made."""
    for subject in ("a", "b", "a"):
        cli("publish", f"{name}.{subject}", subject)
    whole = cli("subscribe", f"{name}.>", "--from", "all", "--count", "3", "-o", "json").out
    assert [json.loads(line)["sequence"] for line in whole.splitlines()] == [1, 2, 3]
    assert cli("subscribe", f"{name}.a", "--from", "2", "--count", "1", "--format", "{{sequence}}").out == "3\n"
    assert cli("subscribe", "*.b", "--stream", name, "--last", "2", "--count", "1", "-o", "raw").out == "b\n"
    assert cli("consumer", "ls", name).out == ""
    assert cli("subscribe", "nobody.>").code == 3
    assert cli("subscribe", "a..b").code == 2
    assert cli("subscribe", f"{name}.a", "--from", "10m").code == 2
    assert cli("subscribe", f"{name}.a", "--from", "10").code == 5


def test_a_subscription_of_several_streams(cli: Cli, name: str, daemon: DaemonProcess) -> None:
    """A pattern over streams follows each of them."""
    cli("stream", "create", f"{name}x", "--subject", f"{name}x.>")
    for stream in (name, f"{name}x"):
        cli("publish", f"{stream}.both", stream)
    ran = cli("subscribe", "*.both", "--from", "all", "--count", "2", "--format", "{{stream}}")
    assert sorted(ran.out.split()) == [name, f"{name}x"]
    cli("stream", "delete", f"{name}x")


def test_a_live_subscription_ends_with_a_signal(cli: Cli, name: str, daemon: DaemonProcess) -> None:
    """What comes is printed at once; Ctrl-C ends it quietly."""
    command = own_module("platformd.cli.main", "--socket", str(daemon.socket), "subscribe", f"{name}.>", "-o", "raw")
    process = subprocess.Popen(
        [*command, "--last", "1"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment(), text=True
    )
    assert process.stdout is not None
    for text in ("one", "two"):
        cli("publish", f"{name}.a", text)
        assert process.stdout.readline() == f"{text}\n"
    os.kill(process.pid, signal.SIGINT)
    assert process.communicate(timeout=10) == ("", "")
    assert process.returncode == 130


def test_names_are_completed(cli: Cli, name: str) -> None:
    """The shell is offered the streams, and the consumers of the stream that stands before."""
    cli("consumer", "create", name, "archive")
    for words, offered in ((f"stream info {name[:1]}", name), (f"consumer info {name} arc", "archive")):
        cli.env(
            _PLATFORMD_COMPLETE="bash_complete", COMP_WORDS=f"platformd {words}", COMP_CWORD=str(len(words.split()))
        )
        assert f"plain,{offered}" in cli().out.split()


def test_tenants_have_streams_of_their_own(cli: Cli, daemon: DaemonProcess) -> None:
    """With --tenant the same name is another stream, for every command."""
    there = ("--tenant", "site")
    cli("stream", "create", "mine", "--subject", "mine.a", *there)
    try:
        assert cli("publish", "mine.a", "x", *there).out == "stream/site..mine 1 published (sequence 1)\n"
        assert cli("stream", "peek", "mine", "-o", "raw", *there).out == "x\n"
        assert cli("consume", "mine", "-o", "raw", *there).out == "x\n"
        assert cli("consume", "mine", "--consumer", "c", "-o", "raw", *there).out == "x\n"
        assert cli("consumer", "ls", "mine", "-o", "name", *there).out == "c\n"
        assert cli("subscribe", "mine.*", "--from", "all", "--count", "1", "-o", "raw", *there).out == "x\n"
        assert cli("stream", "peek", "mine").code == 3
    finally:
        cli("stream", "delete", "mine", *there)


def test_what_compression_saves_is_shown() -> None:
    """The bytes on the disk, and where something is compressed those without it and the ratio."""
    assert bytes_on_disk({"bytes": 2048}) == "2.0KiB"
    assert bytes_on_disk({"bytes": 2048, "uncompressed_bytes": 2048}) == "2.0KiB"
    shown = bytes_on_disk({"bytes": 2048, "uncompressed_bytes": 7168})
    assert shown == "2.0KiB on the disk, 7.0KiB uncompressed (ratio 3.50)"


def test_a_compressed_stream(cli: Cli, daemon: DaemonProcess) -> None:
    """Compression is asked for when a stream is made, and shown in the wide table and with the stream."""
    cli("stream", "create", "packed", "--subject", "packed.>", "--compression", "zstd")
    head, *rows = cli("stream", "ls", "-o", "wide").out.splitlines()
    assert "COMPRESSION" in head
    assert "RATIO" in head
    assert any("packed" in row and "zstd" in row for row in rows)
    assert "zstd" in cli("stream", "info", "packed").out
    cli("stream", "delete", "packed")
