"""Elections, barriers, claims, and the part of a store that users have."""

from __future__ import annotations

from contextlib import AsyncExitStack

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from platformd.coordination.contract import Compare, Delete, Get, Put, Store
from platformd.coordination.recipes import (
    Barrier,
    Collision,
    LockHeld,
    Lost,
    Namespace,
    Owner,
    claim,
    elected,
    leader,
    observe,
    owner_of,
    user_keys,
)
from platformd.core.errors import Forbidden, InvalidInput, NotFound, Unavailable
from tests.support.memory_store import MemoryStore

ME = Owner(pid=1, hostname="h", command="run me")


async def test_an_election_goes_to_the_first_and_on(memory: MemoryStore, autojump_clock: MockClock) -> None:
    """Candidates lead in the order of candidacy, observers see each leader and the moment without one."""
    seen: list[bytes | None] = []

    async def look() -> None:
        async with observe(memory, "e") as leaders:
            async for found in leaders:
                seen.append(None if found is None else found.value)

    async def lead(value: bytes) -> None:
        async with elected(memory, "e", value):
            await trio.sleep(50)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(look)
        await wait_all_tasks_blocked()
        for value in (b"a", b"b"):
            nursery.start_soon(lead, value)
            await trio.sleep(1)
        found = await leader(memory, "e")
        assert found is not None
        assert found.value == b"a"
        await trio.sleep(200)
        assert await leader(memory, "e") is None
        nursery.cancel_scope.cancel()
    assert seen == [None, b"a", b"b", None]


async def test_a_leader_speaks(memory: MemoryStore, autojump_clock: MockClock) -> None:
    """What a leader proclaims reaches observers without an election; who leads no more cannot speak."""
    async with observe(memory, "e") as leaders, elected(memory, "e", b"1", cancel=False) as leading:
        while (first := await anext(leaders)) is None:
            pass
        await leading.proclaim(b"2")
        second = await anext(leaders)
        assert second is not None
        assert (first.value, second.value, second.revision) == (b"1", b"2", first.revision)
        assert second.mod_revision > first.mod_revision
        with pytest.raises(LockHeld):
            async with elected(memory, "e", wait=5):
                pytest.fail("there are two leaders")
        await memory.leases.revoke(leading.lease_id)
        with pytest.raises(Lost):
            await leading.proclaim(b"3")


async def test_what_a_leader_says_does_not_cost_its_place(memory: MemoryStore, autojump_clock: MockClock) -> None:
    """Who leads is decided by who came first, not by whose key was changed last."""
    async with elected(memory, "e", b"first") as leading, trio.open_nursery() as nursery:

        async def follow() -> None:
            async with elected(memory, "e", b"second"):
                pytest.fail("there are two leaders")

        nursery.start_soon(follow)
        await trio.sleep(1)
        await leading.proclaim(b"still first")
        await trio.sleep(100)
        found = await leader(memory, "e")
        assert found is not None
        assert found.value == b"still first"
        nursery.cancel_scope.cancel()


async def test_places_of_one_revision_have_an_order(memory: MemoryStore) -> None:
    """Two places that one transaction made are told apart by their keys."""
    await memory.txn([], [Put(b"elections/e/2", b"b"), Put(b"elections/e/10", b"a")])
    found = await leader(memory, "e")
    assert found is not None
    assert found.value == b"a"


async def test_a_leader_that_falls_silent_is_followed(memory: MemoryStore, autojump_clock: MockClock) -> None:
    """A leader whose keep-alives do not come through is cancelled before the next one leads."""
    ended: list[float] = []

    async def lead() -> None:
        with pytest.raises(Lost):  # noqa: PT012 - the loss ends the block
            async with elected(memory, "e", b"a", ttl=30):
                try:
                    await trio.sleep_forever()
                finally:
                    ended.append(trio.current_time())

    async def pause(what: str) -> None:
        if what == "keep":
            raise Unavailable("no connection")
        await trio.lowlevel.checkpoint()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(lead)
        await trio.sleep(1)
        memory.pause = pause
        async with elected(memory, "e", b"b", ttl=1000):
            assert ended
            assert trio.current_time() >= ended[0] == pytest.approx(30)


