"""What every engine of the Store promises about compaction on request, and about snapshots."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio

from platformd.coordination.contract import Compacted, Delete, FutureRevision, Put, Store
from platformd.core.errors import Conflict, InvalidInput, Unsupported
from tests.conformance.store_engines import ENGINES, Engine, events_until, put


@pytest.fixture(params=ENGINES)
def engine(request: pytest.FixtureRequest, tmp_path: Path) -> Engine:
    return ENGINES[request.param](tmp_path)


@pytest.fixture
async def store(engine: Engine) -> AsyncIterator[Store]:
    async with engine.open() as opened:
        yield opened


async def watch_from(store: Store, revision: int) -> None:
    """An engine may refuse on entry or in the iteration."""
    async with store.watch(b"", None, start_revision=revision) as watch:
        await anext(watch)
        await anext(watch)


async def test_what_is_older_cannot_be_read(store: Store) -> None:
    """After compacting to a revision, it and what came after are read and watched as before; what is older is gone."""
    first = await put(store, b"k", b"1")
    second = await put(store, b"k", b"2")
    third = await put(store, b"k", b"3")
    async with store.watch(b"k", b"k\x00", start_revision=second, previous=True) as watch:
        before = await events_until(watch, third)
    kept = await store.list(b"", None, revision=second)
    await store.compact(second)
    assert (await store.status()).compact_revision == second
    assert await store.list(b"", None, revision=second) == kept
    async with store.watch(b"k", b"k\x00", start_revision=second) as watch:
        after = await events_until(watch, third)
    assert [(e.type, e.kv) for e in after] == [(e.type, e.kv) for e in before]
    for refused in (store.get(b"k", revision=first), store.list(b"", None, revision=first, count_only=True)):
        with pytest.raises(Compacted) as compacted:
            await refused
        assert compacted.value.compact_revision == second
    with pytest.raises(Compacted):
        await watch_from(store, first)
    assert (await store.list(b"", None)).items[0].value == b"3"


async def test_compacting_to_now_keeps_now(store: Store) -> None:
    """The newest revision can be compacted to: all keys stay, and writing goes on from it."""
    await store.txn([], [Put(b"%d" % n, b"v") for n in range(5)])
    revision = (await store.txn([], [Delete(b"3")])).revision
    await store.compact(revision)
    assert [kv.key for kv in (await store.list(b"", None, revision=revision)).items] == [b"0", b"1", b"2", b"4"]
    assert await put(store, b"9") == revision + 1


async def test_compaction_is_asked_for_what_there_is(store: Store) -> None:
    """Once more to the same revision is nothing; to an older one ``Compacted``, to a newer one ``FutureRevision``."""
    first = await put(store, b"k")
    second = await put(store, b"k")
    await store.compact(second)
    await store.compact(second)
    with pytest.raises(Compacted) as compacted:
        await store.compact(first)
    assert compacted.value.compact_revision == second
    with pytest.raises(FutureRevision):
        await store.compact(second + 1)
    with pytest.raises(InvalidInput):
        await store.compact(-1)


async def test_live_watch_does_not_notice(store: Store) -> None:
    """A watch that has read everything goes on over a compaction without a gap or an event too many."""
    async with store.watch(b"k", b"l") as watch:
        written = []
        seen = []
        for number in range(30):
            written.append(await put(store, b"k", b"%d" % number))
            seen += await events_until(watch, written[-1])
            if number % 10 == 5:
                await store.compact(written[-1])
    assert [e.kv.mod_revision for e in seen] == written


async def test_snapshot_is_a_file_or_refused(store: Store, tmp_path: Path) -> None:
    """A snapshot says the revision that it is of and never overwrites; an engine that has none says so."""
    revision = await put(store, b"k")
    path = tmp_path / "copy"
    try:
        taken = await store.snapshot(path)
    except Unsupported:
        assert not await trio.Path(path).exists()
        return
    assert (taken.path, taken.size_bytes) == (path, (await trio.Path(path).stat()).st_size)
    assert taken.revision >= revision
    before = await trio.Path(path).read_bytes()
    with pytest.raises(Conflict, match="not overwritten"):
        await store.snapshot(path)
    assert await trio.Path(path).read_bytes() == before
    assert [found.name for found in await trio.Path(tmp_path).iterdir() if "part" in found.name] == []
