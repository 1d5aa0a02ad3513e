"""What the server says: encoded from tuples, decoded into frames that give the contract's facts.

A fact is made from its array in Python, once for each key and value: a list of a thousand keys takes about half a
millisecond on each side.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import msgspec

from platformd.coordination.codec import frames
from platformd.coordination.codec.requests import Malformed
from platformd.coordination.contract import (
    Compacted,
    DeleteResult,
    Event,
    FutureRevision,
    GetResult,
    KeyValue,
    Lease,
    Listing,
    PutResult,
    StoreStatus,
    TxnResult,
    WatchBatch,
)
from platformd.core.errors import PlatformError, from_problem

_Id = Annotated[int, msgspec.Meta(ge=0, le=frames.MAX_INT)]


class _Message(msgspec.Struct, frozen=True, array_like=True, gc=False):
    pass


class WireKeyValue(_Message, frozen=True):
    """``KeyValue`` as it travels."""

    key: bytes
    value: bytes
    create_revision: int
    mod_revision: int
    version: int
    lease: int = 0


class WirePutResult(_Message, frozen=True, tag=frames.PUT):
    """``PutResult`` as it travels."""

    previous: WireKeyValue | None


class WireDeleteResult(_Message, frozen=True, tag=frames.DELETE):
    """``DeleteResult`` as it travels."""

    deleted: int
    previous: list[WireKeyValue]


class WireGetResult(_Message, frozen=True, tag=frames.READ):
    """``GetResult`` as it travels."""

    items: list[WireKeyValue]


class WireEvent(_Message, frozen=True):
    """``Event`` as it travels."""

    is_delete: bool
    kv: WireKeyValue
    previous: WireKeyValue | None = None


class WireLease(_Message, frozen=True):
    """``Lease`` as it travels."""

    id: int
    ttl: float
    remaining: float
    keys: tuple[bytes, ...] = ()

    @property
    def fact(self) -> Lease:
        """As the contract has it."""
        return Lease(id=self.id, ttl=self.ttl, remaining=self.remaining, keys=self.keys)


class HelloReply(_Message, frozen=True, tag=frames.HELLO):
    """The server's first message."""

    magic: str
    version: int
    name: str
    max_frame: int
    max_in_flight: int
    max_credit: int


class KeyValueReply(_Message, frozen=True, tag=frames.KEY_VALUE):
    """Answers get."""

    id: _Id
    kv: WireKeyValue | None

    @property
    def fact(self) -> KeyValue | None:
        """As the contract has it."""
        return _maybe(self.kv)


class ListingReply(_Message, frozen=True, tag=frames.LISTING):
    """Answers list, perhaps in part."""

    id: _Id
    items: list[WireKeyValue]
    revision: int
    more: bool
    count: int

    @property
    def fact(self) -> Listing:
        """As the contract has it."""
        return Listing(items=_all(self.items), revision=self.revision, more=self.more, count=self.count)


class OutcomeReply(_Message, frozen=True, tag=frames.OUTCOME):
    """Answers txn."""

    id: _Id
    succeeded: bool
    revision: int
    results: list[WirePutResult | WireDeleteResult | WireGetResult]

    @property
    def fact(self) -> TxnResult:
        """As the contract has it."""
        results = tuple([_result(result) for result in self.results])
        return TxnResult(succeeded=self.succeeded, revision=self.revision, results=results)


class WatchingReply(_Message, frozen=True, tag=frames.WATCHING):
    """Answers watch: it is in place."""

    id: _Id
    revision: int


class EventsReply(_Message, frozen=True, tag=frames.EVENTS):
    """The next batch of a watch."""

    id: _Id
    revision: int
    events: list[WireEvent]

    @property
    def fact(self) -> WatchBatch:
        """As the contract has it."""
        return WatchBatch(revision=self.revision, events=tuple([_event(event) for event in self.events]))


class CountReply(_Message, frozen=True, tag=frames.COUNT):
    """Answers revoke."""

    id: _Id
    fact: int


class LeaseReply(_Message, frozen=True, tag=frames.LEASE):
    """Answers what is asked of one lease."""

    id: _Id
    lease: WireLease

    @property
    def fact(self) -> Lease:
        """As the contract has it."""
        return self.lease.fact


class LeasesReply(_Message, frozen=True, tag=frames.LEASES):
    """Answers leases."""

    id: _Id
    leases: list[WireLease]

    @property
    def fact(self) -> tuple[Lease, ...]:
        """As the contract has it."""
        return tuple([lease.fact for lease in self.leases])


class StatusReply(_Message, frozen=True, tag=frames.STATUS):
    """Answers status."""

    id: _Id
    fact: StoreStatus


class DoneReply(_Message, frozen=True, tag=frames.DONE):
    """Answers what has no other answer."""

    id: _Id
    fact: None = None


