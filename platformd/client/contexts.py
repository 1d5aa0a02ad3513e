"""Contexts: names for daemons, each with how one gets there, in ``~/.config/platformd/contexts.toml``.

A context is complete: where the daemon is, and with what one comes there. Nothing of the environment is mixed into it,
so that no token ever goes to another daemon than it was meant for. The file names files with secrets and holds none.
Whoever may write it decides whom we trust, so others may neither write nor read it.
"""

from __future__ import annotations

import os
import re
import stat
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Final

from platformd.client.target import Credentials, Target, credentials_of, default_target
from platformd.core.errors import InvalidInput, NotFound, nearest

MAX_FILE_BYTES: Final = 1 << 20
"""The largest file of contexts that is read."""
NAME: Final = re.compile(r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$")
"""What a context may be called."""


@dataclass(frozen=True, kw_only=True)
class Context:
    """One daemon, and how one gets there."""

    url: str = ""
    """``https://HOST:PORT``, ``http://HOST:PORT`` or ``unix:///PATH``."""
    socket: str = ""
    """Path of its Unix socket, instead of ``url``."""
    token_file: str = ""
    """File with a token."""
    ca_file: str = ""
    """PEM file of the authority of its certificate."""
    cert_file: str = ""
    """PEM file of our certificate."""
    key_file: str = ""
    """PEM file of its key."""
    tenant: str = ""
    """Whose resources are meant when nobody says."""

    def target(self) -> Target:
        """Where it is, and with what one comes there.

        Raises:
            InvalidInput: it says no place, or two, or one that is none.
        """
        if bool(self.url) == bool(self.socket):
            raise InvalidInput("says no place, or two", subject="context", hint="set a URL or a socket, not both")
        own = Credentials(
            token_file=self.token_file, ca_file=self.ca_file, cert_file=self.cert_file, key_file=self.key_file
        )
        if self.socket:
            return Target(unix=str(Path(self.socket).expanduser()), credentials=own)
        return Target.parse(self.url, own)


FIELDS: Final = tuple(one.name for one in fields(Context))
"""The members of a context, as they stand in the file."""


@dataclass(frozen=True)
class Contexts:
    """All of them, as the file has them."""

    current: str = ""
    """The one that is used when nobody says; empty: none."""
    known: Mapping[str, Context] = field(default_factory=dict)

    def named(self, name: str) -> Context:
        """The context ``name``.

        Raises:
            NotFound: there is none.
        """
        if name not in self.known:
            near = nearest(name, list(self.known))
            known = f"known: {', '.join(self.known)}" if self.known else "`platformd context set` makes one"
            raise NotFound(
                "there is no such context", subject=name or "context", hint=f"did you mean {near}?" if near else known
            )
        return self.known[name]


def contexts_path(environ: Mapping[str, str]) -> Path:
    """Where the file is: below ``XDG_CONFIG_HOME``, or ``~/.config``."""
    home = environ.get("XDG_CONFIG_HOME", "")
    base = Path(home) if home.startswith("/") else Path(environ.get("HOME") or "~").expanduser() / ".config"
    return base / "platformd" / "contexts.toml"


def read_contexts(path: Path) -> Contexts:
    """The contexts in ``path``; none when there is no such file.

    Raises:
        InvalidInput: others may read or write it, it cannot be read, or it is not such a file.
    """
    try:
        with path.open("rb") as file:
            about = os.fstat(file.fileno())
            data = file.read(MAX_FILE_BYTES + 1)
    except FileNotFoundError:
        return Contexts()
    except OSError as error:
        raise InvalidInput(f"cannot be read: {error.strerror}", subject=str(path)) from error
    if about.st_uid not in (os.geteuid(), 0):
        raise InvalidInput("belongs to another user, who decides here whom we trust", subject=str(path))
    if stat.S_IMODE(about.st_mode) & 0o077:
        raise InvalidInput("others may read or write this file", subject=str(path), hint=f"chmod 600 {path}")
    if len(data) > MAX_FILE_BYTES:
        raise InvalidInput(f"is larger than {MAX_FILE_BYTES} bytes", subject=str(path))
    return _parse(data, path)


def _parse(data: bytes, path: Path) -> Contexts:
    import tomllib  # only wanted by whoever has contexts

    try:
        document = tomllib.loads(data.decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InvalidInput(f"is not TOML: {error}", subject=str(path)) from error
    known = document.get("contexts", {})
    unknown = [key for key in document if key not in ("current", "contexts")]
    if unknown or not isinstance(known, dict) or not isinstance(document.get("current", ""), str):
        raise InvalidInput("is not a file of contexts", subject=str(path), hint="it has `current` and [contexts.NAME]")
    return Contexts(document.get("current", ""), {name: _context(name, one, path) for name, one in known.items()})


def _context(name: str, members: Any, path: Path) -> Context:
    subject = f"{path}: contexts.{name}"
    if not isinstance(members, dict) or not NAME.match(name):
        raise InvalidInput("is not a context", subject=subject)
    for key, value in members.items():
        if key not in FIELDS:
            near = nearest(key, list(FIELDS))
            hint = f"did you mean {near}?" if near else f"known: {', '.join(FIELDS)}"
            raise InvalidInput(f"has the unknown member {key}", subject=subject, hint=hint)
        if not isinstance(value, str):
            raise InvalidInput(f"{key} is not a string", subject=subject)
    return Context(**members)


def write_contexts(path: Path, contexts: Contexts) -> None:
    """Replace the file by one that has ``contexts``, whole or not at all, for its owner only.

    Raises:
        InvalidInput: it cannot be written, or a name is none.
    """
    lines = [f"current = {_quoted(contexts.current)}\n"] if contexts.current else []
    for name, context in contexts.known.items():
        if not NAME.match(name):
            raise InvalidInput("cannot be a name: letters, digits, '.', '_' and '-', at most 63", subject=name)
        members = {key: getattr(context, key) for key in FIELDS}
        lines.append(f"\n[contexts.{_quoted(name)}]\n")
        lines += [f"{key} = {_quoted(value)}\n" for key, value in members.items() if value]
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor, part = tempfile.mkstemp(dir=path.parent, prefix=".contexts-")  # which has the mode 0600
        try:
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                file.write("".join(lines).lstrip("\n"))
                file.flush()
                os.fsync(descriptor)
            Path(part).replace(path)
        except BaseException:
            Path(part).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise InvalidInput(f"cannot be written: {error.strerror}", subject=str(path)) from error


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return '"' + "".join(c if c.isprintable() else f"\\U{ord(c):08X}" for c in escaped) + '"'


def chosen_context(environ: Mapping[str, str], name: str | None = None) -> tuple[str, Context] | None:
    """The context that counts, with its name: ``name``, else ``PLATFORMD_CONTEXT``, else the current one.

    ``None`` when there is none, or when the environment says where the daemon is, unless ``name`` is given.

    Raises:
        NotFound: there is none of that name.
        InvalidInput: the file is not right.
    """
    if name is None and any(environ.get(f"PLATFORMD_{key}") for key in ("URL", "SOCKET", "STATE_DIR")):
        return None
    path = contexts_path(environ)
    wanted = name if name is not None else environ.get("PLATFORMD_CONTEXT", "")
    if not wanted and not path.exists():
        return None
    contexts = read_contexts(path)
    wanted = wanted or contexts.current
    return (wanted, contexts.named(wanted)) if wanted else None


def find_target(environ: Mapping[str, str], name: str | None = None) -> Target:
    """Where the daemon is, for a program that was told nothing: the chosen context, else ``default_target``.

    Raises:
        NotFound: there is no context ``name``.
        InvalidInput: what says where it is is not right.
    """
    chosen = chosen_context(environ, name)
    return default_target(environ, credentials_of(environ)) if chosen is None else chosen[1].target()
