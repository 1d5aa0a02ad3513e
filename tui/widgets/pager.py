"""A scrolling page of lines."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import ClassVar

from textual.binding import Binding, BindingType
from textual.events import Resize
from textual.geometry import Region, Size
from textual.scroll_view import ScrollView
from textual.strip import Strip

from ..table import Line, changed_spans, pad
from .toned import Toned


class Pager(Toned, ScrollView, can_focus=True):
    """Shows what its source gives for its width; a change keeps the place and draws only what differs."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("up,k", "scroll_up", "Up", show=False),
        Binding("down,j", "scroll_down", "Down", show=False),
        Binding("home,g", "scroll_home", "Start", show=False),
        Binding("end,G", "scroll_end", "End", show=False),
        Binding("pageup", "page_up", "Page up", show=False),
        Binding("pagedown,space", "page_down", "Page down", show=False),
    ]

    def __init__(self, *, id: str) -> None:  # noqa: A002 -- Textual's name for it
        super().__init__(id=id)
        self._source: Callable[[int], Sequence[Line]] = lambda _width: ()
        self._lines: Sequence[Line] = ()

    def show(self, source: Callable[[int], Sequence[Line]], *, follow: bool = False) -> None:
        """Show what ``source`` gives; ``follow`` stays at the end when the end is in view."""
        self._source = source
        at_end = self.scroll_offset.y >= self.max_scroll_y
        old, lines = self._lines, self._laid_out()
        self._lines = lines
        self._measure()
        top, width = self.scroll_offset.y, self.content_size.width
        for y in range(self.content_size.height):
            before, after = self._at(old, y + top), self._at(lines, y + top)
            regions = [Region(x, y, cells, 1) for x, cells in changed_spans(pad(before, width), pad(after, width))]
            if regions:
                self.refresh(*regions)
        if follow and at_end and len(lines) != len(old):
            self.scroll_end(animate=False)

    def on_resize(self, _event: Resize) -> None:
        """Lay the lines out for the new width."""
        self._lines = self._laid_out()
        self._measure()
        self.refresh()

    def watch_scroll_y(self, old_value: float, new_value: float) -> None:
        """Draw what came into view."""
        super().watch_scroll_y(old_value, new_value)
        if round(old_value) != round(new_value):
            self.refresh()

    def render_line(self, y: int) -> Strip:
        """Draw one line of the page."""
        return self.strip_of(self._at(self._lines, y + self.scroll_offset.y), self.content_size.width)

    @property
    def text(self) -> str:
        """The page as plain text."""
        return "\n".join("".join(run.text for run in line) for line in self._lines)

    def _laid_out(self) -> Sequence[Line]:
        return tuple(self._source(self.content_size.width)) if self.content_size.width else ()

    def _measure(self) -> None:
        size = Size(self.content_size.width, len(self._lines))
        if size != self.virtual_size:
            self.virtual_size = size

    @staticmethod
    def _at(lines: Sequence[Line], place: int) -> Line:
        return lines[place] if 0 <= place < len(lines) else ()
