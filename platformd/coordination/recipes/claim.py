"""Claims: an owner key bound to a lease, for things that have one owner and whose owner everybody may see.

Unlike a lock nobody queues: who comes second is told at once who owns it.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import socket
import sys
from collections.abc import AsyncIterator

import msgspec

from platformd.coordination.contract import Compare, Get, GetResult, Put, Store, TxnResult
from platformd.coordination.recipes.lease import beside, kept_lease
from platformd.coordination.recipes.lock import Held, Place
from platformd.coordination.recipes.places import gone, insist
from platformd.core.errors import Conflict


class Owner(msgspec.Struct, frozen=True, kw_only=True):
    """Who owns something: a process, as a person would look for it. The value of an owner key, in JSON."""

    pid: int
    hostname: str
    command: str

    def __str__(self) -> str:
        """As it stands in a message."""
        return f"process {self.pid} on {self.hostname} ({self.command})"

    @classmethod
    def here(cls) -> Owner:
        """This process."""
        return cls(pid=os.getpid(), hostname=socket.gethostname(), command=shlex.join(sys.argv))


class Collision(Conflict):
    """Somebody else owns it; the message and ``details`` say who."""

    code = "collision"


async def owner_of(store: Store, key: bytes) -> Owner | None:
    """Who owns ``key``; ``None`` for nobody, or for something that is no owner key."""
    kv = await store.get(key)
    return None if kv is None else _read(kv.value)


def _read(value: bytes) -> Owner | None:
    try:
        return msgspec.json.decode(value, type=Owner)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None


@contextlib.asynccontextmanager
async def claim(
    store: Store, key: bytes, *, ttl: float = 15.0, owner: Owner | None = None, cancel: bool = True
) -> AsyncIterator[Held]:
    """Own ``key`` for as long as the block.

    Args:
        store: any engine.
        key: the owner key, such as ``b"/component/x/owner"``.
        ttl: how long it stays owned after this process died, seconds.
        owner: what the others are told; this process when it is not given.
        cancel: cancel the block when ownership is lost, and raise ``Lost``; otherwise only ``lost`` is set.

    Raises:
        Collision: somebody else owns it.
        Lost: the lease ended (``cancel``).
    """
    value = msgspec.json.encode(owner or Owner.here())
    async with kept_lease(store, ttl) as lease:

        async def ask() -> TxnResult:
            return await store.txn([Compare(key, "create_revision", "==", 0)], [Put(key, value, lease.id)], [Get(key)])

        with lease.guard():
            revision = _claimed(await insist(ask), key, lease.id)
        place = Place(name=key.decode(errors="replace"), key=key, lease_id=lease.id, revision=revision)

        async def notice() -> None:
            await gone(store, key, revision)
            lease.lose("its owner key was removed")

        async with beside(notice):
            with lease.guard() if cancel else contextlib.nullcontext():
                yield Held(place, lease)


def _claimed(result: TxnResult, key: bytes, lease_id: int) -> int:
    found = result.results[0]
    if not isinstance(found, GetResult):
        return result.revision
    if found.items[0].lease == lease_id:  # an earlier attempt whose answer was lost
        return found.items[0].create_revision
    other = _read(found.items[0].value)
    raise Collision(
        f"it is owned by {other}" if other is not None else "it is there, and is no owner key",
        subject=key.decode(errors="replace"),
        hint="it is free again when that process ends",
        details={} if other is None else {"owner": msgspec.to_builtins(other)},
    )
