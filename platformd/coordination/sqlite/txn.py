"""Transactions, decided without I/O: what a request may say, and what it does to the state before it.

``check`` is what can be refused from the request alone. ``Overlay`` is one group commit in the making: each
transaction runs on the stored state *plus* what the earlier ones of the batch did, so that a batch is
exactly the transactions one after the other. A transaction's own changes are kept apart until it is
through: one that is refused in the middle leaves no trace for its neighbours.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Sequence
from collections.abc import Set as AbstractSet
from typing import NamedTuple, Protocol

from platformd.coordination.contract import (
    Compare,
    Delete,
    DeleteResult,
    Get,
    GetResult,
    KeyValue,
    Operation,
    Put,
    PutResult,
    TxnResult,
)
from platformd.core.errors import FieldError, InvalidInput, NotFound, TooLarge

MAX_TXN_KEYS = 65_536
"""The most keys that one transaction may read or change: a range beyond it is listed or deleted in parts."""

MAX_TXN_READ_BYTES = 64 * 1024 * 1024
"""The most bytes of keys and values that the ranges of one transaction may read (a delete reads what it removes)."""


class Limits(NamedTuple):
    """What a request may hold at most."""

    key_bytes: int
    value_bytes: int
    operations: int


class Change(NamedTuple):
    """What one transaction did to one key."""

    key: bytes
    kv: KeyValue | None
    """After it; ``None`` if it is gone."""
    previous: KeyValue | None
    """Before it."""


class Budget:
    """What one transaction may still read in ranges."""

    def __init__(self) -> None:
        self._keys = MAX_TXN_KEYS
        self._bytes = MAX_TXN_READ_BYTES

    def charge(self, kv: KeyValue) -> None:
        """Take a key that was read off the budget.

        Raises:
            TooLarge: it is used up.
        """
        self._keys -= 1
        self._bytes -= len(kv.key) + len(kv.value)
        if self._keys < 0 or self._bytes < 0:
            raise TooLarge(
                f"the ranges of one transaction hold more than {MAX_TXN_KEYS} keys or {MAX_TXN_READ_BYTES} bytes; "
                "nothing was done",
                subject=shown(kv.key),
                hint="list page by page, or delete in several transactions over smaller ranges",
            )


class Base(Protocol):
    """The stored state, as the transactions before this batch left it."""

    def one(self, key: bytes) -> KeyValue | None:
        """A key."""
        ...

    def span(self, key: bytes, end: bytes, budget: Budget) -> list[KeyValue]:
        """All keys in [key, end), ordered; each is charged to the budget as it is read."""
        ...

    def leased(self, lease_id: int, limit: int) -> list[KeyValue]:
        """The first ``limit`` keys that are bound to a lease, ordered."""
        ...


# --- What can be refused at the door ---------------------------------------------------------------


def check_key(key: bytes, limits: Limits, what: str = "key") -> None:
    """Refuse a key that is empty or too large.

    Raises:
        InvalidInput: it is not bytes, or empty.
        TooLarge: it is over the limit.
    """
    if not isinstance(key, bytes):
        raise InvalidInput(f"the {what} is not bytes but {type(key).__name__}", subject="store")
    if not key:
        raise InvalidInput(f"the {what} is empty", subject="store", hint="a key has at least one byte")
    if len(key) > limits.key_bytes:
        raise TooLarge(f"the {what} has {len(key)} bytes; max_key is {limits.key_bytes}", subject=shown(key))


def check_range(key: bytes, end: bytes | None, limits: Limits) -> None:
    """Refuse the bounds of a range that no key can have. An empty ``key`` is the lowest bound.

    Raises: as ``check_key``.
    """
    if key:
        check_key(key, limits)
    if end is not None and len(end) > limits.key_bytes + 1:  # one more: a key's successor is key + b"\0"
        raise TooLarge(f"the range's end has {len(end)} bytes; max_key is {limits.key_bytes}", subject=shown(end))


def check(
    compares: Sequence[Compare], then: Sequence[Operation], otherwise: Sequence[Operation], limits: Limits
) -> int:
    """Refuse what is wrong with a transaction whatever the store holds; its size in bytes if nothing is.

    Raises:
        TooLarge: too many operations, or a key or a value is over its limit.
        InvalidInput: a compare of the wrong type, or a branch that puts a key twice or puts and deletes it.
    """
    count = len(compares) + len(then) + len(otherwise)
    if count > limits.operations:
        raise TooLarge(f"{count} operations; max_txn_operations is {limits.operations}", subject="transaction")
    size = sum(_check_compare(compare, limits) for compare in compares)
    for branch in (then, otherwise):
        size += sum(_check_operation(operation, limits) for operation in branch)
        if len(branch) > 1:
            _check_overlap(branch)
    return size


def _check_compare(compare: Compare, limits: Limits) -> int:
    check_key(compare.key, limits)
    wanted = bytes if compare.target == "value" else int
    if type(compare.operand) is not wanted or compare.operator not in _COMPARISONS or compare.target not in _TARGETS:
        raise InvalidInput(
            f"cannot compare {compare.target} {compare.operator} {compare.operand!r:.80}",
            subject=shown(compare.key),
            hint="value is compared with bytes; version, create_revision, mod_revision and lease with an integer",
        )
    return len(compare.key) + (len(compare.operand) if isinstance(compare.operand, bytes) else 8)


def _check_operation(operation: Operation, limits: Limits) -> int:
    if isinstance(operation, Put):
        check_key(operation.key, limits)
        if not isinstance(operation.value, bytes):
            raise InvalidInput(
                f"the value is not bytes but {type(operation.value).__name__}", subject=shown(operation.key)
            )
        if len(operation.value) > limits.value_bytes:
            raise TooLarge(
                f"the value has {len(operation.value)} bytes; max_value is {limits.value_bytes}",
                subject=shown(operation.key),
            )
        return len(operation.key) + len(operation.value)
    if operation.end is None:
        check_key(operation.key, limits)
        return len(operation.key)
    check_range(operation.key, operation.end, limits)
    return len(operation.key) + len(operation.end)


def _check_overlap(branch: Sequence[Operation]) -> None:
    """As in etcd: within one branch a key is changed by one put, or by deletes, never by two of these."""
    put: set[bytes] = set()
    wrong: list[FieldError] = []
    for index, operation in enumerate(branch):
        if isinstance(operation, Put):
            if operation.key in put:
                wrong.append(FieldError(path=f"[{index}]", message=f"puts {shown(operation.key)} a second time"))
            put.add(operation.key)
    for index, operation in enumerate(branch):
        if isinstance(operation, Delete):
            hit = next((key for key in put if covers(operation, key)), None)
            if hit is not None:
                wrong.append(FieldError(path=f"[{index}]", message=f"deletes {shown(hit)}, which the branch also puts"))
    if wrong:
        raise InvalidInput(
            "a key is changed twice in one transaction",
            subject="transaction",
            hint="put a key once, and do not delete what you put",
            errors=tuple(wrong),
        )


def covers(operation: Delete | Get, key: bytes) -> bool:
    """Whether ``key`` is what ``operation`` names, or within its range."""
    return key == operation.key if operation.end is None else operation.key <= key < operation.end


def shown(key: bytes) -> str:
    """A key for a message: text where it is text, short."""
    return repr(key)[2:-1] if len(key) <= 80 else repr(key[:80])[2:-1] + "…"


# --- What it does ----------------------------------------------------------------------------------

_COMPARISONS: dict[str, Callable[[bytes | int, bytes | int], bool]] = {
    "==": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    ">": operator.gt,
}
_TARGETS = frozenset({"value", "version", "create_revision", "mod_revision", "lease"})


class Overlay:
    """A batch of transactions on a stored state, worked out but not yet stored.

    Args:
        base: the stored state.
        revision: its revision.
        leases: the leases that are there.
    """

    def __init__(self, base: Base, revision: int, leases: AbstractSet[int]) -> None:
        self.revision = revision
        """After the transactions so far."""
        self.state: dict[bytes, KeyValue | None] = {}
        """What became of every key that was changed; ``None``: it is gone."""
        self.history: list[tuple[int, tuple[Change, ...]]] = []
        """Each effective transaction's revision and changes, ordered by key."""
        self.granted: dict[int, float] = {}
        """New leases and their time to live."""
        self.ended: set[int] = set()
        """Leases that no key can be bound to any more."""
        self.forgotten: set[int] = set()
        """Those of ``ended`` whose last key is gone too."""
        self.saved: dict[int, float | None] = {}
        """Remaining seconds of leases to remember; ``None`` for their whole time to live."""
        self.marks: list[tuple[int, int]] = []
        """Revisions and the time at which they were the newest, nanoseconds since the epoch."""
        self.compact: tuple[int, int] | None = None
        """Cut history off before this revision, at most so many rows."""
        self.shrink = 0
        """Give at most so many free pages back."""
        self.keys_added = 0
        """How many more keys there are (negative: fewer)."""
        self._base = base
        self._leases = leases

    def has_lease(self, lease_id: int) -> bool:
        """Whether a key can be bound to it."""
        return (lease_id in self._leases or lease_id in self.granted) and lease_id not in self.ended

    def one(self, key: bytes) -> KeyValue | None:
        """A key as the transactions so far left it."""
        return self.state[key] if key in self.state else self._base.one(key)

    def span(self, key: bytes, end: bytes, budget: Budget) -> list[KeyValue]:
        """All keys in [key, end), ordered, as the transactions so far left them."""
        return _merged(self._base, self.state, key, end, budget)

    def run(self, compares: Sequence[Compare], then: Sequence[Operation], otherwise: Sequence[Operation]) -> TxnResult:
        """Do one transaction.

        Raises:
            NotFound: a put names a lease that is not there; nothing was done.
            TooLarge: its ranges hold more than a transaction may touch; nothing was done.
        """
        succeeded = all(_holds(compare, self.one(compare.key)) for compare in compares)
        attempt = _Attempt(self)
        results = tuple(attempt.do(operation) for operation in (then if succeeded else otherwise))
        self.commit(attempt.changes.values())
        return TxnResult(succeeded=succeeded, revision=self.revision, results=results)

    def end_lease(self, lease_id: int, limit: int) -> tuple[int, bool]:
        """End a lease and delete its keys, at most ``limit`` of them.

        Returns:
            How many keys were deleted, and whether there are more (then call it again, in another batch).
        """
        bound = {kv.key: kv for kv in self._base.leased(lease_id, limit + 1 + len(self.state))}
        for key, kv in self.state.items():
            bound.pop(key, None)
            if kv is not None and kv.lease == lease_id:
                bound[key] = kv
        doomed = sorted(bound)[:limit]
        self.commit(Change(key, None, bound[key]) for key in doomed)
        more = len(bound) > len(doomed)
        self.ended.add(lease_id)
        if not more:
            self.forgotten.add(lease_id)
        return len(doomed), more

    def commit(self, changes: Iterable[Change]) -> None:
        """Take the changes of one transaction in, under the next revision; nothing if there are none."""
        ordered = tuple(sorted(changes, key=_by_key))
        if not ordered:
            return
        self.revision += 1
        self.history.append((self.revision, ordered))
        for change in ordered:
            self.state[change.key] = change.kv
            self.keys_added += (change.kv is not None) - (change.previous is not None)


