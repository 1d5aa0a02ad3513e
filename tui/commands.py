"""Objects in the command palette: type part of a name, get its details."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, cast

from textual.command import DiscoveryHit, Hit, Hits, Provider

from .facts import Key

if TYPE_CHECKING:
    from .app import OverviewApp

DISCOVERED = 8
"""How many objects are offered before anything is typed."""


class Objects(Provider):
    """Finds nodes, streams and pipelines by name."""

    async def discover(self) -> Hits:
        """A few objects, to show that there are such commands."""
        for key in self._keys()[:DISCOVERED]:
            yield DiscoveryHit(str(key), partial(self._platform.show_details, key), help="spec and status")

    async def search(self, query: str) -> Hits:
        """The objects whose name is like ``query``."""
        matcher = self.matcher(query)
        for key in self._keys():
            score = matcher.match(str(key))
            if score > 0:
                command = partial(self._platform.show_details, key)
                yield Hit(score, matcher.highlight(str(key)), command, help="spec and status")

    @property
    def _platform(self) -> OverviewApp:
        return cast("OverviewApp", self.app)

    def _keys(self) -> list[Key]:
        return sorted(self._platform.state.items)
