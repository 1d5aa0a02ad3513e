"""The application as its user meets it, with a daemon that comes and goes."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from rich.color import ColorType
from textual import constants
from textual.geometry import Region
from textual.widgets import Input

from tests.tui.driving import looking_at, picture, until
from tests.tui.site import STAGES
from tui.app import OverviewApp
from tui.facts import Key
from tui.screens.overview import OverviewScreen
from tui.screens.page import DetailsPage, LogPage
from tui.themes import CYCLE
from tui.widgets.keyed_table import KeyedTable
from tui.widgets.lines import Lines
from tui.widgets.pager import Pager


@pytest.fixture
def path() -> Iterator[Path]:
    """A socket path, short enough to be seen whole on a screen of 120 columns."""
    with tempfile.TemporaryDirectory(prefix="pd") as directory:
        yield Path(directory) / "d.sock"


def table(app: OverviewApp, name: str) -> KeyedTable:
    """The table of streams or pipelines."""
    overview = app.screen_stack[0]
    assert isinstance(overview, OverviewScreen)
    return overview.table(name)


def stream(name: str) -> Key:
    """The key of a stream."""
    return Key("Stream", "default", name)


@pytest.mark.parametrize("size", [(80, 24), (120, 36), (200, 50)])
def test_everything_is_on_the_screen(path: Path, size: tuple[int, int]) -> None:
    """At each size the daemon, the node, all streams and all stages with their numbers are in view."""

    async def main() -> None:
        async with looking_at(path, size) as (app, pilot, _):
            words = (
                "platformd 0.1.0", "● running", "up 3h12m", "on alpha", "● connected",
                "CPU    23%", "6.0G of 16.0G", "90%", "/data", "84.0M", "pressure", "24.0", "load 0.52 0.61 0.70",
                "▌ Streams 3", "alerts.>", "79.0G", "1832", "transients", "dead.>",
                "Pipelines 1", "degraded  WorkersMissing: stage annotate has 1 of 2 workers",
                "  filter", "2/2", "240,883", "963,523", "12", "1830", "600us", "1/2", "253us", "route", "Events",
                "q Quit", "? Help", "/ Filter", "⏎ Details", "p Pause", "r Reconnect", "t Theme",
            )  # fmt: skip
            await until(pilot, lambda: [word for word in words if word not in picture(app)] == [])
            assert "1,204,418" in picture(app) or "1204418" in picture(app)
            assert len(picture(app).splitlines()) == size[1]

    asyncio.run(main())


def test_it_waits_for_a_daemon(path: Path) -> None:
    """Started before the daemon it says what it waits for, and attaches by itself."""

    async def main() -> None:
        async with looking_at(path, empty=True) as (app, pilot, daemon):
            await until(pilot, lambda: "there is no such socket" in picture(app))
            await until(pilot, lambda: f"waiting for a daemon at {path}"[:60] in picture(app))
            await until(pilot, lambda: "platformd run" in picture(app))
            await daemon.start()
            await daemon.put("Stream", "alerts", state="active")
            await until(pilot, lambda: "● connected" in picture(app) and "active" in picture(app))
            await until(pilot, lambda: "no such socket" not in picture(app))

    asyncio.run(main())


def test_it_survives_a_restart(path: Path) -> None:
    """While the daemon is gone the last state stays in view and is called that; a restart is told; the cursor
    and what came meanwhile are right."""

    async def main() -> None:
        async with looking_at(path) as (app, pilot, daemon):
            await pilot.press("down", "down")
            assert table(app, "streams").cursor == stream("transients")
            await daemon.stop()
            await until(pilot, lambda: "disconnected" in picture(app))
            await until(pilot, lambda: "showing the last known state" in picture(app))
            await until(pilot, lambda: "ztf-alerts" in picture(app))
            assert table(app, "streams").stale
            await daemon.delete("Stream", "alerts")
            await daemon.put("Stream", "archive", spec={"subjects": ["archive.>"]}, state="active")
            await daemon.restart()
            await until(pilot, lambda: "restarted" in picture(app) and "archive.>" in picture(app))
            assert not table(app, "streams").stale
            assert [row.key for row in table(app, "streams").rows] == [
                stream(n) for n in ("archive", "dead", "transients")
            ]
            assert table(app, "streams").cursor == stream("transients")
            assert sum("watch" in r and "after" not in r for r in daemon.requests) == 2

    asyncio.run(main())


def test_a_dropped_connection_is_resumed(path: Path) -> None:
    """When the same daemon is there again the watch goes on where it was, without a new listing."""

    async def main() -> None:
        async with looking_at(path) as (app, pilot, daemon):
            at = daemon.revision
            daemon.drop_connections()
            await until(pilot, lambda: "back after" in picture(app))
            await daemon.put("Stream", "alerts", messages=7777)
            await until(pilot, lambda: "7,777" in picture(app))
            assert f"/v1/watch?kinds=nodes,streams,pipelines&after={at}" in daemon.requests
            await until(pilot, lambda: "restarted" not in picture(app))

    asyncio.run(main())


def test_what_was_compacted_is_listed_anew(path: Path) -> None:
    """When the revision to go on from is gone, everything is listed again, and what went meanwhile goes."""

    async def main() -> None:
        async with looking_at(path) as (app, pilot, daemon):
            await daemon.stop()
            await until(pilot, lambda: app.state.stale)
            await daemon.delete("Stream", "dead")
            daemon.compacted = daemon.revision
            await daemon.start()
            await until(pilot, lambda: len(table(app, "streams").rows) == 2)
            assert [("after" in r) for r in daemon.requests if "watch" in r] == [False, True, False]

    asyncio.run(main())


def test_r_reconnects_at_once(path: Path) -> None:
    """The key gives up the connection and makes another."""

    async def main() -> None:
        async with looking_at(path) as (app, pilot, daemon):
            await pilot.press("r")
            await until(pilot, lambda: sum("watch" in r for r in daemon.requests) == 2 and not app.state.stale)
            assert any("reconnecting as asked" in e.text for e in app.state.log)

    asyncio.run(main())


def test_the_cursor_stays_on_its_object(path: Path) -> None:
    """Rows that come and go around it do not move the cursor to another object; when its object goes, a
    neighbour takes it."""

    async def main() -> None:
        async with looking_at(path, (80, 24)) as (app, pilot, daemon):
            streams = table(app, "streams")
            await pilot.press("end")
            for i in range(8):
                await daemon.put("Stream", f"a{i}", state="active")
            await until(pilot, lambda: len(streams.rows) == 11)
            assert streams.cursor == stream("transients")
            await until(pilot, lambda: "transients" in picture(app))
            await daemon.delete("Stream", "alerts")
            await daemon.delete("Stream", "dead")
            await until(pilot, lambda: len(streams.rows) == 9)
            assert streams.cursor == stream("transients")
            await daemon.delete("Stream", "transients")
            await until(pilot, lambda: len(streams.rows) == 8)
            assert streams.cursor == stream("a7")
            await pilot.press("home", "pagedown", "up")
            assert streams.cursor in {row.key for row in streams.rows}

    asyncio.run(main())


def test_filter(path: Path) -> None:
    """A filter shows what matches while it is typed, is kept by enter, and cleared by escape."""

    async def main() -> None:
        async with looking_at(path) as (app, pilot, _):
            await pilot.press("slash", *"TRAN")
            await until(pilot, lambda: "Streams 1 of 3" in picture(app))
            await until(pilot, lambda: "no pipelines match" in picture(app))
            await pilot.press("enter")
            await until(pilot, lambda: app.focused is table(app, "streams"))
            assert not app.screen.query_one("#filter", Input).display
            await until(pilot, lambda: "Streams 1 of 3" in picture(app))
            await pilot.press("escape")
            await until(pilot, lambda: len(table(app, "streams").rows) == 3)
            await pilot.press("slash", *"ann")
            await until(pilot, lambda: "Pipelines 1 of 1" in picture(app))
            await pilot.press("escape")
            await until(pilot, lambda: "Streams 3" in picture(app) and app.focused is table(app, "streams"))

    asyncio.run(main())


def test_details_are_live(path: Path) -> None:
    """Enter shows spec and status of what the cursor is on, follows changes, and says when it is deleted."""

    async def main() -> None:
        async with looking_at(path) as (app, pilot, daemon):
            await pilot.press("down", "enter")
            await until(pilot, lambda: isinstance(app.screen, DetailsPage) and "last_sequence: 12" in picture(app))
            await until(pilot, lambda: "- dead.>" in picture(app))
            await daemon.put("Stream", "dead", last_sequence=13)
            await until(pilot, lambda: "last_sequence: 13" in picture(app))
            await daemon.delete("Stream", "dead")
            await until(pilot, lambda: "deleted; this was its last state" in picture(app))
            await until(pilot, lambda: "last_sequence: 13" in picture(app))
            await pilot.press("escape")
            assert isinstance(app.screen, OverviewScreen)

    asyncio.run(main())


def test_details_of_a_stage(path: Path) -> None:
    """A stage's details begin with its own part of the pipeline."""

    async def main() -> None:
        async with looking_at(path) as (app, pilot, _):
            await pilot.press("tab", "down", "enter")
            await until(pilot, lambda: "expression: candidate.rb >= 0.55" in picture(app))
            await until(pilot, lambda: "pipeline/ztf-alerts/filter" in picture(app))
            text = app.screen.query_one("#page-body", Pager).text
            assert (
                text.index("stage: filter") < text.index("dead_lettered: 12") < text.index("dead_letter: dead.alerts")
            )
            await pilot.press("end", "pageup", "down", "home", "q")
            assert isinstance(app.screen, OverviewScreen)

    asyncio.run(main())


