"""The store's client for trio: many tasks, lost connections, cancellation, long lists."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio
import trio.testing

from platformd.client.store import connect_store
from platformd.coordination.contract import Compare, Event, Put, TxnResult
from platformd.coordination.sqlite import SqliteStore, open_sqlite
from platformd.core.clock import SystemClock
from platformd.core.errors import InvalidInput, OutcomeUnknown, TooLarge, Unavailable, Unsupported
from platformd.core.settings import StoreSettings
from tests.api.door.wire import PATIENCE, Slow
from tests.client.store_proxy import SwitchedDoor, relayed
from tests.support.daemon import short_directory
from tests.support.store_door import served


@pytest.fixture
async def embedded(tmp_path: Path) -> AsyncIterator[SqliteStore]:
    async with open_sqlite(tmp_path / "store.db", StoreSettings(), SystemClock()) as store:
        yield store


@pytest.fixture
async def address(embedded: SqliteStore) -> AsyncIterator[Path]:
    with short_directory() as directory:
        async with served(embedded, directory) as path:
            yield path


async def test_many_tasks_share_one_connection(embedded: SqliteStore, address: Path) -> None:
    """Each task's answers are its own, and there is one connection for all."""
    async with relayed(address) as (relay, front), connect_store(front, name="test") as store:

        async def work(number: int) -> None:
            for step in range(20):
                value = b"%d/%d" % (number, step)
                done = await store.txn((), (Put(b"k%d" % number, value),))
                kv = await store.get(b"k%d" % number)
                assert kv is not None
                assert (kv.value, kv.mod_revision, kv.version) == (value, done.revision, step + 1)

        async with trio.open_nursery() as nursery:
            for number in range(64):
                nursery.start_soon(work, number)
        assert relay.connections == 1
        assert (await embedded.status()).keys == 64


async def test_nobody_there_is_said_at_once(tmp_path: Path) -> None:
    """No socket, and a socket of somebody else, are errors on entry that say what to do."""
    with pytest.raises(Unavailable, match="platformd run"):
        async with connect_store(tmp_path / "no.sock"):
            pass
    with short_directory() as directory:
        sock = trio.socket.socket(trio.socket.AF_UNIX)
        await sock.bind(str(directory / "s.store"))
        sock.listen(1)

        async def stranger(stream: trio.SocketStream) -> None:
            await stream.send_all(b"\x00\x00\x00\x03\x92\x0e\x01")

        async with trio.open_nursery() as nursery:
            await nursery.start(trio.serve_listeners, stranger, [trio.SocketListener(sock)])
            with pytest.raises(InvalidInput, match="not a store's door"):
                async with connect_store(directory / "s.sock"):
                    pass
            nursery.cancel_scope.cancel()


async def test_exception_in_the_block_comes_out_as_it_is(address: Path) -> None:
    """Not wrapped in a group; and the connection refuses afterwards."""
    with pytest.raises(KeyError, match="mine"):
        async with connect_store(address) as store:
            raise KeyError("mine")
    with pytest.raises(Unavailable, match="closed"):
        await store.get(b"k")
    with pytest.raises(Unavailable, match="closed"):
        async with store.watch(b"k", None):
            pass


async def test_lost_answer_of_a_change_is_told(embedded: SqliteStore, address: Path) -> None:
    """A write whose answer is lost raises ``OutcomeUnknown``; a read at the same time is answered in the end."""
    async with relayed(address) as (relay, front), connect_store(front) as store:
        await store.txn((), (Put(b"k", b"before"),))
        relay.hold_answers = True
        outcomes: list[object] = []

        async def write() -> None:
            with pytest.raises(OutcomeUnknown, match="the answer was lost"):
                await store.txn((), (Put(b"k", b"after"),))
            outcomes.append("unknown")

        async def read() -> None:
            outcomes.append(await store.get(b"other"))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(write)
            nursery.start_soon(read)
            await trio.testing.wait_all_tasks_blocked(0.02)
            relay.hold_answers = False
            relay.cut()
        assert sorted(map(str, outcomes)) == ["None", "unknown"]
        kv = await store.get(b"k")
        assert kv is not None
        assert kv.value == b"after"  # here it was done


