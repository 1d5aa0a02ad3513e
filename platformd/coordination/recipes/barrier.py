"""Barriers: a gate that many wait at until somebody opens it."""

from __future__ import annotations

from typing import Final

from platformd.coordination.contract import Compare, Delete, Put, Store
from platformd.coordination.recipes.places import gone, insist, queue_prefix

BARRIERS: Final = "barriers"
"""Where barriers are: ``barriers/NAME/closed``."""


class Barrier:
    """A gate that is closed as long as its key is there.

    Args:
        store: any engine.
        name: any text.
    """

    def __init__(self, store: Store, name: str) -> None:
        self.key = queue_prefix(BARRIERS, name) + b"closed"
        self._store = store

    async def close(self, *, lease_id: int = 0) -> bool:
        """Close it; whether it was open before. Bound to a lease it opens when the lease ends."""
        result = await self._store.txn([Compare(self.key, "create_revision", "==", 0)], [Put(self.key, b"", lease_id)])
        return result.succeeded

    async def open(self) -> bool:
        """Let everybody through; whether it was closed before."""
        result = await self._store.txn([Compare(self.key, "create_revision", ">", 0)], [Delete(self.key)])
        return result.succeeded

    async def wait(self) -> None:
        """Wait until it is open; at once when it is. However long the store is out of reach, it goes on."""
        kv = await insist(lambda: self._store.get(self.key))
        if kv is not None:
            await gone(self._store, self.key, kv.create_revision)
