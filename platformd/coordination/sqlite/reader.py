"""Reads: straight from SQLite, on connections that only read.

Where they run was measured (100,000 keys of 256 B): a point get on the loop's own thread takes about
8 µs; a hop to a worker thread costs 100 µs before SQLite is even asked. So gets and short lists run on the
loop, on one connection that never keeps a snapshot across a checkpoint: the next read on it sees the newest
commit. (A second statement on a connection that still has a snapshot open would see *that* snapshot: a
stale read.) A long list takes a snapshot connection from a small pool and gives the loop a turn every
few hundred rows, all within one read transaction. A list as of an old revision scans history, so it runs in a thread.

What a reader sees is durable: see ``schema``. What was acknowledged is seen: the writer's COMMIT returns
before anyone is told.

A count of what a limit cut off reads the whole range, in a thread. Who lists page by page does not pay for it on
each page: a revision does not change, so what is left after a page is what was there less the page, and that
is remembered (``_Counted``).

The past is read in ``past``.
"""

from __future__ import annotations

import contextlib
import sqlite3
import threading
from collections import OrderedDict
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import trio

from platformd.coordination.contract import Compacted, Event, FutureRevision, KeyValue, Listing
from platformd.coordination.sqlite import past, rows
from platformd.coordination.sqlite.errors import translated
from platformd.coordination.sqlite.past import Range
from platformd.coordination.sqlite.schema import open_reader
from platformd.core.errors import Unavailable

CHUNK_ROWS = 256
"""Rows that a list reads before it gives the loop a turn."""

CHUNK_BYTES = 1024 * 1024
"""About the most bytes that it reads before that."""

MAX_SNAPSHOTS = 4
"""Long lists at once; further ones wait. Each holds the log back from being reset while it lasts."""

LOOP_REVISIONS = 256
"""A key as of a revision that is no older than so many is read on the loop: its changes since are no more than that."""

WATCH_REVISIONS = 128
"""Revisions of history that one step of a catching-up watch looks through."""

COUNTS_KEPT = 64
"""How many paged lists at once need not count anew on each page."""


