"""The kind Schema, and what a stream may say of its format."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from platformd.conductor.documents import decode_document
from platformd.core.errors import Unprocessable
from platformd.model.schema import MAX_SCHEMA_BYTES, MAX_SCHEMA_DEPTH, SCHEMA, reference, schema_error
from platformd.model.stream import STREAM


def errors_of(kind: Any, spec: dict[str, Any]) -> list[str]:
    try:
        decode_document(kind, {"name": "x", "spec": spec}, name=None, tenant="default", checks=kind.checks)
    except Unprocessable as error:
        return [f"{e.path}: {e.message}" for e in error.errors]
    return []


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("site.note@2", ("site.note", 2)),
        ("a@999999999", ("a", 999_999_999)),
        ("a", None),
        ("a@", None),
        ("@1", None),
        ("a@0", None),
        ("a@01", None),
        ("a@-1", None),
        ("a@x", None),
        ("a@²", None),
        ("a@9999999999", None),
        ("A@1", None),
        ("a@1\n", None),
        ("a@1@2", None),
    ],
)
def test_references(text: str, parts: tuple[str, int] | None) -> None:
    """A reference is a name, ``@`` and a number from 1; nothing else is taken for one."""
    assert reference(text) == parts


def test_schemas_are_bounded() -> None:
    """Depth and size of a schema have limits, which the refusal quotes."""
    deep: Any = {}
    for _ in range(MAX_SCHEMA_DEPTH - 1):
        deep = {"items": deep}
    assert schema_error(deep) is None
    assert str(MAX_SCHEMA_DEPTH) in (schema_error({"items": {"items": deep}}) or "")
    assert str(MAX_SCHEMA_BYTES) in (schema_error({"description": "x" * MAX_SCHEMA_BYTES}) or "")
    assert "JSON" in (schema_error({"x": object()}) or "")


def test_versions_come_in_order() -> None:
    """Versions are listed by their numbers, each once, and there is at least one."""
    empty: dict[str, Any] = {}
    spec = {"type": "json", "versions": [{"version": 2, "schema": empty}, {"version": 2, "schema": empty}]}
    assert errors_of(SCHEMA, spec) == ["spec.versions[1].version: 2 does not come after 2"]
    assert errors_of(SCHEMA, {"type": "json", "versions": []}) != []
    assert errors_of(SCHEMA, {"type": "json", "versions": [{"version": 0, "schema": empty}]}) != []
    assert errors_of(SCHEMA, {"type": "avro", "versions": [{"version": 7, "schema": ["null", "int"]}]}) == []


@pytest.mark.parametrize(
    ("spec", "path"),
    [
        ({}, None),
        ({"encoding": "json", "validate": True}, None),
        ({"encoding": "json", "schema": {"type": "object"}}, None),
        ({"encoding": "avro", "schema": ["null", "int"], "framing": "raw"}, None),
        ({"encoding": "avro", "schema": "a@1", "framing": "single-object"}, None),
        ({"validate": True}, "spec.validate"),
        ({"schema": "a@1"}, "spec.schema"),
        ({"encoding": "json", "framing": "raw"}, "spec.framing"),
        ({"encoding": "avro", "framing": "raw"}, "spec.schema"),
        ({"encoding": "json", "schema": "a"}, "spec.schema"),
        ({"encoding": "xml"}, "spec.encoding"),
        ({"encoding": "json", "schema": 3}, "spec.schema"),
        ({"encoding": "json", "schema": {"d": "x" * MAX_SCHEMA_BYTES}}, "spec.schema"),
    ],
)
def test_formats(spec: dict[str, Any], path: str | None) -> None:
    """What of a format contradicts itself is refused with its path."""
    found = errors_of(STREAM, {"subjects": ["a"], **spec})
    assert [e.partition(":")[0] for e in found[:1]] == ([] if path is None else [path])


def test_a_schema_survives_storage() -> None:
    """A schema comes back from its stored form as it was, in the order of its members."""
    schema = {"type": "object", "properties": {"b": {"default": None}, "a": {"const": 1.5}}}
    document = {"name": "x", "spec": {"type": "json", "versions": [{"version": 1, "schema": schema}]}}
    made = decode_document(SCHEMA, document, name=None, tenant="default", checks=SCHEMA.checks)
    back = msgspec.json.decode(msgspec.json.encode(made), type=SCHEMA.resource_type)
    assert back.spec.versions[0].schema == schema
    assert list(back.spec.versions[0].schema["properties"]) == ["b", "a"]
