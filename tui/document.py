"""An object in full, as lines of YAML-like text; pure."""

from __future__ import annotations

import re
from collections.abc import Hashable, Mapping
from typing import Any

from .events import Document
from .facts import dig
from .format import printable
from .overview import object_of
from .state import State
from .table import Line, Run

_KEY = re.compile(r"^(\s*(?:- )*)([^\s:#'\"][^:]*:)(\s.*)?$")
_FIRST = ("kind", "name", "tenant", "labels", "annotations", "owner", "generation", "revision", "created_at")
_LAST = ("spec", "status")


def document_of(state: State, row_key: Hashable) -> Document | None:
    """What the details of a row show, ``None`` when its object is gone.

    The row of a stage has that stage's part first, then the whole pipeline.
    """
    key = object_of(row_key)
    item = state.items.get(key) if key else None
    if item is None:
        return None
    document = _ordered(item.document)
    if isinstance(row_key, tuple) and row_key != key:
        name = row_key[1]
        parts = {part: _named(dig(item.document, part, "stages"), name) for part in _LAST}
        return {"stage": name, **{k: v for k, v in parts.items() if v}, "pipeline": document}
    return document


def yaml_lines(document: Document, width: int) -> list[Line]:
    """``document`` as lines of text."""
    import yaml  # 30 ms that a start-up need not pay

    text = yaml.safe_dump(_bare(document), sort_keys=False, allow_unicode=True, width=max(40, width))
    return [_line(line) for line in text.splitlines()]


def _line(text: str) -> Line:
    match = _KEY.match(text)
    if match is None:
        return (Run(printable(text)),)
    indent, key, value = match.groups()
    return (Run(indent), Run(printable(key), "title"), Run(printable(value or "")))


def _ordered(document: Document) -> dict[str, Any]:
    """The members in reading order, without those that say nothing."""
    middle = [k for k in document if k not in _FIRST and k not in _LAST]
    return {k: document[k] for k in (*_FIRST, *middle, *_LAST) if k in document and document[k] not in ({}, [], None)}


def _named(stages: Any, name: object) -> Any:
    if not isinstance(stages, list | tuple):
        return None
    return next((s for s in stages if isinstance(s, Mapping) and s.get("name") == name), None)


def _bare(value: Any) -> Any:
    """``value`` in the plain types that YAML writes without tags."""
    if isinstance(value, Mapping):
        return {str(k): _bare(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_bare(v) for v in value]
    return value
