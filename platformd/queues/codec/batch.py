"""Batches and records: encoding as columns, decoding with every length checked.

A batch is encoded by C from lists of its records' fields (``columns``); record by record only where something is
wrong, to say which one it is, and for the gateway's delivery blocks. Decoding trusts nothing: whatever is wrong is
``InvalidInput`` with the offset of it.
"""

from __future__ import annotations

import struct
from array import array
from collections.abc import Iterable, Sequence
from itertools import chain

import msgspec

from platformd.core.errors import InvalidInput, TooLarge
from platformd.model.subjects import subject_error
from platformd.queues.codec.checksum import crc32c
from platformd.queues.codec.columns import write_batch
from platformd.queues.contract import Record

MAGIC = 0x31424450
"""``PDB1`` as a little-endian u32."""
HEADER_SIZE = 64
RECORD_HEADER_SIZE = 24
STAMP_SIZE = 32
"""``stamp_crc`` covers the bytes before this offset."""
BODY_START = 40
"""``body_crc`` covers the bytes from this offset on."""
MAX_SUBJECTS = 0xFFFF
"""Different subjects in one batch."""
MAX_ID_LENGTH = 255
"""Bytes of a ``msg_id``."""

_HEADER = struct.Struct("<IIQQIIIIHHIIIQ")
_RECORD = struct.Struct("<IHHIIQ")
_PADDING = tuple(bytes(-n % 8) for n in range(8))
_UNWRITABLE = (struct.error, UnicodeEncodeError, TypeError, AttributeError, msgspec.MsgspecError)
"""What encoding raises for a record whose fields are of the wrong type or size."""
_encode_headers = msgspec.msgpack.Encoder().encode
decode_headers = msgspec.msgpack.Decoder(dict[str, str]).decode
"""A record's headers."""


class BatchHeader(msgspec.Struct, frozen=True, kw_only=True):
    """The header of a batch; see the package for what each field means."""

    length: int
    base_sequence: int = 0
    append_time_ns: int = 0
    epoch: int = 0
    undurable: int = 0
    stamp_crc: int = 0
    body_crc: int
    subject_count: int
    record_count: int
    producer_id: int = 0
    records_offset: int
    producer_sequence: int = 0


def malformed(what: str, offset: int, message: str) -> InvalidInput:
    """The error for bytes that are not what they should be."""
    return InvalidInput(f"{message}, at offset {offset}", subject=what, details={"offset": offset})


def encode_batch(records: Sequence[Record], now_ns: int) -> bytes:
    """A producer's batch, unstamped.

    Args:
        records: at least one.
        now_ns: the time of records that have none, nanoseconds since the epoch.

    Raises:
        InvalidInput: there are no records, or one of them cannot be written; ``subject`` names it.
        TooLarge: the batch would not fit its length field.
    """
    if not records:
        raise InvalidInput("there is no record to publish", subject="batch")
    try:
        return _encode_columns(records, now_ns)
    except (*_UNWRITABLE, OverflowError) as error:
        encode_records(records, now_ns, {})  # says which record it is
        raise InvalidInput(f"the records cannot be written: {error}", subject="batch") from error


def encode_payloads(subject: str, payloads: Sequence[bytes], now_ns: int) -> bytes:
    """The batch of records on one subject that have nothing but a payload.

    Raises: as ``encode_batch``.
    """
    if not payloads:
        raise InvalidInput("there is no record to publish", subject="batch")
    subjects: dict[str, int] = {}
    _add_subject(subjects, subject, 0)
    try:
        lengths = array("I", map(len, payloads))
        return write_batch(encode_subjects(subjects), 1, {"payload_lengths": lengths}, b"".join(payloads), now_ns)
    except (*_UNWRITABLE, OverflowError) as error:
        raise InvalidInput(f"a payload cannot be written: {error}", subject="batch") from error