class Reader:
    """Reads of one store's file, for one trio loop.

    Args:
        path: the file; a writer has made and recovered it.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._now = open_reader(path)
        self._idle: list[sqlite3.Connection] = []
        self._room = trio.Semaphore(MAX_SNAPSHOTS)
        self._counted = _Counted()
        self._closed = False

    def close(self) -> None:
        """Close what is open; a list that is under way closes its own connection when it ends."""
        self._closed = True
        self._now.close()
        while self._idle:
            self._idle.pop().close()

    def get(self, key: bytes) -> KeyValue | None:
        """A key now."""
        with translated(self._path):
            row = self._now.execute(rows.ONE, (key,)).fetchone()
            return None if row is None else rows.key_value(row)

    async def get_past(self, key: bytes, revision: int) -> KeyValue | None:
        """A key as it was at ``revision``.

        Raises: as ``Store.get``.
        """
        with translated(self._path), _snapshot(self._now) as connection:
            if _check_revision(connection, revision) - revision <= LOOP_REVISIONS:
                return past.get(connection, key, revision)
        async with self._long() as connection:
            return await trio.to_thread.run_sync(self._get_in_thread, connection, key, revision)

    def _get_in_thread(self, connection: sqlite3.Connection, key: bytes, revision: int) -> KeyValue | None:
        with translated(self._path), _snapshot(connection):
            _check_revision(connection, revision)
            return past.get(connection, key, revision)

    async def list_range(self, wanted: Range) -> Listing:
        """A range now or then. A checkpoint only where it is long.

        Raises: as ``Store.list``.
        """
        if wanted.revision or wanted.order.endswith("mod_revision"):
            async with self._long() as connection:
                return await trio.to_thread.run_sync(self._list_in_thread, connection, wanted)
        with translated(self._path), _snapshot(self._now) as connection:
            items, whole = _chunk(_select_now(connection, wanted))
            if whole and not _cut(items, wanted):
                return Listing(items=tuple(items), revision=_revision(connection), count=len(items))
        async with self._long() as connection:
            with translated(self._path), _snapshot(connection):
                cursor = _select_now(connection, wanted)
                items, whole = _chunk(cursor)
                while not whole:
                    await trio.lowlevel.checkpoint()
                    more, whole = _chunk(cursor)
                    items += more
                revision = _revision(connection)
                count = len(items)
                if _cut(items, wanted):
                    count = await trio.to_thread.run_sync(self._count, connection, wanted, revision)
                return self._listing(items, wanted, revision, count)

    async def count(self, wanted: Range) -> Listing:
        """How many keys are in a range, now or then, and nothing else.

        Raises: as ``Store.list``.
        """
        async with self._long() as connection:
            return await trio.to_thread.run_sync(self._count_in_thread, connection, wanted)

    def _count_in_thread(self, connection: sqlite3.Connection, wanted: Range) -> Listing:
        with translated(self._path), _snapshot(connection):
            newest = _check_revision(connection, wanted.revision)
            count = self._count(connection, wanted, newest)
            return Listing(items=(), revision=wanted.revision or newest, count=count)

    def _list_in_thread(self, connection: sqlite3.Connection, wanted: Range) -> Listing:
        with translated(self._path), _snapshot(connection):
            newest = _check_revision(connection, wanted.revision)
            if wanted.revision in (0, newest):
                items = [rows.key_value(row) for row in _select_now(connection, wanted)]
            else:
                items = past.select(connection, wanted, newest)
            count = self._count(connection, wanted, newest) if _cut(items, wanted) else len(items)
            return self._listing(items, wanted, wanted.revision or newest, count)

    def _count(self, connection: sqlite3.Connection, wanted: Range, newest: int) -> int:
        known = self._counted.get(wanted)
        if known is not None:
            return known
        return _count_now(connection, wanted) if wanted.revision in (0, newest) else past.count(connection, wanted)

    def _listing(self, items: list[KeyValue], wanted: Range, revision: int, count: int) -> Listing:
        if not _cut(items, wanted):
            return Listing(items=tuple(items), revision=revision, count=count)
        items.pop()
        if wanted.order == "key":
            self._counted.put(items[-1].key + b"\x00", wanted.end, revision, count - len(items))
        return Listing(items=tuple(items), revision=revision, more=True, count=count)

    def bounds(self) -> tuple[int, int]:
        """The oldest revision that can be read, and the newest, of one moment."""
        with translated(self._path), _snapshot(self._now) as connection:
            return connection.execute(rows.COMPACT_REVISION).fetchone()[0], _revision(connection)

    def events(self, wanted: rows.Wanted, after: int, upto: int) -> tuple[list[Event], int]:
        """A step through history: what is wanted of it after revision ``after``, of whole revisions.

        Args:
            wanted: which events.
            after: the last revision that the watcher has.
            upto: the last one that it may be given.

        Returns:
            The events, and the revision up to which they are complete.

        Raises:
            Compacted: what comes after ``after`` is not all there any more.
        """
        upto = min(upto, after + WATCH_REVISIONS)
        with translated(self._path), _snapshot(self._now) as connection:
            oldest = connection.execute(rows.COMPACT_REVISION).fetchone()[0]
            if after + 1 < oldest:
                raise Compacted(after + 1, oldest)
            found: list[Event] = []
            size = 0
            for row in rows.select_events(connection, wanted, after, upto):
                if (len(found) >= CHUNK_ROWS or size >= CHUNK_BYTES) and row[0] != _last(found):
                    return found, _last(found)
                event = rows.event(row, previous=wanted.previous)
                found.append(event)
                size += event_bytes(event)
            return found, upto

    async def leased_keys(self, lease_id: int) -> tuple[bytes, ...]:
        """The keys that are bound to a lease, ordered, of one moment."""
        found: list[bytes] = []
        async with self._long() as connection:
            with translated(self._path):
                cursor = connection.execute(rows.LEASED_KEYS, (lease_id,))
                while chunk := cursor.fetchmany(CHUNK_ROWS):
                    found += [key for (key,) in chunk]
                    await trio.lowlevel.checkpoint()
        return tuple(found)

    @contextlib.asynccontextmanager
    async def _long(self) -> AsyncIterator[sqlite3.Connection]:
        """A connection of one's own, for a snapshot that outlives a turn of the loop."""
        async with self._room:
            connection = self._take()
            try:
                yield connection
            finally:
                self._give_back(connection)

    def _take(self) -> sqlite3.Connection:
        if self._closed:
            raise Unavailable("the store is stopping", subject=str(self._path))
        return self._idle.pop() if self._idle else open_reader(self._path)

    def _give_back(self, connection: sqlite3.Connection) -> None:
        if self._closed:
            connection.close()
        else:
            self._idle.append(connection)


