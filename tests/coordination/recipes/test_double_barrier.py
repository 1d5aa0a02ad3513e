"""Double barriers: parties that begin together and end together, on every engine, whatever becomes of one of them."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from platformd.coordination.contract import Compare, Delete, Put, Store
from platformd.coordination.recipes import Lost, Member, Party, TooFew, double_barrier
from platformd.core.errors import Conflict, InvalidInput, NotFound, Unavailable
from tests.conformance.store_engines import ENGINES
from tests.support.memory_store import MemoryStore

KEYS = b"double-barriers/b/"
END = b"double-barriers/b0"


@pytest.fixture(params=ENGINES)
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Store]:
    """Each engine in turn."""
    async with ENGINES[request.param](tmp_path).open() as opened:
        yield opened


class Walker:
    """One party, and where it is."""

    def __init__(self, store: Store, nursery: trio.Nursery, owner: str, parties: int = 3, wait: float = 1000.0) -> None:
        self.owner = owner
        self.party: Party | None = None
        self.entered = trio.Event()
        self.left = trio.Event()
        self.failed: Exception | None = None
        self.go_on = trio.Event()
        self.scope = trio.CancelScope()
        nursery.start_soon(self._run, store, parties, wait)

    async def _run(self, store: Store, parties: int, wait: float) -> None:
        try:
            with self.scope:
                async with double_barrier(store, "b", parties, ttl=60, wait=wait, owner=self.owner) as self.party:
                    self.entered.set()
                    await self.go_on.wait()
        except (Conflict, RuntimeError) as error:
            self.failed = error
        self.left.set()

    @property
    def epoch(self) -> int:
        assert self.party is not None
        return self.party.epoch

    def missing(self) -> list[str]:
        assert self.party is not None
        return [member.owner for member in self.party.missing]


async def standing(store: Store, count: int) -> None:
    """Until so many places are there."""
    with trio.fail_after(20):
        while (await store.list(KEYS + b"parties/", KEYS + b"parties0")).count != count:  # noqa: ASYNC110
            await trio.sleep(0.001)


async def come(store: Store, nursery: trio.Nursery, owners: str, parties: int = 3, before: int = 0) -> list[Walker]:
    """Parties that come one after the other."""
    walkers = []
    for number, owner in enumerate(owners, before + 1):
        walkers.append(Walker(store, nursery, owner, parties))
        await standing(store, number)
    return walkers


async def all_of(*events: trio.Event) -> None:
    """Until all have happened."""
    with trio.fail_after(20):
        for event in events:
            await event.wait()


async def test_all_enter_together_and_leave_together(store: Store) -> None:
    """Two of three wait; with the third all are in, know each other, and nobody is out before the last one leaves."""
    others = {lease.id for lease in await store.leases.list()}  # an etcd is shared by all tests
    async with trio.open_nursery() as nursery:
        a, b = await come(store, nursery, "ab")
        assert not any(walker.entered.is_set() for walker in (a, b))
        c = Walker(store, nursery, "c")
        await all_of(a.entered, b.entered, c.entered)
        assert a.epoch == b.epoch == c.epoch
        assert a.party is not None
        assert [member.owner for member in a.party.members] == ["a", "b", "c"]
        a.go_on.set()
        c.go_on.set()
        await standing(store, 1)
        assert not any(walker.left.is_set() for walker in (a, c))
        b.go_on.set()
        await all_of(a.left, b.left, c.left)
        assert (a.missing(), a.failed, b.failed, c.failed) == ([], None, None, None)
    assert (await store.list(KEYS, END)).items == ()
    assert {lease.id for lease in await store.leases.list()} <= others


async def test_a_name_serves_again(store: Store) -> None:
    """Round follows round under one name, each with a higher epoch; a write fenced by an old one is refused."""
    epochs = []
    key = b""
    for _ in range(3):
        async with trio.open_nursery() as nursery:
            walkers = [Walker(store, nursery, owner) for owner in "abc"]
            await all_of(*(walker.entered for walker in walkers))
            epochs.append({walker.epoch for walker in walkers})
            assert walkers[0].party is not None
            key = walkers[0].party.key
            fence = Compare(key, "create_revision", "==", walkers[0].epoch)
            assert (await store.txn([fence], [Put(b"x", b"")])).succeeded
            for walker in walkers:
                walker.go_on.set()
    assert [len(each) for each in epochs] == [1, 1, 1]
    assert epochs == sorted(epochs, key=min)
    assert not (await store.txn([Compare(key, "create_revision", "==", min(epochs[-1]))], [Put(b"x", b"")])).succeeded


async def test_a_party_that_dies_before_is_replaced(store: Store) -> None:
    """The place of a waiting party goes with its lease, so it takes three that live."""
    async with trio.open_nursery() as nursery:
        a, b = await come(store, nursery, "ab")
        (place, _) = (await store.list(KEYS, END, order="mod_revision")).items
        await store.leases.revoke(place.lease)
        await all_of(a.left)
        assert isinstance(a.failed, Lost)
        (c,) = await come(store, nursery, "c", before=1)
        assert not any(walker.entered.is_set() for walker in (b, c))
        d = Walker(store, nursery, "d")
        await all_of(b.entered, c.entered, d.entered)
        for walker in (b, c, d):
            walker.go_on.set()


async def test_a_party_that_dies_inside_is_seen_and_not_waited_for(store: Store) -> None:
    """The others are told at once who is missing, and leave without it; what is dead knows that it is lost."""
    async with trio.open_nursery() as nursery:
        a, b, c = (Walker(store, nursery, owner) for owner in "abc")
        await all_of(a.entered, b.entered, c.entered)
        assert a.party is not None
        assert b.party is not None
        await store.leases.revoke(b.party.lease_id)
        await all_of(a.party.broken, b.left)
        assert a.missing() == ["b"]
        assert isinstance(b.failed, Lost)
        a.go_on.set()
        c.go_on.set()
        await all_of(a.left, c.left)
        assert c.missing() == ["b"]
        assert (a.failed, c.failed) == (None, None)
    assert (await store.list(KEYS, END)).items == ()


async def test_the_last_one_dies(store: Store) -> None:
    """Those who have left already go on when the one that they wait for dies; they are not missing, it is."""
    async with trio.open_nursery() as nursery:
        a, b, c = (Walker(store, nursery, owner) for owner in "abc")
        await all_of(a.entered, b.entered, c.entered)
        a.go_on.set()
        b.go_on.set()
        await standing(store, 1)
        assert c.party is not None
        await store.leases.revoke(c.party.lease_id)
        await all_of(a.left, b.left, c.left)
        assert a.missing() == b.missing() == ["c"]
    assert (await store.list(KEYS, END)).items == ()


async def test_more_than_it_takes_wait_for_the_next_round(store: Store) -> None:
    """Of five, the first three enter; the others and one late comer are the next round, once the first is over."""
    async with trio.open_nursery() as nursery:
        first = await come(store, nursery, "abc")
        await all_of(*(walker.entered for walker in first))
        late = await come(store, nursery, "de", before=3)
        (last,) = await come(store, nursery, "f", before=5)
        assert not any(walker.entered.is_set() for walker in (*late, last))
        for walker in first:
            walker.go_on.set()
        await all_of(*(walker.left for walker in first), *(walker.entered for walker in (*late, last)))
        assert last.epoch == late[0].epoch > first[0].epoch
        for walker in (*late, last):
            walker.go_on.set()
    assert (await store.list(KEYS, END)).items == ()


async def test_late_comers_close_a_round_whose_members_all_died(store: Store) -> None:
    """A round of which nobody lives any more keeps nobody waiting, whether a member had left it or not."""
    old = Member(lease=1, revision=1, owner="old")
    await store.txn([], [Put(KEYS + b"round", b'[{"lease":1,"revision":1,"owner":"old"}]'), Put(KEYS + b"left/1", b"")])
    async with trio.open_nursery() as nursery:
        walkers = [Walker(store, nursery, owner, parties=2) for owner in "ab"]
        await all_of(*(walker.entered for walker in walkers))
        for walker in walkers:
            assert walker.party is not None
            assert old not in walker.party.members
            assert walker.missing() == []
            walker.go_on.set()
    assert (await store.list(KEYS, END)).items == ()


async def test_who_gives_up_waiting_is_not_counted(store: Store) -> None:
    """A cancelled party and one whose patience is over leave no place; the count starts from who is left."""
    async with trio.open_nursery() as nursery:
        (a,) = await come(store, nursery, "a")
        (b,) = await come(store, nursery, "b", before=1)
        b.scope.cancel()
        await standing(store, 1)
        with pytest.raises(TooFew, match="2 of 3 parties") as caught:
            async with double_barrier(store, "b", 3, wait=0):
                pytest.fail("it is not full")
        assert caught.value.details == {"parties": 2, "wanted": 3}
        await standing(store, 1)
        assert not a.entered.is_set()
        a.scope.cancel()
    assert (await store.list(KEYS, END)).items == ()


async def test_the_one_that_completes_the_number_need_not_wait(store: Store) -> None:
    """With no patience at all the third of three enters."""
    async with trio.open_nursery() as nursery:
        a, b = await come(store, nursery, "ab")
        c = Walker(store, nursery, "c", wait=0)
        await all_of(a.entered, b.entered, c.entered)
        for walker in (a, b, c):
            walker.go_on.set()
    assert c.failed is None


@pytest.mark.parametrize("how", ["cancelled", "failed"])
async def test_who_does_not_end_its_block_is_missing(store: Store, how: str) -> None:
    """A block that is cancelled or fails does not wait for the others, and they see that it did not do its part."""
    async with trio.open_nursery() as nursery:
        a = Walker(store, nursery, "a", parties=2)
        scope = trio.CancelScope()
        with suppress(RuntimeError):
            with scope:
                async with double_barrier(store, "b", 2, owner="b"):
                    if how == "failed":
                        raise RuntimeError
                    scope.cancel()
                    await trio.sleep_forever()
        await all_of(a.entered)
        assert a.party is not None
        await all_of(a.party.broken)
        assert a.missing() == ["b"]
        a.go_on.set()
        await all_of(a.left)


async def test_who_is_cancelled_while_leaving_has_left(store: Store) -> None:
    """Once it has said so, a party's part is done: ending it then does not make it a missing one."""
    async with trio.open_nursery() as nursery:
        a, b = (Walker(store, nursery, owner, parties=2) for owner in "ab")
        await all_of(a.entered, b.entered)
        b.go_on.set()
        await standing(store, 1)
        b.scope.cancel()
        await all_of(b.left)
        a.go_on.set()
        await all_of(a.left)
        assert a.missing() == []
    assert (await store.list(KEYS, END)).items == ()


