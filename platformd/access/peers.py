"""Users and groups of this machine, and names in certificates, as principals.

The daemon's own user, root and the daemon's group are admins. What the settings grant to others is read once, at the
start: a name is looked up then, and never while somebody waits to be let in, for a directory service may be away.
"""

from __future__ import annotations

import grp
import os
import pwd
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from platformd.core.errors import FieldError, InvalidInput
from platformd.core.ids import is_name
from platformd.core.peers import PeerCredentials
from platformd.core.settings import AccessSettings
from platformd.model.access import NOBODY, Principal, Role, as_role

_FORM: Final = "write WHO=ROLE, for example user:alice=operator, group:survey=tenant:survey or cn:planner=reader"


@dataclass(frozen=True)
class Grant:
    """One line of the settings: who is what."""

    kind: Literal["user", "group", "cn", "dns", "uri", "email"]
    name: str
    role: Role
    tenant: str | None


def read_grant(text: str) -> Grant:
    """The grant in ``KIND:NAME=ROLE`` or ``KIND:NAME=ROLE:TENANT``.

    Raises:
        InvalidInput: it is not of that form, the role is none, or it needs a tenant, or must not have one.
    """
    who, equals, what = text.rpartition("=")
    kind, colon, name = who.strip().partition(":")
    word, _, tenant = what.strip().partition(":")
    if not (equals and colon and name) or kind not in ("user", "group", "cn", "dns", "uri", "email"):
        raise InvalidInput("is not a grant", subject=text, hint=_FORM)
    return Grant(kind, name, *checked_role(word, tenant or None, subject=text))  # type: ignore[arg-type]


def checked_role(word: str, tenant: str | None, *, subject: str) -> tuple[Role, str | None]:
    """The role and the tenant, if they go together.

    Raises:
        InvalidInput: there is no such role, or role and tenant do not go together.
    """
    role = as_role(word)
    if role is None:
        raise InvalidInput(f"{word!r} is no role", subject=subject, hint="one of admin, operator, tenant, reader")
    if tenant is not None and not is_name(tenant):
        raise InvalidInput(f"{tenant!r} cannot name a tenant", subject=subject)
    if role == "tenant" and tenant is None:
        raise InvalidInput("role tenant is of one tenant; none is named", subject=subject, hint="write tenant:NAME")
    if role in ("admin", "operator") and tenant is not None:
        hint = "for everything within one tenant take role tenant"
        raise InvalidInput(f"role {role} is of the whole facility, not of a tenant", subject=subject, hint=hint)
    return role, tenant


class Peers:
    """Who is what.

    Args:
        settings: the section ``access``.
        uid: the daemon's user.
        gid: the daemon's group.

    Raises:
        InvalidInput: a grant cannot be read, or names a user or a group that this machine does not have; ``errors`` has
            all of them.
    """

    def __init__(self, settings: AccessSettings, *, uid: int | None = None, gid: int | None = None) -> None:
        self._uid = os.geteuid() if uid is None else uid
        self._gid = os.getegid() if gid is None else gid
        self._names = _local_users()
        self._others: Role | None = as_role(settings.others)
        errors: list[FieldError] = []
        self._grants = [
            (grant, number)
            for grant in _each(settings.peers, "access.peers", errors, ("user", "group"))
            if (number := _number(grant, errors)) is not None
        ]
        self._certificates = _each(settings.certificates, "access.certificates", errors, ("cn", "dns", "uri", "email"))
        if errors:
            raise InvalidInput("the settings of access are not valid", subject="access", errors=tuple(errors))

    def principal(self, peer: PeerCredentials) -> Principal:
        """Who a peer of a Unix socket is: the first grant that fits, else what others are."""
        name = f"user:{self._names.get(peer.uid, peer.uid)}"
        if peer.uid in (0, self._uid) or self._gid == peer.gid or self._gid in peer.groups:
            return Principal(name=name, role="admin", how="peer")
        for grant, number in self._grants:
            if number == peer.uid if grant.kind == "user" else number == peer.gid or number in peer.groups:
                return Principal(name=name, role=grant.role, how="peer", tenant=grant.tenant)
        return Principal(name=name, role=self._others, how="peer")

    def certificate(self, names: Iterable[tuple[str, str]]) -> Principal:
        """Who shows a certificate of these names, ``(kind, name)``; its chain has been checked."""
        shown = list(names)
        for grant in self._certificates:
            if (grant.kind, grant.name) in shown:
                return Principal(
                    name=f"certificate:{grant.name}", role=grant.role, how="certificate", tenant=grant.tenant
                )
        first = shown[0][1] if shown else "unnamed"
        return Principal(name=f"certificate:{first}", role=None, how="certificate") if shown else NOBODY


def _each(texts: Iterable[str], path: str, errors: list[FieldError], kinds: tuple[str, ...]) -> list[Grant]:
    found = []
    for i, text in enumerate(texts):
        try:
            grant = read_grant(text)
        except InvalidInput as error:
            errors.append(FieldError(path=f"{path}[{i}]", message=f"{text!r}: {error.message}", hint=error.hint))
            continue
        if grant.kind in kinds:
            found.append(grant)
        else:
            message = f"{text!r} begins with none of {', '.join(kinds)}"
            errors.append(FieldError(path=f"{path}[{i}]", message=message))
    return found


def _number(grant: Grant, errors: list[FieldError]) -> int | None:
    if grant.name.isascii() and grant.name.isdigit():
        return int(grant.name)
    find: Callable[[str], int] = _user if grant.kind == "user" else _group
    try:
        return find(grant.name)
    except KeyError:
        errors.append(FieldError(path="access.peers", message=f"this machine has no {grant.kind} {grant.name!r}"))
        return None


def _user(name: str) -> int:
    return pwd.getpwnam(name).pw_uid


def _group(name: str) -> int:
    return grp.getgrnam(name).gr_gid


def _local_users(path: Path = Path("/etc/passwd")) -> dict[int, str]:
    """The names of the users of this very machine, for the audit; others are shown by their number."""
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return {}
    rows = [line.split(":") for line in lines]
    return {int(row[2]): row[0] for row in reversed(rows) if len(row) > 2 and row[2].isdigit()}
