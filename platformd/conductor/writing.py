"""How changes get into the Store: all that belongs together in one transaction.

Each change of a resource is a compare that it is still what was read, the resource itself, its record of history, and
the mark of its *collection*: ``/collections/KIND/TENANT``, whose ``mod_revision`` says when a resource of that kind and
tenant was last created, deleted or configured. What rests on a listing (a quota, a rule over other kinds, a client's
precondition) compares the mark, and so nothing can have come or gone since it looked: no phantoms. Status writes leave
the mark alone; controllers measure all the time.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

import msgspec

from platformd.conductor import documents
from platformd.conductor.fencing import check_fence, fence
from platformd.conductor.history import What, history_put, is_told, record_of
from platformd.coordination.contract import Compare, Delete, Operation, Put, Store
from platformd.core.clock import Clock, rfc3339
from platformd.model.kind import Kind
from platformd.model.resource import AnyResource

ROOT: Final = b"/resources/"
"""Where resources are in the Store."""
COLLECTIONS: Final = b"/collections/"
"""Where the marks of collections are."""


def key_of(kind: str, tenant: str, name: str) -> bytes:
    """The Store key of a resource."""
    return ROOT + f"{kind}/{tenant}/{name}".encode()


def collection_key(kind: str, tenant: str) -> bytes:
    """The Store key of a collection's mark."""
    return COLLECTIONS + f"{kind}/{tenant}".encode()


class Seen(msgspec.Struct, frozen=True, kw_only=True):
    """What was there, and when."""

    resource: AnyResource | None
    base: int
    """The resource's revision; when there was none, the store's when that was seen."""


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """One change of one resource."""

    kind: Kind
    seen: Seen
    what: What
    wanted: AnyResource | None
    """What it becomes; ``None``: it goes."""


class Writer:
    """Reads what is to be changed, and writes changes."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock

    def now(self) -> str:
        """The time, as it stands in resources."""
        return rfc3339(self._clock.time_ns())

    async def look(self, kind: Kind, name: str, tenant: str) -> Seen:
        """What is there, for a change on top of it."""
        key = key_of(kind.name, tenant, name)
        listing = await self._store.list(key, key + b"\x00")
        if not listing.items:
            return Seen(resource=None, base=listing.revision)
        kv = listing.items[0]
        return Seen(resource=documents.from_stored(kind, kv.value, kv.mod_revision), base=kv.mod_revision)

    async def marks(self, collections: Iterable[tuple[str, str]]) -> list[Compare]:
        """Compares that hold as long as nothing comes to, goes from or is configured in these collections (kind and
        tenant). Take them before looking.
        """
        found = []
        for kind, tenant in dict.fromkeys(collections):
            key = collection_key(kind, tenant)
            kv = await self._store.get(key)
            found.append(Compare(key, "mod_revision", "==", 0 if kv is None else kv.mod_revision))
        return found

    async def commit(self, steps: Sequence[Step], compares: Sequence[Compare] = ()) -> int | None:
        """Do all ``steps``, if what they rest on is still there and ``compares`` hold.

        Returns:
            The revision of all of them; ``None`` if something was changed in between, and nothing was done.

        Raises:
            Unavailable: the task's fence does not stand any more.
        """
        conditions, operations = {c.key: c for c in compares}, list[Operation]()
        marked: dict[bytes, None] = {}
        now = self.now()
        for step in steps:
            current, wanted = step.seen.resource, step.wanted
            resource = wanted if wanted is not None else current
            assert resource is not None
            key = key_of(resource.kind, resource.tenant, resource.name)
            conditions[key] = Compare(key, "mod_revision", "==", 0 if current is None else current.revision)
            operations.append(Delete(key) if wanted is None else Put(key, documents.to_stored(wanted)))
            status_only = step.what == "status"
            if step.kind.recorded and is_told(current, wanted, status_only=status_only):
                operations.append(history_put(record_of(step.what, current, wanted, now), step.seen.base))
            if step.kind.recorded and not status_only:
                marked[collection_key(resource.kind, resource.tenant)] = None
        operations += [Put(key, b"") for key in marked]
        right = fence()
        if right is not None:
            conditions[right.key] = right
        result = await self._store.txn(list(conditions.values()), operations)
        if right is not None and not result.succeeded:
            await check_fence(self._store, right)
        return result.revision if result.succeeded else None
