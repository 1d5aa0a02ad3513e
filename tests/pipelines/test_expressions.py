"""Expressions: what is refused and where, what fails on a packet and why, and which fields are read."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from platformd.pipelines.expressions import (
    FUNCTIONS,
    EvaluationError,
    Expression,
    ExpressionError,
    expression_errors,
)

DEFAULT = "candidate.rb >= 0.55 && candidate.nbad == 0 && candidate.magpsf < 19.5"


def only_error(source: str) -> tuple[str, str | None]:
    (error,) = expression_errors(source, "spec.stages[0].expression")
    assert error.path == "spec.stages[0].expression"
    return error.message, error.hint


@pytest.mark.parametrize(
    ("packet", "wanted"),
    [({"rb": 0.55, "nbad": 0, "magpsf": 19.0}, True), ({"rb": 0.5, "nbad": 0, "magpsf": 19.0}, False)],
)
def test_a_predicate_holds_or_not(packet: dict[str, float], wanted: bool) -> None:
    """The usual filter decides by the packet's fields."""
    assert Expression(DEFAULT)({"candidate": packet}, {}) is wanted


def test_a_syntax_error_says_where() -> None:
    """A mistake is refused with its line and column, and a caret under the place."""
    message, _ = only_error("candidate.rb >= 0.55 &&\n  candidate.nbad = 0")
    assert message == ("line 2, column 18: cannot read '= '\n      candidate.nbad = 0\n                     ^")


def test_an_expression_that_ends_too_early_says_so() -> None:
    """The parser's list of everything that could follow is no help, so it is left out."""
    message, _ = only_error("candidate.rb >=")
    assert message.splitlines()[0] == "line 1, column 16: the expression ends too early"


@pytest.mark.parametrize("source", ["(" * 500 + "1" + ")" * 500, "[" * 2000, "a ? b", "@", "'open", "a.?b == 1"])
def test_what_cannot_be_parsed_is_refused(source: str) -> None:
    """Whatever the parser stumbles over becomes an error of ours."""
    assert expression_errors(source, "p")


def test_an_unknown_function_is_refused_with_its_place() -> None:
    """CEL only finds an unknown function when it runs; here it is refused before."""
    message, hint = only_error("true && candidate.name.startswith('a')")
    assert message.splitlines()[0] == "line 1, column 24: there is no function 'startswith'"
    assert hint == "did you mean startsWith?"


def test_abs_has_a_hint() -> None:
    """People will try abs: the hint shows how it is written in CEL."""
    message, hint = only_error("abs(candidate.b) < 15.0")
    assert "there is no function 'abs'" in message
    assert hint is not None
    assert "x < 3 && x > -3" in hint


@pytest.mark.parametrize(("source", "what"), [("1 + 1", "an int"), ("'a'", "a string"), ("null", "null")])
def test_a_constant_that_is_no_bool_is_refused(source: str, what: str) -> None:
    """Without variables the result is known at once."""
    assert only_error(source)[0] == f"gives {what}, not a bool"


def test_a_constant_that_fails_is_refused() -> None:
    """A division by zero that every packet would meet is found when it is applied."""
    assert "division by zero" in only_error("1 / 0 > 1")[0]


def test_a_result_that_is_no_bool_fails_on_the_packet() -> None:
    """There is no truthiness: a filter that gives a number is a mistake."""
    with pytest.raises(EvaluationError, match="gives a double, not a bool"):
        Expression("candidate.rb")({"candidate": {"rb": 0.5}}, {})


@pytest.mark.parametrize(
    ("packet", "reason"),
    [
        ({"candidate": None}, "candidate is null"),
        ({"candidate": {"rb": None}}, "candidate.rb is null"),
        ({"candidate": {}}, "candidate.rb is missing"),
        ({}, "candidate is missing"),
        ({"candidate": {"rb": "high"}}, "No such overload"),
    ],
)
def test_a_failure_names_the_field(packet: dict[str, object], reason: str) -> None:
    """Null, missing and mistyped fields fail with a reason that a person can act on."""
    with pytest.raises(EvaluationError, match=reason):
        Expression("candidate.rb > 0.5")(packet, {})


def test_null_on_a_side_that_does_not_matter_is_no_failure() -> None:
    """CEL's && and || take the side that decides, in either order."""
    packet = {"candidate": {"rb": None, "nbad": 3}}
    assert Expression("candidate.rb > 0.5 && candidate.nbad == 0")(packet, {}) is False


