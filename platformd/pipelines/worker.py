"""The process that does a stage's work: ``python -m platformd.pipelines.worker``, started by the daemon.

    standard input    line 1: its configuration (``plan.WorkerConfig``, JSON); later lines: ``{"condemned": …}``;
                      its end means: finish what is in hand, then end (so no worker outlives its daemon)
    standard output   reports (``work.Report``, one JSON line each), at most one in 200 ms unless urgent
    standard error    why it failed
    SIGTERM           as the end of standard input

It is a plain program with two threads: one works, one listens to standard input. While nothing is in hand
the listener ends the process at once, in the middle of a long poll: what the daemon may have put into its
answer is given to others as soon as the connection is gone.
"""

from __future__ import annotations

import os
import resource
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from typing import IO, Any, NoReturn

import msgspec

from platformd.core.errors import PlatformError
from platformd.pipelines.plan import Input, WorkerConfig
from platformd.pipelines.rules import Report
from platformd.pipelines.work import Cursor, Work

REPORT_INTERVAL = 0.2
"""Seconds between reports."""
POLL = 1.0
"""Seconds that a fetch waits for records."""
POLL_BACKLOG = 0.05
"""The same where there are several inputs, which are asked in turn."""
MAX_RECORDS = 256
"""Records that are fetched at once."""
MAX_BYTES = 1 << 20
"""Bytes that are fetched at once; one larger record comes alone."""
STOP_DEADLINE = 4.0
"""Seconds that finishing what is in hand may take after the end was asked for."""
MEMORY_LIMIT = 2 << 30
"""Bytes of data that the process may have: a packet or an expression that wants more fails here and takes
nothing from the daemon."""

EXIT_FAILED = 1
EXIT_CONFIG = 2


class Condemned(msgspec.Struct, frozen=True):
    """A later line on standard input."""

    condemned: dict[str, str]


class Reporter:
    """Writes reports, not too often.

    Args:
        write: writes a line, at once.
        monotonic: seconds.
    """

    def __init__(self, write: Callable[[bytes], None], monotonic: Callable[[], float] = time.monotonic) -> None:
        self._write = write
        self._monotonic = monotonic
        self._lock = threading.RLock()
        self._last = float("-inf")
        self._waiting: msgspec.Struct | None = None
        self._encoder = msgspec.json.Encoder()

    def tell(self, report: msgspec.Struct, urgent: bool = False) -> None:
        """Write ``report`` now if it is urgent or the last one is long enough ago, else keep it."""
        with self._lock:
            self._waiting = report
            if urgent or self.due() <= 0:
                self.flush()

    def due(self) -> float:
        """Seconds until a report may be written."""
        return self._last + REPORT_INTERVAL - self._monotonic()

    @property
    def waiting(self) -> bool:
        """Whether a report has not been written yet."""
        return self._waiting is not None

    def flush(self) -> None:
        """Write what waits."""
        with self._lock:
            if self._waiting is not None:
                report, self._waiting = self._waiting, None
                self._last = self._monotonic()
                self._write(self._encoder.encode(report) + b"\n")


class Loop:
    """Fetches from the inputs in turn until it is told to stop.

    Args:
        work: what is done with records.
        inputs: where they come from.
        reporter: is given a chance to write when nothing comes.
        leave: ends the process.
    """

    def __init__(
        self,
        work: Work,
        inputs: Sequence[tuple[Input, Cursor]],
        reporter: Reporter,
        leave: Callable[[int], Any],
    ) -> None:
        self._work = work
        self._inputs = inputs
        self._reporter = reporter
        self._leave = leave
        self._hand = threading.Lock()
        self._stopping = threading.Event()

    def run(self) -> None:
        """Work until told to stop."""
        turn = 0
        while not self._stopping.is_set():
            source, cursor = self._inputs[turn % len(self._inputs)]
            turn += 1
            self.once(source, cursor)

    def once(self, source: Input, cursor: Cursor) -> None:
        """One fetch and what is to be done with it."""
        wait = POLL if len(self._inputs) == 1 else POLL_BACKLOG
        if self._reporter.waiting:
            wait = min(wait, max(0.0, self._reporter.due()))
        deliveries = cursor.fetch(max_records=MAX_RECORDS, max_bytes=MAX_BYTES, wait=wait)
        if not deliveries:
            self._reporter.flush()
            return
        with self._hand:  # while it is held the listener lets the work finish
            if not self._stopping.is_set():
                self._work.do(source, cursor, deliveries)

    def stop(self) -> None:
        """Stop after what is in hand; end the process if nothing is, or if it takes too long."""
        self._stopping.set()
        if not self._hand.acquire(timeout=STOP_DEADLINE):
            self._leave(EXIT_FAILED)
            return
        try:
            self._reporter.flush()
        finally:
            self._leave(0)
            self._hand.release()

    def listen(self, lines: IO[bytes]) -> None:
        """Obey standard input until it ends."""
        for line in lines:
            self._work.condemn(msgspec.json.decode(line, type=Condemned).condemned)
        self.stop()


def main() -> NoReturn:
    """Be a worker until told to stop."""
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY_LIMIT, MEMORY_LIMIT))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal's Ctrl-C is for the daemon, which tells us
    try:
        config = msgspec.json.decode(sys.stdin.buffer.readline(), type=WorkerConfig)
    except msgspec.DecodeError as error:
        sys.stderr.write(f"the first line is no configuration: {error}\n")
        sys.exit(EXIT_CONFIG)
    try:
        _serve(config)
    except PlatformError as error:
        sys.stderr.write(f"{error}\n")
        sys.stderr.flush()
        os._exit(EXIT_FAILED)
    # The listener may still be reading standard input, which the interpreter's own end would wait for.
    os._exit(0)


def _serve(config: WorkerConfig) -> None:
    from platformd.client.queues import Consumer, Producer  # after the configuration, which may be wrong

    def write(line: bytes) -> None:
        sys.stdout.buffer.write(line)
        sys.stdout.buffer.flush()

    def alarm(delay: float) -> None:
        signal.setitimer(signal.ITIMER_REAL, delay)

    reporter = Reporter(write)
    with Producer(config.ingest) as producer:
        cursors = [(i, Consumer(config.fetch, i.stream, i.consumer)) for i in config.inputs]
        work = Work(config, producer, reporter.tell, time.monotonic, alarm)
        loop = Loop(work, cursors, reporter, os._exit)
        signal.signal(signal.SIGTERM, lambda *_: threading.Thread(target=loop.stop, daemon=True).start())
        threading.Thread(target=loop.listen, args=(sys.stdin.buffer,), daemon=True).start()
        reporter.tell(Report(), True)  # the first report says: ready
        loop.run()
        reporter.flush()


if __name__ == "__main__":
    main()
