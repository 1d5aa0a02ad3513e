"""How much history is kept, decided and done."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio
import trio.testing

from platformd.coordination.contract import Compacted, Delete, Put
from platformd.coordination.sqlite import open_sqlite
from platformd.coordination.sqlite.compaction import Keep, Mark, target, tick
from platformd.core.settings import StoreSettings
from tests.conformance.store_engines import eventually, put

SECOND = 1_000_000_000


class TrioClock:
    """Stamps from trio's clock, so that a test's jump ages history too."""

    def time_ns(self) -> int:
        return int(trio.current_time() * SECOND)

    def monotonic(self) -> float:
        return trio.current_time()


@pytest.mark.parametrize(
    ("now", "newest", "floor", "expected"),
    [
        (0, 1000, None, 0),  # no mark is old enough
        (99, 1000, None, 0),
        (110, 1000, None, 101),  # all up to the first mark is ten seconds old
        (125, 1000, None, 201),
        (999, 1000, None, 401),  # as old as can be: up to the last mark
        (999, 420, None, 371),  # but fifty revisions stay
        (999, 30, None, 0),
        (999, 1000, 250, 401),  # a slow watcher is not waited for beyond twice the age
        (125, 1000, 150, 150),  # but up to it
        (125, 1000, 300, 201),  # and one that is ahead changes nothing
    ],
)
def test_target(now: int, newest: int, floor: int | None, expected: int) -> None:
    """History goes when it is old enough, beyond the count, and read by those who follow it, within reason."""
    marks = [Mark(100, 100 * SECOND), Mark(200, 110 * SECOND), Mark(300, 120 * SECOND), Mark(400, 130 * SECOND)]
    assert target(marks, now * SECOND, newest, Keep(10.0, 50), floor) == expected


def test_newest_revision_stays() -> None:
    """Whatever the settings say, the newest revision is not compacted: the store knows its revision from it."""
    assert target([Mark(7, 0)], 10**18, 7, Keep(0.0, 0), None) == 7


def test_tick_follows_the_age() -> None:
    """Marks are as fine as the age asks for, within a second and five minutes."""
    assert tick(Keep(3600, 1)) == pytest.approx(112.5)
    assert tick(Keep(1, 1)) == 1
    assert tick(Keep(1e9, 1)) == 300


SHORT = StoreSettings(history_age="10s", history_revisions=20, watch_buffer=4)


async def test_history_is_trimmed_as_it_ages(tmp_path: Path, mock_clock: trio.testing.MockClock) -> None:
    """After a while only the newest revisions are left; what is older is ``Compacted``, what is current stays."""
    async with open_sqlite(tmp_path / "s.db", SHORT, TrioClock()) as store:
        kept = await put(store, b"kept", b"old and current")
        for number in range(100):
            await put(store, b"k", b"%d" % number)
        newest = (await store.status()).revision

        async def compacted() -> bool:
            return (await store.status()).compact_revision == newest - 19

        await eventually(compacted, mock_clock)
        oldest = newest - 19
        with pytest.raises(Compacted) as refused:
            await store.get(b"k", revision=oldest - 1)
        assert refused.value.compact_revision == oldest
        with pytest.raises(Compacted):
            await store.list(b"", None, revision=oldest - 1)
        with pytest.raises(Compacted):
            async with store.watch(b"", None, start_revision=oldest - 1):
                pass
        then = await store.get(b"k", revision=oldest)
        assert then is not None
        assert then.mod_revision == oldest
        old = await store.get(b"kept", revision=oldest)
        assert old is not None
        assert old.mod_revision == kept
        async with store.watch(b"k", None, start_revision=oldest) as watch:
            await anext(watch)
            batch = await anext(watch)
        assert [e.kv.mod_revision for e in batch.events] == list(range(oldest, newest + 1))
    async with open_sqlite(tmp_path / "s.db", SHORT, TrioClock()) as store:
        assert (await store.status()).compact_revision == oldest
        assert (await store.status()).revision == newest


async def test_deletion_at_the_oldest_revision_is_seen(tmp_path: Path, mock_clock: trio.testing.MockClock) -> None:
    """A watch from the compaction revision itself gets that revision's events, a deletion too."""
    settings = StoreSettings(history_age="1s", history_revisions=2)
    async with open_sqlite(tmp_path / "s.db", settings, TrioClock()) as store:
        await put(store, b"k")
        deleted = (await store.txn([], [Delete(b"k")])).revision
        await put(store, b"other")

        async def compacted() -> bool:
            return (await store.status()).compact_revision == deleted

        await eventually(compacted, mock_clock)
        async with store.watch(b"k", None, start_revision=deleted, previous=True) as watch:
            await anext(watch)
            event = (await anext(watch)).events[0]
        assert (event.type, event.kv.mod_revision) == ("delete", deleted)
        assert event.previous is not None
        assert await store.get(b"k", revision=deleted) is None


