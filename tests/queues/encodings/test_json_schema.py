"""JSON Schemas: what is taken for one, what it may reach, and containment."""

from __future__ import annotations

import json

import pytest

from platformd.core.errors import InvalidInput
from platformd.queues.encodings.json_schema import JsonSchema, covers
from platformd.queues.encodings.schemas import incompatibilities, schema_problem


@pytest.mark.parametrize(
    ("schema", "says"),
    [
        ({"type": "strin"}, "type"),
        ({"properties": {"a": {"minimum": "x"}}}, "properties.a.minimum"),
        ({"$schema": "http://json-schema.org/draft-07/schema#"}, "2020-12"),
        ({"$ref": "http://localhost:1/schema"}, "localhost:1"),
        ({"$ref": "file:///etc/passwd"}, "passwd"),
        ({"$ref": "#/$defs/gone"}, "gone"),
        ({"pattern": "(?=a)b"}, "look-around"),
        ({"pattern": r"(a)\1"}, "back-references"),
        ({"pattern": "((a{100}){100}){100}"}, "1 MiB"),
        ([1], "an object"),
    ],
)
def test_what_is_no_schema(schema: object, says: str) -> None:
    """What is not JSON Schema 2020-12, reaches outside itself or has unbounded patterns is refused with its place."""
    problem = schema_problem("json", json.dumps(schema))
    assert problem is not None
    assert says in problem


def test_patterns_take_linear_time() -> None:
    """The classic that makes backtracking engines hang is answered at once."""
    schema = JsonSchema('{"pattern": "^(a+)+$"}')
    assert schema.errors("a" * 100_000 + "!", 1)
    assert not schema.errors("a" * 100_000, 1)


def test_references_within_a_schema() -> None:
    """``$ref`` to the schema itself and its definitions works, recursion included."""
    node = {"properties": {"next": {"$ref": "#/$defs/n"}, "v": {"type": "integer"}}}
    tree = JsonSchema(json.dumps({"$defs": {"n": node}, "$ref": "#/$defs/n"}))
    assert [e.path for e in tree.errors({"next": {"next": {"v": "x"}}}, 8)] == ["next.next.v"]


OPEN = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
CLOSED = {**OPEN, "additionalProperties": False}
WITH_B = {"a": {"type": "integer"}, "b": {"type": "string"}}


@pytest.mark.parametrize(
    ("wider", "narrower", "holds"),
    [
        (OPEN, OPEN, True),
        (OPEN, CLOSED, True),
        (CLOSED, OPEN, False),
        ({**CLOSED, "properties": WITH_B}, CLOSED, True),
        ({**CLOSED, "properties": WITH_B, "required": ["a", "b"]}, CLOSED, False),
        ({**OPEN, "properties": WITH_B}, OPEN, False),
        ({**OPEN, "properties": {"a": {"type": "number"}}}, OPEN, True),
        ({**OPEN, "required": []}, OPEN, True),
        ({"enum": ["a", "b"]}, {"enum": ["a"]}, True),
        ({"type": "string", "pattern": "^a"}, {"type": "string", "pattern": "^ab"}, False),
    ],
)
def test_containment(wider: object, narrower: object, holds: bool) -> None:
    """A schema covers another when every document of the other fits it, and that can be proved."""
    assert (covers(json.dumps(wider), json.dumps(narrower)) is None) == holds


def test_modes() -> None:
    """Each mode compares in its directions, with every older version, and says which."""
    old, new = json.dumps(CLOSED), json.dumps({**CLOSED, "properties": WITH_B})
    assert incompatibilities("json", "backward", [(1, old)], new) == []
    assert incompatibilities("json", "none", [(1, new)], old) == []
    [forward] = incompatibilities("json", "forward", [(1, old)], new)
    assert "forward, with version 1" in forward.message
    found = incompatibilities("json", "full", [(1, old), (2, new)], new)
    assert [e.message.partition(":")[0] for e in found] == ["is not compatible (forward, with version 1)"]
    with pytest.raises(InvalidInput):
        JsonSchema("[]")
