"""Delivery blocks: records on their way out, of one or more batches, with where and when they were stored."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Sequence
from typing import overload

import msgspec

from platformd.core.errors import InvalidInput
from platformd.queues.codec import columns
from platformd.queues.codec.batch import (
    decode_headers,
    decode_record,
    decode_subjects,
    encode_records,
    encode_subjects,
    malformed,
)
from platformd.queues.contract import Delivery, Record

_WHAT = "delivery block"
_BLOCK = struct.Struct("<II")
_PREFIX = struct.Struct("<QQII")


class Deliveries(Sequence[Delivery]):
    """The records of a delivery block, in its order; each is made when it is looked at.

    ``sequences`` and ``payloads`` give the columns without making records, at a tenth of the cost.

    Raises:
        InvalidInput: it is not a whole block of ``count`` records; the message has the offset. Looking at a record
            raises it for a msg_id or headers that cannot be read.
    """

    def __init__(self, block: bytes, count: int) -> None:
        self._block = block
        self._subjects: list[str] = []
        self._columns: tuple[memoryview, ...] = (memoryview(b"").cast("Q"),) * 9
        if not block and not count:
            return
        self._subjects = _block_subjects(block)
        found = columns.read_block(block, count)
        if found is None:
            raise _explain(block, count, self._subjects)
        self._columns = found

    def __len__(self) -> int:
        return len(self._columns[0])

    @property
    def sequences(self) -> memoryview:
        """Each record's sequence, as u64."""
        return self._columns[columns.SEQUENCE]

    @property
    def size(self) -> int:
        """Bytes of all payloads."""
        return sum(self._columns[columns.END]) - sum(self._columns[columns.PAYLOAD])

    def payloads(self) -> Iterator[memoryview]:
        """Each record's payload, in place."""
        block = memoryview(self._block)
        starts, ends = self._columns[columns.PAYLOAD], self._columns[columns.END]
        return map(block.__getitem__, map(slice, starts, ends))

    @overload
    def __getitem__(self, index: int) -> Delivery: ...

    @overload
    def __getitem__(self, index: slice) -> tuple[Delivery, ...]: ...

    def __getitem__(self, index: int | slice) -> Delivery | tuple[Delivery, ...]:
        if isinstance(index, slice):
            return tuple(self._make([column[index] for column in self._columns]))
        at = range(len(self))[index]
        return next(self._make([column[at : at + 1] for column in self._columns]))

    def __iter__(self) -> Iterator[Delivery]:
        return self._make(self._columns)

    def _make(self, chosen: Iterable[memoryview]) -> Iterator[Delivery]:
        block, subjects = self._block, self._subjects
        numbers = [column.tolist() for column in chosen]
        for sequence, append_time_ns, deliveries, subject, time_ns, id_at, headers_at, payload_at, end in zip(
            *numbers, strict=True
        ):
            yield Delivery(
                sequence=sequence,
                subject=subjects[subject],
                payload=block[payload_at:end],
                msg_id=_text(block, id_at, headers_at) if headers_at > id_at else "",
                headers=_headers(block, headers_at, payload_at) if payload_at > headers_at else {},
                time_ns=time_ns,
                append_time_ns=append_time_ns,
                deliveries=deliveries,
            )


def _text(block: bytes, start: int, end: int) -> str:
    try:
        return block[start:end].decode()
    except UnicodeDecodeError as error:
        raise malformed(_WHAT, start, f"a msg_id cannot be read: {error}") from error


def _headers(block: bytes, start: int, end: int) -> dict[str, str]:
    try:
        return decode_headers(block[start:end])
    except (UnicodeDecodeError, msgspec.MsgspecError) as error:
        raise malformed(_WHAT, start, f"the headers of a record cannot be read: {error}") from error


def decode_block(block: bytes, count: int) -> tuple[Delivery, ...]:
    """The ``count`` records of a delivery block; an empty block has none.

    Raises:
        InvalidInput: it is not a whole block of ``count`` records; the message has the offset.
    """
    return tuple(Deliveries(block, count))


def _block_subjects(block: bytes) -> list[str]:
    if len(block) < _BLOCK.size:
        raise malformed(_WHAT, len(block), "the block is cut off")
    subject_count, records_offset = _BLOCK.unpack_from(block)
    subjects, offset = decode_subjects(_WHAT, block, _BLOCK.size, subject_count)
    if offset != records_offset:
        raise malformed(_WHAT, 4, f"the records should start at {offset}, where the subjects end, not {records_offset}")
    return subjects


def _explain(block: bytes, count: int, subjects: list[str]) -> InvalidInput:
    """Where the block is not what it should be: record by record, once something is wrong."""
    _, offset = _BLOCK.unpack_from(block)
    try:
        for i in range(count):
            if offset + _PREFIX.size > len(block):
                return malformed(_WHAT, offset, f"the block ends after {i} of {count} records")
            _, offset = decode_record(_WHAT, block, offset + _PREFIX.size, subjects)
    except InvalidInput as error:
        return error
    return malformed(_WHAT, offset, f"{len(block) - offset} bytes follow the last record")


def encode_block(deliveries: Sequence[Delivery]) -> bytes:
    """The delivery block of ``deliveries``, as the broker sends it; empty for none.

    Raises:
        InvalidInput: a record cannot be written.
    """
    if not deliveries:
        return b""
    subjects: dict[str, int] = {}
    parts = []
    for d in deliveries:
        record = Record(subject=d.subject, payload=d.payload, msg_id=d.msg_id, headers=d.headers, time_ns=d.time_ns)
        parts.append(_PREFIX.pack(d.sequence, d.append_time_ns, d.deliveries, 0))
        parts.append(encode_records([record], d.time_ns, subjects))
    table = encode_subjects(subjects)
    return _BLOCK.pack(len(subjects), _BLOCK.size + len(table)) + table + b"".join(parts)
