"""Copying a keyspace into another store, of the same engine and into a real etcd."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from platformd.coordination.contract import Delete, Put, Store
from platformd.coordination.migrate import migrate, open_offline
from platformd.coordination.sqlite import open_sqlite
from platformd.core.clock import SystemClock
from platformd.core.errors import Conflict, Corrupted, NotFound
from platformd.core.settings import StoreSettings
from platformd.core.statedir import hold_state_dir
from tests.conformance.store_engines import ENGINES, put

SETTINGS = StoreSettings()


@pytest.fixture
async def source(tmp_path: Path) -> AsyncIterator[Store]:
    """A store of 1,201 keys, of any bytes, a past and three leases."""
    async with open_sqlite(tmp_path / "source.db", SETTINGS, SystemClock()) as store:
        for start in range(0, 1200, 100):
            await store.txn([], [Put(b"k/%05d" % n, b"%d" % n * (n % 7)) for n in range(start, start + 100)])
        await store.txn([], [Delete(b"k/00007"), Put(b"\x00\xff", bytes(range(256)))])
        await put(store, b"k/00008", b"v" * 300_000)
        for lease_id in (111, 222, 333):
            await store.leases.grant(60, lease_id=lease_id)
        await store.txn([], [Put(b"bound/1", b"1", 111), Put(b"bound/2", b"2", 222)])
        yield store


@pytest.fixture(params=["sqlite", "etcd"])
async def target(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Store]:
    """Another store, with nothing in it."""
    (tmp_path / "target").mkdir()
    async with ENGINES[request.param](tmp_path / "target").open() as store:
        yield store
        for lease in await store.leases.list():  # those of a cluster would meet the next test
            if lease.id < 1000:
                await store.leases.revoke(lease.id)


def nobody(_done: int, _all: int) -> None:
    """Nobody wants to know how far it is."""


async def test_everything_that_can_move_moves(source: Store, target: Store) -> None:
    """Keys, values, leases and what is bound to them are there; how far it is was told up to the end."""
    seen: list[tuple[int, int]] = []
    await put(target, b"x")
    await target.txn([], [Delete(b"x")])
    done = await migrate(source, target, progress=lambda *numbers: seen.append(numbers))
    here, there = await source.list(b"", None), await target.list(b"", None)
    assert [(kv.key, kv.value, kv.lease) for kv in there.items] == [(kv.key, kv.value, kv.lease) for kv in here.items]
    assert (done.keys, done.leases, done.renamed_leases) == (here.count, 3, {})
    assert (done.source_revision, done.dry_run) == (here.revision, False)
    assert done.target_revision >= there.revision
    assert seen[-1] == (here.count, here.count)
    assert (await target.leases.get(222)).keys == (b"bound/2",)
    assert (await target.leases.get(333)).ttl == 60


async def test_taken_lease_id_is_renamed(source: Store, target: Store) -> None:
    """A lease whose id is taken there gets another one, its keys follow, and it is said."""
    await target.leases.grant(500, lease_id=111)
    done = await migrate(source, target, progress=nobody)
    (new,) = done.renamed_leases.values()
    assert list(done.renamed_leases) == [111]
    kv = await target.get(b"bound/1")
    assert kv is not None
    assert kv.lease == new
    assert (await target.leases.get(111)).keys == ()
    await target.leases.revoke(new)


async def test_dry_run_writes_nothing(source: Store, target: Store) -> None:
    """It reads all that would be copied, and leaves the other store as it is."""
    before = {lease.id for lease in await target.leases.list()}
    done = await migrate(source, target, dry_run=True, progress=nobody)
    assert (done.dry_run, done.keys, done.leases) == (True, (await source.list(b"", None)).count, 3)
    assert (await target.list(b"", None, count_only=True)).count == 0
    assert {lease.id for lease in await target.leases.list()} == before


async def test_other_store_must_be_empty(source: Store, target: Store) -> None:
    """What somebody has there is neither mixed with nor overwritten."""
    await put(target, b"k/00001", b"theirs")
    with pytest.raises(Conflict, match="1 keys already"):
        await migrate(source, target, progress=nobody)
    assert [kv.value for kv in (await target.list(b"", None)).items] == [b"theirs"]


async def test_copy_that_was_disturbed_is_told(source: Store, target: Store) -> None:
    """A copy that is not what was copied is not called done."""

    class Disturbed:
        """The target, but one batch of the copy puts another value."""

        def __getattr__(self, name: str) -> object:
            return getattr(target, name)

        async def txn(self, compares: list[object], then: list[Put]) -> object:
            wrong = [Put(one.key, b"other" if one.key == b"k/00500" else one.value, one.lease) for one in then]
            return await target.txn([], wrong)

    with pytest.raises(Corrupted, match="not what was copied"):
        await migrate(source, Disturbed(), progress=nobody)  # type: ignore[arg-type]


async def test_one_revision_is_copied(source: Store, target: Store) -> None:
    """What is written while it is copied does not get in, neither by half nor whole."""
    before = [(kv.key, kv.value) for kv in (await source.list(b"", None)).items]
    written = False

    class Busy:
        """The source, but somebody writes to it after the first page."""

        def __getattr__(self, name: str) -> object:
            return getattr(source, name)

        async def list(self, *arguments: object, **keywords: object) -> object:
            nonlocal written
            listed = await source.list(*arguments, **keywords)  # type: ignore[arg-type]
            if not written:
                written = True
                await source.txn([], [Put(b"k/00900", b"new"), Put(b"z", b"new"), Delete(b"k/01000")])
            return listed

    await migrate(Busy(), target, progress=nobody)  # type: ignore[arg-type]
    assert [(kv.key, kv.value) for kv in (await target.list(b"", None)).items] == before


async def test_offline_state_directory(tmp_path: Path) -> None:
    """A stopped daemon's directory is read; a running one's, and an empty one, are refused."""
    with pytest.raises(NotFound, match="no store"):
        async with open_offline(tmp_path):
            pass
    async with open_sqlite(tmp_path / "store.db", SETTINGS, SystemClock()) as store:
        await put(store, b"k")
    async with open_offline(tmp_path) as store:
        assert (await store.list(b"", None)).count == 1
    with hold_state_dir(tmp_path, {"pid": 4711, "socket": "s", "since": "now"}), pytest.raises(Conflict, match="4711"):
        async with open_offline(tmp_path):
            pass
