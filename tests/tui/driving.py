"""Driving the application in tests: waiting on conditions, never on the clock."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from textual.pilot import Pilot

from platformd.client.http import Target
from tui.events import Event
from tui.feed import Backoff, Feed

PATIENCE = 10.0
"""Seconds after which a condition that does not come true fails the test."""


async def until(pilot: Pilot[Any], condition: Callable[[], object]) -> None:
    """Let the application run until ``condition`` holds."""
    async with asyncio.timeout(PATIENCE):
        while not condition():
            await pilot.pause()
            await asyncio.sleep(0.005)


def running(
    now: Callable[[], float], *, first: float = 0.01, most: float = 0.05
) -> Callable[[Target, Callable[[Event], None]], Feed]:
    """A maker of feeds that try again within milliseconds."""
    return lambda target, emit: Feed(target, emit, backoff=Backoff(first, most), now=now, status_interval=0.05)