async def test_all_name_the_same_number(store: Store) -> None:
    """Who comes with another number than those who wait is refused and takes no place; numbers have bounds."""
    async with trio.open_nursery() as nursery:
        (a,) = await come(store, nursery, "a")
        with pytest.raises(Conflict, match="the others wait for 3 parties, this one for 2"):
            async with double_barrier(store, "b", 2):
                pytest.fail("it was let in")
        await standing(store, 1)
        a.scope.cancel()
    for parties in (0, 101):
        with pytest.raises(InvalidInput, match="takes 1 to 100"):
            async with double_barrier(store, "b", parties):
                pytest.fail("it was let in")
    with pytest.raises(InvalidInput, match="it may have 512"):
        async with double_barrier(store, "b", 1, owner="x" * 513):
            pytest.fail("it was let in")


async def test_a_removed_place_is_lost(store: Store) -> None:
    """Somebody removes the place of a party inside: it is cancelled and told; the other sees it missing."""
    async with trio.open_nursery() as nursery:
        a, b = (Walker(store, nursery, owner, parties=2) for owner in "ab")
        await all_of(a.entered, b.entered)
        assert a.party is not None
        await store.txn([], [Delete(KEYS + b"parties/%x" % a.party.lease_id)])
        await all_of(a.left)
        assert isinstance(a.failed, Lost)
        b.go_on.set()
        await all_of(b.left)
        assert b.missing() == ["a"]


