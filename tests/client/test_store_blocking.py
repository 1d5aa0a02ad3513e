"""The store's client for plain threads: the same operations, shared by threads, over lost connections."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import trio

from platformd.client.store_blocking import BlockingStore, connect_store_blocking
from platformd.coordination.contract import Compacted, Compare, Delete, Event, FutureRevision, Put
from platformd.coordination.sqlite import open_sqlite
from platformd.core.clock import SystemClock
from platformd.core.errors import (
    Conflict,
    DeadlineExceeded,
    InvalidInput,
    NotFound,
    OutcomeUnknown,
    PlatformError,
    Unavailable,
    Unsupported,
)
from platformd.core.settings import StoreSettings
from tests.api.door.wire import Slow
from tests.client.store_proxy import Relay, SwitchedDoor, relayed
from tests.support.daemon import short_directory
from tests.support.store_door import served


async def with_door(tmp_path: Path, work: Callable[[Path], None]) -> None:
    """Run ``work`` in a thread, with the address of a door to an embedded store."""
    with short_directory() as directory:
        async with open_sqlite(tmp_path / "store.db", StoreSettings(), SystemClock()) as store:
            async with served(store, directory) as address:
                await trio.to_thread.run_sync(work, address)


async def test_every_operation(tmp_path: Path) -> None:
    """Each operation of the contract, once, with its answer or its error."""

    def work(address: Path) -> None:
        with connect_store_blocking(address, name="test") as store:
            first = store.txn((), (Put(b"a", b"1"), Put(b"b", b"2"))).revision
            assert not store.txn((Compare(b"a", "version", "==", 0),), (Delete(b"a"),)).succeeded
            kv = store.get(b"a")
            assert kv is not None
            assert (kv.value, kv.mod_revision) == (b"1", first)
            listing = store.list(b"", None, order="-key", limit=1)
            assert ([kv.key for kv in listing.items], listing.count, listing.more) == ([b"b"], 2, True)
            lease = store.leases.grant(50)
            assert store.leases.keep_alive(lease.id).ttl == 50
            last = store.txn((), (Put(b"c", b"", lease.id),)).revision
            assert store.leases.get(lease.id).keys == (b"c",)
            assert [each.id for each in store.leases.list()] == [lease.id]
            with pytest.raises(Conflict):
                store.leases.grant(50, lease_id=lease.id)
            assert store.leases.revoke(lease.id) == 1
            with pytest.raises(NotFound):
                store.leases.keep_alive(lease.id)
            store.compact(last)
            with pytest.raises(Compacted) as compacted:
                store.get(b"a", revision=first)
            assert compacted.value.compact_revision == last
            with pytest.raises(FutureRevision):
                store.get(b"a", revision=last + 100)
            assert store.status().keys == 2
            with pytest.raises(Unsupported):
                store.snapshot(tmp_path / "copy")
            with pytest.raises(InvalidInput):
                store.get("text")  # type: ignore[arg-type]
            store.ping()
        with pytest.raises(Unavailable, match="closed"):
            store.ping()

    await with_door(tmp_path, work)


async def test_threads_share_one_connection(tmp_path: Path) -> None:
    """Sixteen threads increment one counter; no increment is lost, no answer is another's."""
    connections: list[int] = []

    def work(address: Path) -> None:
        with connect_store_blocking(address) as store:
            together([lambda: increment(store) for _ in range(16)])
            kv = store.get(b"counter")
            assert kv is not None
            assert kv.value == b"%d" % (16 * 12)

    def increment(store: BlockingStore) -> None:
        for _ in range(12):
            while True:
                kv = store.get(b"counter")
                value, revision = (int(kv.value), kv.mod_revision) if kv else (0, 0)
                put = Put(b"counter", b"%d" % (value + 1))
                if store.txn((Compare(b"counter", "mod_revision", "==", revision),), (put,)).succeeded:
                    break

    with short_directory() as directory:
        async with open_sqlite(tmp_path / "store.db", StoreSettings(), SystemClock()) as store:
            async with served(store, directory) as address, relayed(address) as (relay, front):
                await trio.to_thread.run_sync(work, front)
                connections.append(relay.connections)
    assert connections == [1]