async def test_stopped_and_started_door_is_not_noticed(embedded: SqliteStore, nursery: trio.Nursery) -> None:
    """Across clean stops no write has an unknown outcome, and watches and leases go on."""
    with short_directory() as directory:
        door = SwitchedDoor(nursery, embedded, directory)
        async with connect_store(await door.start()) as store:
            lease = await store.leases.grant(60)
            written: list[int] = []

            async def write(number: int) -> None:
                for step in range(30):
                    done = await store.txn((), (Put(b"n/%d/%d" % (number, step), b"", lease.id),))
                    written.append(done.revision)
                    if number == 0 and step % 10 == 9:
                        await door.stop()
                        await door.start()

            async with store.watch(b"n/", b"n0") as watch:
                async with trio.open_nursery() as writers:
                    for number in range(8):
                        writers.start_soon(write, number)
                seen: list[Event] = []
                with trio.fail_after(PATIENCE):
                    while len(seen) < len(written):
                        seen += (await anext(watch)).events
            assert [event.kv.mod_revision for event in seen] == sorted(written)
            assert (await store.leases.keep_alive(lease.id)).id == lease.id
        await door.stop()


async def test_connections_lost_at_any_byte(embedded: SqliteStore, address: Path) -> None:
    """Whatever is cut off wherever: what was acknowledged is there, what was refused is not, the watch has no gap."""
    chance = random.Random(3)
    acknowledged: dict[bytes, int] = {}
    unknown: set[bytes] = set()
    async with relayed(address) as (relay, front), connect_store(front, chance=lambda: 0.0) as store:
        relay.cut_after = lambda: chance.randrange(1, 12_000)
        async with store.watch(b"k/", b"k0") as watch:
            start = (await anext(watch)).revision
            relay.cut()

            async def write(number: int) -> None:
                for step in range(60):
                    key = b"k/%d/%d" % (number, step)
                    try:
                        done = await store.txn((Compare(key, "version", "==", 0),), (Put(key, key * 20),))
                    except OutcomeUnknown:
                        unknown.add(key)
                    else:
                        assert done.succeeded
                        acknowledged[key] = done.revision

            async with trio.open_nursery() as nursery:
                for number in range(8):
                    nursery.start_soon(write, number)
            last = (await embedded.status()).revision
            there = await embedded.list(b"k/", b"k0", order="mod_revision")
            seen: list[Event] = []
            revision = start
            with trio.fail_after(PATIENCE):
                while revision < last:
                    batch = await anext(watch)
                    revision = batch.revision
                    seen += batch.events
    stored = {kv.key: kv.mod_revision for kv in there.items}
    assert relay.connections > 10
    assert len(acknowledged) + len(unknown) == 8 * 60
    assert unknown
    assert acknowledged.items() <= stored.items()
    assert stored.keys() <= acknowledged.keys() | unknown
    assert [event.kv for event in seen] == list(there.items)


async def test_patience_has_an_end(embedded: SqliteStore, nursery: trio.Nursery) -> None:
    """Without a daemon calls wait for so long and no longer, and nothing was done; a later one works again."""
    with short_directory() as directory:
        door = SwitchedDoor(nursery, embedded, directory)
        async with connect_store(await door.start(), patience=0.05, chance=lambda: 0.0) as store:
            await store.ping()
            await door.stop()
            for ask in (store.get(b"k"), store.txn((), (Put(b"k", b""),))):
                with trio.fail_after(PATIENCE), pytest.raises(Unavailable, match=r"no connection for 0\.05 s"):
                    await ask
            with trio.fail_after(PATIENCE), pytest.raises(Unavailable, match="no connection"):
                async with store.watch(b"k", None):
                    pass
            await door.start()
            assert await store.get(b"k") is None
        await door.stop()


async def test_cancelled_caller_harms_nobody(embedded: SqliteStore) -> None:
    """A call that is given up leaves its neighbours alone, and its late answer is not taken for another's."""
    slow = Slow(embedded)
    with short_directory() as directory:
        async with served(slow, directory) as path, connect_store(path) as store:  # type: ignore[arg-type]
            results: list[TxnResult] = []

            async def change() -> None:
                results.append(await store.txn((), (Put(b"k", b"on its way"),)))

            async with trio.open_nursery() as nursery:
                nursery.start_soon(change)
                await slow.wait_begun(1)
                nursery.cancel_scope.cancel()
                with trio.CancelScope(shield=True):
                    assert await store.get(b"k") is None
                    slow.gate.set()
            assert [result.succeeded for result in results] == [True]  # it was sent, so the cancellation waited
            assert (await store.txn((), (Put(b"l", b"v"),))).succeeded
            assert await store.get(b"k") is not None


