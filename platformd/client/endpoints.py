"""Where a queue socket is and what is needed to get there; and, when nobody gets there, why not.

nng connects again and again without a word, whatever the reason. So while a connection does not come about, this
module goes the same way once, with the standard library: what it finds wrong that waiting cannot mend (a certificate,
a name, a plain port where TLS was meant, another socket than was meant) is an error at once.
"""

from __future__ import annotations

import errno
import socket
import ssl
from pathlib import Path
from typing import Final

import msgspec
import pynng

from platformd.core.errors import InvalidInput, PlatformError, Unauthorized
from platformd.core.tls import client_context

TLS_SCHEME: Final = "tls+tcp"
SCHEMES: Final = ("ipc", "tcp", TLS_SCHEME, "inproc", "abstract")

HELLO: Final = 8
"""Bytes of the handshake of SP: 0, ``SP``, 0, the protocol as u16, big-endian, and 0, 0."""
PROTOCOLS: Final = {0x31: "ingest or fetch", 0x51: "push", 0x20: "live"}
"""What each of the daemon's sockets says that it is."""

_HINT = "write ipc:///path/of/a.sock, tcp://HOST:PORT or tls+tcp://HOST:PORT"


class ClientTls(msgspec.Struct, frozen=True, kw_only=True):
    """What a client needs for a ``tls+tcp`` address. The files are read for each connection."""

    ca_file: str = ""
    """PEM file of the authority that signed the daemon's certificate. Empty: the system's authorities."""
    cert_file: str = ""
    """PEM file of our certificate, with its chain, where the daemon asks for one."""
    key_file: str = ""
    """PEM file of the key of ``cert_file``. Empty: it is in ``cert_file``."""
    server_name: str = ""
    """What the daemon's certificate is for. Empty: the address's host."""


class Endpoint(msgspec.Struct, frozen=True, kw_only=True):
    """A socket's address, and how to get there."""

    address: str
    tls: ClientTls = ClientTls()

    @property
    def scheme(self) -> str:
        """Before the colon: ``ipc``, ``tcp``, ``tls+tcp``."""
        return self.address.partition("://")[0]

    @property
    def host_and_port(self) -> tuple[str, int]:
        """Of a TCP address, without the brackets of IPv6."""
        host, _, port = self.address.partition("://")[2].rpartition(":")
        return host.removeprefix("[").removesuffix("]"), int(port)

    @property
    def server_name(self) -> str:
        """What the daemon's certificate has to be for."""
        return self.tls.server_name or self.host_and_port[0]

    def context(self) -> ssl.SSLContext:
        """What our side of TLS is, for the standard library. Reads the files.

        Raises:
            InvalidInput: a file cannot be used.
        """
        return client_context(self.tls.ca_file, self.tls.cert_file, self.tls.key_file)

    def tls_config(self) -> pynng.TLSConfig | None:
        """What our side of TLS is, for nng; ``None`` for an address without TLS. Reads the files.

        Raises:
            InvalidInput: a file cannot be used.
        """
        if self.scheme != TLS_SCHEME:
            return None
        self.context()  # says better what is wrong with a file
        own_file, key_file = self.tls.cert_file, self.tls.key_file or self.tls.cert_file
        authorities = self.tls.ca_file or ssl.get_default_verify_paths().cafile
        if not authorities:
            raise InvalidInput(
                "this system has no file of authorities", subject=self.address, hint="name one as ca_file"
            )
        name = authorities
        try:
            config = pynng.TLSConfig(
                pynng.TLSConfig.MODE_CLIENT, server_name=self.server_name, ca_string=_text(authorities)
            )
            if own_file:
                name = own_file
                config.set_own_cert(_text(own_file), _text(key_file))
        except pynng.NNGException as error:
            raise InvalidInput(f"cannot be used for TLS: {error}", subject=name) from error
        return config


def endpoint(address: str, tls: ClientTls | None = None) -> Endpoint:
    """The endpoint at ``address``, checked.

    Raises:
        InvalidInput: it has no scheme that nng knows, or is no TCP address; files of ``tls`` cannot be used, or are
            given for an address without TLS.
    """
    scheme, separator, place = address.partition("://")
    if scheme not in SCHEMES or not separator or not place:
        raise InvalidInput("is not an address", subject=address, hint=_HINT)
    found = Endpoint(address=address, tls=tls or ClientTls())
    if scheme in ("tcp", TLS_SCHEME):
        host, colon, port = place.rpartition(":")
        if not colon or not host or not port.isascii() or not port.isdecimal() or not 0 < int(port) < 65536:
            raise InvalidInput("is not an address", subject=address, hint=_HINT)
    if scheme != TLS_SCHEME and found.tls != ClientTls():
        raise InvalidInput(
            "files for TLS were given, and the address is without TLS", subject=address, hint=f"write {TLS_SCHEME}://"
        )
    found.tls_config()
    return found


