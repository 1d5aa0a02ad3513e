"""etcd's requests and answers, to and from the contract's facts.

Field numbers are those of etcd's ``api/etcdserverpb/rpc.proto`` and ``api/mvccpb/kv.proto``; the name of a
message's field stands beside its number where the code does not say it.
"""

from __future__ import annotations

from typing import NamedTuple

from platformd.coordination.contract import (
    Compare,
    Delete,
    DeleteResult,
    Event,
    EventType,
    Get,
    GetResult,
    KeyValue,
    Operation,
    Order,
    Put,
    PutResult,
)
from platformd.coordination.etcd.keyspace import Bounds, Keyspace
from platformd.coordination.etcd.wire import (
    INT64_MAX,
    INT64_MIN,
    Malformed,
    blob,
    chosen_integer,
    content,
    fields,
    integer,
    signed,
    text,
)

RANGE = "/etcdserverpb.KV/Range"
PUT = "/etcdserverpb.KV/Put"
TXN = "/etcdserverpb.KV/Txn"
COMPACT = "/etcdserverpb.KV/Compact"
WATCH = "/etcdserverpb.Watch/Watch"
LEASE_GRANT = "/etcdserverpb.Lease/LeaseGrant"
LEASE_REVOKE = "/etcdserverpb.Lease/LeaseRevoke"
LEASE_KEEP_ALIVE = "/etcdserverpb.Lease/LeaseKeepAlive"
LEASE_TIME_TO_LIVE = "/etcdserverpb.Lease/LeaseTimeToLive"
LEASES = "/etcdserverpb.Lease/LeaseLeases"
STATUS = "/etcdserverpb.Maintenance/Status"
AUTHENTICATE = "/etcdserverpb.Auth/Authenticate"

# --- keys and values -------------------------------------------------------------------------------


def key_value(message: bytes, cut: int) -> KeyValue:
    """``mvccpb.KeyValue``; the first ``cut`` bytes of its key are the prefix."""
    key = value = b""
    create = mod = version = lease = 0
    for number, what in fields(message):
        if number == 1:
            key = content(what)[cut:]
        elif number == 2:
            create = signed(what)
        elif number == 3:
            mod = signed(what)
        elif number == 4:
            version = signed(what)
        elif number == 5:
            value = content(what)
        elif number == 6:
            lease = signed(what)
    return KeyValue(key=key, value=value, create_revision=create, mod_revision=mod, version=version, lease=lease)


def _revision(header: int | bytes) -> int:
    """``ResponseHeader.revision``."""
    for number, what in fields(content(header)):
        if number == 3:
            return signed(what)
    return 0


# --- ranges ----------------------------------------------------------------------------------------

_ASCENDING, _DESCENDING = 1, 2
_KEY, _MOD = 0, 3
_SORTS = {"key": b"", "-key": integer(5, _DESCENDING) + integer(6, _KEY)} | {
    "mod_revision": integer(5, _ASCENDING) + integer(6, _MOD),
    "-mod_revision": integer(5, _DESCENDING) + integer(6, _MOD),
}


def range_request(
    bounds: Bounds,
    *,
    revision: int = 0,
    limit: int = 0,
    keys_only: bool = False,
    count_only: bool = False,
    order: Order = "key",
    changed: tuple[int, int] = (0, 0),
) -> bytes:
    """``RangeRequest``, linearizable. Of keys of one revision, etcd's order by revision is any.

    ``changed``: only what changed last at or after the first and at or before the second revision (0: any).
    """
    request = text(1, bounds.key) + text(2, bounds.end) + integer(3, limit) + integer(4, revision) + _SORTS[order]
    request += integer(8, keys_only) + integer(9, count_only)
    return request + integer(10, changed[0]) + integer(11, changed[1])


class Range(NamedTuple):
    """``RangeResponse``."""

    items: list[KeyValue]
    revision: int
    more: bool
    total: int
    """Of all keys in the range, whatever the limit."""


def range_response(message: bytes, cut: int) -> Range:
    """Decode a ``RangeResponse``."""
    items: list[KeyValue] = []
    revision = total = 0
    more = False
    for number, what in fields(message):
        if number == 2:
            items.append(key_value(content(what), cut))
        elif number == 1:
            revision = _revision(what)
        elif number == 3:
            more = bool(what)
        elif number == 4:
            total = signed(what)
    return Range(items, revision, more, total)


# --- transactions ----------------------------------------------------------------------------------

