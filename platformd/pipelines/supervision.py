"""Worker processes seen from the daemon: starting one, following its reports, ending it.

``Worker`` follows one process from start to end; ``Spawner`` is how processes are made, so that tests make
none. A worker is asked to stop by closing its standard input, which also happens when the daemon dies.
"""

from __future__ import annotations

import logging
import signal
from collections.abc import Callable
from dataclasses import dataclass
from subprocess import PIPE
from typing import Generic, Protocol, TypeVar

import msgspec
import trio

from platformd.core.processes import own_environment, own_module
from platformd.pipelines.rules import WorkerFact, WorkerState

log = logging.getLogger(__name__)

STOP_DEADLINE = 6.0
"""Seconds between asking a worker to stop and ending it; longer than the worker's own deadline."""
MAX_LINE = 64 << 10
"""Bytes of a report; a worker that writes more without a line's end is not one of ours."""
STDERR_TAIL = 4096
"""Bytes of a worker's last words that are kept."""


class WorkerProcess(Protocol):
    """A process that was started."""

    pid: int

    async def send(self, line: bytes) -> None:
        """Write to its standard input; raises trio.BrokenResourceError when it does not listen any more."""
        ...

    async def close_input(self) -> None:
        """End its standard input."""
        ...

    async def read_output(self) -> bytes:
        """What it has written to its standard output; empty at the end."""
        ...

    async def read_errors(self) -> bytes:
        """The same of its standard error."""
        ...

    def kill(self) -> None:
        """End it."""
        ...

    async def wait(self) -> int:
        """Its exit code when it has ended; negative for a signal."""
        ...

    async def aclose(self) -> None:
        """Close our ends of its pipes."""
        ...


class Spawner(Protocol):
    """Makes worker processes."""

    async def spawn(self) -> WorkerProcess:
        """Start one. Raises OSError when the system cannot."""
        ...


class ProcessSpawner:
    """Starts real ones: this interpreter on a module, in a session of their own."""

    def __init__(self, module: str) -> None:
        self._module = module

    async def spawn(self) -> WorkerProcess:
        """Start one."""
        process = await trio.lowlevel.open_process(
            own_module(self._module),
            stdin=PIPE,
            stdout=PIPE,
            stderr=PIPE,
            env=own_environment(),
            start_new_session=True,
        )
        return _Process(process)


class _Process:
    def __init__(self, process: trio.Process) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        self._process = process
        self._stdin, self._stdout, self._stderr = process.stdin, process.stdout, process.stderr
        self.pid = process.pid

    async def send(self, line: bytes) -> None:
        await self._stdin.send_all(line)

    async def close_input(self) -> None:
        await self._stdin.aclose()

    async def read_output(self) -> bytes:
        return bytes(await self._stdout.receive_some())

    async def read_errors(self) -> bytes:
        return bytes(await self._stderr.receive_some())

    def kill(self) -> None:
        self._process.kill()

    async def wait(self) -> int:
        return await self._process.wait()

    async def aclose(self) -> None:
        for stream in (self._stdin, self._stdout, self._stderr):
            await trio.aclose_forcefully(stream)


class Configured(Protocol):
    """What a worker is told, as one line of JSON on its standard input."""

    @property
    def stage_name(self) -> str:
        """Which of its owner's workers it is, for logs."""
        ...

    @property
    def fingerprint(self) -> str:
        """The same for two configurations that make the same worker."""
        ...


ConfigT = TypeVar("ConfigT", bound=Configured)
ReportT = TypeVar("ReportT", bound=msgspec.Struct)


