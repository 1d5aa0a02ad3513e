"""Driving the application in tests: waiting on conditions, never on the clock."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from textual.app import App
from textual.pilot import Pilot

from platformd.client.http import Target
from tests.tui.fake_daemon import FakeDaemon
from tests.tui.site import populate
from tui.app import OverviewApp
from tui.events import Event
from tui.feed import Backoff, Feed

PATIENCE = 10.0
"""Seconds after which a condition that does not come true fails the test."""


@asynccontextmanager
async def looking_at(
    path: Path, size: tuple[int, int] = (120, 36), *, empty: bool = False, status_interval: float = 3600.0
) -> AsyncIterator[tuple[OverviewApp, Pilot[None], FakeDaemon]]:
    """The application, attached to a daemon with a small observatory that it has listed (or nothing yet)."""
    daemon = FakeDaemon(path)
    app = OverviewApp(Target(unix=str(path)), make_feed=running(time.time, status_interval=status_interval))
    try:
        if not empty:
            await daemon.start()
            await populate(daemon)
        async with app.run_test(size=size) as pilot:
            if not empty:
                await until(pilot, lambda: "ztf-alerts" in picture(app))
            yield app, pilot, daemon
    finally:
        if daemon.serving:
            await daemon.stop()


def picture(app: App[Any]) -> str:
    """What is on the screen, as text."""
    return "\n".join(strip.text for strip in app.screen._compositor.render_strips())


async def until(pilot: Pilot[Any], condition: Callable[[], object]) -> None:
    """Let the application run until ``condition`` holds."""
    try:
        async with asyncio.timeout(PATIENCE):
            while not condition():
                await pilot.pause()
                await asyncio.sleep(0.005)
    except TimeoutError:
        raise AssertionError(f"it did not come to that; the screen is\n{picture(pilot.app)}") from None


def running(
    now: Callable[[], float], *, status_interval: float = 3600.0
) -> Callable[[Target, Callable[[Event], None]], Feed]:
    """A maker of feeds that try again within milliseconds, and have no other timers unless a test asks."""
    return lambda target, emit: Feed(
        target, emit, backoff=Backoff(0.01, 0.05), now=now, status_interval=status_interval
    )
