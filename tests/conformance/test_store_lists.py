"""What every engine of the Store promises about counts and orders of lists."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from platformd.coordination.contract import Delete, KeyValue, Order, Put, Store
from platformd.core.errors import InvalidInput
from tests.conformance.store_engines import ENGINES, Engine, put


@pytest.fixture(params=ENGINES)
def engine(request: pytest.FixtureRequest, tmp_path: Path) -> Engine:
    return ENGINES[request.param](tmp_path)


@pytest.fixture
async def store(engine: Engine) -> AsyncIterator[Store]:
    async with engine.open() as opened:
        yield opened


async def test_count_is_of_the_whole_range(store: Store) -> None:
    """However few items a limit leaves, ``count`` is how many keys the range has; outside it nothing counts."""
    await store.txn([], [Put(b"p/%d" % n, b"v") for n in range(7)])
    last = await put(store, b"q")
    for limit in (0, 1, 3, 6, 7, 8):
        listed = await store.list(b"p/", b"p0", limit=limit)
        assert (listed.count, len(listed.items), listed.more) == (7, min(limit or 7, 7), 0 < limit < 7)
    assert (await store.list(b"", None, limit=2)).count == 8
    assert (await store.list(b"none", b"nonf")).count == 0
    assert (await store.list(b"z", b"a")).count == 0
    assert (await store.list(b"p/", b"p0", limit=1)).revision == last


async def test_count_of_the_past(store: Store) -> None:
    """At an old revision the count is of then."""
    first = (await store.txn([], [Put(b"p/%d" % n, b"v") for n in range(5)])).revision
    second = (await store.txn([], [Delete(b"p/1"), Put(b"p/9", b"v"), Put(b"p/8", b"v")])).revision
    await store.txn([], [Delete(b"p/", b"p0")])
    for revision, count in ((first, 5), (second, 6), (0, 0)):
        for limit in (0, 2):
            assert (await store.list(b"p/", b"p0", revision=revision, limit=limit)).count == count
        counted = await store.list(b"p/", b"p0", revision=revision, count_only=True)
        assert (counted.count, counted.items, counted.more) == (count, (), False)


async def test_count_only_leaves_the_items_out(store: Store) -> None:
    """``count_only`` gives the count and the revision, whatever else is asked for."""
    revision = (await store.txn([], [Put(b"p/%d" % n, b"v") for n in range(5)])).revision
    counted = await store.list(b"p/", b"p0", count_only=True, limit=2, keys_only=True, order="-key")
    assert (counted.items, counted.count, counted.more) == ((), 5, False)
    assert counted.revision >= revision
    assert (await store.list(b"", None, count_only=True)).count == 5


async def test_count_goes_down_page_by_page(store: Store) -> None:
    """Each page's count is of what was left before it, although keys come and go between the pages."""
    await store.txn([], [Put(b"p/%02d" % n, b"v") for n in range(20)])
    page = await store.list(b"p/", b"p0", limit=6)
    counts = [page.count]
    while page.more:
        await store.txn([], [Put(b"p/%02dx" % n, b"new") for n in range(20)])
        await store.txn([], [Delete(b"p/19")])
        page = await store.list(page.items[-1].key + b"\x00", b"p0", revision=page.revision, limit=6)
        counts.append(page.count)
    assert counts == [20, 14, 8, 2]


def expected(items: list[KeyValue], order: Order) -> list[bytes]:
    """The keys in an order, of one revision's by key; the ones with a minus are exactly the reverse."""
    by_revision = order.endswith("mod_revision")
    ordered = sorted(items, key=lambda kv: (kv.mod_revision if by_revision else 0, kv.key))
    return [kv.key for kv in (reversed(ordered) if order.startswith("-") else ordered)]


@pytest.mark.parametrize("order", ["key", "-key", "mod_revision", "-mod_revision"])
async def test_order(store: Store, order: Order) -> None:
    """Each order is kept by the whole list, a limited one and one of the past; ties go by key."""
    generator = random.Random(5)
    names = [b"p/%02d" % n for n in range(12)]
    for _ in range(3):
        generator.shuffle(names)
        for start in range(0, 12, 3):  # three keys of one revision each
            await store.txn([], [Put(name, b"v") for name in names[start : start + 3]])
    then = (await store.status()).revision
    past = list((await store.list(b"p/", b"p0", revision=then)).items)
    await store.txn([], [Delete(names[0]), Put(names[7], b"new"), Put(names[4], b"new")])
    now = list((await store.list(b"p/", b"p0")).items)
    for revision, items in ((0, now), (then, past)):
        keys = expected(items, order)
        listed = await store.list(b"p/", b"p0", order=order, revision=revision)
        assert [kv.key for kv in listed.items] == keys
        assert sorted(listed.items, key=lambda kv: kv.key) == items
        few = await store.list(b"p/", b"p0", order=order, revision=revision, limit=5, keys_only=True)
        assert [kv.key for kv in few.items] == keys[:5]
        assert (few.more, few.count) == (True, len(items))
        assert not any(kv.value for kv in few.items)


async def test_unknown_order_is_refused(store: Store) -> None:
    """There are four orders and no others."""
    with pytest.raises(InvalidInput, match="colour"):
        await store.list(b"", None, order="colour")  # type: ignore[arg-type]
