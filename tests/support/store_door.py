"""An embedded store behind its own socket, and a client of it, in one process."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import trio

from platformd.access import Gate
from platformd.api.door import serve_door
from platformd.client.store import RemoteStore, connect_store
from platformd.coordination.contract import Store
from platformd.coordination.sqlite import open_sqlite
from platformd.core.clock import SystemClock
from platformd.core.settings import DaemonSettings, DoorSettings, Settings, StoreSettings
from tests.support.daemon import short_directory


@asynccontextmanager
async def served(
    store: Store, directory: Path, *, grace: float = 5.0, gate: Gate | None = None, **door: Any
) -> AsyncIterator[Path]:
    """A door to ``store``, for as long as the block lasts; the path of the control socket that it would be beside."""
    settings = Settings(daemon=DaemonSettings(socket=str(directory / "p.sock")), door=DoorSettings(**door))
    stopping = trio.Event()
    async with trio.open_nursery() as nursery:
        gate = gate or Gate(settings.access, store, SystemClock())
        await nursery.start(partial(serve_door, store, settings, gate=gate, stopping=stopping, grace=grace))
        try:
            yield settings.socket_path
        finally:
            stopping.set()


class DoorEngine:
    """The embedded engine, asked through its own socket: for the conformance suite."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / "store.db"

    @asynccontextmanager
    async def open(self, **settings: Any) -> AsyncIterator[RemoteStore]:
        with short_directory() as directory:
            async with (
                open_sqlite(self.path, StoreSettings(**settings), SystemClock()) as embedded,
                served(embedded, directory) as address,
                connect_store(address) as store,
            ):
                yield store
