"""Subjects and their patterns."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from platformd.model.subjects import patterns_overlap, subject_error, subject_matches

tokens = st.sampled_from(["a", "b", "c"])
subjects = st.lists(tokens, min_size=1, max_size=4).map(".".join)


@st.composite
def patterns(draw: st.DrawFn) -> str:
    parts = draw(st.lists(st.one_of(tokens, st.just("*")), min_size=0, max_size=4))
    if not parts or draw(st.booleans()):
        parts.append(">")
    return ".".join(parts)


@pytest.mark.parametrize(
    ("pattern", "subject", "expected"),
    [
        ("a.b", "a.b", True), ("a.b", "a.c", False), ("a.*", "a.b", True), ("a.*", "a.b.c", False), ("a.*", "a", False),
        ("a.>", "a.b.c", True), ("a.>", "a", False), (">", "a", True), ("*.b", "a.b", True), ("*.*", "a", False),
    ],
)  # fmt: skip
def test_matching(pattern: str, subject: str, *, expected: bool) -> None:
    """``*`` is one token, ``>`` is one or more at the end."""
    assert subject_matches(pattern, subject) is expected


@pytest.mark.parametrize("subject", ["", ".", "a.", ".a", "a..b", "a b", "a.*", ">", "a\n", "ä", "a" * 256, "a*"])
def test_wrong_subjects(subject: str) -> None:
    """What is not a plain subject is told why."""
    assert subject_error(subject, pattern=False)


@pytest.mark.parametrize("pattern", ["a.>.b", "a>", "a.b*", "", "a. .b"])
def test_wrong_patterns(pattern: str) -> None:
    """A wildcard stands alone, and ``>`` at the end."""
    assert subject_error(pattern, pattern=True)


@given(patterns())
def test_generated_patterns_are_valid(pattern: str) -> None:
    """The generator of these tests makes only valid patterns."""
    assert subject_error(pattern, pattern=True) is None


@given(patterns(), patterns(), subjects)
def test_a_common_subject_means_overlap(first: str, second: str, subject: str) -> None:
    """Two patterns that both cover a subject overlap."""
    if subject_matches(first, subject) and subject_matches(second, subject):
        assert patterns_overlap(first, second)


@given(patterns(), patterns())
def test_overlap_means_a_common_subject(first: str, second: str) -> None:
    """For patterns that overlap, a subject that both cover can be made."""
    if not patterns_overlap(first, second):
        return
    left, right = first.split("."), second.split(".")
    longest = max(len(left), len(right))
    left += [left[-1]] * (longest - len(left)) if left[-1] == ">" else []
    right += [right[-1]] * (longest - len(right)) if right[-1] == ">" else []
    witness = ".".join(next((t for t in pair if t not in ("*", ">")), "a") for pair in zip(left, right, strict=True))
    assert subject_matches(first, witness)
    assert subject_matches(second, witness)
