"""Locks: one holder at a time, in the order of asking, each with a fencing revision."""

from __future__ import annotations

import contextlib
import math
from collections.abc import AsyncIterator
from dataclasses import dataclass
from functools import partial
from typing import Final

import trio

from platformd.coordination.contract import KeyValue, Store
from platformd.coordination.recipes.lease import KeptLease, beside, kept_lease
from platformd.coordination.recipes.places import (
    gone,
    leave,
    place_key,
    places,
    queue_prefix,
    take_place,
    wait_turn,
)
from platformd.core.errors import Conflict

LOCKS: Final = "locks"
"""Where locks are: ``locks/NAME/LEASE``."""


class LockHeld(Conflict):
    """Somebody else has it; ``details`` has the holder's owner text, lease and revision."""

    code = "lock_held"


@dataclass(frozen=True, kw_only=True)
class Place:
    """A place in a queue whose turn has come."""

    name: str
    key: bytes
    """Compare its ``create_revision`` with ``revision`` in a transaction to write only as the holder."""
    lease_id: int
    revision: int
    """The fencing revision: higher than that of every holder before."""


class Held:
    """What a holder knows.

    Args:
        place: its place.
        lease: what it holds it by.
    """

    def __init__(self, place: Place, lease: KeptLease) -> None:
        self.place = place
        self.lease = lease
        self.name = place.name
        self.key = place.key
        self.lease_id = place.lease_id
        self.revision = place.revision
        """The fencing revision: higher than that of every holder before. Send it with what is written elsewhere."""
        self.lost = lease.lost
        """Set when it may not be relied on any more."""

    @property
    def deadline(self) -> float:
        """Until when it is surely held if the store is not reached any more, on trio's clock."""
        return self.lease.deadline


@contextlib.asynccontextmanager
async def lock(
    store: Store,
    name: str,
    *,
    ttl: float = 15.0,
    wait: float = math.inf,
    owner: str = "",
    cancel: bool = True,
) -> AsyncIterator[Held]:
    """Hold the lock ``name`` for as long as the block.

    Args:
        store: any engine.
        name: any text; ``/`` has no meaning in it.
        ttl: how long others wait for it after this process died, seconds.
        wait: how long to wait for it, seconds; 0 only tries.
        owner: what others read of who holds it.
        cancel: cancel the block when the lock is lost, and raise ``Lost``; otherwise only ``lost`` is set.

    Raises:
        LockHeld: ``wait`` is over and somebody else has it.
        Lost: the lease ended while waiting, or (``cancel``) while it was held.
    """
    async with held_queue(store, LOCKS, name, ttl=ttl, wait=wait, value=owner.encode(), cancel=cancel) as held:
        yield held


@contextlib.asynccontextmanager
async def held_queue(
    store: Store, kind: str, name: str, *, ttl: float, wait: float, value: bytes, cancel: bool
) -> AsyncIterator[Held]:
    """The first place of a queue, with a lease of its own; what ``lock`` and elections share."""
    async with kept_lease(store, ttl) as lease:
        with lease.guard():
            place = await acquire(store, name, lease.id, kind=kind, wait=wait, value=value)
        async with beside(partial(_notice, store, place, lease)):
            with lease.guard() if cancel else contextlib.nullcontext():
                yield Held(place, lease)


async def _notice(store: Store, place: Place, lease: KeptLease) -> None:
    await gone(store, place.key, place.revision)
    lease.lose("its key was removed")


async def acquire(
    store: Store,
    name: str,
    lease_id: int,
    *,
    kind: str = LOCKS,
    wait: float = math.inf,
    value: bytes = b"",
    stay: bool = False,
) -> Place:
    """Take a place by a lease that the caller keeps alive, and wait for its turn.

    Asking again with the same lease goes on with the same place. ``wait=0`` leaves none behind.

    Args:
        store: any engine.
        name: of the lock.
        lease_id: what the place is bound to.
        kind: which family of queues.
        wait: how long to wait, seconds.
        value: what others read at the place.
        stay: keep the place when ``wait`` is over or the call is cancelled, to go on waiting later.

    Raises:
        LockHeld: ``wait`` is over.
        NotFound: the lease is not there.
        Lost: the place was removed while waiting.
    """
    prefix = queue_prefix(kind, name)
    key = place_key(prefix, lease_id)
    if wait <= 0:
        held = await places(store, prefix)
        if held and held[0].key != key:
            raise _held(name, held[0], wait)
    revision = await take_place(store, key, value, lease_id)
    place = Place(name=name, key=key, lease_id=lease_id, revision=revision)
    try:
        if wait <= 0:
            held = await places(store, prefix)
            if held and held[0].key == key:
                return place
        with trio.move_on_after(max(wait, 0.0)):
            await wait_turn(store, prefix, key, revision)
            return place
        raise _held(name, next(iter(await places(store, prefix)), None), wait)
    except BaseException:
        if wait <= 0 or not stay:
            await leave(store, key, revision)
        raise


def _held(name: str, holder: KeyValue | None, wait: float) -> LockHeld:
    owner = holder.value.decode(errors="replace") if holder is not None else ""
    waited = f", also after {wait:g}s" if wait > 0 else ""
    return LockHeld(
        f"it is held{f' by {owner}' if owner else ''}{waited}",
        subject=name,
        details={} if holder is None else {
            "owner": owner, "lease": f"{holder.lease:016x}", "revision": holder.create_revision,
        },
    )  # fmt: skip
