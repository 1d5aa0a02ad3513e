"""TLS under a connection: a socket that looks to ``Connection`` and ``WebSocket`` as a plain one does.

trio's own ``SSLStream`` cannot take back a write that was cancelled, and cannot end its side while the other still
sends. Both happen here: a WebSocket's write has a deadline and goes on after it, and a connection is closed politely.
So the TLS of the standard library, which does no input and output (``ssl.MemoryBIO``), stands between two buffers of
this file, and everything that waits only moves bytes that are already made.
"""

from __future__ import annotations

import contextlib
import logging
import os
import ssl
from pathlib import Path
from typing import Any, Final

import trio

from platformd.core.errors import InvalidInput
from platformd.core.settings import HttpSettings

log = logging.getLogger("platformd.api.server")

HANDSHAKE_SECONDS: Final = 10.0
"""How long a client may take for its handshake."""
RECORD_BYTES: Final = 16 * 1024
"""The most that goes into one TLS record, RFC 8446 §5.1."""
_RECEIVE_BYTES: Final = 64 * 1024

Names = tuple[tuple[str, str], ...]
"""The names in a certificate: ``("cn", "planner")``, ``("dns", "gw.example.org")``."""


class Certificates:
    """The server's side of TLS, from the files that the settings name.

    A file that has changed counts for the connections that come after; those that are open go on. While the new files
    cannot be used (a certificate is there before its key), what was good goes on to count, and the log says so.

    Args:
        settings: the section ``http``; ``cert_file`` is set.

    Raises:
        InvalidInput: a file cannot be used.
    """

    def __init__(self, settings: HttpSettings) -> None:
        self._settings = settings
        self._seen = self._look()
        self._context = self._load()

    def context(self) -> ssl.SSLContext:
        """What the next connection is opened with."""
        seen = self._look()
        if seen != self._seen:
            self._seen = seen
            try:
                self._context = self._load()
                log.info("the certificate was read anew from %s", self._settings.cert_file)
            except InvalidInput as error:
                log.error("the certificate that was good goes on to count: %s", error)
        return self._context

    def _look(self) -> tuple[tuple[int, int, int] | None, ...]:
        """What tells whether a file is still the one that was read."""
        found: list[tuple[int, int, int] | None] = []
        own = self._settings
        for name in (own.cert_file, own.key_file, own.client_ca_file):
            with contextlib.suppress(OSError):
                stat = os.stat(name) if name else None  # noqa: PTH116 - a Path would be made for each connection
                found.append((stat.st_mtime_ns, stat.st_ino, stat.st_size) if stat else None)
        return tuple(found)

    def _load(self) -> ssl.SSLContext:
        own = self._settings
        name = own.cert_file
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION
        context.set_alpn_protocols(["http/1.1"])
        try:
            context.load_cert_chain(own.cert_file, own.key_file or None, password=_no_password)
            if own.client_ca_file:
                name = own.client_ca_file
                context.load_verify_locations(cafile=str(Path(name)))
                context.verify_mode = ssl.CERT_OPTIONAL  # who shows none may show a token
        except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
            reason = getattr(error, "strerror", None) or str(error)
            raise InvalidInput(f"cannot be used for TLS: {reason}", subject=name, hint="see http.cert_file") from error
        return context


def _no_password() -> str:
    raise ValueError("its key has a password, which nobody can be asked for")


