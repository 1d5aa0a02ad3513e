"""Every kind's declaration is whole, so that the faces can be generated from it."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from platformd.core.errors import NotFound
from platformd.model.kind import Kind
from platformd.model.kinds import KINDS, find_kind
from platformd.model.pipeline import PIPELINE, FilterStage, PipelineSpec, Route, RouteStage
from platformd.model.stream import STREAM, StreamSpec

each_kind = pytest.mark.parametrize("kind", KINDS, ids=lambda k: k.name)


@each_kind
def test_columns_lead_somewhere(kind: Kind) -> None:
    """Each column's path is a field of the spec or the status."""
    for column in kind.columns:
        part, field, *_ = column.path.split(".")
        assert field in {"spec": kind.spec, "status": kind.status}[part].__struct_fields__
        assert " " not in column.title


@each_kind
def test_schemas_can_be_made(kind: Kind) -> None:
    """Each kind has a JSON Schema with its spec's fields in it."""
    schema = msgspec.json.schema(kind.resource_type)
    assert kind.spec.__name__ in schema["$defs"]


@each_kind
def test_state_tables_are_closed(kind: Kind) -> None:
    """Every state that can be reached has a row of its own, and the first state is in the table."""
    if kind.transitions:
        reachable: set[str] = set().union(*kind.transitions.values())
        assert reachable <= set(kind.transitions)
        assert kind.status().state in kind.transitions


@each_kind
def test_a_kind_is_found_by_each_of_its_words(kind: Kind) -> None:
    """Singular, plural and aliases name one kind, in any case."""
    for word in (kind.name, kind.plural, *kind.aliases):
        assert find_kind(word) is kind


def test_an_unknown_kind_gets_the_nearest() -> None:
    """A typing error is answered with what was probably meant."""
    with pytest.raises(NotFound, match="did you mean streams"):
        find_kind("streems")


def spec_errors(kind: Kind, spec: Any) -> list[str]:
    return [e.path for check in kind.checks for e in check(spec)]


def test_stream_subjects_must_be_valid_and_apart() -> None:
    """A stream names wrong subjects by their place and refuses patterns that overlap."""
    assert spec_errors(STREAM, StreamSpec(subjects=("a.>.b", "ok", "b..c"))) == ["spec.subjects[0]", "spec.subjects[2]"]
    assert spec_errors(STREAM, StreamSpec(subjects=("a.*", "a.>"))) == ["spec.subjects"]
    assert spec_errors(STREAM, StreamSpec(subjects=("a.*", "b.>"))) == []


def test_a_pipeline_ends_in_its_only_route() -> None:
    """The last stage is a route, no other is, and names are unique."""
    keep, out = FilterStage(name="f", expression="true"), RouteStage(name="r", routes=(Route(subject="x"),))

    def errors(*stages: Any) -> list[str]:
        return spec_errors(PIPELINE, PipelineSpec(source="a", stages=stages, dead_letter="d"))

    assert errors(keep, out) == []
    assert errors(keep) == ["spec.stages[0].type"]
    assert errors(out, keep) == ["spec.stages[0].type", "spec.stages[1].type"]
    assert errors(keep, keep, out) == ["spec.stages[1].name"]


def test_a_pipeline_subject_must_be_valid() -> None:
    """Source, dead letter and routes are checked, and only the source may be a pattern."""
    route = RouteStage(name="r", routes=(Route(subject="ok"), Route(subject="no.*")))
    spec = PipelineSpec(source="a.>", stages=(route,), dead_letter="b.>")
    assert spec_errors(PIPELINE, spec) == ["spec.dead_letter", "spec.stages[0].routes[1].subject"]
