"""Leases: granted under ids of our own making, so that a grant can be asked for twice and is there once."""

from __future__ import annotations

import contextlib
import math
import random

import trio

from platformd.coordination.contract import Lease
from platformd.coordination.etcd import messages
from platformd.coordination.etcd.channel import Channel
from platformd.coordination.etcd.keyspace import Keyspace
from platformd.coordination.etcd.messages import LeaseLeft
from platformd.core.errors import Conflict, InvalidInput, NotFound, PlatformError

LIST_AT_ONCE = 64
"""How many leases are asked about at once when all are listed: etcd tells about each on its own."""

_ID_BITS = 63


class Leases:
    """Leases at the cluster. Their ids are shared by all who use it, whatever their prefix.

    Args:
        channel: the way to the cluster.
        keyspace: our keys there.
        shortest: the shortest time to live that is granted, seconds (etcd has its own, about 1.5 elections).
        longest: the longest.
        rng: where ids come from.
    """

    def __init__(
        self, channel: Channel, keyspace: Keyspace, shortest: float, longest: float, rng: random.Random
    ) -> None:
        self._channel = channel
        self._keyspace = keyspace
        self._shortest = shortest
        self._longest = longest
        self._rng = rng

    async def grant(self, ttl: float) -> Lease:
        """A new lease; etcd counts whole seconds, so ``ttl`` is rounded up."""
        if math.isnan(ttl):
            raise InvalidInput("the time to live is not a number", subject="lease")
        wanted = math.ceil(min(max(ttl, self._shortest), self._longest))
        lease_id = self._rng.getrandbits(_ID_BITS) or 1
        try:
            answer = await self._channel.call(messages.LEASE_GRANT, messages.lease_grant(lease_id, wanted))
            granted = messages.lease_ttl(answer)
        except Conflict:  # an earlier attempt, whose answer was lost, has done it
            granted = (await self._left(lease_id)).granted
        return Lease(id=lease_id, ttl=float(granted), remaining=float(granted))

    async def keep_alive(self, lease_id: int) -> Lease:
        """A lease's whole time to live again.

        Raises:
            NotFound: it is not there.
        """
        answer = await self._channel.call(messages.LEASE_KEEP_ALIVE, messages.lease_request(_valid(lease_id)))
        ttl = messages.lease_ttl(answer)
        if ttl <= 0:
            raise no_lease([lease_id])
        return Lease(id=lease_id, ttl=float(ttl), remaining=float(ttl))

    async def revoke(self, lease_id: int) -> int:
        """End a lease; how many of our keys were bound to it when it was asked for them, just before."""
        left = await self._left(lease_id)
        with contextlib.suppress(NotFound):  # it was there a moment ago: it ended, or an earlier attempt has ended it
            await self._channel.call(messages.LEASE_REVOKE, messages.lease_request(lease_id))
        return len(self._ours(left))

    async def list_all(self) -> tuple[Lease, ...]:
        """All leases of the cluster, by id, with those of their keys that are ours."""
        ids = sorted(messages.lease_ids(await self._channel.call(messages.LEASES, b"")))
        found: dict[int, Lease] = {}
        failures: list[PlatformError] = []
        waiting = iter(ids)

        async def ask() -> None:
            for lease_id in waiting:
                try:
                    left = await self._left(lease_id)
                except NotFound:
                    continue  # it ended meanwhile
                except PlatformError as error:
                    failures.append(error)
                    return
                remaining = float(min(left.remaining, left.granted))
                found[lease_id] = Lease(
                    id=lease_id, ttl=float(left.granted), remaining=remaining, keys=tuple(self._ours(left))
                )

        async with trio.open_nursery() as nursery:
            for _ in range(min(LIST_AT_ONCE, len(ids))):
                nursery.start_soon(ask)
        if failures:
            raise failures[0]
        return tuple(found[lease_id] for lease_id in ids if lease_id in found)

    async def count(self) -> int:
        """How many there are at the cluster."""
        return len(messages.lease_ids(await self._channel.call(messages.LEASES, b"")))

    async def _left(self, lease_id: int) -> LeaseLeft:
        request = messages.lease_request(_valid(lease_id), keys=True)
        left = messages.lease_left(await self._channel.call(messages.LEASE_TIME_TO_LIVE, request))
        if left.remaining < 0:
            raise no_lease([lease_id])
        return left

    def _ours(self, left: LeaseLeft) -> list[bytes]:
        return sorted(key[self._keyspace.cut :] for key in left.keys if self._keyspace.owns(key))


def _valid(lease_id: int) -> int:
    if not 0 < lease_id < 1 << _ID_BITS:
        raise no_lease([lease_id])
    return lease_id


def no_lease(ids: list[int], subject: str | None = None) -> NotFound:
    """None of these, or not all of these, are there."""
    names = "lease " + " or ".join(str(lease_id) for lease_id in sorted(set(ids)))
    return NotFound(
        f"{names} is not there: it ended or was never granted; nothing was done",
        subject=subject or names,
        hint="grant a new lease",
    )
