"""What the etcd engine is told by its user."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

import msgspec

from platformd.core.errors import FieldError, InvalidInput
from platformd.core.quantities import Duration, Size


class EtcdSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The coordination store, kept by an etcd cluster (3.4 or newer)."""

    endpoints: tuple[str, ...] = ("http://127.0.0.1:2379",)
    """Client URLs of its members; more than one for fail-over. All ``http`` or all ``https``."""
    prefix: str = ""
    """Put in front of every key, so that several programs can share a cluster: ``platformd/``. Empty: none."""
    ca_file: str = ""
    """PEM file of the authority that signed the members' certificates. Empty: the system's authorities."""
    cert_file: str = ""
    """PEM file of our certificate, where the members ask for one."""
    key_file: str = ""
    """PEM file of the key of ``cert_file``."""
    user: str = ""
    """User name at the cluster, when its authentication is on."""
    password_file: str = ""
    """File with the user's password on its first line; read again at every login."""
    request_timeout: Duration = "5s"
    """How long a request may take, with all attempts at all members."""
    connect_timeout: Duration = "2s"
    """How long one attempt to connect to a member may take."""
    keepalive_interval: Duration = "5s"
    """How long a connection in use may be silent before the member is asked for a sign of life. Members
    refuse to be asked more often than their ``--grpc-keepalive-min-time`` (5 s)."""
    keepalive_timeout: Duration = "3s"
    """How long that sign of life may take before the connection is given up."""
    retry_delay: Duration = "50ms"
    """The first wait before a member that failed is tried again; doubles up to ``retry_delay_max``."""
    retry_delay_max: Duration = "2s"
    """The longest wait before a member that failed is tried again."""
    progress_interval: Duration = "5s"
    """How often an idle watch asks how far it is, where the cluster's version answers that reliably (3.4.31,
    3.5.13, 3.6); else it is told at the members' ``--experimental-watch-progress-notify-interval``."""
    max_in_flight: int = 1024
    """Requests on their way at once. Over it: callers wait."""
    max_unsent: Size = "16MiB"
    """Bytes of requests that wait for the network. Over it: callers wait."""
    max_message: Size = "64MiB"
    """The largest message that is taken from a member. Over it: refused; long lists are asked for in parts."""


class Endpoint(NamedTuple):
    """Where a member listens."""

    host: str
    port: int
    tls: bool

    @property
    def authority(self) -> str:
        """As HTTP writes it."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


DEFAULT_PORT = 2379


def parse_endpoints(settings: EtcdSettings) -> tuple[Endpoint, ...]:
    """The members' addresses.

    Raises:
        InvalidInput: one is not a URL of a member, there is none, or only some are of TLS.
    """
    errors: list[FieldError] = []
    found: list[Endpoint] = []
    for index, text in enumerate(settings.endpoints):
        try:
            parts = urlsplit(text if "//" in text else f"http://{text}")
            port = parts.port or DEFAULT_PORT
        except ValueError as error:
            errors.append(FieldError(path=f"endpoints[{index}]", message=f"{text!r} is not a URL: {error}"))
            continue
        if parts.scheme not in {"http", "https"} or not parts.hostname or parts.path.strip("/"):
            message = f"{text!r} is not a member's client URL"
            errors.append(FieldError(path=f"endpoints[{index}]", message=message, hint="write http://HOST:PORT"))
            continue
        found.append(Endpoint(parts.hostname, port, parts.scheme == "https"))
    if not settings.endpoints:
        errors.append(FieldError(path="endpoints", message="is empty", hint="name at least one member"))
    if len({endpoint.tls for endpoint in found}) > 1:
        errors.append(FieldError(path="endpoints", message="mixes http and https", hint="a cluster has one of them"))
    if bool(settings.cert_file) != bool(settings.key_file):
        errors.append(FieldError(path="cert_file", message="a certificate needs its key", hint="set key_file too"))
    if settings.user and not settings.password_file:
        errors.append(FieldError(path="password_file", message="is empty", hint="a user needs a password"))
    if errors:
        raise InvalidInput("the settings are not valid", subject="etcd", errors=tuple(errors))
    return tuple(found)


def read_password(settings: EtcdSettings) -> str:
    """The password, now.

    Raises:
        InvalidInput: its file cannot be read.
    """
    try:
        text = Path(settings.password_file).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8"
        raise InvalidInput(f"the password cannot be read: {reason}", subject=settings.password_file) from error
    return text.splitlines()[0] if text else ""
