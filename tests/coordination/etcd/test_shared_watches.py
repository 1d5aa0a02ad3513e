"""Watches that many share, at real members."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from platformd.coordination.contract import Put
from platformd.coordination.etcd import EtcdSettings, EtcdStore, messages, open_etcd, reader
from platformd.core.errors import PlatformError, Unavailable
from platformd.core.settings import StoreSettings
from tests.conformance.store_engines import events_until, put
from tests.coordination.etcd.test_cluster import asked, quick, until
from tests.support.etcd import Cluster


@asynccontextmanager
async def followers(store: EtcdStore, count: int) -> AsyncIterator[list[list[int]]]:
    """Watchers of one prefix, each with the revisions that it was told."""
    told: list[list[int]] = [[] for _ in range(count)]

    async def follow(seen: list[int], *, task_status: trio.TaskStatus[None]) -> None:
        async with store.watch(b"k/", b"k0") as watching:
            task_status.started()
            async for batch in watching:
                seen += [one.kv.mod_revision for one in batch.events]

    async with trio.open_nursery() as nursery:
        for seen in told:
            await nursery.start(follow, seen)
        yield told
        nursery.cancel_scope.cancel()


def exchanges(store: EtcdStore) -> int:
    """How many exchanges are open on the store's connection."""
    connection = store._channel._connection
    return len(connection._streams) if connection is not None else 0


async def test_many_watches_are_one_exchange(store: EtcdStore) -> None:
    """A hundred watches of a prefix and fifty of keys are one exchange of fifty-one watches, and all are told."""
    async with followers(store, 100) as told, trio.open_nursery() as nursery:

        async def single(number: int, *, task_status: trio.TaskStatus[None]) -> None:
            key = b"k/%d" % number
            async with store.watch(key, key + b"\x00") as watching:
                task_status.started()
                await events_until(watching, 1 << 62)

        for number in range(50):
            await nursery.start(single, number)
        assert exchanges(store) == 1
        assert len(store._hub.feeds._ids) == 51
        written = [await put(store, b"k/%d" % number) for number in range(50)]
        await until(lambda: all(seen == written for seen in told))
        nursery.cancel_scope.cancel()
    await until(lambda: exchanges(store) == 0)


async def test_all_watchers_move_to_another_member(cluster: Cluster) -> None:
    """When their member is killed under load, a hundred watchers go on elsewhere, on one exchange, nothing missed."""
    async with open_etcd(quick(cluster), StoreSettings()) as store, followers(store, 100) as told:
        written: list[int] = []

        async def write(count: int) -> None:
            while len(written) < count:
                try:
                    written.append((await store.txn([], [Put(b"k/%d" % len(written), b"")])).revision)
                except PlatformError:
                    written.append(0)  # it may be there or not

        await write(20)
        asked(store, cluster).kill()
        await write(60)
        known = set(written) - {0}
        await until(lambda: all(known <= set(seen) for seen in told))
        assert all(seen == sorted(set(seen)) for seen in told)
        assert exchanges(store) == 1


async def test_list_and_watch_of_many_share_a_watch(store: EtcdStore) -> None:
    """Watches from the revision of a list, on a busy store, end up on one watch too, and miss nothing."""
    seen: list[list[int]] = []
    last = 0

    async def write() -> None:
        nonlocal last
        for number in range(200):
            await put(store, b"k/%d" % (number % 7), b"%d" % number)
        last = await put(store, b"k/last", b"")

    async def follow() -> None:
        listed = await store.list(b"k/", b"k0")
        mine = sorted(kv.mod_revision for kv in listed.items)
        seen.append(mine)
        keys = {kv.key for kv in listed.items}
        async with store.watch(b"k/", b"k0", start_revision=listed.revision + 1) as watching:
            position = listed.revision
            while b"k/last" not in keys:
                batch = await anext(watching)
                assert batch.revision >= position
                mine += [one.kv.mod_revision for one in batch.events]
                keys |= {one.kv.key for one in batch.events}
                position = batch.revision
            await barrier(watching)

    together, there = trio.Event(), 0

    async def barrier(watching: Any) -> None:
        nonlocal there
        there += 1
        if there == 20:
            feeds = {watcher._feed for watcher in store._hub._all}
            assert len(feeds - {None}) == 1
            together.set()
        await together.wait()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(write)
        for _ in range(20):
            nursery.start_soon(follow)
            await trio.sleep(0.001)
    assert all(mine == sorted(mine) and mine[-1] == last for mine in seen)


