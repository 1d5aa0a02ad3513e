"""Several daemons on one store: one leads, another takes over, and no object is worked on by two."""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock

from platformd.conductor import Conductor
from platformd.conductor.fencing import fenced
from platformd.conductor.leading import Leading
from platformd.conductor.reconcile import run_controller
from platformd.coordination.contract import Compare, Delete, Put
from platformd.core.clock import SystemClock
from platformd.core.errors import Unavailable
from platformd.core.ids import uuid7
from platformd.model.kinds import KINDS
from platformd.model.resource import AnyResource
from platformd.model.service import SERVICE, ServiceStatus
from tests.support.memory_store import MemoryStore

KEY = b"/owner"


class Daemon:
    """The controllers of one daemon; what it looks at takes a while."""

    def __init__(self, store: MemoryStore, name: str, working: dict[str, str]) -> None:
        self.conductor = Conductor(store, SystemClock(), uuid7(SystemClock()), KINDS)
        self.leading = Leading(store, KEY, 5.0)
        self.scope = trio.CancelScope()
        self._name, self._working = name, working

    async def run(self) -> None:
        with self.scope:
            await self.leading.run(self._work)

    async def _work(self) -> None:
        await run_controller(self.conductor, SERVICE, self._reconcile)

    async def _reconcile(self, resource: AnyResource) -> float | None:
        assert resource.name not in self._working, f"{self._working[resource.name]} works on it too"
        self._working[resource.name] = self._name
        try:
            await trio.sleep(0.5)
        finally:
            del self._working[resource.name]
        count = resource.status.endpoints + 1
        await self.conductor.set_status(resource, ServiceStatus(state=self._name, endpoints=count))
        return 0.1


async def until(daemon: Daemon, state: str) -> None:
    with trio.fail_after(300):
        while (await daemon.conductor.get(SERVICE, "s")).status.state != state:  # noqa: ASYNC110
            await trio.sleep(0.1)


@pytest.mark.parametrize("end", ["dies", "loses its key"])
async def test_another_takes_over(nursery: trio.Nursery, autojump_clock: MockClock, end: str) -> None:
    """When the leader ends, or what it owns is taken from it, the other leads; nothing is worked on by both."""
    store = MemoryStore()
    nursery.start_soon(store.leases.run)
    working: dict[str, str] = {}
    one, two = Daemon(store, "one", working), Daemon(store, "two", working)
    await one.conductor.create(one.conductor.decode(SERVICE, {"name": "s", "spec": {}}))
    nursery.start_soon(one.run)
    await until(one, "one")
    nursery.start_soon(two.run)
    await trio.sleep(20)
    assert (one.leading.leads, two.leading.leads) == (True, False)
    leader = await two.leading.leader()
    assert leader is not None
    if end == "dies":
        one.scope.cancel()
    else:
        await store.txn([], [Delete(KEY)])
    await until(two, "two")
    assert two.leading.leads
    assert not one.leading.leads
    two.scope.cancel()
    if end != "dies":
        await until(one, "one")


async def test_who_leads_no_more_writes_nothing(store: MemoryStore, conductor: Conductor) -> None:
    """A write that was on its way when leadership went is refused, and changes nothing."""
    made = await conductor.create(conductor.decode(SERVICE, {"name": "s", "spec": {}}))
    won = (await store.txn([], [Put(KEY, b"")])).revision
    with fenced(Compare(KEY, "create_revision", "==", won)):
        made = await conductor.set_status(made, ServiceStatus(state="empty"))
        await store.txn([], [Delete(KEY)])
        await store.txn([], [Put(KEY, b"")])
        with pytest.raises(Unavailable, match="leads no more"):
            await conductor.set_status(made, ServiceStatus(state="available"))
        with pytest.raises(Unavailable, match="leads no more"):
            await conductor.delete(SERVICE, "s")
    assert await conductor.get(SERVICE, "s") == made