async def test_a_cancelled_change_without_an_answer_is_unknown(
    embedded: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A daemon that hangs does not hold a cancelled caller for ever, and nobody claims that nothing was done."""
    monkeypatch.setattr("platformd.client.store.CANCEL_SECONDS", 0.05)
    slow = Slow(embedded)
    with short_directory() as directory:
        async with served(slow, directory) as path, connect_store(path) as store:  # type: ignore[arg-type]
            with pytest.RaisesGroup(OutcomeUnknown), trio.fail_after(10):
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(store.txn, (), (Put(b"k", b""),))
                    await slow.wait_begun(1)
                    nursery.cancel_scope.cancel()
            slow.gate.set()
            assert (await store.txn((), (Put(b"l", b"v"),))).succeeded


async def test_long_list_comes_in_parts_of_one_revision(embedded: SqliteStore, address: Path) -> None:
    """Ten megabytes are listed as one; writes meanwhile are not in it; limits and counts are the whole's."""
    count, value = 2500, bytes(4096)
    for start in range(0, count, 100):
        await embedded.txn((), [Put(b"k%05d" % i, value) for i in range(start, start + 100)])
    revision = (await embedded.status()).revision
    async with connect_store(address) as store:
        async with trio.open_nursery() as nursery:
            stop = trio.Event()

            async def disturb() -> None:
                number = 0
                while not stop.is_set():
                    await store.txn((), (Put(b"k%05d+" % number, b""),))
                    number += 25

            nursery.start_soon(disturb)
            listing = await store.list(b"", None)
            stop.set()
        assert listing.revision >= revision
        plain = [kv for kv in listing.items if not kv.key.endswith(b"+")]
        assert [kv.key for kv in plain] == [b"k%05d" % i for i in range(count)]
        assert all(kv.mod_revision <= listing.revision for kv in listing.items)
        assert (listing.count, listing.more) == (len(listing.items), False)
        past = await store.list(b"k", None, revision=revision, limit=2000)
        assert (len(past.items), past.more, past.count, past.revision) == (2000, True, count, revision)
        exact = await store.list(b"k", None, revision=revision, limit=count)
        assert (len(exact.items), exact.more) == (count, False)
        assert (await store.list(b"k", None, revision=revision, count_only=True)).count == count


async def test_ordered_list_has_a_limit_of_its_own(
    embedded: SqliteStore, address: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that is not by key cannot come in parts: over its limit it is refused with what to do, and works with it."""
    monkeypatch.setattr("platformd.api.door.answers.MAX_LISTING", 1000)
    for number in range(4):
        await embedded.txn((), (Put(b"k%d" % number, bytes(400)),))
    async with connect_store(address) as store:
        with pytest.raises(TooLarge, match="give a limit"):
            await store.list(b"", None, order="-mod_revision")
        newest = await store.list(b"", None, order="-mod_revision", limit=1)
        assert [kv.key for kv in newest.items] == [b"k3"]


async def test_what_does_not_travel_is_refused(address: Path) -> None:
    """A snapshot, a key that is no key, a number that is none: errors with names, and the connection goes on."""
    async with connect_store(address) as store:
        with pytest.raises(Unsupported, match="platformd backup"):
            await store.snapshot(Path("/tmp/x"))
        with pytest.raises(InvalidInput):
            await store.get("text")  # type: ignore[arg-type]
        with pytest.raises(InvalidInput, match="cannot be sent"):
            await store.get(b"k", revision=2**70)
        with pytest.raises(InvalidInput):
            async with store.watch(b"k", None, only="nothing"):  # type: ignore[arg-type]
                pass
        await store.ping()


async def test_left_watch_is_over(embedded: SqliteStore, address: Path) -> None:
    """After its block a watch is closed on both sides, also when it was left by cancellation or never entered."""
    async with connect_store(address) as store:
        async with store.watch(b"k", None) as watch:
            await anext(watch)
        with pytest.raises(trio.ClosedResourceError):
            await anext(watch)
        with trio.CancelScope() as scope:
            scope.cancel()
            async with store.watch(b"k", None):
                raise AssertionError("entered in spite of the cancellation")
        await trio.testing.wait_all_tasks_blocked(0.02)
        assert (await embedded.status()).watchers == 0