async def test_observers_survive_compaction(memory: MemoryStore, autojump_clock: MockClock) -> None:
    """An observer whose place in history was compacted away lists again; one that is slow gets the latest."""
    async with observe(memory, "e") as leaders:
        assert await anext(leaders) is None
        broken = [Unavailable("gone")]

        async def pause(what: str) -> None:
            if what == "batch" and broken:
                raise broken.pop()
            await trio.lowlevel.checkpoint()

        memory.pause = pause
        for value in (b"1", b"2", b"3"):
            await memory.txn([], [Put(b"elections/e/1", value)])
            await memory.compact(memory.revision)
        await trio.sleep(5)
        found = await anext(leaders)
        assert found is not None
        assert found.value == b"3"


async def test_a_barrier_holds_until_opened(memory: MemoryStore, autojump_clock: MockClock) -> None:
    """Everybody waits at a closed barrier and passes an open one; closing and opening twice changes nothing."""
    barrier, passed = Barrier(memory, "b/1"), []

    async def walk() -> None:
        await Barrier(memory, "b/1").wait()
        passed.append(trio.current_time())

    assert [await barrier.close(), await barrier.close()] == [True, False]
    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(walk)
        await trio.sleep(10)
        assert passed == []
        assert [await barrier.open(), await barrier.open()] == [True, False]
    assert passed == [10, 10, 10]
    await barrier.wait()


async def test_a_barrier_may_end_with_a_lease(memory: MemoryStore, autojump_clock: MockClock) -> None:
    """A barrier whose closer dies opens."""
    lease = await memory.leases.grant(20)
    barrier = Barrier(memory, "b")
    await barrier.close(lease_id=lease.id)
    await barrier.wait()
    assert trio.current_time() == 20


async def test_a_claim_says_who_owns(memory: MemoryStore, autojump_clock: MockClock) -> None:
    """The second claimant is told who owns it; after the first one ends it is free."""
    key = b"/component/x/owner"
    async with claim(memory, key, owner=ME) as held:
        assert await owner_of(memory, key) == ME
        with pytest.raises(Collision, match=r"it is owned by process 1 on h \(run me\)") as caught:
            async with claim(memory, key):
                pytest.fail("it was claimed twice")
        assert caught.value.details == {"owner": {"pid": 1, "hostname": "h", "command": "run me"}}
        await trio.sleep(1000)
        assert not held.lost.is_set()
    assert await owner_of(memory, key) is None
    async with claim(memory, key):
        found = await owner_of(memory, key)
        assert found == Owner.here()


async def test_a_claim_is_lost_with_its_key(memory: MemoryStore, autojump_clock: MockClock) -> None:
    """Removing the owner key takes the claim away; what is there without being an owner key is left alone."""
    with pytest.raises(Lost):  # noqa: PT012 - the loss ends the block
        async with claim(memory, b"k", owner=ME):
            await memory.txn([], [Delete(b"k")])
            await trio.sleep_forever()
    await memory.txn([], [Put(b"k", b"\xff")])
    assert await owner_of(memory, b"k") is None
    with pytest.raises(Collision, match="is no owner key"):
        async with claim(memory, b"k"):
            pytest.fail("it was claimed")


async def test_a_claim_whose_answer_was_lost_is_its_own(memory: MemoryStore, autojump_clock: MockClock) -> None:
    """When the answer to the claim is lost, asking again finds the claim that was made."""
    lost = [Unavailable("the answer was lost")]

    async def pause(what: str) -> None:
        if what == "done" and lost:
            raise lost.pop()
        await trio.lowlevel.checkpoint()

    memory.pause = pause
    async with claim(memory, b"k", owner=ME) as held:
        assert memory.keys[b"k"].create_revision == held.revision


