"""The batch format: what is encoded comes back, and nothing else is accepted."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from platformd.core.errors import InvalidInput, TooLarge
from platformd.queues.codec import crc32c, decode_batch, encode_batch, encode_payloads
from platformd.queues.contract import Record
from tests.queues.strategies import RECORDS, decoded_or_refused

BATCHES = st.lists(RECORDS, min_size=1, max_size=6)


def test_layout_byte_by_byte():
    """A batch has exactly the bytes that the format says."""
    record = Record(subject="a.b", payload=b"hello", msg_id="id", headers={"k": "v"}, time_ns=7)
    batch = encode_batch([record], now_ns=1)
    assert batch[0:4] == b"PDB1"
    assert struct.unpack_from("<I", batch, 4)[0] == len(batch) == 64 + 8 + 40
    assert batch[8:36] == bytes(28)
    assert struct.unpack_from("<I", batch, 36)[0] == crc32c(batch[40:])
    assert struct.unpack_from("<HHIIIQ", batch, 40) == (0, 1, 1, 0, 72, 0)
    assert batch[64:72] == b"\x03a.b\0\0\0\0"
    assert struct.unpack_from("<IHHIIQ", batch, 72) == (40, 0, 2, 5, 5, 7)
    assert batch[96:] == b"id" + b"\x81\xa1k\xa1v" + b"hello" + bytes(4)


def test_checksum_is_castagnoli():
    """The checksum gives RFC 3720's test vectors, and goes on from an earlier one."""
    assert crc32c(bytes(32)) == 0x8A9136AA
    assert crc32c(b"\xff" * 32) == 0x62A8AB43
    assert crc32c(bytes(range(32))) == 0x46DD794E
    assert crc32c(bytes(range(16, 32)), crc32c(bytes(range(16)))) == 0x46DD794E


@given(BATCHES)
def test_round_trip(records):
    """What was encoded is decoded again, whatever is in the records."""
    header, decoded = decode_batch(encode_batch(records, now_ns=1))
    assert list(decoded) == records
    assert header.record_count == len(records)
    assert header.subject_count == len({r.subject for r in records})


@given(st.lists(st.binary(max_size=40), min_size=1, max_size=20))
def test_payloads_are_records_with_nothing_else(payloads):
    """Payloads on a subject make the same batch as records of them, and so do other forms of their bytes."""
    batch = encode_batch([Record(subject="a.b", payload=payload) for payload in payloads], now_ns=5)
    assert encode_payloads("a.b", payloads, now_ns=5) == batch
    assert encode_payloads("a.b", [memoryview(payload) for payload in payloads], now_ns=5) == batch


@pytest.mark.parametrize(
    ("subject", "payloads", "says"),
    [
        ("a", [], "no record"),
        ("a.*", [b""], "wildcard"),
        ("a", [b"", "text"], "cannot be written"),
        ("a", [memoryview(bytes(8)).cast("Q")], "not bytes"),
    ],
)
def test_payloads_that_cannot_be_written_are_refused(subject, payloads, says):
    """What is not bytes, or no subject, is refused with the reason."""
    with pytest.raises(InvalidInput, match=says):
        encode_payloads(subject, payloads, now_ns=1)


def test_missing_time_is_filled_in():
    """A record without a time gets the time of encoding."""
    _, (record,) = decode_batch(encode_batch([Record(subject="a", payload=b"")], now_ns=99))
    assert record.time_ns == 99


@given(BATCHES, st.data())
def test_every_truncation_is_refused(records, data):
    """A batch that ends early is refused, wherever it ends."""
    batch = encode_batch(records, now_ns=1)
    end = data.draw(st.integers(0, len(batch) - 1))
    with pytest.raises(InvalidInput, match="at offset"):
        decode_batch(batch[:end])


@given(BATCHES, st.data())
def test_every_flipped_bit_of_the_body_is_refused(records, data):
    """One flipped bit anywhere that the producer's checksum covers is found."""
    batch = bytearray(encode_batch(records, now_ns=1))
    batch[data.draw(st.integers(36, len(batch) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    with pytest.raises(InvalidInput, match="checksum"):
        decode_batch(bytes(batch))


@given(BATCHES, st.data())
def test_a_forged_checksum_does_not_help(records, data):
    """With the checksum made to fit, a changed byte is refused by its place or gives some records; nothing else."""
    batch = bytearray(encode_batch(records, now_ns=1))
    batch[data.draw(st.integers(0, len(batch) - 1))] = data.draw(st.integers(0, 255))
    struct.pack_into("<I", batch, 36, crc32c(batch[40:]))
    struct.pack_into("<I", batch, 32, crc32c(batch[:32]))
    result = decoded_or_refused(lambda: decode_batch(bytes(batch)))
    assert "at offset" in result if isinstance(result, str) else len(result[1]) == len(records)


@given(st.binary(max_size=200))
def test_garbage_is_refused(data):
    """Arbitrary bytes are no batch."""
    with pytest.raises(InvalidInput, match="at offset"):
        decode_batch(data)


def test_stamp_is_verified():
    """A stamped batch whose stamp was changed is refused."""
    batch = bytearray(encode_batch([Record(subject="a", payload=b"x")], now_ns=1))
    struct.pack_into("<QQII", batch, 8, 41, 1000, 2, 3)
    struct.pack_into("<I", batch, 32, crc32c(batch[:32]))
    header, _ = decode_batch(bytes(batch))
    assert (header.base_sequence, header.append_time_ns, header.epoch, header.undurable) == (41, 1000, 2, 3)
    batch[16] ^= 1
    with pytest.raises(InvalidInput, match="stamp"):
        decode_batch(bytes(batch))


@pytest.mark.parametrize(
    ("record", "error", "says"),
    [
        (Record(subject="", payload=b""), InvalidInput, "empty"),
        (Record(subject="a.*", payload=b""), InvalidInput, "wildcard"),
        (Record(subject="a" * 256, payload=b""), InvalidInput, "limit is 255"),
        (Record(subject="é", payload=b""), InvalidInput, "ASCII"),
        (Record(subject="a", payload=b"", msg_id="é" * 128), TooLarge, "256 bytes; the limit is 255"),
        (Record(subject="a", payload=b"", msg_id="\ud800"), InvalidInput, "cannot be written"),
        (Record(subject="a", payload="text"), InvalidInput, "cannot be written"),
        (Record(subject="a", payload=b"", time_ns=-1), InvalidInput, "cannot be written"),
        (Record(subject="a", payload=b"", headers={"a": object()}), InvalidInput, "cannot be written"),
    ],
)
def test_records_that_cannot_be_written_are_named(record, error, says):
    """A record that does not fit the format is refused with its position and the reason."""
    good = Record(subject="a", payload=b"")
    with pytest.raises(error, match=says) as caught:
        encode_batch([good, record], now_ns=1)
    assert caught.value.subject == "records[1]"


def test_an_empty_batch_is_refused():
    """There is no batch of no records."""
    with pytest.raises(InvalidInput, match="no record"):
        encode_batch([], now_ns=1)


def test_too_many_subjects():
    """A batch holds at most 65535 different subjects."""
    with pytest.raises(TooLarge, match="65535"):
        encode_batch([Record(subject=str(i), payload=b"") for i in range(65536)], now_ns=1)
