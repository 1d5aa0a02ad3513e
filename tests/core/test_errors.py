"""Errors are the same object in Python, in HTTP and on the command line."""

from __future__ import annotations

import pytest

from platformd.core.errors import BY_CODE, FieldError, PlatformError, from_problem, nearest


@pytest.mark.parametrize("error_class", BY_CODE.values(), ids=list(BY_CODE))
def test_errors_survive_the_wire(error_class: type[PlatformError]) -> None:
    """An error that is sent as a problem document comes back as itself."""
    error = PlatformError.__new__(error_class)
    PlatformError.__init__(
        error,
        "was refused",
        subject="stream/alerts",
        hint="do otherwise",
        errors=(FieldError(path="spec.a", message="is wrong"),),
        details={"compact_revision": 7},
    )
    back = from_problem(error.to_problem())
    assert type(back) is error_class
    assert (back.message, back.subject, back.hint, back.errors) == (
        error.message,
        error.subject,
        error.hint,
        error.errors,
    )
    assert back.details == {"compact_revision": 7}


def test_the_text_says_everything() -> None:
    """The command line's form has the subject, the reason, each field and the hint."""
    error = PlatformError(
        "is bad", subject="x/y", hint="fix it", errors=(FieldError(path="a.b", message="no", hint="yes"),)
    )
    assert str(error) == "x/y: is bad\n  a.b: no (yes)\nhint: fix it"


@pytest.mark.parametrize("problem", [{}, {"code": "from_the_future", "detail": "x"}, {"errors": "nonsense"}])
def test_foreign_problems_become_errors_too(problem: dict[str, object]) -> None:
    """What some proxy answers is still an error with a text, never an exception of the reader."""
    assert str(from_problem(problem))


def test_nearest_knows_when_nothing_is_near() -> None:
    """A far-off word gets no suggestion."""
    assert nearest("zzz", ["alpha", "beta"]) is None
    assert nearest("alhpa", ["alpha", "beta"]) == "alpha"
