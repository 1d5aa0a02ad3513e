"""From an address to a socket with TLS done."""

from __future__ import annotations

import os
import ssl

import trio

from platformd.coordination.etcd.settings import Endpoint
from platformd.core.settings_engines import EtcdSettings
from platformd.core.tls import client_context

_H2 = "h2"


class Refused(Exception):
    """A member could not be reached; the text says why."""


def tls_context(settings: EtcdSettings) -> ssl.SSLContext:
    """What TLS connections are checked against. Reads files.

    Raises:
        InvalidInput: a file cannot be read, or is not what it should be.
    """
    context = client_context(settings.ca_file, settings.cert_file, settings.key_file)
    context.set_alpn_protocols([_H2])
    return context


async def dial(endpoint: Endpoint, tls: ssl.SSLContext | None) -> trio.abc.Stream:
    """A connection to a member.

    Raises:
        Refused: there is none to be had.
    """
    try:
        socket = await trio.open_tcp_stream(endpoint.host, endpoint.port)
    except OSError as error:
        raise Refused(_reason(error)) from error
    if tls is None:
        return socket
    secured = trio.SSLStream(socket, tls, server_hostname=endpoint.host, https_compatible=True)
    try:
        await secured.do_handshake()
        if secured.selected_alpn_protocol() != _H2:
            raise Refused("the member speaks TLS, but not HTTP/2")
    except trio.BrokenResourceError as error:
        await trio.aclose_forcefully(secured)
        cause = error.__cause__ or error
        raise Refused(getattr(cause, "verify_message", None) or getattr(cause, "reason", None) or str(cause)) from error
    except BaseException:
        await trio.aclose_forcefully(secured)
        raise
    return secured


def _reason(error: OSError) -> str:
    """The innermost reason: trio tells of all addresses that it tried, in a group."""
    cause: BaseException | None = error.__cause__
    while isinstance(cause, BaseExceptionGroup):
        cause = cause.exceptions[0]
    found = cause if isinstance(cause, OSError) else error
    return os.strerror(found.errno) if found.errno and found.errno > 0 else found.strerror or str(found)
