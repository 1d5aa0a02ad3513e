"""The writer thread: the only one that writes, commits and checkpoints.

Group commit: it takes what is waiting, works each job out on the overlay of those before it, stores the sum in one
SQLite transaction, and answers all. While a commit is on its way to the disk, the next batch gathers; so one
caller pays one sync, and sixty-four callers share one or two.

A job that is wrong is refused alone, while the batch is worked out. If storing the batch fails (a full disk, a
damaged page), nothing of it is stored and every job is tried again by itself, so that only those that cannot
be done are refused. Only when the disk failed while the commit was made durable is there nothing to try: the
outcome of the whole batch is unknown, and so it is told.

The log is checkpointed here too, after the answers are out, so that nobody waits for it.
"""

from __future__ import annotations

import collections
import sqlite3
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import outcome

from platformd.coordination.sqlite import rows
from platformd.coordination.sqlite.errors import translate
from platformd.coordination.sqlite.queue import Job, WriteQueue, copy_of
from platformd.coordination.sqlite.txn import Change, Overlay
from platformd.core.errors import Corrupted, OutcomeUnknown, PlatformError, StorageFull, TooLarge, Unavailable

MAX_BATCH_BYTES = 16 * 1024 * 1024
"""About the most bytes of keys and values that one group commit takes."""

CHECKPOINT_BYTES = 4 * 1024 * 1024
"""After about so many bytes the log is carried over into the database. Puts wait for that: with 8 MiB their rate was
the same, and their 99th percentile a third higher."""

IDLE_AFTER = 0.25
"""Seconds without a job after which what is in the log is carried over too."""

_ALONE = (StorageFull, Corrupted, TooLarge)
"""What one job may have brought on the whole batch, so that the others are worth a try without it."""

_PAGE = 4096
_PAGES_PER_CHANGE = 2  # a leaf each of the two tables' trees: what random keys dirty
_PAGES_PER_STEP = 64  # of compaction: inner pages, free lists and leaves of the index of deletions
_FREE_PAGES_KEPT = 1024  # 4 MiB: the next history is written there, so giving all back would only churn


class Counts(NamedTuple):
    """How the file is."""

    keys: int
    compact_revision: int
    free_pages: int


class Delivery(NamedTuple):
    """What a batch came to, for trio's side."""

    jobs: Sequence[Job[Any]]
    history: Sequence[tuple[int, tuple[Change, ...]]]
    counts: Counts


