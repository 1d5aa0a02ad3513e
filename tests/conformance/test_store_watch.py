"""What every engine of the Store promises about watches."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio

from platformd.coordination.contract import Delete, Event, EventType, FutureRevision, Put, Store, WatchBatch, prefix_end
from platformd.core.errors import LimitReached
from tests.conformance.store_engines import ENGINES, Engine, events_until, put


@pytest.fixture(params=ENGINES)
def engine(request: pytest.FixtureRequest, tmp_path: Path) -> Engine:
    return ENGINES[request.param](tmp_path)


@pytest.fixture
async def store(engine: Engine) -> AsyncIterator[Store]:
    async with engine.open() as opened:
        yield opened


def shown(events: list[Event]) -> list[tuple[str, bytes, bytes, int]]:
    return [(event.type, event.kv.key, event.kv.value, event.kv.mod_revision) for event in events]


async def test_first_batch_is_a_bookmark_of_the_start(store: Store) -> None:
    """A watch from now on begins at the store's revision, one from a revision just before that."""
    revision = await put(store, b"k")
    async with store.watch(b"k", None) as watch:
        assert await anext(watch) == WatchBatch(revision=revision)
    async with store.watch(b"k", None, start_revision=revision) as watch:
        assert await anext(watch) == WatchBatch(revision=revision - 1)
    async with store.watch(b"k", None, start_revision=revision + 1) as watch:
        assert await anext(watch) == WatchBatch(revision=revision)


async def test_what_is_acknowledged_after_entry_is_seen(store: Store) -> None:
    """Entering the block is enough: no write after it is missed, whether the watch was read yet or not."""
    async with store.watch(b"", None) as watch:
        revision = await put(store, b"k", b"v")
        assert shown(await events_until(watch, revision)) == [("put", b"k", b"v", revision)]


async def test_deletion_is_shown_with_its_revision(store: Store) -> None:
    """A delete event has the key, the revision of the deletion, no value and version 0."""
    for previous in (False, True):
        async with store.watch(b"k", b"k\x00", previous=previous) as watch:
            await put(store, b"k", b"v")
            before = await store.get(b"k")
            revision = (await store.txn([], [Delete(b"k")])).revision
            (_, event) = await events_until(watch, revision)
            assert (event.type, event.kv.key, event.kv.value, event.kv.version) == ("delete", b"k", b"", 0)
            assert event.kv.mod_revision == revision
            assert event.previous == (before if previous else None)


async def test_history_and_live_events_are_the_same(store: Store) -> None:
    """The events of a range are equal whether they were watched live or read from history, former state too."""
    async with store.watch(b"a", b"c", previous=True) as live:
        start = (await anext(live)).revision + 1
        await put(store, b"a", b"1")
        await store.txn([], [Put(b"b", b"1"), Put(b"a", b"2"), Put(b"c", b"outside")])
        await put(store, b"c", b"outside")
        await store.txn([], [Delete(b"a", b"z")])
        last = await put(store, b"a", b"3")
        seen = await events_until(live, last)
    assert [(e.type, e.kv.key) for e in seen] == [
        ("put", b"a"), ("put", b"a"), ("put", b"b"), ("delete", b"a"), ("delete", b"b"), ("put", b"a"),
    ]  # fmt: skip
    async with store.watch(b"a", b"c", start_revision=start, previous=True) as past:
        assert await events_until(past, last) == seen


async def test_events_of_a_revision_come_together(store: Store) -> None:
    """Each revision is whole within one batch, live and from history, and batches do not go back."""
    async with store.watch(b"", None) as live:
        start = (await anext(live)).revision + 1
        for number in range(40):
            last = (await store.txn([], [Put(b"%d" % key, b"%d" % number) for key in range(5)])).revision
        async with store.watch(b"", None, start_revision=start) as past:
            for watch in (live, past):
                batches: list[WatchBatch] = []
                await events_until(watch, last, batches)
                position = start - 1
                for batch in batches:
                    revisions = [event.kv.mod_revision for event in batch.events]
                    assert all(revisions.count(revision) == 5 for revision in revisions)
                    assert all(position < revision <= batch.revision for revision in revisions)
                    position = batch.revision


async def test_watch_can_be_resumed(store: Store) -> None:
    """Leaving after any batch and coming back at its revision + 1 gives every event once, in order."""
    start = (await store.status()).revision + 1
    expected = [("put", b"k", b"%d" % n, await put(store, b"k", b"%d" % n)) for n in range(30)]
    seen: list[Event] = []
    position = start
    while position <= expected[-1][3]:
        async with store.watch(b"", None, start_revision=position) as watch:
            await anext(watch)
            batch = await anext(watch)
        seen += batch.events
        position = batch.revision + 1
    assert shown(seen) == expected


