"""The addresses of the broker's two sockets, and making sure that they are free."""

from __future__ import annotations

import os
import socket
import stat
from pathlib import Path

from platformd.core.errors import Conflict, InvalidInput

MAX_SOCKET_PATH = 107
"""Bytes of a Unix socket's path: ``sockaddr_un.sun_path`` without its end."""
SOCKET_MODE = 0o660
"""Who may connect: the daemon's user and group."""
DIRECTORY_MODE = 0o750


def socket_paths(directory: Path) -> dict[str, Path]:
    """The socket for each role, in ``directory``.

    Raises:
        InvalidInput: a path is longer than a Unix socket's may be.
    """
    paths = {role: directory / f"{role}.sock" for role in ("ingest", "fetch")}
    for path in paths.values():
        length = len(os.fsencode(path))
        if length > MAX_SOCKET_PATH:
            raise InvalidInput(
                f"the path has {length} bytes; the limit for a Unix socket is {MAX_SOCKET_PATH}",
                subject=str(path),
                hint="choose a shorter daemon.socket (or --socket)",
            )
    return paths


def prepare(paths: dict[str, Path]) -> None:
    """Make the folder and remove sockets that nobody listens on any more.

    Raises:
        Conflict: somebody listens there, or there is something else than a socket.
    """
    for path in paths.values():
        path.parent.mkdir(mode=DIRECTORY_MODE, parents=True, exist_ok=True)
        try:
            mode = path.lstat().st_mode
        except FileNotFoundError:
            continue
        if not stat.S_ISSOCK(mode):
            raise Conflict("is in the place of a socket", subject=str(path), hint="move it away")
        if _answers(path):
            raise Conflict("another process listens there", subject=str(path), hint="is a daemon running already?")
        path.unlink()


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as probe:
        try:
            probe.connect(str(path))
        except BlockingIOError:  # its queue of connections is full: it is alive
            return True
        except OSError:
            return False
        return True


def share(paths: dict[str, Path]) -> None:
    """Let the daemon's group connect to the sockets, which are there now."""
    for path in paths.values():
        path.chmod(SOCKET_MODE)
