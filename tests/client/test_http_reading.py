"""Reading what a newer server sends, and kinds by their names."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from platformd.client.reading import as_kind, read_resource
from platformd.core.errors import NotFound, Unsupported
from platformd.model.kinds import KINDS
from platformd.model.node import NODE
from platformd.model.pipeline import PIPELINE, FilterStage


def pipeline(**stage: Any) -> dict[str, Any]:
    first = {"type": "filter", "name": "f", "expression": "a > 1"} | stage
    route = {"type": "route", "name": "r", "routes": [{"subject": "out", "weight": 3}]}
    spec = {"source": "a.>", "dead_letter": "d", "stages": [first, route], "parallel": True}
    status = {"state": "running", "stages": [{"name": "f", "type": "filter", "p99": 1.5}], "since": None}
    return {
        "kind": "Pipeline",
        "name": "p",
        "spec": spec,
        "status": status,
        "zone": "x",
        "owner": {"kind": "S", "name": "s", "q": 1},
    }


def test_members_that_this_version_does_not_know_are_dropped() -> None:
    """New members at any depth (union members, tuples and optional structs included) do not break reading."""
    resource = read_resource(PIPELINE, pipeline(threads=4))
    assert isinstance(resource.spec.stages[0], FilterStage)
    assert resource.spec.stages[0].expression == "a > 1"
    assert resource.spec.stages[1].routes[0].subject == "out"
    assert resource.status.stages[0].name == "f"
    assert resource.owner is not None
    assert resource.owner.name == "s"


def test_dictionaries_keep_all_their_members() -> None:
    """Only members of structs are dropped: keys of labels and of pressure figures are data."""
    document = {
        "kind": "Node",
        "name": "n",
        "labels": {"a": "b"},
        "spec": {"new": 1},
        "status": {"pressure": {"gpu.some": 1.0}},
    }
    resource = read_resource(NODE, document)
    assert (resource.labels, resource.status.pressure) == ({"a": "b"}, {"gpu.some": 1.0})


def test_what_cannot_be_dropped_is_an_error_that_names_the_resource() -> None:
    """A type of stage that this version does not have is refused with the cause and what to compare."""
    with pytest.raises(Unsupported, match="pipeline/p") as caught:
        read_resource(PIPELINE, pipeline(type="join"))
    assert "platformd status" in str(caught.value.hint)


@pytest.mark.parametrize("document", [None, [], "x", {}, {"kind": "Pipeline"}])
def test_what_is_no_resource_is_an_error(document: Any) -> None:
    """Nothing that is not a resource gets through, and nothing raises another error."""
    with pytest.raises(Unsupported):
        read_resource(PIPELINE, document)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.plural)
def test_a_document_of_this_version_is_read_as_it_is(kind: Any) -> None:
    """For each kind that needs nothing in its spec, the resource and its document are the same."""
    try:
        resource = kind.resource_type(kind=kind.name, name="x", spec=kind.spec(), status=kind.status())
    except TypeError:
        resource = kind.resource_type(
            kind=kind.name, name="x", spec=msgspec.convert(kind.example, kind.spec), status=kind.status()
        )
    assert read_resource(kind, msgspec.json.decode(msgspec.json.encode(resource))) == resource


def test_kinds_are_found_by_any_of_their_names() -> None:
    """A kind is found by its singular, plural and alias, and itself; others are refused."""
    assert as_kind("st") is as_kind("Streams") is as_kind(as_kind("stream"))
    with pytest.raises(NotFound, match="streams"):
        as_kind("strems")
