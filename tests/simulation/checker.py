"""Whether a history of concurrent operations is linearizable: the method, and why it is right.

**What is asked.** A history is linearizable (Herlihy and Wing, "Linearizability: a correctness condition for
concurrent objects", ACM TOPLAS 12(3), 1990) if every operation can be given a moment between its invocation and its
return at which it seems to happen, all at once, so that the operations in the order of their moments are what one
client alone could have done and been told. Here the object is the whole keyspace, not each key: operations of
several keys at once are atomic too, which makes the property strict serializability.

**Why it is usually dear.** To find that order among n operations is NP-complete (Gibbons and Korach, 1997).
Checkers such as Wing and Gong's, Lowe's or Porcupine search for it, and make the search smaller by *partitioning*:
linearizability is local (theorem 1 of Herlihy and Wing: a history is linearizable if and only if the part of it on
each object is), so single-key operations can be checked key by key.

**Why it is cheap here.** The store itself says in which order it did its writes: each has a revision. There is no
order to be searched for, only to be believed or refuted, and the store cannot cheat, because the order is the one
that it shows every client. What is left is to find a *place* for each operation in it: 2r for the write that made
revision r, 2r + 1 for what saw the state of revision r without changing it. So nothing needs to be partitioned to
be affordable, and transactions and listings over several keys are checked as they are, on the whole state.
(Locality works in this direction too: if this check passes, then so does that of each key.) In three steps:

1. *Effects.* ``Log`` has checked that the watch history hangs together. Every acknowledged write must be in it,
   under the revision that its client was told, with exactly the changes and the answers that ``model.run`` computes
   on the state before; no two may claim the same revision. A write that was refused must not be in it. Every
   revision must be somebody's (or, if allowed, the whole of a lease's end). As values are never written twice, a
   lost update, a half transaction, a write done twice and a value out of nowhere all fail here.
2. *Unknown outcomes.* A revision that nobody claims is given to an operation of unknown outcome that would have
   made exactly these changes, each operation to one revision at most. Several may fit (two deletes of one key): a
   maximum bipartite matching settles it. An unknown operation that gets no revision had no effect and is left out.
3. *Real time.* Each operation now has a set of places where its answer is right: one for a write, a listing or a
   transaction; stretches of places for a get, whose answer says nothing but what the key was. If one operation
   returned before another was invoked it must not have a later place. All constraints have the form place(b) >=
   place(a), so the minimum of two solutions is a solution, and if there is one at all then there is a least one. It
   is found in one sweep through time: whoever is invoked takes the lowest right place that is not below any of
   those that have returned. If there is none, then there is no solution, and the operation and the one that it
   contradicts are named.

**Sound:** what is accepted is linearizable. The places are the order (among equal ones, which only read the same
state, any order that agrees with real time will do), and the answers were compared with the model on it.

**Complete:** a linearizable history is accepted, given the store's order of writes. The one choice that is not
forced is the matching in step 2. The sweep, and its mirror image in time, give the lowest and the highest place
that each other operation can have, and by that the window of each unknown one: alone it can be anywhere in it. What
is not looked at is how two unknown operations bound each other. One that may still take effect after everything
(``NEVER``) bounds nobody. Those of a process that was killed are bounded by its death, and the first listing after
it separates them from all that follow. So the choice is free in the histories that are recorded here; in others the
check would err by refusing, never by accepting. ``test_checker`` compares it with an exhaustive search.
"""

from __future__ import annotations

import bisect
import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import NamedTuple

from platformd.coordination.contract import Delete, Event, KeyValue, Listing, Put, TxnResult
from tests.simulation import model
from tests.simulation.history import Fetch, Log, NotLinearizable, Operation, Outcome, Range, Txn

FUTURE = "future_revision"
"""The refusal of a read that says something about the store: it was not at that revision yet."""


_BEYOND = 1 << 62
"""Beyond every place."""


class _Placed(NamedTuple):
    """An operation, and the places at which its answer is right."""

    operation: Operation
    stretches: Sequence[tuple[int, int]]
    """First and last place of each, in order."""


def check(operations: Iterable[Operation], log: Log, *, leases: bool = False) -> int:
    """Refuse a history that is not linearizable.

    Args:
        operations: what all clients did and were told. No value is written twice.
        log: what the store says happened, from before the first operation to after the last.
        leases: whether leases may have ended meanwhile.

    Returns:
        How many operations of unknown outcome were done.

    Raises:
        NotLinearizable: it says which operation cannot be, and why.
    """
    everything = sorted(operations, key=lambda operation: operation.invoked_at)
    claims: dict[int, Operation] = {}
    placed = [_place(operation, log, claims) for operation in everything if _tells(operation)]
    orphans = [revision for revision in log.revisions() if revision not in claims]
    if leases:
        orphans = [revision for revision in orphans if not _is_lease_end(log, revision)]
    unknown = [
        operation
        for operation in everything
        if operation.outcome is Outcome.UNKNOWN and isinstance(operation.request, Txn)
    ]
    settled = _settle(orphans, unknown, placed, log)
    for revision in orphans:
        if revision not in settled:
            raise NotLinearizable(_nobodys(revision, everything, log))
    placed += [_Placed(operation, [(2 * revision, 2 * revision)]) for revision, operation in settled.items()]
    _least(placed)
    return len(settled)