class ProblemReply(_Message, frozen=True, tag=frames.PROBLEM):
    """Refuses a request (``id``), or the connection (0)."""

    id: _Id
    problem: dict[str, Any]

    @property
    def error(self) -> PlatformError:
        """As an exception, of the class that was raised."""
        return error_of(self.problem)


class Goodbye(_Message, frozen=True, tag=frames.GOODBYE):
    """What has not been answered was not done."""

    id: int = 0


Answer = (
    KeyValueReply
    | ListingReply
    | OutcomeReply
    | WatchingReply
    | CountReply
    | LeaseReply
    | LeasesReply
    | StatusReply
    | DoneReply
    | ProblemReply
)
"""What answers a request."""

Reply = HelloReply | Answer | EventsReply | Goodbye

_REPLIES: msgspec.msgpack.Decoder[Reply] = msgspec.msgpack.Decoder(Reply)


def decode_reply(frame: bytes | bytearray) -> Reply:
    """What a server's message says.

    Raises:
        Malformed: it is not a message of a server.
    """
    try:
        return _REPLIES.decode(frame)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Malformed(str(error)) from error


def _fact(kv: WireKeyValue) -> KeyValue:
    return KeyValue(
        key=kv.key,
        value=kv.value,
        create_revision=kv.create_revision,
        mod_revision=kv.mod_revision,
        version=kv.version,
        lease=kv.lease,
    )


def _maybe(kv: WireKeyValue | None) -> KeyValue | None:
    return None if kv is None else _fact(kv)


def _all(kvs: list[WireKeyValue]) -> tuple[KeyValue, ...]:
    return tuple([_fact(kv) for kv in kvs])


def _result(result: WirePutResult | WireDeleteResult | WireGetResult) -> PutResult | DeleteResult | GetResult:
    if isinstance(result, WirePutResult):
        return PutResult(_maybe(result.previous))
    if isinstance(result, WireDeleteResult):
        return DeleteResult(result.deleted, _all(result.previous))
    return GetResult(_all(result.items))


def _event(event: WireEvent) -> Event:
    return Event(type="delete" if event.is_delete else "put", kv=_fact(event.kv), previous=_maybe(event.previous))


def error_of(problem: dict[str, Any]) -> PlatformError:
    """The exception that a problem stands for, of the store's own classes where it is one of theirs."""
    error = from_problem(problem)
    oldest = error.details.get("compact_revision")
    if problem.get("code") == Compacted.code and isinstance(oldest, int):
        compacted = Compacted(0, oldest)
        # The asked-for revision is in the message only.
        compacted.args, compacted.message, compacted.subject = (error.message,), error.message, error.subject
        compacted.hint, compacted.details = error.hint, error.details
        return compacted
    if problem.get("code") == FutureRevision.code:
        return FutureRevision(error.message, subject=error.subject, hint=error.hint, details=error.details)
    return error


# --- to the wire -----------------------------------------------------------------------------------


def wire_kv(kv: KeyValue | None) -> tuple[Any, ...] | None:
    """A key as it travels."""
    if kv is None:
        return None
    return (kv.key, kv.value, kv.create_revision, kv.mod_revision, kv.version, kv.lease)


def wire_listing(
    request_id: int, items: Sequence[KeyValue], revision: int, count: int, *, more: bool
) -> tuple[Any, ...]:
    """Answers list."""
    return (frames.LISTING, request_id, [wire_kv(kv) for kv in items], revision, more, count)


def wire_outcome(request_id: int, result: TxnResult) -> tuple[Any, ...]:
    """Answers txn."""
    results = [_wire_result(each) for each in result.results]
    return (frames.OUTCOME, request_id, result.succeeded, result.revision, results)


def _wire_result(result: PutResult | DeleteResult | GetResult) -> tuple[Any, ...]:
    if isinstance(result, PutResult):
        return (frames.PUT, wire_kv(result.previous))
    if isinstance(result, DeleteResult):
        return (frames.DELETE, result.deleted, [wire_kv(kv) for kv in result.previous])
    return (frames.READ, [wire_kv(kv) for kv in result.items])


def wire_events(request_id: int, batch: WatchBatch) -> tuple[Any, ...]:
    """The next batch of a watch."""
    events = [(event.type == "delete", wire_kv(event.kv), wire_kv(event.previous)) for event in batch.events]
    return (frames.EVENTS, request_id, batch.revision, events)


def wire_lease(lease: Lease) -> tuple[Any, ...]:
    """A lease as it travels."""
    return (lease.id, lease.ttl, lease.remaining, lease.keys)


def wire_problem(request_id: int, error: PlatformError) -> tuple[Any, ...]:
    """Refuses a request, or with id 0 the connection."""
    return (frames.PROBLEM, request_id, error.to_problem())
