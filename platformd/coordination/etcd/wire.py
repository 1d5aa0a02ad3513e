"""The wire format of protocol buffers, as far as etcd's messages need it: varints and length-delimited fields.

A message is a run of fields; each is a tag (field number << 3 | type) and its content. Type 0 is a varint (seven
bits to a byte, least first), type 2 a length and that many bytes. Fields at their default are left out.
Format: https://protobuf.dev/programming-guides/encoding.
"""

from __future__ import annotations

from platformd.core.errors import OutcomeUnknown

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_ONE_BYTE = tuple(bytes([n]) for n in range(128))
_SIGN = 1 << 63
_WRAP = 1 << 64

INT64_MIN = -_SIGN
INT64_MAX = _SIGN - 1

Fields = list[tuple[int, "int | bytes"]]


class Malformed(OutcomeUnknown):
    """A message that is not what etcd sends; what the request has done is anybody's guess."""

    def __init__(self, what: str) -> None:
        super().__init__(
            f"the answer is not etcd's ({what})", subject="etcd", hint="see that the endpoints are etcd's client URLs"
        )


def varint(number: int) -> bytes:
    """An unsigned integer, or a signed one of 64 bits."""
    if 0 <= number < 128:
        return _ONE_BYTE[number]
    if number < 0:
        number += _WRAP
    out = bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    out.append(number)
    return bytes(out)


def integer(field: int, number: int) -> bytes:
    """An integer, boolean or enum field; nothing if it is 0."""
    return varint(field << 3) + varint(number) if number else b""


def chosen_integer(field: int, number: int) -> bytes:
    """An integer field of a ``oneof``, which is sent even if it is 0."""
    return varint(field << 3) + varint(number)


def blob(field: int, content: bytes) -> bytes:
    """A bytes, string or message field, even if it is empty."""
    return b"%b%b%b" % (varint(field << 3 | _BYTES), varint(len(content)), content)


def text(field: int, content: bytes) -> bytes:
    """A bytes or string field; nothing if it is empty."""
    return blob(field, content) if content else b""


def fields(message: bytes) -> Fields:
    """All fields of a message, in order. Varints come as unsigned integers; see ``signed``.

    Raises:
        Malformed: it is not a message.
    """
    found: Fields = []
    at, end = 0, len(message)
    try:
        while at < end:
            tag = message[at]
            at += 1
            if tag > 127:
                tag, at = _varint_at(message, at - 1)
            kind = tag & 7
            number = message[at] if kind in {_VARINT, _BYTES} else 0
            if number > 127:
                number, at = _varint_at(message, at)
            elif kind in {_VARINT, _BYTES}:
                at += 1
            if kind == _BYTES:
                stop = at + number
                if stop > end:
                    raise Malformed("a field is cut off")
                found.append((tag >> 3, message[at:stop]))
                at = stop
            elif kind == _VARINT:
                found.append((tag >> 3, number))
            elif kind in {_FIXED64, _FIXED32}:  # etcd has none; a newer one may
                at += 8 if kind == _FIXED64 else 4
            else:
                raise Malformed(f"a field of type {kind}")
    except IndexError:
        raise Malformed("a message is cut off") from None
    return found


def _varint_at(message: bytes, at: int) -> tuple[int, int]:
    result = shift = 0
    while True:
        byte = message[at]
        at += 1
        result |= (byte & 127) << shift
        if byte < 128:
            return result, at
        shift += 7
        if shift > 63:
            raise Malformed("a number is too long")


def signed(number: int | bytes) -> int:
    """An int64 field's value.

    Raises:
        Malformed: it is not an integer.
    """
    if not isinstance(number, int):
        raise Malformed("bytes where a number should be")
    return number - _WRAP if number >= _SIGN else number


def content(value: int | bytes) -> bytes:
    """A bytes, string or message field's value.

    Raises:
        Malformed: it is not bytes.
    """
    if not isinstance(value, bytes):
        raise Malformed("a number where bytes should be")
    return value
