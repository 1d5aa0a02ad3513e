"""What changed between two documents, field by field; short enough to keep and to show."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import msgspec

MAX_FIELDS: Final = 200
"""Fields that one list of changes names; of what is beyond, only the number is told."""
MAX_VALUE: Final = 2000
"""Characters of a value in JSON; of what is longer, the beginning is told."""


class FieldChange(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One field that changed."""

    path: str
    """Where: ``spec.stages[1].workers``."""
    before: Any | msgspec.UnsetType = msgspec.UNSET
    """What it was; left out when it was not there."""
    after: Any | msgspec.UnsetType = msgspec.UNSET
    """What it is; left out when it is not there any more."""
    cut: bool = False
    """Whether a value was too long to be kept: it is the beginning of its JSON then."""


def differences(before: Any, after: Any) -> tuple[tuple[FieldChange, ...], int]:
    """The fields in which two documents differ, and how many more there are beyond ``MAX_FIELDS``.

    Args:
        before: builtin types; ``UNSET`` for nothing.
        after: likewise.
    """
    found: list[FieldChange] = []
    more = 0
    for change in _walk(before, after, ""):
        if len(found) < MAX_FIELDS:
            found.append(change)
        else:
            more += 1
    return tuple(found), more


def _walk(before: Any, after: Any, path: str) -> Iterator[FieldChange]:
    if before == after and type(before) is type(after):
        return
    unset = msgspec.UNSET
    if _both(dict, before, after):
        old, new = (value if isinstance(value, dict) else {} for value in (before, after))
        for key in dict.fromkeys([*old, *new]):
            yield from _walk(old.get(key, unset), new.get(key, unset), f"{path}.{key}" if path else str(key))
    elif isinstance(before, list | tuple) and isinstance(after, list | tuple):
        for i in range(max(len(before), len(after))):
            left, right = (value[i] if i < len(value) else unset for value in (before, after))
            yield from _walk(left, right, f"{path}[{i}]")
    else:
        (was, cut), (now, cut_too) = _short(before), _short(after)
        yield FieldChange(path=path, before=was, after=now, cut=cut or cut_too)


def _both(wanted: type, before: Any, after: Any) -> bool:
    """Whether both are of a type, or one is and the other is nothing; an empty one beside nothing is a value."""
    sides = [value for value in (before, after) if value is not msgspec.UNSET]
    return all(isinstance(value, wanted) for value in sides) and any(sides)


def _short(value: Any) -> tuple[Any, bool]:
    if value is msgspec.UNSET or value is None or isinstance(value, bool | int | float):
        return value, False
    text = msgspec.json.encode(value).decode()
    return (value, False) if len(text) <= MAX_VALUE else (text[:MAX_VALUE], True)