def test_a_click_selects_and_a_second_chooses(path: Path) -> None:
    """The mouse puts the cursor on the row under it, and a double click shows its details."""

    async def main() -> None:
        async with looking_at(path) as (app, pilot, _):
            await pilot.click("#streams", offset=(5, 4))
            assert table(app, "streams").cursor == stream("transients")
            await pilot.click("#streams", offset=(5, 3), times=2)
            await until(pilot, lambda: isinstance(app.screen, DetailsPage) and "stream/dead" in picture(app))

    asyncio.run(main())


def test_pause_holds_the_screen(path: Path) -> None:
    """Paused, the numbers stay; going on shows what is so then; a lost connection shows all the same."""

    async def main() -> None:
        async with looking_at(path) as (app, pilot, daemon):
            await pilot.press("p")
            await until(pilot, lambda: "PAUSED" in picture(app))
            await daemon.put("Stream", "dead", messages=54321)
            await until(pilot, lambda: app.state.items[stream("dead")].status.messages == 54321)  # type: ignore[attr-defined]
            await daemon.stop()
            await until(pilot, lambda: "disconnected" in picture(app))
            await until(pilot, lambda: "54,321" not in picture(app))
            await pilot.press("p")
            await until(pilot, lambda: "54,321" in picture(app))
            await until(pilot, lambda: "PAUSED" not in picture(app))

    asyncio.run(main())


