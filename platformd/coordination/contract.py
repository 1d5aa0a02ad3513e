"""The Store contract: what every engine promises, and the facts that go in and out.

An ordered map of byte keys to byte values with one global revision. Terms are etcd's.

Promises, each proved by ``tests/conformance`` on every engine:

- Strict serializability. A write returns only when it is durable; a read never returns what is not.
- Every transaction that changes something raises the revision by exactly one; one that changes nothing
  (a failed compare with an empty ``otherwise``, a delete of nothing) does not.
- A watch is ordered, unique, reliable, atomic (all events of one revision come in one batch),
  resumable (``start_revision``) and bookmarkable (a progress batch of revision R says that all up to R
  was delivered). A slow watcher is served from history and never grows memory.
- A lease never ends before its time-to-live is over; its remaining time survives a restart.
- A snapshot is the store exactly as it was at one revision, taken while others read and write.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Literal, Protocol

import msgspec

from platformd.core.errors import Conflict, Gone


class _Fact(msgspec.Struct, frozen=True):
    pass


# The facts that come in hundreds of thousands hold bytes, numbers and each other only, so no cycle can go through them:
# the garbage collector need not walk them (``gc=False``), which is tens of milliseconds of every long list, and of
# a put that a thousand watchers are told of.


class KeyValue(_Fact, frozen=True, kw_only=True, gc=False):
    """A key as it was at some revision."""

    key: bytes
    value: bytes
    create_revision: int
    """The revision that created the key (this life of it)."""
    mod_revision: int
    """The revision of its last change."""
    version: int
    """Counts changes since its creation; 1 when new."""
    lease: int = 0
    """The lease it is bound to; 0 for none."""


class Listing(_Fact, frozen=True, kw_only=True, gc=False):
    """The answer to ``list``."""

    items: tuple[KeyValue, ...]
    """In the order that was asked for; by key if none was."""
    revision: int
    """The revision at which all items were true together."""
    more: bool = False
    """Whether ``limit`` cut the answer; if it is by key, go on from the last key + b"\\x00" at ``revision``."""
    count: int
    """How many keys are in the range at ``revision``, whatever the limit."""


Order = Literal["key", "-key", "mod_revision", "-mod_revision"]
"""How a list is ordered; with a minus, the other way round. Of one revision's keys the order is by key (the
other way round with a minus)."""

CompareTarget = Literal["value", "version", "create_revision", "mod_revision", "lease"]
CompareOperator = Literal["==", "!=", "<", ">"]


class Compare(_Fact, frozen=True, gc=False):
    """One condition of a transaction. A missing key has version, revisions and lease 0; a compare of the
    *value* of a missing key is false, whatever the operator."""

    key: bytes
    target: CompareTarget
    operator: CompareOperator
    operand: bytes | int


class Put(_Fact, frozen=True, gc=False):
    """Sets a key."""

    key: bytes
    value: bytes
    lease: int = 0
    """The lease that the key is bound to; 0 unbinds it."""


class Delete(_Fact, frozen=True, gc=False):
    """Removes a key, or with ``end`` all keys in [key, end)."""

    key: bytes
    end: bytes | None = None


class Get(_Fact, frozen=True, gc=False):
    """Reads a key, or with ``end`` all keys in [key, end), as the earlier operations left them."""

    key: bytes
    end: bytes | None = None


Operation = Put | Delete | Get


class PutResult(_Fact, frozen=True, gc=False):
    """Answer to ``Put``."""

    previous: KeyValue | None = None


class DeleteResult(_Fact, frozen=True, gc=False):
    """Answer to ``Delete``."""

    deleted: int
    previous: tuple[KeyValue, ...] = ()


class GetResult(_Fact, frozen=True, gc=False):
    """Answer to ``Get``."""

    items: tuple[KeyValue, ...]


class TxnResult(_Fact, frozen=True, kw_only=True, gc=False):
    """The answer to ``txn``."""

    succeeded: bool
    """Whether all compares held, and so which branch ran."""
    revision: int
    """The store's revision after the transaction; the ``mod_revision`` of what it put."""
    results: tuple[PutResult | DeleteResult | GetResult, ...]
    """One for each operation of the branch that ran."""


EventType = Literal["put", "delete"]


class Event(_Fact, frozen=True, kw_only=True, gc=False):
    """One change of one key."""

    type: EventType
    kv: KeyValue
    """After a put; for a delete: the key, ``mod_revision`` of the deletion, an empty value, version 0."""
    previous: KeyValue | None = None
    """Before it, if the watch asked for it and it is not compacted."""


class WatchBatch(_Fact, frozen=True, kw_only=True, gc=False):
    """All events of one or more whole revisions, in order; with no events it is a bookmark."""

    revision: int
    """Everything that was asked for, up to and including this revision, has been delivered."""
    events: tuple[Event, ...] = ()


class Lease(_Fact, frozen=True, kw_only=True):
    """A lease as it is now."""

    id: int
    ttl: float
    """Granted time to live, seconds."""
    remaining: float
    """Seconds until it ends if nobody keeps it alive."""
    keys: tuple[bytes, ...] = ()
    """What is bound to it and will be deleted with it, ordered; only ``Leases.get`` says it."""


class Snapshot(_Fact, frozen=True, kw_only=True):
    """A copy of the store in a file."""

    path: Path
    revision: int
    """The store's revision that it is the copy of."""
    size_bytes: int


class StoreStatus(_Fact, frozen=True, kw_only=True):
    """How the store is."""

    engine: str
    revision: int
    compact_revision: int
    """The oldest revision that can be read or watched from."""
    keys: int
    leases: int
    watchers: int
    size_bytes: int
    """On disk."""


