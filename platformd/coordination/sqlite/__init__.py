"""The embedded engine of the coordination store: one SQLite file, one writer thread.

A tour, in the order of a write: ``engine`` is the contract's face; ``txn`` checks a transaction and works
it out against what the batch before it did, without I/O; ``queue`` is the bounded way from trio's tasks to
the writer thread and back; ``writer`` is that thread, with its group commit; ``watch`` hands the events on.
Beside it: ``reader`` answers reads, ``past`` those of old revisions, ``lease`` ends leases, ``compaction`` trims
history, ``snapshot`` copies the file, ``schema`` makes it and opens it, ``errors`` translates what SQLite says,
``lifetime`` puts it all together and ends it.
"""

from platformd.coordination.sqlite.engine import SqliteStore
from platformd.coordination.sqlite.lifetime import open_sqlite

__all__ = ["SqliteStore", "open_sqlite"]
