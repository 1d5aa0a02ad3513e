"""A copy of the store's file, exact as of one revision, taken while the writer goes on.

SQLite's own backup copies the pages of one read transaction: with all pages in one step nothing that is written
meanwhile gets in or starts it over. (In several steps every commit of another connection would.) As long as
the copy takes, the log cannot be reset, so it grows by what is written meanwhile.

The copy is taken out of WAL mode, so that it is one file.
"""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path

import trio

from platformd.coordination.contract import Snapshot
from platformd.coordination.sqlite import rows
from platformd.coordination.sqlite.errors import translated
from platformd.coordination.sqlite.schema import open_reader
from platformd.core.files import new_file


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
        with new_file(path) as part:
            revision = _copy(store, part)
        return Snapshot(path=path, revision=revision, size_bytes=path.stat().st_size)


def _copy(store: Path, part: Path) -> int:
    with (
        contextlib.closing(open_reader(store)) as source,
        contextlib.closing(sqlite3.connect(part, isolation_level=None)) as copy,
    ):
        copy.execute("PRAGMA synchronous=OFF")  # it is synced once, when it is whole
        source.backup(copy, pages=-1)
        copy.execute("PRAGMA journal_mode=DELETE").fetchall()
        return int(copy.execute(rows.REVISION).fetchone()[0])
