"""The wire format: what is encoded is decoded to the same, and what is not of it is refused by name."""

from __future__ import annotations

import contextlib
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from platformd.coordination.codec import FrameBuffer, Malformed, append_frame, decode_reply, decode_request, frames
from platformd.coordination.codec.replies import (
    EventsReply,
    LeaseReply,
    ListingReply,
    OutcomeReply,
    ProblemReply,
    error_of,
    wire_events,
    wire_lease,
    wire_listing,
    wire_outcome,
    wire_problem,
)
from platformd.coordination.codec.requests import TxnRequest, wire_txn
from platformd.coordination.contract import (
    Compacted,
    Compare,
    Delete,
    DeleteResult,
    Event,
    FutureRevision,
    Get,
    GetResult,
    KeyValue,
    Lease,
    Put,
    PutResult,
    TxnResult,
    WatchBatch,
)
from platformd.core.errors import BY_CODE, FieldError, InvalidInput, PlatformError, TooLarge

NUMBERS = st.integers(0, frames.MAX_INT)
BLOBS = st.binary(max_size=40)
COMPARES = st.builds(
    Compare,
    BLOBS,
    st.sampled_from(["value", "version", "create_revision", "mod_revision", "lease"]),
    st.sampled_from(["==", "!=", "<", ">"]),
    BLOBS | NUMBERS,
)
ENDS = st.none() | BLOBS
OPERATIONS = st.builds(Put, BLOBS, BLOBS, NUMBERS) | st.builds(Delete, BLOBS, ENDS) | st.builds(Get, BLOBS, ENDS)
KVS = st.builds(
    KeyValue,
    key=BLOBS,
    value=BLOBS,
    create_revision=NUMBERS,
    mod_revision=NUMBERS,
    version=NUMBERS,
    lease=NUMBERS,
)
KV_TUPLES = st.lists(KVS, max_size=4).map(tuple)
RESULTS = (
    st.builds(PutResult, st.none() | KVS)
    | st.builds(DeleteResult, NUMBERS, KV_TUPLES)
    | st.builds(GetResult, KV_TUPLES)
)
EVENTS = st.builds(Event, type=st.sampled_from(["put", "delete"]), kv=KVS, previous=st.none() | KVS)
IDS = st.integers(1, frames.MAX_INT)


def encoded(message: tuple[Any, ...]) -> bytes:
    """The message without its frame."""
    buffer = bytearray()
    append_frame(buffer, message)
    return bytes(buffer[4:])


@given(IDS, st.lists(COMPARES, max_size=4), st.lists(OPERATIONS, max_size=4), st.lists(OPERATIONS, max_size=4))
def test_transactions_arrive_as_they_were(
    request_id: int, compares: list[Compare], then: list[Any], otherwise: list[Any]
) -> None:
    """What the engine is given has the contract's types and the caller's contents."""
    request = decode_request(encoded((frames.TXN, request_id, *wire_txn(compares, then, otherwise))))
    assert isinstance(request, TxnRequest)
    assert request.id == request_id
    for got, sent in ((request.compares, compares), (request.then, then), (request.otherwise, otherwise)):
        assert len(got) == len(sent)
        for one, other in zip(got, sent, strict=True):
            assert isinstance(one, type(other))
            assert msgspec.structs.astuple(one) == msgspec.structs.astuple(other)


@given(IDS, st.builds(TxnResult, succeeded=st.booleans(), revision=NUMBERS, results=st.lists(RESULTS).map(tuple)))
def test_outcomes_arrive_as_they_were(request_id: int, result: TxnResult) -> None:
    """A transaction's result is equal on both sides."""
    reply = decode_reply(encoded(wire_outcome(request_id, result)))
    assert isinstance(reply, OutcomeReply)
    assert (reply.id, reply.fact) == (request_id, result)


@given(IDS, KV_TUPLES, NUMBERS, NUMBERS, st.booleans())
def test_listings_arrive_as_they_were(
    request_id: int, items: tuple[KeyValue, ...], revision: int, count: int, more: bool
) -> None:
    """A list is equal on both sides."""
    reply = decode_reply(encoded(wire_listing(request_id, items, revision, count, more=more)))
    assert isinstance(reply, ListingReply)
    fact = reply.fact
    assert (fact.items, fact.revision, fact.count, fact.more) == (items, revision, count, more)


@given(IDS, st.builds(WatchBatch, revision=NUMBERS, events=st.lists(EVENTS, max_size=4).map(tuple)))
def test_events_arrive_as_they_were(request_id: int, batch: WatchBatch) -> None:
    """A watch's batch is equal on both sides."""
    reply = decode_reply(encoded(wire_events(request_id, batch)))
    assert isinstance(reply, EventsReply)
    assert reply.fact == batch