def test_pages_and_palette(path: Path) -> None:
    """Help, events, the node and the palette open and close; the palette knows every object."""

    async def main() -> None:
        async with looking_at(path) as (app, pilot, daemon):
            await pilot.press("question_mark")
            await until(pilot, lambda: "packets that wait for the stage" in picture(app))
            await until(pilot, lambda: f"attached to {path}"[:50] in picture(app))
            await pilot.press("escape", "n")
            await until(pilot, lambda: "node/alpha" in picture(app))
            await pilot.press("escape", "l")
            await until(pilot, lambda: isinstance(app.screen, LogPage))
            await daemon.put("Pipeline", "ztf-alerts", state="running", reason="", message="")
            await until(pilot, lambda: "degraded → running" in picture(app))
            await pilot.press("escape", "ctrl+p", *"trans")
            await until(pilot, lambda: "stream/transients" in picture(app))
            await pilot.press("enter")
            await until(pilot, lambda: isinstance(app.screen, DetailsPage) and "transients.faint" in picture(app))

    asyncio.run(main())


def test_only_changed_cells_are_drawn(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One changed number draws its cells; a status that says nothing new draws nothing."""
    drawn: list[Region] = []

    def record(original: Any) -> Any:
        def refresh(self: Any, *regions: Region, **options: Any) -> Any:
            drawn.extend(regions or (self.size.region,))
            return original(self, *regions, **options)

        return refresh

    async def main() -> None:
        async with looking_at(path, status_interval=0.05) as (app, pilot, daemon):
            for widget in (KeyedTable, Lines):
                monkeypatch.setattr(widget, "refresh", record(widget.refresh))
            shown = 0

            def count_shows(show: Any = app._show) -> None:
                nonlocal shown
                show()
                shown += 1

            monkeypatch.setattr(app, "_show", count_shows)
            # The histories would go on with each second of the clock.
            app._feed.now = lambda now=app.state.now: now  # type: ignore[misc]
            await until(pilot, lambda: shown >= 2)
            drawn.clear()
            await until(pilot, lambda: shown >= 4)
            assert drawn == []
            await daemon.put("Pipeline", "ztf-alerts", stages=[STAGES[0] | {"in_flight": 33}, *STAGES[1:]])
            await until(pilot, lambda: drawn)
            at = shown
            await until(pilot, lambda: shown > at)
            # 32 became 33, and 40 in flight in all became 41.
            assert [(r.width, r.height) for r in drawn] == [(1, 1)] * 2
            await until(pilot, lambda: "33" in picture(app))

    asyncio.run(main())


def test_nothing_ticks_while_all_is_well(path: Path) -> None:
    """With a connection no timer of the application runs; the countdown runs only without one."""

    async def main() -> None:
        async with looking_at(path) as (app, pilot, daemon):
            assert app._countdown is not None
            assert not app._countdown._active.is_set()
            await daemon.stop()
            await until(pilot, lambda: app._countdown is not None and app._countdown._active.is_set())

    asyncio.run(main())


def test_themes(path: Path) -> None:
    """The key goes through the themes and comes back to the first, and each can be drawn."""

    async def main() -> None:
        async with looking_at(path) as (app, pilot, _):
            seen = []
            for _i in range(len(CYCLE)):
                await pilot.press("t")
                await pilot.pause()
                await until(pilot, lambda: "ztf-alerts" in picture(app))
                seen.append(app.theme)
            assert sorted(seen) == sorted(CYCLE)

    asyncio.run(main())


def test_sixteen_colours(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a terminal of 16 colours only the terminal's own colours are used."""
    monkeypatch.setattr(constants, "COLOR_SYSTEM", "standard")

    async def main() -> None:
        async with looking_at(path, (80, 24)) as (app, _, _daemon):
            assert app.theme == "ansi-dark"
            strips = app.screen._compositor.render_strips()
            colours = {c for s in strips for seg in s if seg.style for c in (seg.style.color, seg.style.bgcolor) if c}
            assert {c.type for c in colours} <= {ColorType.DEFAULT, ColorType.STANDARD}

    asyncio.run(main())


def test_no_colour(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With NO_COLOR everything is said in words, signs and greys, and the cursor can be told."""
    monkeypatch.setenv("NO_COLOR", "1")

    async def main() -> None:
        async with looking_at(path) as (app, _, _daemon):
            seen = picture(app)
            assert "degraded" in seen
            assert "▌ Streams" in seen
            style = table(app, "streams").render_line(2)._segments[0].style
            assert style is not None
            assert style.reverse

    asyncio.run(main())
