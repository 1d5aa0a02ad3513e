"""Drawing runs of text: the one place where a tone becomes a style."""

from __future__ import annotations

from typing import ClassVar

from rich.segment import Segment
from textual.strip import Strip
from textual.widget import Widget

from ..table import Line, pad

TONES = ("good", "warn", "bad", "dim", "strong", "spark", "title", "alert", "cursor", "cursor-blurred")
"""Every tone; ``styles.tcss`` says how each looks."""


class Toned(Widget):
    """A widget that draws lines of runs."""

    COMPONENT_CLASSES: ClassVar[set[str]] = {f"tone--{tone}" for tone in TONES}

    stale = False
    """Whether what is shown may no longer be so: everything is dim then, whatever its tone."""

    def strip_of(self, line: Line, width: int, over: str = "") -> Strip:
        """``line`` in ``width`` cells, with the tone ``over`` (the cursor's) above those of the runs."""
        base = self.rich_style
        top = self.get_component_rich_style(f"tone--{over}", partial=True) if over else None
        segments = []
        for run in pad(line, width):
            tone = "dim" if self.stale and run.tone not in {"title", "alert", ""} else run.tone
            tone = "dim" if self.stale and not tone else tone
            style = base + self.get_component_rich_style(f"tone--{tone}", partial=True) if tone else base
            segments.append(Segment(run.text, style + top if top else style))
        return Strip(segments, width)