_RESULT = {"==": 0, ">": 1, "<": 2, "!=": 3}
_TARGET = {"version": (0, 4), "create_revision": (1, 5), "mod_revision": (2, 6), "value": (3, 7), "lease": (4, 8)}
_PREVIOUS_OF_PUT, _PREVIOUS_OF_DELETE = integer(4, 1), integer(3, 1)


def put_request(put: Put, keyspace: Keyspace) -> bytes:
    """``PutRequest``, which asks for the former state too."""
    return text(1, keyspace.key(put.key)) + text(2, put.value) + integer(3, put.lease) + _PREVIOUS_OF_PUT


def put_response(message: bytes, cut: int) -> tuple[PutResult, int]:
    """Decode a ``PutResponse``: the result and the revision."""
    previous: KeyValue | None = None
    revision = 0
    for number, what in fields(message):
        if number == 1:
            revision = _revision(what)
        elif number == 2:
            previous = key_value(content(what), cut)
    return PutResult(previous), revision


def txn_request(
    compares: tuple[Compare, ...], then: tuple[Operation, ...], otherwise: tuple[Operation, ...], keyspace: Keyspace
) -> bytes:
    """``TxnRequest``."""
    parts = [blob(1, _compare(compare, keyspace)) for compare in compares]
    parts += [blob(2, _operation(operation, keyspace)) for operation in then]
    parts += [blob(3, _operation(operation, keyspace)) for operation in otherwise]
    return b"".join(parts)


def _compare(compare: Compare, keyspace: Keyspace) -> bytes:
    target, field = _TARGET[compare.target]
    head = integer(1, _RESULT[compare.operator]) + integer(2, target) + text(3, keyspace.key(compare.key))
    if isinstance(compare.operand, bytes):
        return head + blob(field, compare.operand)
    # No revision, version or lease lies beyond 64 bits, so the nearest number compares alike.
    return head + chosen_integer(field, max(INT64_MIN, min(INT64_MAX, compare.operand)))


def _operation(operation: Operation, keyspace: Keyspace) -> bytes:
    if isinstance(operation, Put):
        return blob(2, put_request(operation, keyspace))
    bounds = keyspace.of_operation(operation.key, operation.end)
    if bounds.empty:  # stands in, so that each operation has its answer
        return blob(1, range_request(bounds, count_only=True))
    if isinstance(operation, Get):
        return blob(1, range_request(bounds))
    return blob(3, text(1, bounds.key) + text(2, bounds.end) + _PREVIOUS_OF_DELETE)


OperationResult = PutResult | DeleteResult | GetResult


class Txn(NamedTuple):
    """``TxnResponse``."""

    succeeded: bool
    revision: int
    answers: list[bytes]


def txn_response(message: bytes) -> Txn:
    """Decode a ``TxnResponse``, all but the operations' answers: which branch they are of must be known first."""
    succeeded, revision, answers = False, 0, []
    for number, what in fields(message):
        if number == 3:
            answers.append(content(what))
        elif number == 1:
            revision = _revision(what)
        elif number == 2:
            succeeded = bool(what)
    return Txn(succeeded, revision, answers)


def operation_result(operation: Operation, answer: bytes, cut: int) -> OperationResult:
    """Decode a ``ResponseOp``."""
    found = fields(answer)
    if len(found) != 1:
        raise Malformed("an operation without its answer")
    inner = content(found[0][1])
    if isinstance(operation, Put):
        return put_response(inner, cut)[0]
    if isinstance(operation, Delete):
        found = fields(inner)  # for an empty range: of a ``RangeResponse`` without fields 2 and 3
        deleted = sum(signed(value) for number, value in found if number == 2)
        return DeleteResult(deleted, tuple(key_value(content(value), cut) for number, value in found if number == 3))
    return GetResult(tuple(range_response(inner, cut).items))


# --- watches ---------------------------------------------------------------------------------------

_WITHOUT = {"delete": chosen_integer(5, 0), "put": chosen_integer(5, 1)}  # the filter that leaves only this one
_PROGRESS_REQUEST = blob(3, b"")


def watch_create(
    bounds: Bounds, start_revision: int, *, previous: bool, only: EventType | None, watch_id: int = 0
) -> bytes:
    """``WatchRequest`` for a new watch: large revisions in fragments, and now and then its progress.

    ``watch_id``: the number that it shall have on its stream; 0 for one of etcd's choice.
    """
    request = text(1, bounds.key) + text(2, bounds.end) + integer(3, start_revision) + integer(4, 1)
    for kind, filtered in _WITHOUT.items():
        if bounds.empty or only == kind:
            request += filtered
    return blob(1, request + integer(6, previous) + integer(7, watch_id) + integer(8, 1))