async def test_what_others_wrote_there_is_no_party_and_no_round(store: Store) -> None:
    """A place that says nothing is not counted, and a round that cannot be read is closed."""
    await store.txn([], [Put(KEYS + b"round", b"\xff"), Put(KEYS + b"parties/x", b"not ours")])
    async with trio.open_nursery() as nursery:
        a, b = (Walker(store, nursery, owner, parties=2) for owner in "ab")
        await all_of(a.entered, b.entered)
        a.go_on.set()
        b.go_on.set()
    assert [kv.key for kv in (await store.list(KEYS, END)).items] == [KEYS + b"parties/x"]


class Before:
    """A store where something happens before transactions of a kind."""

    def __init__(self, store: Store, kind: type[Put | Delete], happens: Callable[[], Awaitable[object]]) -> None:
        self._store = store
        self._kind = kind
        self._happens = happens

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    async def txn(self, compares: Any, then: Any, otherwise: Any = ()) -> Any:
        if isinstance(then[0], self._kind) and then[0].key == KEYS + b"round":
            await self._happens()
        return await self._store.txn(compares, then, otherwise)


async def test_a_round_begins_with_members_that_live(store: Store) -> None:
    """A party that dies between being counted and the opening of the round is in no round."""
    async with trio.open_nursery() as nursery:
        lease = await store.leases.grant(60)
        await store.txn([], [Put(KEYS + b"parties/%x" % lease.id, b'{"parties":2,"owner":"dead"}', lease.id)])

        died = trio.Event()

        async def die() -> None:
            with suppress(NotFound):
                await store.leases.revoke(lease.id)
            died.set()

        a = Walker(Before(store, Put, die), nursery, "a", parties=2)
        await all_of(died)
        b = Walker(store, nursery, "b", parties=2)
        await all_of(a.entered, b.entered)
        assert a.party is not None
        assert sorted(member.owner for member in a.party.members) == ["a", "b"]
        a.go_on.set()
        b.go_on.set()


