"""Leases: granted under ids of our own making, so that a grant can be asked for twice and is there once."""

from __future__ import annotations

import contextlib
import math
import random
from collections.abc import Sequence

import trio

from platformd.coordination.contract import Lease
from platformd.coordination.etcd import messages
from platformd.coordination.etcd.channel import Channel
from platformd.coordination.etcd.keyspace import Keyspace
from platformd.core.errors import Conflict, InvalidInput, NotFound, PlatformError

LIST_AT_ONCE = 64
"""How many leases are asked about at once when all are listed: etcd tells about each on its own."""

_ID_BITS = 63


class EtcdLeases:
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

    async def grant(self, ttl: float, *, lease_id: int = 0) -> Lease:
        """See ``Leases.grant``. Etcd counts whole seconds, so ``ttl`` is rounded up, and it has a minimum of its own.

        Raises:
            OutcomeUnknown: an id was asked for, and the request was sent and not answered.
        """
        if math.isnan(ttl) or not 0 <= lease_id < 1 << _ID_BITS:
            raise InvalidInput(f"cannot grant lease {lease_id} for {ttl} s", subject="lease")
        request = math.ceil(min(max(ttl, self._shortest), self._longest))
        if lease_id:  # sent once only: "already there" must not be the answer to an attempt of ours
            try:
                return await self._grant(lease_id, request, change=True)
            except Conflict as error:
                raise Conflict(f"lease {lease_id} is there already; nothing was done", subject="lease") from error
        lease_id = self._rng.getrandbits(_ID_BITS) or 1
        try:
            return await self._grant(lease_id, request, change=False)
        except Conflict:  # an earlier attempt, whose answer was lost, has done it
            return await self.get(lease_id)

    async def _grant(self, lease_id: int, ttl: int, *, change: bool) -> Lease:
        answer = await self._channel.call(messages.LEASE_GRANT, messages.lease_grant(lease_id, ttl), change=change)
        granted = float(messages.lease_ttl(answer))
        return Lease(id=lease_id, ttl=granted, remaining=granted)

    async def keep_alive(self, lease_id: int) -> Lease:
        """See ``Leases.keep_alive``."""
        answer = await self._channel.call(messages.LEASE_KEEP_ALIVE, messages.lease_request(_valid(lease_id)))
        ttl = float(messages.lease_ttl(answer))
        if ttl <= 0:
            raise no_lease([lease_id])
        return Lease(id=lease_id, ttl=ttl, remaining=ttl)

    async def revoke(self, lease_id: int) -> int:
        """See ``Leases.revoke``. The number is of our keys that were bound to it just before."""
        keys = (await self.get(lease_id)).keys
        with contextlib.suppress(NotFound):  # it was there a moment ago: it ended, or an earlier attempt has ended it
            await self._channel.call(messages.LEASE_REVOKE, messages.lease_request(lease_id))
        return len(keys)

    async def get(self, lease_id: int) -> Lease:
        """See ``Leases.get``. To the second; of its keys, those that are ours."""
        return await self._left(lease_id, keys=True)

    async def list(self) -> tuple[Lease, ...]:
        """See ``Leases.list``. All of the cluster's, whoever uses them."""
        ids = await self._ids()
        found: dict[int, Lease] = {}
        failures: list[PlatformError] = []
        waiting = iter(ids)

        async def ask() -> None:
            for lease_id in waiting:
                try:
                    found[lease_id] = await self._left(lease_id, keys=False)
                except NotFound:
                    continue  # it ended meanwhile
                except PlatformError as error:
                    failures.append(error)
                    return

        async with trio.open_nursery() as nursery:
            for _ in range(min(LIST_AT_ONCE, len(ids))):
                nursery.start_soon(ask)
        if failures:
            raise failures[0]
        return tuple(found[lease_id] for lease_id in ids if lease_id in found)

    async def count(self) -> int:
        """How many there are at the cluster."""
        return len(await self._ids())

    async def _ids(self) -> Sequence[int]:
        return sorted(messages.lease_ids(await self._channel.call(messages.LEASES, b"")))

    async def _left(self, lease_id: int, *, keys: bool) -> Lease:
        request = messages.lease_request(_valid(lease_id), keys=keys)
        left = messages.lease_left(await self._channel.call(messages.LEASE_TIME_TO_LIVE, request))
        if left.remaining < 0:
            raise no_lease([lease_id])
        ours = sorted(key[self._keyspace.cut :] for key in left.keys if self._keyspace.owns(key))
        remaining = float(min(left.remaining, left.granted))
        return Lease(id=lease_id, ttl=float(left.granted), remaining=remaining, keys=tuple(ours))


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
