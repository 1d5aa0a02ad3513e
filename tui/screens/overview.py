"""The one screen that stays open: the daemon, its node, its streams and its pipelines."""

from __future__ import annotations

from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.events import Resize
from textual.screen import Screen
from textual.widgets import Footer, Input

from .. import overview
from ..layout import SPACES, roomy, share_heights
from ..machine import LINES as NODE_LINES
from ..machine import node_lines, node_title, shown_node
from ..messages import FilterChanged
from ..state import State
from ..table import Line, Run, pad, rule
from ..widgets.keyed_table import HEAD, KeyedTable
from ..widgets.lines import Lines


class OverviewScreen(Screen[None]):
    """Shows a state; keeps none of its own but the filter, the focus and the cursors."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("slash", "filter", "Filter", key_display="/"),
        Binding("escape", "clear_filter", "Clear filter", show=False),
    ]
    AUTO_FOCUS = "#streams"

    def __init__(self, state: State) -> None:
        super().__init__()
        self._state = state
        self._paused = False
        self._filter = ""
        self._composed = False

    def compose(self) -> ComposeResult:
        """The parts, from above."""
        yield Lines(id="header")
        yield Lines(id="banner")
        yield Lines(id="node")
        yield KeyedTable(overview.STREAM_COLUMNS, id="streams")
        yield KeyedTable(overview.PIPELINE_COLUMNS, id="pipelines")
        yield Lines(id="log")
        yield Input(placeholder="part of a name; enter keeps it, esc clears it", id="filter", compact=True)
        yield Footer(compact=True)

    def on_mount(self) -> None:
        """Show what is known so far."""
        self._composed = True
        self.query_one("#node").styles.height = NODE_LINES + 1
        self.show(self._state, paused=self._paused)

    def on_resize(self, _event: Resize) -> None:
        """Share the new height."""
        self.call_later(self._share)

    def show(self, state: State, *, paused: bool) -> None:
        """Show ``state``; what did not change is not drawn again."""
        self._state, self._paused = state, paused
        if not self._composed:
            return
        wanted, stale = self._filter, state.stale
        self._lines("header").show(lambda width: (_ends(*overview.header_line(state, paused=paused), width),))
        banner = overview.banner_line(state)
        self._lines("banner").show(lambda _width: (banner,))
        self._lines("banner").display = bool(banner)
        node = shown_node(state)
        self._lines("node").show(
            lambda width: (rule(node_title(state, node), width), *node_lines(node, width)), stale=stale
        )
        for kind, plural, rows in (
            ("Stream", "streams", overview.stream_rows(state, wanted)),
            ("Pipeline", "pipelines", overview.pipeline_rows(state, wanted)),
        ):
            self.table(plural).show(
                overview.table_title(state, kind, plural.capitalize(), wanted),
                rows,
                empty=overview.empty_text(state, plural, wanted),
                stale=stale,
            )
        self._share()
        self._lines("log").show(self._log)

    def table(self, plural: str) -> KeyedTable:
        """The table of ``streams`` or ``pipelines``."""
        return self.query_one(f"#{plural}", KeyedTable)

    def action_filter(self) -> None:
        """Ask for a filter."""
        field = self.query_one("#filter", Input)
        field.display = True
        field.focus()
        self._share()

    def action_clear_filter(self) -> None:
        """Show everything again."""
        self.query_one("#filter", Input).value = ""
        self._close_filter()

    def on_input_changed(self, event: Input.Changed) -> None:
        """Filter while it is typed."""
        event.stop()
        self.post_message(FilterChanged(event.value.strip()))

    def on_input_submitted(self, event: Input.Submitted) -> None:
        """Keep the filter and give the keys back to the tables."""
        event.stop()
        self._close_filter()

    def on_filter_changed(self, message: FilterChanged) -> None:
        """Apply another filter."""
        message.stop()
        self._filter = message.text
        self.show(self._state, paused=self._paused)

    def _close_filter(self) -> None:
        field = self.query_one("#filter", Input)
        if field.display:
            had_focus = field.has_focus
            field.display = False
            if had_focus:
                self.table("streams").focus()
            self._share()

    def _lines(self, name: str) -> Lines:
        return self.query_one(f"#{name}", Lines)

    def _log(self, width: int) -> tuple[Line, ...]:
        """The newest entries that fit, the newest last."""
        room = max(0, self._lines("log").size.height - 1)
        entries = self._state.log[-room:] if room else ()
        return (rule("Events", width), *(overview.log_line(entry, width) for entry in entries))

    def _share(self) -> None:
        """Give each part its lines; a height is only set when it differs."""
        taken = 2 + NODE_LINES + 1  # header and footer; the node with its heading
        taken += sum(1 for name in ("#banner", "#filter") if self.query_one(name).display)
        available = self.size.height - taken
        streams, pipelines = (HEAD + max(1, len(self.table(name).rows)) for name in ("streams", "pipelines"))
        spaced = roomy(available, streams, pipelines)
        self.set_class(spaced, "-roomy")
        shares = share_heights(available - (SPACES if spaced else 0), streams, pipelines)
        for name, height in zip(("streams", "pipelines", "log"), shares, strict=True):
            widget = self.query_one(f"#{name}")
            if widget.styles.height is None or widget.styles.height.value != height:
                widget.styles.height = height


def _ends(left: Line, right: Line, width: int) -> Line:
    """One line with a part at each end; the left one gives way."""
    room = width - sum(len(run.text) for run in right)
    return (*pad(left, max(0, room - 1)), Run(" "), *right)
