"""Many records in one call: batches from columns, delivery blocks as columns, acknowledgements from sequences.

What is done here for each record is done in C (``native/src/columns.c``). Packing the fields of each record takes
Python half a microsecond; handing over all payloads joined, with the list of their lengths, a tenth of that.
"""

from __future__ import annotations

from array import array
from collections.abc import Mapping

from platformd.core.errors import InvalidInput, TooLarge
from platformd.queues.native._native import ffi, lib

MAX_LENGTH = 0xFFFF_FFF8
"""Bytes of a batch: what its length field holds. The daemon's own limit is far below."""
SEQUENCE, APPEND_TIME, DELIVERIES, SUBJECT, TIME, ID, HEADERS, PAYLOAD, END = range(9)
"""Columns of a block; the last four are offsets, and where one part ends the next begins."""
_COLUMNS = 9

_TYPES = {"H": "uint16_t[]", "I": "uint32_t[]", "Q": "uint64_t[]"}
"""By the code of an array's items."""
_ACK_SIZE = 16


def write_batch(
    table: bytes, subject_count: int, columns: Mapping[str, array[int]], parts: bytes, now_ns: int
) -> bytes:
    """A batch, unstamped, with its checksum.

    Args:
        table: the subjects, padded.
        subject_count: how many they are.
        columns: fields of ``pd_columns``; ``payload_lengths`` at least.
        parts: id, headers and payload of each record, one after the other.
        now_ns: the time of records that have none.

    Raises:
        InvalidInput: the lengths do not add up to ``parts``.
        TooLarge: the batch would not fit its length field.
    """
    fields = {name: ffi.from_buffer(_TYPES[column.typecode], column) for name, column in columns.items()}
    fields |= {"table": ffi.from_buffer("uint8_t[]", table), "parts": ffi.from_buffer("uint8_t[]", parts)}
    numbers = {"table_length": len(table), "subject_count": subject_count, "now_ns": now_ns}
    numbers |= {"parts_length": len(parts), "count": len(columns["payload_lengths"])}
    made = ffi.new("pd_columns *", fields | numbers)  # ``fields`` keeps what it points at
    size = lib.pd_batch_size(made)
    if not size:
        raise InvalidInput("a payload is a view of items that are not bytes", subject="batch")
    if size > MAX_LENGTH:
        raise TooLarge(f"the batch has {size} bytes; the limit of the format is {MAX_LENGTH}", subject="batch")
    batch = bytearray(size)
    lib.pd_batch_write(made, ffi.from_buffer("uint8_t[]", batch))
    return bytes(batch)


def read_block(block: bytes, count: int) -> tuple[memoryview, ...] | None:
    """The columns of a delivery block of ``count`` records, each of u64; ``None``: it is not one.

    The subject table is the caller's to look at.
    """
    if count > len(block) // 48:  # less than the fixed part of each: nothing is allocated for what cannot be
        return None
    numbers = bytearray(count * _COLUMNS * 8)
    if lib.pd_block_columns(
        ffi.from_buffer("uint8_t[]", block), len(block), count, ffi.from_buffer("uint64_t[]", numbers)
    ):
        return None
    whole = memoryview(numbers).cast("Q")
    return tuple(whole[i * count : (i + 1) * count] for i in range(_COLUMNS))


def write_acks(sequences: memoryview, kind: int, delay_ms: int) -> bytes:
    """Acknowledgements of one kind, as in a frame."""
    acks = bytearray(len(sequences) * _ACK_SIZE)
    source, target = ffi.from_buffer("uint64_t[]", sequences), ffi.from_buffer("uint8_t[]", acks)
    lib.pd_acks_write(source, len(sequences), kind, delay_ms, target)
    return bytes(acks)