def diagnose(where: Endpoint, protocol: int, ours: int, timeout: float) -> str:
    """Connect to ``where`` as nng does, say hello, and hang up. Blocks, at most ``timeout`` seconds for each step.

    Args:
        where: the socket.
        protocol: what has to be there, as ``PROTOCOLS`` numbers it.
        ours: what we say that we are.
        timeout: seconds.

    Returns:
        Why there was no connection, when it is something that may pass; ``""`` when all went well.

    Raises:
        InvalidInput: something else is there, or it is not the certificate that we ask for.
        Unauthorized: the daemon does not want us.
    """
    if where.scheme not in ("tcp", TLS_SCHEME):
        return ""
    hello = b"\0SP\0" + ours.to_bytes(2, "big") + b"\0\0"
    try:
        plain = socket.create_connection(where.host_and_port, timeout)
    except OSError as error:
        return _unreachable(error)
    with plain:
        try:
            if where.scheme == TLS_SCHEME:
                heard = _say_sealed(where, plain, hello)
            else:
                plain.sendall(hello)
                heard = _hear(plain)
        except TimeoutError:
            return "it does not answer"
        except ssl.SSLError as error:
            if isinstance(error, ssl.SSLEOFError) and where.tls.cert_file:
                return "it hangs up in the handshake"  # the next attempt may hear why
            raise _tls_error(where, error) from error
        except OSError as error:
            return _unreachable(error)
    return _judge(where, protocol, heard)


def _say_sealed(where: Endpoint, plain: socket.socket, hello: bytes) -> bytes:
    context = where.context()
    # nng's library says why it refuses a certificate only in words that OpenSSL understands in this version.
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    with context.wrap_socket(plain, server_hostname=where.server_name) as sealed:
        sealed.sendall(hello)
        return _hear(sealed)


def _hear(connection: socket.socket) -> bytes:
    heard = b""
    while len(heard) < HELLO and (more := connection.recv(HELLO - len(heard))):
        heard += more
    return heard


def _judge(where: Endpoint, protocol: int, heard: bytes) -> str:
    if len(heard) == HELLO and heard.startswith(b"\0SP\0"):
        found = int.from_bytes(heard[4:6], "big")
        if found == protocol:
            return ""
        what = PROTOCOLS.get(found, f"another one ({found:#x})")
        raise InvalidInput(
            f"the socket there is {what}, not {PROTOCOLS[protocol]}",
            subject=where.address,
            hint="`platformd status` shows the addresses of all sockets",
        )
    if where.scheme == "tcp" and _speaks_tls(where):
        raise InvalidInput(
            "TLS is spoken there, and the address is without",
            subject=where.address,
            hint=f"write {TLS_SCHEME}://{where.address.partition('://')[2]} and name its authority as ca_file",
        )
    return "what answers there hangs up"


def _speaks_tls(where: Endpoint) -> bool:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE  # only to tell what it is; nothing is sent
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    try:
        with (
            socket.create_connection(where.host_and_port, 1.0) as plain,
            context.wrap_socket(plain, server_hostname=None),
        ):
            return True
    except ssl.SSLError as error:  # who wants a certificate has spoken TLS, too
        return "ALERT" in (error.reason or "") or isinstance(error, ssl.SSLEOFError)
    except OSError:
        return False


_OURS_REFUSED: Final = {
    "CERTIFICATE_EXPIRED": "our certificate has expired",
    "UNKNOWN_CA": "the daemon does not know the authority that signed our certificate",
    "CERTIFICATE_REVOKED": "our certificate is revoked",
    "BAD_CERTIFICATE": "the daemon refuses our certificate",
    "CERTIFICATE_REQUIRED": "the daemon asks for a certificate, and we have none",
}


def _tls_error(where: Endpoint, error: ssl.SSLError) -> PlatformError:
    if isinstance(error, ssl.SSLCertVerificationError):
        return _not_trusted(where, error)
    reason = error.reason or ""
    for alert, meaning in _OURS_REFUSED.items():
        if reason.endswith(alert):
            return Unauthorized(
                meaning, subject=where.address, hint="queues.client_ca_file there names who may sign it"
            )
    if not where.tls.cert_file and (isinstance(error, ssl.SSLEOFError) or reason.endswith("HANDSHAKE_FAILURE")):
        return Unauthorized(
            "the daemon asks for a certificate, and we have none",
            subject=where.address,
            hint="name one as cert_file, which an authority of queues.client_ca_file there has signed",
        )
    if reason in ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE"):
        return InvalidInput(
            "what is spoken there is not TLS",
            subject=where.address,
            hint=f"is it the port of a tcp:// address? Then write tcp://{where.address.partition('://')[2]}",
        )
    return Unauthorized(f"no TLS came about: {reason or error}", subject=where.address)


def _not_trusted(where: Endpoint, error: ssl.SSLCertVerificationError) -> PlatformError:
    said = error.verify_message or str(error)
    hint = f"name as ca_file the authority that signed it, instead of {where.tls.ca_file or 'the system authorities'}"
    if "mismatch" in said:
        hint = "name as server_name what the certificate is for, if you know that it is the right daemon"
    elif "expired" in said or "not yet valid" in said:
        hint = "renew it there (queues.cert_file), or look at this machine's clock"
    return InvalidInput(f"the daemon's certificate is not good: {said}", subject=where.address, hint=hint)


def _unreachable(error: OSError) -> str:
    if isinstance(error, ConnectionRefusedError):
        return "nobody listens there"
    if isinstance(error, socket.gaierror):
        return f"its name is not known ({error.strerror})"
    if isinstance(error, TimeoutError) or error.errno == errno.EAGAIN:
        return "it does not answer"
    return error.strerror or str(error)


def _text(path: str) -> str:
    return Path(path).read_text(encoding="utf-8", errors="replace")  # bundles have comments in any encoding
