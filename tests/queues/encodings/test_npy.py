"""NumPy arrays: the header without NumPy, the array with it, and what is neither."""

from __future__ import annotations

import io
import struct
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from platformd.core.errors import InvalidInput, Unsupported
from platformd.queues.encodings.npy import MAX_HEADER, NpyHeader, decode_array, encode_array, read_header

SCALARS = hnp.scalar_dtypes()
NAMES = st.text("abcxyzÄλ_0 ", min_size=1, max_size=5)
RECORDS = st.lists(st.tuples(NAMES, SCALARS), min_size=1, max_size=3, unique_by=lambda f: f[0]).map(np.dtype)


def saved(array: np.ndarray, version: tuple[int, int] | None = None) -> bytes:
    out = io.BytesIO()
    np.lib.format.write_array(out, array, version=version, allow_pickle=True)
    return out.getvalue()


def written(header: str, data: bytes = b"", version: int = 1) -> bytes:
    text = header.encode()
    length = struct.pack("<H" if version == 1 else "<I", len(text))
    return b"\x93NUMPY" + bytes([version, 0]) + length + text + data


def header(descr: str = "'<f4'", order: str = "False", shape: str = "(2,)") -> str:
    return f"{{'descr': {descr}, 'fortran_order': {order}, 'shape': {shape}, }}          \n"


@given(hnp.arrays(SCALARS | RECORDS, hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4)))
def test_round_trip(array: np.ndarray) -> None:
    """An array of any type and shape comes back as it was, and its header says what NumPy says."""
    payload = encode_array(array)
    found = read_header(payload)
    assert (found.shape, found.item_bytes, found.data_bytes) == (array.shape, array.dtype.itemsize, array.nbytes)
    back = decode_array(payload)
    assert (back.dtype, back.shape) == (array.dtype, array.shape)
    assert back.tobytes() == array.tobytes()


def test_fortran_order_and_all_versions() -> None:
    """The order of the elements is kept, in every version of the format."""
    array = np.asfortranarray(np.arange(6, dtype="<i2").reshape(2, 3))
    for version in ((1, 0), (2, 0), (3, 0)):
        payload = saved(array, version)
        assert read_header(payload).fortran_order
        assert np.array_equal(decode_array(payload), array)


def test_the_array_is_a_view_that_cannot_be_written_to() -> None:
    """Nothing is copied, and the payload cannot be changed through the array."""
    array = decode_array(encode_array(np.arange(3)))
    assert not array.flags.writeable
    assert not array.flags.owndata


def test_headers_need_no_numpy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Type and shape are read without NumPy; only the array asks for the extra, by name."""
    payload = saved(np.zeros((3, 2), dtype=[("ra", "<f8"), ("flux", "<f4", (2,))]))
    monkeypatch.setitem(sys.modules, "numpy", None)
    found = read_header(payload)
    assert found.document() == {
        "descr": [["ra", "<f8"], ["flux", "<f4", [2]]],
        "fortran_order": False,
        "shape": [3, 2],
    }
    assert found.item_bytes == 16
    for asked in (lambda: decode_array(payload), lambda: encode_array([1])):
        with pytest.raises(Unsupported, match="NumPy") as refused:
            asked()
        assert "platformd[numpy]" in str(refused.value)


@pytest.mark.parametrize(
    ("payload", "says"),
    [
        (b"", "begins with"),
        (b"\x93NUMPY\x01\x00", "ends within its preamble"),
        (b"\x93NUMPY\x02\x00\x00\x00", "ends within its preamble"),
        (b"\x93NUMPY\x09\x00\x00\x00", "version 9.0"),
        (b"\x93NUMPY\x02\x00\xff\xff\xff\xff", f"the limit is {MAX_HEADER}"),
        (b"\x93NUMPY\x01\x00\x20\x00{'descr'", "ends within its header"),
        (written(header(), b"\0" * 7), "has 7 bytes of elements"),
        (written(header(), b"\0" * 9), "has 9 bytes of elements"),
        (written(header(shape="(999999999999, 999999999999)")), "bytes of elements"),
        (written(header(shape="[2]"), b"\0" * 8), "not a tuple"),
        (written(header(shape="(True,)"), b"\0" * 4), "not a tuple"),
        (written(header(shape="(-1,)")), "NumPy does not write"),
        (written(header(shape="(" + "1," * 65 + ")"), b"\0" * 4), "at most 64"),
        (written(header("'|O'"), b"\0" * 16), "pickled"),
        (written(header("[('a', '|O')]"), b"\0" * 16), "pickled"),
        (written(header("'<f99'")), "none of NumPy's"),
        (written(header("'<U99999999999'")), "none of NumPy's"),
        (written(header("__import__('os')")), "NumPy does not write"),
        (written(header("'\\x41'")), "NumPy does not write"),
        (written(header("[" * 50 + "]" * 50)), "nested deeper"),
        (written(header("9" * 5000)), "NumPy does not write"),
        (written(header("[('a',)]")), "field"),
        (written(header() + "x", b"\0" * 8), "NumPy does not write"),
        (written("{'descr': '<f4'}"), "is not a dict of"),
        (written("{'descr': '<f4', 'descr': '<f4'}"), "NumPy does not write"),
        (written("(((((1)))))"), "is not a dict of"),
        (b"\x93NUMPY\x03\x00\x02\x00\x00\x00\xff\xff", "not UTF-8"),
    ],
)
def test_what_is_no_array_is_refused(payload: bytes, says: str) -> None:
    """Torn, lying, pickled and hostile payloads are refused in a sentence that says where."""
    with pytest.raises(InvalidInput) as refused:
        read_header(payload)
    assert says in refused.value.message
    assert "offset" in refused.value.message


@given(st.data())
def test_a_damaged_payload_is_read_or_refused(data: st.DataObject) -> None:
    """Whatever single damage or cut a payload has, it is an array or refused, never anything else."""
    payload = bytearray(encode_array(np.arange(4, dtype="<i4")))
    place = data.draw(st.integers(0, len(payload) - 1))
    payload[place] = data.draw(st.integers(0, 255))
    for tried in (bytes(payload), bytes(payload[:place])):
        try:
            found = read_header(tried)
        except InvalidInput:
            continue
        assert len(tried) == found.offset + found.data_bytes
        try:
            decode_array(tried)
        except InvalidInput:
            continue


@given(st.text(alphabet="{}[]()',: 0123456789TrueFalsdescrfotan_h<>|fiUOL\\\n\"", max_size=200))
def test_any_header_is_read_or_refused(text: str) -> None:
    """No text in the header's place makes the parser do anything but read or refuse it."""
    try:
        found = read_header(written(text))
    except InvalidInput:
        return
    assert isinstance(found, NpyHeader)


def test_object_arrays_are_not_written() -> None:
    """An array that would be pickled is refused before it leaves."""
    with pytest.raises(InvalidInput, match="pickled"):
        encode_array(np.array([object()]))