async def test_only_the_range_is_seen(store: Store) -> None:
    """One key, a prefix, a range and everything from a key on each show what is theirs."""
    ranges: dict[str, tuple[bytes, bytes | None]] = {
        "one": (b"b", b"b\x00"),
        "prefix": (b"b", prefix_end(b"b")),
        "range": (b"b", b"bb"),
        "rest": (b"b/", None),
        "all": (b"", None),
    }
    keys = [b"a", b"b", b"b\x00", b"b/", b"ba", b"bb", b"c", b"\xff"]
    for key, end in ranges.values():
        wanted = [k for k in keys if key <= k and (end is None or k < end)]
        async with store.watch(key, end) as live:
            start = (await anext(live)).revision + 1
            for k in keys:
                last = await put(store, k)
            last = await put(store, wanted[0])
            assert [e.kv.key for e in await events_until(live, last)] == [*wanted, wanted[0]]
        async with store.watch(key, end, start_revision=start) as past:
            assert [e.kv.key for e in await events_until(past, last)] == [*wanted, wanted[0]]


@pytest.mark.parametrize("only", ["put", "delete"])
async def test_only_one_type_of_event(store: Store, only: EventType) -> None:
    """A watch of puts or of deletes alone shows those, live and from history, and still says how far it is."""
    async with store.watch(b"k", b"l", previous=True) as everything:
        async with store.watch(b"k", b"l", previous=True, only=only) as live:
            start = (await anext(live)).revision + 1
            for number in range(6):
                await store.txn([], [Put(b"k/%d" % number, b""), Put(b"k/x", b"%d" % number)])
                await store.txn([], [Delete(b"k/%d" % number), Put(b"k/y", b"")])
            await store.txn([], [Delete(b"k", b"l")])
            last = (await store.txn([], [Put(b"k/last", b""), Put(b"other", b"")])).revision
            last = (await store.txn([], [Delete(b"k/last")])).revision if only == "delete" else last
            wanted = [e for e in await events_until(everything, last) if e.type == only]
            assert await events_until(live, last) == wanted
    async with store.watch(b"k", b"l", start_revision=start, previous=True, only=only) as past:
        assert await events_until(past, last) == wanted
    async with store.watch(b"k", b"l", start_revision=start, only="put" if only == "delete" else "delete") as other:
        assert [e.type for e in await events_until(other, last)].count(only) == 0


async def test_slow_watcher_loses_nothing(engine: Engine) -> None:
    """A watcher that does not read while far more happens than its buffer holds gets all of it, in order, once."""
    async with engine.open(watch_buffer=8) as store, store.watch(b"k", b"l") as watch:
        written: list[tuple[str, bytes, bytes, int]] = []

        async def write(count: int) -> None:
            for number in range(count):
                key = b"k/%d" % (number % 7)
                written.append(("put", key, b"%d" % number, await put(store, key, b"%d" % number)))

        seen: list[Event] = []
        for _ in range(3):  # asleep for a while, then reading while writing goes on
            await write(50)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(write, 50)
                seen += await events_until(watch, written[-1][3])
        if seen[-1].kv.mod_revision < written[-1][3]:  # else a batch reached beyond what was waited for
            seen += await events_until(watch, written[-1][3])
        assert shown(seen) == written


async def test_revision_larger_than_the_buffer_stays_whole(engine: Engine) -> None:
    """A transaction with more events than a watch may buffer still comes in one batch."""
    async with engine.open(watch_buffer=8) as store, store.watch(b"", None) as watch:
        revision = (await store.txn([], [Put(b"%03d" % n, b"") for n in range(100)])).revision
        batches: list[WatchBatch] = []
        await events_until(watch, revision, batches)
        assert [len(batch.events) for batch in batches if batch.events] == [100]


async def test_the_future_cannot_be_watched(store: Store) -> None:
    """A watch from beyond the next revision is refused: nobody was ever told that revision."""
    revision = await put(store, b"k")
    with pytest.raises(FutureRevision):
        async with store.watch(b"", None, start_revision=revision + 2):
            pass


async def test_watchers_are_limited(engine: Engine) -> None:
    """One watch too many is refused; one that was closed makes room."""
    async with engine.open(max_watchers=2) as store:
        async with store.watch(b"a", None):
            async with store.watch(b"b", None):
                assert (await store.status()).watchers == 2
                with pytest.raises(LimitReached, match="max_watchers is 2"):
                    async with store.watch(b"c", None):
                        pass
            async with store.watch(b"c", None):
                pass
        assert (await store.status()).watchers == 0


