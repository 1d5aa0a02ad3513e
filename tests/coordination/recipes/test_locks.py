"""Locks: one holder at a time, in order, with revisions that fence, and a holder that is told of its loss."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from contextlib import suppress

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from platformd.coordination.contract import Compare, Put, Store
from platformd.coordination.recipes import Held, LockHeld, Lost, acquire, lock
from platformd.coordination.recipes.places import places, queue_prefix
from platformd.core.errors import InvalidInput, NotFound, OutcomeUnknown, PlatformError, Unavailable
from tests.support.memory_store import MemoryStore


async def hold(store: Store, name: str, revisions: list[int], until: trio.Event, **options: object) -> None:
    """Note the fencing revision, then hold until told otherwise."""
    async with lock(store, name, **options) as held:  # type: ignore[arg-type]
        revisions.append(held.revision)
        await until.wait()


async def eventually(condition: Callable[[], bool]) -> None:
    """Wait for something that a thread brings about."""
    with trio.fail_after(20):
        while not condition():  # noqa: ASYNC110 - what is waited for is in a list
            await trio.sleep(0.001)


async def test_a_lock_on_the_embedded_store(embedded: Store) -> None:
    """Two contenders on the real engine: the second one holds after the first, with a higher revision."""
    revisions: list[int] = []
    first, second = trio.Event(), trio.Event()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(hold, embedded, "a", revisions, first)
        await eventually(lambda: bool(revisions))
        nursery.start_soon(hold, embedded, "a", revisions, second)
        async with embedded.watch(b"locks/", b"locks0", start_revision=revisions[0] + 1) as batches:
            while not (await anext(batches)).events:
                pass
        with pytest.raises(LockHeld):
            async with lock(embedded, "a", wait=0):
                pytest.fail("it was held twice")
        assert len(revisions) == 1
        first.set()
        await eventually(lambda: len(revisions) == 2)
        second.set()
    assert revisions[0] < revisions[1]
    assert await places(embedded, queue_prefix("locks", "a")) == []
    assert await embedded.leases.list() == ()


async def test_turns_come_in_the_order_of_asking(memory: MemoryStore, autojump_clock: MockClock) -> None:
    """Ten waiters get the lock in the order in which they asked, and one watch each is all that they cost."""
    order: list[int] = []

    async def contend(number: int) -> None:
        async with lock(memory, "a", owner=f"{number}"):
            order.append(number)
            await trio.sleep(100)

    async with trio.open_nursery() as nursery:
        for number in range(10):
            nursery.start_soon(contend, number)
            await trio.sleep(1)
        await wait_all_tasks_blocked()
        assert memory.watchers == 10  # the holder watches its own key
    assert order == list(range(10))
    assert memory.watchers == 0


async def test_names_do_not_lie_within_each_other(memory: MemoryStore) -> None:
    """A lock called a/b has nothing to do with the lock called a; any text is a name, but not any length."""
    async with lock(memory, "a"), lock(memory, "a/b", wait=0), lock(memory, "ä %", wait=0) as held:
        assert held.name == "ä %"
    for name in ("", "x" * 513):
        with pytest.raises(InvalidInput):
            async with lock(memory, name):
                pytest.fail("it has no name")


async def test_trying_leaves_nothing_behind(memory: MemoryStore) -> None:
    """A lock that is only tried is had at once or refused with who has it; the queue is as before."""
    async with lock(memory, "a", owner="me") as held:
        with pytest.raises(LockHeld, match="held by me") as caught:
            async with lock(memory, "a", wait=0):
                pytest.fail("it was held twice")
        assert caught.value.details == {"owner": "me", "lease": f"{held.lease_id:016x}", "revision": held.revision}
        assert len(await places(memory, queue_prefix("locks", "a"))) == 1
    async with lock(memory, "a", wait=0):
        pass
    assert await memory.leases.list() == ()


async def test_waiting_has_an_end(memory: MemoryStore, autojump_clock: MockClock) -> None:
    """When the wait is over the place is given up, so that nobody behind waits for one who left."""
    async with lock(memory, "a"):
        with pytest.raises(LockHeld, match="also after 60s"):
            async with lock(memory, "a", wait=60):
                pytest.fail("it was held twice")
        assert trio.current_time() >= 60
        assert len(await places(memory, queue_prefix("locks", "a"))) == 1


async def test_a_place_can_be_kept_for_later(memory: MemoryStore, autojump_clock: MockClock) -> None:
    """Who stays keeps its place when the wait is over, and asking again with the same lease goes on with it."""
    async with lock(memory, "a"):
        lease = await memory.leases.grant(1000)
        for _ in range(2):
            with pytest.raises(LockHeld):
                await acquire(memory, "a", lease.id, wait=1, stay=True)
        (_, mine) = await places(memory, queue_prefix("locks", "a"))
    place = await acquire(memory, "a", lease.id, wait=0)
    assert (place.key, place.revision) == (mine.key, mine.create_revision)
    assert (await acquire(memory, "a", lease.id)).revision == place.revision


async def test_a_waiter_that_is_cancelled_leaves(memory: MemoryStore, autojump_clock: MockClock) -> None:
    """A cancelled wait gives up the place and the lease."""
    async with lock(memory, "a"):
        with trio.move_on_after(1):
            async with lock(memory, "a"):
                pytest.fail("it was held twice")
        assert len(memory.keys) == len(memory.leases.deadlines) == 1


async def test_the_block_ends_when_the_lock_is_lost(memory: MemoryStore, autojump_clock: MockClock) -> None:
    """A revoked lease cancels the block at once, and says so."""
    with pytest.raises(Lost, match=r"its key was removed|it ended"):  # noqa: PT012 - the loss ends the block
        async with lock(memory, "a", ttl=30) as held:
            await memory.leases.revoke(held.lease_id)
            await trio.sleep_forever()
    assert trio.current_time() < 1


async def test_a_holder_may_ask_only_to_be_told(memory: MemoryStore, autojump_clock: MockClock) -> None:
    """With cancel=False the block goes on, and the event says that it holds nothing."""
    async with lock(memory, "a", cancel=False) as held:
        assert not held.lost.is_set()
        await memory.txn([], [Put(b"other", b"")])
        await memory.leases.revoke(held.lease_id)
        await held.lost.wait()


async def test_an_error_leaves_the_block_as_it_is(memory: MemoryStore) -> None:
    """The holder's own exception is not wrapped, and the lock is free."""
    with pytest.raises(ZeroDivisionError):
        async with lock(memory, "a"):
            _ = 1 / 0
    assert memory.keys == {}


