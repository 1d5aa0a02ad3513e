"""Elections: a lock whose holder has something to say, and those who only listen."""

from __future__ import annotations

import contextlib
import math
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Final

import trio

from platformd.coordination.contract import Compare, Event, KeyValue, Put, Store, prefix_end
from platformd.coordination.recipes.lease import KeptLease, Lost, beside
from platformd.coordination.recipes.lock import Held, Place, held_queue
from platformd.coordination.recipes.places import FIRST_DELAY, INTERRUPTIONS, MAX_DELAY, order, places, queue_prefix

ELECTIONS: Final = "elections"
"""Where elections are: ``elections/NAME/LEASE``."""


@dataclass(frozen=True, kw_only=True)
class Leader:
    """Who leads."""

    value: bytes
    """What the leader says."""
    revision: int
    """Its fencing revision: higher than that of every leader before."""
    mod_revision: int
    """When it said so."""


class Leadership(Held):
    """What a leader knows and may do."""

    def __init__(self, store: Store, place: Place, lease: KeptLease) -> None:
        super().__init__(place, lease)
        self._store = store

    async def proclaim(self, value: bytes) -> None:
        """Say something else, without a new election.

        Raises:
            Lost: it leads no more.
        """
        result = await self._store.txn(
            [Compare(self.key, "create_revision", "==", self.revision)], [Put(self.key, value, self.lease_id)]
        )
        if not result.succeeded:
            raise Lost("it leads no more", subject=self.name)


@contextlib.asynccontextmanager
async def elected(
    store: Store, name: str, value: bytes = b"", *, ttl: float = 15.0, wait: float = math.inf, cancel: bool = True
) -> AsyncIterator[Leadership]:
    """Be a candidate until elected, then lead for as long as the block; leaving it resigns.

    Args:
        store: any engine.
        name: of the election.
        value: what observers are told while this one leads.
        ttl: how long the others wait after a leader died, seconds.
        wait: how long to be a candidate, seconds.
        cancel: cancel the block when leadership is lost, and raise ``Lost``; otherwise only ``lost`` is set.

    Raises:
        LockHeld: ``wait`` is over and somebody else leads.
        Lost: the lease ended.
    """
    async with held_queue(store, ELECTIONS, name, ttl=ttl, wait=wait, value=value, cancel=cancel) as held:
        yield Leadership(store, held.place, held.lease)


async def leader(store: Store, name: str) -> Leader | None:
    """Who leads now; ``None`` for nobody."""
    return _leader(await places(store, queue_prefix(ELECTIONS, name)))


class Leaders:
    """The leaders of an election one after the other; ``None`` while nobody leads.

    Who listens slowly misses those between, never the one that leads now: nothing is queued up.
    """

    def __init__(self) -> None:
        self.current: Leader | None = None
        """Who leads as far as is known."""
        self._known, self._seen = 0, 0
        self._changed = trio.Event()

    def __aiter__(self) -> Leaders:
        return self

    async def __anext__(self) -> Leader | None:
        await trio.lowlevel.checkpoint()
        while self._seen == self._known:
            await self._changed.wait()
        self._seen = self._known
        return self.current

    def tell(self, found: Leader | None) -> None:
        """Take in who leads now."""
        if found != self.current or not self._known:
            self.current = found
            self._known += 1
            self._changed.set()
            self._changed = trio.Event()


@contextlib.asynccontextmanager
async def observe(store: Store, name: str) -> AsyncIterator[Leaders]:
    """Follow an election: the one who leads now (or ``None``) comes first, then each change.

    It goes on, however long the store is out of reach, until the block is left.
    """
    leaders = Leaders()
    async with beside(partial(_observe, store, queue_prefix(ELECTIONS, name), leaders)):
        yield leaders


async def _observe(store: Store, prefix: bytes, leaders: Leaders) -> None:
    delay = 0.0
    end = prefix_end(prefix)
    while True:
        try:
            listing = await store.list(prefix, end)
            candidates = {kv.key: kv for kv in listing.items}
            leaders.tell(_leader(candidates.values()))
            async with store.watch(prefix, end, start_revision=listing.revision + 1) as batches:
                async for batch in batches:
                    delay = 0.0
                    for event in batch.events:
                        _take_in(candidates, event)
                    leaders.tell(_leader(candidates.values()))
        except INTERRUPTIONS:
            pass  # list again, and go on from there
        delay = min(delay * 2, MAX_DELAY) or FIRST_DELAY
        await trio.sleep(delay)


def _take_in(candidates: dict[bytes, KeyValue], event: Event) -> None:
    if event.type == "put":
        candidates[event.kv.key] = event.kv
    else:
        candidates.pop(event.kv.key, None)


def _leader(candidates: Iterable[KeyValue]) -> Leader | None:
    first = min(candidates, key=order, default=None)
    if first is None:
        return None
    return Leader(value=first.value, revision=first.create_revision, mod_revision=first.mod_revision)
