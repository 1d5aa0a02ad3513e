"""From an address to a connection that a NATS server has greeted and admitted."""

from __future__ import annotations

import os
import ssl
from typing import NamedTuple
from urllib.parse import urlsplit

import msgspec
import trio

from platformd import __version__
from platformd.core.errors import FieldError, InvalidInput, Unauthorized, Unsupported
from platformd.core.settings_engines import NatsSettings
from platformd.core.tls import client_context
from platformd.queues.jetstream import wire
from platformd.queues.jetstream.login import credentials

DEFAULT_PORT = 4222
OLDEST = (2, 10)
"""The first server version whose streams and consumers carry metadata."""
_RECEIVE = 64 * 1024


class Server(NamedTuple):
    """Where a server listens."""

    host: str
    port: int
    tls: bool

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'tls' if self.tls else 'nats'}://{host}:{self.port}"


class Refused(Exception):
    """A server could not be reached, or did not admit us for now; the text says why."""


class Info(msgspec.Struct, frozen=True, kw_only=True):
    """What a server says of itself: the members of INFO that we use."""

    version: str = ""
    server_name: str = ""
    max_payload: int = 1 << 20
    nonce: str = ""
    headers: bool = False
    jetstream: bool = False
    tls_required: bool = False
    tls_available: bool = False

    @property
    def release(self) -> tuple[int, int]:
        """Major and minor version; zeros when it is not known."""
        major, _, rest = self.version.partition(".")
        minor = rest.partition(".")[0]
        return (int(major), int(minor)) if major.isdigit() and minor.isdigit() else (0, 0)


class Admitted(NamedTuple):
    """A connection that can be used."""

    stream: trio.abc.Stream
    info: Info
    reader: wire.Reader
    early: tuple[wire.Msg | wire.Line, ...]
    """What came behind the greeting."""


decode_info = msgspec.json.Decoder(Info).decode


def parse_servers(settings: NatsSettings) -> tuple[Server, ...]:
    """The servers' addresses.

    Raises:
        InvalidInput: one is not a NATS URL, there is none, or settings do not go together.
    """
    errors: list[FieldError] = []
    found: list[Server] = []
    for index, text in enumerate(settings.servers):
        place = f"servers[{index}]"
        try:
            parts = urlsplit(text if "//" in text else f"nats://{text}")
            port = parts.port or DEFAULT_PORT
        except ValueError as error:
            errors.append(FieldError(path=place, message=f"{text!r} is not a URL: {error}"))
            continue
        if parts.scheme not in {"nats", "tls"} or not parts.hostname or parts.path.strip("/"):
            errors.append(FieldError(path=place, message=f"{text!r} is not a server", hint="write nats://HOST:PORT"))
        elif parts.username is not None:
            hint = "set user and password_file, or token_file"
            errors.append(FieldError(path=place, message="has a user in it", hint=hint))
        else:
            found.append(Server(parts.hostname, port, parts.scheme == "tls"))
    if not settings.servers:
        errors.append(FieldError(path="servers", message="is empty", hint="name at least one server"))
    if bool(settings.cert_file) != bool(settings.key_file):
        errors.append(FieldError(path="cert_file", message="a certificate needs its key", hint="set key_file too"))
    ways = [n for n in ("user", "token_file", "nkey_file", "creds_file") if getattr(settings, n)]
    if len(ways) > 1:
        errors.append(FieldError(path=ways[1], message=f"cannot stand beside {ways[0]}", hint="log in one way"))
    if errors:
        raise InvalidInput("the settings are not valid", subject="nats", errors=tuple(errors))
    return tuple(found)


def tls_context(settings: NatsSettings) -> ssl.SSLContext:
    """What TLS connections are checked against. Reads files.

    Raises:
        InvalidInput: a file cannot be read, or is not what it should be.
    """
    return client_context(settings.ca_file, settings.cert_file, settings.key_file)