async def test_a_closed_store_tells_its_watchers(settings: EtcdSettings) -> None:
    """Who waits on a feed when the store is closed is told so."""
    failed: list[str] = []

    async def follow(store: EtcdStore, *, task_status: trio.TaskStatus[None]) -> None:
        with pytest.raises(Unavailable) as caught:  # noqa: PT012 - the end of the store ends the block
            async with store.watch(b"k", None) as watching:
                task_status.started()
                await events_until(watching, 1 << 62)
        failed.append(caught.value.message)

    async with trio.open_nursery() as nursery, open_etcd(settings, StoreSettings()) as store:
        for _ in range(3):
            await nursery.start(follow, store)
    assert failed == ["the store is stopping"] * 3


async def test_a_herd_of_watches_asks_once_where_it_is(store: EtcdStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Thousands that begin to watch at the same moment share the reads of the revision; each begins after its call."""
    asked_for = 0
    call = store._channel.call

    async def counted(path: str, message: bytes, *, change: bool = False) -> bytes:
        nonlocal asked_for
        asked_for += path == messages.RANGE
        return await call(path, message, change=change)

    monkeypatch.setattr(store._channel, "call", counted)
    begun: list[int] = []
    async with trio.open_nursery() as nursery:

        async def follow(number: int) -> None:
            key = b"k/%d" % number
            async with store.watch(key, key + b"\x00") as watching:
                begun.append((await anext(watching)).revision)
                await trio.sleep_forever()

        for number in range(3000):
            nursery.start_soon(follow, number)
        await until(lambda: len(begun) == 3000)
        assert asked_for < 10
        assert exchanges(store) == 1
        nursery.cancel_scope.cancel()


async def test_who_asks_shares_only_a_question_that_was_put_later() -> None:
    """Whoever comes while a question is under way waits for the next one, all together; an error is everybody's."""
    answers: list[trio.Event] = []
    failing = False

    async def put_it() -> int:
        number = len(answers)
        answers.append(trio.Event())
        await answers[number].wait()
        if failing:
            raise Unavailable("gone")
        return number

    shared = reader._Shared(put_it)
    got: list[tuple[str, int | str]] = []

    async def ask(name: str) -> None:
        try:
            got.append((name, await shared.ask()))
        except Unavailable as error:
            got.append((name, error.message))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask, "first")
        await wait_all_tasks_blocked()
        for name in ("second", "third"):
            nursery.start_soon(ask, name)
        await wait_all_tasks_blocked()
        answers[0].set()
        await wait_all_tasks_blocked()
        assert got == [("first", 0)]
        failing = True
        answers[1].set()
    assert sorted(got[1:]) == [("second", "gone"), ("third", "gone")]
    assert len(answers) == 2


async def test_a_question_whose_asker_is_cancelled_is_put_again() -> None:
    """The one who put it gives up; the others have their answer."""
    times = 0

    async def put_it() -> int:
        nonlocal times
        times += 1
        if times == 1:
            await trio.sleep_forever()
        return times

    shared = reader._Shared(put_it)
    got: list[int] = []

    async def ask() -> None:
        got.append(await shared.ask())

    async with trio.open_nursery() as nursery:
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as impatient:
                impatient.start_soon(ask)
                await wait_all_tasks_blocked()
                nursery.start_soon(ask)
                await wait_all_tasks_blocked()
                scope.cancel()
    assert got == [2]