def event_bytes(event: Event) -> int:
    """About what an event takes in memory: its keys and values."""
    size = len(event.kv.key) + len(event.kv.value)
    return size if event.previous is None else size + len(event.previous.value)


def _last(events: list[Event]) -> int:
    return events[-1].kv.mod_revision


@contextlib.contextmanager
def _snapshot(connection: sqlite3.Connection) -> Iterator[sqlite3.Connection]:
    """Everything read in the block is of one moment."""
    connection.execute("BEGIN")
    try:
        yield connection
    finally:
        if connection.in_transaction:  # some errors end it themselves
            connection.execute("ROLLBACK")


def _revision(connection: sqlite3.Connection) -> int:
    return int(connection.execute(rows.REVISION).fetchone()[0])


def _check_revision(connection: sqlite3.Connection, revision: int) -> int:
    """Refuse a revision that cannot be read (0, for now, can); the newest one if it can."""
    newest = _revision(connection)
    if revision > newest:
        raise FutureRevision(
            f"revision {revision} is not there yet; the newest is {newest}",
            subject="store",
            hint="list again; a revision from another store, or from before a restore, means nothing here",
        )
    oldest = connection.execute(rows.COMPACT_REVISION).fetchone()[0]
    if 0 < revision < oldest:
        raise Compacted(revision, oldest)
    return newest


def _select_now(connection: sqlite3.Connection, wanted: Range) -> sqlite3.Cursor:
    columns = rows.KEYS_ONLY if wanted.keys_only else rows.COLUMNS
    below, bounds = rows.bounded(wanted.key, wanted.end)
    order = past.ORDERS[wanted.order]
    return connection.execute(
        f"SELECT {columns} FROM current WHERE key >= ? {below} ORDER BY {order} LIMIT ?",  # noqa: S608 - no input in it
        (*bounds, past.one_more(wanted)),
    )


def _count_now(connection: sqlite3.Connection, wanted: Range) -> int:
    below, bounds = rows.bounded(wanted.key, wanted.end)
    statement = f"SELECT count(*) FROM current WHERE key >= ? {below}"  # noqa: S608 - no input in it
    return int(connection.execute(statement, bounds).fetchone()[0])


def _cut(items: list[KeyValue], wanted: Range) -> bool:
    """Whether the limit cuts what was found."""
    return bool(wanted.limit) and len(items) > wanted.limit


def _chunk(cursor: Iterator[tuple[Any, ...]]) -> tuple[list[KeyValue], bool]:
    """The next rows, as many as one turn of the loop may take; and whether these were the last."""
    items: list[KeyValue] = []
    size = 0
    for row in cursor:
        items.append(rows.key_value(row))
        size += len(row[1])
        if len(items) >= CHUNK_ROWS or size >= CHUNK_BYTES:
            return items, False
    return items, True


class _Counted:
    """How many keys are left after a page of a list, for whoever asks for the next one."""

    def __init__(self) -> None:
        self._left: OrderedDict[tuple[bytes, bytes | None, int], int] = OrderedDict()
        self._lock = threading.Lock()  # lists of the past run in threads

    def put(self, key: bytes, end: bytes | None, revision: int, count: int) -> None:
        """``count`` keys are in [key, end) at ``revision``."""
        with self._lock:
            self._left[key, end, revision] = count
            while len(self._left) > COUNTS_KEPT:
                self._left.popitem(last=False)

    def get(self, wanted: Range) -> int | None:
        """How many there are, if that is known."""
        with self._lock:
            return self._left.get((wanted.key, wanted.end, wanted.revision))
