"""Label selectors: ``a=b,c!=d,e,!f``: all terms must hold."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from platformd.core.errors import InvalidInput

_TERM = re.compile(r"^\s*(!?)\s*([A-Za-z0-9._/-]+)\s*(?:(!?=)=?\s*([A-Za-z0-9._/-]*))?\s*$")

Selector = Callable[[Mapping[str, str]], bool]
"""Whether labels are selected."""


def parse_selector(text: str) -> Selector:
    """A test of labels from its text; empty text selects everything.

    Raises:
        InvalidInput: it cannot be read; the message names the term.
    """
    terms = [_parse_term(term) for term in text.split(",") if term.strip()]
    return lambda labels: all(term(labels) for term in terms)


def _parse_term(text: str) -> Selector:
    match = _TERM.match(text)
    if match is None or (match[1] and match[3]):
        raise InvalidInput(
            f"{text.strip()!r} is not a selector term",
            subject="label selector",
            hint="write name=value, name!=value, name (is there) or !name (is not), with commas between",
        )
    negated, name, operator, value = match.groups()
    if operator is None:
        return lambda labels: (name in labels) != bool(negated)
    if operator == "=":
        return lambda labels: labels.get(name) == value
    return lambda labels: labels.get(name) != value
