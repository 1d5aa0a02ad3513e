"""An embedded store in a process of its own behind the store's door, to be killed, held and started again.

``python -m tests.simulation.host DIRECTORY SETTINGS``, with the store's settings as JSON; prints a line when it serves.
``Host`` is its other side.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import trio

from platformd.access import Gate
from platformd.api.door import serve_door
from platformd.client.store import RemoteStore, connect_store
from platformd.coordination.sqlite import open_sqlite
from platformd.core.clock import SystemClock
from platformd.core.processes import own_environment, own_module
from platformd.core.settings import DaemonSettings, Settings, StoreSettings

READY_WITHIN = 30.0
"""Seconds that it may take to serve, on a machine that does other things too."""


class Host:
    """The process of a store whose state is in ``directory`` (a short path: it has sockets in it)."""

    def __init__(self, directory: Path, **settings: Any) -> None:
        self.directory = directory
        self.path = directory / "s.db"
        self._settings = json.dumps(settings)
        self._process: trio.Process | None = None

    async def start(self) -> None:
        """Start it, and wait until it serves."""
        command = own_module("tests.simulation.host", str(self.directory), self._settings)
        self._process = await trio.lowlevel.open_process(command, stdout=subprocess.PIPE, env=own_environment())
        assert self._process.stdout is not None
        with trio.fail_after(READY_WITHIN):
            assert await self._process.stdout.receive_some() == b"ready\n", "the store's process did not start"

    async def kill(self) -> None:
        """SIGKILL, and wait until it is gone."""
        if self._process is not None:
            self._process.kill()
            await self._process.wait()
            assert self._process.stdout is not None
            await self._process.stdout.aclose()

    def stop(self) -> None:
        """Hold it as it is."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        """Let it go on after ``stop``."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def connect(self, name: str = "") -> contextlib.AbstractAsyncContextManager[RemoteStore]:
        """A connection of its own to the store."""
        return connect_store(self.directory / "p.sock", name=name, patience=READY_WITHIN)


@contextlib.asynccontextmanager
async def running(directory: Path, **settings: Any) -> AsyncIterator[Host]:
    """A host that serves, and is killed afterwards."""
    host = Host(directory, **settings)
    try:
        await host.start()
        yield host
    finally:
        with trio.CancelScope(shield=True):
            await host.kill()


async def _serve(directory: Path, settings: StoreSettings) -> None:
    daemon = DaemonSettings(state_dir=str(directory), socket=str(directory / "p.sock"))
    async with open_sqlite(directory / "s.db", settings, SystemClock()) as store, trio.open_nursery() as nursery:
        whole = Settings(daemon=daemon, store=settings)

        async def serve(*, task_status: trio.TaskStatus[str]) -> None:
            gate = Gate(whole.access, store, SystemClock())
            await serve_door(store, whole, gate=gate, stopping=trio.Event(), task_status=task_status)

        await nursery.start(serve)
        os.write(1, b"ready\n")


if __name__ == "__main__":
    trio.run(_serve, Path(sys.argv[1]), StoreSettings(**json.loads(sys.argv[2])))
