"""What workers and the controller talk to, in memory."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec
import trio

from platformd.core.errors import NotFound, PlatformError
from platformd.pipelines.plan import WorkerConfig
from platformd.pipelines.rules import Counts, Report
from platformd.pipelines.supervision import WorkerProcess
from platformd.queues.contract import (
    ConsumerConfig,
    ConsumerInfo,
    Delivery,
    Published,
    Record,
    StreamConfig,
    StreamInfo,
)
from tests.pipelines.resources import ADDRESSES, cursor, stream


class FakePublisher:
    """Keeps what is published, and knows an id once for each subject."""

    def __init__(self, log: list[str]) -> None:
        self.records: list[Record] = []
        self.batches: list[int] = []
        self.refusals: deque[PlatformError] = deque()
        self._log = log

    def publish_batch(self, records: Sequence[Record]) -> Published:
        if self.refusals:
            raise self.refusals.popleft()
        self._log.append("publish")
        self.batches.append(len(records))
        there = {(r.subject, r.msg_id) for r in self.records}
        duplicates = tuple(i for i, r in enumerate(records) if (r.subject, r.msg_id) in there)
        self.records += [r for i, r in enumerate(records) if i not in duplicates]
        return Published(stream="s", first_sequence=1, appended=len(records) - len(duplicates), duplicates=duplicates)


class FakeCursor:
    """Gives what it was given, and remembers what became of it."""

    def __init__(self, log: list[str], *answers: tuple[Delivery, ...]) -> None:
        self.answers = deque(answers)
        self.waits: list[float] = []
        self.acked: list[int] = []
        self.naked: list[int] = []
        self.extended: list[int] = []
        self._log = log

    def fetch(self, *, max_records: int, max_bytes: int, wait: float) -> tuple[Delivery, ...]:
        self.waits.append(wait)
        return self.answers.popleft() if self.answers else ()

    def ack(self, deliveries: Iterable[Delivery]) -> int:
        self._log.append("ack")
        self.acked += [d.sequence for d in deliveries]
        return 1

    def nak(self, deliveries: Iterable[Delivery], delay: float = 0.0) -> int:
        self._log.append(f"nak {delay:g}")
        self.naked += [d.sequence for d in deliveries]
        return 1

    def in_progress(self, deliveries: Iterable[Delivery]) -> int:
        self.extended += [d.sequence for d in deliveries]
        return 1


class FakeStreams:
    """The parts of an engine that the controller uses; backlogs are what the test says."""

    addresses = ADDRESSES

    def __init__(self, *subjects: tuple[str, str]) -> None:
        self.configs = {name: StreamConfig(subjects=(subject,)) for name, subject in subjects}
        self.cursors: dict[tuple[str, str], ConsumerConfig] = {}
        self.backlogs: dict[tuple[str, str], int] = {}
        self.last: dict[str, int] = {}
        self.refusal: PlatformError | None = None

    async def put_stream(self, name: str, config: StreamConfig) -> StreamInfo:
        await trio.lowlevel.checkpoint()
        if self.refusal is not None:
            raise self.refusal
        self.configs[name] = config
        return self.stream(name)

    async def delete_stream(self, name: str) -> None:
        await trio.lowlevel.checkpoint()
        self.stream(name)
        del self.configs[name]
        self.cursors = {key: config for key, config in self.cursors.items() if key[0] != name}

    def stream(self, name: str) -> StreamInfo:
        if name not in self.configs:
            raise NotFound("is not there", subject=f"stream/{name}")
        info = stream(name, *self.configs[name].subjects, last=self.last.get(name, 0))
        return msgspec.structs.replace(info, config=self.configs[name])

    def streams(self) -> tuple[StreamInfo, ...]:
        return tuple(self.stream(name) for name in sorted(self.configs))

    async def put_consumer(self, stream: str, name: str, config: ConsumerConfig) -> ConsumerInfo:
        await trio.lowlevel.checkpoint()
        self.stream(stream)
        self.cursors[stream, name] = config
        return self._info(stream, name)

    async def delete_consumer(self, stream: str, name: str) -> None:
        await trio.lowlevel.checkpoint()
        del self.cursors[stream, name]

    def consumers(self, stream: str) -> tuple[ConsumerInfo, ...]:
        self.stream(stream)
        return tuple(self._info(*key) for key in sorted(self.cursors) if key[0] == stream)

    def _info(self, stream: str, name: str) -> ConsumerInfo:
        info = cursor(stream, name, pending=self.backlogs.get((stream, name), 0))
        return msgspec.structs.replace(info, config=self.cursors[stream, name])


class FakeProcess:
    """A worker process that does what the test says."""

    def __init__(self, number: int, *, obedient: bool) -> None:
        self.pid = number
        self.lines: list[bytes] = []
        self.killed = False
        self.input_closed = False
        self._obedient = obedient
        self._code: int | None = None
        self._ended = trio.Event()
        self._send, self._receive = trio.open_memory_channel[bytes](100)
        self._errors = b""

    @property
    def running(self) -> bool:
        return self._code is None

    @property
    def config(self) -> WorkerConfig:
        return msgspec.json.decode(self.lines[0], type=WorkerConfig)

    @property
    def stage(self) -> str:
        return self.config.stage.name

    def report(self, trying: str = "", trouble: str = "", **counts: Any) -> None:
        line = msgspec.json.encode(Report(counts=Counts(**counts), trying=trying, trouble=trouble))
        self._send.send_nowait(line + b"\n")

    def write(self, data: bytes) -> None:
        self._send.send_nowait(data)

    def exit(self, code: int, errors: bytes = b"") -> None:
        if self._code is None:
            self._code, self._errors = code, errors
            self._send.close()
            self._ended.set()

    async def send(self, line: bytes) -> None:
        await trio.lowlevel.checkpoint()
        self.lines.append(line)

    async def close_input(self) -> None:
        await trio.lowlevel.checkpoint()
        self.input_closed = True
        if self._obedient:
            self.exit(0)

    async def read_output(self) -> bytes:
        try:
            return await self._receive.receive()
        except trio.EndOfChannel:
            return b""

    async def read_errors(self) -> bytes:
        await self._ended.wait()
        words, self._errors = self._errors, b""
        return words

    def kill(self) -> None:
        self.killed = True
        self.exit(-9)

    async def wait(self) -> int:
        await self._ended.wait()
        assert self._code is not None
        return self._code

    async def aclose(self) -> None:
        await trio.lowlevel.checkpoint()


class FakeSpawner:
    """Makes fake processes; as many as the system can."""

    def __init__(self) -> None:
        self.processes: list[FakeProcess] = []
        self.times: list[float] = []
        self.obedient = True
        self.ready = True
        """Whether new processes report at once."""
        self.refusal: OSError | None = None

    async def spawn(self) -> WorkerProcess:
        await trio.lowlevel.checkpoint()
        self.times.append(trio.current_time())
        if self.refusal is not None:
            raise self.refusal
        process = FakeProcess(len(self.processes) + 1, obedient=self.obedient)
        self.processes.append(process)
        if self.ready:
            process.report()
        return process

    def running(self, stage: str) -> list[FakeProcess]:
        return [p for p in self.processes if p.running and p.lines and p.stage == stage]
