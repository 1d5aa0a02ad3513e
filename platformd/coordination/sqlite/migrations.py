"""How the store's file came to have the tables that ``schema`` describes: one step for each of its versions.

Imported only when a file is new or of an older version: sqlite-utils, which keeps the account of what was done, imports
numpy where it finds it (measured: together a seventh of a start, and 15 MB).
"""

from __future__ import annotations

import sqlite3

import sqlite_utils
from sqlite_utils.migrations import Migrations

from platformd.coordination.sqlite.schema import FIRST_REVISION, MIGRATION_SET, VERSIONS

migrations = Migrations(MIGRATION_SET)
"""What leads from each version of the schema to the next. What was released is never edited."""


def bring_up(connection: sqlite3.Connection) -> None:
    """Bring a file to the newest version; what it has seen already is not done again."""
    migrations.apply(sqlite_utils.Database(connection, execute_plugins=False, recursive_triggers=False))


@migrations(name=VERSIONS[0])
def _first(db: sqlite_utils.Database) -> None:
    # sqlite-utils has no word for WITHOUT ROWID: these two are written out.
    db.execute("""
        CREATE TABLE current (
            key BLOB NOT NULL PRIMARY KEY,
            create_revision INTEGER NOT NULL,
            mod_revision INTEGER NOT NULL,
            version INTEGER NOT NULL,
            lease INTEGER NOT NULL,
            value BLOB NOT NULL
        ) STRICT, WITHOUT ROWID
    """)
    db.execute("CREATE INDEX current_by_lease ON current (lease, key) WHERE lease != 0")
    # value is NULL for a deletion; prev_mod is 0 when the key was not there before.
    db.execute("""
        CREATE TABLE history (
            revision INTEGER NOT NULL,
            key BLOB NOT NULL,
            create_revision INTEGER NOT NULL,
            version INTEGER NOT NULL,
            lease INTEGER NOT NULL,
            prev_create INTEGER NOT NULL,
            prev_mod INTEGER NOT NULL,
            prev_version INTEGER NOT NULL,
            prev_lease INTEGER NOT NULL,
            value BLOB,
            prev_value BLOB,
            PRIMARY KEY (revision, key)
        ) STRICT, WITHOUT ROWID
    """)
    db.execute("CREATE INDEX history_by_key ON history (key, revision)")
    db.create_table(
        "leases", {"id": int, "ttl": float, "remaining": float}, pk="id", not_null={"id", "ttl"}, strict=True
    )
    db.create_table("marks", {"revision": int, "time_ns": int}, pk="revision", not_null={"time_ns"}, strict=True)
    db.create_table("meta", {"id": int, "compact_revision": int}, pk="id", not_null={"compact_revision"}, strict=True)
    db.table("meta").insert({"id": 1, "compact_revision": FIRST_REVISION})


@migrations(name=VERSIONS[1])
def _base_revision(db: sqlite_utils.Database) -> None:
    db.execute(f"ALTER TABLE meta ADD COLUMN base_revision INTEGER NOT NULL DEFAULT {FIRST_REVISION}")


@migrations(name=VERSIONS[2])
def _index_of_deletions(db: sqlite_utils.Database) -> None:
    db.execute("DROP INDEX history_by_key")
    # With ``value``, although it is NULL in every row: SQLite looks at it again, and so need not go to the table.
    db.execute("CREATE INDEX history_deleted ON history (key, revision, value) WHERE value IS NULL")