async def test_stuck_watcher_is_told(tmp_path: Path, mock_clock: trio.testing.MockClock) -> None:
    """A watcher that does not read holds history for twice the time, not for ever; then it gets ``Compacted``."""
    async with (
        open_sqlite(tmp_path / "s.db", SHORT, TrioClock()) as store,
        store.watch(b"", None) as stuck,
    ):
        start = (await store.status()).revision
        for number in range(200):
            await put(store, b"k", b"%d" % number)
        for _ in range(150):  # fifteen seconds: beyond the usual age, not beyond what is kept for it
            mock_clock.jump(0.1)
            await trio.testing.wait_all_tasks_blocked()
        assert (await store.status()).compact_revision <= start + 5

        async def compacted() -> bool:
            return (await store.status()).compact_revision > start + 5

        await eventually(compacted, mock_clock)
        assert (await anext(stuck)).revision == start
        assert [e.kv.value for e in (await anext(stuck)).events] == [b"0", b"1", b"2", b"3"]  # its buffer
        with pytest.raises(Compacted):
            await anext(stuck)


async def test_space_is_given_back(tmp_path: Path, mock_clock: trio.testing.MockClock) -> None:
    """When much history goes, the file shrinks, without anybody stopping the store."""
    settings = StoreSettings(history_age="5s", history_revisions=1)
    async with open_sqlite(tmp_path / "s.db", settings, TrioClock()) as store:
        for _ in range(20):
            await store.txn([], [Put(b"k/%d" % n, b"v" * 100_000) for n in range(4)])
    large = (tmp_path / "s.db").stat().st_size
    async with open_sqlite(tmp_path / "s.db", settings, TrioClock()) as store:

        async def shrunk() -> bool:
            return (await store.status()).size_bytes < large / 2

        await put(store, b"k/0", b"")
        newest = (await store.status()).revision
        await eventually(shrunk, mock_clock)
        assert (await store.status()).compact_revision == newest
    assert (tmp_path / "s.db").stat().st_size < large / 2  # and nothing comes back when it is closed


async def test_clock_that_is_set_back_does_not_hold_history(tmp_path: Path, mock_clock: trio.testing.MockClock) -> None:
    """Marks that lie in the future after the clock was set back count as of now."""

    class Ahead(TrioClock):
        def time_ns(self) -> int:
            return super().time_ns() + 10**6 * SECOND

    async with open_sqlite(tmp_path / "s.db", SHORT, Ahead()) as store:
        for _ in range(50):
            await put(store, b"k")
        for _ in range(60):
            mock_clock.jump(0.1)
            await trio.testing.wait_all_tasks_blocked()
    async with open_sqlite(tmp_path / "s.db", SHORT, TrioClock()) as store:

        async def compacted() -> bool:
            return (await store.status()).compact_revision > 1

        await eventually(compacted, mock_clock)
