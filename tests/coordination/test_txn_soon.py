"""Transactions without a task that waits for each: the same promises as ``txn``."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import outcome
import pytest
import trio

from platformd.coordination.contract import Put, TxnResult
from platformd.coordination.sqlite import SqliteStore, open_sqlite
from platformd.core.clock import SystemClock
from platformd.core.errors import NotFound, TooLarge, Unavailable
from platformd.core.settings import StoreSettings


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqliteStore]:
    async with open_sqlite(tmp_path / "store.db", StoreSettings(max_pending=4), SystemClock()) as opened:
        yield opened


class Told:
    """What was called back, in order."""

    def __init__(self) -> None:
        self.results: list[Any] = []
        self._news = trio.Event()

    def __call__(self, result: outcome.Value[TxnResult] | outcome.Error) -> None:
        self.results.append(result)
        self._news.set()

    async def count(self, wanted: int) -> None:
        with trio.fail_after(20):
            while len(self.results) < wanted:
                self._news = trio.Event()
                await self._news.wait()


async def test_result_is_told_when_it_is_durable(store: SqliteStore) -> None:
    """What is called back is what ``txn`` would have returned, and a read sees it."""
    told = Told()
    assert store.txn_soon((), (Put(b"k", b"v"),), (), told)
    await told.count(1)
    result = told.results[0].unwrap()
    kv = await store.get(b"k")
    assert kv is not None
    assert (kv.value, kv.mod_revision) == (b"v", result.revision)


async def test_refusals_come_at_once_or_are_told(store: SqliteStore) -> None:
    """What is wrong by itself is raised; what the state refuses is called back, for this one alone."""
    told = Told()
    with pytest.raises(TooLarge):
        store.txn_soon((), (Put(b"k" * 5000, b""),), (), told)
    assert store.txn_soon((), (Put(b"a", b"", 77),), (), told)
    assert store.txn_soon((), (Put(b"b", b""),), (), told)
    await told.count(2)
    with pytest.raises(NotFound):
        told.results[0].unwrap()
    assert told.results[1].unwrap().succeeded


async def test_no_room_is_said_and_comes_back(store: SqliteStore) -> None:
    """Over ``max_pending`` it is not taken, and those that wait in line go first; answered ones make room again."""
    told = Told()
    assert [store.txn_soon((), (Put(b"k%d" % i, b""),), (), told) for i in range(6)] == [True] * 4 + [False] * 2
    await told.count(4)
    assert store.txn_soon((), (Put(b"again", b""),), (), told)
    await told.count(5)
    assert await store.get(b"k4") is None


async def test_stopping_store_refuses(tmp_path: Path) -> None:
    """What was taken before the stop is done and told; afterwards it is refused."""
    told = Told()
    async with open_sqlite(tmp_path / "store.db", StoreSettings(), SystemClock()) as store:
        assert store.txn_soon((), (Put(b"k", b""),), (), told)
    await told.count(1)
    assert told.results[0].unwrap().succeeded
    with pytest.raises(Unavailable):
        store.txn_soon((), (Put(b"k", b""),), (), told)
