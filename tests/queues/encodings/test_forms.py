"""Codecs and checks of the encodings that need no library: text, JSON, MessagePack, bytes."""

from __future__ import annotations

import json

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from platformd.core.errors import InvalidInput
from platformd.queues.contract import RecordFormat
from platformd.queues.encodings import Codec
from platformd.queues.encodings.forms import MAX_DEPTH, Check

TEXT = st.text(st.characters(exclude_categories=["Cs"]))
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXT
)
DOCUMENTS = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4), max_leaves=20
)


def form(encoding: str, schema: object = None) -> RecordFormat:
    text = "" if schema is None else json.dumps(schema)
    return RecordFormat(encoding=encoding, schema=text, validate=True)  # type: ignore[arg-type]


def wrong_with(encoding: str, payload: bytes, schema: object = None) -> list[tuple[str, str]]:
    return [(e.path, e.message) for e in Check(form(encoding, schema)).errors(payload, 8)]


@given(DOCUMENTS)
def test_documents_come_back(document: object) -> None:
    """What JSON and MessagePack can hold comes back as it was, and fits."""
    for encoding in ("json", "msgpack"):
        payload = Codec(form(encoding)).encode(document)
        assert Codec(form(encoding)).decode(payload) == document
        assert wrong_with(encoding, payload) == []


@given(TEXT)
def test_text_comes_back(text: str) -> None:
    """Text comes back as it was."""
    payload = Codec(form("utf-8")).encode(text)
    assert Codec(form("utf-8")).decode(payload) == text
    assert wrong_with("utf-8", payload) == []


def test_bytes_stay_bytes() -> None:
    """The encoding ``bytes`` takes anything that is bytes and changes nothing."""
    codec = Codec(RecordFormat())
    assert codec.encode(bytearray(b"\xff\x00")) == b"\xff\x00"
    assert codec.decode(b"\xff") == b"\xff"
    with pytest.raises(InvalidInput):
        codec.encode("text")


@given(st.sampled_from(["utf-8", "json", "msgpack", "npy", "avro"]), st.binary(max_size=200))
def test_any_bytes_are_judged(encoding: str, payload: bytes) -> None:
    """Random bytes are a value of the encoding or refused, never anything else."""
    errors = wrong_with(encoding, payload)
    assert all(path == "" and encoding in message for path, message in errors)


@given(st.sampled_from(["json", "msgpack"]), DOCUMENTS, st.data())
def test_cut_documents_are_refused_or_shorter_documents(encoding: str, document: object, data: st.DataObject) -> None:
    """A payload that was cut is refused, unless what is left is a document."""
    payload = Codec(form(encoding)).encode(document)
    cut = payload[: data.draw(st.integers(0, max(0, len(payload) - 1)))]
    if not wrong_with(encoding, cut):
        Codec(form(encoding)).decode(cut)


@pytest.mark.parametrize(
    ("encoding", "payload", "says"),
    [
        ("utf-8", b"a\xff", "offset 1"),
        ("json", b'{"a": "\xff"}', "UTF-8"),
        ("json", b"1e999", "out of range"),
        ("json", b"NaN", "cannot be read"),
        ("json", b'{"a":1} x', "cannot be read"),
        ("json", b"", "cannot be read"),
        ("json", b"[" * 200_000, "too deep"),
        ("json", b"[" * 200 + b"]" * 200, f"deeper than {MAX_DEPTH}"),
        ("json", b'"\\ud800"', "cannot be read"),
        ("msgpack", b"\x91" * 200_000, "too deep"),
        ("msgpack", b"\x91" * 200 + b"\x90", f"deeper than {MAX_DEPTH}"),
        ("msgpack", b"\xdd\xff\xff\xff\xff", "truncated"),
        ("msgpack", b"\xc6\xff\xff\xff\xff", "truncated"),
        ("msgpack", b"\xa2\xff\xfe", "UTF-8"),
        ("msgpack", b"\xc1", "cannot be read"),
        ("npy", b"\x93NUMPY\x01\x00", "preamble"),
        ("avro", b"Obj\x01", "cannot be read"),
        ("avro", b"Obj\x02", "begins with"),
    ],
)
def test_hostile_payloads_are_refused(encoding: str, payload: bytes, says: str) -> None:
    """Torn, deep, huge and lying payloads are refused in a sentence."""
    [(path, message)] = wrong_with(encoding, payload)
    assert path == ""
    assert says in message
    assert len(message) < 1000


def test_huge_numbers_are_numbers() -> None:
    """A number of a thousand digits is a whole number, to the schema too."""
    assert wrong_with("json", b"1" + b"0" * 1000, {"type": "integer", "minimum": 0}) == []
    assert wrong_with("json", b"-1" + b"0" * 1000, {"type": "integer", "minimum": 0}) != []


def test_errors_have_paths() -> None:
    """Everything that is wrong is said at once, each thing with its path in the document."""
    schema = {
        "type": "object",
        "required": ["id"],
        "properties": {"sky": {"type": "array", "items": {"properties": {"ra": {"type": "number", "maximum": 360}}}}},
    }
    payload = b'{"sky": [{"ra": 1}, {"ra": 361}, {"ra": "x"}]}'
    for encoding, written in (("json", payload), ("msgpack", msgspec.msgpack.encode(json.loads(payload)))):
        found = dict(wrong_with(encoding, written, schema))
        assert set(found) == {"", "sky[1].ra", "sky[2].ra"}
        assert "id" in found[""]
        assert "360" in found["sky[1].ra"]


def test_no_more_than_asked_for_is_said() -> None:
    """A document with a thousand faults has as many errors as were asked for, and quotes no long value whole."""
    check = Check(form("json", {"items": {"type": "integer"}}))
    found = check.errors(msgspec.json.encode(["x" * 10_000] * 1000), 3)
    assert [e.path for e in found] == ["[0]", "[1]", "[2]"]
    assert all(len(e.message) <= 300 for e in found)


def test_what_json_schema_cannot_describe_is_refused() -> None:
    """Binary data and keys that are no texts have no JSON Schema, and that is said instead of an accident."""
    schema = {"type": "object", "properties": {"a": {"type": "string"}}}
    for value in ({"a": b"x"}, {1: 2}, b"x"):
        [(_, message)] = wrong_with("msgpack", msgspec.msgpack.encode(value), schema)
        assert "what a JSON Schema can describe" in message


def test_a_schema_describes_the_header_of_an_array() -> None:
    """For arrays the schema is about type and shape."""
    schema = {"properties": {"descr": {"const": "<f4"}, "shape": {"prefixItems": [{"const": 2}], "maxItems": 2}}}
    codec = Codec(form("npy"))
    assert wrong_with("npy", codec.encode(np.zeros((2, 5), "<f4")), schema) == []
    assert [path for path, _ in wrong_with("npy", codec.encode(np.zeros((3, 5), "<f8")), schema)] == [
        "descr",
        "shape[0]",
    ]


@pytest.mark.parametrize("encoding", ["utf-8", "json", "msgpack", "bytes"])
def test_values_that_cannot_be_written_are_refused(encoding: str) -> None:
    """An object of no known type is refused by name."""
    with pytest.raises(InvalidInput, match="cannot be written"):
        Codec(form(encoding)).encode(object())
