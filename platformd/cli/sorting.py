"""``--sort-by``: resources in the order of a column or of a field."""

from __future__ import annotations

import heapq
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

from platformd.cli.output import columns_of, lookup
from platformd.core.errors import InvalidInput, nearest
from platformd.model.kind import Kind

Document = Mapping[str, Any]

_TIME: Final = re.compile(r"^\d{4}-\d\d-\d\dT")
_PATH: Final = re.compile(r"^[A-Za-z_][\w-]*(\.[\w-]+)*$")


class Order:
    """An order of resources.

    Args:
        wanted: a column's title in any case (``AGE``, ``records``) or a dotted path (``status.messages``); a ``-`` in
            front turns it round. What has nothing there comes last, either way.
        kind: whose columns; ``None`` for those that every resource has.

    Raises:
        InvalidInput: it is neither.
    """

    def __init__(self, wanted: str, kind: Kind | None) -> None:
        word = wanted.removeprefix("-")
        self._down = wanted.startswith("-")
        titles = {column.title: column.path for column in columns_of(kind, wide=True)} | {"NAME": "name"}
        if word.upper() == "AGE":  # the youngest has the highest time
            self._path, self._down = "created_at", not self._down
        elif word.upper() in titles:
            self._path = titles[word.upper()]
        elif "." in word and _PATH.match(word.lstrip(".")):
            self._path = word.lstrip(".")
        elif word in ("name", "kind", "tenant", "uid", "generation", "revision", "created_at", "updated_at"):
            self._path = word
        else:
            near = nearest(word.upper(), [*titles, "AGE"])
            hint = f"did you mean {near}?" if near else "write a column's title, or a path such as status.state"
            raise InvalidInput("is neither a column nor a path", subject=f"--sort-by {wanted}", hint=hint)

    def sorted(self, documents: Iterable[Document], limit: int | None) -> list[Document]:
        """``documents`` in this order, or the first ``limit`` of them, of which no more are kept at once."""
        key: Callable[[Document], Any] = self._key
        if limit is not None:
            return heapq.nsmallest(limit, documents, key=key)
        return sorted(documents, key=key)

    def _key(self, document: Document) -> tuple[Any, ...]:
        value = lookup(document, self._path)
        name = str(document.get("name", ""))
        if value is None or value in ("", [], {}):
            return (1, name)
        found = _comparable(value)
        return (0, _Down(found) if self._down else found, name)


class _Down:
    """Compares the other way round."""

    def __init__(self, value: Any) -> None:
        self._value = value

    def __lt__(self, other: _Down) -> bool:
        return bool(other._value < self._value)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Down) and bool(self._value == other._value)

    def __hash__(self) -> int:
        return hash(self._value)


def _comparable(value: Any) -> tuple[Any, ...]:
    """``value`` so that numbers stand before text, and ``node-2`` before ``node-10``."""
    if isinstance(value, bool):
        return (0, float(value))
    if isinstance(value, int | float):
        return (0, value)
    text = str(value)
    if _TIME.match(text):
        return (1, text)
    pieces = re.split(r"(\d+)", text)
    return (2, *((0, int(piece)) if piece.isdecimal() else (1, piece) for piece in pieces if piece))
