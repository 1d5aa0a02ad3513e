"""What a store is, in one thread: the sequential specification that concurrent histories are compared with.

Written from the contract, not from an engine, and as plain as it can be.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping
from typing import Any, NamedTuple

from platformd.coordination.contract import (
    Compare,
    DeleteResult,
    Event,
    Get,
    GetResult,
    KeyValue,
    Listing,
    Put,
    PutResult,
    TxnResult,
)
from tests.simulation.history import Range, Txn

State = Mapping[bytes, KeyValue]

_OPERATORS: dict[str, Any] = {"==": operator.eq, "!=": operator.ne, "<": operator.lt, ">": operator.gt}


class Done(NamedTuple):
    """What a transaction does to a state."""

    result: TxnResult
    events: tuple[Event, ...]
    """By key, with what was before; none if it changes nothing."""


def run(state: State, revision: int, txn: Txn) -> Done:
    """A transaction on the state of ``revision``."""
    succeeded = all(_holds(state, compare) for compare in txn.compares)
    now = dict(state)
    results: list[PutResult | DeleteResult | GetResult] = []
    changed: set[bytes] = set()
    for operation in txn.then if succeeded else txn.otherwise:
        if isinstance(operation, Put):
            before = now.get(operation.key)
            now[operation.key] = _after(operation, before, revision + 1)
            changed.add(operation.key)
            results.append(PutResult(before))
            continue
        found = _within(now, operation.key, operation.key + b"\x00" if operation.end is None else operation.end)
        if isinstance(operation, Get):
            results.append(GetResult(found))
        else:
            for kv in found:
                del now[kv.key]
                changed.add(kv.key)
            results.append(DeleteResult(len(found), found))
    events = tuple(_event(key, now.get(key), state.get(key), revision + 1) for key in sorted(changed))
    after = revision + 1 if events else revision
    return Done(TxnResult(succeeded=succeeded, revision=after, results=tuple(results)), events)


def select(state: State, revision: int, request: Range) -> Listing:
    """What a listing of the state of ``revision`` is."""
    found = list(_within(state, request.key, request.end))
    if request.order.endswith("mod_revision"):
        found.sort(key=lambda kv: (kv.mod_revision, kv.key))
    if request.order.startswith("-"):
        found.reverse()
    items = tuple(found[: request.limit or None])
    return Listing(items=items, revision=revision, more=len(items) < len(found), count=len(found))


def changes_something(result: TxnResult) -> bool:
    """Whether a transaction with this result had an effect."""
    return any(
        isinstance(one, PutResult) or (isinstance(one, DeleteResult) and one.deleted > 0) for one in result.results
    )


def lease_end(state: State, lease: int, revision: int) -> tuple[Event, ...]:
    """What the end of a lease does in ``revision`` to the state before it."""
    return tuple(_event(key, None, kv, revision) for key, kv in sorted(state.items()) if kv.lease == lease)


def _holds(state: State, compare: Compare) -> bool:
    kv = state.get(compare.key)
    if kv is None and compare.target == "value":
        return False
    return bool(_OPERATORS[compare.operator](getattr(kv, compare.target) if kv else 0, compare.operand))


def _after(put: Put, before: KeyValue | None, revision: int) -> KeyValue:
    return KeyValue(
        key=put.key,
        value=put.value,
        create_revision=before.create_revision if before else revision,
        mod_revision=revision,
        version=before.version + 1 if before else 1,
        lease=put.lease,
    )


def _within(state: State, key: bytes, end: bytes | None) -> tuple[KeyValue, ...]:
    return tuple(state[k] for k in sorted(state) if key <= k and (end is None or k < end))


def _event(key: bytes, kv: KeyValue | None, before: KeyValue | None, revision: int) -> Event:
    if kv is not None:
        return Event(type="put", kv=kv, previous=before)
    gone = KeyValue(key=key, value=b"", create_revision=0, mod_revision=revision, version=0)
    return Event(type="delete", kv=gone, previous=before)