def _tells(operation: Operation) -> bool:
    """Whether its outcome is a fact about the store's state."""
    return operation.outcome is Outcome.OK or operation.refusal == FUTURE


# --- 1: effects -----------------------------------------------------------------------------------


def _place(operation: Operation, log: Log, claims: dict[int, Operation]) -> _Placed:
    request = operation.request
    if operation.refusal == FUTURE and not isinstance(request, Txn):
        return _Placed(operation, [(2 * log.base + 1, 2 * request.revision - 1)])
    if isinstance(request, Txn):
        return _Placed(operation, [_place_txn(operation, request, log, claims)])
    if isinstance(request, Range):
        return _Placed(operation, [_place_listing(operation, request, log)])
    return _Placed(operation, _place_fetch(operation, request, log))


def _place_txn(operation: Operation, request: Txn, log: Log, claims: dict[int, Operation]) -> tuple[int, int]:
    assert isinstance(operation.result, TxnResult)
    revision = operation.result.revision
    if not log.base <= revision <= log.last:
        raise NotLinearizable(f"{operation} is not in the store's history, which ends at revision {log.last}: lost")
    effective = model.changes_something(operation.result)
    before = revision - 1 if effective else revision
    done = model.run(log.state(before), before, request)
    if done.result != operation.result:
        raise NotLinearizable(
            f"{operation} was told {operation.result}, "
            f"but on the state of revision {before} it is {done.result} ({_state(log, before)})"
        )
    if not effective:
        return 2 * revision + 1, 2 * revision + 1
    if revision in claims:
        raise NotLinearizable(f"two writes were told revision {revision}: {claims[revision]} and {operation}")
    happened = log.changes(revision)
    if done.events != happened:
        became = f"{_events(done.events)} became {_events(happened)}"
        raise NotLinearizable(f"{operation} is not what revision {revision} did: {became}")
    claims[revision] = operation
    return 2 * revision, 2 * revision


def _place_listing(operation: Operation, request: Range, log: Log) -> tuple[int, int]:
    assert isinstance(operation.result, Listing)
    told = operation.result
    revision = request.revision or told.revision
    if revision > log.last:
        raise NotLinearizable(f"{operation} is of a revision that never was; the last is {log.last}")
    if told != model.select(log.state(revision), revision, request):
        raise NotLinearizable(f"{operation} is not the state of revision {revision} ({_state(log, revision)})")
    return 2 * revision + 1, 2 * log.last + 1 if request.revision else 2 * revision + 1


def _place_fetch(operation: Operation, request: Fetch, log: Log) -> list[tuple[int, int]]:
    assert operation.result is None or isinstance(operation.result, KeyValue)
    if request.revision:
        if log.at(request.key, request.revision) != operation.result:
            raise NotLinearizable(f"{operation} is not what the key was then: {log.at(request.key, request.revision)}")
        return [(2 * request.revision + 1, 2 * log.last + 1)]
    spans = log.spans(request.key, operation.result)
    if not spans:
        raise NotLinearizable(f"{operation} was told {operation.result}, which the key never was")
    return [(2 * first + 1, 2 * last + 1) for first, last in spans]


# --- 2: unknown outcomes --------------------------------------------------------------------------


def _settle(
    orphans: Sequence[int], unknown: Sequence[Operation], placed: Sequence[_Placed], log: Log
) -> dict[int, Operation]:
    """Who made the revisions that nobody claims (Kuhn's algorithm for a maximum matching)."""
    places = _Windows(placed)
    windows = [(operation, *places.of(operation)) for operation in unknown]
    makers: dict[int, list[Operation]] = {}
    for revision in orphans:
        state, changes = log.state(revision - 1), log.changes(revision)
        makers[revision] = [
            operation
            for operation, low, high in windows
            if low < 2 * revision < high
            and isinstance(operation.request, Txn)
            and model.run(state, revision - 1, operation.request).events == changes
        ]
    revision_of: dict[int, int] = {}  # by the identity of the operation

    def give(revision: int, tried: set[int]) -> bool:
        for operation in makers[revision]:
            if id(operation) in tried:
                continue
            tried.add(id(operation))
            held = revision_of.get(id(operation))
            if held is None or give(held, tried):
                revision_of[id(operation)] = revision
                return True
        return False

    for revision in orphans:
        give(revision, set())
    by_id = {id(operation): operation for operation in unknown}
    return {revision: by_id[identity] for identity, revision in revision_of.items()}


