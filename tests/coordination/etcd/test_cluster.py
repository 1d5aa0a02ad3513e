"""Three real members, of which one is killed, held, or left alone: no acknowledged write lost, no gap, no duplicate."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
import trio

from platformd.coordination.contract import Compare, Put, Store
from platformd.coordination.etcd import EtcdSettings, EtcdStore, open_etcd
from platformd.core.errors import DeadlineExceeded, OutcomeUnknown, Unavailable
from platformd.core.settings import StoreSettings
from tests.conformance.store_engines import events_until, put
from tests.support.etcd import Cluster, Member

LIMITS = StoreSettings()


def quick(cluster: Cluster, **more: str) -> EtcdSettings:
    """Settings that notice a failure soon."""
    chosen = {
        "request_timeout": "3s",
        "keepalive_interval": "200ms",
        "keepalive_timeout": "300ms",
        "connect_timeout": "500ms",
    } | more
    return EtcdSettings(endpoints=cluster.endpoints, **chosen)  # type: ignore[arg-type]


def asked(store: EtcdStore, cluster: Cluster) -> Member:
    """The member that the store asks now."""
    port = store._channel._member.endpoint.port
    return next(member for member in cluster.members if member.client_port == port)


async def until(condition: Callable[[], bool]) -> None:
    """Look again and again, for members do what they do in their own time."""
    with trio.fail_after(20):
        while not condition():  # noqa: ASYNC110
            await trio.sleep(0.01)


class Writers:
    """Tasks that each put their own key again and again, and what they know of it."""

    def __init__(self, store: Store, tasks: int) -> None:
        self.store = store
        self.tasks = tasks
        self.acknowledged: dict[tuple[bytes, bytes], int] = {}
        """Revision by key and value."""
        self.unknown: set[tuple[bytes, bytes]] = set()
        self.refused = 0
        self.stop = False
        self.stopped = trio.Event()

    async def run(self) -> None:
        async with trio.open_nursery() as nursery:
            for task in range(self.tasks):
                nursery.start_soon(self.write, b"k/%d" % task)
        self.stopped.set()

    async def write(self, key: bytes) -> None:
        number = 0
        while not self.stop:
            number += 1
            value = b"%d" % number
            try:
                self.acknowledged[key, value] = await put(self.store, key, value)
            except OutcomeUnknown:
                self.unknown.add((key, value))
            except Unavailable:
                self.refused += 1

    async def go_on_for(self, count: int) -> None:
        """Until so many more are acknowledged."""
        target = len(self.acknowledged) + count
        await until(lambda: len(self.acknowledged) >= target)


async def follow(store: Store, seen: list[tuple[int, bytes, bytes]], *, task_status: trio.TaskStatus[None]) -> None:
    """Gather what a watch shows."""
    async with store.watch(b"k/", b"k0") as watching:
        position = (await anext(watching)).revision
        task_status.started()
        async for batch in watching:
            for event in batch.events:
                assert position < event.kv.mod_revision <= batch.revision
                seen.append((event.kv.mod_revision, event.kv.key, event.kv.value))
            assert batch.revision >= position
            position = batch.revision


@pytest.mark.parametrize("fault", ["kill", "stop"])
async def test_member_fails_under_load(cluster: Cluster, fault: str) -> None:
    """Writers and a watch go on at another member; what was acknowledged is there, and the watch shows all, once."""
    async with open_etcd(quick(cluster), LIMITS) as store, trio.open_nursery() as nursery:
        writers = Writers(store, 8)
        seen: list[tuple[int, bytes, bytes]] = []
        await nursery.start(follow, store, seen)
        nursery.start_soon(writers.run)
        await writers.go_on_for(200)
        failed = asked(store, cluster)
        getattr(failed, fault)()
        await writers.go_on_for(200)
        assert asked(store, cluster) is not failed
        writers.stop = True
        await writers.stopped.wait()
        last = max(writers.acknowledged.values())
        await until(lambda: bool(seen) and seen[-1][0] >= last)
        nursery.cancel_scope.cancel()
    assert all(first[0] < second[0] for first, second in itertools.pairwise(seen)), "twice, or out of order"
    shown = {(key, value): revision for revision, key, value in seen}
    for written, revision in writers.acknowledged.items():
        assert shown[written] == revision
    assert set(shown) <= set(writers.acknowledged) | writers.unknown
    assert len(writers.unknown) <= 8 * 2, "more is unknown than was on its way"


async def test_reads_do_not_notice_a_held_member(cluster: Cluster) -> None:
    """While a member is held, reads that were sent to it are answered by another one, within the time for a request."""
    async with open_etcd(quick(cluster), LIMITS) as store:
        await put(store, b"k", b"v")
        asked(store, cluster).stop()
        async with trio.open_nursery() as nursery:
            for _ in range(20):
                nursery.start_soon(store.get, b"k")
        assert (await store.list(b"", None)).items[0].value == b"v"


async def test_idle_watch_leaves_a_held_member(cluster: Cluster) -> None:
    """A watch that only waits notices that its member is held, and is told by another one what happens."""
    async with open_etcd(quick(cluster), LIMITS) as store, open_etcd(quick(cluster), LIMITS) as writer:
        async with store.watch(b"k", None) as watching:
            await anext(watching)
            held = asked(store, cluster)
            held.stop()
            with trio.fail_after(20):
                revision = await _put_until_done(writer)
                assert (await events_until(watching, revision))[-1].kv.mod_revision == revision
            held.go_on()


async def _put_until_done(store: Store) -> int:
    while True:
        try:
            return (await store.txn([Compare(b"k", "version", "==", 0)], [Put(b"k", b"")])).revision
        except (OutcomeUnknown, Unavailable):
            await trio.sleep(0.01)


async def test_cluster_without_a_majority(cluster: Cluster) -> None:
    """With one member of three left, writes are refused or unknown, reads say so, and all goes on when it is back."""
    async with open_etcd(quick(cluster, request_timeout="1s"), LIMITS) as store:
        await put(store, b"k", b"1")
        left = asked(store, cluster)
        others = [member for member in cluster.members if member is not left]
        for member in others:
            member.stop()
        with pytest.raises((OutcomeUnknown, Unavailable)):
            await put(store, b"k", b"2")
        with pytest.raises((DeadlineExceeded, Unavailable)):
            await store.get(b"k")
        with pytest.raises(Unavailable) as refused:  # by now nobody sees a leader
            await put(store, b"k", b"3")
        assert "no leader" in str(refused.value)
        for member in others:
            member.go_on()
        with trio.fail_after(20):
            while True:
                try:
                    await put(store, b"k", b"4")
                    break
                except (OutcomeUnknown, Unavailable):
                    await trio.sleep(0.05)
        kv = await store.get(b"k")
        assert kv is not None
        assert kv.value == b"4"