async def test_who_is_late_to_close_a_round_closes_no_other(store: Store) -> None:
    """A party whose closing of its round comes when the next round is on leaves that one alone."""
    held, go_on = trio.Event(), trio.Event()

    async def hold() -> None:
        held.set()
        await go_on.wait()

    async with trio.open_nursery() as nursery:
        slow, b = (Walker(each, nursery, "x", parties=2) for each in (Before(store, Delete, hold), store))
        await all_of(slow.entered, b.entered)
        slow.go_on.set()
        b.go_on.set()
        await all_of(held, b.left)
        c, d = (Walker(store, nursery, owner, parties=2) for owner in "cd")
        await all_of(c.entered, d.entered)
        go_on.set()
        await all_of(slow.left)
        kv = await store.get(KEYS + b"round")
        assert kv is not None
        assert kv.create_revision == c.epoch > b.epoch
        c.go_on.set()
        d.go_on.set()


async def test_a_hundred_parties(memory: MemoryStore, autojump_clock: MockClock) -> None:
    """As many as it takes at most enter at one revision and leave together; each costs one watch."""
    entered: list[float] = []
    left: list[float] = []

    async def walk(number: int) -> None:
        await trio.sleep(number)
        async with double_barrier(memory, "b", 100, ttl=1000):
            entered.append(trio.current_time())
            await trio.sleep(1)
            assert memory.watchers == 100
            await trio.sleep(number)
        left.append(trio.current_time())

    async with trio.open_nursery() as nursery:
        for number in range(100):
            nursery.start_soon(walk, number)
    assert entered == [pytest.approx(99)] * 100
    assert left == [pytest.approx(199)] * 100
    assert memory.watchers == 0


async def test_who_falls_silent_is_missing_when_its_lease_ends(memory: MemoryStore, autojump_clock: MockClock) -> None:
    """A party that cannot reach the store any more is cancelled when its time to live is over, and not before."""
    ended: list[float] = []
    silent: list[int] = []

    async def pause(what: str) -> None:
        if what == "keep" and silent:
            raise Unavailable("no connection")
        await trio.lowlevel.checkpoint()

    async def walk() -> None:
        try:
            async with double_barrier(memory, "b", 2, ttl=30):
                silent.append(1)
                await trio.sleep_forever()
        except Lost:
            ended.append(trio.current_time())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(walk)
        async with double_barrier(memory, "b", 2, ttl=1000) as party:
            memory.pause = pause
            begun = trio.current_time()
            await party.broken.wait()
            assert trio.current_time() - begun == pytest.approx(30, abs=1)
    assert ended == [pytest.approx(begun + 30, abs=1)]


@pytest.mark.parametrize("seed", range(6))
async def test_rounds_hold_whatever_is_slow_or_lost(
    seed: int, autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    """With delays and lost answers, and parties that come, give up and fail, a round has exactly its number of members,
    all inside together, and nobody who left it in order goes on while a member is inside."""
    rng = random.Random(seed)

    async def pause(what: str) -> None:
        await trio.sleep(rng.choice([0, 0, 0.1, 1]))
        if rng.random() < 0.03 and what in {"txn", "done", "list", "batch"}:
            raise Unavailable(f"lost at {what}")

    memory = MemoryStore(pause)
    nursery.start_soon(memory.leases.run)
    inside: dict[int, int] = {}
    rounds: dict[int, int] = {}

    async def walk() -> None:
        for _ in range(6):
            await trio.sleep(rng.uniform(0, 20))
            with suppress(TooFew, Lost, Unavailable, RuntimeError):
                async with double_barrier(memory, "b", 3, ttl=60, wait=rng.choice([0, 20, 500])) as party:
                    assert len(party.members) == 3
                    assert all(count == 0 for epoch, count in inside.items() if epoch != party.epoch)
                    rounds[party.epoch] = rounds.get(party.epoch, 0) + 1
                    inside[party.epoch] = inside.get(party.epoch, 0) + 1
                    try:
                        await trio.sleep(rng.uniform(0, 30))
                        if rng.random() < 0.1:
                            raise RuntimeError
                    finally:
                        inside[party.epoch] -= 1
                assert inside[party.epoch] == 0 or party.missing

    with trio.fail_after(20_000):
        async with trio.open_nursery() as walkers:
            for _ in range(5):
                walkers.start_soon(walk)
    assert len(rounds) > 2
    assert max(rounds.values()) == 3
