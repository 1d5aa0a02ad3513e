"""Request and reply frames: what goes through the broker's two sockets."""

from __future__ import annotations

import re
import struct
from collections.abc import Iterable, Sequence
from typing import get_args

import msgspec

from platformd.core.errors import InvalidInput, TooLarge
from platformd.queues.codec.batch import malformed
from platformd.queues.codec.columns import write_acks
from platformd.queues.contract import MAX_REASON, Ack, AckKind, Durability

VERSION = 1
PUBLISH = 1
FETCH = 2
ACK = 3
ON_SUBJECT = 0x100
"""In the flags of a publish: its two last arguments are the low and the high half of an expected sequence."""
NO_EXPECTATION = 0xFFFF_FFFF_FFFF_FFFF
"""``argument1`` of a publish that expects no particular last sequence."""
MAX_NAME = 63
"""Bytes of a stream's or a consumer's name."""
MAX_WAIT_MS = 0xFFFF_FFFF
"""The longest wait or delay that fits its field, about 49 days."""
MAX_REASONS = 1 << 20
"""Bytes of the reasons of all acknowledgements in one request."""
_MAX_U32 = 0xFFFF_FFFF

_REQUEST = struct.Struct("<BBHHHQII")
_REPLY = struct.Struct("<BBHIQII")
_ACK = struct.Struct("<QIBxH")
_PADDING = tuple(bytes(-n % 8) for n in range(8))
_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,62}")

_DURABILITIES: tuple[Durability, ...] = ("memory", "os", "fsync")
_KINDS: tuple[AckKind, ...] = get_args(AckKind)
_KIND_CODES = {kind: code for code, kind in enumerate(_KINDS)}
_KIND_AT, _REASON_AT = 12, 14
"""Offsets in an acknowledgement."""
_TERM = bytes([_KIND_CODES["term"]])


def durability_code(durability: Durability) -> int:
    """The number that stands for ``durability`` on the wire and at the C boundary.

    Raises:
        InvalidInput: it is not one.
    """
    if durability not in _DURABILITIES:
        raise InvalidInput(f"{durability!r} is not a durability", hint="one of fsync, os, memory")
    return _DURABILITIES.index(durability)


def check_name(what: str, name: str) -> None:
    """Refuse what cannot name a stream or a consumer.

    Raises:
        InvalidInput: it is empty, over 63 characters, starts with a dot, or has a character other than
            ASCII letters, digits, ``.``, ``_`` and ``-``.
    """
    if not _NAME.fullmatch(name):
        raise InvalidInput(
            f"{name!r} is not a name of a {what}",
            subject=what,
            hint=f"1 to {MAX_NAME} of A-Z a-z 0-9 . _ -, no dot at the start",
        )


def milliseconds(seconds: float) -> int:
    """``seconds`` as the nearest whole milliseconds, 1 for less but not 0, at most what a field holds.

    Raises:
        InvalidInput: it is negative or not a number.
    """
    if not seconds >= 0:
        raise InvalidInput(f"{seconds!r} is not a time to wait", hint="seconds, 0 or more")
    if seconds * 1000 >= MAX_WAIT_MS:
        return MAX_WAIT_MS
    return max(round(seconds * 1000), 1) if seconds else 0


class PublishRequest(msgspec.Struct, frozen=True, kw_only=True):
    """Append a batch."""

    stream: str
    """Empty: found by the subjects."""
    durability: Durability
    expect_last_sequence: int | None
    batch: bytes
    expect_last_subject_sequence: int | None = None


class FetchRequest(msgspec.Struct, frozen=True, kw_only=True):
    """Give a consumer records."""

    stream: str
    consumer: str
    wait_ms: int
    max_records: int
    max_bytes: int


class AckRequest(msgspec.Struct, frozen=True, kw_only=True):
    """Say what became of deliveries."""

    stream: str
    consumer: str
    acks: tuple[Ack, ...]


Request = PublishRequest | FetchRequest | AckRequest


class Reply(msgspec.Struct, frozen=True, kw_only=True):
    """An answer; see the package for what the results mean for each operation."""

    operation: int
    status: int = 0
    detail: str = ""
    result1: int = 0
    result2: int = 0
    result3: int = 0
    body: bytes = b""


def encode_publish(
    batch: bytes,
    *,
    stream: str = "",
    durability: Durability = "fsync",
    expect_last_sequence: int | None = None,
    expect_last_subject_sequence: int | None = None,
) -> bytes:
    """The request to append ``batch``.

    Raises:
        InvalidInput: the name, the durability or an expected sequence is not one.
    """
    if stream:
        check_name("stream", stream)
    expected = NO_EXPECTATION if expect_last_sequence is None else expect_last_sequence
    if not 0 <= expected <= NO_EXPECTATION:
        raise InvalidInput(f"{expected} is not a sequence", subject="expect_last_sequence")
    flags, on_subject = durability_code(durability), 0
    if expect_last_subject_sequence is not None:
        flags, on_subject = flags | ON_SUBJECT, expect_last_subject_sequence
    if not 0 <= on_subject < NO_EXPECTATION:
        raise InvalidInput(f"{on_subject} is not a sequence", subject="expect_last_subject_sequence")
    name = stream.encode()
    halves = (on_subject & _MAX_U32, on_subject >> 32)
    head = _REQUEST.pack(VERSION, PUBLISH, flags, len(name), 0, expected, *halves)
    return b"".join((head, name, _PADDING[len(name) & 7], batch))


