"""One blocking socket to the control API, with the HTTP that is spoken on it."""

from __future__ import annotations

import select
import socket
import struct
import time
from typing import Final

from platformd.client.http import HINT_NOT_RUNNING, Collector, HttpConnection, Request, Response, Target
from platformd.core.errors import DeadlineExceeded, Forbidden, InvalidInput, PlatformError, Unavailable

CONNECT_TIMEOUT: Final = 5.0
"""Seconds that a connection may take to be accepted."""
RECEIVE_BYTES: Final = 64 << 10
"""The most bytes that are read at once."""


class Link:
    """One connected socket with its protocol."""

    def __init__(self, target: Target, timeout: float) -> None:
        self.http = HttpConnection(target)
        self._timeout = timeout
        self._socket = _sealed(target, connect(target)) if target.tls else connect(target)
        self._socket.settimeout(timeout)

    def wait_until(self, until: float, at_most: float) -> None:
        """From now on a wait ends at ``until`` (monotonic time), and after ``at_most`` seconds.

        Raises:
            DeadlineExceeded: it is later already.
        """
        left = until - time.monotonic()
        if left <= 0:
            raise DeadlineExceeded("the time is over", subject=str(self.http.target))
        self.wait_at_most(min(at_most, left))

    def wait_at_most(self, timeout: float) -> None:
        """From now on a wait ends after so many seconds."""
        self._timeout = timeout
        self._socket.settimeout(timeout)

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()

    def stale(self) -> bool:
        """Whether the server has closed the connection, or sent something that nobody asked for."""
        poll = select.poll()
        poll.register(self._socket, select.POLLIN)
        if not poll.poll(0):
            return False
        if self.http.target.tls:
            import ssl

            # TLS says things of its own, such as tickets for the next session; reading takes them out of the way.
            self._socket.settimeout(0)
            try:
                self._socket.recv(1)
            except ssl.SSLWantReadError:
                self._socket.settimeout(self._timeout)
                return False
            except OSError:
                return True
        return True

    def exchange(self, request: Request, *, give_up_early: bool = False) -> Response | None:
        """Send ``request`` and read its answer.

        ``None`` when the connection ended before the first byte of the answer, if ``give_up_early``; without
        it that is an error.
        """
        self.send(request)
        collector = Collector()
        while True:
            data = self.receive()
            if not data and give_up_early and not self.http.answered:
                return None
            for part in self.http.receive(data):
                response = collector.add(part)
                if response is not None:
                    return response

    def send(self, request: Request) -> None:
        """Send ``request``. That the peer has closed shows when its answer is read.

        Raises:
            DeadlineExceeded | OutcomeUnknown: it took nothing for the whole timeout.
        """
        data = self.http.send(request)
        try:
            self._socket.sendall(data)
        except TimeoutError as error:
            raise self._too_slow() from error
        except OSError:
            # The server closed before it had read everything. It may have said why (413 for a body that is
            # too large), so reading comes next; if there is nothing to read, that is the error.
            return

    def receive(self) -> bytes:
        """What has come; ``b""`` when the connection has ended, in whatever way."""
        try:
            return self._socket.recv(RECEIVE_BYTES)
        except TimeoutError as error:
            raise self._too_slow() from error
        except OSError:
            return b""

    def _too_slow(self) -> PlatformError:
        lost = self.http.lost(f"nothing came for {self._timeout:g}s")
        if not isinstance(lost, Unavailable):
            return lost
        return DeadlineExceeded(f"the daemon was silent for {self._timeout:g}s", subject=str(self.http.target))


def connect(target: Target) -> socket.socket:
    """A socket that is connected to ``target``.

    Raises:
        Unavailable: nobody answers there.
        Forbidden: this user may not open it.
    """
    try:
        if target.unix is None:
            return socket.create_connection((target.host, target.port), CONNECT_TIMEOUT)
        return _connect_unix(target.unix)
    except PermissionError as error:
        raise Forbidden(
            "you may not open this socket", subject=str(target), hint="its group may: join it, or use sudo"
        ) from error
    except TimeoutError as error:
        message = f"no connection was accepted within {CONNECT_TIMEOUT:g}s"
        raise Unavailable(message, subject=str(target), hint=HINT_NOT_RUNNING) from error
    except FileNotFoundError as error:
        raise Unavailable("there is no such socket", subject=str(target), hint=HINT_NOT_RUNNING) from error
    except ConnectionRefusedError as error:
        raise Unavailable("nothing is listening here", subject=str(target), hint=HINT_NOT_RUNNING) from error
    except OSError as error:
        raise Unavailable(
            f"cannot be connected to: {error.strerror or error}", subject=str(target), hint=HINT_NOT_RUNNING
        ) from error


def _sealed(target: Target, plain: socket.socket) -> socket.socket:
    """``plain`` with TLS on it."""
    import ssl  # slow to load, and most daemons are on a Unix socket

    from platformd.client.sealing import context_for, refused

    try:
        return context_for(target).wrap_socket(plain, server_hostname=target.host)
    except ssl.SSLError as error:
        plain.close()
        raise refused(target, error) from error
    except TimeoutError as error:
        plain.close()
        message = f"no TLS came about within {CONNECT_TIMEOUT:g}s"
        raise Unavailable(message, subject=str(target), hint=HINT_NOT_RUNNING) from error
    except OSError as error:
        plain.close()
        raise Unavailable(
            f"it hung up before TLS came about: {error.strerror or error}", subject=str(target), hint=HINT_NOT_RUNNING
        ) from error
    except BaseException:
        plain.close()
        raise


def _connect_unix(path: str) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    # The kernel answers a full backlog of a Unix socket with EAGAIN at once when the socket has a timeout,
    # and by waiting when it has none; a send timeout makes it wait that long.
    patience = struct.pack("@ll", int(CONNECT_TIMEOUT), int(CONNECT_TIMEOUT % 1 * 1e6))
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, patience)
    try:
        sock.connect(path)
    except BlockingIOError as error:
        sock.close()
        raise TimeoutError from error
    except OSError as error:
        sock.close()
        if "too long" in str(error):
            raise InvalidInput("is too long for a Unix socket (107 bytes)", subject=path) from error
        raise
    return sock