def _encode_columns(records: Sequence[Record], now_ns: int) -> bytes:
    payloads = [r.payload for r in records]
    parts: Iterable[bytes] = payloads
    columns = {"payload_lengths": array("I", map(len, payloads)), "times": array("Q", [r.time_ns for r in records])}
    ids, headers = [r.msg_id for r in records], [r.headers for r in records]
    if any(ids) or any(headers):
        written = [i.encode() for i in ids]
        packed = [_encode_headers(h) if h else b"" for h in headers]
        columns["id_lengths"] = array("H", map(_id_length, written))
        columns["headers_lengths"] = array("I", map(len, packed))
        parts = chain.from_iterable(zip(written, packed, payloads, strict=True))
    names = [r.subject for r in records]
    subjects: dict[str, int] = {}
    if names.count(names[0]) == len(names):
        _add_subject(subjects, names[0], 0)
    else:
        places = dict(zip(reversed(names), range(len(names) - 1, -1, -1), strict=True))  # of each the first
        for subject in dict.fromkeys(names):
            _add_subject(subjects, subject, places[subject])
        columns["subjects"] = array("H", map(subjects.__getitem__, names))
    return write_batch(encode_subjects(subjects), len(subjects), columns, b"".join(parts), now_ns)


def _id_length(written: bytes) -> int:
    if len(written) > MAX_ID_LENGTH:
        raise OverflowError
    return len(written)


def encode_records(records: Sequence[Record], now_ns: int, subjects: dict[str, int]) -> bytes:
    """The records, one after the other; ``subjects`` gets the index of each subject.

    Raises: as ``encode_batch``.
    """
    try:
        return _encode_records(records, now_ns, subjects)
    except _UNWRITABLE as error:
        raise _explain(records, error) from error


def _encode_records(records: Sequence[Record], now_ns: int, subjects: dict[str, int]) -> bytes:
    parts: list[bytes] = []
    append, pack = parts.append, _RECORD.pack
    for position, record in enumerate(records):
        subject = subjects.get(record.subject)
        if subject is None:
            subject = _add_subject(subjects, record.subject, position)
        msg_id = record.msg_id.encode() if record.msg_id else b""
        headers = _encode_headers(record.headers) if record.headers else b""
        payload = record.payload
        id_length, headers_length, payload_length = len(msg_id), len(headers), len(payload)
        if id_length > MAX_ID_LENGTH:
            raise TooLarge(
                f"the msg_id has {id_length} bytes; the limit is {MAX_ID_LENGTH}", subject=f"records[{position}]"
            )
        size = RECORD_HEADER_SIZE + id_length + headers_length + payload_length
        time_ns = record.time_ns or now_ns
        append(pack(size + (-size & 7), subject, id_length, headers_length, payload_length, time_ns))
        if id_length:
            append(msg_id)
        if headers_length:
            append(headers)
        append(payload)
        if size & 7:
            append(_PADDING[size & 7])
    return b"".join(parts)


def _add_subject(subjects: dict[str, int], subject: str, position: int) -> int:
    wrong = subject_error(subject, pattern=False)
    if wrong:
        raise InvalidInput(f"subject {subject!r} {wrong}", subject=f"records[{position}]")
    if len(subjects) == MAX_SUBJECTS:
        raise TooLarge(f"the batch has more than {MAX_SUBJECTS} different subjects", subject="batch")
    subjects[subject] = len(subjects)
    return len(subjects) - 1


def _explain(records: Sequence[Record], error: Exception) -> InvalidInput:
    """Which record cannot be written: the slow way, once something is wrong."""
    for position, record in enumerate(records):
        try:
            _encode_records([record], 1, {})
        except _UNWRITABLE as cause:
            return InvalidInput(f"the record cannot be written: {cause}", subject=f"records[{position}]")
    return InvalidInput(f"the records cannot be written: {error}", subject="batch")


def decode_batch(data: bytes) -> tuple[BatchHeader, tuple[Record, ...]]:
    """The header and the records of a batch; its checksums are verified.

    Raises:
        InvalidInput: it is not a whole, undamaged batch; the message has the offset.
    """
    header = _decode_header(data)
    subjects, offset = decode_subjects("batch", data, HEADER_SIZE, header.subject_count)
    if offset != header.records_offset:
        raise malformed(
            "batch", 52, f"the records should start at {offset}, where the subjects end, not at {header.records_offset}"
        )
    records = []
    for _ in range(header.record_count):
        (subject, payload, msg_id, headers, time_ns), offset = decode_record("batch", data, offset, subjects)
        records.append(Record(subject=subject, payload=payload, msg_id=msg_id, headers=headers, time_ns=time_ns))
    if offset != len(data):
        raise malformed("batch", offset, f"{len(data) - offset} bytes follow the last record")
    return header, tuple(records)


