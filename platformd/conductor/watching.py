"""Watches of resources on top of watches of keys."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import trio

from platformd.conductor.documents import from_stored
from platformd.conductor.facts import Change, ChangeBatch
from platformd.coordination.contract import Compacted, Event, Store, WatchBatch, prefix_end
from platformd.model.kind import Kind

LIST_PAGE = 500
"""How many keys the first listing of a watch takes at a time, so that the loop is not held."""


@asynccontextmanager
async def watch_resources(
    store: Store, root: bytes, kinds: Sequence[Kind], tenant: str | None, after: int | None
) -> AsyncIterator[AsyncIterator[ChangeBatch]]:
    """See ``Conductor.watch``. One store watch serves all kinds, so that their order is the store's."""
    prefix = _common_prefix(root, kinds, tenant)
    reader = _Reader(root, kinds, tenant)
    first: list[ChangeBatch] = []
    if after is None:
        listing_revision = 0
        start: bytes = prefix
        more = True
        while more:
            page = await store.list(start, prefix_end(prefix), revision=listing_revision, limit=LIST_PAGE)
            listing_revision, more = page.revision, page.more
            changes = tuple(
                Change(type="added", resource=from_stored(kind, kv.value, kv.mod_revision), revision=kv.mod_revision)
                for kv in page.items
                if (kind := reader.kind_of(kv.key)) is not None
            )
            if changes:
                # Part of one revision's state: the revision is only reached with the bookmark below.
                first.append(ChangeBatch(revision=0, changes=changes))
            if page.items:
                start = page.items[-1].key + b"\x00"
        after = listing_revision
    first.append(ChangeBatch(revision=after))
    async with store.watch(prefix, prefix_end(prefix), start_revision=after + 1, previous=True) as batches:
        yield _Changes(first, batches, reader)


class _Changes:
    """The iteration: what was there first, then what happens. A class and not a generator, so that a
    watcher that stops reading leaves nothing half run.
    """

    def __init__(self, first: list[ChangeBatch], batches: AsyncIterator[WatchBatch], reader: _Reader) -> None:
        self._first = deque(first)
        self._batches = batches
        self._reader = reader
        self._reached = first[-1].revision

    def __aiter__(self) -> _Changes:
        return self

    async def __anext__(self) -> ChangeBatch:
        if self._first:
            await trio.lowlevel.checkpoint()
            return self._first.popleft()
        while True:
            found = await anext(self._batches)
            changes = tuple(change for event in found.events if (change := self._reader.change(event)) is not None)
            if changes or found.revision > self._reached:
                self._reached = max(self._reached, found.revision)
                return ChangeBatch(revision=found.revision, changes=changes)


def _common_prefix(root: bytes, kinds: Sequence[Kind], tenant: str | None) -> bytes:
    if len(kinds) != 1:
        return root
    return root + f"{kinds[0].name}/".encode() + (f"{tenant}/".encode() if tenant is not None else b"")


class _Reader:
    """Turns store events into changes and drops those that were not asked for."""

    def __init__(self, root: bytes, kinds: Sequence[Kind], tenant: str | None) -> None:
        self._root = root
        self._kinds = {kind.name: kind for kind in kinds}
        self._tenant = tenant

    def kind_of(self, key: bytes) -> Kind | None:
        kind, tenant, _ = key[len(self._root) :].decode().split("/", 2)
        return self._kinds.get(kind) if self._tenant in (None, tenant) else None

    def change(self, event: Event) -> Change | None:
        kind = self.kind_of(event.kv.key)
        if kind is None:
            return None
        if event.type == "put":
            new = event.kv.version == 1
            resource = from_stored(kind, event.kv.value, event.kv.mod_revision)
            return Change(type="added" if new else "modified", resource=resource, revision=event.kv.mod_revision)
        if event.previous is None:
            raise Compacted(event.kv.mod_revision, event.kv.mod_revision + 1)
        last = from_stored(kind, event.previous.value, event.previous.mod_revision)
        return Change(type="deleted", resource=last, revision=event.kv.mod_revision)
