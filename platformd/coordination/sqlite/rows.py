"""Rows and facts: the statements of the hot path and what their rows mean, for reader and writer alike."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from platformd.coordination.contract import Event, EventType, KeyValue
from platformd.coordination.sqlite.txn import Budget, Change

COLUMNS = "key, value, create_revision, mod_revision, version, lease"
"""The columns of ``current`` that are for ``key_value``."""

KEYS_ONLY = "key, x'', create_revision, mod_revision, version, lease"
"""The same without the value."""

ONE = "SELECT key, value, create_revision, mod_revision, version, lease FROM current WHERE key = ?"
"""A key as it is now; its row is for ``key_value``."""

SPAN = """
    SELECT key, value, create_revision, mod_revision, version, lease FROM current
    WHERE key >= ? AND key < ? ORDER BY key
"""
"""A range as it is now."""

LEASED_KEYS = "SELECT key FROM current WHERE lease = ? AND lease != 0 ORDER BY key"
"""The keys that are bound to a lease."""

LEASED = """
    SELECT key, value, create_revision, mod_revision, version, lease FROM current
    WHERE lease = ? AND lease != 0 ORDER BY key LIMIT ?
"""
"""What is bound to a lease. (``lease != 0`` is what lets SQLite use the partial index.)"""

REVISION = (
    "SELECT coalesce((SELECT revision FROM history ORDER BY revision DESC LIMIT 1), (SELECT base_revision FROM meta))"
)
"""The store's revision: the newest of history, or what it began with."""

COMPACT_REVISION = "SELECT compact_revision FROM meta"
"""The oldest revision that can be read."""

PUT_CURRENT = """
    INSERT OR REPLACE INTO current (key, value, create_revision, mod_revision, version, lease)
    VALUES (?, ?, ?, ?, ?, ?)
"""
DELETE_CURRENT = "DELETE FROM current WHERE key = ?"
PUT_HISTORY = """
    INSERT INTO history (revision, key, create_revision, version, lease, prev_create, prev_mod, prev_version,
        prev_lease, value, prev_value) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
"""

_EVENTS = """
    SELECT revision, key, create_revision, version, lease, value, prev_create, prev_mod, prev_version, prev_lease,
        {before} FROM history WHERE revision > ? AND revision <= ? AND key >= ? {below} {only} ORDER BY revision, key
"""
_ONLY: dict[EventType | None, str] = {None: "", "put": "AND value IS NOT NULL", "delete": "AND value IS NULL"}
_EVENT_STATEMENTS = {
    (previous, bounded, only): _EVENTS.format(
        before="prev_value" if previous else "NULL",  # former values that nobody asked for need not be read
        below="AND key < ?" if bounded else "",
        only=condition,
    )
    for previous in (True, False)
    for bounded in (True, False)
    for only, condition in _ONLY.items()
}


class Wanted(NamedTuple):
    """What a watch asks for."""

    key: bytes
    """The range's start."""
    end: bytes | None
    """Its end; ``None`` for none."""
    previous: bool = False
    """Whether it wants what was before each event."""
    only: EventType | None = None
    """The only type of event that it wants."""


def select_events(connection: sqlite3.Connection, wanted: Wanted, after: int, upto: int) -> sqlite3.Cursor:
    """History of what is wanted in the revisions (after, upto]; its rows are for ``event``."""
    bounds = (after, upto, wanted.key) if wanted.end is None else (after, upto, wanted.key, wanted.end)
    return connection.execute(_EVENT_STATEMENTS[wanted.previous, wanted.end is not None, wanted.only], bounds)


def bounded(key: bytes, end: bytes | None) -> tuple[str, tuple[bytes, ...]]:
    """What follows ``key >= ?`` in a statement for the range, and its parameters."""
    return ("", (key,)) if end is None else ("AND key < ?", (key, end))


def key_value(row: tuple[Any, ...]) -> KeyValue:
    """A row of ``key, value, create_revision, mod_revision, version, lease``."""
    return KeyValue(key=row[0], value=row[1], create_revision=row[2], mod_revision=row[3], version=row[4], lease=row[5])


