"""The sockets that the control API listens on: bound so that nobody is robbed and nobody gets in early.

A Unix socket's file is its address and its access rule at once. Two things go wrong with the usual
"unlink, bind, chmod": a daemon that is still alive loses its address to a second one, and between bind
and chmod the file may be open to more users than its mode says. Here the directory is locked while its
socket is looked at and replaced, a socket that answers is never touched, and the mode is set before
``listen``: until then the kernel refuses every connection, whatever the mode.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import ipaddress
import logging
import os
import socket
import stat
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from platformd.core.errors import Conflict, InvalidInput, Unavailable
from platformd.core.settings import HttpSettings, Settings

log = logging.getLogger("platformd.api.server")

BACKLOG: Final = 512
"""Connections that may wait to be accepted; the kernel refuses those beyond it."""
MAX_UNIX_PATH_BYTES: Final = 107
"""The longest path of a Unix socket that Linux takes (``sun_path`` without its closing zero)."""
_PROBE_SECONDS: Final = 1.0
_LOCK_SECONDS: Final = 2.0
_OTHERS_MAY_CONNECT: Final = 0o002


@dataclass(frozen=True)
class BoundSocket:
    """A listening socket and how to give it back."""

    socket: socket.socket
    address: str
    """``unix:PATH`` or ``http://HOST:PORT``, as people write it."""
    path: Path | None = None
    """The socket's file; ``None`` for TCP."""
    inode: tuple[int, int] = (0, 0)
    """The file's device and inode, by which it is known as ours when it is removed."""

    def unlink(self) -> None:
        """Remove the file if it is still ours. Done before closing: while it answers, nobody replaces it.

        Never waits and never fails: a file that stays behind is known as dead by the next daemon.
        """
        if self.path is not None:
            with contextlib.suppress(OSError, Unavailable), _locked(self.path.parent, patience=0.0):
                found = self.path.stat(follow_symlinks=False)
                if (found.st_dev, found.st_ino) == self.inode:
                    self.path.unlink()

    def release(self) -> None:
        """Remove the file, then close the socket."""
        self.unlink()
        self.socket.close()


def open_sockets(settings: Settings) -> list[BoundSocket]:
    """Listen where ``settings`` say: the Unix socket, then the TCP address if there is one.

    May wait for a second or two when another process is at the same place; call it in a thread.

    Raises:
        Conflict: another process serves there, or something that is no socket is in the way.
        InvalidInput: an address cannot be used: too long, not loopback, not an address.
        Unavailable: the system refuses (permissions, no such interface).
    """
    bound = [bind_unix(settings.socket_path, _mode(settings.daemon.socket_mode))]
    try:
        if settings.http.listen:
            bound.append(bind_tcp(settings.http))
    except BaseException:
        bound[0].release()
        raise
    return bound


def open_store_socket(settings: Settings) -> BoundSocket:
    """Listen on the store's socket, beside the control socket and with its mode.

    Raises: as ``open_sockets``.
    """
    return bind_unix(settings.store_socket_path, _mode(settings.daemon.socket_mode))


def bind_unix(path: Path, mode: int) -> BoundSocket:
    """Listen on a Unix socket at ``path`` with permissions ``mode``.

    Raises: as ``open_sockets``.
    """
    if len(os.fsencode(path)) > MAX_UNIX_PATH_BYTES:
        raise InvalidInput(
            f"the path has {len(os.fsencode(path))} bytes; a Unix socket's may have {MAX_UNIX_PATH_BYTES}",
            subject=str(path),
            hint="set daemon.socket (--socket) to a shorter path",
        )
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        # A directory that others cannot enter would shut them out of a socket that is open to them.
        path.parent.mkdir(mode=0o755 if mode & _OTHERS_MAY_CONNECT else 0o750, parents=True, exist_ok=True)
        with _locked(path.parent):
            _clear(path)
            sock.bind(str(path))
            path.chmod(mode)
            sock.listen(BACKLOG)
            found = path.stat(follow_symlinks=False)
    except OSError as error:
        sock.close()
        raise Unavailable(f"cannot listen there: {error.strerror}", subject=str(path)) from error
    except BaseException:
        sock.close()
        raise
    sock.setblocking(False)
    return BoundSocket(sock, f"unix:{path}", path, (found.st_dev, found.st_ino))


