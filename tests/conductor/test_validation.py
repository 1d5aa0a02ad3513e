"""Validation says everything at once, each thing with its path."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from platformd.conductor.documents import merge_patch
from platformd.conductor.selector import parse_selector
from platformd.conductor.validation import validate
from platformd.core.errors import InvalidInput
from platformd.model.node import NodeStatus
from platformd.model.pipeline import PipelineSpec
from platformd.model.resource import Owner
from platformd.model.stream import StreamSpec

GOOD: dict[str, Any] = {
    "source": "alerts.ztf",
    "dead_letter": "alerts.dead",
    "stages": [
        {"type": "filter", "name": "keep", "expression": "true"},
        {"type": "route", "name": "out", "routes": [{"subject": "a"}]},
    ],
}


def paths(document: Any, wanted: Any) -> list[str]:
    value, errors = validate(document, wanted, "spec")
    assert (value is None) == bool(errors)
    return [e.path for e in errors]


def test_a_good_document_is_taken() -> None:
    """A valid document gives the struct and no errors."""
    value, errors = validate(GOOD, PipelineSpec, "spec")
    assert errors == []
    assert value.stages[1].routes[0].subject == "a"


def test_all_errors_come_at_once() -> None:
    """Unknown, missing and wrong members of nested objects are all named, each by its path."""
    document = {
        "sorce": "x",
        "dead_letter": 5,
        "ack_wait": "soon",
        "stages": [
            {"type": "filter", "name": "Bad Name", "expression": ""},
            {"type": "magic", "name": "m"},
            {"type": ["filter"], "name": "u"},
            {"name": "n"},
            {"type": "route", "name": "r", "routes": [{"subject": 1, "wen": "x"}]},
            "text",
        ],
    }
    assert sorted(paths(document, PipelineSpec)) == [
        "spec.ack_wait",
        "spec.dead_letter",
        "spec.sorce",
        "spec.source",
        "spec.stages[0].expression",
        "spec.stages[0].name",
        "spec.stages[1].type",
        "spec.stages[2].type",
        "spec.stages[3].type",
        "spec.stages[4].routes[0].subject",
        "spec.stages[4].routes[0].wen",
        "spec.stages[5]",
    ]


def test_hints_name_what_was_meant() -> None:
    """An unknown member is answered with the nearest known one."""
    _, errors = validate({"subject": ["a"]}, StreamSpec, "spec")
    assert (errors[0].path, errors[0].hint) == ("spec.subject", "did you mean subjects?")


@pytest.mark.parametrize("document", [None, 3, "x", [], True])
def test_what_is_no_object_is_refused(document: Any) -> None:
    """A document that is not an object is one error at its root."""
    assert paths(document, StreamSpec) == ["spec"]


def test_lengths_are_judged_beside_the_items() -> None:
    """A sequence that is too short is named itself; the items of one that is not are named each."""
    assert paths({"subjects": []}, StreamSpec) == ["spec.subjects"]
    assert paths({"subjects": ["a", 1, None]}, StreamSpec) == ["spec.subjects[1]", "spec.subjects[2]"]
    assert paths({"subjects": ["a"] * 65}, StreamSpec) == ["spec.subjects"]


def test_optional_objects_and_maps_are_walked() -> None:
    """``X | None`` takes null, and errors inside of X or of a map's values have their own paths."""
    assert validate(None, Owner | None, "spec") == (None, [])
    assert paths({"kind": "Node"}, Owner | None) == ["spec.name"]
    assert paths({"pressure": {"cpu": "high"}}, NodeStatus) == ["spec.pressure.cpu"]


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5) | st.floats(allow_nan=False),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from([*GOOD, "name", "type", "routes", "subject", "expression"]), inner, max_size=4
        )
    ),
    max_leaves=12,
)


@given(json_values)
def test_any_document_is_judged_and_never_raises(document: Any) -> None:
    """Whatever JSON comes, the answer is a value or a list of errors under the root."""
    value, errors = validate(document, PipelineSpec, "spec")
    assert (value is None) == bool(errors)
    assert all(e.path.startswith("spec") and e.message for e in errors)


@pytest.mark.parametrize(
    ("text", "labels", "expected"),
    [
        ("", {}, True), ("a=b", {"a": "b"}, True), ("a=b", {}, False), ("a==b", {"a": "b"}, True),
        ("a!=b", {}, True), ("a!=b", {"a": "b"}, False), ("a", {"a": ""}, True), ("a", {}, False),
        ("!a", {}, True), ("!a", {"a": "1"}, False), ("a=b, c", {"a": "b", "c": ""}, True), ("a=", {"a": ""}, True),
    ],
)  # fmt: skip
def test_selectors(text: str, labels: dict[str, str], *, expected: bool) -> None:
    """All terms must hold."""
    assert parse_selector(text)(labels) is expected


@pytest.mark.parametrize("text", ["=b", "!a=b", "a b", "a=b=c", "a<b"])
def test_wrong_selectors_are_refused(text: str) -> None:
    """A term that cannot be read is named."""
    with pytest.raises(InvalidInput, match="selector"):
        parse_selector(text)


@pytest.mark.parametrize(
    ("target", "patch", "expected"),
    [
        ({"a": "b"}, {"a": "c"}, {"a": "c"}), ({"a": "b"}, {"b": "c"}, {"a": "b", "b": "c"}),
        ({"a": "b"}, {"a": None}, {}),
        ({"a": ["b"]}, {"a": "c"}, {"a": "c"}), ({"a": {"b": "c"}}, {"a": {"b": "d", "c": None}}, {"a": {"b": "d"}}),
        ({"a": [{"b": "c"}]}, {"a": [1]}, {"a": [1]}), (["a"], ["c"], ["c"]), ({"a": "foo"}, None, None),
        ({"e": None}, {"a": 1}, {"e": None, "a": 1}), ([1, 2], {"a": "b", "c": None}, {"a": "b"}),
        ({}, {"a": {"bb": {"ccc": None}}}, {"a": {"bb": {}}}),
    ],
)  # fmt: skip
def test_merge_patch_is_rfc_7396(target: Any, patch: Any, expected: Any) -> None:
    """The examples of the RFC's appendix A."""
    assert merge_patch(target, patch) == expected
