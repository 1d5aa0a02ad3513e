"""Merging what two people did to the same document, field by field."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

_MISSING: Final = object()


@dataclass(frozen=True)
class Conflict:
    """A field that both changed, differently."""

    path: str
    theirs: Any
    """``None`` when they removed it."""


def merge(base: Any, mine: Any, theirs: Any) -> tuple[Any, list[Conflict]]:
    """``base`` with the changes of both, and where they contradict each other; there ``mine`` stands.

    Lists are one value: whoever changed a list meant the whole of it.
    """
    conflicts: list[Conflict] = []
    return _merge("", base, mine, theirs, conflicts), conflicts


def _merge(path: str, base: Any, mine: Any, theirs: Any, conflicts: list[Conflict]) -> Any:
    if theirs in (mine, base):
        return mine
    if mine == base:
        return theirs
    if isinstance(mine, Mapping) and isinstance(theirs, Mapping):
        before: Mapping[str, Any] = base if isinstance(base, Mapping) else {}
        merged = {}
        for key in [*mine, *(key for key in theirs if key not in mine)]:
            inner = f"{path}.{key}" if path else str(key)
            sides = (before.get(key, _MISSING), mine.get(key, _MISSING), theirs.get(key, _MISSING))
            value = _merge(inner, *sides, conflicts)
            if value is not _MISSING:
                merged[key] = value
        return merged
    conflicts.append(Conflict(path, None if theirs is _MISSING else theirs))
    return mine
