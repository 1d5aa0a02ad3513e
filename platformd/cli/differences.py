"""What changed between two documents, field by field."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import msgspec

MISSING: Final = msgspec.UNSET
"""Stands for a field that is not there."""

SHOWN: Final = 60
"""Characters of a value that a line shows."""

NOISE: Final = frozenset({"revision", "generation", "updated_at"})
"""Members that change with every write, and say nothing about what it did."""


@dataclass(frozen=True)
class Difference:
    """One field that changed."""

    path: str
    """Dotted, from the document's root: ``spec.stages[1].filter``."""
    before: Any
    """``MISSING`` when it was not there."""
    after: Any
    """``MISSING`` when it is not there any more."""

    def document(self) -> dict[str, Any]:
        """It as JSON types: ``path``, and ``from`` and ``to`` where there is one."""
        sides = {"from": self.before, "to": self.after}
        return {"path": self.path} | {name: value for name, value in sides.items() if value is not MISSING}

    def line(self, arrow: str = "→") -> str:
        """It for people: ``spec.workers: 1 → 2``."""
        if self.before is MISSING:
            return f"+{self.path}: {_short(self.after)}"
        if self.after is MISSING:
            return f"-{self.path}: {_short(self.before)}"
        return f"{self.path}: {_short(self.before)} {arrow} {_short(self.after)}"


def differences(before: Any, after: Any, *, ignore: frozenset[str] = NOISE) -> list[Difference]:
    """What differs, in the order of the documents; members of the root that are in ``ignore`` do not count."""
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        before = {key: value for key, value in before.items() if key not in ignore}
        after = {key: value for key, value in after.items() if key not in ignore}
    return list(_compare("", before, after))


def _compare(path: str, before: Any, after: Any) -> Iterator[Difference]:
    if before == after:
        return
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        for key in [*before, *(key for key in after if key not in before)]:
            inner = f"{path}.{key}" if path else str(key)
            yield from _compare(inner, before.get(key, MISSING), after.get(key, MISSING))
    elif isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        for i, (old, new) in enumerate(zip(before, after, strict=True)):
            yield from _compare(f"{path}[{i}]", old, new)
    else:
        yield Difference(path, before, after)


def _short(value: Any) -> str:
    text = msgspec.json.encode(value).decode()
    return text if len(text) <= SHOWN else text[: SHOWN - 1] + "…"