async def test_cancelled_wait_loses_no_event(store: Store) -> None:
    """A reader that gives up again and again, at any point, misses nothing when it comes back."""
    generator = random.Random(4)
    expected: list[int] = []
    seen: list[int] = []
    async with store.watch(b"", None) as watch, trio.open_nursery() as nursery:

        async def write() -> None:
            for _ in range(60):
                expected.append(await put(store, b"k"))

        async def give_up(scope: trio.CancelScope, passes: int) -> None:
            for _ in range(passes):
                await trio.lowlevel.checkpoint()
            scope.cancel()

        nursery.start_soon(write)
        while len(seen) < 60:
            with trio.CancelScope() as scope:
                nursery.start_soon(give_up, scope, generator.randrange(6))
                seen += [event.kv.mod_revision for event in (await anext(watch)).events]
    assert seen == expected


async def test_list_and_watch_join_without_a_gap(engine: Engine) -> None:
    """List, then watch from the next revision, at any moment of a busy store: together they are the state."""
    async with engine.open(watch_buffer=16) as store:
        generator = random.Random(7)
        finished = trio.Event()
        state: dict[bytes, bytes] = {}

        async def write() -> None:
            for number in range(300):
                key = b"k/%d" % generator.randrange(12)
                if generator.random() < 0.3:
                    await store.txn([], [Delete(key)])
                    state.pop(key, None)
                else:
                    await put(store, key, b"%d" % number)
                    state[key] = b"%d" % number
            await put(store, b"k/end")
            state[b"k/end"] = b"v"
            finished.set()

        async def follow(pause: int) -> None:
            for _ in range(pause):
                await trio.lowlevel.checkpoint()
            listed = await store.list(b"k/", b"k0")
            mirror = {kv.key: kv.value for kv in listed.items}
            position = listed.revision
            async with store.watch(b"k/", b"k0", start_revision=listed.revision + 1) as watch:
                await finished.wait() if pause % 3 == 0 else None  # some sleep through it all
                while b"k/end" not in mirror:
                    batch = await anext(watch)
                    for event in batch.events:
                        assert event.kv.mod_revision > position, "an event came twice or late"
                        if event.type == "put":
                            mirror[event.kv.key] = event.kv.value
                        else:
                            del mirror[event.kv.key]  # there, or the delete was no event
                    position = batch.revision
            await finished.wait()  # the writer is told after the watchers
            assert mirror == state

        async with trio.open_nursery() as nursery:
            nursery.start_soon(write)
            for _ in range(25):
                nursery.start_soon(follow, generator.randrange(400))


async def test_idle_watcher_is_told_how_far_it_is(engine: Engine, mock_clock: trio.testing.MockClock) -> None:
    """While others' keys change, a watcher gets a bookmark now and then, never ahead of what it was given."""
    async with engine.open() as store, store.watch(b"mine", b"mine\x00") as watch:
        await anext(watch)
        revision = await put(store, b"other")
        async with trio.open_nursery() as nursery:

            async def read() -> None:
                assert await anext(watch) == WatchBatch(revision=revision)
                nursery.cancel_scope.cancel()

            nursery.start_soon(read)
            while True:
                await trio.testing.wait_all_tasks_blocked()
                mock_clock.jump(1)
        mine = await put(store, b"mine")
        assert [e.kv.mod_revision for e in (await anext(watch)).events] == [mine]


async def test_many_watchers_of_many_keys(store: Store) -> None:
    """Each of hundreds of watches, of keys and prefixes, gets exactly its own events."""
    async with trio.open_nursery() as nursery:
        wrong: list[int] = []
        ready = 0
        go = trio.Event()

        async def follow(number: int) -> None:
            nonlocal ready
            key = b"w/%03d" % number
            async with store.watch(key, key + b"\x00" if number % 2 else prefix_end(key)) as watch:
                ready += 1
                await go.wait()
                batch = await anext(watch)
                while not batch.events:
                    batch = await anext(watch)
                if [e.kv.key for e in batch.events] != [key]:
                    wrong.append(number)

        for number in range(300):
            nursery.start_soon(follow, number)
        while ready < 300:
            await trio.lowlevel.checkpoint()
        for start in range(0, 300, 100):
            await store.txn([], [Put(b"w/%03d" % number, b"") for number in range(start, start + 100)])
        go.set()
    assert wrong == []
