r"""One NumPy array as ``numpy.save`` writes it (format versions 1.0 to 3.0), with and without NumPy.

     0 \x93NUMPY | 6 u8 major, u8 minor | 8 header length: u16 (1.0) or u32 (2.0, 3.0), little-endian
       header: a Python dict literal of descr, fortran_order and shape, padded with spaces, ended by a newline
       the elements, C or Fortran order

The header is read by a parser of its own: it takes what NumPy writes and nothing else (no escapes, no expressions),
in time linear in its length. Object arrays are refused: their elements are pickles, which are programs.
"""

from __future__ import annotations

import re
import struct
from typing import TYPE_CHECKING, Any, NoReturn

import msgspec

from platformd.core.errors import InvalidInput, Unsupported

if TYPE_CHECKING:
    import numpy as np

MAGIC = b"\x93NUMPY"
MAX_HEADER = 64 << 10
"""Bytes of a header; NumPy itself refuses more than 10,000."""
MAX_DIMENSIONS = 64
MAX_NESTING = 8
"""Of the brackets in a header."""

_TOKEN = re.compile(
    r"\s*(?:(?P<text>'[^'\\\n]*'|\"[^\"\\\n]*\")|(?P<number>[0-9]{1,19})L?|(?P<word>True|False)|(?P<sign>[(){}\[\],:]))"
)
_SCALAR = re.compile(
    r"(?P<order>[<>|=])(?P<kind>[?bBhHiIlLqQefdgFDGiufcSaUVmM])(?P<size>[0-9]{1,10})?(?P<unit>\[[0-9a-zA-Z/]{1,16}\])?"
)
_SIZES = {"b": 1, "i": 8, "u": 8, "f": 16, "c": 32, "m": 8, "M": 8}
"""The largest element of each kind, in bytes."""


class NpyHeader(msgspec.Struct, frozen=True, kw_only=True):
    """What a header says."""

    descr: str | list[Any]
    """The type of an element, as NumPy describes it: ``<f4``, or a list of fields."""
    fortran_order: bool
    shape: tuple[int, ...]
    item_bytes: int
    """Of one element."""
    offset: int
    """Where the elements start."""

    @property
    def data_bytes(self) -> int:
        """Of all elements."""
        count = 1
        for length in self.shape:
            count *= length
        return count * self.item_bytes

    def document(self) -> dict[str, Any]:
        """The header as JSON types, which a JSON Schema can describe."""
        return {"descr": self.descr, "fortran_order": self.fortran_order, "shape": list(self.shape)}


def _wrong(message: str, offset: int = 0) -> NoReturn:
    raise InvalidInput(f"{message}, at offset {offset}", subject="npy", details={"offset": offset})


def read_header(payload: bytes) -> NpyHeader:
    """The header of ``payload``, all of which is checked: the elements are as many as it says.

    Raises:
        InvalidInput: it is not an array in this format, or one of objects.
    """
    if payload[:6] != MAGIC:
        _wrong(f"begins with {payload[:6]!r} and not with {MAGIC!r}")
    if len(payload) < 10:
        _wrong("ends within its preamble", len(payload))
    major, minor = payload[6], payload[7]
    if major not in (1, 2, 3) or minor != 0:
        _wrong(f"has format version {major}.{minor}; known are 1.0, 2.0 and 3.0", 6)
    start = 10 if major == 1 else 12
    if len(payload) < start:
        _wrong("ends within its preamble", len(payload))
    length = struct.unpack_from("<H" if major == 1 else "<I", payload, 8)[0]
    if length > MAX_HEADER:
        _wrong(f"has a header of {length} bytes; the limit is {MAX_HEADER}", 8)
    if len(payload) < start + length:
        _wrong(f"ends within its header of {length} bytes", len(payload))
    try:
        text = payload[start : start + length].decode("utf-8" if major == 3 else "latin-1")
    except UnicodeDecodeError as error:
        _wrong("has a header that is not UTF-8", start + error.start)
    header = _header(_Literal(text).value(), start + length)
    held = len(payload) - header.offset
    if held != header.data_bytes:
        _wrong(
            f"has {held} bytes of elements; {header.descr} of shape {header.shape} has {header.data_bytes}",
            header.offset,
        )
    return header


def _header(literal: Any, offset: int) -> NpyHeader:
    if not isinstance(literal, dict) or set(literal) != {"descr", "fortran_order", "shape"}:
        _wrong("has a header that is not a dict of descr, fortran_order and shape", 10)
    descr, order, shape = literal["descr"], literal["fortran_order"], literal["shape"]
    if not isinstance(order, bool):
        _wrong(f"has fortran_order {order!r}", 10)
    _check_shape(shape)
    item_bytes = _item_bytes(descr, 0)
    return NpyHeader(descr=_jsonable(descr), fortran_order=order, shape=shape, item_bytes=item_bytes, offset=offset)


def _check_shape(shape: Any) -> None:
    good = isinstance(shape, tuple) and all(isinstance(n, int) and not isinstance(n, bool) for n in shape)
    if not good or len(shape) > MAX_DIMENSIONS:
        _wrong(f"has shape {str(shape)[:100]}, which is not a tuple of at most {MAX_DIMENSIONS} lengths", 10)


def _item_bytes(descr: Any, depth: int) -> int:
    if isinstance(descr, str):
        return _scalar_bytes(descr)
    if not isinstance(descr, list) or not descr or depth > MAX_NESTING:
        _wrong(f"has a type {str(descr)[:100]} that is not one of NumPy's", 10)
    total = 0
    for field in descr:
        if not isinstance(field, tuple) or len(field) not in (2, 3) or not _is_title(field[0]):
            _wrong(f"has a field {str(field)[:100]} that is not (name, type) or (name, type, shape)", 10)
        repeated = 1
        if len(field) == 3:
            _check_shape(field[2])
            for length in field[2]:
                repeated *= length
        total += _item_bytes(field[1], depth + 1) * repeated
    return total


