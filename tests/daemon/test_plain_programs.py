"""Plain nng programs and the daemon: it tells where its sockets are, and they outlive it."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pynng
import pytest

from platformd.model.stream import STREAM
from tests.support.daemon import DaemonProcess, short_directory

IN_TIME = 10_000
"""Milliseconds."""


@pytest.fixture
def directory() -> Iterator[Path]:
    with short_directory() as path:
        yield path


def metric(daemon: DaemonProcess, line: str) -> float:
    """The value of a sample, by all that stands before it."""
    command = ["curl", "-s", "--unix-socket", str(daemon.socket), "http://localhost/metrics"]
    text = subprocess.run(command, capture_output=True, check=True, text=True, timeout=20).stdout
    (value,) = [row.removeprefix(line) for row in text.splitlines() if row.startswith(line + " ")]
    return float(value)


def wait_for(daemon: DaemonProcess, line: str, above: float) -> None:
    """Return when a sample is above a value."""
    until = time.monotonic() + 20
    while metric(daemon, line) <= above:
        assert time.monotonic() < until


def heard(subscriber: pynng.Sub0, push: pynng.Push0, message: bytes) -> bytes:
    """What live says after ``message`` was pushed; again, as long as the connections are being made."""
    for _ in range(100):
        push.send(message)
        try:
            return subscriber.recv()
        except pynng.Timeout:
            continue
    raise AssertionError("live says nothing")


def test_plain_programs_outlive_a_killed_daemon(directory: Path) -> None:
    """Their sockets find the next daemon by themselves after kill -9, and metrics count what is lost."""
    with DaemonProcess(directory) as daemon:
        with daemon.client as client:
            sockets = client.status()["queues"]["sockets"]
            client.create(STREAM, {"name": "s", "spec": {"subjects": ["s.>"]}})
        reconnect = {"reconnect_time_min": 1, "reconnect_time_max": 20}
        with (
            pynng.Push0(dial=sockets["push"], send_timeout=IN_TIME, **reconnect) as push,
            pynng.Sub0(dial=sockets["live"], topics=b"s.", recv_timeout=200, **reconnect) as subscriber,
        ):
            assert heard(subscriber, push, b"s.a\nbefore") == b"s.a\nbefore"
            lost = 'platformd_push_refused_total{reason="not_captured"}'
            before = metric(daemon, lost)  # before the stream was opened
            push.send(b"elsewhere\nx")
            wait_for(daemon, lost, before)
            assert metric(daemon, "platformd_live_subscribers") == 1
            daemon.kill()
            daemon.start()
            assert heard(subscriber, push, b"s.a\nafter").startswith(b"s.a\n")
            wait_for(daemon, "platformd_push_records_total", 0)
