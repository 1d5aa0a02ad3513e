"""What every engine of the Store promises about leases."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio

from platformd.coordination.contract import Put, Store
from platformd.core.errors import NotFound
from tests.conformance.store_engines import ON_TRIOS_CLOCK, Engine, events_until, eventually, put, settled


@pytest.fixture(params=ON_TRIOS_CLOCK)
def engine(request: pytest.FixtureRequest, tmp_path: Path) -> Engine:
    return ON_TRIOS_CLOCK[request.param](tmp_path)


@pytest.fixture
async def store(engine: Engine, mock_clock: trio.testing.MockClock) -> AsyncIterator[Store]:
    async with engine.open() as opened:
        yield opened


async def pass_time(store: Store, clock: trio.testing.MockClock, seconds: float) -> None:
    """Let time go on, and everything that it sets off get through to the store."""
    clock.jump(seconds)
    await trio.testing.wait_all_tasks_blocked()
    await settled(store)


async def gone(store: Store, clock: trio.testing.MockClock, key: bytes) -> None:
    """Wait until a key is not there."""

    async def check() -> bool:
        return await store.get(key) is None

    await eventually(check, clock)


async def test_lease_lasts_its_time_and_no_longer(store: Store, mock_clock: trio.testing.MockClock) -> None:
    """Its keys are there just before its time is over, and deleted in one revision after it."""
    lease = await store.leases.grant(10)
    assert lease.id > 0
    assert lease.ttl == 10
    revision = (await store.txn([], [Put(b"a", b"", lease.id), Put(b"b", b"", lease.id), Put(b"c", b"")])).revision
    async with store.watch(b"", None) as watch:
        await pass_time(store, mock_clock, 9.99)
        assert (await store.status()).revision == revision
        await gone(store, mock_clock, b"a")
        events = await events_until(watch, revision + 1)
    assert [(e.type, e.kv.key, e.kv.mod_revision) for e in events] == [
        ("delete", b"a", revision + 1),
        ("delete", b"b", revision + 1),
    ]
    assert await store.get(b"c") is not None
    assert await store.leases.list() == ()


async def test_keep_alive_starts_its_time_again(store: Store, mock_clock: trio.testing.MockClock) -> None:
    """A lease that is kept alive in time outlives its time to live many times over, and then ends."""
    lease = await store.leases.grant(10)
    await put(store, b"k", b"", lease.id)
    for _ in range(5):
        await pass_time(store, mock_clock, 9)
        assert (await store.leases.keep_alive(lease.id)).remaining == 10
    await pass_time(store, mock_clock, 9.99)
    assert await store.get(b"k") is not None
    await gone(store, mock_clock, b"k")
    with pytest.raises(NotFound, match=str(lease.id)):
        await store.leases.keep_alive(lease.id)


async def test_revoke_ends_it_now(store: Store) -> None:
    """Revoking deletes its keys in one revision; afterwards it is not there."""
    lease = await store.leases.grant(10)
    before = (await store.txn([], [Put(b"%d" % n, b"", lease.id) for n in range(5)])).revision
    assert await store.leases.revoke(lease.id) == 5
    assert (await store.status()).revision == before + 1
    for refused in (store.leases.revoke(lease.id), store.leases.keep_alive(lease.id), put(store, b"k", b"", lease.id)):
        with pytest.raises(NotFound):
            await refused
    empty = await store.leases.grant(10)
    assert await store.leases.revoke(empty.id) == 0
    assert (await store.status()).revision == before + 1


async def test_key_follows_its_last_put(store: Store, mock_clock: trio.testing.MockClock) -> None:
    """A put without a lease unbinds a key, a put with another one rebinds it."""
    short, long = await store.leases.grant(5), await store.leases.grant(50)
    await store.txn([], [Put(b"free", b"", short.id), Put(b"moved", b"", short.id), Put(b"bound", b"", short.id)])
    await store.txn([], [Put(b"free", b""), Put(b"moved", b"", long.id)])
    assert (await store.leases.get(short.id)).keys == (b"bound",)
    assert (await store.leases.get(long.id)).keys == (b"moved",)
    await pass_time(store, mock_clock, 6)
    await gone(store, mock_clock, b"bound")
    assert [kv.key for kv in (await store.list(b"", None)).items] == [b"free", b"moved"]
    assert await store.leases.revoke(long.id) == 1


async def test_time_to_live_is_kept_within_its_bounds(engine: Engine, mock_clock: trio.testing.MockClock) -> None:
    """A wish that is too short or too long becomes the shortest or longest that is granted."""
    async with engine.open(lease_min_ttl="2s", lease_max_ttl="1h") as store:
        assert (await store.leases.grant(0)).ttl == 2
        assert (await store.leases.grant(-5)).ttl == 2
        assert (await store.leases.grant(1e9)).ttl == 3600
        assert (await store.leases.grant(float("inf"))).ttl == 3600
        assert (await store.leases.grant(77.5)).ttl == 77.5


async def test_remaining_counts_down(store: Store, mock_clock: trio.testing.MockClock) -> None:
    """The list of leases is ordered by id and says how long each has left."""
    granted = {(await store.leases.grant(ttl)).id: ttl for ttl in (20, 30, 40)}
    mock_clock.jump(5)
    leases = await store.leases.list()
    assert [lease.id for lease in leases] == sorted(granted)
    assert all(lease.remaining == pytest.approx(granted[lease.id] - 5) for lease in leases)


async def test_remaining_time_survives_a_restart(engine: Engine, mock_clock: trio.testing.MockClock) -> None:
    """After a restart a lease has what it had left, however long the store was down, and its keys end with it."""
    async with engine.open() as store:
        lease = await store.leases.grant(100)
        await put(store, b"k", b"", lease.id)
        await pass_time(store, mock_clock, 70)
    mock_clock.jump(1000)
    async with engine.open() as store:
        found = await store.leases.get(lease.id)
        assert (found.id, found.ttl, found.keys) == (lease.id, 100, (b"k",))
        assert found.remaining == pytest.approx(30)
        await pass_time(store, mock_clock, 29.9)
        assert await store.get(b"k") is not None
        await gone(store, mock_clock, b"k")


async def test_keep_alive_after_a_restart_counts(engine: Engine, mock_clock: trio.testing.MockClock) -> None:
    """What a keep-alive promised holds across the next restart, although little time was left at the one before."""
    async with engine.open() as store:
        lease = await store.leases.grant(100)
        await pass_time(store, mock_clock, 90)
    async with engine.open() as store:
        assert (await store.leases.keep_alive(lease.id)).remaining == 100
        await pass_time(store, mock_clock, 1)
    async with engine.open() as store:
        (found,) = await store.leases.list()
        assert found.remaining == pytest.approx(99)


async def test_many_leases_end_at_a_limited_rate(store: Store, mock_clock: trio.testing.MockClock) -> None:
    """When hundreds end at once it is spread out, so that other writers go on; and all do end."""
    for _ in range(20):
        async with trio.open_nursery() as nursery:
            for _ in range(20):
                nursery.start_soon(store.leases.grant, 10)
    before = await store.leases.list()
    assert len(before) == 400
    await pass_time(store, mock_clock, 10.001)
    assert 200 <= len(await store.leases.list()) < 400

    async def none_left() -> bool:
        return not await store.leases.list()

    await eventually(none_left, mock_clock)
