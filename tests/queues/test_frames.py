"""The frames of the broker's sockets and the delivery blocks in them."""

from __future__ import annotations

import struct
from array import array
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from platformd.core.errors import BY_CODE, InvalidInput, PlatformError, TooLarge
from platformd.queues.codec import (
    AckRequest,
    Deliveries,
    FetchRequest,
    PublishRequest,
    Reply,
    Status,
    decode_block,
    decode_duplicates,
    decode_reply,
    decode_request,
    encode_ack,
    encode_acks,
    encode_block,
    encode_duplicates,
    encode_fetch,
    encode_publish,
    encode_reply,
    error_for,
)
from platformd.queues.codec.frames import MAX_REASONS, milliseconds
from platformd.queues.contract import MAX_REASON, Ack, AckKind
from tests.queues.strategies import DELIVERIES, decoded_or_refused

NAMES = st.from_regex(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,62}", fullmatch=True)
REPLIES = st.builds(
    Reply,
    operation=st.integers(0, 255),
    status=st.integers(0, 65535),
    detail=st.text(max_size=20),
    result1=st.integers(0, 2**64 - 1),
    result2=st.integers(0, 2**32 - 1),
    result3=st.integers(0, 2**32 - 1),
    body=st.binary(max_size=40),
)
DELAYS = st.integers(0, 10**6).map(lambda ms: ms / 1000)
ACKS = st.one_of(
    st.builds(
        Ack,
        sequence=st.integers(0, 2**64 - 1),
        kind=st.sampled_from(["ack", "nak", "in_progress", "term"]),
        delay=DELAYS,
    ),
    st.builds(Ack, sequence=st.integers(0, 2**64 - 1), kind=st.just("term"), reason=st.text(max_size=MAX_REASON // 4)),
)


def test_request_layout():
    """A fetch has exactly the bytes that the format says."""
    frame = encode_fetch("alerts", "filter", wait=1.5, max_records=10, max_bytes=1 << 20)
    assert struct.unpack_from("<BBHHHQII", frame) == (1, 2, 0, 6, 6, 1500, 10, 1 << 20)
    assert frame[24:] == b"alertsfilter" + bytes(4)


EXPECTED = st.one_of(st.none(), st.integers(0, 2**64 - 2))


@given(st.one_of(st.just(""), NAMES), EXPECTED, EXPECTED, st.binary(max_size=64))
def test_publish_round_trip(stream, expected, on_subject, batch):
    """A publish comes back as it was asked."""
    expectations = {"expect_last_sequence": expected, "expect_last_subject_sequence": on_subject}
    frame = encode_publish(batch, stream=stream, durability="os", **expectations)
    assert decode_request(frame) == PublishRequest(stream=stream, durability="os", batch=batch, **expectations)


@given(NAMES, NAMES, st.integers(1, 2**32 - 1))
def test_fetch_round_trip(stream, consumer, count):
    """A fetch comes back as it was asked."""
    frame = encode_fetch(stream, consumer, wait=0.25, max_records=count, max_bytes=1)
    assert decode_request(frame) == FetchRequest(
        stream=stream, consumer=consumer, wait_ms=250, max_records=count, max_bytes=1
    )


@given(NAMES, NAMES, st.lists(ACKS, max_size=5))
def test_ack_round_trip(stream, consumer, acks):
    """Acknowledgements come back as they were given."""
    frame = encode_ack(stream, consumer, acks)
    assert decode_request(frame) == AckRequest(stream=stream, consumer=consumer, acks=tuple(acks))


@given(REPLIES)
def test_reply_round_trip(reply):
    """A reply comes back as it was given."""
    assert decode_reply(encode_reply(reply), reply.operation) == reply


def test_reply_to_something_else():
    """A success must be of the operation that was asked for; a refusal may have come before it was read."""
    with pytest.raises(InvalidInput, match="at offset 1"):
        decode_reply(encode_reply(Reply(operation=2)), 1)
    assert decode_reply(encode_reply(Reply(operation=0, status=10, detail="stopping")), 1).detail == "stopping"


@given(st.binary(max_size=80))
def test_garbage_frames_are_refused_or_read(data):
    """Arbitrary bytes never give another error than one that names the offset."""
    for decode in (decode_request, lambda frame: decode_reply(frame, 2)):
        result = decoded_or_refused(lambda decode=decode: decode(data))
        assert "at offset" in result if isinstance(result, str) else result is not None


@given(st.lists(DELIVERIES, max_size=5))
def test_block_round_trip(deliveries):
    """A delivery block gives back its records, their order and where they were stored."""
    assert decode_block(encode_block(deliveries), len(deliveries)) == tuple(deliveries)


@given(st.lists(DELIVERIES, max_size=5), st.data())
def test_a_block_can_be_looked_into(deliveries, data):
    """Records, slices and columns of a block are those of its records, without all being made."""
    block = Deliveries(encode_block(deliveries), len(deliveries))
    assert len(block) == len(deliveries)
    assert list(block.sequences) == [d.sequence for d in deliveries]
    assert [bytes(payload) for payload in block.payloads()] == [d.payload for d in deliveries]
    assert block.size == sum(len(d.payload) for d in deliveries)
    some = data.draw(st.slices(len(deliveries)))
    assert block[some] == tuple(deliveries)[some]
    for i in (*range(len(deliveries)), *range(-len(deliveries), 0)):
        assert block[i] == deliveries[i]
    with pytest.raises(IndexError):
        block[len(deliveries)]


@given(st.lists(st.integers(0, 2**64 - 1), max_size=5), st.sampled_from(get_args(AckKind)), st.sampled_from([0, 0.25]))
def test_many_acknowledgements_are_as_each_of_them(sequences, kind, delay):
    """The same said of many deliveries makes the same frame as saying it of each."""
    acks = [Ack(sequence=sequence, kind=kind, delay=delay) for sequence in sequences]
    many = encode_acks("s", "c", memoryview(array("Q", sequences)), kind=kind, delay=delay)
    assert many == encode_ack("s", "c", acks)


@given(st.lists(DELIVERIES, min_size=1, max_size=4), st.data())
def test_truncated_blocks_are_refused(deliveries, data):
    """A block that ends early is refused, wherever it ends."""
    block = encode_block(deliveries)
    with pytest.raises(InvalidInput, match="at offset"):
        decode_block(block[: data.draw(st.integers(0, len(block) - 1))], len(deliveries))


@given(st.lists(DELIVERIES, min_size=1, max_size=4), st.data())
def test_damaged_blocks_give_records_or_a_place(deliveries, data):
    """A changed byte gives other records or an error that names the offset; nothing else."""
    block = bytearray(encode_block(deliveries))
    block[data.draw(st.integers(0, len(block) - 1))] = data.draw(st.integers(0, 255))
    result = decoded_or_refused(lambda: decode_block(bytes(block), len(deliveries)))
    assert "at offset" in result if isinstance(result, str) else len(result) == len(deliveries)


def test_block_with_more_than_it_says_is_refused():
    """Bytes after the last record are not passed over."""
    with pytest.raises(InvalidInput, match="follow"):
        decode_block(encode_block([]) + struct.pack("<II", 0, 8) + bytes(8), 0)


@given(st.integers(1, 70), st.data())
def test_duplicates_round_trip(count, data):
    """The positions of duplicates survive the bitmap."""
    positions = sorted(data.draw(st.sets(st.integers(0, count - 1))))
    bitmap = encode_duplicates(positions, count)
    assert decode_duplicates(bitmap, count, len(positions)) == tuple(positions)


@pytest.mark.parametrize(
    ("bitmap", "records", "count"), [(b"\x01", 9, 1), (b"\x03", 8, 1), (b"\x10", 4, 1), (b"", 1, 1)]
)
def test_wrong_bitmaps_are_refused(bitmap, records, count):
    """A bitmap that is too short, or marks other than it should, is refused."""
    with pytest.raises(InvalidInput, match="at offset"):
        decode_duplicates(bitmap, records, count)


@pytest.mark.parametrize("name", ["", ".hidden", "a/b", "a b", "é", "x" * 64, "a\n"])
def test_names_are_checked(name):
    """What cannot name a directory of the engine is refused before it is sent."""
    with pytest.raises(InvalidInput, match="not a name"):
        encode_fetch(name, "c", wait=0, max_records=1, max_bytes=1)
    with pytest.raises(InvalidInput, match="not a name"):
        encode_ack("s", name, [])


def test_acknowledgements_without_reasons_are_as_they_were():
    """A frame of a program that knows of no reasons reads as before, and one without reasons is the same bytes."""
    old = struct.pack("<BBHHHQII", 1, 3, 0, 1, 1, 0, 2, 0) + b"sc" + bytes(6)
    old += struct.pack("<QIB3x", 5, 0, 3) + struct.pack("<QIB3x", 6, 1500, 1)
    acks = (Ack(sequence=5, kind="term"), Ack(sequence=6, kind="nak", delay=1.5))
    assert decode_request(old) == AckRequest(stream="s", consumer="c", acks=acks)
    assert encode_ack("s", "c", acks) == old


def test_reasons_are_bounded():
    """One reason, and all of a frame together, have a limit that the refusal quotes; they are for terms alone."""
    with pytest.raises(InvalidInput, match=str(MAX_REASON)):
        encode_ack("s", "c", [Ack(sequence=1, kind="term", reason="ü" * (MAX_REASON // 2 + 1))])
    many = [Ack(sequence=1, kind="term", reason="x" * MAX_REASON)] * (MAX_REASONS // MAX_REASON)
    assert len(decode_request(encode_ack("s", "c", many)).acks) == len(many)
    with pytest.raises(TooLarge, match=str(MAX_REASONS)):
        encode_ack("s", "c", [*many, many[0]])
    frame = encode_ack("s", "c", [Ack(sequence=1, kind="nak", reason="because"), Ack(sequence=2, kind="term")])
    assert [a.reason for a in decode_request(frame).acks] == ["", ""]


def test_times_become_milliseconds():
    """A short wait does not become none, and a long one ends at what the field holds."""
    assert [milliseconds(s) for s in (0, 0.0001, 0.25, 1.0, 1e300, float("inf"))] == [0, 1, 250, 1000, *[2**32 - 1] * 2]
    for wrong in (-1, float("nan")):
        with pytest.raises(InvalidInput):
            milliseconds(wrong)


@pytest.mark.parametrize("status", [s for s in Status if s])
def test_every_status_has_an_error(status):
    """Each status code becomes an error that a problem document can carry, with the engine's sentence."""
    error = error_for(status, "the engine says so", subject="stream/a")
    assert error.message == "the engine says so"
    assert BY_CODE[error.code] is type(error)
    assert error.to_problem()["status"] == error.status


def test_unknown_status_is_an_error_too():
    """A code of a newer daemon is reported, not passed over."""
    error = error_for(999, "")
    assert type(error) is PlatformError
    assert "999" in error.message
