"""What every engine of the Store promises about reads and transactions."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio

from platformd.coordination.contract import (
    Compare,
    CompareOperator,
    CompareTarget,
    Delete,
    DeleteResult,
    FutureRevision,
    Get,
    GetResult,
    KeyValue,
    Put,
    PutResult,
    Store,
    prefix_end,
)
from platformd.core.errors import InvalidInput, NotFound, TooLarge
from tests.conformance.store_engines import ENGINES, Engine, put


@pytest.fixture(params=ENGINES)
def engine(request: pytest.FixtureRequest, tmp_path: Path) -> Engine:
    return ENGINES[request.param](tmp_path)


@pytest.fixture
async def store(engine: Engine) -> AsyncIterator[Store]:
    async with engine.open() as opened:
        yield opened


async def test_key_carries_its_revisions_and_version(store: Store) -> None:
    """A key knows when it was created, when it last changed and how often; a deletion starts it over."""
    assert await store.get(b"k") is None
    first = await put(store, b"k", b"1")
    second = await put(store, b"k", b"2")
    expected = KeyValue(key=b"k", value=b"2", create_revision=first, mod_revision=second, version=2)
    assert await store.get(b"k") == expected
    await store.txn([], [Delete(b"k")])
    assert await store.get(b"k") is None
    again = await put(store, b"k", b"3")
    expected = KeyValue(key=b"k", value=b"3", create_revision=again, mod_revision=again, version=1)
    assert await store.get(b"k") == expected


async def test_effective_transaction_raises_the_revision_by_one(store: Store) -> None:
    """Three puts and a delete in one transaction are one revision."""
    start = await put(store, b"gone")
    result = await store.txn([], [Put(b"a", b""), Put(b"b", b""), Put(b"c", b""), Delete(b"gone")])
    assert result.revision == start + 1
    listed = await store.list(b"", None)
    assert listed.revision == start + 1
    assert [(kv.key, kv.mod_revision) for kv in listed.items] == [(k, start + 1) for k in (b"a", b"b", b"c")]


async def test_ineffective_transaction_leaves_the_revision(store: Store) -> None:
    """A failed compare, a delete of nothing, a read, and nothing at all change no revision."""
    start = await put(store, b"k")
    failed = await store.txn([Compare(b"k", "version", "==", 9)], [Put(b"k", b"x")])
    assert (failed.succeeded, failed.revision, failed.results) == (False, start, ())
    assert (await store.txn([], [Delete(b"no"), Delete(b"x", b"z")])).revision == start
    assert (await store.txn([], [Get(b"k")])).revision == start
    assert (await store.txn([], [])).revision == start
    assert (await store.status()).revision == start


async def test_put_of_the_same_value_is_a_change(store: Store) -> None:
    """A put is effective even if it says what was so."""
    first = await put(store, b"k", b"same")
    assert await put(store, b"k", b"same") == first + 1
    kv = await store.get(b"k")
    assert kv is not None
    assert kv.version == 2


@pytest.mark.parametrize("target", ["version", "create_revision", "mod_revision", "lease"])
async def test_missing_key_compares_as_zero(store: Store, target: CompareTarget) -> None:
    """Version, revisions and lease of a key that is not there are 0."""
    assert (await store.txn([Compare(b"no", target, "==", 0)], [])).succeeded
    assert (await store.txn([Compare(b"no", target, "<", 1)], [])).succeeded
    assert not (await store.txn([Compare(b"no", target, "!=", 0)], [])).succeeded
    assert not (await store.txn([Compare(b"no", target, ">", 0)], [])).succeeded


@pytest.mark.parametrize("operator", ["==", "!=", "<", ">"])
async def test_value_of_a_missing_key_compares_false(store: Store, operator: CompareOperator) -> None:
    """A compare of the value of a key that is not there is false, whatever the operator."""
    assert not (await store.txn([Compare(b"no", "value", operator, b"")], [])).succeeded


@pytest.mark.parametrize(
    ("target", "operator", "operand", "holds"),
    [
        ("value", "==", b"m", True),
        ("value", "!=", b"m", False),
        ("value", "<", b"n", True),
        ("value", "<", b"m", False),
        ("value", ">", b"l\xff", True),
        ("version", ">", 1, True),
        ("version", "<", 2, False),
        ("version", "==", 2, True),
        ("lease", "==", 0, True),
    ],
)
async def test_compare(
    store: Store, target: CompareTarget, operator: CompareOperator, operand: bytes | int, holds: bool
) -> None:
    """Each operator compares bytes as bytes and numbers as numbers."""
    await put(store, b"k", b"a")
    await put(store, b"k", b"m")
    assert (await store.txn([Compare(b"k", target, operator, operand)], [])).succeeded is holds


async def test_all_compares_must_hold(store: Store) -> None:
    """One compare that fails takes the other branch."""
    await put(store, b"a", b"1")
    compares = [Compare(b"a", "value", "==", b"1"), Compare(b"b", "version", ">", 0)]
    result = await store.txn(compares, [Put(b"then", b"")], [Put(b"otherwise", b""), Get(b"a")])
    assert not result.succeeded
    assert await store.get(b"then") is None
    assert (await store.get(b"otherwise")) is not None
    assert isinstance(result.results[1], GetResult)


async def test_compare_of_the_wrong_type_is_refused(store: Store) -> None:
    """A value is not compared with a number, nor a version with bytes."""
    with pytest.raises(InvalidInput, match="cannot compare"):
        await store.txn([Compare(b"k", "value", "==", 1)], [])
    with pytest.raises(InvalidInput, match="cannot compare"):
        await store.txn([Compare(b"k", "version", "==", b"1")], [])


async def test_later_operations_see_earlier_ones(store: Store) -> None:
    """Within a transaction a read sees what was put and deleted before it, and not what comes after."""
    await put(store, b"p/old", b"o")
    result = await store.txn(
        [],
        [Get(b"p/", b"p0"), Put(b"p/new", b"n"), Get(b"p/new"), Delete(b"p/old"), Get(b"p/", b"p0"), Put(b"p/z", b"z")],
    )
    before, written, new, deleted, after, _ = result.results
    assert isinstance(before, GetResult)
    assert isinstance(after, GetResult)
    assert isinstance(new, GetResult)
    assert [kv.key for kv in before.items] == [b"p/old"]
    assert written == PutResult(None)
    assert [kv.value for kv in new.items] == [b"n"]
    assert isinstance(deleted, DeleteResult)
    assert (deleted.deleted, deleted.previous) == (1, before.items)
    assert [kv.key for kv in after.items] == [b"p/new"]


@pytest.mark.parametrize(
    "branch",
    [
        [Put(b"k", b"1"), Put(b"k", b"2")],
        [Put(b"k", b"1"), Delete(b"k")],
        [Delete(b"k"), Put(b"k", b"1")],
        [Delete(b"a", b"z"), Put(b"k", b"1")],
        [Put(b"k", b"1"), Put(b"other", b""), Delete(b"k", b"k\x00")],
    ],
)
async def test_changing_a_key_twice_is_refused(store: Store, branch: list[Put | Delete]) -> None:
    """A branch that puts a key twice, or puts and deletes it in either order, is refused and does nothing."""
    start = await put(store, b"k", b"0")
    with pytest.raises(InvalidInput) as refused:
        await store.txn([], branch)
    assert refused.value.errors
    with pytest.raises(InvalidInput):
        await store.txn([], [], branch)
    assert (await store.status()).revision == start


async def test_branches_do_not_overlap_each_other(store: Store) -> None:
    """Only one branch runs, so both may change the same key; and deletes may overlap."""
    await put(store, b"k")
    result = await store.txn([], [Delete(b"k"), Delete(b"a", b"z")], [Put(b"k", b"1")])
    assert [r.deleted for r in result.results if isinstance(r, DeleteResult)] == [1, 0]
    assert (await store.txn([], [Put(b"k", b"1")], [Put(b"k", b"2")])).succeeded


async def test_put_and_delete_tell_what_was_there(store: Store) -> None:
    """A put gives the former state of its key, a range delete all that it removed."""
    await put(store, b"r/1", b"1")
    await put(store, b"r/2", b"2")
    first = await store.get(b"r/1")
    result = await store.txn([], [Put(b"r/1", b"new"), Put(b"r/3", b"3")])
    assert result.results == (PutResult(first), PutResult(None))
    deleted = (await store.txn([], [Delete(b"r/", prefix_end(b"r/"))])).results[0]
    assert isinstance(deleted, DeleteResult)
    assert deleted.deleted == 3
    assert [kv.value for kv in deleted.previous] == [b"new", b"2", b"3"]


async def test_range_that_ends_before_it_begins_is_empty(store: Store) -> None:
    """As in etcd, it is an empty answer and no error."""
    start = await put(store, b"k")
    assert (await store.list(b"z", b"a")).items == ()
    result = await store.txn([], [Get(b"z", b"a"), Delete(b"z", b"a")])
    assert result.results == (GetResult(()), DeleteResult(0))
    assert result.revision == start


async def test_limits_have_names(engine: Engine) -> None:
    """What is over a limit is refused with the limit and what was sent; what is on it is taken."""
    async with engine.open(max_key="8B", max_value="16B", max_txn_operations=4) as store:
        await put(store, b"8" * 8, b"v" * 16)
        with pytest.raises(TooLarge, match="max_key is 8"):
            await put(store, b"9" * 9)
        with pytest.raises(TooLarge, match="max_key is 8"):
            await store.get(b"9" * 9)
        with pytest.raises(TooLarge, match="17 bytes; max_value is 16"):
            await put(store, b"k", b"v" * 17)
        four = [Put(b"%d" % i, b"") for i in range(4)]
        await store.txn([], four)
        with pytest.raises(TooLarge, match="5 operations; max_txn_operations is 4"):
            await store.txn([Compare(b"a", "version", "==", 0)], four)
        with pytest.raises(InvalidInput, match="empty"):
            await put(store, b"")


async def test_unknown_lease_refuses_the_whole_transaction(store: Store) -> None:
    """A put that names a lease that is not there does nothing, and neither does what stands beside it."""
    start = await put(store, b"k")
    with pytest.raises(NotFound, match="lease 77"):
        await store.txn([], [Put(b"a", b""), Put(b"b", b"", 77)])
    assert await store.get(b"a") is None
    assert (await store.status()).revision == start


async def test_bad_transaction_does_not_fail_its_neighbours(store: Store) -> None:
    """Among many transactions at once only the wrong ones are refused."""
    refused: list[int] = []

    async def write(number: int) -> None:
        try:
            await put(store, b"n/%02d" % number, b"", 99 if number % 5 == 0 else 0)
        except NotFound:
            refused.append(number)

    async with trio.open_nursery() as nursery:
        for number in range(40):
            nursery.start_soon(write, number)
    assert sorted(refused) == list(range(0, 40, 5))
    assert len((await store.list(b"n/", b"n0")).items) == 32


async def test_list_is_ordered_limited_and_continued(store: Store) -> None:
    """Pages of one revision fit together although the store changes between them."""
    for number in (3, 1, 4, 5, 9, 2, 6):
        await put(store, b"p/%d" % number, b"old")
    page = await store.list(b"p/", b"p0", limit=3)
    assert page.more
    items = list(page.items)
    await store.txn([], [Delete(b"p/4"), Put(b"p/45", b"new"), Put(b"p/9", b"new")])
    while page.more:
        page = await store.list(items[-1].key + b"\x00", b"p0", revision=page.revision, limit=3)
        items += page.items
    assert [(kv.key, kv.value) for kv in items] == [(b"p/%d" % n, b"old") for n in (1, 2, 3, 4, 5, 6, 9)]
    assert not (await store.list(b"p/", b"p0", limit=7)).more


async def test_list_of_keys_leaves_values_empty(store: Store) -> None:
    """``keys_only`` gives everything but the values, now and in the past."""
    revision = await put(store, b"k", b"value")
    expected = KeyValue(key=b"k", value=b"", create_revision=revision, mod_revision=revision, version=1)
    assert (await store.list(b"", None, keys_only=True)).items == (expected,)
    await put(store, b"k", b"value 2")
    assert (await store.list(b"", None, keys_only=True, revision=revision)).items == (expected,)


async def test_the_past_can_be_read(store: Store) -> None:
    """At each revision, ``get`` and ``list`` show what was so then."""
    a1 = await put(store, b"a", b"1")
    b1 = await put(store, b"b", b"1")
    a2 = await put(store, b"a", b"2")
    gone = (await store.txn([], [Delete(b"a")])).revision
    back = await put(store, b"a", b"3")
    seen = {}
    for revision in (a1, b1, a2, gone, back):
        listed = await store.list(b"", None, revision=revision)
        assert listed.revision == revision
        for kv in listed.items:
            assert await store.get(kv.key, revision=revision) == kv
        seen[revision] = {kv.key: (kv.value, kv.version) for kv in listed.items}
    a, b = b"a", b"b"
    assert seen[a1] == {a: (b"1", 1)}
    assert seen[b1] == {a: (b"1", 1), b: (b"1", 1)}
    assert seen[a2] == {a: (b"2", 2), b: (b"1", 1)}
    assert seen[gone] == {b: (b"1", 1)}
    assert seen[back] == {a: (b"3", 1), b: (b"1", 1)}
    assert await store.get(b"a", revision=gone) is None
    assert await store.get(b"b", revision=a1) is None


async def test_the_future_cannot_be_read(store: Store) -> None:
    """A revision that is not there yet is refused."""
    revision = await put(store, b"k")
    with pytest.raises(FutureRevision):
        await store.get(b"k", revision=revision + 1)
    with pytest.raises(FutureRevision):
        await store.list(b"", None, revision=revision + 1)


async def test_long_list_is_of_one_revision(engine: Engine) -> None:
    """A list of many keys is true at its revision, although writers go on while it is read."""
    async with engine.open() as store:
        for start in range(0, 1500, 100):
            await store.txn([], [Put(b"k/%05d" % n, b"0") for n in range(start, start + 100)])

        async def keep_writing(*, task_status: trio.TaskStatus[None]) -> None:
            generation = 0
            while True:  # the first and the last key always change together
                generation += 1
                value = b"%d" % generation
                await store.txn([], [Put(b"k/00000", value), Put(b"k/01499", value)])
                if generation == 2:
                    task_status.started()

        async with trio.open_nursery() as nursery:
            await nursery.start(keep_writing)
            for _ in range(10):
                listed = await store.list(b"k/", b"k0")
                assert len(listed.items) == 1500
                assert listed.items[0].value == listed.items[-1].value
                assert listed.items[0].mod_revision <= listed.revision
            nursery.cancel_scope.cancel()


async def test_increments_are_not_lost(store: Store) -> None:
    """Tasks that compare and swap one counter lose no increment, and each success has its own revision."""
    await put(store, b"n", b"0")
    revisions: list[int] = []

    async def increment(times: int) -> None:
        while times:
            kv = await store.get(b"n")
            assert kv is not None
            unchanged = Compare(b"n", "mod_revision", "==", kv.mod_revision)
            result = await store.txn([unchanged], [Put(b"n", b"%d" % (int(kv.value) + 1))])
            if result.succeeded:
                revisions.append(result.revision)
                times -= 1

    async with trio.open_nursery() as nursery:
        for _ in range(8):
            nursery.start_soon(increment, 10)
    kv = await store.get(b"n")
    assert kv is not None
    assert (kv.value, kv.version) == (b"80", 81)
    assert len(set(revisions)) == 80


async def test_write_is_read_back_at_once(store: Store) -> None:
    """What was acknowledged is what every later read shows, for all of many tasks."""

    async def write_and_read(name: bytes) -> None:
        for number in range(20):
            revision = await put(store, name, b"%d" % number)
            kv = await store.get(name)
            assert kv is not None
            assert (kv.value, kv.mod_revision) == (b"%d" % number, revision)
            assert (await store.list(b"", None, limit=1)).revision >= revision

    async with trio.open_nursery() as nursery:
        for task in range(8):
            nursery.start_soon(write_and_read, b"task/%d" % task)


async def test_cancelled_transaction_is_whole_or_not_there(store: Store) -> None:
    """Cancelling a transaction leaves all of it or nothing of it; and ``Cancelled`` means nothing."""
    for number in range(30):
        left, right = b"left/%d" % number, b"right/%d" % number
        done = False
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:

                async def cancel(passes: int, scope: trio.CancelScope) -> None:
                    for _ in range(passes):
                        await trio.lowlevel.checkpoint()
                    scope.cancel()

                nursery.start_soon(cancel, number, scope)
                await store.txn([], [Put(left, b""), Put(right, b"")])
                done = True
        there = [await store.get(left) is not None, await store.get(right) is not None]
        assert there == [done, done]


async def test_everything_survives_a_restart(engine: Engine) -> None:
    """Keys, revisions, history and the count of keys are there when the store is opened again."""
    async with engine.open() as store:
        first = await put(store, b"k", b"1")
        await put(store, b"k", b"2")
        await put(store, b"x")
        await store.txn([], [Delete(b"x")])
        before = await store.status()
        listed = await store.list(b"", None)
    async with engine.open() as store:
        after = await store.status()
        assert (after.revision, after.keys, after.compact_revision) == (before.revision, 1, before.compact_revision)
        assert await store.list(b"", None) == listed
        then = await store.get(b"k", revision=first)
        assert then is not None
        assert then.value == b"1"
        assert await put(store, b"y") == before.revision + 1


async def test_bytes_are_bytes(store: Store) -> None:
    """Keys and values hold any bytes, and keys are ordered as bytes."""
    keys = [b"\x00", b"\x00\x00", b"a", b"a\x00", b"\x7f", b"\x80", b"\xff", b"\xff\xff"]
    for key in reversed(keys):
        await put(store, key, key * 3)
    listed = await store.list(b"", None)
    assert [(kv.key, kv.value) for kv in listed.items] == [(key, key * 3) for key in keys]
    assert [kv.key for kv in (await store.list(b"\xff", prefix_end(b"\xff"))).items] == [b"\xff", b"\xff\xff"]
