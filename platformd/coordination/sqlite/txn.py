"""Transactions, decided without I/O: what a request does to the state before it.

What can be refused from the request alone has been by then (``coordination.checks``). ``Overlay`` is one group
commit in the making: each transaction runs on the stored state *plus* what the earlier ones of the batch did, so
that a batch is exactly the transactions one after the other. A transaction's own changes are kept apart until it is
through: one that is refused in the middle leaves no trace for its neighbours.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Sequence
from collections.abc import Set as AbstractSet
from typing import NamedTuple, Protocol

from platformd.coordination.checks import shown
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
from platformd.core.errors import NotFound, TooLarge

MAX_TXN_KEYS = 65_536
"""The most keys that one transaction may read or change: a range beyond it is listed or deleted in parts."""

MAX_TXN_READ_BYTES = 64 * 1024 * 1024
"""The most bytes of keys and values that the ranges of one transaction may read (a delete reads what it removes)."""


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


_COMPARISONS: dict[str, Callable[[bytes | int, bytes | int], bool]] = {
    "==": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    ">": operator.gt,
}


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
