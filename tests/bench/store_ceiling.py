"""The ceiling of an embedded store in Python: group commit and nothing else.

Trio tasks put jobs on a deque, one writer thread takes what is there, stores it in one SQLite transaction with
``synchronous=FULL`` (history and current tables), and wakes the batch with one ``run_sync_soon``. No validation,
overlay, leases, watches, bounds or cancellation: what the store does more costs at least the difference.
"""

from __future__ import annotations

import collections
import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path
from time import perf_counter

import trio

_HISTORY = "INSERT INTO history VALUES (?, ?, ?)"
_CURRENT = "INSERT OR REPLACE INTO current VALUES (?, ?, ?)"


class _Probe:
    """A store that only puts."""

    def __init__(self, path: Path) -> None:
        self._connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        for statement in (
            "PRAGMA journal_mode=WAL",
            "PRAGMA synchronous=FULL",
            "PRAGMA wal_autocheckpoint=1000",
            "CREATE TABLE history (revision INTEGER, key BLOB, value BLOB, PRIMARY KEY (revision, key)) WITHOUT ROWID",
            "CREATE TABLE current (key BLOB PRIMARY KEY, revision INTEGER, value BLOB) WITHOUT ROWID",
        ):
            self._connection.execute(statement).fetchall()
        self._waiting: collections.deque[tuple[trio.lowlevel.Task, bytes, bytes] | None] = collections.deque()
        self._wake = threading.Event()
        self._token = trio.lowlevel.current_trio_token()
        self._revision = 0
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    async def put(self, key: bytes, value: bytes) -> None:
        """Durable when it returns."""
        self._waiting.append((trio.lowlevel.current_task(), key, value))
        self._wake.set()
        await trio.lowlevel.wait_task_rescheduled(_never)

    def close(self) -> None:
        """End the thread."""
        self._waiting.append(None)
        self._wake.set()
        self._thread.join()
        self._connection.close()

    def _run(self) -> None:
        while True:
            self._wake.wait()
            self._wake.clear()
            batch = []
            while self._waiting:
                job = self._waiting.popleft()
                if job is None:
                    return
                batch.append(job)
            if batch:
                self._store(batch)
                self._token.run_sync_soon(_wake_all, batch)

    def _store(self, batch: list[tuple[trio.lowlevel.Task, bytes, bytes]]) -> None:
        history, current = [], []
        for _, key, value in batch:
            self._revision += 1
            history.append((self._revision, key, value))
            current.append((key, self._revision, value))
        self._connection.execute("BEGIN IMMEDIATE")
        self._connection.executemany(_HISTORY, history)
        self._connection.executemany(_CURRENT, current)
        self._connection.execute("COMMIT")


def _never(_: Callable[[], None]) -> trio.lowlevel.Abort:
    return trio.lowlevel.Abort.FAILED


def _wake_all(batch: list[tuple[trio.lowlevel.Task, bytes, bytes]]) -> None:
    for task, _, _ in batch:
        trio.lowlevel.reschedule(task)


async def ceiling(
    directory: Path, keys: list[bytes], value: bytes, tasks: int, total: int
) -> tuple[float, list[float]]:
    """``total`` puts by ``tasks`` tasks into a bare probe that has all ``keys``.

    Returns:
        Puts in a second, and what each took in milliseconds.
    """
    probe = _Probe(directory / f"probe{tasks}.db")
    samples: list[float] = []

    async def write(first: int, last: int, step: int) -> None:
        for number in range(first, last, step):
            begin = perf_counter()
            await probe.put(keys[number % len(keys)], value)
            samples.append((perf_counter() - begin) * 1000)

    try:
        async with trio.open_nursery() as nursery:  # every key is there before it is measured
            for task in range(256):
                nursery.start_soon(write, task, len(keys), 256)
        samples.clear()
        begin = perf_counter()
        async with trio.open_nursery() as nursery:
            for task in range(tasks):
                nursery.start_soon(write, task, total, tasks)
        return total / (perf_counter() - begin), samples
    finally:
        probe.close()