class Writer:
    """The thread's body. Made in any thread, then ``run`` in one.

    Args:
        connection: the writing connection; it is closed when ``run`` ends.
        path: the store's file, for messages.
        queue: where jobs come from.
        max_batch: the most jobs of one commit.
    """

    def __init__(
        self,
        connection: sqlite3.Connection,
        path: Path,
        queue: WriteQueue,
        max_batch: int,
    ) -> None:
        self._connection = connection
        self._path = path
        self._queue = queue
        self._max_batch = max_batch
        self._stored = rows.StoredState(connection)
        self._deliver: Callable[[Delivery], None] = _nobody
        self._under_way: collections.deque[Job[Any]] = collections.deque()
        self._log_bytes = 0
        self.revision: int = self._value(rows.REVISION)
        self.leases: set[int] = {row[0] for row in connection.execute("SELECT id FROM leases")}
        self.counts = Counts(
            keys=self._value("SELECT count(*) FROM current"),
            compact_revision=self._value(rows.COMPACT_REVISION),
            free_pages=self._value("PRAGMA freelist_count"),
        )

    def _value(self, statement: str) -> int:
        return int(self._connection.execute(statement).fetchone()[0])

    def run(self, deliver: Callable[[Delivery], None], release: Callable[[], None]) -> None:
        """Write until the queue is closed and empty; then checkpoint and close the file.

        Args:
            deliver: takes each ``Delivery``, in this thread, in order.
            release: called last, when the file is closed.
        """
        self._deliver = deliver
        try:
            while (batch := self._next()) != []:
                if batch is not None:
                    self._under_way.extend(batch)
                    self._write(batch)
                if batch is None or self._log_bytes >= CHECKPOINT_BYTES:
                    self._checkpoint("PASSIVE")
            self._checkpoint("TRUNCATE")
        except BaseException:
            self._give_up()
            raise
        finally:
            self._connection.close()
            release()

    def _next(self) -> list[Job[Any]] | None:
        """The next batch; ``None`` if there is time to carry the log over."""
        return self._queue.take(self._max_batch, MAX_BATCH_BYTES, IDLE_AFTER if self._log_bytes else None)

    def _give_up(self) -> None:
        """A bug: answer everyone who waits, so that the ring can come down."""
        hint = "see the log, then restart the daemon"
        failed = Unavailable("the store's writer failed", subject=str(self._path), hint=hint)
        self._refuse(list(self._under_way), OutcomeUnknown(failed.message, subject=failed.subject, hint=hint))
        self._queue.close(failed)
        while batch := self._queue.take(self._max_batch, MAX_BATCH_BYTES):
            self._under_way.extend(batch)
            self._refuse(batch, failed)

    # --- a batch ---

    def _write(self, batch: Sequence[Job[Any]]) -> None:
        refused = self._try(batch)
        if refused is None:
            return
        if len(batch) > 1 and isinstance(refused, _ALONE):
            for job in batch:
                self._write([job])
        else:
            self._refuse(batch, refused)

    def _refuse(self, batch: Sequence[Job[Any]], error: PlatformError) -> None:
        for job in batch:
            job.result = outcome.Error(copy_of(error))
        self._answer(Delivery(batch, (), self.counts))

    def _answer(self, delivery: Delivery) -> None:
        for _ in delivery.jobs:
            self._under_way.popleft()
        self._deliver(delivery)

    def _try(self, batch: Sequence[Job[Any]]) -> PlatformError | None:
        """Do a batch in one commit and deliver it; or do nothing and return why."""
        overlay = Overlay(self._stored, self.revision, self.leases)
        committing = False
        try:
            self._connection.execute("BEGIN IMMEDIATE")
            for job in batch:
                job.result = self._work_out(job, overlay)
            self._store(overlay)
            counts = self._counts(overlay)
            committing = True
            self._connection.execute("COMMIT")
        except sqlite3.Error as error:
            self._stored.forget()
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
            refused = translate(error, self._path, committing=committing)
            if refused is None:
                raise
            refused.__cause__ = error
            return refused
        self._stored.became(overlay.state)
        self.revision = overlay.revision
        self.leases |= overlay.granted.keys()
        self.leases -= overlay.ended
        self.counts = counts
        self._log_bytes += _log_growth(overlay)
        self._answer(Delivery(batch, overlay.history, counts))
        return None

    def _work_out(self, job: Job[Any], overlay: Overlay) -> outcome.Value[Any] | outcome.Error:
        try:
            return outcome.Value(job.work.apply(overlay))
        except PlatformError as error:
            return outcome.Error(error)
        except sqlite3.Error as error:
            # A read that failed leaves the transaction as it was: this job alone is refused.
            known = translate(error, self._path)
            if known is None or not self._connection.in_transaction:
                raise
            known.__cause__ = error
            return outcome.Error(known)

    def _store(self, overlay: Overlay) -> None:
        execute, many = self._connection.execute, self._connection.executemany
        if overlay.history:
            many(rows.PUT_HISTORY, [rows.history_row(rev, c) for rev, changes in overlay.history for c in changes])
            state = overlay.state.values()
            many(rows.PUT_CURRENT, [rows.current_row(kv) for kv in state if kv is not None])
            gone = [(key,) for key, kv in overlay.state.items() if kv is None]
            if gone:
                many(rows.DELETE_CURRENT, gone)
        if overlay.granted:
            many("INSERT INTO leases (id, ttl) VALUES (?, ?)", list(overlay.granted.items()))
        if overlay.saved:
            many("UPDATE leases SET remaining = ? WHERE id = ?", [(r, i) for i, r in overlay.saved.items()])
        if overlay.forgotten:
            many("DELETE FROM leases WHERE id = ?", [(i,) for i in overlay.forgotten])
        for revision, time_ns in overlay.marks:
            execute("UPDATE marks SET time_ns = ? WHERE time_ns > ?", (time_ns, time_ns))
            execute("INSERT OR IGNORE INTO marks (revision, time_ns) VALUES (?, ?)", (revision, time_ns))
        if overlay.compact is not None:
            self._compact(*overlay.compact)
        for _ in range(overlay.shrink):
            # One page at a time: it is a row without columns for each page, and Python's module stops after the first.
            execute("PRAGMA incremental_vacuum(1)")

    def _compact(self, target: int, max_rows: int) -> None:
        """Cut the beginning of history off, whole revisions, and say so in the same commit."""
        execute = self._connection.execute
        beyond = execute("SELECT revision FROM history ORDER BY revision LIMIT 1 OFFSET ?", (max_rows,)).fetchone()
        # At least one whole revision goes, however many rows it has, or this would never end.
        first = execute("SELECT revision FROM history ORDER BY revision LIMIT 1").fetchone()
        if first is None:
            return
        upto = target if beyond is None else min(target, max(beyond[0], first[0] + 1))
        execute("DELETE FROM history WHERE revision < ?", (upto,))
        execute("DELETE FROM marks WHERE revision < ?", (upto,))
        execute("UPDATE meta SET compact_revision = ? WHERE compact_revision < ?", (upto, upto))

    def _counts(self, overlay: Overlay) -> Counts:
        counts = self.counts._replace(keys=self.counts.keys + overlay.keys_added)
        if overlay.compact is None and not overlay.shrink:
            return counts
        return counts._replace(
            compact_revision=self._value(rows.COMPACT_REVISION), free_pages=self._value("PRAGMA freelist_count")
        )

    # --- the log ---

    def _checkpoint(self, mode: str) -> None:
        """Carry the log over into the database. What keeps it from that is tried again later."""
        self._log_bytes = 0
        try:
            self._connection.execute(f"PRAGMA wal_checkpoint({mode})").fetchall()
        except sqlite3.Error as error:
            if translate(error, self._path) is None:
                raise


def _nobody(_: Delivery) -> None:
    raise AssertionError("the writer does not run")


def spare_pages(counts: Counts) -> int:
    """How many free pages there are beyond those that are kept for what comes next."""
    return max(0, counts.free_pages - _FREE_PAGES_KEPT)


def _log_growth(overlay: Overlay) -> int:
    """About how many bytes a batch adds to the log: SQLite knows, but Python's module does not ask it."""
    pages = 1 + 2 * overlay.shrink + (_PAGES_PER_STEP if overlay.compact is not None else 0)
    values = 0
    for _, changes in overlay.history:
        pages += _PAGES_PER_CHANGE * len(changes)
        for _, kv, previous in changes:
            values += 2 * len(kv.value) if kv is not None else 0
            values += len(previous.value) if previous is not None else 0
    return pages * _PAGE + values


def size_on_disk(path: Path) -> int:
    """Bytes of the database and its log."""
    total = 0
    for suffix in ("", "-wal", "-shm"):
        try:
            total += Path(f"{path}{suffix}").stat().st_size
        except FileNotFoundError:
            continue
    return total
