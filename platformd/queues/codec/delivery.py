"""Delivery blocks: records on their way out, of one or more batches, with where and when they were stored."""

from __future__ import annotations

import struct
from collections.abc import Sequence

from platformd.queues.codec.batch import decode_record, decode_subjects, encode_records, encode_subjects, malformed
from platformd.queues.contract import Delivery, Record

_BLOCK = struct.Struct("<II")
_PREFIX = struct.Struct("<QQII")


def decode_block(block: bytes, count: int) -> tuple[Delivery, ...]:
    """The ``count`` records of a delivery block; an empty block has none.

    Raises:
        InvalidInput: it is not a whole block of ``count`` records; the message has the offset.
    """
    what = "delivery block"
    if not block and not count:
        return ()
    if len(block) < _BLOCK.size:
        raise malformed(what, len(block), "the block is cut off")
    subject_count, records_offset = _BLOCK.unpack_from(block)
    subjects, offset = decode_subjects(what, block, _BLOCK.size, subject_count)
    if offset != records_offset:
        raise malformed(what, 4, f"the records should start at {offset}, where the subjects end, not {records_offset}")
    deliveries: list[Delivery] = []
    for _ in range(count):
        if offset + _PREFIX.size > len(block):
            raise malformed(what, offset, f"the block ends after {len(deliveries)} of {count} records")
        sequence, append_time_ns, times, _zero = _PREFIX.unpack_from(block, offset)
        (subject, payload, msg_id, headers, time_ns), offset = decode_record(
            what, block, offset + _PREFIX.size, subjects
        )
        deliveries.append(
            Delivery(
                sequence=sequence,
                subject=subject,
                payload=payload,
                msg_id=msg_id,
                headers=headers,
                time_ns=time_ns,
                append_time_ns=append_time_ns,
                deliveries=times,
            )
        )
    if offset != len(block):
        raise malformed(what, offset, f"{len(block) - offset} bytes follow the last record")
    return tuple(deliveries)


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
