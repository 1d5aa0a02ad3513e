"""A daemon that is killed and started again under a program that uses its store hard."""

from __future__ import annotations

import signal
from collections.abc import AsyncIterator, Callable

import pytest
import trio

from platformd.client.store import RemoteStore, connect_store
from platformd.coordination.contract import Compare, Event, Put
from platformd.core.errors import OutcomeUnknown
from tests.support.daemon import DaemonProcess, short_directory

TASKS = 12
PATIENCE = 60.0
"""Seconds after which a test that waits is broken: a daemon takes a while to start on a busy machine."""


@pytest.fixture
async def daemon() -> AsyncIterator[DaemonProcess]:
    with short_directory() as directory:
        process = DaemonProcess(directory)
        await trio.to_thread.run_sync(process.start)
        try:
            yield process
        finally:
            process.kill()


class Program:
    """Tasks that write keys of their own, and one that watches; what each was told."""

    def __init__(self, store: RemoteStore) -> None:
        self._store = store
        self.acknowledged: dict[bytes, int] = {}
        self.unknown: set[bytes] = set()
        self.seen: list[Event] = []
        self.watched = 0
        self._stop = False
        self._news = trio.lowlevel.ParkingLot()

    async def write(self, number: int) -> None:
        """Write new keys until it is to stop; each only if it is not there, so that none is written twice."""
        step = 0
        while not self._stop:
            key = b"p/%d/%06d" % (number, step)
            step += 1
            try:
                done = await self._store.txn((Compare(key, "version", "==", 0),), (Put(key, key),))
            except OutcomeUnknown:
                self.unknown.add(key)
            else:
                assert done.succeeded, key
                self.acknowledged[key] = done.revision
                self._news.unpark_all()

    async def watch(self, *, task_status: trio.TaskStatus[None]) -> None:
        """Watch all of them, for ever."""
        async with self._store.watch(b"p/", b"p0") as batches:
            task_status.started()
            async for batch in batches:
                assert batch.revision >= self.watched
                self.watched = batch.revision
                self.seen += batch.events
                self._news.unpark_all()

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait until it is so."""
        with trio.fail_after(PATIENCE):
            while not condition():
                await self._news.park()

    async def more(self, count: int) -> None:
        """Wait until so many more writes were acknowledged."""
        target = len(self.acknowledged) + count
        await self.until(lambda: len(self.acknowledged) >= target)

    def stop(self) -> None:
        """Have the writers end."""
        self._stop = True

    async def finish(self) -> None:
        """Wait until the watch has seen all; hold both against what is stored."""
        there = await self._store.list(b"p/", b"p0", order="mod_revision")
        await self.until(lambda: self.watched >= max(kv.mod_revision for kv in there.items))
        stored = {kv.key: kv.mod_revision for kv in there.items}
        assert self.acknowledged.items() <= stored.items()
        assert stored.keys() <= self.acknowledged.keys() | self.unknown
        assert [event.kv for event in self.seen] == list(there.items)


@pytest.mark.parametrize(("number", "lossless"), [(signal.SIGKILL, False), (signal.SIGTERM, True)])
async def test_restarts_under_load(daemon: DaemonProcess, number: signal.Signals, lossless: bool) -> None:
    """Twice in the middle of writes and a watch: no acknowledged write is lost, none is done twice, the watch has no
    gap and nothing twice, a lease lives on; after a clean stop no write is even of unknown outcome."""
    async with connect_store(daemon.socket, patience=PATIENCE) as store, trio.open_nursery() as nursery:
        program = Program(store)
        lease = await store.leases.grant(600)
        await nursery.start(program.watch)
        async with trio.open_nursery() as writers:
            for task in range(TASKS):
                writers.start_soon(program.write, task)
            for _ in range(2):
                await program.more(200)
                await trio.to_thread.run_sync(daemon.stop, number)
                await trio.to_thread.run_sync(daemon.start)
            await program.more(200)
            await store.leases.keep_alive(lease.id)
            program.stop()
        await program.finish()
        assert bool(program.unknown) is not lossless
        nursery.cancel_scope.cancel()


async def test_users_keys_are_the_same_over_both_sockets(daemon: DaemonProcess) -> None:
    """What is put over REST is read over the store's socket, whose address the status names, and the other way round;
    what the daemon keeps for itself is not there."""

    def put() -> str:
        with daemon.client as client:
            client.request("PUT", "/v1/kv/over/rest", body=b"1", content_type="application/octet-stream")
            return str(client.status()["store_socket"])

    def get() -> bytes:
        with daemon.client as client:
            return client.request("GET", "/v1/kv/over/socket", headers={"accept": "application/octet-stream"}).body

    address = await trio.to_thread.run_sync(put)
    async with connect_store(address.removeprefix("unix:")) as store:
        await store.txn((), (Put(b"over/socket", b"2"),))
        assert [(kv.key, kv.value) for kv in (await store.list(b"", None)).items] == [
            (b"over/rest", b"1"), (b"over/socket", b"2"),
        ]  # fmt: skip
        assert (await store.status()).keys > 2  # the resources, which are the daemon's
    assert await trio.to_thread.run_sync(get) == b"2"
