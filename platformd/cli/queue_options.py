"""The queue sockets for commands: the options that say where they are, and what an address with TLS needs."""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING, Any, Final, Literal

import click

from platformd.cli.options import Command, Session
from platformd.core.errors import InvalidInput, Unavailable

if TYPE_CHECKING:
    from platformd.client.queues import ClientTls
    from platformd.client.target import Target

KEY: Final = "platformd.queue-options"
"""Where click keeps what the options said."""

OPTIONS: Final = (
    (
        "url",
        "URL",
        "The queue socket: tls+tcp://HOST:PORT, tcp://HOST:PORT or ipc:///PATH (default: the daemon is asked).",
    ),
    ("ca-file", "FILE", "For tls+tcp: PEM file of the authority of the daemon's certificate (default: the system's)."),
    ("cert-file", "FILE", "For tls+tcp: PEM file of our certificate, where the daemon asks for one."),
    ("key-file", "FILE", "For tls+tcp: PEM file of its key (default: it is in the same file)."),
    ("server-name", "NAME", "For tls+tcp: what the daemon's certificate is for (default: the URL's host)."),
)


def queue_options(command: Command) -> Command:
    """Add ``--queue-url``, ``--queue-ca-file`` and so on, each also as ``PLATFORMD_QUEUE_…``."""
    for name, metavar, text in reversed(OPTIONS):
        option = click.option(
            f"--queue-{name}",
            metavar=metavar,
            envvar=f"PLATFORMD_QUEUE_{name.upper().replace('-', '_')}",
            expose_value=False,
            callback=_remember,
            help=text,
        )
        command = option(command)
    return command


def _remember(context: click.Context, parameter: click.Parameter, value: str | None) -> None:
    said: dict[str, str] = context.meta.setdefault(KEY, {})
    if value:
        said[(parameter.name or "").removeprefix("queue_")] = value


def queue_place(session: Session, socket: Literal["ingest", "fetch", "live"]) -> tuple[str, ClientTls | None]:
    """The address of a queue socket, and what TLS needs there: as the options say, else as the daemon does.

    Files that are good for the control API (``--ca-file`` and so on, or a context's) are good for a queue socket with
    TLS, where the options name no others.

    Raises:
        Unavailable: the daemon has none (yet), or none that can be reached from here.
        InvalidInput: there are files for TLS, and the daemon has no address with TLS.
    """
    from platformd.client.queues import ClientTls

    context = click.get_current_context(silent=True)
    said: dict[str, str] = dict(context.meta.get(KEY, {})) if context is not None else {}
    url = said.pop("url", "")
    tls = ClientTls(**said) if said else None
    target = session.target()
    if url:
        return url, _with_files_of(target, url, said, tls)
    addresses = _addresses(session)
    host = target.host if target.unix is None else ""
    if tls is not None:
        names: tuple[str, ...] = (f"{socket}-tls",)
    elif host and not _is_loopback(host):
        names = (f"{socket}-tls", f"{socket}-tcp")
    else:
        names = (socket,)
    address = next((addresses[name] for name in names if name in addresses), None)
    if address is not None:
        return _reachable(address, host), _with_files_of(target, address, said, tls)
    if tls is not None:
        raise InvalidInput(
            f"there are files for TLS, and the daemon's {socket} socket has no address with TLS",
            subject=str(session.target()),
            hint=f"set queues.listen_{socket} there, or leave them out",
        )
    settings = f"; queues.listen_{socket} sets its TCP addresses" if host else ""
    raise Unavailable(
        f"the daemon names no {socket} socket that can be reached from here",
        subject=str(session.target()),
        hint=f"see `platformd status`{settings}",
    )


def _with_files_of(target: Target, address: str, said: dict[str, str], tls: ClientTls | None) -> ClientTls | None:
    from platformd.client.queues import ClientTls

    own = target.credentials
    if not address.startswith("tls+tcp:"):
        return tls
    files = {"ca_file": own.ca_file}
    if "cert_file" not in said:
        files |= {"cert_file": own.cert_file, "key_file": own.key_file}
    return ClientTls(**(files | said))


def _addresses(session: Session) -> dict[str, str]:
    queues: Any = session.client.status().get("queues")
    sockets = queues.get("sockets") if isinstance(queues, dict) else None
    return {k: v for k, v in sockets.items() if isinstance(v, str) and v} if isinstance(sockets, dict) else {}


def _reachable(address: str, host: str) -> str:
    """Where the daemon listens everywhere, it is reached where its control API is."""
    scheme, _, place = address.partition("://")
    bound, _, port = place.rpartition(":")
    if scheme in ("tcp", "tls+tcp") and host and bound in ("0.0.0.0", "[::]", "*"):  # noqa: S104 (it is read, not bound)
        return f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}"
    return address


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"