class TlsSocket:
    """A connected socket with TLS on it; the part of ``trio.socket.SocketType`` that is needed here.

    One task may send and one may receive at a time. ``send`` may be cancelled and called again with the same bytes.

    Args:
        sock: the socket; it belongs to this from now on.
        context: what to open TLS with.
    """

    def __init__(self, sock: trio.socket.SocketType, context: ssl.SSLContext) -> None:
        self._sock = sock
        self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._in, self._out, server_side=True)
        self._pending = b""
        """What is made and not sent yet."""
        self._owed = 0
        """Bytes of the last ``send`` that were taken although it was cancelled."""
        self._flushing = trio.Lock()
        self._ended = False
        """Our side has been ended; what comes is dropped."""
        self.family = sock.family

    @property
    def plain(self) -> trio.socket.SocketType:
        """The socket below."""
        return self._sock

    async def handshake(self) -> None:
        """Open TLS.

        Raises:
            OSError: it did not come about.
            trio.ClosedResourceError: it was closed meanwhile.
        """
        with trio.fail_after(HANDSHAKE_SECONDS):
            while True:
                try:
                    self._tls.do_handshake()
                except ssl.SSLWantReadError:
                    await self._flush()
                    await self._more()
                except ssl.SSLError:
                    with trio.move_on_after(1):
                        await self._flush()  # the alert, which tells the client what is wrong
                    raise
                else:
                    await self._flush()
                    return

    def names(self) -> Names:
        """The names in the certificate that the client has shown; empty when it has shown none."""
        found: dict[str, Any] = self._tls.getpeercert() or {}
        kinds = {"DNS": "dns", "URI": "uri", "email": "email"}
        names = [("cn", value) for parts in found.get("subject", ()) for key, value in parts if key == "commonName"]
        return tuple(names + [(kinds[kind], value) for kind, value in found.get("subjectAltName", ()) if kind in kinds])

    async def recv(self, size: int) -> bytes:
        """What has come; empty at the end.

        Raises:
            OSError: the connection is gone, or what comes is not TLS.
        """
        if self._ended:
            return await self._sock.recv(size)
        await trio.lowlevel.checkpoint()
        while True:
            try:
                return self._tls.read(size)
            except ssl.SSLWantReadError:
                if self._out.pending:  # else a peer that takes nothing would keep us from hearing it
                    await self._flush()
                await self._more()
            except (ssl.SSLZeroReturnError, ssl.SSLEOFError):
                return b""

    async def send(self, data: bytes | memoryview) -> int:
        """Send some of ``data``; how many bytes.

        Raises:
            OSError: the connection is gone.
        """
        if self._owed:
            await self._flush()
            taken, self._owed = self._owed, 0
            return taken
        await self._flush()
        taken = self._owed = self._tls.write(data[:RECORD_BYTES])
        await self._flush()
        self._owed = 0
        return taken

    def shutdown(self, how: int) -> None:
        """End our side; the other may go on to send."""
        if not self._ended:
            self._ended = True
            with contextlib.suppress(ssl.SSLError):
                self._tls.unwrap()  # only says so; the answer is not waited for
            with contextlib.suppress(BlockingIOError, OSError):
                data = self._pending + self._out.read()
                os.write(self._sock.fileno(), data)  # what does not fit is not worth waiting for
        self._sock.shutdown(how)

    def close(self) -> None:
        """Close it at once."""
        self._sock.close()

    async def _flush(self) -> None:
        async with self._flushing:
            while True:
                self._pending += self._out.read()
                if not self._pending:
                    return
                self._pending = self._pending[await self._sock.send(self._pending) :]

    async def _more(self) -> None:
        data = await self._sock.recv(_RECEIVE_BYTES)
        if data:
            self._in.write(data)
        else:
            self._in.write_eof()


class TlsStream:
    """The part of ``trio.SocketStream`` that ``Connection`` needs, over a ``TlsSocket``."""

    def __init__(self, socket: TlsSocket) -> None:
        self.socket = socket

    async def receive_some(self, max_bytes: int) -> bytes:
        """What has come; empty at the end.

        Raises:
            trio.BrokenResourceError: the connection is gone.
        """
        try:
            return await self.socket.recv(max_bytes)
        except OSError as error:
            raise trio.BrokenResourceError from error

    async def send_all(self, data: memoryview) -> None:
        """Send all of ``data``.

        Raises:
            trio.BrokenResourceError: the connection is gone.
        """
        try:
            while data:
                data = data[await self.socket.send(data) :]
        except OSError as error:
            raise trio.BrokenResourceError from error

    async def send_eof(self) -> None:
        """End our side."""
        await trio.lowlevel.checkpoint()
        self.socket.shutdown(trio.socket.SHUT_WR)
