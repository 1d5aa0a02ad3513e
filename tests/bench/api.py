"""What a request to the control API costs: GET of one resource over the Unix socket, 16 kept connections.

    python -m tests.bench.api [--quick] [--json]

The robust figure is the server's own CPU time per request, read from ``/proc``; the rate also depends on
what else the machine does. The peer is the same application under hypercorn's own server, without the
hardening; the rounds of both alternate, and the best round of each counts.
"""

from __future__ import annotations

import argparse
import json
import os
import selectors
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import trio

CONNECTIONS = 16
REQUEST = b"GET /v1/services/s HTTP/1.1\r\nHost: localhost\r\n\r\n"
SERVERS = ("hypercorn", "memory", "sqlite")


@dataclass
class Round:
    """What one round measured."""

    rate: float
    """Requests per second."""
    cpu_us: float
    """The server's CPU time per request, microseconds."""


def main() -> None:
    """Measure and print one row a figure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--quick", action="store_true", help="one short round of each")
    parser.add_argument("--json", action="store_true", help="rows as JSON")
    parser.add_argument("--serve", choices=SERVERS, help=argparse.SUPPRESS)
    parser.add_argument("--directory", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        trio.run(_serve, arguments.serve, arguments.directory)
        return
    rows = measure(rounds=1 if arguments.quick else 5, seconds=1.0 if arguments.quick else 3.0)
    if arguments.json:
        print(json.dumps(rows, indent=2))
        return
    for row in rows:
        peer = f"{row['peer']} {row['peer_value']}, ratio {row['ratio']}" if row["peer"] else ""
        print(f"{row['name']:<44} {row['value']:>9} {row['unit']:<10} {peer}")


def measure(rounds: int, seconds: float) -> list[dict[str, Any]]:
    """All rows, from ``rounds`` rounds of each server."""
    found: dict[str, list[Round]] = {name: [] for name in SERVERS}
    with tempfile.TemporaryDirectory() as directory, _servers(Path(directory)) as servers:
        for _ in range(rounds):
            for name, (path, pid) in servers.items():
                found[name].append(_round(path, pid, seconds))
    rows = []
    for name, what in (("memory", "without a store"), ("sqlite", "SQLite store")):
        peer = "hypercorn" if name == "memory" else ""
        for figure, unit, best in (("rate", "requests/s", max), ("cpu_us", "us CPU", min)):
            value = best(getattr(r, figure) for r in found[name])
            peer_value = best(getattr(r, figure) for r in found[peer]) if peer else None
            rows.append(
                {
                    "name": f"api: GET one resource, {what}",
                    "value": round(value),
                    "unit": unit,
                    "peer": peer or None,
                    "peer_value": round(peer_value) if peer_value else None,
                    "ratio": round(value / peer_value, 2) if peer_value else None,
                    "aim": None,
                    "met": None,
                }
            )
    return rows


@contextmanager
def _servers(directory: Path) -> Iterator[dict[str, tuple[Path, int]]]:
    """All servers, each in a process of its own that says when it serves."""
    processes = {}
    try:
        for name in SERVERS:
            (directory / name).mkdir()
            command = [sys.executable, "-m", "tests.bench.api", "--serve", name, "--directory", str(directory / name)]
            processes[name] = subprocess.Popen(command, stdout=subprocess.PIPE)
        for process in processes.values():
            assert process.stdout is not None
            assert process.stdout.readline() == b"serving\n"
        yield {name: (directory / name / "s.sock", process.pid) for name, process in processes.items()}
    finally:
        for process in processes.values():
            process.kill()
            process.communicate()


def _round(path: Path, pid: int, seconds: float) -> Round:
    """Ask on all connections, each as soon as it has its answer, for ``seconds``."""
    selector = selectors.DefaultSelector()
    connections = [socket.socket(socket.AF_UNIX) for _ in range(CONNECTIONS)]
    for connection in connections:
        connection.connect(str(path))
        connection.sendall(REQUEST)
        selector.register(connection, selectors.EVENT_READ, connection)
    size = len(_whole_answer(connections[0]))
    connections[0].sendall(REQUEST)
    answered, pending = 0, dict.fromkeys(connections, size)
    cpu, begun = _cpu_seconds(pid), time.monotonic()
    while time.monotonic() - begun < seconds:
        for key, _ in selector.select():
            connection = key.data
            pending[connection] -= len(connection.recv(65536))
            if pending[connection] == 0:
                answered += 1
                pending[connection] = size
                connection.sendall(REQUEST)
    elapsed, used = time.monotonic() - begun, _cpu_seconds(pid) - cpu
    for connection in connections:
        connection.close()
    return Round(answered / elapsed, used / answered * 1e6)


def _whole_answer(connection: socket.socket) -> bytes:
    """One answer; all of them have the same length."""
    answer = connection.recv(65536)
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200"), answer
    length = next(int(line[15:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
    while len(body) < length:
        more = connection.recv(65536)
        answer, body = answer + more, body + more
    return answer


def _cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def _serve(name: str, directory: Path) -> None:
    """Serve one resource until killed."""
    from functools import partial

    from platformd.api.app import create_app
    from platformd.api.server import serve
    from platformd.model.kinds import find_kind
    from tests.api.fakes import make_context, make_settings

    settings = make_settings(directory)
    async with _store(name, directory) as store, trio.open_nursery() as nursery:
        context = make_context(settings, store)
        await context.conductor.create(context.conductor.decode(find_kind("service"), {"name": "s", "spec": {}}))
        app = create_app(context)
        if name == "hypercorn":
            from hypercorn.config import Config
            from hypercorn.trio import serve as plain

            config = Config()
            config.bind = [f"unix:{settings.socket_path}"]
            config.errorlog = None
            config.keep_alive_max_requests = 1 << 30
            await nursery.start(partial(plain, app, config, mode="asgi"))
        else:
            await nursery.start(partial(serve, app, settings, stopping=trio.Event()))
        print("serving", flush=True)
        await trio.sleep_forever()


@asynccontextmanager
async def _store(name: str, directory: Path) -> Any:
    if name != "sqlite":
        yield None
        return
    from platformd.coordination.sqlite import open_sqlite
    from platformd.core.clock import SystemClock
    from platformd.core.settings import StoreSettings

    async with open_sqlite(directory / "store.db", StoreSettings(), SystemClock()) as store:
        yield store


if __name__ == "__main__":
    main()
