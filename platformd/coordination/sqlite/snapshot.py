"""A copy of the store's file, exact as of one revision, taken while the writer goes on.

SQLite's own backup copies the pages of one read transaction: with all pages in one step nothing that is written
meanwhile gets in or starts it over. (In several steps every commit of another connection would.) As long as
the copy takes, the log cannot be reset, so it grows by what is written meanwhile.

The copy is made beside its place under another name, taken out of WAL mode so that it is one file, synced, and
linked to its name last: what stands there is whole.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from pathlib import Path

import trio

from platformd.coordination.contract import Snapshot
from platformd.coordination.sqlite import rows
from platformd.coordination.sqlite.errors import translated
from platformd.coordination.sqlite.schema import open_reader
from platformd.core.errors import Conflict


async def write_snapshot(store: Path, path: Path) -> Snapshot:
    """Copy the store's file to ``path``.

    A thread cannot be stopped: a cancellation waits until it is through.

    Raises:
        Conflict: there is something at ``path``.
        StorageFull: there is no room for it.
        Unavailable: ``path`` cannot be written.
    """
    return await trio.to_thread.run_sync(_write, store, path)


def _write(store: Path, path: Path) -> Snapshot:
    with translated(path):
        if path.exists():
            raise taken(path)
        part = path.with_name(f".{path.name}.{os.getpid()}.part")
        part.unlink(missing_ok=True)
        try:
            # SQLite makes files readable for all: what is in the store is not everybody's.
            os.close(os.open(part, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600))
            revision = _copy(store, part)
            sync(part)
            size = part.stat().st_size
            put_in_place(part, path)
        finally:
            part.unlink(missing_ok=True)
    return Snapshot(path=path, revision=revision, size_bytes=size)


def _copy(store: Path, part: Path) -> int:
    with (
        contextlib.closing(open_reader(store)) as source,
        contextlib.closing(sqlite3.connect(part, isolation_level=None)) as copy,
    ):
        copy.execute("PRAGMA synchronous=OFF")  # it is synced once, when it is whole
        source.backup(copy, pages=-1)
        copy.execute("PRAGMA journal_mode=DELETE").fetchall()
        return int(copy.execute(rows.REVISION).fetchone()[0])


def sync(path: Path) -> None:
    """Make a file's content, or a directory's entries, durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def put_in_place(part: Path, path: Path) -> None:
    """Give a finished file its name, durably, unless something has it already.

    Raises:
        Conflict: something has it.
    """
    try:
        os.link(part, path)  # a rename would overwrite
    except FileExistsError:
        raise taken(path) from None
    sync(path.parent)


def taken(path: Path) -> Conflict:
    """There is something at ``path`` already."""
    return Conflict("is there already, and is not overwritten", subject=str(path), hint="take another name")