def together(parts: list[Callable[[], None]]) -> None:
    """Run all parts in threads of their own; the first error of any of them."""
    errors: list[BaseException] = []

    def run(part: Callable[[], None]) -> None:
        try:
            part()
        except BaseException as error:  # noqa: BLE001 - it is raised in the test's own thread
            errors.append(error)

    threads = [threading.Thread(target=run, args=(part,)) for part in parts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
        assert not thread.is_alive()
    if errors:
        raise errors[0]


async def test_watch_in_a_thread(tmp_path: Path) -> None:
    """A watch delivers what others write, waits no longer than it is told, and keeps its filter."""

    def work(address: Path) -> None:
        with connect_store_blocking(address) as store, store.watch(b"k", None, only="put", previous=True) as watch:
            begun = watch.next(5)
            assert begun is not None
            assert begun.events == ()
            assert watch.next(0.01) is None
            store.txn((), (Put(b"k", b"1"),))
            store.txn((), (Delete(b"k"),))
            last = store.txn((), (Put(b"k", b"2"),)).revision
            events: list[Event] = []
            for batch in watch:
                events += batch.events
                if batch.revision >= last:
                    break
            assert [(event.type, event.kv.value, event.previous) for event in events] == [
                ("put", b"1", None), ("put", b"2", None),
            ]  # fmt: skip
            with pytest.raises(FutureRevision), store.watch(b"k", None, start_revision=last + 100):
                pass

    await with_door(tmp_path, work)


async def test_slow_iteration_gets_everything(tmp_path: Path) -> None:
    """Far more than the window is written before a watch is read; it then has all of it, in order."""

    def work(address: Path) -> None:
        with connect_store_blocking(address) as store, store.watch(b"k", None) as watch:
            revisions = [store.txn((), (Put(b"k", bytes(20_000)),)).revision for _ in range(100)]
            seen: list[int] = []
            for batch in watch:
                seen += [event.kv.mod_revision for event in batch.events]
                if batch.revision >= revisions[-1]:
                    break
            assert seen == revisions

    await with_door(tmp_path, work)


async def test_lost_connections_are_made_again(tmp_path: Path) -> None:
    """Cut again and again: acknowledged writes are there, reads are answered, the watch has no gap."""
    acknowledged: set[bytes] = set()
    unknown: set[bytes] = set()
    seen: list[Event] = []

    def write(store: BlockingStore, number: int) -> None:
        for step in range(40):
            key = b"k/%d/%d" % (number, step)
            try:
                store.txn((), (Put(key, b"v"),))
                acknowledged.add(key)
            except OutcomeUnknown:
                unknown.add(key)
            store.get(key)

    def work(address: Path) -> None:
        with connect_store_blocking(address, chance=lambda: 0.0) as store, store.watch(b"k/", b"k0") as watch:
            together([lambda number=number: write(store, number) for number in range(4)])  # type: ignore[misc]
            last = store.list(b"k/", b"k0", count_only=True).revision
            for batch in watch:
                seen.extend(batch.events)
                if batch.revision >= last:
                    break

    async def cut(relay: Relay) -> None:
        while True:
            await trio.sleep(0.02)
            relay.cut()

    with short_directory() as directory:
        async with open_sqlite(tmp_path / "store.db", StoreSettings(), SystemClock()) as store:
            async with served(store, directory) as address, relayed(address) as (relay, front):
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(cut, relay)
                    await trio.to_thread.run_sync(work, front)
                    nursery.cancel_scope.cancel()
                there = await store.list(b"k/", b"k0", order="mod_revision")
                assert relay.connections > 4
    assert acknowledged <= {kv.key for kv in there.items} <= acknowledged | unknown
    assert [event.kv for event in seen] == list(there.items)


async def connect(address: Path, within: float) -> BlockingStore:
    """A connection that is made in a thread, since the door is served in this one."""
    path = str(address.with_suffix(".store"))
    return await trio.to_thread.run_sync(BlockingStore, path, "test", within, lambda: 0.0)


async def refusal(what: Callable[[], object]) -> type[PlatformError] | None:
    """How ``what`` is refused, in a thread; ``None`` if it is not."""

    def ask() -> type[PlatformError] | None:
        begun = time.monotonic()
        try:
            what()
        except PlatformError as error:
            assert time.monotonic() - begun < 10
            return type(error)
        return None

    return await trio.to_thread.run_sync(ask)


async def test_answers_have_a_deadline(tmp_path: Path, nursery: trio.Nursery) -> None:
    """A store that hangs, and a daemon that is gone: an error with a name after ``timeout``, true to what is known."""
    with short_directory() as directory:
        async with open_sqlite(tmp_path / "store.db", StoreSettings(), SystemClock()) as store:
            slow = Slow(store)
            door = SwitchedDoor(nursery, slow, directory)  # type: ignore[arg-type]
            blocking = await connect(await door.start(), 0.1)

            def put() -> object:
                return blocking.txn((), (Put(b"k", b"v"),))

            assert await refusal(put) is OutcomeUnknown
            slow.gate.set()
            assert await refusal(blocking.ping) is None
            await door.stop()
            assert await refusal(blocking.ping) is DeadlineExceeded
            assert await refusal(put) is DeadlineExceeded  # it was never sent
            await door.start()
            assert await refusal(blocking.ping) is None
            blocking.close()
            await door.stop()


async def test_close_ends_waiting_threads(tmp_path: Path) -> None:
    """A thread that waits for an answer is told when another one closes the connection."""
    with short_directory() as directory:
        async with open_sqlite(tmp_path / "store.db", StoreSettings(), SystemClock()) as store:
            slow = Slow(store)
            async with served(slow, directory) as address:  # type: ignore[arg-type]
                blocking = await connect(address, 20)
                told: list[object] = []

                async def wait() -> None:
                    told.append(await refusal(lambda: blocking.txn((), (Put(b"k", b"v"),))))

                async with trio.open_nursery() as nursery:
                    nursery.start_soon(wait)
                    await slow.wait_begun(1)
                    blocking.close()
                assert told == [Unavailable]
                slow.gate.set()


def test_no_trio_is_imported() -> None:
    """A program without trio pays nothing for it."""
    code = "import sys, platformd.client.store_blocking; sys.exit('trio' in sys.modules or 'asyncio' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
