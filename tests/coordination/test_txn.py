"""The rules of transactions and of a batch of them, without a file or a thread."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from platformd.coordination.checks import Limits, check
from platformd.coordination.contract import Compare, Delete, Get, KeyValue, Operation, Put, prefix_end
from platformd.coordination.sqlite import txn
from platformd.coordination.sqlite.txn import Budget, Overlay
from platformd.core.errors import InvalidInput, NotFound, PlatformError, TooLarge

LIMITS = Limits(key_bytes=16, value_bytes=64, operations=8)


class Memory:
    """A stored state in a dict."""

    def __init__(self, kvs: dict[bytes, KeyValue] | None = None) -> None:
        self.kvs = kvs or {}

    def one(self, key: bytes) -> KeyValue | None:
        return self.kvs.get(key)

    def span(self, key: bytes, end: bytes, budget: Budget) -> list[KeyValue]:
        found = [self.kvs[k] for k in sorted(self.kvs) if key <= k < end]
        for kv in found:
            budget.charge(kv)
        return found

    def leased(self, lease_id: int, limit: int) -> list[KeyValue]:
        return [kv for _, kv in sorted(self.kvs.items()) if kv.lease == lease_id][:limit]

    def store(self, overlay: Overlay) -> Memory:
        """What the state is once the batch is stored."""
        kvs = dict(self.kvs)
        for key, kv in overlay.state.items():
            kvs.pop(key, None)
            if kv is not None:
                kvs[key] = kv
        return Memory(kvs)


KEYS = st.sampled_from([b"a", b"a/1", b"a/2", b"b", b"c"])
VALUES = st.sampled_from([b"", b"1", b"2"])
LEASES = st.sampled_from([0, 0, 7, 8])
ENDS = st.one_of(st.none(), KEYS, st.just(b"d"))
OPERATIONS = st.one_of(st.builds(Put, KEYS, VALUES, LEASES), st.builds(Delete, KEYS, ENDS), st.builds(Get, KEYS, ENDS))
NUMBERS = st.sampled_from(["version", "create_revision", "mod_revision", "lease"])
COMPARES = st.one_of(
    st.builds(Compare, KEYS, st.just("value"), st.sampled_from(["==", "!=", "<", ">"]), VALUES),
    st.builds(Compare, KEYS, NUMBERS, st.sampled_from(["==", "!=", "<", ">"]), st.integers(0, 4)),
)
BRANCHES = st.lists(OPERATIONS, max_size=3)
TXNS = st.tuples(st.lists(COMPARES, max_size=2), BRANCHES, BRANCHES)
Txn = tuple[Sequence[Compare], Sequence[Operation], Sequence[Operation]]


def attempt(overlay: Overlay, request: Txn) -> object:
    """What a caller gets: the result, or the error's type."""
    try:
        check(*request, LIMITS)
        return overlay.run(*request)
    except PlatformError as error:
        return type(error)


@given(st.lists(TXNS, max_size=12), st.integers(1, 12))
def test_batch_is_its_transactions_one_after_the_other(requests: list[Txn], size: int) -> None:
    """However requests are cut into batches, each gets the same answer and the state ends the same."""
    alone, together = Memory(), Memory()
    alone_revision = together_revision = 1
    expected, answers = [], []
    for request in requests:
        overlay = Overlay(alone, alone_revision, {7})
        expected.append(attempt(overlay, request))
        alone, alone_revision = alone.store(overlay), overlay.revision
    for start in range(0, len(requests), size):
        overlay = Overlay(together, together_revision, {7})
        answers += [attempt(overlay, request) for request in requests[start : start + size]]
        assert overlay.keys_added == len(together.store(overlay).kvs) - len(together.kvs)
        together, together_revision = together.store(overlay), overlay.revision
    assert answers == expected
    assert together.kvs == alone.kvs
    assert together_revision == alone_revision


@given(st.lists(TXNS, max_size=12))
def test_history_tells_the_state(requests: list[Txn]) -> None:
    """Every effective transaction is one revision of history, and each change says what was there before it."""
    overlay = Overlay(Memory(), 1, {7})
    for request in requests:
        attempt(overlay, request)
    assert [revision for revision, _ in overlay.history] == list(range(2, overlay.revision + 1))
    state: dict[bytes, KeyValue] = {}
    for revision, changes in overlay.history:
        assert [change.key for change in changes] == sorted({change.key for change in changes})
        for change in changes:
            assert change.previous == state.get(change.key)
            if change.kv is None:
                del state[change.key]
            else:
                assert change.kv.mod_revision == revision
                state[change.key] = change.kv
    assert state == {key: kv for key, kv in overlay.state.items() if kv is not None}


