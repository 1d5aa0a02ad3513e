"""A daemon in a process of its own, for tests that look at it from outside."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

from platformd.client.blocking import Client
from platformd.client.http import Target
from platformd.core.errors import PlatformError
from platformd.core.processes import own_environment, own_module

READY_WITHIN = 30.0
"""Seconds that a daemon may take to serve, on a machine that does other things too."""


@contextmanager
def short_directory() -> Iterator[Path]:
    """A temporary directory whose path leaves room for the names of Unix sockets (107 bytes in all)."""
    path = Path(tempfile.mkdtemp(prefix="pd"))
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def environment(more: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment without what would configure a daemon, and with ``more``."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith("PLATFORMD_")}
    return own_environment(clean | dict(more or {}))


class DaemonProcess:
    """``platformd run`` on a directory; may be killed and started again on the same state."""

    def __init__(self, directory: Path, *arguments: str, environ: Mapping[str, str] | None = None) -> None:
        self.state_dir = directory / "state"
        self.socket = directory / "p.sock"
        self.log = directory / "daemon.log"
        self._arguments = arguments
        self._environ = environment(environ)
        self.process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> DaemonProcess:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.process is not None and self.process.poll() is None:
            self.kill()

    @property
    def client(self) -> Client:
        """A new client of it."""
        return Client(Target(unix=str(self.socket)))

    def command(self, *arguments: str, stdin: bytes | None = None) -> subprocess.CompletedProcess[bytes]:
        """Run ``platformd ARGUMENTS`` against it."""
        command = own_module("platformd.cli.main", "--socket", str(self.socket), *arguments)
        return subprocess.run(command, input=stdin, capture_output=True, env=self._environ, timeout=60, check=False)

    def spawn(self) -> subprocess.Popen[bytes]:
        """Start the process without waiting for it to serve."""
        command = own_module("platformd.cli.main", "run")
        command += ["--state-dir", str(self.state_dir), "--socket", str(self.socket), *self._arguments]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=self._environ
            )
        return self.process

    def start(self) -> None:
        """Start it and wait until this very process serves."""
        process = self.spawn()
        deadline = time.monotonic() + READY_WITHIN
        while True:
            status = self._status()
            if status.get("pid") == process.pid and status.get("state") == "running":
                return
            if process.poll() is not None or time.monotonic() > deadline:
                self.kill()
                raise AssertionError(f"the daemon does not serve:\n{self.log.read_text()}")
            time.sleep(0.02)

    def _status(self) -> dict[str, Any]:
        try:
            with self.client as client:
                return client.status()
        except PlatformError:
            return {}

    def kill(self) -> None:
        """SIGKILL, and wait until it is gone."""
        if self.process is not None:
            self.process.kill()
            self.process.wait(10)

    def stop(self, number: int = signal.SIGTERM, within: float = 30.0) -> int:
        """Ask it to stop; its exit code."""
        assert self.process is not None
        self.process.send_signal(number)
        return self.process.wait(within)
