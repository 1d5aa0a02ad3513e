"""Avro values in their three framings, and schema resolution."""

from __future__ import annotations

import io
import json

import fastavro
import pytest
from hypothesis import given
from hypothesis import strategies as st

from platformd.core.errors import InvalidInput
from platformd.queues.contract import RecordFormat
from platformd.queues.encodings import Codec
from platformd.queues.encodings.avro import AvroForm, parse_schema, schema_fingerprint
from platformd.queues.encodings.avro_compatibility import unreadable
from platformd.queues.encodings.forms import Check

ALERT = {
    "type": "record",
    "name": "alert",
    "fields": [
        {"name": "id", "type": "long"},
        {"name": "ra", "type": "double"},
        {"name": "cutout", "type": ["null", "bytes"], "default": None},
        {"name": "tags", "type": {"type": "array", "items": "string"}},
    ],
}
VALUES = st.fixed_dictionaries(
    {
        "id": st.integers(-(2**63), 2**63 - 1),
        "ra": st.floats(allow_nan=False),
        "cutout": st.none() | st.binary(max_size=20),
        "tags": st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=5), max_size=3),
    }
)
FRAMINGS = ("container", "single-object", "raw")


def codec(framing: str, schema: object = ALERT) -> Codec:
    return Codec(RecordFormat(encoding="avro", framing=framing, schema=json.dumps(schema)))  # type: ignore[arg-type]


@given(VALUES, st.sampled_from(FRAMINGS))
def test_round_trip(value: dict[str, object], framing: str) -> None:
    """A value comes back as it was, in every framing; a container has a list of them."""
    sent = [value, value] if framing == "container" else value
    assert codec(framing).decode(codec(framing).encode(sent)) == sent


@given(VALUES, st.sampled_from(FRAMINGS), st.data())
def test_cut_and_damaged_values(value: dict[str, object], framing: str, data: st.DataObject) -> None:
    """Whatever is cut off or changed, a payload is read or refused, never anything else; of a single value every cut
    is found (a container may end after any block)."""
    subject = codec(framing)
    payload = bytearray(subject.encode([value] if framing == "container" else value))
    place = data.draw(st.integers(0, len(payload) - 1))
    cut = bytes(payload[:place])
    payload[place] ^= data.draw(st.integers(1, 255))
    for tried in (cut, bytes(payload)):
        try:
            subject.decode(tried)
        except InvalidInput:
            continue
        assert tried != cut or framing == "container"


def test_fingerprint_of_the_specification() -> None:
    """The CRC-64-AVRO of "null" is the specification's EMPTY-based vector, least significant byte first."""
    assert schema_fingerprint(parse_schema('{"type": "null"}')) == (7195948357588979594).to_bytes(8, "little")


def test_single_objects_of_another_schema() -> None:
    """The fingerprint says which schema a value was written with, and another is refused by it."""
    other = {**ALERT, "fields": ALERT["fields"][:1]}
    payload = codec("single-object", other).encode({"id": 1})
    with pytest.raises(InvalidInput, match=r"was written with the schema [0-9a-f]{16}; the stream's is"):
        codec("single-object").decode(payload)
    with pytest.raises(InvalidInput, match="begins with"):
        codec("single-object").decode(payload[2:])


def test_bytes_after_a_value_are_refused() -> None:
    """A raw value is the whole payload."""
    payload = codec("raw").encode({"id": 1, "ra": 2.0, "cutout": None, "tags": []})
    with pytest.raises(InvalidInput, match="has 3 bytes after the value"):
        codec("raw").decode(payload + b"\0\0\0")


def test_containers_are_resolved_to_the_streams_schema() -> None:
    """A container written with another schema fits when the stream's can read it, and else says why."""
    out = io.BytesIO()
    older = {**ALERT, "fields": [*ALERT["fields"][:2], ALERT["fields"][3]]}
    fastavro.writer(out, older, [{"id": 1, "ra": 2.0, "tags": []}])
    assert codec("container").decode(out.getvalue()) == [{"id": 1, "ra": 2.0, "cutout": None, "tags": []}]
    out = io.BytesIO()
    fastavro.writer(out, {**ALERT, "fields": ALERT["fields"][:1]}, [{"id": 1}])
    with pytest.raises(InvalidInput, match="ra"):
        codec("container").decode(out.getvalue())
    assert AvroForm("container", None).decode(out.getvalue()) == [{"id": 1}]


