"""What the supervisor and the journal get."""

from __future__ import annotations

import io
import json
import logging
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from platformd.core.logs import configure_logging
from platformd.core.systemd import Notifier


def test_notifications_arrive(tmp_path: Path) -> None:
    """READY, WATCHDOG and STOPPING come as the datagrams that systemd expects."""
    address = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as supervisor:
        supervisor.bind(address)
        supervisor.settimeout(5)
        notifier = Notifier({"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "3000000", "WATCHDOG_PID": str(os.getpid())})
        notifier.ready("fine")
        notifier.watchdog()
        notifier.stopping("bye")
        got = [supervisor.recv(4096).decode() for _ in range(3)]
    assert got[0] == "READY=1\nSTATUS=fine"
    assert got[1] == "WATCHDOG=1"
    assert got[2].startswith("STOPPING=1\nMONOTONIC_USEC=")
    assert notifier.watchdog_interval == 1.5


def test_the_abstract_namespace_works() -> None:
    """An address with a leading @ is in the abstract namespace."""
    name = f"platformd-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as supervisor:
        supervisor.bind("\0" + name)
        supervisor.settimeout(5)
        Notifier({"NOTIFY_SOCKET": "@" + name}).watchdog()
        assert supervisor.recv(100) == b"WATCHDOG=1"


@pytest.mark.parametrize("environ", [{}, {"NOTIFY_SOCKET": "/nonexistent/notify"}, {"WATCHDOG_USEC": "x"}])
def test_no_supervisor_is_no_trouble(environ: dict[str, str]) -> None:
    """Without a supervisor, or with a dead one, nothing happens."""
    notifier = Notifier(environ)
    notifier.ready("fine")
    assert notifier.watchdog_interval is None


def test_another_process_watchdog_is_not_ours() -> None:
    """WATCHDOG_PID of another process means that nobody waits for us."""
    assert Notifier({"WATCHDOG_USEC": "1000000", "WATCHDOG_PID": "1"}).watchdog_interval is None


@pytest.fixture
def root_logger() -> Iterator[logging.Logger]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield root
    root.handlers[:], root.level = handlers, level


def test_json_logs_are_one_object_a_line(root_logger: logging.Logger) -> None:
    """A program can read each line, whatever is in the message."""
    stream = io.StringIO()
    configure_logging("info", "json", stream)
    logging.getLogger("a.b").info("line\nbreak %s", "é")
    logging.getLogger("a.b").debug("not shown")
    (line,) = stream.getvalue().splitlines()
    assert json.loads(line)["message"] == "line\nbreak é"
    assert json.loads(line)["level"] == "info"


def test_text_logs_indent_what_follows(root_logger: logging.Logger) -> None:
    """A message of several lines cannot look like several records."""
    stream = io.StringIO()
    configure_logging("info", "text", stream)
    logging.getLogger("a.b").warning("one\n2026 two")
    assert stream.getvalue().splitlines()[1] == "    2026 two"
