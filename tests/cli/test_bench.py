"""``platformd bench queues``: against a daemon that runs, and what it says of the limit."""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from platformd.cli import bench_machine
from platformd.cli.bench_machine import Facts, daemon_cpu, limited_by, machine_cpu, sync_latency
from platformd.cli.bench_worker import count_latencies
from platformd.cli.histogram import Histogram
from platformd.client.queues import Delivery
from platformd.core.processes import own_module
from tests.support.daemon import DaemonProcess, environment, short_directory

from .conftest import Cli


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


def test_publish_and_deliver(cli: Cli, daemon: DaemonProcess) -> None:
    """Every record that was published is delivered to each consumer, and nothing is left of it."""
    words = ("--count", "3000", "--batch", "100", "--producers", "2", "--consumers", "2", "--size", "1KiB")
    found = cli("bench", "queues", *words, "-o", "json").json()
    published, delivered = found["publish"], found["deliver"]
    assert (published["workers"], published["records"], published["bytes"]) == (2, 3000, 3000 * 1024)
    assert (delivered["workers"], delivered["records"]) == (2, 6000)
    assert (published["latency_seconds"]["count"], delivered["latency_seconds"]["count"]) == (30, 6000)
    assert 0 < published["latency_seconds"]["p50"] <= published["latency_seconds"]["max"] < 60
    assert published["records_per_second"] > 0
    assert found["removed"] == 0
    assert found["limited_by"]
    assert cli("stream", "ls", "-o", "name").out == ""


def test_a_table_with_histograms(cli: Cli, daemon: DaemonProcess) -> None:
    """People get a row for each side, a plot of each latency, and the limit; a rate is kept."""
    ran = cli("bench", "queues", "--duration", "400ms", "--rate", "2000", "--batch", "20", "--durability", "os")
    assert (ran.code, ran.err) == (0, "")
    lines = ran.out.splitlines()
    assert lines[0].split() == ["WORKERS", "RECORDS", "RECORDS/S", "MB/S", "P50", "P99", "P99.9", "MAX"]
    assert [line.split()[0] for line in lines[1:3]] == ["publish", "deliver"]
    published, delivered = (int(line.split()[2].replace(",", "")) for line in lines[1:3])
    assert published == delivered <= 1000
    assert "publish: a batch until its acknowledgement" in lines
    assert "deliver: from publishing to the consumer" in lines
    assert any("█" in line for line in lines)
    assert lines[-1].startswith("limited by ")


def test_only_delivering(cli: Cli, daemon: DaemonProcess) -> None:
    """Without producers the stream is filled first; shared, each record goes to one of the consumers."""
    words = ("--producers", "0", "--consumers", "2", "--shared", "--count", "2000", "--no-ack")
    found = cli("bench", "queues", *words, "-o", "json").json()
    assert (found["deliver"]["records"], found["deliver"]["latency_seconds"]) == (2000, {"count": 0})
    assert "publish" not in found


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_interrupted_it_leaves_nothing(cli: Cli, daemon: DaemonProcess, number: int, code: int) -> None:
    """Ctrl-C and SIGTERM in the middle remove the stream and end the workers."""
    command = own_module("platformd.cli.main", "--socket", str(daemon.socket), "bench", "queues", "--duration", "60s")
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment())
    deadline = time.monotonic() + 30
    while not (names := cli("stream", "ls", "-o", "name").out.split()) or not _records(cli, names[0]):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(number)
    assert process.communicate(timeout=20) == (b"", b"")
    assert process.returncode == code
    while cli("stream", "ls", "-o", "name").out:
        assert time.monotonic() < deadline
        time.sleep(0.02)


def _records(cli: Cli, stream: str) -> int:
    ran = cli("stream", "info", stream.removeprefix("stream/"), "-o", "json")
    return int(ran.json()["messages"]) if ran.code == 0 else 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--producers 0 --consumers 0", "there is nothing to measure"),
        ("--size big", "'big' is not a size"),
        ("--duration 0", "is no time to measure in"),
        ("--rate 0", "Invalid value"),
    ],
)
def test_what_cannot_be_measured(cli: Cli, daemon: DaemonProcess, words: str, message: str) -> None:
    """It is refused before anything is made."""
    ran = cli("bench", "queues", *words.split())
    assert (ran.code, message in ran.err) == (2, True)


