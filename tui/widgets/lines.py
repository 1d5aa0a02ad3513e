"""A widget of a few lines that draws again only the cells that changed."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from textual.events import Resize
from textual.geometry import Region
from textual.strip import Strip

from ..table import Line, changed_spans, pad
from .toned import Toned

Source = Callable[[int], Sequence[Line]]
"""Gives the lines for a width in cells."""


class Lines(Toned):
    """Shows what its source gives; the source is asked again when the width changes."""

    def __init__(self, *, id: str) -> None:  # noqa: A002 -- Textual's name for it
        super().__init__(id=id)
        self._source: Source = lambda _width: ()
        self._lines: tuple[Line, ...] = ()

    def show(self, source: Source, *, stale: bool = False) -> None:
        """Show what ``source`` gives, drawing only what differs from what is there."""
        self._source = source
        redraw = stale != self.stale
        self.stale = stale
        old, self._lines = self._lines, self._laid_out()
        if redraw:
            self.refresh()
            return
        for y in range(max(len(old), len(self._lines))):
            before, after = self._at(old, y), self._at(self._lines, y)
            regions = [Region(x, y, width, 1) for x, width in changed_spans(before, after)]
            if regions:
                self.refresh(*regions)

    def on_resize(self, _event: Resize) -> None:
        """Lay the lines out for the new width."""
        self._lines = self._laid_out()
        self.refresh()

    def render_line(self, y: int) -> Strip:
        """Draw one line."""
        return self.strip_of(self._at(self._lines, y), self.content_size.width)

    def _laid_out(self) -> tuple[Line, ...]:
        width = self.content_size.width
        return tuple(pad(line, width) for line in self._source(width))

    def _at(self, lines: Sequence[Line], y: int) -> Line:
        return lines[y] if y < len(lines) else pad((), self.content_size.width)