async def dial(server: Server, settings: NatsSettings, tls: ssl.SSLContext, max_message: int) -> Admitted:
    """A connection to ``server``, greeted and admitted.

    Raises:
        Refused: there is none to be had now.
        Unauthorized: the server does not admit us.
        Unsupported: it is too old, or has no JetStream.
        InvalidInput: a file of the settings cannot be used.
    """
    try:
        stream: trio.abc.Stream = await trio.open_tcp_stream(server.host, server.port)
    except OSError as error:
        raise Refused(_reason(error)) from error
    try:
        if settings.tls_first:
            stream = await _secure(stream, server, tls)
        reader = wire.Reader(max_message)
        info = await _greeting(stream, reader)
        if not settings.tls_first and (server.tls or info.tls_required):
            stream = await _secure(stream, server, tls)
        _check(info, server)
        early = await _introduce(stream, reader, settings, info, server)
    except (trio.BrokenResourceError, trio.ClosedResourceError, wire.ProtocolError) as error:
        await trio.aclose_forcefully(stream)
        raise Refused(str(error) or "the connection was lost") from error
    except BaseException:
        await trio.aclose_forcefully(stream)
        raise
    return Admitted(stream, info, reader, early)


async def _greeting(stream: trio.abc.Stream, reader: wire.Reader) -> Info:
    while True:
        data = await stream.receive_some(_RECEIVE)
        if not data:
            raise Refused("the server closed the connection without a greeting")
        for event in reader.feed(data):
            if isinstance(event, wire.Line) and event.word == b"INFO":
                try:
                    return decode_info(event.rest)
                except msgspec.MsgspecError as error:
                    raise Refused(f"the greeting cannot be read: {error}") from error
            raise Refused("what answers is not a NATS server")


def _check(info: Info, server: Server) -> None:
    if info.release < OLDEST:
        raise Unsupported(
            f"{server} is nats-server {info.version or 'of an unknown version'}; 2.10 or newer is needed",
            subject="nats",
            hint="update the server",
        )
    if not info.headers or not info.jetstream:
        raise Unsupported(
            f"{server} has no JetStream", subject="nats", hint="start it with -js, or with jetstream {} in its settings"
        )


async def _introduce(
    stream: trio.abc.Stream, reader: wire.Reader, settings: NatsSettings, info: Info, server: Server
) -> tuple[wire.Msg | wire.Line, ...]:
    """Say who we are, and wait for the PONG that says that we may stay."""
    connect = {
        "verbose": False,
        "pedantic": False,
        "lang": "python",
        "version": __version__,
        "name": f"platformd {settings.prefix}".strip(),
        "protocol": 1,
        "headers": True,
        "no_responders": True,
        "tls_required": server.tls,
        **await trio.to_thread.run_sync(credentials, settings, info.nonce),
    }
    await stream.send_all(b"CONNECT " + msgspec.json.encode(connect) + b"\r\nPING\r\n")
    early: list[wire.Msg | wire.Line] = []
    while True:
        data = await stream.receive_some(_RECEIVE)
        if not data:
            raise Refused("the server closed the connection at the login")
        for event in reader.feed(data):
            if isinstance(event, wire.Line) and event.word == b"-ERR":
                text = event.rest.decode(errors="replace").strip("' ")
                if "Authorization" in text or "Authentication" in text:
                    raise Unauthorized(
                        f"{server} does not admit us: {text}",
                        subject="nats",
                        hint="set user and password_file, token_file, nkey_file or creds_file to an account of it",
                    )
                raise Refused(text)
            early.append(event)
        if any(isinstance(event, wire.Line) and event.word == b"PONG" for event in early):
            return tuple(event for event in early if not (isinstance(event, wire.Line) and event.word == b"PONG"))


async def _secure(stream: trio.abc.Stream, server: Server, tls: ssl.SSLContext) -> trio.abc.Stream:
    secured = trio.SSLStream(stream, tls, server_hostname=server.host, https_compatible=True)
    try:
        await secured.do_handshake()
    except trio.BrokenResourceError as error:
        cause = error.__cause__ or error
        raise Refused(
            "TLS: " + (getattr(cause, "verify_message", None) or getattr(cause, "reason", None) or str(cause))
        ) from error
    return secured


def _reason(error: OSError) -> str:
    """The innermost reason: trio tells of all addresses that it tried, in a group."""
    cause: BaseException | None = error.__cause__
    while isinstance(cause, BaseExceptionGroup):
        cause = cause.exceptions[0]
    found = cause if isinstance(cause, OSError) else error
    return os.strerror(found.errno) if found.errno and found.errno > 0 else found.strerror or str(found)
