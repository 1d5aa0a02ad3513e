"""Look at the screen: ``python -m tests.tui.shot OUT.svg [--size 120x36] [--scene live] [--theme NAME]``.

Writes an SVG picture of the overview with a small observatory behind it. For eyes, not for assertions.
"""

from __future__ import annotations

import argparse
import asyncio
import math
import tempfile
from pathlib import Path

from platformd.client.http import Target
from tests.tui import site
from tests.tui.driving import running, until
from tests.tui.fake_daemon import FakeDaemon
from tui.app import OverviewApp

SAMPLES = 110


async def _past(daemon: FakeDaemon, clock: list[float]) -> None:
    """Let some minutes go by on the terminal's clock."""
    for i in range(SAMPLES):
        clock[0] += 1
        wave = 1 + 0.5 * math.sin(i / 7) + 0.25 * math.sin(i / 2.3)
        stages = [dict(stage) for stage in site.STAGES]
        stages[0] |= {"packets_per_second": 1500 * wave, "lag": max(0, int(3000 * (i / SAMPLES - 0.7)))}
        stages[1] |= {"packets_per_second": 300 * wave, "lag": int(40 * wave)}
        stages[2] |= {"packets_per_second": 299 * wave}
        if i == 80:
            await daemon.put("Pipeline", "ztf-alerts", state="running", reason="", message="")
        await daemon.put("Pipeline", "ztf-alerts", stages=stages)
        await daemon.put("Stream", "alerts", messages_per_second=1500 * wave)
        await daemon.put("Stream", "transients", messages_per_second=300 * wave)
        if i % 5 == 0:
            await daemon.put("Node", "alpha", cpu_percent=40 * wave, daemon_rss_bytes=int(8e7 + 1e7 * wave))
        await asyncio.sleep(0.002)
    await daemon.put("Pipeline", "ztf-alerts", state="degraded", reason="WorkersMissing",
                     message="stage annotate has 1 of 2 workers")  # fmt: skip


async def take(out: Path, size: tuple[int, int], scene: str, theme: str | None) -> None:
    """Write the picture."""
    clock = [1769872000.0]
    with tempfile.TemporaryDirectory() as folder:
        daemon = FakeDaemon(Path(folder) / "d.sock")
        app = OverviewApp(Target(unix=str(daemon.path)), make_feed=running(lambda: clock[0]), now=lambda: clock[0])
        if scene != "waiting":
            await daemon.start()
        if scene not in {"waiting", "empty"}:
            await site.populate(daemon)
        async with app.run_test(size=size) as pilot:
            if theme:
                app.theme = theme
            if scene not in {"waiting", "empty"}:
                await until(pilot, lambda: app.state.items)
                await _past(daemon, clock)
            if scene == "lost":
                await daemon.stop()
                await until(pilot, lambda: app.state.link.phase == "lost")
            for key in {"details": ["enter"], "help": ["question_mark"], "log": ["l"], "palette": ["ctrl+p"],
                        "stage": ["tab", "down", "enter"], "filter": ["slash", "t", "r"]}.get(scene, []):  # fmt: skip
                await pilot.press(key)
            await pilot.pause(0.5)
            app.save_screenshot(str(out.name), str(out.parent))
        if scene not in {"waiting", "lost"}:
            await daemon.stop()


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser()
    parser.add_argument("out", type=Path)
    parser.add_argument("--size", default="120x36")
    parser.add_argument("--scene", default="live")
    parser.add_argument("--theme")
    flags = parser.parse_args()
    width, height = map(int, flags.size.split("x"))
    asyncio.run(take(flags.out.resolve(), (width, height), flags.scene, flags.theme))


if __name__ == "__main__":
    main()