def bind_tcp(settings: HttpSettings) -> BoundSocket:
    """Listen on ``http.listen`` (port 0: any free port).

    Raises: as ``open_sockets``.
    """
    listen, tls = settings.listen, bool(settings.cert_file)
    host, port = tcp_address(listen, anywhere=tls or settings.insecure)
    if not tls and not ipaddress.ip_address(host).is_loopback:
        log.warning("http.insecure: whoever is on the way to %s can read tokens and everything else", listen)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((host, port))
        sock.listen(BACKLOG)
    except OSError as error:
        sock.close()
        if error.errno == errno.EADDRINUSE:
            raise Conflict(
                "another process listens there", subject=listen, hint="choose another port in http.listen (--http)"
            ) from error
        raise Unavailable(f"cannot listen there: {error.strerror}", subject=listen) from error
    sock.setblocking(False)
    shown = f"[{host}]" if family is socket.AF_INET6 else host
    return BoundSocket(sock, f"http{'s' if tls else ''}://{shown}:{sock.getsockname()[1]}")


def tcp_address(listen: str, *, anywhere: bool = False) -> tuple[str, int]:
    """The IP address and port in ``HOST:PORT``.

    Args:
        listen: as it stands in the settings.
        anywhere: whether it may be another than a loopback address.

    Raises:
        InvalidInput: it is not of that form, or the host is not a loopback address and must be one.
    """
    host, colon, port = listen.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    host = "127.0.0.1" if host == "localhost" else host
    try:
        address, number = ipaddress.ip_address(host), int(port)
    except ValueError:
        address, number = None, -1
    if not colon or address is None or not 0 <= number <= 65535:
        raise InvalidInput("is not HOST:PORT", subject=listen, hint="write for example 127.0.0.1:7070 or [::1]:7070")
    if not anywhere and not address.is_loopback:
        raise InvalidInput(
            "is not a loopback address: without TLS, whoever is on the way could read tokens",
            subject=listen,
            hint="set http.cert_file, or listen on 127.0.0.1 and forward: ssh -L 7070:/path/to/platformd.sock HOST",
        )
    return str(address), number


def _clear(path: Path) -> None:
    """Make room for a socket at ``path``: remove one that nobody listens on any more.

    Raises:
        Conflict: somebody listens on it, or it is not a socket.
    """
    try:
        found = path.stat(follow_symlinks=False)
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(found.st_mode):
        raise Conflict("something that is not a socket is in the way", subject=str(path), hint="move it elsewhere")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(_PROBE_SECONDS)
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink()
            return
        except FileNotFoundError:
            return
        except OSError:
            pass  # it cannot be told to be dead: no right to connect, or its queue is full
    raise Conflict(
        "another process serves on this socket",
        subject=str(path),
        hint="stop that one (`platformd status` shows its pid) or set another daemon.socket (--socket)",
    )


def _mode(text: str) -> int:
    try:
        mode = int(text, 8)
    except ValueError:
        mode = -1
    if not 0 <= mode <= 0o777:
        raise InvalidInput(f"{text!r} is not a file mode", subject="daemon.socket_mode", hint="write octal: 0660")
    return mode


@contextlib.contextmanager
def _locked(directory: Path, *, patience: float = _LOCK_SECONDS) -> Iterator[None]:
    """Holds the lock of a directory: one process at a time looks at and changes the sockets in it.

    The wait is bounded, since in a directory that everybody can read everybody can take the lock.

    Raises:
        Unavailable: somebody else holds the lock all the while.
    """
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        deadline = time.monotonic() + patience
        while not _try_lock(descriptor):
            if time.monotonic() >= deadline:
                raise Unavailable("another process holds the lock of this directory", subject=str(directory))
            time.sleep(_LOCK_SECONDS / 100)
        yield
    finally:
        os.close(descriptor)


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
