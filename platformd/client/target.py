"""Where the control API answers, and with what one comes there. Knows nothing of HTTP, so that it is quick to load."""

from __future__ import annotations

import ipaddress
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from platformd.core.errors import InvalidInput
from platformd.core.settings import socket_for

MAX_TOKEN_BYTES: Final = 4096
"""The largest file that is taken for one with a token."""


@dataclass(frozen=True, kw_only=True)
class Credentials:
    """Who comes, and whom they trust. What is secret is never shown."""

    token: str = field(default="", repr=False)
    """The token itself; rather use ``token_file``."""
    token_file: str = ""
    """The file with the token. Read for each connection, so that a new token counts at once."""
    ca_file: str = ""
    """PEM file of the authority that signed the server's certificate. Empty: the system's authorities."""
    cert_file: str = ""
    """PEM file of our certificate, where the server asks for one."""
    key_file: str = ""
    """PEM file of its key. Empty: it is in ``cert_file``."""

    def read_token(self) -> str:
        """The token; empty when there is none.

        Raises:
            InvalidInput: its file cannot be read, others may read it, or it holds no token.
        """
        if self.token or not self.token_file:
            return _checked(self.token, "PLATFORMD_TOKEN") if self.token else ""
        path = Path(self.token_file).expanduser()
        try:
            with path.open("rb") as file:
                mode = os.fstat(file.fileno()).st_mode
                data = file.read(MAX_TOKEN_BYTES + 1)
        except OSError as error:
            raise InvalidInput(f"cannot be read: {error.strerror}", subject=str(path)) from error
        if stat.S_ISREG(mode) and mode & 0o077:
            hint = f"chmod 600 {path}"
            raise InvalidInput("others may read this file, and it holds a secret", subject=str(path), hint=hint)
        return _checked(data.decode("latin-1").strip(), str(path))


def _checked(token: str, origin: str) -> str:
    if not token or len(token) > MAX_TOKEN_BYTES or not (token.isascii() and token.isprintable()) or " " in token:
        raise InvalidInput("is not a token: one word of ASCII", subject=origin)
    return token


@dataclass(frozen=True)
class Target:
    """Where the control API answers: a Unix socket, or a host and port over HTTP, with TLS or without."""

    unix: str | None = None
    """Path of the Unix socket; ``None`` for TCP."""
    host: str = "localhost"
    port: int = 0
    tls: bool = False
    """Whether it is ``https``."""
    credentials: Credentials = field(default=Credentials(), repr=False)

    @classmethod
    def parse(cls, url: str, credentials: Credentials | None = None) -> Target:
        """The target that ``https://HOST[:PORT]``, ``http://HOST:PORT`` or ``unix:///PATH`` names.

        Raises:
            InvalidInput: it is none of them, or a token would be sent for everybody to read.
        """
        hint = "write https://HOST:PORT, http://HOST:PORT or unix:///PATH"
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError as error:
            raise InvalidInput(f"is not a URL: {error}", subject=url, hint=hint) from error
        own = credentials or Credentials()
        if parts.scheme == "unix" and parts.path and not parts.netloc:
            return cls(unix=parts.path, credentials=own)
        if parts.username is not None or parts.password is not None:
            shown = url.replace(parts.netloc, f"…@{parts.netloc.rpartition('@')[2]}")
            raise InvalidInput("has a user in it", subject=shown, hint="use a token file")
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.path not in ("", "/") or parts.query:
            raise InvalidInput("is not a URL of the control API", subject=url, hint=hint)
        tls = parts.scheme == "https"
        found = cls(host=parts.hostname, port=(443 if tls else 80) if port is None else port, tls=tls, credentials=own)
        if not tls and (own.token or own.token_file) and not _is_loopback(found.host):
            raise InvalidInput("a token would be sent there for everybody to read", subject=url, hint="use https://")
        return found

    @property
    def authority(self) -> str:
        """The ``Host`` header."""
        if self.unix is not None:
            return "localhost"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"

    def __str__(self) -> str:
        """As a person would name it: the socket's path, or the URL."""
        return self.unix if self.unix is not None else f"http{'s' if self.tls else ''}://{self.authority}"


def credentials_of(environ: Mapping[str, str]) -> Credentials:
    """What the environment says: ``PLATFORMD_TOKEN`` or ``_TOKEN_FILE``, ``_CA_FILE``, ``_CERT_FILE`` and so on."""
    return Credentials(
        token=environ.get("PLATFORMD_TOKEN", ""),
        token_file=environ.get("PLATFORMD_TOKEN_FILE", ""),
        ca_file=environ.get("PLATFORMD_CA_FILE", ""),
        cert_file=environ.get("PLATFORMD_CERT_FILE", ""),
        key_file=environ.get("PLATFORMD_KEY_FILE", ""),
    )


def default_target(environ: Mapping[str, str], credentials: Credentials | None = None) -> Target:
    """The target when nothing else names one, and with what one comes there.

    ``PLATFORMD_URL``, then ``PLATFORMD_SOCKET``, then the socket in ``PLATFORMD_STATE_DIR``, then the
    socket of the default state directory.

    Raises:
        InvalidInput: ``PLATFORMD_URL`` is not a URL of the control API.
    """
    own = credentials if credentials is not None else credentials_of(environ)
    if environ.get("PLATFORMD_URL"):
        return Target.parse(environ["PLATFORMD_URL"], own)
    socket = environ.get("PLATFORMD_SOCKET") or str(socket_for(environ.get("PLATFORMD_STATE_DIR", "")))
    return Target(unix=socket, credentials=own)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