def watch_cancel(watch_id: int) -> bytes:
    """``WatchRequest`` for the end of one watch of a stream."""
    return blob(2, integer(1, watch_id))


def watch_progress() -> bytes:
    """``WatchRequest`` for the stream's progress."""
    return _PROGRESS_REQUEST


class WatchAnswer(NamedTuple):
    """``WatchResponse``."""

    watch_id: int
    """Of the stream's watches; -1: all of them, or one that is refused."""
    revision: int
    created: bool
    canceled: bool
    compact_revision: int
    reason: str
    fragment: bool
    events: list[Event]


def watch_response(message: bytes, cut: int) -> WatchAnswer:
    """Decode a ``WatchResponse``."""
    watch_id = revision = compact_revision = 0
    created = canceled = fragment = False
    reason = ""
    events: list[Event] = []
    for number, what in fields(message):
        if number == 11:
            events.append(_event(content(what), cut))
        elif number == 1:
            revision = _revision(what)
        elif number == 2:
            watch_id = signed(what)
        elif number == 3:
            created = bool(what)
        elif number == 4:
            canceled = bool(what)
        elif number == 5:
            compact_revision = signed(what)
        elif number == 6:
            reason = content(what).decode(errors="replace")
        elif number == 7:
            fragment = bool(what)
    return WatchAnswer(watch_id, revision, created, canceled, compact_revision, reason, fragment, events)


def _event(message: bytes, cut: int) -> Event:
    deleted = False
    kv = previous = None
    for number, what in fields(message):
        if number == 2:
            kv = key_value(content(what), cut)
        elif number == 3:
            previous = key_value(content(what), cut)
        elif number == 1:
            deleted = bool(what)
    if kv is None:
        kv = key_value(b"", 0)
    return Event(type="delete" if deleted else "put", kv=kv, previous=previous)


# --- leases, and what is left ----------------------------------------------------------------------


def lease_grant(lease_id: int, ttl: int) -> bytes:
    """``LeaseGrantRequest``."""
    return integer(1, ttl) + integer(2, lease_id)


def lease_request(lease_id: int, *, keys: bool = False) -> bytes:
    """``LeaseRevokeRequest``, ``LeaseKeepAliveRequest``, and with ``keys`` ``LeaseTimeToLiveRequest``."""
    return integer(1, lease_id) + integer(2, keys)


def lease_ttl(message: bytes) -> int:
    """The time to live in a ``LeaseGrantResponse`` or ``LeaseKeepAliveResponse``; 0 if the lease is not there."""
    return next((signed(what) for number, what in fields(message) if number == 3), 0)


class LeaseLeft(NamedTuple):
    """``LeaseTimeToLiveResponse``."""

    id: int
    remaining: int
    """-1: the lease is not there."""
    granted: int
    keys: list[bytes]
    """As etcd has them: with the prefix, and others' keys too."""


def lease_left(message: bytes) -> LeaseLeft:
    """Decode a ``LeaseTimeToLiveResponse``."""
    numbers = {2: 0, 3: 0, 4: 0}
    keys: list[bytes] = []
    for number, what in fields(message):
        if number == 5:
            keys.append(content(what))
        elif number in numbers:
            numbers[number] = signed(what)
    return LeaseLeft(numbers[2], numbers[3], numbers[4], keys)


def lease_ids(message: bytes) -> list[int]:
    """Decode a ``LeaseLeasesResponse``."""
    found = (fields(content(what)) for number, what in fields(message) if number == 2)
    return [signed(what) for lease in found for number, what in lease if number == 1]


def compaction(revision: int) -> bytes:
    """``CompactionRequest``."""
    return integer(1, revision)


class MemberStatus(NamedTuple):
    """``StatusResponse``, what is wanted of it."""

    version: str
    size_bytes: int
    leader: int
    """0: it sees none."""
    learner: bool


def member_status(message: bytes) -> MemberStatus:
    """Decode a ``StatusResponse``."""
    found = dict(fields(message))
    version = content(found.get(2, b"")).decode(errors="replace")
    return MemberStatus(version, signed(found.get(3, 0)), signed(found.get(4, 0)), bool(found.get(10, 0)))


def authenticate(user: str, password: str) -> bytes:
    """``AuthenticateRequest``."""
    return text(1, user.encode()) + text(2, password.encode())


def token(message: bytes) -> bytes:
    """The token in an ``AuthenticateResponse``."""
    return next((content(what) for number, what in fields(message) if number == 2), b"")
