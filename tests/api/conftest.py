"""A running server for each test."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from platformd.api.app import create_app
from platformd.api.context import ApiContext
from platformd.api.server import serve
from tests.api.fakes import make_context, make_settings
from tests.api.wire import Client


@dataclass
class Served:
    """A server that runs, and what is behind it."""

    context: ApiContext
    path: Path
    addresses: list[str]
    done: trio.Event
    """Set when ``serve`` has returned."""
    clients: list[Client] = field(default_factory=list)

    async def client(self) -> Client:
        """A new connection, closed with the test."""
        self.clients.append(await Client.connect(self.path))
        return self.clients[-1]

    def stop(self) -> None:
        self.context.stopping.set()


Start = Callable[..., Any]


@pytest.fixture
def clock() -> MockClock:
    """Time that jumps when nothing happens for 30 ms, which is long for things within one process."""
    return MockClock(autojump_threshold=0.03)


@pytest.fixture
async def start(tmp_path: Path, nursery: trio.Nursery) -> AsyncIterator[Start]:
    """Starts a server: ``await start(app=None, grace=5.0, **http)``."""
    running: list[Served] = []

    async def run(app: Any = None, *, grace: float = 5.0, store: Any = None, **http: Any) -> Served:
        settings = make_settings(tmp_path, **http)
        context = make_context(settings, store)
        done = trio.Event()

        async def serving(*, task_status: trio.TaskStatus[list[str]]) -> None:
            try:
                await serve(
                    app or create_app(context),
                    settings,
                    stopping=context.stopping,
                    grace=grace,
                    task_status=task_status,
                )
            finally:
                done.set()

        addresses = await nursery.start(partial(serving))
        served = Served(context, settings.socket_path, addresses, done)
        running.append(served)
        return served

    yield run
    for served in running:
        for client in served.clients:
            await client.aclose()
        served.stop()
        with trio.fail_after(20):
            await served.done.wait()


@pytest.fixture
async def served(start: Start) -> Served:
    """A server with the API over things in memory."""
    found: Served = await start()
    return found


@pytest.fixture
async def client(served: Served) -> Client:
    """A connection to it."""
    return await served.client()