def encode_fetch(stream: str, consumer: str, *, wait: float, max_records: int, max_bytes: int) -> bytes:
    """The request for records; ``wait`` in seconds.

    Raises:
        InvalidInput: a name or a number is not one.
    """
    for what, value in (("max_records", max_records), ("max_bytes", max_bytes)):
        if not 1 <= value <= _MAX_U32:
            raise InvalidInput(f"{value} is not between 1 and {_MAX_U32}", subject=what)
    return _encode_named(FETCH, stream, consumer, milliseconds(wait), max_records, max_bytes)


def encode_ack(stream: str, consumer: str, acks: Sequence[Ack]) -> bytes:
    """The request that says what became of deliveries.

    Raises:
        InvalidInput: a name, a sequence, a kind, a delay or a reason is not one.
        TooLarge: the reasons are over ``MAX_REASONS`` together.
    """
    return _encode_named(ACK, stream, consumer, 0, len(acks), 0) + pack_acks(acks)


def encode_acks(stream: str, consumer: str, sequences: memoryview, *, kind: AckKind, delay: float = 0.0) -> bytes:
    """The request that says the same of many deliveries, whose sequences are given as u64.

    Raises:
        InvalidInput: a name or the delay is not one.
    """
    body = write_acks(sequences, _KIND_CODES[kind], milliseconds(delay) if delay else 0)
    return _encode_named(ACK, stream, consumer, 0, len(sequences), 0) + body


def pack_acks(acks: Iterable[Ack]) -> bytes:
    """Acknowledgements as in a frame: the engine's ``pd_ack`` for each, then the reasons of terms.

    Raises:
        InvalidInput: a sequence, a kind, a delay or a reason is not one.
        TooLarge: the reasons are over ``MAX_REASONS`` together.
    """
    acks = acks if isinstance(acks, list | tuple) else list(acks)
    try:
        pack, codes = _ACK.pack, _KIND_CODES
        packed = b"".join([pack(a.sequence, milliseconds(a.delay) if a.delay else 0, codes[a.kind], 0) for a in acks])
        return _add_reasons(packed, acks) if _TERM in packed[_KIND_AT :: _ACK.size] else packed
    except (struct.error, KeyError, TypeError, AttributeError, UnicodeEncodeError) as error:
        raise InvalidInput(f"an acknowledgement cannot be written: {error}", subject="ack") from error


def _add_reasons(packed: bytes, acks: Sequence[Ack]) -> bytes:
    head, reasons = bytearray(packed), []
    for i, ack in enumerate(acks):
        reason = ack.reason.encode() if ack.kind == "term" else b""
        if len(reason) > MAX_REASON:
            raise InvalidInput(f"the reason has {len(reason)} bytes; the limit is {MAX_REASON}", subject="ack.reason")
        struct.pack_into("<H", head, i * _ACK.size + _REASON_AT, len(reason))
        reasons.append(reason)
    tail = b"".join(reasons)
    if len(tail) > MAX_REASONS:
        raise TooLarge(f"the reasons have {len(tail)} bytes; the limit is {MAX_REASONS}", subject="ack.reason")
    return bytes(head) + tail


def _encode_named(operation: int, stream: str, consumer: str, *arguments: int) -> bytes:
    check_name("stream", stream)
    check_name("consumer", consumer)
    names = stream.encode() + consumer.encode()
    head = _REQUEST.pack(VERSION, operation, 0, len(stream), len(consumer), *arguments)
    return head + names + _PADDING[len(names) & 7]


def decode_request(frame: bytes) -> Request:
    """The request in ``frame``.

    Raises:
        InvalidInput: it is not one; the message has the offset.
    """
    what = "request"
    if len(frame) < _REQUEST.size:
        raise malformed(what, len(frame), f"the frame ends within its header of {_REQUEST.size} bytes")
    version, operation, flags, stream_length, consumer_length, *arguments = _REQUEST.unpack_from(frame)
    if version != VERSION:
        raise malformed(what, 0, f"version {version} is not known")
    names_end = _REQUEST.size + stream_length + consumer_length
    body_at = names_end + (-names_end & 7)
    if body_at > len(frame):
        raise malformed(what, 4, "the names do not fit the frame")
    try:
        names = frame[_REQUEST.size : names_end].decode("ascii")
    except UnicodeDecodeError as error:
        raise malformed(what, _REQUEST.size, "a name is not ASCII") from error
    stream, consumer = names[:stream_length], names[stream_length:]
    if operation == PUBLISH:
        durability = flags & ~ON_SUBJECT
        if durability >= len(_DURABILITIES):
            raise malformed(what, 2, f"durability {durability} is not known")
        return PublishRequest(
            stream=stream,
            durability=_DURABILITIES[durability],
            expect_last_sequence=None if arguments[0] == NO_EXPECTATION else arguments[0],
            expect_last_subject_sequence=arguments[1] | arguments[2] << 32 if flags & ON_SUBJECT else None,
            batch=frame[body_at:],
        )
    if operation == FETCH:
        if body_at != len(frame):
            raise malformed(what, body_at, "bytes follow the frame")
        wait_ms, max_records, max_bytes = arguments
        return FetchRequest(
            stream=stream, consumer=consumer, wait_ms=wait_ms, max_records=max_records, max_bytes=max_bytes
        )
    if operation == ACK:
        return AckRequest(stream=stream, consumer=consumer, acks=_decode_acks(frame, body_at, arguments[1]))
    raise malformed(what, 1, f"operation {operation} is not known")


