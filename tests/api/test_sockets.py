"""Binding the sockets: who is not robbed, and who does not get in."""

from __future__ import annotations

import os
import socket
import stat
from pathlib import Path

import pytest

from platformd.api.server.sockets import BoundSocket, bind_tcp, bind_unix, open_sockets, tcp_address
from platformd.core.errors import Conflict, InvalidInput, Unavailable
from platformd.core.settings import HttpSettings
from tests.api.fakes import make_settings


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077])
def test_the_mode_is_what_was_asked_for(tmp_path: Path, umask: int) -> None:
    """Whatever the process's umask."""
    before = os.umask(umask)
    try:
        bound = bind_unix(tmp_path / "s", 0o660)
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "s").stat().st_mode) == 0o660
    bound.release()


def test_nobody_connects_before_the_mode_is_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While the file may still be open to all, the kernel refuses connections."""
    refused = []
    chmod = Path.chmod

    def probe_then_chmod(path: Path, mode: int) -> None:
        with socket.socket(socket.AF_UNIX) as early:
            refused.append(early.connect_ex(str(path)))
        chmod(path, mode)

    monkeypatch.setattr(Path, "chmod", probe_then_chmod)
    bind_unix(tmp_path / "s", 0o600).release()
    assert refused == [111]


def test_a_live_socket_is_a_conflict(tmp_path: Path) -> None:
    """The one who serves there keeps it, also when its queue is full."""
    first = bind_unix(tmp_path / "s", 0o600)
    with pytest.raises(Conflict, match="another process serves") as caught:
        bind_unix(tmp_path / "s", 0o600)
    assert caught.value.subject == str(tmp_path / "s")
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(tmp_path / "s"))
    first.release()


def test_a_dead_socket_is_replaced(tmp_path: Path) -> None:
    """What a killed daemon left behind is in nobody's way."""
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(tmp_path / "s"))
    bound = bind_unix(tmp_path / "s", 0o600)
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(tmp_path / "s"))
    bound.release()
    assert not (tmp_path / "s").exists()


def test_other_files_are_never_removed(tmp_path: Path) -> None:
    """A file that is no socket is a conflict and stays as it is."""
    (tmp_path / "s").write_text("precious")
    with pytest.raises(Conflict, match="not a socket"):
        bind_unix(tmp_path / "s", 0o600)
    assert (tmp_path / "s").read_text() == "precious"


def test_only_the_own_file_is_removed(tmp_path: Path) -> None:
    """When another daemon has taken the path meanwhile, its socket stays."""
    first = bind_unix(tmp_path / "s", 0o600)
    (tmp_path / "s").rename(tmp_path / "old")
    second = bind_unix(tmp_path / "s", 0o600)
    first.release()
    assert (tmp_path / "s").exists()
    second.release()
    assert not (tmp_path / "s").exists()


@pytest.mark.parametrize(("mode", "directory"), [(0o660, 0o750), (0o666, 0o755)])
def test_the_directory_is_made(tmp_path: Path, mode: int, directory: int) -> None:
    """The directory lets in whom the socket lets in."""
    before = os.umask(0)
    try:
        bind_unix(tmp_path / "new" / "s", mode).release()
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == directory


def test_a_path_that_is_too_long_says_so(tmp_path: Path) -> None:
    """The error has the limit and the length, since the kernel's own says neither."""
    with pytest.raises(InvalidInput, match=r"a Unix socket's may have 107"):
        bind_unix(tmp_path / ("x" * 108), 0o600)


def test_a_directory_whose_lock_is_held_is_not_waited_for_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever may read the directory may lock it, so the wait is bounded and says what is wrong."""
    monkeypatch.setattr("platformd.api.server.sockets._try_lock", lambda _: False)
    monkeypatch.setattr("platformd.api.server.sockets.time.sleep", lambda _: None)
    ticks = iter(range(1000))
    monkeypatch.setattr("platformd.api.server.sockets.time.monotonic", lambda: float(next(ticks)))
    with pytest.raises(Unavailable, match="lock"):
        bind_unix(tmp_path / "s", 0o600)


@pytest.mark.parametrize(
    ("listen", "address"),
    [("127.0.0.1:80", ("127.0.0.1", 80)), ("localhost:0", ("127.0.0.1", 0)), ("[::1]:7070", ("::1", 7070))],
)
def test_loopback_addresses(listen: str, address: tuple[str, int]) -> None:
    """The forms that are taken."""
    assert tcp_address(listen) == address


@pytest.mark.parametrize(
    "listen",
    ["0.0.0.0:80", "192.168.1.1:80", "[::]:80", "example.org:80", "80", ":80", "127.0.0.1:", "127.0.0.1:65536"],
)
def test_other_addresses_are_refused(listen: str) -> None:
    """Without tokens and TLS nothing is served to other machines."""
    with pytest.raises(InvalidInput):
        tcp_address(listen)


def test_a_port_in_use_is_a_conflict(tmp_path: Path) -> None:
    """The error names the address, and the Unix socket that was bound before is given back."""
    taken = bind_tcp(HttpSettings(listen="127.0.0.1:0"))
    listen = taken.address.removeprefix("http://")
    with pytest.raises(Conflict) as caught:
        open_sockets(make_settings(tmp_path, listen=listen))
    assert caught.value.subject == listen
    assert not (tmp_path / "s.sock").exists()
    taken.release()


def test_an_address_is_shown_as_people_write_it() -> None:
    """IPv6 addresses have brackets."""
    try:
        bound: BoundSocket = bind_tcp(HttpSettings(listen="[::1]:0"))
    except Unavailable:
        pytest.skip("this machine has no IPv6 loopback")
    assert bound.address.startswith("http://[::1]:")
    bound.release()