def _is_title(name: Any) -> bool:
    return isinstance(name, str) or (
        isinstance(name, tuple) and len(name) == 2 and all(isinstance(part, str) for part in name)
    )


def _scalar_bytes(descr: str) -> int:
    if descr.lstrip("<>|=").startswith("O"):
        _wrong("is an array of objects, which are pickled; they are never read", 10)
    found = _SCALAR.fullmatch(descr)
    if found is None or found["size"] is None or found["kind"] not in "?biufcSaUVmM":
        _wrong(f"has elements of type {descr[:40]!r}, which is none of NumPy's", 10)
    kind, size = found["kind"], int(found["size"])
    if (kind in _SIZES and not 1 <= size <= _SIZES[kind]) or (found["unit"] and kind not in "mM"):
        _wrong(f"has elements of type {descr[:40]!r}, which is none of NumPy's", 10)
    return size * 4 if kind == "U" else size


def _jsonable(value: Any) -> Any:
    return [_jsonable(v) for v in value] if isinstance(value, list | tuple) else value


class _Literal:
    """A dict, list or tuple of texts, whole numbers and truths, as ``repr`` writes it."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._depth = 0

    def value(self) -> Any:
        value = self._value()
        if self._text[self._at :].strip():
            self._refuse()
        return value

    def _refuse(self) -> NoReturn:
        _wrong(f"has a header that NumPy does not write: {self._text[self._at : self._at + 40]!r}", 10 + self._at)

    def _next(self) -> re.Match[str]:
        found = _TOKEN.match(self._text, self._at)
        if found is None:
            self._refuse()
        return found

    def _sign(self, sign: str) -> bool:
        found = _TOKEN.match(self._text, self._at)
        if found is None or found["sign"] != sign:
            return False
        self._at = found.end()
        return True

    def _value(self) -> Any:
        token = self._next()
        if token["sign"] is not None and token["sign"] not in "([{":
            self._refuse()
        self._at = token.end()
        if token["text"] is not None:
            return token["text"][1:-1]
        if token["number"] is not None:
            return int(token["number"])
        if token["word"] is not None:
            return token["word"] == "True"
        self._depth += 1
        if self._depth > MAX_NESTING:
            _wrong(f"has a header that is nested deeper than {MAX_NESTING} levels", 10 + self._at)
        value = self._members(token["sign"])
        self._depth -= 1
        return value

    def _members(self, opening: str) -> Any:
        closing = {"(": ")", "[": "]", "{": "}"}[opening]
        items: list[Any] = []
        mapping: dict[str, Any] = {}
        comma = True
        while not self._sign(closing):
            if not comma:
                self._refuse()
            item = self._value()
            if opening == "{":
                if not isinstance(item, str) or item in mapping or not self._sign(":"):
                    self._refuse()
                mapping[item] = self._value()
            items.append(item)
            comma = self._sign(",")
        if opening == "{":
            return mapping
        if opening == "(" and len(items) == 1 and not comma:
            return items[0]  # brackets around one value are no tuple
        return tuple(items) if opening == "(" else items


def _numpy() -> Any:
    try:
        import numpy as np  # the extra `numpy`
    except ImportError as error:
        raise Unsupported(
            "arrays need NumPy, which is not installed", subject="npy", hint="pip install 'platformd[numpy]'"
        ) from error
    return np


def encode_array(array: Any) -> bytes:
    """``array``, or what ``numpy.asarray`` makes of it, in this format.

    Raises:
        InvalidInput: it is an array of objects, or has fields with names that need escapes.
        Unsupported: NumPy is not installed.
    """
    import io

    numpy = _numpy()
    array = numpy.asarray(array)
    if array.dtype.hasobject:
        raise InvalidInput("is an array of objects, which would be pickled", subject="npy")
    for version in ((1, 0), (3, 0)):  # the older one unless a field's name or the number of fields needs the newer
        out = io.BytesIO()
        try:
            numpy.lib.format.write_array(out, array, version=version, allow_pickle=False)
        except ValueError:
            continue
        payload = out.getvalue()
        read_header(payload)
        return payload
    raise InvalidInput(f"has a type that cannot be written: {array.dtype}", subject="npy")


def decode_array(payload: bytes) -> np.ndarray[Any, Any]:
    """The array, a view of ``payload`` that cannot be written to.

    Raises:
        InvalidInput: it is not an array in this format.
        Unsupported: NumPy is not installed.
    """
    numpy = _numpy()
    header = read_header(payload)
    try:
        dtype = numpy.lib.format.descr_to_dtype(_described(header.descr))
        if dtype.itemsize != header.item_bytes or dtype.hasobject:
            _wrong(f"has elements of type {header.descr}, of which NumPy has another idea", 10)
        if header.item_bytes == 0:
            return numpy.zeros(header.shape, dtype)  # type: ignore[no-any-return]
        flat = numpy.frombuffer(payload, dtype, offset=header.offset)
        return flat.reshape(header.shape, order="F" if header.fortran_order else "C")  # type: ignore[no-any-return]
    except (TypeError, ValueError, SyntaxError) as error:
        raise InvalidInput(f"NumPy cannot read it: {error}", subject="npy") from error


def _described(descr: Any) -> Any:
    """The fields as tuples again, which NumPy asks for."""
    if not isinstance(descr, list):
        return descr
    return [
        (
            tuple(name) if isinstance(name, list) else name,
            _described(inner),
            *(tuple(shape) for shape in more),
        )
        for name, inner, *more in descr
    ]