def _by_key(change: Change) -> bytes:
    return change.key


def _holds(compare: Compare, kv: KeyValue | None) -> bool:
    if kv is not None:
        actual: bytes | int = getattr(kv, compare.target)
    elif compare.target == "value":
        return False
    else:
        actual = 0
    return _COMPARISONS[compare.operator](actual, compare.operand)


class _Attempt:
    """One transaction's branch on an overlay, which it leaves alone."""

    def __init__(self, overlay: Overlay) -> None:
        self.changes: dict[bytes, Change] = {}
        self._overlay = overlay
        self._budget = Budget()

    def do(self, operation: Operation) -> PutResult | DeleteResult | GetResult:
        if isinstance(operation, Put):
            return PutResult(self._put(operation))
        found = self._read(operation)
        if isinstance(operation, Get):
            return GetResult(found)
        for kv in found:
            self.changes[kv.key] = Change(kv.key, None, kv)
        return DeleteResult(len(found), found)

    def _put(self, put: Put) -> KeyValue | None:
        if put.lease and not self._overlay.has_lease(put.lease):
            raise NotFound(
                f"lease {put.lease} is not there: it ended or was never granted; nothing was done",
                subject=shown(put.key),
                hint="grant a new lease and put the key again",
            )
        # Only one operation of a branch may change a key, so what is there is what the overlay has.
        previous = self._overlay.one(put.key)
        revision = self._overlay.revision + 1
        kv = KeyValue(
            key=put.key,
            value=put.value,
            create_revision=previous.create_revision if previous is not None else revision,
            mod_revision=revision,
            version=previous.version + 1 if previous is not None else 1,
            lease=put.lease,
        )
        self.changes[put.key] = Change(put.key, kv, previous)
        return previous

    def _read(self, operation: Get | Delete) -> tuple[KeyValue, ...]:
        if operation.end is None:
            change = self.changes.get(operation.key)
            kv = self._overlay.one(operation.key) if change is None else change.kv
            return () if kv is None else (kv,)
        own = {key: change.kv for key, change in self.changes.items()}
        found = _merged(self._overlay, own, operation.key, operation.end, self._budget)
        return tuple(found)


class _Spans(Protocol):
    def span(self, key: bytes, end: bytes, budget: Budget) -> list[KeyValue]: ...


def _merged(
    base: _Spans, above: dict[bytes, KeyValue | None], key: bytes, end: bytes, budget: Budget
) -> list[KeyValue]:
    """The range of ``base`` with ``above`` laid over it."""
    if key >= end:
        return []
    below = base.span(key, end, budget)
    touched = {k: kv for k, kv in above.items() if key <= k < end}
    if not touched:
        return below
    merged = {kv.key: kv for kv in below if kv.key not in touched}
    merged.update((k, kv) for k, kv in touched.items() if kv is not None)
    return [merged[k] for k in sorted(merged)]