def test_annotations_are_not_the_packets() -> None:
    """A field of the packet called annotations does not hide what the stages computed."""
    assert Expression("annotations.x == 1")({"annotations": {"x": 2}}, {"x": 1}) is True


@pytest.mark.parametrize(
    ("source", "reads"),
    [
        (DEFAULT, {"candidate.rb", "candidate.nbad", "candidate.magpsf"}),
        ("prv_candidates.exists(p, p.magpsf < 18.0)", {"prv_candidates", "p", "p.magpsf"}),
        ("candidate['rb'] > 0.5", {"candidate"}),
        ("prv_candidates[0].jd > 1.0", {"prv_candidates"}),
        ("size(prv_candidates) > 3 && has(candidate.drb)", {"prv_candidates", "candidate.drb"}),
        ("objectId.startsWith('a.b.c') // d.e", {"objectId"}),
        ("name == r'\\' && other == 'x'", {"name", "other"}),
        ("name == '''it's''' || other == \"a\\\"b\"", {"name", "other"}),
        ("candidate . rb > 1.5e3", {"candidate.rb"}),
        ("(candidate).rb > 1.0", {"candidate"}),
        ("1.0 < .5 || true", set()),
        (".candidate.rb > 0.5", None),
    ],
)
def test_what_an_expression_reads(source: str, reads: set[str] | None) -> None:
    """The paths to decode: the whole value wherever the access cannot be followed."""
    assert Expression(source).reads == reads


NAMES = st.sampled_from(["candidate", "objectId", "rb", "x"])
CHAINS = st.lists(NAMES, min_size=1, max_size=3).map(".".join)


PAIRS = st.recursive(CHAINS, lambda inner: st.tuples(inner, inner).map("({0[0]} == {0[1]} || 'q.r' == \"a\")".format))


@given(PAIRS)
def test_reads_cover_every_chain(source: str) -> None:
    """Whatever chain stands in an expression is covered by one of its paths."""
    import re

    reads = Expression(source).reads
    assert reads is not None
    for chain in re.findall(r"[a-zA-Z.]+", re.sub(r"'[^']*'|\"[^\"]*\"", "", source)):
        assert any(chain == path or chain.startswith(f"{path}.") for path in reads)


@given(st.text(max_size=60))
def test_any_text_compiles_or_is_refused(source: str) -> None:
    """No text makes the compiler raise anything but its error."""
    with contextlib.suppress(ExpressionError):
        assert Expression(source).source == source


CALLS = {
    "bytes": "bytes('a') == b'a'",
    "contains": "'abc'.contains('b')",
    "double": "double(1) == 1.0",
    "duration": "duration('1s') == duration('1000ms')",
    "dyn": "dyn(1) == 1",
    "endsWith": "'abc'.endsWith('c')",
    "hasValue": "optional.of(1).hasValue()",
    "int": "int('1') == 1",
    "matches": "'abc'.matches('^a.c$')",
    "none": "!optional.none().hasValue()",
    "of": "optional.of(1).hasValue()",
    "ofNonZeroValue": "optional.ofNonZeroValue(1).hasValue()",
    "or": "optional.of(1).or(optional.of(2)).value() == 1",
    "orValue": "optional.of(1).orValue(2) == 1",
    "size": "size('abc') == 3 && [1].size() == 1",
    "startsWith": "'abc'.startsWith('a')",
    "string": "string(1) == '1'",
    "timestamp": "timestamp('2020-01-01T00:00:00Z') < timestamp('2021-01-01T00:00:00Z')",
    "type": "type(1) == int",
    "uint": "uint(1) == 1u",
    "value": "optional.of(1).value() == 1",
    "getMilliseconds": "duration('1s5ms').getMilliseconds() == 1005",
    **{
        name: f"timestamp('2020-01-01T00:00:00Z').{name}() == {value}"
        for name, value in {
            "getDate": 1,
            "getDayOfMonth": 0,
            "getDayOfWeek": 3,
            "getDayOfYear": 0,
            "getFullYear": 2020,
            "getHours": 0,
            "getMinutes": 0,
            "getMonth": 0,
            "getSeconds": 0,
        }.items()
    },
}


@pytest.mark.parametrize("name", sorted(FUNCTIONS))
def test_every_known_function_is_there(name: str) -> None:
    """The table of functions is what the library has."""
    assert Expression(CALLS[name])({}, {}) is True
