"""The life of an embedded store: opened outside-in, stopped inside-out.

Inside ``open_sqlite``'s block run the writer's thread and four quiet tasks: the end of leases, the saving of
their times, compaction, bookmarks. Leaving it refuses new callers, writes what was handed in, checkpoints
and closes, within a deadline. The deadline is of real time, not trio's: a disk does not know the clock of a test.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import trio

from platformd.coordination.checks import Limits
from platformd.coordination.sqlite.compaction import Compactor, Keep, Mark
from platformd.coordination.sqlite.engine import SqliteStore
from platformd.coordination.sqlite.errors import translated
from platformd.coordination.sqlite.lease import LeaseTable
from platformd.coordination.sqlite.queue import WriteQueue
from platformd.coordination.sqlite.reader import Reader
from platformd.coordination.sqlite.schema import open_writer
from platformd.coordination.sqlite.watch import WatchHub
from platformd.coordination.sqlite.writer import Delivery, Writer
from platformd.core.clock import Clock
from platformd.core.errors import Conflict, DeadlineExceeded, OutcomeUnknown, PlatformError
from platformd.core.quantities import seconds, size_bytes
from platformd.core.settings import StoreSettings

STOP_DEADLINE = 5.0
"""How long leaving ``open_sqlite`` may take before the writer is left behind, seconds."""


@contextlib.asynccontextmanager
async def open_sqlite(
    path: Path,
    settings: StoreSettings,
    clock: Clock,
    *,
    random_bytes: Callable[[int], bytes] = os.urandom,
    stop_deadline: float = STOP_DEADLINE,
) -> AsyncIterator[SqliteStore]:
    """The store in ``path``, made if it is not there, for as long as the block lasts.

    An exception that leaves the block comes out as it is, not wrapped in a group.

    Args:
        path: its file; beside it come ``-wal``, ``-shm`` and ``.lock``.
        settings: limits, and how much history is kept.
        clock: where the age of history comes from. (Leases are on trio's own clock.)
        random_bytes: where lease ids come from.
        stop_deadline: how long leaving may take, seconds of real time.

    Raises:
        Conflict: another process holds the file, or it is a newer version's.
        Corrupted: it is damaged, or not a store.
        StorageFull: there is no room to open it.
        DeadlineExceeded: on leaving, when the disk took too long; what was acknowledged is safe.
    """
    opened = await trio.to_thread.run_sync(_open, path, settings)
    hub = WatchHub(opened.reader, opened.writer.revision, settings.max_watchers, settings.watch_buffer)
    ttls = seconds(settings.lease_min_ttl), seconds(settings.lease_max_ttl)
    leases = LeaseTable(opened.queue, opened.leases, *ttls, random_bytes)
    store = SqliteStore(path, _limits(settings), opened.queue, opened.reader, hub, leases, opened.writer.counts)
    keep = Keep(seconds(settings.history_age), settings.history_revisions)
    compactor = Compactor(opened.queue, keep, clock, store.newest, hub.floor, store.counts, opened.marks)
    crashed: list[Exception] = []

    async def run(part: Callable[[], Awaitable[None]]) -> None:
        try:
            await part()
        except Exception as error:
            crashed.append(error)
            raise

    try:
        async with trio.open_nursery() as nursery:
            thread = _WriterThread(opened, store)
            for part in (thread.run, leases.run, leases.run_saving, compactor.run, hub.run):
                nursery.start_soon(run, part)
            try:
                yield store
            finally:
                with trio.CancelScope(shield=True):  # ``stop`` has its own deadline
                    await thread.stop(leases, path, stop_deadline)
                nursery.cancel_scope.cancel()
    except BaseExceptionGroup as group:
        # The nursery wraps whatever leaves the block. Callers see the nursery only when a part of it failed.
        if crashed or len(group.exceptions) != 1:
            raise
        error = group.exceptions[0]
        raise error from error.__cause__


def _limits(settings: StoreSettings) -> Limits:
    return Limits(size_bytes(settings.max_key), size_bytes(settings.max_value), settings.max_txn_operations)


class _WriterThread:
    """The writer's thread, as a task."""

    def __init__(self, opened: _Opened, store: SqliteStore) -> None:
        self._opened = opened
        self._store = store
        self._token = trio.lowlevel.current_trio_token()
        self._ended = threading.Event()
        # Shielded, for what was handed in is written even when all around it is cancelled.
        self._scope = trio.CancelScope(shield=True)

    async def run(self) -> None:
        limiter = trio.CapacityLimiter(1)
        with self._scope:
            await trio.to_thread.run_sync(self._body, abandon_on_cancel=True, limiter=limiter)

    def _body(self) -> None:
        self._opened.writer.run(self._deliver, self._release)

    def _deliver(self, delivery: Delivery) -> None:
        # The loop is gone only if this thread was left behind at a deadline: everyone was told already.
        with contextlib.suppress(trio.RunFinishedError):
            self._token.run_sync_soon(self._store.delivered, delivery)

    def _release(self) -> None:
        self._opened.lock.close()
        self._ended.set()

    async def stop(self, leases: LeaseTable, path: Path, deadline: float) -> None:
        """Let it finish.

        Raises:
            DeadlineExceeded: it did not; it is left behind, and everyone who waits is told.
        """
        reason = self._store.refuse()
        self._opened.reader.close()  # the last connection to close checkpoints, and that must be the writer's

        async def save_and_close() -> None:
            try:
                await leases.save_all()
            except PlatformError:
                pass  # leases then have their whole time to live after the restart
            finally:
                self._opened.queue.close(reason)

        message = f"the disk did not finish a write within {deadline:g} s"
        async with trio.open_nursery() as nursery:
            nursery.start_soon(save_and_close)
            # A thread that waits for a thread: trio's clock has no part in it.
            in_time = await trio.to_thread.run_sync(self._ended.wait, deadline)
            if not in_time:
                self._opened.queue.abandon(OutcomeUnknown(message, subject=str(path)))
                self._scope.cancel()
        if not in_time:
            hint = "see the kernel's log for the disk"
            raise DeadlineExceeded(f"{message}; what was acknowledged is safe", subject=str(path), hint=hint)


# --- opening ---------------------------------------------------------------------------------------


class _Opened(NamedTuple):
    """What is there before anything runs."""

    lock: _Lock
    queue: WriteQueue
    writer: Writer
    reader: Reader
    leases: Sequence[tuple[int, float, float | None]]
    marks: Sequence[Mark]


def _open(path: Path, settings: StoreSettings) -> _Opened:
    """Open all files (in a worker thread: recovery and counting take their time)."""
    with contextlib.ExitStack() as undo:
        lock = _Lock(path)
        undo.callback(lock.close)
        connection = open_writer(path)
        undo.callback(connection.close)
        with translated(path):
            queue = WriteQueue(settings.max_pending)
            writer = Writer(connection, path, queue, settings.max_batch)
            leases = connection.execute("SELECT id, ttl, remaining FROM leases").fetchall()
            marks = connection.execute("SELECT revision, time_ns FROM marks ORDER BY revision").fetchall()
        opened = _Opened(lock, queue, writer, Reader(path), leases, [Mark(*row) for row in marks])
        undo.pop_all()
    return opened


class _Lock:
    """That only one process (and one store in it) has the file.

    A file of its own, because SQLite's locks on the database come and go with its transactions; ``flock``, because the
    kernel drops it when the process dies, however it dies.
    """

    def __init__(self, path: Path) -> None:
        name = f"{path}.lock"
        with translated(path):
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o750)
            self._file = os.open(name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(self._file, 32).decode(errors="replace").strip()
            os.close(self._file)
            raise Conflict(
                f"process {holder or 'unknown'} holds the store",
                subject=str(path),
                hint="one daemon for each state directory: stop the other one, or give this one its own",
            ) from None
        with translated(path):
            os.ftruncate(self._file, 0)
            os.pwrite(self._file, f"{os.getpid()}\n".encode(), 0)

    def close(self) -> None:
        """Let go."""
        os.close(self._file)
