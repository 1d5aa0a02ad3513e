"""Loopback ports for servers that tests start, each for one process of tests at a time.

A port that the kernel gives out and takes back may be given to somebody else at once: to any client, since it is of the
range for those, and so a server that a test kills and starts again may find its port taken. These are below that range,
and while a test process has one, its lock on a file keeps the port from other test processes.
"""

from __future__ import annotations

import fcntl
import os
import random
import socket
import tempfile
from pathlib import Path

LOWEST = 10_000
"""Below it are well-known ports."""

_RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")
_held: dict[int, int] = {}
"""The locks of this process: port → open file. They go with the process."""


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on, and that no other tests will be given while this process lives."""
    found: list[int] = []
    candidates = list(range(LOWEST, _first_of_clients()))
    random.SystemRandom().shuffle(candidates)
    for port in candidates:
        if len(found) == count:
            return found
        if port not in _held and _lock(port):
            if _can_be_bound(port):
                found.append(port)
            else:
                os.close(_held.pop(port))
    raise AssertionError(f"no {count} free ports from {LOWEST} on")


def free_port() -> int:
    """One of ``free_ports``."""
    return free_ports(1)[0]


def _first_of_clients() -> int:
    """Where the range begins from which connections get their own ports."""
    return max(LOWEST + 1000, int(_RANGE.read_text().split()[0])) if _RANGE.exists() else 32_768


def _lock(port: int) -> bool:
    folder = Path(tempfile.gettempdir()) / f"test-ports-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    opened = os.open(folder / str(port), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(opened)
        return False
    _held[port] = opened
    return True


def _can_be_bound(port: int) -> bool:
    with socket.socket() as opened:
        try:
            opened.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True
