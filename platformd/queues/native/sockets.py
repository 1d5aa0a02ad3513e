"""The addresses of the broker's sockets: which ones, whether they may be had, and making sure that they are free.

Each of the four sockets (``ingest`` and ``fetch`` for ``platformd.client``, ``push`` and ``live`` for plain nng
programs) has a Unix socket, which its file's permissions guard, and the TCP addresses that the settings name. Over
TCP nobody is known by name: without TLS it is loopback only, and elsewhere a client shows a certificate that the
authority in ``queues.client_ca_file`` has signed. Whoever may connect may do everything that the socket can.
"""

from __future__ import annotations

import ipaddress
import os
import socket
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import msgspec
import pynng

from platformd.core.errors import Conflict, InvalidInput
from platformd.core.settings import QueueSettings

ROLES: Final = ("ingest", "fetch", "push", "live")
"""The sockets, in the order of ``enum pd_socket``."""
MAX_SOCKET_PATH = 107
"""Bytes of a Unix socket's path: ``sockaddr_un.sun_path`` without its end."""
SOCKET_MODE = 0o660
"""Who may connect: the daemon's user and group."""
DIRECTORY_MODE = 0o750
HIGHEST_PORT = 65535


class Listen(msgspec.Struct, frozen=True, kw_only=True):
    """A TCP address to listen on."""

    role: str
    scheme: str
    """``tcp`` or ``tls+tcp``."""
    host: str
    """As in a URL: IPv6 in brackets."""
    port: int
    """0: any that is free."""

    @property
    def url(self) -> str:
        """For nng."""
        return f"{self.scheme}://{self.host}:{self.port}"

    @property
    def name(self) -> str:
        """Among ``Streams.addresses``: ``push-tcp``, ``push-tls``."""
        return f"{self.role}-{'tls' if self.scheme == 'tls+tcp' else 'tcp'}"


def socket_paths(directory: Path) -> dict[str, Path]:
    """The Unix socket for each role, in ``directory``.

    Raises:
        InvalidInput: a path is longer than a Unix socket's may be.
    """
    paths = {role: directory / f"{role}.sock" for role in ROLES}
    for path in paths.values():
        length = len(os.fsencode(path))
        if length > MAX_SOCKET_PATH:
            raise InvalidInput(
                f"the path has {length} bytes; the limit for a Unix socket is {MAX_SOCKET_PATH}",
                subject=str(path),
                hint="choose a shorter daemon.socket (or --socket)",
            )
    return paths


def tcp_listens(settings: QueueSettings) -> tuple[Listen, ...]:
    """The TCP addresses that the settings name.

    Raises:
        InvalidInput: one is not an address, or may not be listened on as the settings are.
    """
    return tuple(_tcp_listen(role, url, settings) for role in ROLES for url in getattr(settings, f"listen_{role}"))


def _tcp_listen(role: str, url: str, settings: QueueSettings) -> Listen:
    setting = f"queues.listen_{role}"
    scheme, _, place = url.partition("://")
    host, colon, port = place.rpartition(":")
    if scheme not in ("tcp", "tls+tcp") or not colon or not host or not port.isdecimal() or int(port) > HIGHEST_PORT:
        raise InvalidInput(
            f"{url!r} is not an address",
            subject=setting,
            hint="write tcp://127.0.0.1:7071 or tls+tcp://10.1.2.3:7071 (IPv6: tcp://[::1]:7071)",
        )
    host = "127.0.0.1" if host == "localhost" else host
    near = _is_loopback(host)
    if scheme == "tcp" and not near:
        raise InvalidInput(
            f"{url} is not a loopback address: without TLS, whoever can reach it could use the queues",
            subject=setting,
            hint=f"write tls+tcp://{place} and set queues.cert_file, queues.key_file and queues.client_ca_file",
        )
    if scheme == "tls+tcp" and not (settings.cert_file and settings.key_file):
        raise InvalidInput(
            f"{url} needs a certificate and its key", subject=setting, hint="set queues.cert_file and queues.key_file"
        )
    if scheme == "tls+tcp" and not near and not settings.client_ca_file:
        raise InvalidInput(
            f"{url} is not a loopback address, and there is no way to tell who connects",
            subject=setting,
            hint="set queues.client_ca_file to the authority that signs your clients' certificates",
        )
    return Listen(role=role, scheme=scheme, host=host, port=int(port))


def tcp_addresses(tcp: Sequence[Listen], ports: Sequence[int]) -> dict[str, str]:
    """By name, with the ``ports`` that were found. The second address of one socket and scheme is ``push-tcp-2``."""
    found: dict[str, str] = {}
    for listen, port in zip(tcp, ports, strict=True):
        same = sum(other.startswith(listen.name) for other in found)
        name = f"{listen.name}-{same + 1}" if same else listen.name
        found[name] = f"{listen.scheme}://{listen.host}:{port}"
    return found


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host.removeprefix("[").removesuffix("]")).is_loopback
    except ValueError:  # a name, which may come to mean anything
        return False


def tls_config(settings: QueueSettings) -> pynng.TLSConfig | None:
    """What the ``tls+tcp`` addresses need; ``None`` when there is no certificate.

    Raises:
        InvalidInput: a file cannot be read, or is not what it should be.
    """
    if not settings.cert_file or not settings.key_file:
        return None
    certificate, key = _pem("cert_file", settings.cert_file), _pem("key_file", settings.key_file)
    try:
        config = pynng.TLSConfig(pynng.TLSConfig.MODE_SERVER, own_cert_string=certificate, own_key_string=key)
    except pynng.NNGException as error:
        raise InvalidInput(
            f"{settings.cert_file} and {settings.key_file} are not a certificate and its key: {error}",
            subject="queues.cert_file",
            hint="both are PEM; the certificate's file may have the chain behind it",
        ) from error
    if settings.client_ca_file:
        try:
            config.set_ca_chain(_pem("client_ca_file", settings.client_ca_file))
        except pynng.NNGException as error:
            raise InvalidInput(
                f"{settings.client_ca_file} has no certificates: {error}", subject="queues.client_ca_file"
            ) from error
        config.set_auth_mode(pynng.TLSConfig.AUTH_MODE_REQUIRED)
    return config


def _pem(setting: str, path: str) -> str:
    try:
        return Path(path).read_text(encoding="ascii")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInput(f"{path} cannot be read: {error}", subject=f"queues.{setting}") from error


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
