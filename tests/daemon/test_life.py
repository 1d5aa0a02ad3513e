"""The daemon as its operator meets it: start, stop, kill, settings, supervisor, one for each directory."""

from __future__ import annotations

import os
import signal
import socket
import stat
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from platformd.model.service import SERVICE
from platformd.model.stream import STREAM
from tests.support.daemon import DaemonProcess, short_directory


@pytest.fixture
def directory() -> Iterator[Path]:
    with short_directory() as path:
        yield path


@pytest.fixture
def daemon(directory: Path) -> Iterator[DaemonProcess]:
    with DaemonProcess(directory) as running:
        yield running


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_stops_when_it_is_told(daemon: DaemonProcess, number: int) -> None:
    """Either signal ends it well within its deadline, with exit code 0 and no socket left behind."""
    started = time.monotonic()
    assert daemon.stop(number) == 0, daemon.log.read_text()
    assert time.monotonic() - started < 8
    assert not daemon.socket.exists()
    assert "stopped" in daemon.log.read_text()


def test_it_stops_although_clients_hang_on(daemon: DaemonProcess) -> None:
    """Idle connections, an open watch and a half request do not hold it past its deadline."""
    hangers = []
    for text in (b"", b"GET /status HT", b"GET /v1/streams?watch HTTP/1.1\r\nhost: x\r\n\r\n"):
        connection = socket.socket(socket.AF_UNIX)
        connection.connect(str(daemon.socket))
        connection.sendall(text)
        hangers.append(connection)
    hangers[2].settimeout(10)
    assert b"200" in hangers[2].recv(4096)
    assert daemon.stop() == 0, daemon.log.read_text()
    for connection in hangers:
        connection.close()


def test_state_survives_a_stop_and_a_kill(daemon: DaemonProcess) -> None:
    """What was acknowledged is there after a clean stop and after kill -9, with the same uid and revision."""
    with daemon.client as client:
        before = client.create(SERVICE, {"name": "a", "spec": {"version": "1"}})
        client.create(STREAM, {"name": "s", "spec": {"subjects": ["x.>"]}})
    daemon.stop()
    daemon.start()
    with daemon.client as client:
        assert client.get(SERVICE, "a").uid == before.uid
        after = client.create(SERVICE, {"name": "b"})
    daemon.kill()
    daemon.start()
    with daemon.client as client:
        assert client.get(SERVICE, "b").uid == after.uid
        assert client.get(STREAM, "s").spec.subjects == ("x.>",)


def test_the_second_daemon_says_who_has_the_directory(daemon: DaemonProcess) -> None:
    """A second daemon on the same state is refused with the first one's pid and socket, and harms nothing."""
    second = DaemonProcess(daemon.state_dir.parent)
    second.socket = daemon.state_dir.parent / "q.sock"
    second.log = daemon.state_dir.parent / "second.log"
    process = second.spawn()
    assert process.wait(20) == 5
    assert daemon.process is not None
    message = second.log.read_text()
    assert f"is held by process {daemon.process.pid}" in message
    assert str(daemon.socket) in message
    assert "Traceback" not in message
    with daemon.client as client:
        assert client.status()["state"] == "running"


def test_a_live_socket_is_not_taken_over(daemon: DaemonProcess) -> None:
    """A daemon with another state directory cannot steal the socket of one that serves."""
    second = DaemonProcess(daemon.state_dir.parent)
    second.state_dir = daemon.state_dir.parent / "other"
    second.log = daemon.state_dir.parent / "second.log"
    assert second.spawn().wait(20) == 5
    assert f"{daemon.socket.with_suffix('.queues')}" in second.log.read_text()
    assert "another process listens there" in second.log.read_text()
    assert "Traceback" not in second.log.read_text()
    with daemon.client as client:
        assert client.status()["state"] == "running"


def test_the_socket_is_private(daemon: DaemonProcess) -> None:
    """Only owner and group may connect."""
    assert stat.S_IMODE(daemon.socket.stat().st_mode) == 0o660


def test_wrong_settings_are_told_and_nothing_starts(directory: Path) -> None:
    """A wrong key in the file and a wrong variable come together, with the nearest known names."""
    config = directory / "c.toml"
    config.write_text("[http]\nlisten = '127.0.0.1:0'\nmax_bdy = '1MiB'\n")
    daemon = DaemonProcess(directory, "-c", str(config), environ={"PLATFORMD_STORE_MAX_BACH": "1"})
    assert daemon.spawn().wait(20) == 2
    message = daemon.log.read_text()
    assert "did you mean http.max_body?" in message
    assert "did you mean PLATFORMD_STORE_MAX_BATCH?" in message
    assert not daemon.state_dir.exists()


@pytest.mark.parametrize("address", ["0.0.0.0:0", "192.0.2.1:80", "nonsense", "127.0.0.1:99999"])
def test_only_loopback_is_served(directory: Path, address: str) -> None:
    """An address that others could reach, or that is none, is refused with a sentence."""
    daemon = DaemonProcess(directory, "--http", address)
    assert daemon.spawn().wait(20) not in (0, None)
    message = daemon.log.read_text()
    assert "Traceback" not in message
    assert "error:" in message


def test_the_supervisor_is_told(directory: Path) -> None:
    """READY after the last ring, WATCHDOG from the loop, STOPPING at the end."""
    address = str(directory / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as supervisor:
        supervisor.bind(address)
        supervisor.settimeout(20)
        environ = {"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "100000"}
        with DaemonProcess(directory, environ=environ) as daemon:
            assert supervisor.recv(4096).startswith(b"READY=1")
            assert supervisor.recv(4096) == b"WATCHDOG=1"
            assert supervisor.recv(4096) == b"WATCHDOG=1"
            assert daemon.stop() == 0
            last = supervisor.recv(4096)
            while last == b"WATCHDOG=1":
                last = supervisor.recv(4096)
            assert last.startswith(b"STOPPING=1")


def test_http_on_loopback_serves_the_same(directory: Path) -> None:
    """With --http the same API answers on TCP, on a port that the system chose, as its endpoint says."""
    with DaemonProcess(directory, "--http", "127.0.0.1:0") as daemon, daemon.client as client:
        endpoints = [e for e in client.list("endpoints").items if e.spec.port]
        assert [e.spec.address for e in endpoints] == ["127.0.0.1"]
        with socket.create_connection(("127.0.0.1", endpoints[0].spec.port), 10) as connection:
            connection.sendall(b"GET /status HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")
            answer = b""
            while piece := connection.recv(65536):
                answer += piece
    assert answer.startswith(b"HTTP/1.1 200")
    assert f'"pid":{daemon.process.pid}'.encode() in answer.replace(b" ", b"")  # type: ignore[union-attr]


def test_a_damaged_store_is_refused_with_its_file(daemon: DaemonProcess) -> None:
    """A store that is no database any more is an error that names the file; it is not replaced by an empty one."""
    with daemon.client as client:
        client.create(SERVICE, {"name": "a"})
    daemon.stop()
    store = daemon.state_dir / "store.db"
    store.write_bytes(os.urandom(len(store.read_bytes())))
    daemon.log.write_text("")
    assert daemon.spawn().wait(20) == 7
    assert str(store) in daemon.log.read_text()
    assert "Traceback" not in daemon.log.read_text()
