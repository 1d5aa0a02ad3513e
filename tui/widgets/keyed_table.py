"""A table whose rows are objects, not positions.

The cursor is on an object: it stays there when rows come, go or change places around it. A change draws
again the cells that differ and nothing else, and only rows that are in view are ever laid out, so a table
of thousands costs what its visible part costs.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import ClassVar

from textual.binding import Binding, BindingType
from textual.events import Click, Resize
from textual.geometry import Region, Size
from textual.scroll_view import ScrollView
from textual.strip import Strip

from ..messages import Chosen
from ..table import Column, Line, Row, Run, changed_spans, fit, header, pad, row_line, rule
from .toned import Toned

HEAD = 2
"""Lines above the rows, which do not scroll: the heading and the titles of the columns."""


class KeyedTable(Toned, ScrollView, can_focus=True):
    """Rows of ``columns`` under a heading."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("up,k", "move(-1)", "Up", show=False),
        Binding("down,j", "move(1)", "Down", show=False),
        Binding("home,g", "edge(-1)", "First", show=False),
        Binding("end,G", "edge(1)", "Last", show=False),
        Binding("pageup", "page(-1)", "Page up", show=False),
        Binding("pagedown", "page(1)", "Page down", show=False),
        Binding("enter", "choose", "Details"),
    ]

    def __init__(self, columns: Sequence[Column], *, id: str) -> None:  # noqa: A002 -- Textual's name for it
        super().__init__(id=id)
        self._columns = columns
        self._fitted: list[tuple[int, int]] = []
        self._rows: list[Row] = []
        self._title = self._empty = ""
        self._places: dict[Hashable, int] = {}
        self._cursor: Hashable | None = None
        self._place = 0
        self._drawn: dict[int, tuple[Line, str]] = {}
        """What was drawn on each line of the widget: the line and the tone above it."""

    @property
    def cursor(self) -> Hashable | None:
        """The key of the row that the cursor is on; ``None`` while there are no rows."""
        return self._cursor

    @property
    def rows(self) -> Sequence[Row]:
        """The rows, from above."""
        return self._rows

    def show(self, title: str, rows: list[Row], *, empty: str = "", stale: bool = False) -> None:
        """Show ``rows`` under ``title``, or ``empty`` when there are none."""
        all_anew = stale != self.stale
        self._title, self._rows, self._empty, self.stale = title, rows, empty, stale
        self._places = {row.key: place for place, row in enumerate(rows)}
        before = self._place
        if self._cursor not in self._places:
            # The object is gone: its neighbour takes the cursor, and nothing is chosen by that.
            self._cursor = rows[min(before, len(rows) - 1)].key if rows else None
        self._place = self._places.get(self._cursor, 0)
        size = Size(self.content_size.width, len(rows) + HEAD)
        if size != self.virtual_size:
            self.virtual_size = size
        if self._place != before:
            self._reveal()
        if all_anew:
            self.refresh()
        else:
            self._refresh_changes()

    def move_to(self, key: Hashable) -> None:
        """Put the cursor on a row, when there is such a row."""
        if key in self._places:
            self._cursor, self._place = key, self._places[key]
            self._reveal()
            self._refresh_changes()

    def on_resize(self, _event: Resize) -> None:
        """Choose the columns that fit."""
        self._fitted = fit(self._columns, self._text_width)
        self._reveal()
        self.refresh()

    def on_focus(self) -> None:
        """The cursor shows where the keys go."""
        self._refresh_changes()

    def on_blur(self) -> None:
        """The cursor steps back."""
        self._refresh_changes()

    def on_click(self, event: Click) -> None:
        """A click puts the cursor on a row, a second one chooses it."""
        place = event.y - self.gutter.top - HEAD + self.scroll_offset.y
        if event.y - self.gutter.top < HEAD or not 0 <= place < len(self._rows):
            return
        key = self._rows[place].key
        if event.chain > 1 and key == self._cursor:
            self.action_choose()
        else:
            self.move_to(key)

    def action_move(self, by: int) -> None:
        """Move the cursor by rows."""
        self._go(self._place + by)

    def action_page(self, direction: int) -> None:
        """Move the cursor by what is in view."""
        self._go(self._place + direction * max(1, self.content_size.height - HEAD - 1))

    def action_edge(self, direction: int) -> None:
        """Move the cursor to the first or the last row."""
        self._go(0 if direction < 0 else len(self._rows) - 1)

    def action_choose(self) -> None:
        """Tell which row was chosen."""
        if self._cursor is not None:
            self.post_message(Chosen(self._cursor))

    def watch_scroll_y(self, old_value: float, new_value: float) -> None:
        """Draw what came into view."""
        super().watch_scroll_y(old_value, new_value)
        if round(old_value) != round(new_value):
            self.refresh()

    def render_line(self, y: int) -> Strip:
        """Draw one line of the widget."""
        line, over = self._line(y)
        self._drawn[y] = line, over
        return self.strip_of(line, self.content_size.width, over)

    @property
    def _text_width(self) -> int:
        return self.content_size.width

    def _line(self, y: int) -> tuple[Line, str]:
        width = self._text_width
        if y == 0:
            return rule(self._title, width, focused=self.has_focus), ""
        if y < HEAD:
            return header(self._columns, self._fitted, width), ""
        place = y - HEAD + self.scroll_offset.y
        if not self._rows and y == HEAD:
            return pad((Run(self._empty, "dim"),), width), ""
        if place >= len(self._rows):
            return pad((), width), ""
        over = ("cursor" if self.has_focus else "cursor-blurred") if place == self._place else ""
        return row_line(self._rows[place], self._columns, self._fitted, width), over

    def _go(self, place: int) -> None:
        if self._rows:
            self.move_to(self._rows[max(0, min(place, len(self._rows) - 1))].key)

    def _reveal(self) -> None:
        """Scroll as little as shows the cursor."""
        room = self.content_size.height - HEAD
        if room <= 0:
            return
        top = self.scroll_offset.y
        if self._place < top:
            self.scroll_to(y=self._place, animate=False, force=True, immediate=True)
        elif self._place >= top + room:
            self.scroll_to(y=self._place - room + 1, animate=False, force=True, immediate=True)

    def _refresh_changes(self) -> None:
        regions = []
        for y in range(self.content_size.height):
            (line, over), (old, old_over) = self._line(y), self._drawn.get(y, ((), ""))
            if over != old_over:
                regions.append(Region(0, y, self.content_size.width, 1))
            else:
                regions += [Region(x, y, width, 1) for x, width in changed_spans(old, line)]
        if regions:
            self.refresh(*regions)