class Compacted(Gone):
    """The asked-for revision has been compacted; ``compact_revision`` is the oldest that is left."""

    def __init__(self, asked: int, compact_revision: int) -> None:
        super().__init__(
            f"revision {asked} has been compacted",
            subject="store",
            hint=f"list again and go on from its revision; the oldest that can be read is {compact_revision}",
            details={"compact_revision": compact_revision},
        )
        self.compact_revision = compact_revision


class FutureRevision(Conflict):
    """The asked-for revision does not exist yet."""

    code = "future_revision"


class Leases(Protocol):
    """The leases of a store: keys can be bound to one, and are deleted when it ends."""

    async def grant(self, ttl: float, *, lease_id: int = 0) -> Lease:
        """A new lease of ``ttl`` seconds (limited to the configured range), durable on return.

        Args:
            ttl: its time to live, seconds; it begins when this returns.
            lease_id: the id that it shall have; 0 for one of the store's choice.

        Raises:
            Conflict: there is a lease of that id.
            InvalidInput: ``ttl`` is not a number, or ``lease_id`` is not in [0, 2**63).
            LimitReached: there are too many leases.
        """
        ...

    async def keep_alive(self, lease_id: int) -> Lease:
        """Make its remaining time its granted time to live again.

        Raises:
            NotFound: it is not there: it ended.
        """
        ...

    async def revoke(self, lease_id: int) -> int:
        """End it now and delete its keys in one revision; the number of keys deleted.

        Raises:
            NotFound: it is not there.
        """
        ...

    async def get(self, lease_id: int) -> Lease:
        """How long it has left, and which keys are bound to it. Does not keep it alive.

        Raises:
            NotFound: it is not there.
        """
        ...

    async def list(self) -> tuple[Lease, ...]:
        """All leases, by id, without their keys."""
        ...


class Store(Protocol):
    """An engine: seven methods, and its leases; every name is etcd's."""

    @property
    def leases(self) -> Leases:
        """Its leases."""
        ...

    async def get(self, key: bytes, *, revision: int = 0) -> KeyValue | None:
        """The key now, or as it was at ``revision``; ``None`` if it is not there.

        Raises:
            Compacted: ``revision`` is older than history.
            FutureRevision: ``revision`` is newer than the store.
            TooLarge: the key is over its limit.
        """
        ...

    async def list(
        self,
        key: bytes,
        end: bytes | None,
        *,
        revision: int = 0,
        limit: int = 0,
        keys_only: bool = False,
        count_only: bool = False,
        order: Order = "key",
    ) -> Listing:
        """All keys in [key, end); ``end=None`` for no upper bound. All are of one revision.

        Args:
            key: the range's start; empty for the lowest key.
            end: its end, which is not in it.
            revision: list as it was then; 0 for now.
            limit: at most this many (``more`` says if there are others); 0 for all.
            keys_only: leave the values empty.
            count_only: leave the items out: only ``count`` is asked for (``more`` is false).
            order: by key or by the revision of the last change, up or down. Paging is for "key" only.

        Raises: as ``get``; ``InvalidInput`` for an order that there is not.
        """
        ...

    async def txn(
        self, compares: Sequence[Compare], then: Sequence[Operation], otherwise: Sequence[Operation] = ()
    ) -> TxnResult:
        """Atomically: if all ``compares`` hold, do ``then``, else ``otherwise``. Durable on return.

        Raises:
            InvalidInput: a key is put twice, or put and deleted, in one branch; nothing was done.
            TooLarge: a key, a value, the number of operations or what its ranges hold is over its limit; nothing
                was done.
            NotFound: a put names a lease that is not there; nothing was done.
            StorageFull: the disk is full; nothing was done.
            OutcomeUnknown: the disk or the connection failed while it was made durable: read again.
        """
        ...

    def watch(
        self,
        key: bytes,
        end: bytes | None,
        *,
        start_revision: int = 0,
        previous: bool = False,
        only: EventType | None = None,
    ) -> AbstractAsyncContextManager[AsyncIterator[WatchBatch]]:
        """Events of [key, end) from ``start_revision`` on (0: from now on), until the block is left.

        With ``only``, puts or deletes alone; bookmarks come all the same.

        The block is entered when the watch is in place: a write that is asked for afterwards will be
        seen. The first batch is a bookmark of the revision that the watch starts from.

        Raises:
            Compacted: on entry if ``start_revision`` is older than history; in the iteration if history
                was compacted before this watcher read it.
            FutureRevision: ``start_revision`` is beyond the next revision: it is another store's, or from before a
                restore.
            LimitReached: too many watchers.
        """
        ...

    async def compact(self, revision: int) -> None:
        """Everything older than ``revision`` may go: it can be neither read nor watched from. ``revision`` itself can.

        A watch that has yet to read what goes ends with ``Compacted``. Compacting to the oldest revision that is
        left changes nothing.

        Raises:
            Compacted: ``revision`` itself is gone already.
            FutureRevision: it does not exist yet.
        """
        ...

    async def snapshot(self, path: Path) -> Snapshot:
        """A copy of the store as it is at one revision, in a new file, while others read and write.

        The file is there whole and durable, or not at all.

        Raises:
            Conflict: there is something at ``path``.
            StorageFull: there is no room for it.
            Unavailable: ``path`` cannot be written.
            Unsupported: the engine has no such file.
        """
        ...

    async def status(self) -> StoreStatus:
        """How the store is."""
        ...


def prefix_end(prefix: bytes) -> bytes | None:
    """The end of the range of all keys that start with ``prefix``; ``None`` for no upper bound."""
    trimmed = prefix.rstrip(b"\xff")
    return trimmed[:-1] + bytes([trimmed[-1] + 1]) if trimmed else None
