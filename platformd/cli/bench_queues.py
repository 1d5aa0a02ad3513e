"""How ``platformd bench queues`` runs: a stream to throw away, workers in processes of their own, what came of them."""

from __future__ import annotations

import contextlib
import os
import select
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import msgspec

from platformd.cli.bench_machine import Facts, daemon_cpu, limited_by, machine_cpu, sync_latency
from platformd.cli.histogram import Histogram
from platformd.client import control, tailing
from platformd.client.reading import as_kind
from platformd.core.errors import DeadlineExceeded, NotFound, PlatformError, Unavailable, from_problem
from platformd.core.processes import own_environment, own_module

if TYPE_CHECKING:
    from platformd.cli.options import Session

START_SECONDS: Final = 30.0
"""How long workers may take to begin, and to end."""
STALL_SECONDS: Final = 10.0
"""Without a record for so long, what is not delivered is given up."""
LOOK_SECONDS: Final = 0.1


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What to measure."""

    producers: int
    consumers: int
    size: int
    batch: int
    durability: str
    in_flight: int
    duration: float
    count: int
    """Records of all producers together; 0: for ``duration``."""
    rate: float
    acknowledge: bool
    shared: bool
    """Whether all consumers' workers take from one consumer."""
    max_bytes: str
    """Of the stream: what is older goes."""


@dataclass
class Side:
    """What producers or consumers did together."""

    workers: int = 0
    records: int = 0
    bytes: int = 0
    seconds: float = 0.0
    cores: list[float] = field(default_factory=list)
    latency: Histogram = field(default_factory=Histogram)

    def add(self, result: dict[str, Any]) -> None:
        """Add what one worker said at its end."""
        self.workers += 1
        self.records += result["records"]
        self.bytes += result["bytes"]
        self.seconds = max(self.seconds, result["seconds"])
        self.cores.append(result["cores"])
        self.latency.merge(Histogram.from_document(result["latency"]))

    def document(self) -> dict[str, Any]:
        """For programs."""
        seconds = self.seconds or 1.0
        return {
            "workers": self.workers,
            "records": self.records,
            "bytes": self.bytes,
            "seconds": round(self.seconds, 6),
            "records_per_second": round(self.records / seconds, 1),
            "bytes_per_second": round(self.bytes / seconds, 1),
            "cores": [round(cores, 3) for cores in self.cores],
            "latency_seconds": self.latency.summary(),
        }


@dataclass
class Outcome:
    """What was measured."""

    plan: Plan
    published: Side
    delivered: Side
    daemon_cores: float | None
    busy_cores: float | None
    sync_seconds: float | None
    removed: int = 0
    """Records that the stream removed before they were delivered."""

    def limits(self) -> list[str]:
        """What the figures were limited by."""
        side = self.published if self.published.workers else self.delivered
        return limited_by(
            Facts(
                cores=os.cpu_count() or 1,
                daemon_cores=self.daemon_cores,
                busy_cores=self.busy_cores,
                producer_cores=tuple(self.published.cores),
                consumer_cores=tuple(self.delivered.cores),
                durability=self.plan.durability,
                batch_seconds=self.published.latency.quantile(0.5) / 1e6,
                sync_seconds=self.sync_seconds,
                in_flight=self.plan.in_flight,
                rate=self.plan.rate,
                achieved=side.records / side.seconds if side.seconds else 0.0,
                seconds=side.seconds,
            )
        )