@dataclass(eq=False)
class Worker(Generic[ConfigT, ReportT]):
    """One worker process, from start to end."""

    id: int
    config: ConfigT
    report: ReportT
    """What it has reported last; at first, what one has that has done nothing."""
    on_report: Callable[[Worker[ConfigT, ReportT], ReportT, ReportT], None]
    """Called with the worker, its new report and the one before."""

    def __post_init__(self) -> None:
        self.state: WorkerState = "starting"
        self.pid = 0
        self._report_type = type(self.report)
        self._asked_to_stop = trio.Event()
        self._process: WorkerProcess | None = None
        self._tail = b""

    @property
    def stage(self) -> str:
        """The name of its stage."""
        return self.config.stage_name

    @property
    def fact(self) -> WorkerFact:
        """What rules need to know of it."""
        return WorkerFact(id=self.id, stage=self.stage, fingerprint=self.config.fingerprint, state=self.state)

    def stop(self) -> None:
        """Let it finish what it has and end."""
        self.state = "stopping"
        self._asked_to_stop.set()

    async def condemn(self, condemned: dict[str, str]) -> None:
        """Tell it of records that it must not process."""
        if self._process is not None:
            await _send(self._process, msgspec.json.encode({"condemned": condemned}) + b"\n")

    async def run(self, spawner: Spawner) -> str:
        """Start it and follow it until it has ended. Cancelling asks it to stop, within a deadline.

        Returns:
            What it died of, for a person; empty when it was asked to stop.
        """
        try:
            process = self._process = await spawner.spawn()
        except OSError as error:
            return f"cannot be started: {error.strerror or error}"
        self.pid = process.pid
        code: int | None = None
        try:
            await _send(process, msgspec.json.encode(self.config) + b"\n")
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._end_when_asked, process)
                code = await self._follow(process)
                nursery.cancel_scope.cancel()
        finally:
            with trio.CancelScope(shield=True):
                if code is None:
                    await self._end(process)
                await process.aclose()
        return "" if self.state == "stopping" else self._describe(code)

    async def _follow(self, process: WorkerProcess) -> int:
        """Read all that it writes, until it has ended."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._read_errors, process)
            await self._read_reports(process)
            code = await process.wait()
            # What it said last is in the pipe; but a child of its own could hold the pipe open.
            nursery.cancel_scope.deadline = trio.current_time() + 1.0
        return code

    async def _end_when_asked(self, process: WorkerProcess) -> None:
        await self._asked_to_stop.wait()
        await process.close_input()
        await trio.sleep(STOP_DEADLINE)
        log.warning("worker %d of stage %s did not stop within %g s: killed", self.pid, self.stage, STOP_DEADLINE)
        process.kill()

    async def _end(self, process: WorkerProcess) -> None:
        """End it because this task is cancelled."""
        self.state = "stopping"
        with trio.move_on_after(STOP_DEADLINE):
            await process.close_input()
            await self._follow(process)
            return
        process.kill()
        await process.wait()

    async def _read_reports(self, process: WorkerProcess) -> None:
        buffer = b""
        while piece := await process.read_output():
            *lines, buffer = (buffer + piece).split(b"\n")
            for line in lines:
                self._take(line, process)
            if len(buffer) > MAX_LINE:
                log.error("worker %d of stage %s writes no lines: killed", self.pid, self.stage)
                process.kill()
                return

    def _take(self, line: bytes, process: WorkerProcess) -> None:
        try:
            report = msgspec.json.decode(line, type=self._report_type)
        except msgspec.DecodeError as error:
            log.error("worker %d of stage %s writes something else (%s): killed", self.pid, self.stage, error)
            process.kill()
            return
        before, self.report = self.report, report
        if self.state == "starting":
            self.state = "ready"
        self.on_report(self, report, before)

    async def _read_errors(self, process: WorkerProcess) -> None:
        while piece := await process.read_errors():
            self._tail = (self._tail + piece)[-STDERR_TAIL:]

    def _describe(self, code: int) -> str:
        how = f"exit code {code}"
        if code < 0:
            try:
                how = signal.Signals(-code).name
            except ValueError:
                how = f"signal {-code}"
            if how == "SIGALRM":
                how = "SIGALRM: a packet took too long"
        words = self._tail.decode("utf-8", "replace").strip().split("\n")
        if len(words) > 1:
            log.error("worker %d of stage %s (%s):\n%s", self.pid, self.stage, how, "\n".join(words))
        return f"{how}: {words[-1]}" if words[-1] else how


async def _send(process: WorkerProcess, line: bytes) -> None:
    try:
        await process.send(line)
    except (trio.BrokenResourceError, trio.ClosedResourceError):
        return  # it has died or is stopping: whoever follows its output sees that
