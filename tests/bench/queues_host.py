"""The engine of the queues in a process of its own, as the daemon runs it, for what measures it.

    with hosted(directory) as host:
        host.stream("small", subjects=("small.>",))
        host.consumer("small", "c", max_ack_pending=4096)
        Producer(host.address("ingest"))

It takes commands as lines of JSON on its standard input, and ends when that does, so a parent that died leaves
nobody behind. ``python -m tests.bench.queues_host consume …`` is a consumer in a process of its own.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import trio

from platformd.client.queues import Consumer
from platformd.core.clock import SystemClock
from platformd.core.garbage import settle
from platformd.core.settings import QueueSettings
from platformd.queues.contract import ConsumerConfig, StreamConfig, Streams
from platformd.queues.native import open_native

MODULE = "tests.bench.queues_host"


class Host:
    """The process, from outside."""

    def __init__(self, process: subprocess.Popen[bytes], sockets: Path) -> None:
        self.process = process
        self._sockets = sockets
        self.opened: float = self._answer()
        """Seconds from opening the engine's directory to all of its streams being there."""

    def address(self, role: str) -> str:
        """``ingest``, ``fetch``, ``push`` or ``live``."""
        return f"ipc://{self._sockets}/{role}.sock"

    def stream(self, *names: str, **config: Any) -> None:
        """Make streams; each captures ``NAME.>``."""
        self._ask({"streams": names, "config": config})

    def consumer(self, *streams: str, name: str = "c", **config: Any) -> None:
        """Make a consumer on each."""
        self._ask({"consumers": streams, "name": name, "config": config})

    def delete(self, *names: str) -> None:
        """Delete streams, so that the disk is free for what comes next."""
        self._ask({"delete": names})

    def behind(self, stream: str) -> int:
        """How many records its consumer has before it."""
        return int(self._ask({"behind": stream}))

    def memory_kib(self, field: str = "RssAnon") -> int:
        """The memory that is its own, or another field of ``/proc/PID/status``."""
        for line in Path(f"/proc/{self.process.pid}/status").read_text().splitlines():
            if line.startswith(f"{field}:"):
                return int(line.split()[1])
        raise LookupError(field)

    def wakeups(self) -> dict[str, int]:
        """How often the threads of each name went to sleep so far, which is how often they were woken."""
        return wakeups(self.process.pid)

    def _ask(self, command: dict[str, Any]) -> Any:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(command).encode() + b"\n")
        self.process.stdin.flush()
        return self._answer()

    def _answer(self) -> Any:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError("the engine ended")
        return json.loads(line)


def wakeups(pid: int) -> dict[str, int]:
    """Voluntary context switches of the threads of a process, by their names."""
    found: dict[str, int] = {}
    for task in Path(f"/proc/{pid}/task").iterdir():
        fields = dict(line.split(":", 1) for line in (task / "status").read_text().splitlines())
        name = fields["Name"].strip()
        found[name] = found.get(name, 0) + int(fields["voluntary_ctxt_switches"])
    return found


@contextmanager
def hosted(directory: Path) -> Iterator[Host]:
    """The engine on ``directory``, with the streams that are there already."""
    with tempfile.TemporaryDirectory(prefix="qb") as sockets:  # short enough for the paths of Unix sockets
        command = [sys.executable, "-m", MODULE, "serve", str(directory.resolve()), sockets]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            yield Host(process, Path(sockets))
        finally:
            process.stdin.close()
            process.wait()
            process.stdout.close()


class _Known:
    """The streams and consumers that were made, for the next process on the same directory."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(exist_ok=True)
        self._path = directory / "streams.json"
        self.commands: list[dict[str, Any]] = json.loads(self._path.read_text()) if self._path.exists() else []

    def add(self, command: dict[str, Any]) -> None:
        """One more."""
        self.commands.append(command)
        self._path.write_text(json.dumps(self.commands))


async def _serve(directory: Path, sockets: Path, known: _Known) -> None:
    begin = time.perf_counter()
    async with open_native(directory / "streams", sockets, QueueSettings(), SystemClock()) as engine:
        for command in known.commands:
            await _carry_out(engine, command)
        settle()
        _say(time.perf_counter() - begin)
        while line := await trio.to_thread.run_sync(sys.stdin.readline):
            command = json.loads(line)
            if "behind" in command:
                _say(engine.consumers(command["behind"])[0].pending)
                continue
            await _carry_out(engine, command)
            known.add(command)
            _say(True)


def _say(what: object) -> None:
    sys.stdout.write(json.dumps(what) + "\n")
    sys.stdout.flush()


async def _carry_out(engine: Streams, command: dict[str, Any]) -> None:
    config = command.get("config", {})
    for name in command.get("streams", ()):
        await engine.put_stream(name, msgspec.convert({"subjects": (f"{name}.>",)} | config, StreamConfig))
    for stream in command.get("consumers", ()):
        await engine.put_consumer(stream, command["name"], msgspec.convert(config, ConsumerConfig))
    for name in command.get("delete", ()):
        await engine.delete_stream(name)


class Consuming:
    """A consumer in a process of its own that takes a number of records, and says when it had them."""

    def __init__(self, host: Host, stream: str, total: int, *, max_records: int, max_bytes: int) -> None:
        arguments = ["consume", host.address("fetch"), stream, str(total), str(max_records), str(max_bytes)]
        self._process = subprocess.Popen([sys.executable, "-m", MODULE, *arguments], stdout=subprocess.PIPE)
        assert self._process.stdout is not None
        self._answers = self._process.stdout
        self._answers.readline()  # it is connected

    def done(self) -> float:
        """Wait until it has acknowledged all; when that was, on ``perf_counter``'s clock."""
        line = self._answers.readline()
        self._answers.close()
        self._process.wait()
        if not line:
            raise RuntimeError("the consumer ended")
        return float(line)


def _consume(address: str, stream: str, total: int, max_records: int, max_bytes: int) -> None:
    with Consumer(address, stream, "c") as consumer:
        consumer.fetch(max_records=1, wait=0)
        _say(True)
        while total > 0:
            batch = consumer.fetch_batch(max_records=max_records, max_bytes=max_bytes, wait=5)
            total -= sum(1 for payload in batch.payloads() if len(payload) > 0)
            consumer.ack(batch)
        _say(time.perf_counter())


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        place = Path(sys.argv[2])
        trio.run(_serve, place, Path(sys.argv[3]), _Known(place))
    else:
        address, stream, *numbers = sys.argv[2:]
        _consume(address, stream, *map(int, numbers))
    os._exit(0)
