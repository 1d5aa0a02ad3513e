"""What the etcd engine makes of its settings (``platformd.core.settings.EtcdSettings``)."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

from platformd.core.errors import FieldError, InvalidInput
from platformd.core.settings_engines import EtcdSettings


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
