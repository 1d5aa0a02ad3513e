"""The store's file: its tables, their versions, and how it is opened.

Tables::

    current    key -> value, create_revision, mod_revision, version, lease          what is so now
    history    (revision, key) -> what it became, and what it was before            what changed, when
    leases     id -> granted ttl, remaining seconds when that was last written      what will end
    marks      revision -> time                                                     how old history is
    meta       one row: compact_revision, base_revision                             where history begins

``history`` is clustered by revision: writing appends to its end, a watcher reads it forwards, and compaction cuts
its beginning off. Each row has the state *before* the change too. That costs the old value's bytes a second
time, but makes every row stand for itself: compaction may cut anywhere without looking for a key's last
row, a watch has ``previous`` for nothing, and the state at revision R is ``current`` with the changes after R
undone (``reader``). Each row also names the revision of the key's change before it, so that a key's changes are a
chain through the primary key. Where a chain ends in a deletion, ``current`` does not know its end: that is what the
index of deletions is for. (An index of all changes by key would cost each put a random page: measured, a third
of the writer's rate.)

The newest row of ``history`` is never compacted: the store's revision is that row's, so that a commit need not
touch a page for a counter. Without a row it is ``base_revision``: 1, or in a restored store where it goes on.

Durability. WAL with ``synchronous=FULL``: SQLite syncs the log inside COMMIT and only then publishes the commit in
the shared index that tells readers how far they may read (``sqlite3WalFrames``: the sync stands before
``walIndexWriteHdr``). So another connection cannot see what is not yet durable. One gap is left: after a crash
of the process alone, recovery finds a commit that was written but never synced, and would publish it. So
``open_writer`` checkpoints before anything is read, and a checkpoint syncs the log first.

Only the writer's connection writes and checkpoints: SQLite 3.7.0 to 3.51.2 can corrupt a database when two do
so at once (sqlite.org/wal.html#walresetbug).
"""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path

from platformd.coordination.sqlite.errors import translate, translated
from platformd.core.errors import Conflict, StorageFull

STORE_FILE = "store.db"
"""Its name in a state directory."""

FIRST_REVISION = 1
"""The revision of an empty store, as in etcd."""

_PAGE_SIZE = 4096
_WRITER_CACHE_KIB = 64 * 1024
_READER_CACHE_KIB = 16 * 1024
_BUSY_TIMEOUT_MS = 500
_LOG_KEPT_BYTES = 16 * 1024 * 1024  # what a burst left beyond it is cut off; less would grow again and again

MIGRATION_SET = "coordination"
"""Under which name the file remembers the migrations that it has seen."""

VERSIONS = ("0001_first", "0002_base_revision", "0003_index_of_deletions")
"""The names of the migrations, oldest first; a file that has seen another one is a newer platformd's."""


def open_writer(path: Path) -> sqlite3.Connection:
    """The one connection that writes, on a file of the newest schema whose whole content is durable.

    It may be used in another thread than the one that opened it, but in one only.

    Raises:
        Conflict: the file is of a newer platformd, or another process holds it.
        Corrupted: it is not a database, or is damaged.
        StorageFull: there is no room to open it.
    """
    with translated(path):
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o750)
        # SQLite gives its -wal and -shm the permissions of the database: make that first, and private.
        os.close(os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600))
        connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        try:
            _prepare(connection, path)
        except BaseException:
            connection.close()
            raise
    return connection


def _prepare(connection: sqlite3.Connection, path: Path) -> None:
    connection.execute(f"PRAGMA busy_timeout={_BUSY_TIMEOUT_MS}")
    if connection.execute("PRAGMA page_count").fetchone()[0] == 0:
        # Only heeded before there is anything; later it would only be a write, which a full disk refuses.
        connection.execute(f"PRAGMA page_size={_PAGE_SIZE}")
        connection.execute("PRAGMA auto_vacuum=INCREMENTAL")
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=FULL")
    # Debian's SQLite overwrites all that is deleted, so that cutting history off would write as much again.
    connection.execute("PRAGMA secure_delete=FAST").fetchall()
    connection.execute(f"PRAGMA cache_size=-{_WRITER_CACHE_KIB}")
    connection.execute("PRAGMA wal_autocheckpoint=0")  # the writer does it after it has answered, not in COMMIT
    connection.execute(f"PRAGMA journal_size_limit={_LOG_KEPT_BYTES}")
    _make_durable(connection, path)
    _migrate(connection, path)


def _make_durable(connection: sqlite3.Connection, path: Path) -> None:
    """See the module's last words on durability: what recovery found is synced before anyone reads it."""
    try:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    except sqlite3.OperationalError as error:
        if not isinstance(translate(error, path), StorageFull):
            raise
        # No room to carry the log over, but a full disk is no reason not to read: sync the log where it is.
        with Path(f"{path}-wal").open("rb") as log:
            os.fsync(log.fileno())


def _migrate(connection: sqlite3.Connection, path: Path) -> None:
    applied = _applied(connection)
    newer = [name for name in applied if name not in VERSIONS]
    if newer:
        raise Conflict(
            f"the store was written by a newer platformd (schema {newer[-1]}; this one knows up to {VERSIONS[-1]})",
            subject=str(path),
            hint="install that version again, or restore a backup of this one",
        )
    if set(applied) != set(VERSIONS):
        from platformd.coordination.sqlite.migrations import bring_up  # slow to import, and seldom needed

        bring_up(connection)


def _applied(connection: sqlite3.Connection) -> list[str]:
    """The migrations that the file has seen, in that order; the table is the one that sqlite-utils keeps."""
    table = "SELECT 1 FROM sqlite_schema WHERE type = 'table' AND name = '_sqlite_migrations'"
    if connection.execute(table).fetchone() is None:
        return []
    rows = connection.execute(
        "SELECT name FROM _sqlite_migrations WHERE migration_set = ? ORDER BY rowid", (MIGRATION_SET,)
    )
    return [name for (name,) in rows]


def open_reader(path: Path) -> sqlite3.Connection:
    """A connection that only reads. It may be used in several threads, one after the other.

    Raises: as ``open_writer``.
    """
    with translated(path):
        connection = sqlite3.connect(
            f"{path.absolute().as_uri()}?mode=ro", uri=True, isolation_level=None, check_same_thread=False
        )
        try:
            connection.execute("PRAGMA query_only=ON")
            connection.execute(f"PRAGMA cache_size=-{_READER_CACHE_KIB}")
            connection.execute(f"PRAGMA busy_timeout={_BUSY_TIMEOUT_MS}")
        except BaseException:
            connection.close()
            raise
    return connection
