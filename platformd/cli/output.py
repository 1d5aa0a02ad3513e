"""Tables and documents, as kubectl's conventions have them: NAME first, AGE last, no spaces in titles, ``<none>``.

What a server or a record says is shown without its control characters: an escape sequence in a name must
not reach the terminal.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import IO, Any, Final

import click
import msgspec

from platformd.core.clock import parse_rfc3339
from platformd.core.quantities import format_bytes, format_seconds
from platformd.model.kind import Column, Kind

NONE: Final = "<none>"
"""What stands where there is nothing."""
GAP: Final = "   "
"""Between two columns."""

TONES: Final = {
    **dict.fromkeys(("running", "active", "passing", "available", "registered"), "green"),
    **dict.fromkeys(("pending", "degraded", "suspended", "empty", "orphaned", "warning", "unknown"), "yellow"),
    **dict.fromkeys(("error", "critical", "failed"), "red"),
}
"""The colours of states."""


def coloured(stream: IO[Any]) -> bool:
    """Whether ``stream`` is a terminal that may be coloured (https://no-color.org)."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def safe(text: str) -> str:
    """``text`` on one line, without characters that a terminal acts upon."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else " " if c.isspace() else "\ufffd" for c in text)


def safe_lines(text: str) -> str:
    """The same, line by line."""
    return "\n".join(safe(line) for line in text.split("\n"))


def lookup(document: Any, path: str) -> Any:
    """What stands at the dotted ``path``; ``None`` when nothing does."""
    for part in path.split("."):
        if not isinstance(document, Mapping):
            return None
        document = document.get(part)
    return document


def cell(value: Any, style: str, now_ns: int) -> str:
    """``value`` as a cell of the column format ``style``. A value that does not fit it is shown as it is."""
    if value is None or value in ("", [], {}):
        return NONE
    form = _FORMS.get(style)
    try:
        return safe(form(value, now_ns) if form is not None else _text(value))
    except (TypeError, ValueError, AttributeError, KeyError):
        return safe(_text(value))


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list | tuple):
        return ",".join(_text(item) for item in value)
    if isinstance(value, Mapping):
        return ",".join(f"{key}={_text(item)}" for key, item in value.items())
    return str(value)


def _age(value: Any, now_ns: int) -> str:
    elapsed = max(0, now_ns - parse_rfc3339(str(value))) / 1e9
    return f"{int(elapsed)}s" if elapsed < 60 else format_seconds(elapsed)


def _rate(value: Any, _now_ns: int) -> str:
    return f"{value:.0f}/s" if value >= 100 or value == 0 else f"{value:.1f}/s"


def _stages(value: Any, _now_ns: int) -> str:
    return ", ".join(f"{stage['name']} {stage['workers_ready']}/{stage['workers_desired']}" for stage in value)


_FORMS: Final[dict[str, Callable[[Any, int], str]]] = {
    "count": lambda value, _: f"{value:d}",
    "bytes": lambda value, _: format_bytes(value),
    "percent": lambda value, _: f"{value:.1f}",
    "seconds": lambda value, _: format_seconds(value),
    "rate": _rate,
    "age": _age,
    "stages": _stages,
}

_AGE = Column(title="AGE", path="created_at", format="age")
_COMMON = (Column(title="STATE", path="status.state"), Column(title="MESSAGE", path="status.message"))


class Table:
    """A table that may grow line by line: a column never gets narrower than it was."""

    def __init__(self, titles: Sequence[str], *, colour: bool = False) -> None:
        self._titles = list(titles)
        self._widths = [len(title) for title in titles]
        self._colour = colour

    def header(self) -> str:
        """The titles."""
        return self._line(self._titles, style=False)

    def fit(self, rows: Iterable[Sequence[str]]) -> None:
        """Make the columns wide enough for ``rows``."""
        for row in rows:
            self._widths = [max(width, len(text)) for width, text in zip(self._widths, row, strict=True)]

    def line(self, row: Sequence[str]) -> str:
        """One row."""
        self.fit([row])
        return self._line(row, style=self._colour)

    def _line(self, row: Sequence[str], *, style: bool) -> str:
        padded = [f"{text:<{width}}" for text, width in zip(row, self._widths, strict=True)]
        padded[-1] = row[-1]
        if style and "STATE" in self._titles:
            state = self._titles.index("STATE")
            padded[state] = click.style(padded[state], fg=TONES.get(row[state]))
        return GAP.join(padded).rstrip()

    def lines(self, rows: Sequence[Sequence[str]]) -> list[str]:
        """The whole table."""
        self.fit(rows)
        return [self.header(), *(self.line(row) for row in rows)]


def columns_of(kind: Kind | None, *, wide: bool) -> tuple[Column, ...]:
    """The columns between NAME and AGE; of no kind: those that every resource has."""
    columns = kind.columns if kind is not None else _COMMON
    return tuple(column for column in columns if wide or not column.wide)


def titles_of(kind: Kind | None, *, wide: bool, watching: bool = False) -> list[str]:
    """The titles of a kind's table."""
    event = ["EVENT"] if watching else []
    return ["NAME", *event, *(column.title for column in columns_of(kind, wide=wide)), "AGE"]


def row_of(
    kind: Kind | None,
    document: Mapping[str, Any],
    *,
    wide: bool,
    prefix: bool = False,
    event: str | None = None,
    now_ns: int | None = None,
) -> list[str]:
    """A resource as a row of its kind's table.

    Args:
        kind: whose columns; ``None`` for those that every resource has.
        document: the resource as it was sent.
        wide: also the columns that are only shown with ``-o wide``.
        prefix: write the name as ``stream/alerts``.
        event: what happened to it, when it is watched.
        now_ns: what ages count from; ``None`` for now.
    """
    now = time.time_ns() if now_ns is None else now_ns
    name = subject(document) if prefix else safe(str(document.get("name", NONE)))
    cells = [cell(lookup(document, c.path), c.format, now) for c in columns_of(kind, wide=wide)]
    return [name, *([event] if event is not None else []), *cells, cell(document.get("created_at"), _AGE.format, now)]


def subject(document: Mapping[str, Any]) -> str:
    """How a resource is named: ``stream/alerts``."""
    return safe(f"{str(document.get('kind', '')).lower()}/{document.get('name', '')}")


def as_json(value: Any, *, indent: int = 2) -> str:
    """``value`` as JSON; on one line with ``indent`` 0."""
    encoded = msgspec.json.encode(value)
    return (msgspec.json.format(encoded, indent=indent) if indent else encoded).decode()


def as_yaml(documents: Sequence[Any]) -> str:
    """``documents`` as YAML, with ``---`` between them."""
    from platformd.cli.yaml12 import dump

    return dump(documents)


def echo(text: str) -> None:
    """Print a line; colours that are in it stay only where they may."""
    click.echo(text, color=coloured(sys.stdout))


def note(text: str) -> None:
    """Say something beside the output, on standard error."""
    click.echo(safe_lines(text), err=True)
