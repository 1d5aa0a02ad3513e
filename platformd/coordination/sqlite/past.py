"""The past: what a key or a range was as of a revision R.

``current`` has each key's state of now, with the revision of its last change: if that is R or before, it was so at R.
Else the way leads back along the key's chain: the row of a change in history holds the state before it and that
state's ``mod_revision``, which is the next row's; the first state of R or before is the answer, or there was none
(the chain begins with the key's creation). A key that was deleted after R is found in the index of deletions, and
its chain is followed from its first deletion after R on.

So a page costs what it holds, however old R is and however large history. When R is recent it is quicker to look
at all that changed since, which is few rows at the end of history.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from typing import Any, NamedTuple

from platformd.coordination.contract import KeyValue, Order
from platformd.coordination.sqlite import rows

RECENT_REVISIONS = 4096
"""A list of a revision that is no older than so many looks at all that changed since."""

ORDERS: dict[Order, str] = {
    "key": "key",
    "-key": "key DESC",
    "mod_revision": "mod_revision, key",
    "-mod_revision": "mod_revision DESC, key DESC",
}
"""Each order that a list can have, as SQLite's words."""


class Range(NamedTuple):
    """What a list asks for."""

    key: bytes
    """The range's start."""
    end: bytes | None
    """Its end; ``None`` for none."""
    revision: int = 0
    """As it was then; 0 for now."""
    limit: int = 0
    """At most so many; 0 for all."""
    keys_only: bool = False
    order: Order = "key"


_RECENT = """
    SELECT {columns} FROM current WHERE key >= :key {below} AND mod_revision <= :revision
    UNION ALL
    SELECT key, {value}, prev_create, prev_mod, prev_version, prev_lease FROM history
    WHERE key >= :key {below} AND revision > :revision AND prev_mod BETWEEN 1 AND :revision
    ORDER BY {order} LIMIT :limit
"""

_FIRST_DELETION = """
    SELECT revision FROM history INDEXED BY history_deleted
    WHERE key = ? AND revision > ? AND value IS NULL ORDER BY revision LIMIT 1
"""

_CHAIN = """
    WITH RECURSIVE chain (at, before) AS (
        SELECT revision, prev_mod FROM history WHERE revision = :at AND key = :key
        UNION ALL
        SELECT revision, prev_mod FROM chain CROSS JOIN history
        WHERE before > :revision AND history.revision = before AND history.key = :key
    )
    SELECT key, prev_value, prev_create, prev_mod, prev_version, prev_lease FROM history
    WHERE revision = (SELECT min(at) FROM chain) AND key = :key
"""

_DELETED = """
    SELECT DISTINCT key FROM history INDEXED BY history_deleted
    WHERE key >= ? {below} AND revision > ? AND value IS NULL ORDER BY key
"""


def get(connection: sqlite3.Connection, key: bytes, revision: int) -> KeyValue | None:
    """A key as of ``revision``, which history reaches back to; the connection has a snapshot."""
    row = connection.execute(rows.ONE, (key,)).fetchone()
    return _then(connection, key, row, revision)


def _then(connection: sqlite3.Connection, key: bytes, now: tuple[Any, ...] | None, revision: int) -> KeyValue | None:
    if now is not None and now[3] <= revision:
        return rows.key_value(now)
    deletion = connection.execute(_FIRST_DELETION, (key, revision)).fetchone()
    if deletion is None and now is None:
        return None
    at = deletion[0] if deletion is not None else now[3]  # type: ignore[index]  # one of them is there
    row = connection.execute(_CHAIN, {"key": key, "at": at, "revision": revision}).fetchone()
    return rows.key_value(row) if row[3] else None


def select(connection: sqlite3.Connection, wanted: Range, newest: int) -> list[KeyValue]:
    """A range as of a revision, in its order; of more than its limit, one more than that."""
    if newest - wanted.revision <= RECENT_REVISIONS:
        statement = recent(wanted)
        parameters = {
            "key": wanted.key, "end": wanted.end, "revision": wanted.revision, "limit": one_more(wanted)
        }  # fmt: skip
        return [rows.key_value(row) for row in connection.execute(statement, parameters)]
    found: list[KeyValue] = []
    for kv in _walk(connection, wanted):
        found.append(_bare(kv) if wanted.keys_only else kv)
        if wanted.order == "key" and wanted.limit and len(found) > wanted.limit:
            break
    if wanted.order.endswith("mod_revision"):
        found.sort(key=lambda kv: (kv.mod_revision, kv.key))
    if wanted.order.startswith("-"):
        found.reverse()
    return found[: wanted.limit + 1] if wanted.limit else found


def recent(wanted: Range) -> str:
    """The statement for a range as of a recent revision."""
    return _RECENT.format(
        columns=rows.KEYS_ONLY if wanted.keys_only else rows.COLUMNS,
        value="x''" if wanted.keys_only else "prev_value",
        below="" if wanted.end is None else "AND key < :end",
        order=ORDERS[wanted.order],
    )


def count(connection: sqlite3.Connection, wanted: Range) -> int:
    """How many keys a range had as of a revision."""
    below, bounds = rows.bounded(wanted.key, wanted.end)
    same = f"SELECT count(*) FROM current WHERE key >= ? {below} AND mod_revision <= ?"  # noqa: S608 - no input in it
    number = int(connection.execute(same, (*bounds, wanted.revision)).fetchone()[0])
    return number + sum(1 for _ in _walk(connection, wanted, changed=True))


def _walk(connection: sqlite3.Connection, wanted: Range, *, changed: bool = False) -> Iterator[KeyValue]:
    """The range as it was, by key; with ``changed`` only what has changed since."""
    below, bounds = rows.bounded(wanted.key, wanted.end)
    since = (wanted.revision,) if changed else ()
    now = connection.execute(
        f"SELECT {rows.COLUMNS} FROM current WHERE key >= ? {below} "  # noqa: S608 - no input in it
        f"{'AND mod_revision > ?' if changed else ''} ORDER BY key",
        (*bounds, *since),
    )
    gone = (row[0] for row in connection.execute(_DELETED.format(below=below), (*bounds, wanted.revision)))
    for key, row in _merged(now, gone):
        kv = _then(connection, key, row, wanted.revision)
        if kv is not None:
            yield kv


def _merged(now: Iterator[tuple[Any, ...]], gone: Iterator[bytes]) -> Iterator[tuple[bytes, tuple[Any, ...] | None]]:
    """Every key that is there or was deleted, once, in order, with its row if it is there."""
    deleted = next(gone, None)
    for row in now:
        while deleted is not None and deleted < row[0]:
            yield deleted, None
            deleted = next(gone, None)
        if deleted == row[0]:  # and is there again
            deleted = next(gone, None)
        yield row[0], row
    while deleted is not None:
        yield deleted, None
        deleted = next(gone, None)


def one_more(wanted: Range) -> int:
    """What SQLite's LIMIT is: one more than was asked for tells whether there is more."""
    return wanted.limit + 1 if wanted.limit else -1


def _bare(kv: KeyValue) -> KeyValue:
    return KeyValue(
        key=kv.key,
        value=b"",
        create_revision=kv.create_revision,
        mod_revision=kv.mod_revision,
        version=kv.version,
        lease=kv.lease,
    )