async def test_users_have_their_own_keys(memory: MemoryStore) -> None:
    """A namespace sees its keys under their own names, and nothing else, in every operation."""
    space = user_keys(memory)
    await memory.txn([], [Put(b"/resources/x", b"mine"), Put(b"/kv", b"near"), Put(b"/kv0", b"near")])
    result = await space.txn(
        [Compare(b"a", "create_revision", "==", 0)], [Put(b"a", b"1"), Put(b"/resources/x", b"2"), Get(b"", b"\xff")]
    )
    assert [kv.key for kv in result.results[2].items] == [b"/resources/x", b"a"]  # type: ignore[union-attr]
    assert memory.keys[b"/resources/x"].value == b"mine"
    listing = await space.list(b"", None)
    assert ([kv.key for kv in listing.items], listing.count) == ([b"/resources/x", b"a"], 2)
    found = await space.get(b"a")
    assert found is not None
    assert (found.key, found.value) == (b"a", b"1")
    async with space.watch(b"", None, start_revision=found.mod_revision, previous=True) as batches:
        await memory.txn([], [Put(b"/other", b"")])
        await space.txn([], [Delete(b"a")])
        events = []
        while len(events) < 3:
            events += (await anext(batches)).events
    assert [(e.type, e.kv.key) for e in events] == [("put", b"a"), ("put", b"/resources/x"), ("delete", b"a")]
    assert events[2].previous is not None
    assert events[2].previous.key == b"a"
    deleted = await space.txn([], [Delete(b"", b"\xff\xff")])
    assert deleted.results[0].previous[0].key == b"/resources/x"  # type: ignore[union-attr]
    assert set(memory.keys) == {b"/resources/x", b"/kv", b"/kv0", b"/other"}
    assert await space.get(b"missing") is None


async def test_errors_speak_of_the_users_key(embedded: Store) -> None:
    """What the store says of a key says it without the prefix."""
    space = user_keys(embedded)
    with pytest.raises(InvalidInput) as caught:
        await space.txn([], [Put(b"a", b"1"), Put(b"a", b"2")])
    assert [e.message for e in caught.value.errors] == ["puts a a second time"]
    with pytest.raises(NotFound) as missing:
        await space.txn([], [Put(b"a", b"1", 99)])
    assert missing.value.subject == "a"


async def test_leases_of_others_are_safe(memory: MemoryStore) -> None:
    """A lease that holds the daemon's own keys shows none of them and cannot be revoked by users."""
    space = Namespace(memory, b"/kv/")
    lease = await space.leases.grant(100)
    await space.txn([], [Put(b"a", b"", lease.id)])
    assert (await space.leases.get(lease.id)).keys == (b"a",)
    assert [one.id for one in await space.leases.list()] == [lease.id]
    await memory.txn([], [Put(b"/resources/x", b"", lease.id)])
    assert (await space.leases.get(lease.id)).keys == (b"a",)
    with pytest.raises(Forbidden):
        await space.leases.revoke(lease.id)
    await memory.txn([], [Delete(b"/resources/x")])
    assert await space.leases.revoke(lease.id) == 1


async def test_recipes_work_on_the_embedded_store(embedded: Store) -> None:
    """Election, barrier and claim on the real engine."""
    space = user_keys(embedded)
    async with AsyncExitStack() as stack:
        leaders = await stack.enter_async_context(observe(space, "e"))
        await stack.enter_async_context(elected(space, "e", b"me"))
        await stack.enter_async_context(claim(space, b"owner", owner=ME))
        while (found := await anext(leaders)) is None:
            pass
        assert found.value == b"me"
        assert await owner_of(space, b"owner") == ME
        barrier = Barrier(space, "b")
        await barrier.close()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(barrier.wait)
            await barrier.open()
    assert (await space.list(b"", None)).items == ()


async def test_users_have_no_empty_key(embedded: Store) -> None:
    """What the whole store refuses, its part refuses too, in every operation; a range may begin with nothing."""
    space = user_keys(embedded)
    for attempt in (
        lambda: space.get(b""),
        lambda: space.txn([], [Put(b"", b"x")]),
        lambda: space.txn([], [Delete(b"")]),
        lambda: space.txn([], [Get(b"")]),
        lambda: space.txn([Compare(b"", "version", "==", 0)], []),
    ):
        with pytest.raises(InvalidInput, match="the key is empty"):
            await attempt()
    await space.txn([], [Put(b"a", b"x")])
    assert [kv.key for kv in (await space.list(b"", None)).items] == [b"a"]
