"""Selectors: ``a=b,c!=d,e,!f``: all terms must hold. Of labels, or of fields by their dotted paths."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, Final, get_args, get_type_hints

import msgspec

from platformd.core.errors import InvalidInput, nearest
from platformd.model.kind import Kind
from platformd.model.resource import AnyResource, Resource

_TERM: Final = re.compile(r"^\s*(!?)\s*([A-Za-z0-9._/-]+)\s*(?:(!?=)=?\s*([A-Za-z0-9._/-]*))?\s*$")
_FIELD_TERM: Final = re.compile(
    r"^\s*(!?)\s*([A-Za-z0-9_]+(?:\.[A-Za-z0-9_./-]+)*)\s*(?:(!?=)=?\s*(.*?))?\s*$", re.DOTALL
)
MAX_TERMS: Final = 32
"""Terms of one selector."""

Selector = Callable[[Mapping[str, str]], bool]
"""Whether labels are selected."""
FieldSelector = Callable[[AnyResource], bool]
"""Whether a resource's fields are selected."""


def parse_selector(text: str) -> Selector:
    """A test of labels from its text; empty text selects everything.

    Raises:
        InvalidInput: it cannot be read; the message names the term.
    """
    terms = [_parse_term(term) for term in _terms(text, "label selector")]
    return lambda labels: all(term(labels) for term in terms)


def parse_field_selector(kind: Kind, text: str) -> FieldSelector:
    """A test of fields from its text (``status.state=failed,spec.zone!=north``); empty text selects everything.

    A list is equal to each of its items; what is not there is equal to nothing but the empty text.

    Raises:
        InvalidInput: it cannot be read, or there is no such field; the message names the term.
    """
    terms = [_parse_field_term(kind, term) for term in _terms(text, "field selector")]
    return lambda resource: all(term(resource) for term in terms)


def _terms(text: str, subject: str) -> list[str]:
    terms = [term for term in text.split(",") if term.strip()]
    if len(terms) > MAX_TERMS:
        raise InvalidInput(f"has {len(terms)} terms; the limit is {MAX_TERMS}", subject=subject)
    return terms


def _unreadable(text: str, subject: str) -> InvalidInput:
    return InvalidInput(
        f"{text.strip()[:100]!r} is not a selector term",
        subject=subject,
        hint="write name=value, name!=value, name (is there) or !name (is not), with commas between",
    )


def _parse_term(text: str) -> Selector:
    match = _TERM.match(text)
    if match is None or (match[1] and match[3]):
        raise _unreadable(text, "label selector")
    negated, name, operator, value = match.groups()
    if operator is None:
        return lambda labels: (name in labels) != bool(negated)
    if operator == "=":
        return lambda labels: labels.get(name) == value
    return lambda labels: labels.get(name) != value


def _parse_field_term(kind: Kind, text: str) -> FieldSelector:
    match = _FIELD_TERM.match(text)
    if match is None or (match[1] and match[3]):
        raise _unreadable(text, "field selector")
    negated, path, operator, value = match.groups()
    check_path(kind, path, "field selector")
    if operator is None:
        return lambda resource: (value_at(resource, path) not in (None, "", (), {})) != bool(negated)
    if operator == "=":
        return lambda resource: value in texts(value_at(resource, path))
    return lambda resource: value not in texts(value_at(resource, path))


def texts(value: Any) -> tuple[str, ...]:
    """What a field selector may write for ``value``."""
    if value is None:
        return ("",)
    if isinstance(value, bool):
        return (str(value).lower(),)
    if isinstance(value, tuple | list):
        return tuple(text for item in value for text in texts(item))
    return (str(value),) if isinstance(value, str | int | float) else ()


def value_at(value: Any, path: str) -> Any:
    """What is at a dotted path; ``None`` when nothing is. A list on the way stands for all its items."""
    word, _, rest = path.partition(".")
    if isinstance(value, tuple | list):
        return tuple(value_at(item, path) for item in value)
    if isinstance(value, Mapping):
        # Keys may have dots themselves: a label's name is all that is left.
        return value[path] if path in value else (value_at(value.get(word), rest) if rest else value.get(word))
    found = getattr(value, word, None) if isinstance(value, msgspec.Struct) else None
    return value_at(found, rest) if rest and found is not None else found


def check_path(kind: Kind, path: str, subject: str) -> None:
    """See that the resources of ``kind`` may have a field at ``path``.

    Raises:
        InvalidInput: they cannot; the hint has the nearest.
    """
    roots: dict[str, Any] = {**_fields(Resource), "spec": kind.spec, "status": kind.status}
    known = roots
    for word in path.split("."):
        if word not in known:
            near = nearest(word, list(known))
            hint = f"did you mean {near}?" if near else f"there are: {', '.join(known) or 'no fields in it'}"
            raise InvalidInput(f"{kind.plural} have no field {path!r}", subject=subject, hint=hint)
        types = _parts(known[word])
        if any(part is dict for part in types):
            return
        known = {}
        for part in types:
            known |= _fields(part)


def _fields(struct: Any) -> dict[str, Any]:
    is_struct = isinstance(struct, type) and issubclass(struct, msgspec.Struct)
    hints = get_type_hints(struct, include_extras=True) if is_struct else {}
    return {name: wanted for name, wanted in hints.items() if name in struct.__struct_fields__}


def _parts(wanted: Any) -> list[Any]:
    """The types that ``wanted`` may be: itself, the sides of a union, the items of a list; ``dict`` for a map."""
    origin = getattr(wanted, "__origin__", wanted)
    if origin in (dict, Any) or wanted is dict:
        return [dict]
    if isinstance(wanted, type):
        return [wanted]
    return [part for argument in get_args(wanted) for part in _parts(argument)]