def current_row(kv: KeyValue) -> tuple[Any, ...]:
    """What ``PUT_CURRENT`` takes."""
    return (kv.key, kv.value, kv.create_revision, kv.mod_revision, kv.version, kv.lease)


def history_row(revision: int, change: Change) -> tuple[Any, ...]:
    """What ``PUT_HISTORY`` takes."""
    kv, previous = change.kv, change.previous
    now = (None, 0, 0, 0) if kv is None else (kv.value, kv.create_revision, kv.version, kv.lease)
    if previous is None:
        return (revision, change.key, now[1], now[2], now[3], 0, 0, 0, 0, now[0], None)
    before = (previous.create_revision, previous.mod_revision, previous.version, previous.lease)
    return (revision, change.key, now[1], now[2], now[3], *before, now[0], previous.value)


def event(row: tuple[Any, ...], *, previous: bool) -> Event:
    """A row of ``select_events`` as the event it was.

    Args:
        row: the row.
        previous: with what was before it, if the row has it.
    """
    revision, key, create, version, lease, value, prev_create, prev_mod, prev_version, prev_lease, prev_value = row
    before = None
    if previous and prev_mod:
        before = KeyValue(
            key=key,
            value=prev_value,
            create_revision=prev_create,
            mod_revision=prev_mod,
            version=prev_version,
            lease=prev_lease,
        )
    if value is None:
        return Event(type="delete", kv=tombstone(key, revision), previous=before)
    kv = KeyValue(key=key, value=value, create_revision=create, mod_revision=revision, version=version, lease=lease)
    return Event(type="put", kv=kv, previous=before)


def live_event(revision: int, change: Change, *, previous: bool) -> Event:
    """The same event, from the change itself."""
    before = change.previous if previous else None
    if change.kv is None:
        return Event(type="delete", kv=tombstone(change.key, revision), previous=before)
    return Event(type="put", kv=change.kv, previous=before)


def tombstone(key: bytes, revision: int) -> KeyValue:
    """A deleted key, as a watch shows it."""
    return KeyValue(key=key, value=b"", create_revision=0, mod_revision=revision, version=0)


REMEMBERED_KEYS = 16_384
"""How many keys the writer remembers, so that changing one again needs no read; the longest unchanged goes first."""
REMEMBERED_VALUE = 1024
"""Bytes of the largest value that is remembered: with ``REMEMBERED_KEYS``, 16 MiB of values at most."""


class StoredState:
    """The stored state on the connection that alone changes it, as ``txn.Base`` wants it."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._remembered: dict[bytes, KeyValue] = {}

    def one(self, key: bytes) -> KeyValue | None:
        """A key."""
        known = self._remembered.get(key)
        if known is not None:
            return known
        row = self._connection.execute(ONE, (key,)).fetchone()
        return None if row is None else key_value(row)

    def became(self, state: Mapping[bytes, KeyValue | None]) -> None:
        """What a commit has made of keys; call it after the commit, before anything else is asked."""
        remembered = self._remembered
        for key, kv in state.items():
            remembered.pop(key, None)  # so that it is put in at the end
            if kv is not None and len(kv.value) <= REMEMBERED_VALUE:
                remembered[key] = kv
        while len(remembered) > REMEMBERED_KEYS:
            del remembered[next(iter(remembered))]

    def forget(self) -> None:
        """Remember nothing: a commit failed, and only the file knows what is so."""
        self._remembered.clear()

    def span(self, key: bytes, end: bytes, budget: Budget) -> list[KeyValue]:
        """All keys in [key, end), ordered, each charged to the budget as it is read."""
        found = []
        for kv in self._facts(SPAN, (key, end)):
            budget.charge(kv)
            found.append(kv)
        return found

    def leased(self, lease_id: int, limit: int) -> list[KeyValue]:
        """The first ``limit`` keys that are bound to a lease, ordered."""
        return list(self._facts(LEASED, (lease_id, limit)))

    def _facts(self, statement: str, parameters: tuple[Any, ...]) -> Iterable[KeyValue]:
        return map(key_value, self._connection.execute(statement, parameters))
