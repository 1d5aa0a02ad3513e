"""Linearizability by exhaustive search, for histories of a handful of operations: what the checker is compared with.

Wing and Gong's algorithm ("Testing and verifying concurrent objects", 1993): choose any operation that nobody
had returned before, do it on the model, and go on with the rest; go back where an answer differs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from platformd.coordination.contract import Event, KeyValue
from tests.simulation import model
from tests.simulation.history import NEVER, Fetch, Log, Operation, Outcome, Range, Txn


def linearizable(operations: Sequence[Operation], log: Log) -> bool:
    """Whether some order of the operations gives these answers and this log."""
    return _search(tuple(operations), {}, log.base, log)


def _search(left: tuple[Operation, ...], state: Mapping[bytes, KeyValue], revision: int, log: Log) -> bool:
    if all(operation.outcome is Outcome.UNKNOWN for operation in left) and revision == log.last:
        return True
    first_return = min((o.returned_at for o in left), default=NEVER)
    for index, operation in enumerate(left):
        if operation.invoked_at > first_return:
            continue
        rest = left[:index] + left[index + 1 :]
        if operation.outcome is Outcome.UNKNOWN and _search(rest, state, revision, log):
            return True  # it was not done
        request = operation.request
        if isinstance(request, Txn):
            done = model.run(state, revision, request)
            if operation.outcome is Outcome.OK and done.result != operation.result:
                continue
            after = done.result.revision
            if after > revision and done.events != log.changes(after):
                continue
            if _search(rest, _apply(state, done.events), after, log):
                return True
        elif _answer(request, state, revision) == operation.result and _search(rest, state, revision, log):
            return True
    return False


def _apply(state: Mapping[bytes, KeyValue], events: Sequence[Event]) -> Mapping[bytes, KeyValue]:
    after = dict(state)
    for event in events:
        if event.type == "put":
            after[event.kv.key] = event.kv
        else:
            del after[event.kv.key]
    return after


def _answer(request: Fetch | Range, state: Mapping[bytes, KeyValue], revision: int) -> object:
    if isinstance(request, Fetch):
        return state.get(request.key)
    return model.select(state, revision, request)
