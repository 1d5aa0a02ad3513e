"""Drawing runs of text: the one place where a tone becomes a style."""

from __future__ import annotations

from typing import ClassVar

from rich.segment import Segment
from rich.style import Style
from textual.strip import Strip
from textual.widget import Widget

from ..table import TONES, Line, pad

FRAME = frozenset({"title", "heading", "rule", "focus", "alert"})
"""The tones that stay when what they frame is stale."""


class Toned(Widget):
    """A widget that draws lines of runs."""

    COMPONENT_CLASSES: ClassVar[set[str]] = {f"tone--{tone}" for tone in TONES}

    stale = False
    """Whether what is shown may no longer be so: everything is dim then, whatever its tone."""

    def strip_of(self, line: Line, width: int, over: str = "") -> Strip:
        """``line`` in ``width`` cells, with the tone ``over`` (the cursor's) above those of the runs."""
        top = self._overlay(over) if over else None
        segments = []
        for run in pad(line, width):
            tone = "dim" if self.stale and run.tone not in FRAME else run.tone
            style = self.get_component_rich_style(f"tone--{tone}") if tone else self.rich_style
            segments.append(Segment(run.text, style + top if top else style))
        return Strip(segments, width)

    def _overlay(self, tone: str) -> Style:
        """What ``tone`` sets itself, over any other style; its background is mixed with that below."""
        whole = self.get_component_rich_style(f"tone--{tone}")
        return self.get_component_rich_style(f"tone--{tone}", partial=True) + Style(bgcolor=whole.bgcolor)