async def test_a_lock_lives_much_longer_than_its_ttl(memory: MemoryStore, autojump_clock: MockClock) -> None:
    """It is kept alive every third of its time to live."""
    asked: list[float] = []

    async def pause(what: str) -> None:
        if what == "keep":
            asked.append(trio.current_time())
        await trio.lowlevel.checkpoint()

    memory.pause = pause
    async with lock(memory, "a", ttl=30):
        await trio.sleep(299)
    assert asked == pytest.approx([10.0 * i for i in range(1, 30)])


async def test_no_answer_for_a_whole_ttl_is_a_loss(memory: MemoryStore, autojump_clock: MockClock) -> None:
    """A holder that hears nothing gives up one time to live after the last question that was answered, and by then
    nobody else can have it."""

    async def pause(what: str) -> None:
        if what == "keep" and trio.current_time() > 15:
            await trio.sleep_forever()
        if what in ("revoke", "batch") and trio.current_time() > 15:
            raise Unavailable("no connection")
        await trio.lowlevel.checkpoint()

    memory.pause = pause
    with pytest.raises(Lost, match="no keep-alive came through for 30s"):
        async with lock(memory, "a", ttl=30):
            await trio.sleep_forever()
    assert trio.current_time() == pytest.approx(40)  # asked at 10, answered; asked at 20 and since then: silence


async def test_a_short_outage_is_survived(memory: MemoryStore, autojump_clock: MockClock) -> None:
    """Failed keep-alives are asked again soon; when one comes through in time nothing is lost."""

    async def pause(what: str) -> None:
        if what == "keep" and 5 < trio.current_time() < 38:
            raise OutcomeUnknown("the connection broke")
        await trio.lowlevel.checkpoint()

    memory.pause = pause
    async with lock(memory, "a", ttl=30, cancel=False) as held:
        await trio.sleep(100)
        assert held.lost.is_set()  # asked at 0: good until 30

    async def shorter(what: str) -> None:
        if what == "keep" and 105 < trio.current_time() < 125:
            raise OutcomeUnknown("the connection broke")
        await trio.lowlevel.checkpoint()

    memory.pause = shorter
    async with lock(memory, "b", ttl=30) as held:
        await trio.sleep(100)
        assert held.deadline > trio.current_time()


