"""A page laid over the overview: the details of an object, the log, the help."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.screen import ModalScreen
from textual.widgets import Footer

from ..document import document_of, yaml_lines
from ..events import Document
from ..overview import log_line, object_of
from ..state import State
from ..table import Line, Run, rule
from ..widgets.lines import Lines
from ..widgets.pager import Pager


class Page(ModalScreen[None]):
    """A heading and a scrolling page under it."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape,q,enter", "dismiss", "Close", key_display="esc")]
    FOLLOW = False
    """Whether the end stays in view when lines are added."""

    def __init__(self, state: State) -> None:
        super().__init__()
        self._state = state
        self._composed = False

    def compose(self) -> ComposeResult:
        """Heading and page."""
        with Vertical(id="page"):
            yield Lines(id="page-title")
            yield Pager(id="page-body")
        yield Footer(compact=True, show_command_palette=False)

    def on_mount(self) -> None:
        """Show the page."""
        self._composed = True
        self.show(self._state, paused=False)

    def show(self, state: State, *, paused: bool) -> None:
        """Show the page for ``state``."""
        del paused  # the overview says so
        self._state = state
        if self._composed:
            title = self.heading(state)
            self.query_one("#page-title", Lines).show(lambda width: (rule(title, width, focused=True),))
            self.query_one("#page-body", Pager).show(self.lines, follow=self.FOLLOW)

    def heading(self, state: State) -> str:
        """What the page is about."""
        raise NotImplementedError

    def lines(self, width: int) -> Sequence[Line]:
        """The page for ``width`` cells."""
        raise NotImplementedError


class DetailsPage(Page):
    """The spec and the status of one object, as they are now."""

    def __init__(self, state: State, row_key: Hashable) -> None:
        super().__init__(state)
        self._row_key = row_key
        self._last: Document = document_of(state, row_key) or {}

    def heading(self, state: State) -> str:
        """The object's name, and whether it is gone."""
        key = object_of(self._row_key)
        title = str(key) if key else ""
        if isinstance(self._row_key, tuple) and self._row_key != key:
            title += f"/{self._row_key[1]}"
        gone = document_of(state, self._row_key) is None
        return f"{title} (deleted; this was its last state)" if gone else title

    def lines(self, width: int) -> Sequence[Line]:
        """The object, or what it was last."""
        self._last = document_of(self._state, self._row_key) or self._last
        return yaml_lines(self._last, width)


class LogPage(Page):
    """All entries of the log."""

    FOLLOW = True

    def heading(self, state: State) -> str:
        """How many there are."""
        return f"Events {len(state.log)}"

    def lines(self, width: int) -> Sequence[Line]:
        """An entry a line, the newest last."""
        return [log_line(entry, width) for entry in self._state.log]


HELP = (
    ("Keys", ""),
    ("tab", "the next table; shift+tab the one before"),
    ("↑ ↓  j k", "move; home, end, page up and page down too"),
    ("enter", "spec and status of what the cursor is on (or a double click)"),
    ("n", "spec and status of the node"),
    ("/", "show only names that contain a text; esc shows all again"),
    ("l", "all events"),
    ("p", "pause: keep what is shown while you read it; p goes on with what is so then"),
    ("r", "reconnect now"),
    ("t", "the next theme: dark, light, night (red only), the terminal's own colours"),
    ("ctrl+p", "all commands, and every object by name"),
    ("q", "quit"),
    ("", ""),
    ("Columns", ""),
    ("MSG/S  PKT/S", "over the last interval that the daemon measured (a second by default)"),
    ("TREND", "the number before it, a cell a second, the newest at the right; blank while disconnected"),
    ("WORK", "workers that are ready / wanted"),
    ("LAG", "packets that wait for the stage; ▲ while it grows"),
    ("FLIGHT", "packets that a worker has and has not acknowledged"),
    ("RECEIVED", "packets given to workers, counting those given again"),
    ("DEAD", "packets that could not be read or failed: see the dead-letter subject"),
    ("MEAN", "mean time that the stage spends on a packet"),
    ("RST", "restarts of the stage's workers"),
    ("SELF", "the daemon's own memory and CPU (100% is one core)"),
    ("pressure", "share of the last 10 s that work stood still for want of CPU, memory or I/O"),
)
"""What the help says: a key or a word, and its meaning; a word without one is a heading."""


class HelpPage(Page):
    """The keys, and what the columns mean."""

    def heading(self, state: State) -> str:
        """Where this terminal is attached."""
        return f"platformd, attached to {state.link.target}"

    def lines(self, width: int) -> Sequence[Line]:
        """A key or a word a line."""
        del width
        return [
            (Run(f"  {word:<14}", "title"), Run(meaning)) if meaning else (Run(word, "heading"),)
            for word, meaning in HELP
        ]
