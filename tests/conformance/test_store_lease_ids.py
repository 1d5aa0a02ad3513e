"""What every engine of the Store promises about leases that needs no test's clock."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio

from platformd.coordination.contract import Put, Store
from platformd.core.errors import Conflict, InvalidInput, NotFound
from tests.conformance.store_engines import ENGINES, Engine, put


@pytest.fixture(params=ENGINES)
def engine(request: pytest.FixtureRequest, tmp_path: Path) -> Engine:
    return ENGINES[request.param](tmp_path)


@pytest.fixture
async def store(engine: Engine) -> AsyncIterator[Store]:
    async with engine.open() as opened:
        yield opened


def some_id() -> int:
    """An id that nobody else has: engines may share a cluster."""
    return int.from_bytes(os.urandom(7), "big") + 1


async def test_lease_has_the_id_that_was_asked_for(store: Store) -> None:
    """A lease is granted under one's own id, used by it, and the id is free again when it ended."""
    lease_id = some_id()
    for _ in range(2):
        lease = await store.leases.grant(60, lease_id=lease_id)
        assert (lease.id, lease.ttl, lease.keys) == (lease_id, 60, ())
        await put(store, b"k", b"", lease_id)
        assert (await store.leases.get(lease_id)).keys == (b"k",)
        assert await store.leases.revoke(lease_id) == 1


async def test_taken_id_is_a_conflict(store: Store) -> None:
    """An id that is there is refused and its lease stays as it is; of two at once exactly one is granted."""
    lease_id = some_id()
    await store.leases.grant(60, lease_id=lease_id)
    with pytest.raises(Conflict, match=str(lease_id)):
        await store.leases.grant(600, lease_id=lease_id)
    assert (await store.leases.get(lease_id)).ttl == 60
    await store.leases.revoke(lease_id)
    outcomes: list[str] = []

    async def grant() -> None:
        try:
            await store.leases.grant(60, lease_id=lease_id)
            outcomes.append("granted")
        except Conflict:
            outcomes.append("taken")

    async with trio.open_nursery() as nursery:
        for _ in range(5):
            nursery.start_soon(grant)
    assert sorted(outcomes) == ["granted", "taken", "taken", "taken", "taken"]
    await store.leases.revoke(lease_id)


@pytest.mark.parametrize("lease_id", [-1, 2**63])
async def test_id_is_in_range(store: Store, lease_id: int) -> None:
    """An id is from 1 to 2**63 - 1."""
    with pytest.raises(InvalidInput):
        await store.leases.grant(60, lease_id=lease_id)


async def test_get_tells_time_and_keys_and_does_not_keep_alive(store: Store) -> None:
    """What is bound is told in order, with what is left; asking does not make it more."""
    lease = await store.leases.grant(60)
    await store.txn([], [Put(key, b"", lease.id) for key in (b"c", b"a", b"b")])
    await put(store, b"b", b"free")
    first = await store.leases.get(lease.id)
    assert first.keys == (b"a", b"c")
    assert (await store.leases.get(lease.id)).remaining <= first.remaining <= 60
    kept = await store.leases.keep_alive(lease.id)
    assert (kept.id, kept.ttl) == (lease.id, 60)
    assert 59 <= kept.remaining <= 60
    assert await store.leases.revoke(lease.id) == 2


async def test_list_has_all_without_their_keys(store: Store) -> None:
    """The list is by id and names no keys; what ended is not in it."""
    leases = [await store.leases.grant(60) for _ in range(5)]
    await put(store, b"k", b"", leases[0].id)
    ours = {lease.id for lease in leases}
    listed = [lease for lease in await store.leases.list() if lease.id in ours]
    assert [lease.id for lease in listed] == sorted(ours)
    assert all(lease.keys == () for lease in listed)
    for lease in leases:
        await store.leases.revoke(lease.id)
    assert ours.isdisjoint({lease.id for lease in await store.leases.list()})


async def test_what_is_not_there_is_not_found(store: Store) -> None:
    """A lease that was never granted, or was revoked, is ``NotFound`` for everyone who names it."""
    ended = await store.leases.grant(60)
    await store.leases.revoke(ended.id)
    for lease_id in (ended.id, some_id()):
        for refused in (
            store.leases.get(lease_id),
            store.leases.keep_alive(lease_id),
            store.leases.revoke(lease_id),
            put(store, b"k", b"", lease_id),
        ):
            with pytest.raises(NotFound, match=str(lease_id)):
                await refused
