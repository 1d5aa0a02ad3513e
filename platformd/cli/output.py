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


_PLAIN: Final = str.maketrans({"…": "...", "→": "->", "✓": "+", "✗": "x", "—": "-"})
"""Our own signs where there is only ASCII."""

LEAST: Final = 10
"""A column is not cut below this, or below its title."""


def terminal_width() -> int | None:
    """The columns of the terminal that we print to; ``None`` when it is none, and nothing is to be cut."""
    if not sys.stdout.isatty():
        return None
    import shutil

    return shutil.get_terminal_size().columns


def width_of(text: str) -> int:
    """How many columns of a terminal ``text`` takes: East Asian signs two, combining ones none."""
    if text.isascii():
        return len(text)
    import unicodedata

    return sum(
        0 if unicodedata.combining(sign) else 2 if unicodedata.east_asian_width(sign) in "WF" else 1 for sign in text
    )


def padded_to(text: str, width: int) -> str:
    """``text`` in exactly ``width`` columns: cut with a sign that it was, or with spaces behind it."""
    taken = width_of(text)
    if taken <= width:
        return text + " " * (width - taken)
    kept = text if len(text) <= width else text[:width]
    while kept and width_of(kept) > width - 1:
        kept = kept[:-1]
    return kept + "…" + " " * (width - 1 - width_of(kept))


def shrunk(widths: Sequence[int], titles: Sequence[str], limit: int) -> list[int]:
    """``widths`` so that a line fits into ``limit`` columns, taken from the widest but the first; names stay whole."""
    found = list(widths)
    excess = sum(found) + len(GAP) * (len(found) - 1) - limit
    while excess > 0:
        floors = [max(LEAST, len(title)) for title in titles]
        candidates = [i for i in range(1, len(found)) if found[i] > floors[i]]
        if not candidates:
            break  # such a narrow terminal wraps
        widest = max(candidates, key=lambda i: found[i])
        others = [max(found[i], floors[widest]) for i in candidates if found[i] < found[widest]]
        target = max(max(others, default=floors[widest]), floors[widest])
        step = min(excess, max(1, found[widest] - target))
        found[widest] -= step
        excess -= step
    return found


class Table:
    """A table that may grow line by line: a column never gets narrower than it was.

    Args:
        titles: of the columns.
        colour: whether states are coloured.
        width: columns of the terminal, into which long texts are cut; ``None`` cuts nothing.
    """

    def __init__(self, titles: Sequence[str], *, colour: bool = False, width: int | None = None) -> None:
        self._titles = list(titles)
        self._widths = [len(title) for title in titles]
        self._colour = colour
        self._limit = width

    def header(self) -> str:
        """The titles."""
        return self._line(self._titles, style=False)

    def fit(self, rows: Iterable[Sequence[str]]) -> None:
        """Make the columns wide enough for ``rows``."""
        for row in rows:
            self._widths = [max(width, width_of(text)) for width, text in zip(self._widths, row, strict=True)]

    def line(self, row: Sequence[str]) -> str:
        """One row."""
        self.fit([row])
        return self._line(row, style=self._colour)

    def _line(self, row: Sequence[str], *, style: bool) -> str:
        widths = self._widths if self._limit is None else shrunk(self._widths, self._titles, self._limit)
        padded = [padded_to(text, width) for text, width in zip(row, widths, strict=True)]
        if style and "STATE" in self._titles:
            state = self._titles.index("STATE")
            padded[state] = click.style(padded[state], fg=TONES.get(row[state]))
        return GAP.join(padded).rstrip()

    def lines(self, rows: Sequence[Sequence[str]]) -> list[str]:
        """The whole table."""
        self.fit(rows)
        return [self.header(), *(self._line(row, style=self._colour) for row in rows)]


def table_of(titles: Sequence[str], *, wide: bool = False) -> Table:
    """A table for standard output: coloured where it may be, and unless ``wide``, cut to the terminal."""
    return Table(titles, colour=coloured(sys.stdout), width=None if wide else terminal_width())


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


def json_text(value: Any, *, indent: int = 2) -> str:
    """``value`` as ``-o json`` prints it, or the part of it that ``-o jsonpath=…`` wants."""
    query = chosen_query()
    if query is None:
        return as_json(value, indent=indent)
    text = query(msgspec.to_builtins(value))
    return safe_lines(text) if sys.stdout.isatty() else text


def print_json(value: Any, *, indent: int = 2) -> None:
    """Print ``value`` as JSON, or the part of it that was asked for; nothing if that is nothing."""
    text = json_text(value, indent=indent)
    if text:
        echo(text)


def print_document(document: Mapping[str, Any], output: str) -> None:
    """Print one document as YAML or JSON."""
    if output == "yaml":
        echo(as_yaml([dict(document)]))
    else:
        print_json(document)


def print_items(documents: Sequence[Mapping[str, Any]], output: str) -> None:
    """Print a list of documents as YAML or JSON."""
    if output == "yaml":
        if documents:
            echo(as_yaml([dict(document) for document in documents]))
    else:
        print_json({"items": list(documents)})


def chosen_query() -> Callable[[Any], str] | None:
    """What prints with ``-o jsonpath=…``, if the command that runs was asked for that."""
    from platformd.cli.options import Session

    context = click.get_current_context(silent=True)
    session = None if context is None else context.find_object(Session)
    return None if session is None else session.query


def as_yaml(documents: Sequence[Any]) -> str:
    """``documents`` as YAML, with ``---`` between them."""
    from platformd.cli.yaml12 import dump

    return dump(documents)


def echo(text: str, *, newline: bool = True) -> None:
    """Print a line; colours that are in it stay only where they may, and our signs become ASCII if need be."""
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        text = text.translate(_PLAIN).encode(encoding, "replace").decode(encoding)
    click.echo(text, nl=newline, color=coloured(sys.stdout))


def note(text: str) -> None:
    """Say something beside the output, on standard error."""
    click.echo(safe_lines(text), err=True)