class Worker:
    """A process of ``bench_worker``."""

    def __init__(self, task: dict[str, Any], stack: ExitStack) -> None:
        self.role = task["role"]
        self.records = 0
        self.result: dict[str, Any] | None = None
        # A group of its own: Ctrl-C is for us, who then end it.
        self._process = stack.enter_context(
            subprocess.Popen(
                own_module("platformd.cli.bench_worker"),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env=own_environment(),
                process_group=0,
            )
        )
        stack.callback(self._process.kill)
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._stdin, self._stdout = self._process.stdin, self._process.stdout
        self._rest = b""
        self.ready = False
        self._tell(msgspec.json.encode(task))

    def fileno(self) -> int:
        """For ``select``."""
        return self._stdout.fileno()

    def begin(self) -> None:
        """Let it begin."""
        self._tell(b"go")

    def stop(self) -> None:
        """Let it come to its end."""
        with contextlib.suppress(OSError):
            self._stdin.close()

    def _tell(self, line: bytes) -> None:
        with contextlib.suppress(OSError):  # it died: which is seen when its output ends
            self._stdin.write(line + b"\n")
            self._stdin.flush()

    def listen(self) -> None:
        """Take what it has said; waits for something.

        Raises:
            PlatformError: it failed.
        """
        data = os.read(self._stdout.fileno(), 1 << 16)
        if not data and self.result is None:
            raise PlatformError(f"a {self.role} ended with {self._process.wait(5)}", subject="bench")
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            said = msgspec.json.decode(line)
            if "error" in said:
                raise from_problem(said["error"])
            self.ready = self.ready or "ready" in said
            self.records = said.get("records", self.records)
            if "done" in said:
                self.result = said


Tell = Callable[[str, float, int], None]
"""Told what is going on, which part of it is done, and how many records."""