async def test_the_place_of_a_dead_waiter_is_skipped(memory: MemoryStore, autojump_clock: MockClock) -> None:
    """A waiter whose lease ends is not waited for, and is told itself."""
    first = await acquire(memory, "a", (await memory.leases.grant(1000)).id)
    dead = await memory.leases.grant(20)
    outcome: list[object] = []

    async def wait_in_vain() -> None:
        with pytest.raises(Lost):
            await acquire(memory, "a", dead.id)
        outcome.append("lost")

    async def wait_behind() -> None:
        await trio.sleep(1)
        place = await acquire(memory, "a", (await memory.leases.grant(1000)).id)
        outcome.append(place.revision > first.revision)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait_in_vain)
        nursery.start_soon(wait_behind)
        await trio.sleep(30)
        assert outcome == []  # it waits for the one before, and looks at its own place when that one goes
        await memory.leases.revoke(first.lease_id)
    assert sorted(outcome, key=str) == [True, "lost"]


async def test_a_place_needs_a_lease(memory: MemoryStore) -> None:
    """Without its lease there is no place."""
    with pytest.raises(NotFound):
        await acquire(memory, "a", 99)


async def test_a_broken_watch_is_no_turn(memory: MemoryStore, autojump_clock: MockClock) -> None:
    """A watch that breaks or cannot be had is tried again; only a place that is gone makes room."""
    broken = [Unavailable("x"), OutcomeUnknown("y")]

    async def pause(what: str) -> None:
        if what == "batch" and broken:
            raise broken.pop()
        await trio.lowlevel.checkpoint()

    revisions: list[int] = []
    until, forever = trio.Event(), trio.Event()
    forever.set()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(hold, memory, "a", revisions, until)
        await trio.sleep(1)
        memory.pause = pause
        nursery.start_soon(hold, memory, "a", revisions, forever)
        await trio.sleep(10)
        assert len(revisions) == 1
        assert not broken
        until.set()
    assert len(revisions) == 2


class Register:
    """Who believes to hold the lock."""

    def __init__(self) -> None:
        self.holders: set[int] = set()
        self.worst = 0
        self.revisions: list[int] = []

    def enter(self, held: Held) -> None:
        self.holders.add(held.revision)
        self.worst = max(self.worst, len(self.holders))
        self.revisions.append(held.revision)


def chaos(rng: random.Random, loss: float) -> Callable[[str], Awaitable[None]]:
    """Everything takes up to a second or, now and then, much longer; some answers are lost."""

    async def pause(what: str) -> None:
        await trio.sleep(rng.uniform(0, 1) if rng.random() < 0.9 else rng.uniform(0, 20))
        if rng.random() < loss:
            raise (Unavailable if what in ("txn", "keep", "list", "batch") else OutcomeUnknown)(f"{what} was lost")

    return pause


@pytest.mark.parametrize("seed", range(40))
async def test_never_two_holders(seed: int, nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    """Under random delays, lost answers and leases that end, no two ever believe to hold the lock at the same moment,
    and fencing revisions only rise."""
    rng = random.Random(seed)
    store = MemoryStore(chaos(rng, loss=0.05 if seed % 2 else 0.0))
    nursery.start_soon(store.leases.run)
    register = Register()

    async def contend() -> None:
        for _ in range(4):
            await trio.sleep(rng.uniform(0, 30))
            with suppress(PlatformError):
                async with lock(store, "a", ttl=10, wait=rng.choice([0, 50, 500])) as held:
                    register.enter(held)
                    try:
                        await trio.sleep(rng.uniform(0, 60))
                    finally:
                        register.holders.discard(held.revision)

    async with trio.open_nursery() as contenders:
        for _ in range(5):
            contenders.start_soon(contend)
    assert register.worst == 1
    assert register.revisions == sorted(set(register.revisions))
    assert len(register.revisions) > 1


async def test_a_late_holder_is_known_by_its_revision(memory: MemoryStore, autojump_clock: MockClock) -> None:
    """A holder that was paused past its lease still believes; the next one's revision is higher, and a write under the
    condition that one's key is still there is refused to the late one."""
    written: list[str] = []

    async def write(held: Held, value: str) -> None:
        fence = [Compare(held.key, "create_revision", "==", held.revision)]
        if (await memory.txn(fence, [Put(b"x", value.encode())])).succeeded:
            written.append(value)

    async with lock(memory, "a", cancel=False) as paused:
        await write(paused, "first")
        await memory.leases.revoke(paused.lease_id)  # what the end of a paused holder's lease is to the others
        async with lock(memory, "a") as after:
            await write(after, "second")
            await write(paused, "late")
            assert paused.revision < after.revision
    assert written == ["first", "second"]
