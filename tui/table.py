"""Rows and columns without a terminal: which columns fit, and how a line is made of runs of text.

A widget draws what this gives it and knows nothing of streams or pipelines.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from rich.cells import cell_len, set_cell_size

TONES = (
    "good", "warn", "bad", "dim", "strong", "spark",  # how a value looks
    "title", "heading", "rule", "focus", "alert",  # the frame around values
    "cursor", "cursor-blurred",  # laid over a whole row
)  # fmt: skip
"""Every tone; ``styles.tcss`` says how each looks."""


class Run(NamedTuple):
    """Text in one tone."""

    text: str
    tone: str = ""
    """One of ``TONES``, or ``""`` for plain text."""


Line = tuple[Run, ...]
"""A line of runs from left to right; the widget cuts or pads it to its width."""

Cell = Callable[[int], Line]
"""What stands in a column: given the column's width in cells, the line to show there."""

GAP = 2
"""Cells between columns."""


def fixed(*runs: Run) -> Cell:
    """A cell that is the same at any width."""
    return lambda _width: runs


@dataclass(frozen=True, slots=True)
class Column:
    """One column of a table."""

    title: str
    width: int
    """In cells; the least when it may grow."""
    rank: int = 0
    """Columns of the highest rank are left out first when there is no room; those of rank 0 stay."""
    grow: int = 0
    """The share of what room is left that it takes."""
    most: int = 1000
    """The widest that it grows to."""
    right: bool = False
    """Whether its text is aligned to the right, as numbers are."""


@dataclass(frozen=True, slots=True)
class Row:
    """One row: which object it is, and a cell for each column."""

    key: Hashable
    cells: tuple[Cell, ...]
    """In the order of the columns."""
    tail: Line | None = None
    """Takes the place of all columns after the cells, for a heading within the table."""


def fit(columns: Sequence[Column], width: int) -> list[tuple[int, int]]:
    """The columns that fit in ``width`` cells: the index and the width of each, in order."""
    kept = list(range(len(columns)))

    def needed() -> int:
        return sum(columns[i].width for i in kept) + GAP * (len(kept) - 1)

    while needed() > width and any(columns[i].rank for i in kept):
        kept.remove(max(kept, key=lambda i: (columns[i].rank, i)))
    widths = {i: columns[i].width for i in kept}
    spare = width - needed()
    growing = [i for i in kept if columns[i].grow]
    while spare > 0 and growing:
        shares = sum(columns[i].grow for i in growing)
        given = 0
        for i in growing:
            more = min(max(1, spare * columns[i].grow // shares), columns[i].most - widths[i], spare - given)
            widths[i] += more
            given += more
        spare -= given
        growing = [i for i in growing if widths[i] < columns[i].most]
    return [(i, widths[i]) for i in kept]


def rule(title: str, width: int, *, focused: bool = False) -> Line:
    """A heading: the title on a horizontal rule. The title of the focused part is marked, also without colour."""
    mark = Run("▌ " if focused else "─ ", "focus" if focused else "rule")
    head = pad((mark, Run(title, "focus" if focused else "heading"), Run(" ")), min(width, cell_len(title) + 3))
    return (*head, Run("─" * max(0, width - sum(cell_len(run.text) for run in head)), "rule"))


def pad(line: Line, width: int, *, right: bool = False) -> Line:
    """``line`` in exactly ``width`` cells: cut with an ellipsis, or filled with spaces."""
    have = sum(cell_len(run.text) for run in line)
    if have == width:
        return line
    if have < width:
        space = Run(" " * (width - have))
        return (space, *line) if right else (*line, space)
    return _cut(line, width)


def _cut(line: Line, width: int) -> Line:
    kept: list[Run] = []
    room = width
    for run in line:
        size = cell_len(run.text)
        if size < room:
            kept.append(run)
            room -= size
            continue
        if room > 0:
            kept.append(Run(set_cell_size(run.text, room - 1) + "…", run.tone))
        break
    return tuple(kept)


def header(columns: Sequence[Column], fitted: Sequence[tuple[int, int]], width: int) -> Line:
    """The line of titles."""
    cells: list[Run] = []
    for i, cell_width in fitted:
        cells += pad((Run(columns[i].title, "title"),), cell_width, right=columns[i].right)
        cells.append(Run(" " * GAP))
    return pad(tuple(cells[:-1]), width)


def row_line(row: Row, columns: Sequence[Column], fitted: Sequence[tuple[int, int]], width: int) -> Line:
    """A row as one line of ``width`` cells."""
    runs: list[Run] = []
    used = 0
    for i, cell_width in fitted:
        if i >= len(row.cells):
            break
        if runs:
            runs.append(Run(" " * GAP))
        runs += pad(row.cells[i](cell_width), cell_width, right=columns[i].right)
        used += cell_width + GAP
    if row.tail is not None:
        runs += (Run(" " * GAP), *pad(row.tail, max(0, width - used)))
    return pad(tuple(runs), width)


def changed_spans(old: Line, new: Line) -> list[tuple[int, int]]:
    """Where two lines of equal width differ: the start and the width of each stretch of cells.

    A changed number is a stretch of its own, so the rest of its row need not be drawn again.
    """
    cells_old, cells_new = _by_cell(old), _by_cell(new)
    if len(cells_old) != len(cells_new):
        return [(0, max(len(cells_old), len(cells_new)))]
    spans: list[tuple[int, int]] = []
    for x, (before, after) in enumerate(zip(cells_old, cells_new, strict=True)):
        if before == after:
            continue
        if spans and x - sum(spans[-1]) <= GAP:
            spans[-1] = (spans[-1][0], x + 1 - spans[-1][0])
        else:
            spans.append((x, 1))
    return spans


def _by_cell(line: Line) -> list[tuple[str, str]]:
    """Each cell's character and tone; a wide character is in both of its cells."""
    return [(c, run.tone) for run in line for c in run.text for _ in range(cell_len(c))]