def _decode_acks(frame: bytes, offset: int, count: int) -> tuple[Ack, ...]:
    reason_at = offset + count * _ACK.size
    if reason_at > len(frame):
        raise malformed("request", offset, f"{count} acknowledgements do not fit {len(frame) - offset} bytes")
    acks: list[Ack] = []
    for sequence, delay_ms, kind, length in _ACK.iter_unpack(frame[offset:reason_at]):
        if kind >= len(_KINDS):
            raise malformed("request", offset + len(acks) * _ACK.size + _KIND_AT, f"kind {kind} is not known")
        try:
            reason = frame[reason_at : reason_at + length].decode()
        except UnicodeDecodeError as error:
            raise malformed("request", reason_at, "a reason is not UTF-8") from error
        acks.append(Ack(sequence=sequence, kind=_KINDS[kind], delay=delay_ms / 1000, reason=reason))
        reason_at += length
    if reason_at != len(frame):
        raise malformed("request", min(reason_at, len(frame)), "the reasons do not fit the frame")
    return tuple(acks)


def encode_reply(reply: Reply) -> bytes:
    """The frame of ``reply``.

    Raises:
        InvalidInput: a number does not fit its field.
    """
    detail = reply.detail.encode()
    try:
        head = _REPLY.pack(
            VERSION, reply.operation, reply.status, len(detail), reply.result1, reply.result2, reply.result3
        )
    except struct.error as error:
        raise InvalidInput(f"the reply cannot be written: {error}", subject="reply") from error
    return b"".join((head, detail, _PADDING[len(detail) & 7], reply.body))


def decode_reply(frame: bytes, operation: int) -> Reply:
    """The reply in ``frame`` to a request of ``operation``.

    Raises:
        InvalidInput: it is not one; the message has the offset.
    """
    what = "reply"
    if len(frame) < _REPLY.size:
        raise malformed(what, len(frame), f"the frame ends within its header of {_REPLY.size} bytes")
    version, answered, status, detail_length, result1, result2, result3 = _REPLY.unpack_from(frame)
    if version != VERSION:
        raise malformed(what, 0, f"version {version} is not known")
    if answered != operation and not status:  # who refuses may not have read what was asked
        raise malformed(what, 1, f"it answers operation {answered}, not {operation}")
    detail_end = _REPLY.size + detail_length
    body_at = detail_end + (-detail_end & 7)
    if body_at > len(frame):
        raise malformed(what, 4, f"a detail of {detail_length} bytes does not fit the frame")
    try:
        detail = frame[_REPLY.size : detail_end].decode()
    except UnicodeDecodeError as error:
        raise malformed(what, _REPLY.size, "the detail is not UTF-8") from error
    return Reply(
        operation=answered,
        status=status,
        detail=detail,
        result1=result1,
        result2=result2,
        result3=result3,
        body=frame[body_at:],
    )


def encode_duplicates(positions: Iterable[int], record_count: int) -> bytes:
    """The bitmap of ``positions`` in a batch of ``record_count`` records."""
    bitmap = bytearray(-(-record_count // 8))
    for position in positions:
        bitmap[position // 8] |= 1 << position % 8
    return bytes(bitmap)


def decode_duplicates(bitmap: bytes, record_count: int, count: int) -> tuple[int, ...]:
    """The ``count`` positions that are set in the bitmap of a batch of ``record_count`` records.

    Raises:
        InvalidInput: the bitmap does not fit the batch or has another number of positions.
    """
    what = "bitmap of duplicates"
    if not count and not bitmap:
        return ()
    if len(bitmap) < -(-record_count // 8):
        raise malformed(what, len(bitmap), f"it is too short for {record_count} records")
    bits = int.from_bytes(bitmap, "little")
    positions = tuple(i for i in range(record_count) if bitmap[i // 8] >> i % 8 & 1)
    if len(positions) != count or bits >> record_count:
        raise malformed(what, 0, f"it marks {bits.bit_count()} records; {count} of {record_count} are duplicates")
    return positions
