"""The connection that never gives up."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from platformd.client.http import Target
from tests.tui.fake_daemon import FakeDaemon
from tui.__main__ import main, target_of
from tui.events import Bookmark, Changed, Connected, Connecting, Disconnected, Event, Listing, StatusRead
from tui.feed import Backoff, Feed


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A socket path."""
    return tmp_path / "d.sock"


class Following:
    """A feed that runs, and the events that it gave."""

    def __init__(self, path: Path, *, first: float = 0.005, status_interval: float = 60.0) -> None:
        self.events: list[Event] = []
        self._more = asyncio.Event()
        self.feed = Feed(
            Target(unix=str(path)),
            self._take,
            backoff=Backoff(first, 60.0),
            status_interval=status_interval,
            answer_timeout=0.2,
        )

    def _take(self, event: Event) -> None:
        self.events.append(event)
        self._more.set()

    async def __aenter__(self) -> Following:
        self._task = asyncio.create_task(self.feed.run())
        return self

    async def __aexit__(self, *_error: object) -> None:
        self._task.cancel()
        with suppress(asyncio.CancelledError):
            await self._task

    async def until(self, condition: Callable[[list[Event]], bool]) -> None:
        """Wait until ``condition`` holds of the events."""
        async with asyncio.timeout(10):
            while not condition(self.events):
                self._more.clear()
                await self._more.wait()

    def names(self) -> list[str]:
        """The events, short."""
        return [type(event).__name__ for event in self.events]


def test_back_off_doubles_with_jitter() -> None:
    """Waits double up to a limit, each between its half and its whole, and start over after success."""
    low, high = Backoff(0.25, 5.0, lambda: 0.0), Backoff(0.25, 5.0, lambda: 1.0)
    assert [low.next() for _ in range(6)] == [0.125, 0.25, 0.5, 1.0, 2.0, 2.5]
    assert [high.next() for _ in range(6)] == [0.25, 0.5, 1.0, 2.0, 4.0, 5.0]
    high.reset()
    assert high.next() == 0.25


def test_the_events_of_a_connection(path: Path) -> None:
    """A connection begins with the status and a listing, then come changes, and the status now and then."""

    async def run() -> None:
        daemon = FakeDaemon(path)
        await daemon.start()
        await daemon.put("Stream", "a", state="active")
        await daemon.put("Service", "not-shown", state="empty")
        async with Following(path, status_interval=0.01) as following:
            await following.until(lambda events: any(isinstance(e, StatusRead) for e in events))
            await daemon.put("Stream", "b", state="active")
            await following.until(lambda events: sum(isinstance(e, Changed) for e in events) == 2)
        names = [name for name in following.names() if name != "StatusRead"]
        assert names == ["Connecting", "Connected", "Listing", "Changed", "Bookmark", "Changed"]
        await daemon.stop()

    asyncio.run(run())


def test_attempts_go_on(path: Path) -> None:
    """Failed attempts are events with the time of the next; the daemon is found when it comes."""

    async def run() -> None:
        daemon = FakeDaemon(path)
        async with Following(path) as following:
            await following.until(lambda events: sum(isinstance(e, Disconnected) for e in events) == 3)
            lost = [e for e in following.events if isinstance(e, Disconnected)]
            assert all(e.reason == "there is no such socket" and e.retry_at > e.now for e in lost)
            await daemon.start()
            await following.until(lambda events: any(isinstance(e, Bookmark) for e in events))
            assert following.names()[:2] == ["Connecting", "Disconnected"]
        await daemon.stop()

    asyncio.run(run())


def test_a_hung_daemon_counts_as_lost(path: Path) -> None:
    """A daemon that takes requests and does not answer is noticed by the status, and given up."""

    async def run() -> None:
        daemon = FakeDaemon(path)
        await daemon.start()
        async with Following(path, status_interval=0.01) as following:
            await following.until(lambda events: any(isinstance(e, Bookmark) for e in events))
            daemon.hung = True
            await following.until(lambda events: any(isinstance(e, Disconnected) for e in events))
            lost = next(e for e in following.events if isinstance(e, Disconnected))
            assert lost.reason == "no answer within 0.2 s"
        await daemon.stop()

    asyncio.run(run())


def test_reconnect_ends_the_wait(path: Path) -> None:
    """Asked to, the feed does not wait for its next attempt."""

    async def run() -> None:
        daemon = FakeDaemon(path)
        async with Following(path, first=3600.0) as following:
            await following.until(lambda events: any(isinstance(e, Disconnected) for e in events))
            await daemon.start()
            begun = time.monotonic()
            following.feed.reconnect_now()
            await following.until(lambda events: any(isinstance(e, Connected) for e in events))
            assert time.monotonic() - begun < 10
        await daemon.stop()

    asyncio.run(run())


def test_a_refused_listing_does_not_spin(path: Path) -> None:
    """When even a full listing is answered with ``gone``, attempts are spaced like any others."""

    async def run() -> None:
        daemon = FakeDaemon(path)
        daemon.refuse = {"code": "gone", "status": 410, "detail": "compacted"}
        await daemon.start()
        async with Following(path) as following:
            await following.until(lambda events: sum(isinstance(e, Disconnected) for e in events) == 3)
            lost = [e for e in following.events if isinstance(e, Disconnected)]
            assert all(e.retry_at > e.now for e in lost)
            assert sum(isinstance(e, Connecting) for e in following.events) == 3
            assert sum(isinstance(e, Listing) for e in following.events) == 3
        await daemon.stop()

    asyncio.run(run())


def test_where_to_attach(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """A URL wins over a socket, a socket over the environment; a wrong URL is refused before anything starts."""
    monkeypatch.setenv("PLATFORMD_SOCKET", "/run/env.sock")
    assert target_of("http://localhost:7070", "/x.sock") == Target(host="localhost", port=7070)
    assert target_of(None, "/x.sock") == Target(unix="/x.sock")
    assert target_of(None, None) == Target(unix="/run/env.sock")
    assert main(["ftp://x"]) == 2
    assert "ftp://x" in capsys.readouterr().err