class QueueBench:
    """One benchmark of the daemon that the session points at."""

    def __init__(self, session: Session, plan: Plan, tell: Tell) -> None:
        self._session, self._plan, self._tell = session, plan, tell
        self._name = f"bench-{os.urandom(5).hex()}"

    def run(self) -> Outcome:
        """Measure. The stream and its consumers are removed, however it ends.

        Raises:
            PlatformError: the daemon refuses, or a worker failed.
        """
        plan, status = self._plan, self._session.client.status()
        sync = sync_latency(str(status.get("state_dir"))) if plan.durability == "fsync" else None
        with self._stream(), ExitStack() as stack:
            if not plan.producers:
                filler = self._start([self._producer_task() | {"rate": 0.0, "in_flight": 8}], stack)
                self._publish(filler, filler, "filling")
            tasks = [self._consumer_task(i) for i in range(plan.consumers)]
            workers = self._start(tasks + [self._producer_task()] * plan.producers, stack)
            consumers, producers = workers[: plan.consumers], workers[plan.consumers :]
            used = _Cpu(status)
            self._publish(producers, workers, "publishing")
            self._deliver(consumers)
            daemon, machine = used.cores()
            outcome = Outcome(plan, _side(producers), _side(consumers), daemon, machine, sync)
            if not plan.producers:
                outcome.delivered.latency = Histogram()  # how long ago it was filled says nothing
            outcome.removed = self._removed()
            return outcome

    def _start(self, tasks: Sequence[dict[str, Any]], stack: ExitStack) -> list[Worker]:
        common = {"stream": self._name, "size": self._plan.size, "batch": self._plan.batch}
        workers = [Worker(common | task, stack) for task in tasks]
        self._until(workers, lambda: all(worker.ready for worker in workers), "starting", patience=START_SECONDS)
        return workers

    @contextmanager
    def _stream(self) -> Iterator[None]:
        from platformd.cli.commands.delete import wait_gone
        from platformd.cli.stream_output import wait_active

        send, kind = self._session.client.send, as_kind("streams")
        spec = {
            "subjects": [f"{self._name}.records"],
            "description": "platformd bench: may be deleted",
            "max_bytes": self._plan.max_bytes,
        }
        send(control.create(kind, {"name": self._name, "spec": spec})).check()
        try:
            wait_active(self._session, self._name, "default", START_SECONDS)
            yield
        finally:
            with contextlib.suppress(NotFound):
                if send(control.delete(kind, self._name)).check().status == 202:
                    wait_gone(self._session, kind, self._name, "default", None, START_SECONDS)

    def _producer_task(self) -> dict[str, Any]:
        plan, share = self._plan, max(self._plan.producers, 1)
        return {
            "role": "producer",
            "address": self._address("ingest"),
            "subject": f"{self._name}.records",
            "durability": plan.durability,
            "in_flight": plan.in_flight,
            "count": -(-plan.count // share),
            "duration": 0.0 if plan.count else plan.duration,
            "rate": plan.rate / share,
        }

    def _consumer_task(self, number: int) -> dict[str, Any]:
        plan, name = self._plan, f"c{0 if self._plan.shared else number}"
        policy = "explicit" if plan.acknowledge else "none"
        config = {"ack_policy": policy, "max_ack_pending": 65_536}
        self._session.client.send(control.put_consumer(self._name, name, config)).check()
        return {
            "role": "consumer",
            "address": self._address("fetch"),
            "consumer": name,
            "acknowledge": plan.acknowledge,
        }

    def _address(self, socket: Any) -> str:
        from platformd.cli.records import queue_address

        return queue_address(self._session, socket)

    def _publish(self, producers: Sequence[Worker], workers: Sequence[Worker], what: str) -> None:
        """Let ``workers`` begin, and wait until the producers among them are done."""
        for worker in workers:
            worker.begin()
        over = lambda: all(worker.result is not None for worker in producers)  # noqa: E731
        self._until(workers, over, what, part=self._part(producers), counted=producers)

    def _part(self, producers: Sequence[Worker]) -> Callable[[], float]:
        plan, begun = self._plan, time.monotonic()
        if plan.count:
            return lambda: sum(w.records for w in producers) / plan.count
        return lambda: (time.monotonic() - begun) / plan.duration

    def _deliver(self, consumers: list[Worker]) -> None:
        """Wait until everything that is there has been delivered, or nothing more comes; then end the consumers."""
        if not consumers:
            return
        seen, quiet_since, looked = -1, time.monotonic(), 0.0
        pending = [0]

        def over() -> bool:
            nonlocal seen, quiet_since, looked
            now = time.monotonic()
            if sum(w.records for w in consumers) != seen:
                seen, quiet_since = sum(w.records for w in consumers), now
            if now - looked >= LOOK_SECONDS:
                looked = now
                infos = control.read_page(self._session.client.send(control.list_consumers(self._name))).items
                pending[0] = sum(int(info["pending"]) for info in infos)
            return not pending[0] or now - quiet_since > STALL_SECONDS

        looked = -LOOK_SECONDS
        self._until(consumers, over, "delivering", part=lambda: 1 - pending[0] / max(1, pending[0] + seen))
        for worker in consumers:
            worker.stop()
        self._until(consumers, lambda: all(w.result is not None for w in consumers), "ending", patience=START_SECONDS)

    def _removed(self) -> int:
        if not self._plan.consumers:
            return 0
        info = self._session.client.send(tailing.stream_info(self._name)).check().json()
        return int(info["first_sequence"]) - 1

    def _until(
        self,
        workers: Sequence[Worker],
        over: Callable[[], bool],
        what: str,
        *,
        patience: float = float("inf"),
        part: Callable[[], float] = lambda: 0.0,
        counted: Sequence[Worker] | None = None,
    ) -> None:
        """Listen to all ``workers`` until ``over``, or for ``patience`` seconds; ``counted`` are those to tell of."""
        deadline = time.monotonic() + patience
        while not over():
            if time.monotonic() > deadline:
                raise DeadlineExceeded(f"the workers are still {what} after {patience:g}s", subject="bench")
            busy = [worker for worker in workers if worker.result is None]
            if not busy:
                time.sleep(LOOK_SECONDS)
            for worker in select.select(busy, [], [], LOOK_SECONDS)[0] if busy else ():
                worker.listen()
            told = workers if counted is None else counted
            self._tell(what, min(part(), 1.0), sum(worker.records for worker in told))


class _Cpu:
    """Cores that are used from now on."""

    def __init__(self, status: dict[str, Any]) -> None:
        self._status, self._begun = status, time.monotonic()
        self._used = daemon_cpu(status), machine_cpu()

    def cores(self) -> tuple[float | None, float | None]:
        """By the daemon and by all programs; ``None`` where that cannot be seen."""
        elapsed = time.monotonic() - self._begun
        (daemon, machine), now = self._used, (daemon_cpu(self._status), machine_cpu())
        return (
            None if daemon is None or now[0] is None else (now[0] - daemon) / elapsed,
            None if machine is None or now[1] is None else (now[1] - machine) / elapsed,
        )


def _side(workers: Sequence[Worker]) -> Side:
    side = Side()
    for worker in workers:
        if worker.result is None:
            raise Unavailable(f"a {worker.role} did not say what it measured", subject="bench")
        side.add(worker.result)
    return side