@pytest.mark.parametrize(
    ("value", "says"),
    [({"id": "x", "ra": 1.0, "tags": []}, "does not fit"), ({"id": 1}, "does not fit"), (3, "does not fit")],
)
def test_values_that_do_not_fit_are_not_written(value: object, says: str) -> None:
    """A value of another form is refused before it leaves."""
    for framing in ("single-object", "raw"):
        with pytest.raises(InvalidInput, match=says):
            codec(framing).encode(value)


@pytest.mark.parametrize(
    "text", ['{"type": "nothing"}', '{"type": "array"}', '{"type": "enum", "name": "e"}', "3", '{"a": 1}']
)
def test_what_is_no_schema(text: str) -> None:
    """A document that is no Avro schema is refused."""
    with pytest.raises(InvalidInput, match="is not an Avro schema"):
        parse_schema(text)


def test_lengths_that_lie() -> None:
    """A length beyond the payload, and a negative one, are refused without taking memory for them."""
    check = Check(RecordFormat(encoding="avro", framing="raw", schema='{"type": "bytes"}'))
    for payload in (b"\xfe\xff\xff\xff\xff\xff\xff\xff\xff\x01", b"\x01", b"\x80" * 20, b""):
        assert check.errors(payload, 8), payload


def array(items: object) -> dict[str, object]:
    return {"type": "array", "items": items}


def mapping(values: object) -> dict[str, object]:
    return {"type": "map", "values": values}


def fixed(size: int) -> dict[str, object]:
    return {"type": "fixed", "name": "f", "size": size}


def record(*fields: object, name: str = "r", **more: object) -> dict[str, object]:
    return {"type": "record", "name": name, "fields": list(fields), **more}


def field(name: str, kind: object, **more: object) -> dict[str, object]:
    return {"name": name, "type": kind, **more}


ENUM = {"type": "enum", "name": "e", "symbols": ["A", "B"]}
LESS = {"type": "enum", "name": "e", "symbols": ["A"]}
TREE = record(field("next", ["null", "r"]), field("v", "int"))
RENAMED = record(field("b", "int", aliases=["a"]), name="s", aliases=["r"])


@pytest.mark.parametrize(
    ("reader", "writer", "path"),
    [
        (record(field("a", "long")), record(field("a", "int")), None),
        (record(field("a", "int")), record(field("a", "long")), "a"),
        (record(field("a", "int"), field("b", "int", default=1)), record(field("a", "int")), None),
        (record(field("a", "int"), field("b", "int")), record(field("a", "int")), "b"),
        (record(field("a", "int")), record(field("a", "int"), field("b", "int")), None),
        (record(field("a", ["null", "int"])), record(field("a", "int")), None),
        (record(field("a", "int")), record(field("a", ["null", "int"])), "a"),
        (record(field("a", ["long", "string"])), record(field("a", ["int", "bytes"])), None),
        (record(field("a", array("int"))), record(field("a", array("string"))), "a[]"),
        (record(field("a", mapping("int"))), record(field("a", mapping("null"))), "a{}"),
        (record(field("a", ENUM)), record(field("a", LESS)), None),
        (record(field("a", LESS)), record(field("a", ENUM)), "a"),
        (record(field("a", {**LESS, "default": "A"})), record(field("a", ENUM)), None),
        (record(field("a", fixed(2))), record(field("a", fixed(3))), "a"),
        (RENAMED, record(field("a", "int")), None),
        (record(field("a", "int"), name="s"), record(field("a", "int")), ""),
        (record(field("a", "int"), name="one.r"), record(field("a", "int"), name="two.r"), None),
        (TREE, TREE, None),
        (record(field("next", ["null", "r"]), field("v", "string")), TREE, "v"),
        ({"type": "string"}, {"type": "bytes"}, None),
        ({"type": "float"}, {"type": "double"}, ""),
    ],
)  # fmt: skip
def test_schema_resolution(reader: object, writer: object, path: str | None) -> None:
    """The rules of the specification, each with one pair that follows it and one that does not."""
    problems = unreadable(json.dumps(reader), json.dumps(writer))
    assert [p.path for p in problems[:1]] == ([] if path is None else [path])


@pytest.mark.parametrize("width", [1, 12])
def test_comparisons_are_bounded(width: int) -> None:
    """Unions within unions of records end, by the step limit if need be."""
    kind: object = "int"
    for depth in range(12):
        branches = [record(field("a", kind), name=f"r{depth}x{i}") for i in range(width)]
        kind = branches if width == 1 else {"type": "array", "items": branches[0]}
    schema = json.dumps(record(field("a", kind), name="top"))
    assert unreadable(schema, schema) == []
