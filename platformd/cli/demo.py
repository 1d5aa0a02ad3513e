"""``platformd demo``: the main job on a private daemon, from nothing.

    packets ──▶ alerts.ztf ──▶ filter ──▶ annotate ──▶ route ──▶ alerts.galactic | alerts.extragalactic
                                  └──────────┴───────────┴─────▶ alerts.dead

It uses the control API and the queue sockets as any program could.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import shlex
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import IO, Any, Final

import msgspec

from platformd.cli.demo_daemon import PrivateDaemon, private_daemon
from platformd.cli.demo_options import DemoOptions
from platformd.cli.demo_replay import Output, Receiver, Sent, Source, open_source, send
from platformd.cli.demo_report import document, print_tables
from platformd.client.blocking import Client
from platformd.core.errors import DeadlineExceeded, PlatformError
from platformd.model.pipeline import PipelineStatus, StageStatus
from platformd.pipelines.plan import own_stream, source_consumer

FILTER: Final = "candidate.rb >= 0.55 && candidate.nbad == 0 && candidate.magpsf < 19.5"
"""Real, undisturbed and bright."""
STREAM: Final = "alerts"
PIPELINE: Final = "demo"
SOURCE: Final = "alerts.ztf"
GALACTIC: Final = "alerts.galactic"
EXTRAGALACTIC: Final = "alerts.extragalactic"
DEAD: Final = "alerts.dead"
PLANE: Final = (
    "annotations.galactic_latitude != null"
    " && annotations.galactic_latitude < 15.0 && annotations.galactic_latitude > -15.0"
)
"""Within 15 degrees of the galactic plane; a packet without a position is not."""

SETTINGS: Final = {"PLATFORMD_PIPELINES_STATUS_INTERVAL": "100ms"}
"""The daemon's settings: counts are wanted sooner than usual."""
LOOK: Final = 0.02
"""Seconds between two looks at the pipeline."""
PATIENCE: Final = 60.0
"""Seconds without any progress after which the demonstration gives up."""
SETTLED: Final = 3.0
"""Seconds after the last packet until counts that do not show all of them are believed to be all there is: a
worker that was killed took its last ones with it."""

_COUNTED: Final = ("received", "accepted", "rejected", "dead_lettered", "duplicates", "busy_seconds")


def run_demo(options: DemoOptions) -> int:
    """Run the demonstration; the exit code.

    Raises:
        PlatformError: the daemon does not start, or refuses something (a filter that is not valid).
    """
    source = open_source(options.alerts, options.count, options.seed)
    with _ended_by_signals(), private_daemon(options.state_dir, SETTINGS) as daemon:
        report = _Run(daemon, options, source).run()
        if options.json:
            sys.stdout.write(json.dumps(report, indent=2) + "\n")
        else:
            print_tables(report, sys.stdout)
        sys.stdout.flush()
        if options.keep:
            _keep(daemon, sys.stderr if options.json else sys.stdout)
    return 0


def stream_document() -> dict[str, Any]:
    """The demonstration's stream."""
    return {"name": STREAM, "spec": {"subjects": ["alerts.>"], "description": "survey alerts and what came of them"}}


def pipeline_document(expression: str) -> dict[str, Any]:
    """The demonstration's pipeline with a filter of ``expression``."""
    return {
        "name": PIPELINE,
        "spec": {
            "source": SOURCE,
            "dead_letter": DEAD,
            "stages": [
                {"type": "filter", "name": "filter", "expression": expression},
                {"type": "annotate", "name": "annotate", "annotators": ["galactic", "delta_mag"]},
                {
                    "type": "route",
                    "name": "route",
                    "routes": [{"subject": GALACTIC, "when": PLANE}, {"subject": EXTRAGALACTIC}],
                },
            ],
        },
    }


class _Run:
    """One replay."""

    def __init__(self, daemon: PrivateDaemon, options: DemoOptions, source: Source) -> None:
        self._daemon = daemon
        self._options = options
        self._source = source
        self._expression = options.filter if options.filter is not None else FILTER

    def run(self) -> dict[str, Any]:
        with self._daemon.client() as client:
            client.apply("streams", stream_document())
            client.apply("pipelines", pipeline_document(self._expression))
            before = self._wait_for_workers(client)
            sockets = client.status()["queues"]["sockets"]
            with _receivers(client, sockets["fetch"]) as receivers:
                with _progress(self._source.expected, self._options) as advance:
                    sent = send(self._source, sockets["ingest"], SOURCE, self._options.rate, advance)
                self._wait_for_packets(client, receivers)
                elapsed = time.monotonic() - sent.started
                stages = self._wait_for_counts(client, sent, before)
                self._wait_for_outputs(stages, receivers)
            outputs = [r.output for r in receivers]
            return document(self._source, self._expression, sent, stages, outputs, elapsed)

    def _status(self, client: Client) -> PipelineStatus:
        self._daemon.check()
        status: PipelineStatus = client.get("pipelines", PIPELINE).status
        return status

    def _wait_for_workers(self, client: Client) -> tuple[StageStatus, ...]:
        """Wait until every stage has its workers; the counts of earlier runs on the same state."""
        deadline = time.monotonic() + PATIENCE
        while True:
            status = self._status(client)
            if status.state == "running" and status.stages:
                return status.stages
            if status.state == "error" and status.reason != "SubjectNotCaptured":  # the stream may not be there yet
                raise PlatformError(status.message, subject=f"pipeline/{PIPELINE}")
            if time.monotonic() > deadline:
                raise _stuck("the workers did not start", status)
            time.sleep(LOOK)

    def _wait_for_packets(self, client: Client, receivers: Sequence[Receiver]) -> None:
        """Wait until nothing waits for any stage, as the cursors tell it, which do not lag as counts do."""
        pipeline = client.get("pipelines", PIPELINE)
        cursor, between = source_consumer(pipeline), own_stream(pipeline)
        changed, before = time.monotonic(), None
        quiet = 0
        while quiet < 2:  # twice, since a packet could move past a look in the middle of it
            self._daemon.check()
            _check(receivers)
            cursors = [c for c in _cursors(client, STREAM) if c["name"] == cursor] + _cursors(client, between)
            left = [c["pending"] + c["ack_pending"] for c in cursors]
            quiet = 0 if any(left) else quiet + 1
            now = time.monotonic()
            if left != before:
                changed, before = now, left
            if now - changed > PATIENCE:
                raise _stuck(f"{sum(left)} packets wait and no more are taken", self._status(client))
            time.sleep(LOOK)

    def _wait_for_counts(self, client: Client, sent: Sent, before: Sequence[StageStatus]) -> tuple[StageStatus, ...]:
        """The counts of this run, when they show every packet, or when it is clear that they will not."""
        deadline = time.monotonic() + SETTLED
        while True:
            stages = _since(self._status(client).stages, before)
            flows = all(b.received == a.accepted for a, b in itertools.pairwise(stages))
            if (_ended(stages) >= sent.stored and flows) or time.monotonic() > deadline:
                return stages
            time.sleep(LOOK)

    def _wait_for_outputs(self, stages: Sequence[StageStatus], receivers: Sequence[Receiver]) -> None:
        wanted = stages[-1].accepted + sum(s.dead_lettered for s in stages)
        deadline = time.monotonic() + PATIENCE
        while sum(r.count for r in receivers) < wanted:
            _check(receivers)
            self._daemon.check()
            if time.monotonic() > deadline:
                raise DeadlineExceeded(f"{sum(r.count for r in receivers)} of {wanted} outputs were delivered")
            time.sleep(LOOK)