def _decode_header(data: bytes) -> BatchHeader:
    if len(data) < HEADER_SIZE:
        raise malformed("batch", len(data), f"the batch ends within its header of {HEADER_SIZE} bytes")
    magic, length, base, time_ns, epoch, undurable, stamp_crc, body_crc, *rest = _HEADER.unpack_from(data)
    flags, subject_count, record_count, producer_id, records_offset, producer_sequence = rest
    if magic != MAGIC:
        raise malformed("batch", 0, f"the batch starts with {data[:4]!r} instead of b'PDB1'")
    if length != len(data) or length % 8:
        raise malformed("batch", 4, f"the length says {length} bytes; there are {len(data)}")
    if base and stamp_crc != crc32c(data[:STAMP_SIZE]):
        raise malformed("batch", STAMP_SIZE, "the checksum of the stamp does not match")
    if body_crc != crc32c(memoryview(data)[BODY_START:]):
        raise malformed("batch", 36, "the checksum does not match")
    if flags:
        raise malformed("batch", 40, f"the flags {flags:#06x} are not known")
    if not subject_count or not record_count:
        raise malformed("batch", 42, f"there are {subject_count} subjects and {record_count} records")
    return BatchHeader(
        length=length,
        base_sequence=base,
        append_time_ns=time_ns,
        epoch=epoch,
        undurable=undurable,
        stamp_crc=stamp_crc,
        body_crc=body_crc,
        subject_count=subject_count,
        record_count=record_count,
        producer_id=producer_id,
        records_offset=records_offset,
        producer_sequence=producer_sequence,
    )


def decode_subjects(what: str, data: bytes, offset: int, count: int) -> tuple[list[str], int]:
    """The ``count`` subjects of the table at ``offset``, and where it ends with its padding.

    Raises:
        InvalidInput: the table does not fit or is not ASCII.
    """
    subjects = []
    for _ in range(count):
        length = data[offset] if offset < len(data) else 0
        end = offset + 1 + length
        if not length or end > len(data):
            raise malformed(what, offset, "the subject table is cut off or has an empty subject")
        try:
            subjects.append(data[offset + 1 : end].decode("ascii"))
        except UnicodeDecodeError as error:
            raise malformed(what, offset + 1, "a subject is not ASCII") from error
        offset = end
    offset += -offset % 8
    if offset > len(data):
        raise malformed(what, len(data), "the subject table is cut off")
    return subjects, offset


RecordFields = tuple[str, bytes, str, dict[str, str], int]
"""Subject, payload, msg_id, headers, time_ns."""


def decode_record(what: str, data: bytes, offset: int, subjects: list[str]) -> tuple[RecordFields, int]:
    """The fields of the record at ``offset``, and where the record ends.

    Raises:
        InvalidInput: it does not fit.
    """
    body = offset + RECORD_HEADER_SIZE
    if body > len(data):
        raise malformed(what, offset, "a record is cut off within its header")
    length, subject, id_length, headers_length, payload_length, time_ns = _RECORD.unpack_from(data, offset)
    headers_at = body + id_length
    payload_at = headers_at + headers_length
    payload_end = payload_at + payload_length
    end = offset + length
    if end != payload_end + (-payload_end & 7) or end > len(data):
        raise malformed(what, offset, f"a record of {length} bytes does not fit its parts or what is left")
    if subject >= len(subjects):
        raise malformed(what, offset + 4, f"subject {subject} of {len(subjects)} is asked for")
    if id_length > MAX_ID_LENGTH:
        raise malformed(what, offset + 6, f"the msg_id has {id_length} bytes; the limit is {MAX_ID_LENGTH}")
    try:
        msg_id = data[body:headers_at].decode() if id_length else ""
        headers = decode_headers(data[headers_at:payload_at]) if headers_length else {}
    except (UnicodeDecodeError, msgspec.MsgspecError) as error:
        raise malformed(what, body, f"the msg_id or the headers of a record cannot be read: {error}") from error
    return (subjects[subject], data[payload_at:payload_end], msg_id, headers, time_ns), end


def encode_subjects(subjects: Iterable[str]) -> bytes:
    """A subject table, padded."""
    table = b"".join([bytes((len(s),)) + s.encode("ascii") for s in subjects])
    return table + _PADDING[len(table) & 7]
