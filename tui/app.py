"""The application: takes events, keeps the state, tells the screens. It runs until its user quits."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Iterable
from typing import Any, ClassVar, Final

from textual.app import App, SystemCommand
from textual.binding import Binding, BindingType
from textual.screen import Screen
from textual.timer import Timer

from platformd.client.http import Target

from .commands import Objects
from .events import Event, Tick
from .facts import Key
from .feed import Feed
from .machine import shown_node
from .messages import Chosen
from .screens.overview import OverviewScreen
from .screens.page import DetailsPage, HelpPage, LogPage, Page
from .state import Link, State, reduce
from .themes import CYCLE, OWN

GATHER_SECONDS: Final = 0.1
"""Events within this time are shown together, so that a burst costs one drawing. Nothing runs while none come."""
COUNTDOWN_SECONDS: Final = 1.0
"""How often the time since the connection was lost is counted on; not at all while there is a connection."""


class OverviewApp(App[None]):
    """The terminal.

    Args:
        target: the daemon to attach to; it need not be there.
        make_feed: makes the feed from the target and the function that takes its events.
        now: seconds since the epoch.
    """

    TITLE = "platformd"
    CSS_PATH = "styles.tcss"
    COMMANDS: ClassVar[set[Any]] = App.COMMANDS | {Objects}
    ENABLE_COMMAND_PALETTE = True
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("q", "quit", "Quit"),
        Binding("question_mark,f1", "help", "Help", key_display="?"),
        Binding("p", "pause", "Pause"),
        Binding("r", "reconnect", "Reconnect"),
        Binding("l", "log", "Log"),
        Binding("n", "node", "Node", show=False),
        Binding("t", "next_theme", "Theme"),
    ]

    def __init__(
        self,
        target: Target,
        *,
        make_feed: Callable[[Target, Callable[[Event], None]], Feed] = Feed,
        now: Callable[[], float] = time.time,
    ) -> None:
        super().__init__()
        self.target = target
        self.state = State(link=Link(target=str(target)))
        """All that is known now, also while the screen is paused."""
        self._held: State | None = None
        self._now = now
        self._feed = make_feed(target, self.take)
        self._gathering: Timer | None = None
        self._countdown: Timer | None = None
        for theme in OWN:
            self.register_theme(theme)
        # Over a slow line an animated scroll is a flood of frames.
        self.animation_level = "none"
        # Blended colours turn to mud when a terminal has 16; there its own are the better choice.
        self.theme = CYCLE[-1] if self.console.color_system == "standard" else CYCLE[0]

    @property
    def paused(self) -> bool:
        """Whether the screen is held."""
        return self._held is not None

    def get_default_screen(self) -> Screen[None]:
        """The overview."""
        return OverviewScreen(self.state)

    def on_mount(self) -> None:
        """Attach."""
        self._countdown = self.set_interval(
            COUNTDOWN_SECONDS, lambda: self.take(Tick(self._now())), name="countdown", pause=True
        )
        self.run_worker(self._feed.run(), name="feed", group="feed", exclusive=True)

    def take(self, event: Event) -> None:
        """An event of the feed: the state changes at once, the screen within ``GATHER_SECONDS``."""
        self.state = reduce(self.state, event)
        if self._countdown is not None:
            (self._countdown.resume if self.state.link.phase == "lost" else self._countdown.pause)()
        if self._gathering is None:
            self._gathering = self.set_timer(GATHER_SECONDS, self._show, name="gather")

    def _show(self) -> None:
        self._gathering = None
        state = self.state
        if self._held is not None:
            # What is held stays, but never hides that the connection was lost meanwhile.
            held = self._held
            state = State(state.link, state.now, state.daemon, held.items, held.revision, held.listed, held.log)
        for screen in self.screen_stack:
            if isinstance(screen, OverviewScreen | Page):
                screen.show(state, paused=self.paused)

    def on_chosen(self, message: Chosen) -> None:
        """Details of the row."""
        self.show_details(message.key)

    def show_details(self, row_key: Hashable) -> None:
        """Lay the details of an object over the overview."""
        self.push_screen(DetailsPage(self._held or self.state, row_key))

    def action_help(self) -> None:
        """Show the help."""
        self.push_screen(HelpPage(self.state))

    def action_log(self) -> None:
        """Show all events."""
        self.push_screen(LogPage(self._held or self.state))

    def action_node(self) -> None:
        """Show the details of the node."""
        node = shown_node(self.state)
        if node is not None:
            self.show_details(Key(*node.key))

    def action_pause(self) -> None:
        """Hold what is shown, or go on."""
        self._held = None if self.paused else self.state
        self._show()

    def action_reconnect(self) -> None:
        """Try to attach at once."""
        self._feed.reconnect_now()

    def action_next_theme(self) -> None:
        """Change to the next theme."""
        place = CYCLE.index(self.theme) if self.theme in CYCLE else -1
        self.theme = CYCLE[(place + 1) % len(CYCLE)]

    def get_system_commands(self, screen: Screen[Any]) -> Iterable[SystemCommand]:
        """What the command palette offers beside the objects."""
        yield SystemCommand("Pause or go on", "Hold what is shown while you read it", self.action_pause)
        yield SystemCommand("Reconnect now", "Do not wait for the next attempt", self.action_reconnect)
        yield SystemCommand("Events", "All that changed", self.action_log)
        yield SystemCommand("Node", "Spec and status of the node", self.action_node)
        yield SystemCommand("Help", "Keys and columns", self.action_help)
        yield SystemCommand("Theme", "Choose from all themes", self.action_change_theme)
        yield SystemCommand("Quit", "Leave; the daemon goes on", self.action_quit)