def _since(stages: Sequence[StageStatus], before: Sequence[StageStatus]) -> tuple[StageStatus, ...]:
    """The counts without those of earlier runs."""
    earlier = {s.name: s for s in before}
    return tuple(
        msgspec.structs.replace(s, **{c: getattr(s, c) - getattr(earlier[s.name], c) for c in _COUNTED})
        if s.name in earlier
        else s
        for s in stages
    )


def _ended(stages: Sequence[StageStatus]) -> int:
    """How many packets have come to an end, one way or another."""
    return stages[-1].accepted + sum(s.rejected + s.dead_lettered + s.duplicates for s in stages)


def _cursors(client: Client, stream: str) -> list[dict[str, Any]]:
    items: list[dict[str, Any]] = client.request("GET", f"/v1/streams/{stream}/consumers").json()["items"]
    return items


def _check(receivers: Sequence[Receiver]) -> None:
    for receiver in receivers:
        if receiver.error is not None:
            raise receiver.error


def _stuck(what: str, status: PipelineStatus) -> DeadlineExceeded:
    return DeadlineExceeded(
        f"{what} for {PATIENCE:g} s: {status.message or status.state}",
        subject=f"pipeline/{PIPELINE}",
        hint="run it again with --keep --state-dir DIR and look into DIR/daemon.log",
    )


@contextlib.contextmanager
def _receivers(client: Client, address: str) -> Iterator[list[Receiver]]:
    """A receiver for each output, with a consumer of its own that begins with what is published from now on."""
    made: list[tuple[str, Receiver]] = []
    try:
        for subject in (GALACTIC, EXTRAGALACTIC, DEAD):
            name = f"demo-{os.getpid()}-{subject.rpartition('.')[2]}"
            path = f"/v1/streams/{STREAM}/consumers/{name}"
            client.request("PUT", path, json={"filter_subject": subject, "deliver_policy": "new"})
            receiver = Receiver(address, STREAM, name, Output(subject, dead=subject == DEAD))
            receiver.start()
            made.append((path, receiver))
        yield [receiver for _, receiver in made]
    finally:
        for _, receiver in made:
            receiver.end()
        for path, receiver in made:
            receiver.join(5.0)
            # A daemon that is gone has taken its consumers with it; the first error is the one to show.
            with contextlib.suppress(PlatformError):
                client.request("DELETE", path)


@contextlib.contextmanager
def _progress(expected: int, options: DemoOptions) -> Iterator[Callable[[int], None]]:
    """A bar on the terminal, if there is one."""
    if options.json or not sys.stderr.isatty():
        yield lambda _: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("replaying"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task("", total=expected)
        sent = 0

        def advance(count: int) -> None:
            nonlocal sent
            sent += count
            progress.update(task, completed=sent, total=max(expected, sent))

        yield advance


def _keep(daemon: PrivateDaemon, out: IO[str]) -> None:
    """Stay up until Ctrl-C, or until the daemon ends."""
    socket = shlex.quote(str(daemon.socket))
    live = shlex.quote("ipc://" + str(daemon.socket.with_suffix(".queues") / "live.sock"))
    out.write(
        "\nThe daemon stays up until Ctrl-C. Attach from another terminal:\n\n"
        f"  platformd --socket {socket} tui\n"
        f"  platformd --socket {socket} get all\n"
        f"  curl --unix-socket {socket} http://localhost/v1/pipelines/{PIPELINE}\n"
        f"  nngcat --sub --dial {live} --subscribe '' --quoted   # Debian: nng-utils\n"
    )
    out.flush()
    with contextlib.suppress(KeyboardInterrupt):
        daemon.process.wait()
        daemon.check()


@contextlib.contextmanager
def _ended_by_signals() -> Iterator[None]:
    """Let SIGTERM and SIGHUP unwind the block, so that what was started is ended."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def leave(number: int, _frame: Any) -> None:
        raise SystemExit(128 + number)

    before = {number: signal.signal(number, leave) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
