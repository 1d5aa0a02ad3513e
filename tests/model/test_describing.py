"""What faces are told of a kind, made from its declaration alone."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from platformd.conductor.documents import decode_document
from platformd.core.errors import InvalidInput, NotFound
from platformd.model.describing import component_schemas, describe_kind, explain_path, field_docs
from platformd.model.kind import Kind
from platformd.model.kinds import KINDS
from platformd.model.pipeline import PIPELINE
from platformd.model.resource import DEFAULT_TENANT, Struct
from platformd.model.stream import STREAM, StreamStatus

each_kind = pytest.mark.parametrize("kind", KINDS, ids=lambda k: k.name)


def all_schemas(kind: Kind) -> dict[str, dict[str, Any]]:
    structs = [s for action in kind.actions for s in (action.parameters, action.result) if s is not None]
    return component_schemas([kind], structs)


@each_kind
def test_every_field_says_what_it_is(kind: Kind) -> None:
    """Each field of each struct of each kind, its actions' parameters included, has a description of its own."""
    silent = [
        f"{name}.{field}"
        for name, schema in all_schemas(kind).items()
        for field, described in schema.get("properties", {}).items()
        if not described.get("description")
    ]
    assert silent == []


@each_kind
def test_every_field_is_documented_in_the_source(kind: Kind) -> None:
    """The description is the field's own, not only that of its type."""
    docs = field_docs(kind.spec) | field_docs(kind.status)
    assert set(kind.spec.__struct_fields__ + kind.status.__struct_fields__) <= set(docs)


@each_kind
def test_examples_are_valid(kind: Kind) -> None:
    """The example of each kind passes everything that a user's document must pass."""
    example = describe_kind(kind)["example"]
    decoded = decode_document(kind, example, name=None, tenant=DEFAULT_TENANT, checks=kind.checks)
    assert kind.example
    assert decoded.spec == msgspec.convert(kind.example, kind.spec)


@each_kind
def test_rules_and_actions_say_what_they_are(kind: Kind) -> None:
    """Each admission rule and each action has a sentence, and each state has a row."""
    described = describe_kind(kind)
    assert all(described["rules"])
    assert all(a["summary"] and a["parameters"]["$defs"] for a in described["actions"])
    assert [row["state"] for row in described["states"]] == list(kind.transitions)
    assert sum(row["initial"] for row in described["states"]) == bool(kind.transitions)
    assert msgspec.json.decode(msgspec.json.encode(described)) == described


def test_units_follow_from_types_and_names() -> None:
    """A field says what it is counted in, and text says nothing."""
    defs = describe_kind(STREAM)["schema"]["$defs"]
    spec, status = defs["StreamSpec"]["properties"], defs["StreamStatus"]["properties"]
    units = {name: field.get("x-unit") for name, field in {**spec, **status}.items()}
    assert (units["max_age"], units["max_bytes"], units["description"]) == ("duration", "size", None)
    assert (units["bytes"], units["bytes_per_second"], units["messages_per_second"]) == ("bytes", "bytes/s", "1/s")
    assert (units["first_record_at"], units["since"], units["first_sequence"]) == ("time", "time", None)


def test_what_the_server_owns_is_marked() -> None:
    """A schema tells clients which members they need not send."""
    members = describe_kind(STREAM)["schema"]["$defs"]["Stream"]["properties"]
    assert {name for name, member in members.items() if member.get("readOnly")} >= {"uid", "revision", "status"}
    assert not members["spec"].get("readOnly")
    assert members["kind"]["const"] == "Stream"


def test_one_path_is_explained() -> None:
    """A dotted path leads through references, lists and alternatives; a typing error gets the nearest."""
    assert "share the stage's work" in explain_path(PIPELINE, "spec.stages.workers")["description"]
    assert explain_path(PIPELINE, "")["$ref"] == "#/$defs/Pipeline"
    assert "spec" in explain_path(PIPELINE, "spec")["$ref"].lower()
    with pytest.raises(NotFound) as error:
        explain_path(PIPELINE, "spec.stagse")
    assert error.value.hint == "did you mean stages?"
    with pytest.raises(NotFound) as error:
        explain_path(PIPELINE, "spec.source.deeper")
    assert error.value.hint == "it has no fields"


def test_inherited_fields_are_documented() -> None:
    """What a status has from the base of all statuses is described, too."""
    assert "word" in field_docs(StreamStatus)["state"]


def test_two_types_of_one_name_are_refused() -> None:
    """A document whose references would be ambiguous is not made."""

    class Owner(Struct, frozen=True, kw_only=True):
        """Not the envelope's."""

        name: str = ""
        """Any."""

    with pytest.raises(InvalidInput, match="Owner"):
        component_schemas([STREAM], [Owner])