@settings(max_examples=50)
@given(BRANCHES)
def test_refused_transaction_leaves_no_trace(branch: list[Operation]) -> None:
    """What a transaction did before its put with an unknown lease is not there afterwards."""
    overlay = Overlay(Memory(), 1, set())
    overlay.run([], [Put(b"a", b"0"), Put(b"b", b"0")], [])
    before = (dict(overlay.state), list(overlay.history), overlay.revision, overlay.keys_added)
    with pytest.raises(NotFound):
        overlay.run([], [*(op for op in branch if not isinstance(op, Put)), Put(b"z", b"", 99)], [])
    assert (overlay.state, overlay.history, overlay.revision, overlay.keys_added) == before


def test_all_overlaps_are_named_at_once() -> None:
    """A branch with several contradictions is refused with each of them and its place."""
    with pytest.raises(InvalidInput) as refused:
        check([], [Put(b"a", b""), Put(b"a", b""), Delete(b"a"), Get(b"a"), Delete(b"", b"z")], [], LIMITS)
    assert [error.path for error in refused.value.errors] == ["[1]", "[2]", "[4]"]


@pytest.mark.parametrize("wrong", ["text", None, 5, bytearray(b"x")])
def test_what_is_not_bytes_is_refused(wrong: object) -> None:
    """Keys and values are bytes and nothing that looks like them."""
    with pytest.raises(InvalidInput, match="not bytes"):
        check([], [Put(wrong, b"")], [], LIMITS)  # type: ignore[arg-type]
    with pytest.raises(InvalidInput, match="not bytes"):
        check([], [Put(b"k", wrong)], [], LIMITS)  # type: ignore[arg-type]


def test_ranges_of_a_transaction_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """A transaction whose ranges, together, read too many keys or bytes is refused; one on the bound is not."""
    memory = Memory()
    overlay = Overlay(memory, 1, set())
    for number in range(6):
        overlay.run([], [Put(b"%d" % number, b"12345")], [])
    memory = memory.store(overlay)
    monkeypatch.setattr(txn, "MAX_TXN_KEYS", 6)
    assert Overlay(memory, 7, set()).run([], [Get(b"0", b"3"), Delete(b"3", b"9")], []).revision == 8
    with pytest.raises(TooLarge, match="more than 6 keys"):
        Overlay(memory, 7, set()).run([], [Get(b"0", b"4"), Delete(b"3", b"9")], [])
    monkeypatch.setattr(txn, "MAX_TXN_READ_BYTES", 35)
    with pytest.raises(TooLarge, match="35 bytes"):
        Overlay(memory, 7, set()).run([], [Get(b"0", b"9")], [])


def test_lease_with_many_keys_ends_in_steps() -> None:
    """At most the limit goes in one step; the lease takes no new key from the first step on."""
    overlay = Overlay(Memory(), 1, {7})
    overlay.run([], [Put(b"%d" % number, b"", 7) for number in range(5)], [])
    memory = Memory().store(overlay)
    overlay = Overlay(memory, 2, {7})
    overlay.run([], [Put(b"0", b""), Put(b"9", b"", 7), Delete(b"1")], [])  # unbinds one, binds one, deletes one
    assert overlay.end_lease(7, 3) == (3, True)
    assert overlay.ended == {7}
    assert not overlay.forgotten
    with pytest.raises(NotFound):
        overlay.run([], [Put(b"x", b"", 7)], [])
    assert overlay.end_lease(7, 3) == (1, False)
    assert overlay.forgotten == {7}
    assert sorted(memory.store(overlay).kvs) == [b"0"]


def test_prefix_end() -> None:
    """The end of a prefix's range is just after everything that starts with it."""
    assert prefix_end(b"a") == b"b"
    assert prefix_end(b"a\xff\xff") == b"b"
    assert prefix_end(b"\xff") is None
    assert prefix_end(b"") is None