class _Windows:
    """Between which places an operation must be if all the others are to have places too."""

    def __init__(self, placed: Sequence[_Placed]) -> None:
        least, greatest = _least(placed), [-place for place in _least(list(map(_mirrored, placed)))]
        by_return = sorted((p.operation.returned_at, place) for p, place in zip(placed, least, strict=True))
        by_invocation = sorted((-p.operation.invoked_at, place) for p, place in zip(placed, greatest, strict=True))
        self._returned = [moment for moment, _ in by_return]
        self._highest = [0, *itertools.accumulate((place for _, place in by_return), max)]
        self._invoked = [moment for moment, _ in by_invocation]
        self._lowest = [math.inf, *itertools.accumulate((place for _, place in by_invocation), min)]

    def of(self, operation: Operation) -> tuple[float, float]:
        """The highest place before it and the lowest place after it."""
        before = bisect.bisect_left(self._returned, operation.invoked_at)
        after = bisect.bisect_left(self._invoked, -operation.returned_at)
        return self._highest[before], self._lowest[after]


def _mirrored(one: _Placed) -> _Placed:
    """The same with time and places the other way round: its least solution is the greatest one's mirror image."""
    operation = replace(one.operation, invoked_at=-one.operation.returned_at, returned_at=-one.operation.invoked_at)
    return _Placed(operation, [(-last, -first) for first, last in reversed(one.stretches)])


def _is_lease_end(log: Log, revision: int) -> bool:
    """Whether a revision is the end of one lease with all its keys."""
    changes, state = log.changes(revision), log.state(revision - 1)
    leases = {event.previous.lease for event in changes if event.type == "delete" and event.previous}
    return any(lease and model.lease_end(state, lease, revision) == changes for lease in leases)


# --- 3: real time ---------------------------------------------------------------------------------


def _least(placed: Sequence[_Placed]) -> list[int]:
    """For every operation the lowest place that is right and not before what had returned."""
    moments = sorted(
        [(p.operation.invoked_at, False, p) for p in placed] + [(p.operation.returned_at, True, p) for p in placed],
        key=lambda moment: moment[:2],
    )
    taken: dict[int, int] = {}  # by the identity of the operation
    floor, witness = -_BEYOND, None
    for _, returned, one in moments:
        if not returned:
            lowest = ((max(first, floor | 1), last) for first, last in one.stretches)
            place = next((place for place, last in lowest if place <= last), None)
            if place is None:
                raise NotLinearizable(_contradiction(one, floor, witness))
            taken[id(one)] = place
        elif taken[id(one)] > floor:
            floor, witness = taken[id(one)], one
    return [taken[id(one)] for one in placed]


def _contradiction(one: _Placed, floor: int, witness: _Placed | None) -> str:
    if witness is None:
        return f"{one.operation} cannot be at any revision"
    saw = f"was done as revision {floor // 2}" if floor % 2 == 0 else f"saw revision {floor // 2} or a later one"
    last = one.stretches[-1][1]
    means = f"is revision {last // 2}" if last % 2 == 0 else f"was last true at revision {last // 2}"
    return f"{one.operation} {means}, but before it began, {witness.operation} {saw}"


# --- words ----------------------------------------------------------------------------------------


def _nobodys(revision: int, operations: Iterable[Operation], log: Log) -> str:
    """Why a revision that nobody made should not be there."""
    changes = log.changes(revision)
    said = f"revision {revision} ({_events(changes)}) is nobody's"
    for operation in operations:
        if isinstance(operation.request, Txn) and _could_have(operation.request, changes):
            return f"{said}: {operation} is another revision's, was refused, or cannot have been then"
    return said


def _could_have(request: Txn, changes: Sequence[Event]) -> bool:
    """Whether a transaction writes what a revision wrote, or deletes what it deleted."""
    operations = (*request.then, *request.otherwise)
    puts = {(one.key, one.value) for one in operations if isinstance(one, Put)}
    deletes = {one.key for one in operations if isinstance(one, Delete)}
    written = {(event.kv.key, event.kv.value) for event in changes if event.type == "put"}
    return bool(puts & written) if written else any(event.kv.key in deletes for event in changes)


def _events(events: Iterable[Event]) -> str:
    told = [f"put {_pair(e.kv)}" if e.type == "put" else f"delete {e.kv.key.decode()}" for e in events]
    return ", ".join(told) or "nothing"


def _state(log: Log, revision: int) -> str:
    items = ", ".join(map(_pair, log.state(revision).values()))
    return f"revision {revision} has {items or 'nothing'}"


def _pair(kv: KeyValue) -> str:
    return f"{kv.key.decode()}={kv.value.decode()}"
