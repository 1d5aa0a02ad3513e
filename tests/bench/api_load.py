"""The client of the API's benchmark: one thread, many connections, each asking again as soon as it has its answer."""

from __future__ import annotations

import os
import selectors
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.bench.harness import percentile

Address = str | tuple[str, int]
"""The path of a Unix socket, or a host and a port."""
RECEIVE = 1 << 18


@dataclass
class Round:
    """What one round measured."""

    rate: float
    """Requests per second."""
    cpu_us: float
    """The server's CPU time per request, microseconds."""
    p50_ms: float
    p99_ms: float


def connect(address: Address) -> socket.socket:
    """A new connection."""
    connection = socket.socket(socket.AF_UNIX if isinstance(address, str) else socket.AF_INET)
    if not isinstance(address, str):
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.connect(address)
    return connection


def request(method: str, path: str, body: bytes = b"") -> bytes:
    """The bytes of a request."""
    length = f"Content-Length: {len(body)}\r\n" if body else ""
    return f"{method} {path} HTTP/1.1\r\nHost: localhost\r\n{length}\r\n".encode() + body


class Asker:
    """One connection that has one request on its way at a time."""

    def __init__(self, address: Address, asked: bytes) -> None:
        self.connection, self._asked = connect(address), asked
        self._data = b""
        self._missing = -1
        self._begun = 0.0

    def ask(self) -> None:
        self._begun = time.perf_counter()
        self.connection.sendall(self._asked)

    def read(self) -> float | None:
        """Take what came; the milliseconds of the answer when it is whole."""
        data = self.connection.recv(RECEIVE)
        assert data, "the server closed the connection"
        if self._missing < 0:
            self._data += data
            head, end, rest = self._data.partition(b"\r\n\r\n")
            if not end:
                return None
            assert head[9:12] in {b"200", b"201"}, self._data
            lines = head.lower().split(b"\r\n")
            self._missing = next(int(line[15:]) for line in lines if line.startswith(b"content-length:")) - len(rest)
            self._data = b""
        else:
            self._missing -= len(data)
        if self._missing:
            return None
        self._missing = -1
        return (time.perf_counter() - self._begun) * 1000


def load(address: Address, pid: int, asked: Sequence[bytes], seconds: float) -> Round:
    """Ask on a connection for each of ``asked``, for ``seconds``."""
    selector = selectors.DefaultSelector()
    askers = [Asker(address, one) for one in asked]
    for asker in askers:
        selector.register(asker.connection, selectors.EVENT_READ, asker)
        asker.ask()
    taken: list[float] = []
    cpu, begun = cpu_seconds(pid), time.monotonic()
    while time.monotonic() - begun < seconds:
        for key, _ in selector.select(1.0):
            done = key.data.read()
            if done is not None:
                taken.append(done)
                key.data.ask()
    elapsed, used = time.monotonic() - begun, cpu_seconds(pid) - cpu
    for asker in askers:
        asker.connection.close()
    selector.close()
    return Round(len(taken) / elapsed, used / len(taken) * 1e6, percentile(taken, 50), percentile(taken, 99))


def deliver(
    address: Address, watchers: int, events_per_second: float, seconds: float, asked: bytes
) -> tuple[float, float]:
    """Milliseconds (99th percentile) of a GET while watchers get events, and the events that came per second.

    Each put is one event for each watcher.
    """
    selector = selectors.DefaultSelector()
    watching = [connect(address) for _ in range(watchers)]
    for connection in watching:
        connection.sendall(request("GET", "/v1/kv?prefix=w/&watch"))
        selector.register(connection, selectors.EVENT_READ, None)
    writer, reader = Asker(address, request("PUT", "/v1/kv/w/a", b"x" * 64)), Asker(address, asked)
    for asker in (writer, reader):
        selector.register(asker.connection, selectors.EVENT_READ, asker)
    reader.ask()
    taken: list[float] = []
    came, puts, writing = 0, 0, False
    begun = time.monotonic()
    while (elapsed := time.monotonic() - begun) < seconds:
        if not writing and puts * watchers <= elapsed * events_per_second:
            writer.ask()
            writing, puts = True, puts + 1
        for key, _ in selector.select(0.005):
            if key.data is None:
                came += key.fileobj.recv(RECEIVE).count(b"event: put")  # type: ignore[union-attr]
            elif (done := key.data.read()) is not None and key.data is writer:
                writing = False
            elif done is not None:
                taken.append(done)
                reader.ask()
    for connection in (*watching, writer.connection, reader.connection):
        connection.close()
    selector.close()
    return percentile(taken, 99), came / elapsed


def cpu_seconds(pid: int) -> float:
    """User and system time of a process."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def rss_mb(pid: int) -> float:
    """Resident memory of a process."""
    lines = Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS:")) / 1024
