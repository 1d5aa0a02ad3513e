"""Backups of the embedded store: what is in one, and how a state directory goes on from one.

A restored store must not let anyone see time run backwards. Somebody may know revisions that were given out after
the backup was made: watches to be resumed, revisions to compare with, fencing tokens. So the restored store
begins at a revision far beyond all of them (``REVISION_GAP``, which is what etcd's own restore is advised to use), and
everything older is compacted: a watch from before is refused with ``Compacted``, its client lists anew and goes
on. Keys keep the revisions that they were last changed at.

Leases keep their ids, and begin their whole time to live again when the daemon starts: their holders were not told
of the restore, and need the time to come back.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
from pathlib import Path

import msgspec

from platformd.coordination.sqlite import rows
from platformd.coordination.sqlite.errors import translated
from platformd.coordination.sqlite.schema import STORE_FILE, VERSIONS, open_reader, open_writer
from platformd.core.errors import Conflict, Corrupted, NotFound
from platformd.core.files import sync
from platformd.core.statedir import hold_state_dir

REVISION_GAP = 1_000_000_000
"""How far a restored store's revision is beyond what was known."""

REPLACED = ".replaced"
"""What is added to the name of a store that was replaced."""

_LOGS = ("-wal", "-shm")
_FIRST_SCHEMA_REVISION = "SELECT coalesce(max(revision), 1) FROM history"


class BackupFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What is in a backup."""

    revision: int
    keys: int
    leases: int
    schema: str
    """The version of its tables."""
    size_bytes: int


class Restored(msgspec.Struct, frozen=True, kw_only=True):
    """What a restore did."""

    path: str
    """The store that is there now."""
    backup: BackupFacts
    revision: int
    """At which it goes on; everything older is compacted."""
    replaced: str | None = None
    """Where the store that was there before is now."""


def check_backup(path: Path) -> BackupFacts:
    """See that a backup is whole and of a version that this program knows.

    Raises:
        NotFound: there is no such file.
        Corrupted: it is damaged, or not a store.
        Conflict: it is of a newer platformd.
    """
    if not path.is_file():
        raise NotFound("there is no such file", subject=str(path))
    with translated(path), contextlib.closing(open_reader(path)) as connection:
        try:
            found = [row[0] for row in connection.execute("PRAGMA integrity_check(5)")]
            if found != ["ok"]:
                raise _damaged(path, "; ".join(str(line) for line in found))
            return _facts(connection, path)
        except sqlite3.OperationalError as error:
            if "no such table" not in str(error) and "no such column" not in str(error):
                raise
            raise Corrupted(f"is no backup of a store ({error})", subject=str(path)) from error


def _facts(connection: sqlite3.Connection, path: Path) -> BackupFacts:
    applied = [row[0] for row in connection.execute("SELECT name FROM _sqlite_migrations ORDER BY name")]
    newer = [name for name in applied if name not in VERSIONS]
    if newer:
        raise Conflict(
            f"was made by a newer platformd (schema {newer[-1]}; this one knows up to {VERSIONS[-1]})",
            subject=str(path),
            hint="restore it with that version",
        )
    return BackupFacts(
        revision=_number(connection, rows.REVISION if VERSIONS[1] in applied else _FIRST_SCHEMA_REVISION),
        keys=_number(connection, "SELECT count(*) FROM current"),
        leases=_number(connection, "SELECT count(*) FROM leases"),
        schema=applied[-1] if applied else "",
        size_bytes=path.stat().st_size,
    )


def _number(connection: sqlite3.Connection, statement: str) -> int:
    return int(connection.execute(statement).fetchone()[0])


def _damaged(path: Path, reason: str) -> Corrupted:
    return Corrupted(
        f"the backup is damaged ({reason})",
        subject=str(path),
        hint=f"take another one, or save what is readable with: sqlite3 {path} .recover",
    )


def restore(backup: Path, state_dir: Path, *, force: bool = False) -> Restored:
    """Make the store of a state directory what a backup has. No daemon may run on it.

    The backup is copied first, checked and made ready beside its place; only then is anything replaced. A store
    that was there is kept under another name (``REPLACED``), the one before that is removed.

    Args:
        backup: the file; it is left as it is.
        state_dir: made if it is not there.
        force: replace a store that is there.

    Raises:
        Conflict: a daemon holds the directory; or there is a store and not ``force``; or the backup is of a newer
            platformd.
        Corrupted: the backup is damaged, or none; nothing was changed.
        NotFound: there is no such backup.
        StorageFull: there is no room for it; nothing was changed.
    """
    facts = check_backup(backup)
    with hold_state_dir(state_dir, {"pid": os.getpid(), "socket": "none: platformd restore", "since": "now"}):
        target = state_dir / STORE_FILE
        there = target.exists()
        if there and not force:
            raise Conflict(
                "has a store already",
                subject=str(state_dir),
                hint=f"--force replaces it (and keeps it as {STORE_FILE}{REPLACED}); or take another --state-dir",
            )
        revision = max(facts.revision, _known_revision(target) if there else 0) + REVISION_GAP
        part = state_dir / f"{STORE_FILE}.restore"
        with translated(target):
            try:
                _make_ready(backup, part, revision)
                replaced = _set_aside(target) if there else None
                part.rename(target)
                sync(state_dir)
            finally:
                for suffix in ("", *_LOGS):
                    Path(f"{part}{suffix}").unlink(missing_ok=True)
    kept = None if replaced is None else str(replaced)
    return Restored(path=str(target), backup=facts, revision=revision, replaced=kept)


def _make_ready(backup: Path, part: Path, revision: int) -> None:
    for suffix in ("", *_LOGS):
        Path(f"{part}{suffix}").unlink(missing_ok=True)
    shutil.copyfile(backup, part)
    part.chmod(0o600)
    owner = part.parent.stat()
    if os.geteuid() == 0:  # root restores for the user that the daemon runs as
        os.chown(part, owner.st_uid, owner.st_gid)
    with contextlib.closing(open_writer(part)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("DELETE FROM history")
        connection.execute("DELETE FROM marks")
        connection.execute("UPDATE leases SET remaining = NULL")
        connection.execute("UPDATE meta SET base_revision = ?, compact_revision = ?", (revision, revision))
        connection.execute("COMMIT")
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    sync(part)


def _known_revision(target: Path) -> int:
    """The revision of the store that will be replaced, if it can still tell."""
    with contextlib.suppress(Corrupted, sqlite3.Error), contextlib.closing(open_reader(target)) as connection:
        with translated(target):
            return _number(connection, rows.REVISION)
    return 0


def _set_aside(target: Path) -> Path:
    """Give a store another name, with the log that belongs to it: beside the new file it would be its death."""
    aside = target.with_name(f"{target.name}{REPLACED}")
    for suffix in ("", *_LOGS):
        Path(f"{aside}{suffix}").unlink(missing_ok=True)
    os.link(target, aside)  # the name itself never is without a store
    for suffix in _LOGS:
        with contextlib.suppress(FileNotFoundError):
            Path(f"{target}{suffix}").rename(f"{aside}{suffix}")
    sync(target.parent)
    return aside