def test_what_a_worker_is_refused_is_the_error(cli: Cli, daemon: DaemonProcess) -> None:
    """The daemon's refusal of a record that is too large comes through, and nothing is left."""
    ran = cli("bench", "queues", "--size", "10MiB", "--batch", "1", "--count", "1")
    assert (ran.code, ran.out) == (2, "")
    assert "record 0 has 10485760 bytes; the limit is 8388608" in ran.err
    assert cli("stream", "ls", "-o", "name").out == ""


def facts(**changes: Any) -> Facts:
    usual: dict[str, Any] = {
        "cores": 4, "daemon_cores": 0.5, "busy_cores": 1.2, "producer_cores": (0.3,), "consumer_cores": (0.2,),
        "durability": "fsync", "batch_seconds": 0.1, "sync_seconds": 0.0002, "in_flight": 8,
    }  # fmt: skip
    return Facts(**(usual | changes))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, "waiting: neither the cores nor the disk"),
        ({"producer_cores": (), "batch_seconds": 0.0}, "more --consumers"),
        ({"rate": 1000.0, "achieved": 990.0}, "the rate that was asked for (1,000 records/s)"),
        ({"rate": 1000.0, "achieved": 500.0}, "waiting"),
        ({"batch_seconds": 0.0004, "in_flight": 1}, "the disk: a batch takes 400us, one fdatasync here 200us"),
        ({"batch_seconds": 0.0004, "in_flight": 1, "durability": "os"}, "waiting"),
        ({"batch_seconds": 0.0004, "in_flight": 1, "sync_seconds": None}, "waiting"),
        ({"producer_cores": (0.99, 0.95)}, "the producers: each uses a whole core"),
        ({"producer_cores": (0.99, 0.1)}, "waiting"),
        ({"consumer_cores": (0.9,)}, "the consumers: each uses a whole core"),
        ({"producer_cores": (1.0, 2.0), "daemon_cores": 0.9}, "clients use 3.2 of them, the daemon 0.9"),
        ({"seconds": 0.1}, "the length of the run: 100ms are too few to tell"),
        ({"busy_cores": 3.9}, "clients use 0.5 of them, the daemon 0.5, other programs 2.9"),
        ({"busy_cores": 3.9, "daemon_cores": None}, "clients use 0.5 of them, other programs 3.4"),
    ],
)  # fmt: skip
def test_what_limits_a_run(changes: dict[str, Any], said: str) -> None:
    """The first sentence is what stands in the way; nothing is said of what was not measured."""
    assert said in limited_by(facts(**changes))[0]


def test_what_cannot_be_seen_is_not_guessed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A daemon elsewhere has no CPU here; a directory that is not there has no disk."""
    import os

    assert daemon_cpu({"pid": os.getpid(), "state_dir": str(tmp_path)}) is not None
    assert daemon_cpu({"pid": os.getpid(), "state_dir": "/nonexistent/state"}) is None
    assert daemon_cpu({"pid": 2**22 + 1, "state_dir": str(tmp_path)}) is None
    assert daemon_cpu({}) is None
    assert machine_cpu() is not None
    monkeypatch.setattr(bench_machine, "SYNCS", 3)
    assert sync_latency("/nonexistent/state") is None
    assert sync_latency(str(tmp_path)) is not None
    assert list(tmp_path.iterdir()) == []


def test_records_of_one_batch_are_counted_together() -> None:
    """Each record counts once, with the time of its own batch."""
    times = [1_000_000, 1_000_000, 3_000_000]
    latency = Histogram()
    count_latencies(latency, tuple(_delivery(time_ns) for time_ns in times), 5_000_000)
    assert (latency.count, latency.total, latency.maximum) == (3, 4000 + 4000 + 2000, 4000)


def _delivery(time_ns: int) -> Delivery:
    return Delivery(
        sequence=1, subject="s", payload=b"", msg_id="", headers={}, time_ns=time_ns, append_time_ns=0, deliveries=1
    )