@given(NUMBERS, st.floats(0, 1e9), st.floats(0, 1e9), st.lists(BLOBS, max_size=4).map(tuple))
def test_leases_arrive_as_they_were(lease_id: int, ttl: float, remaining: float, keys: tuple[bytes, ...]) -> None:
    """A lease is equal on both sides."""
    lease = Lease(id=lease_id, ttl=ttl, remaining=remaining, keys=keys)
    reply = decode_reply(encoded((frames.LEASE, 1, wire_lease(lease))))
    assert isinstance(reply, LeaseReply)
    assert reply.fact == lease


def test_errors_come_back_as_they_were_raised() -> None:
    """Every class of error, with all that it says, is the same exception on the client's side."""
    errors: list[PlatformError] = [
        each("why", subject="what", hint="how", errors=(FieldError(path="a.b", message="no"),), details={"limit": 3})
        for each in BY_CODE.values()
        if each is not Compacted
    ]
    errors += [Compacted(7, 90), FutureRevision("not yet", subject="store")]
    for error in errors:
        reply = decode_reply(encoded(wire_problem(5, error)))
        assert isinstance(reply, ProblemReply)
        again = reply.error
        assert type(again) is type(error)
        assert again.to_problem() == error.to_problem()
        assert str(again) == str(error)
    compacted = error_of(Compacted(7, 90).to_problem())
    assert isinstance(compacted, Compacted)
    assert compacted.compact_revision == 90


@given(st.binary(max_size=200))
def test_garbage_is_refused_by_name(data: bytes) -> None:
    """Whatever the bytes are, a decoder either understands them or says that they are malformed."""
    for decode in (decode_request, decode_reply):
        with contextlib.suppress(Malformed):
            decode(data)


JUNK = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text(max_size=8) | BLOBS,
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=12,
)


@given(st.integers(-1, 20), IDS, st.lists(JUNK, max_size=7))
def test_wrong_fields_are_refused_with_the_id(kind: int, request_id: int, rest: list[Any]) -> None:
    """A well-formed array that is no request says which id it came with, so that it is refused alone."""
    message = encoded((kind, request_id, *rest))
    refused: Malformed | None = None
    try:
        decode_request(message)
    except Malformed as error:
        refused = error
    assert refused is None or (isinstance(refused, InvalidInput) and refused.request_id == request_id)
    with contextlib.suppress(Malformed):
        decode_reply(message)


@given(st.lists(OPERATIONS, min_size=1, max_size=3), st.data())
def test_truncated_messages_are_refused(then: list[Any], data: st.DataObject) -> None:
    """A message that lacks its end is malformed, wherever it was cut."""
    whole = encoded((frames.TXN, 1, *wire_txn([], then, [])))
    cut = data.draw(st.integers(0, len(whole) - 1))
    with pytest.raises(Malformed):
        decode_request(whole[:cut])


def test_deep_nesting_is_refused() -> None:
    """Arrays within arrays, deeper than anything that means something, end as malformed."""
    with pytest.raises(Malformed):
        decode_request(b"\x93\x03\x01" + b"\x91" * 100_000)


@given(st.lists(st.binary(max_size=300), max_size=12), st.data())
def test_frames_are_cut_where_they_end(messages: list[bytes], data: st.DataObject) -> None:
    """However the stream is cut into pieces, the messages are the same."""
    stream = b"".join(len(message).to_bytes(4, "big") + message for message in messages)
    buffer = FrameBuffer(300)
    found = []
    while stream:
        size = data.draw(st.integers(1, len(stream)))
        buffer.feed(stream[:size])
        stream = stream[size:]
        while (message := buffer.next()) is not None:
            found.append(bytes(message))
    assert found == messages
    assert buffer.waiting == 0


def test_length_over_the_limit_is_refused_before_it_comes() -> None:
    """Four bytes are enough to know that a message is too large."""
    buffer = FrameBuffer(1000)
    buffer.feed(b"\xff\xff\xff\xff")
    with pytest.raises(TooLarge, match="max_frame is 1000"):
        buffer.next()


def test_what_cannot_be_encoded_leaves_no_trace() -> None:
    """A message with an object in it that does not travel leaves the buffer as it was."""
    buffer = bytearray(b"before")
    with pytest.raises(TypeError):
        append_frame(buffer, (frames.GET, 1, object()))
    assert buffer == b"before"


def test_later_versions_may_append() -> None:
    """Elements that this version does not know are ignored, those that are missing have their defaults."""
    short, long = encoded((frames.GET, 7, b"k")), encoded((frames.GET, 7, b"k", 0, "new", {}))
    assert decode_request(short) == decode_request(long)
