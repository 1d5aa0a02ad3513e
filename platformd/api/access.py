"""Who may do what, until there are tokens.

On the Unix socket the kernel says who is there. The daemon's own user, root and members of the daemon's
group do everything; whoever else the socket's mode lets in may only read.

On TCP everybody on this machine is equal, so what remains is to keep other machines' web pages out: a page
whose name was pointed at 127.0.0.1 (DNS rebinding) is known by its Host, a page that sends forms, fetches
across origins or opens a WebSocket by its Origin. An Origin must be this very server: another page of this
machine, such as a notebook, is not the one that was asked to control it.
"""

from __future__ import annotations

import ipaddress
import os

from platformd.api.asked import asked
from platformd.api.server import PeerCredentials
from platformd.core.errors import Forbidden

READING = frozenset({"GET", "HEAD", "OPTIONS"})
"""Methods that change nothing."""


def peer() -> PeerCredentials | None:
    """Who is at the other end of the Unix socket; ``None`` over TCP."""
    found: PeerCredentials | None = asked.scope.get("state", {}).get("peercred")
    return found


def may_write(credentials: PeerCredentials, *, uid: int, gid: int) -> bool:
    """Whether a peer may change things.

    Args:
        credentials: the peer.
        uid: the daemon's user.
        gid: the daemon's group.
    """
    return credentials.uid in (0, uid) or gid == credentials.gid or gid in credentials.groups


def check_access() -> None:
    """Refuse the request if its sender may not make it.

    Raises:
        Forbidden: it may not.
    """
    credentials = peer()
    if credentials is None:
        _check_names()
    elif asked.method not in READING and not may_write(credentials, uid=os.geteuid(), gid=os.getegid()):
        raise Forbidden(
            f"user {credentials.uid} may read here, not change anything",
            subject=f"{asked.method} {asked.path}",
            hint="ask as the daemon's user, as root, or as a member of the daemon's group",
        )


def _check_names() -> None:
    host = asked.headers.get("Host", "")
    if not is_loopback_name(host):
        raise Forbidden(
            f"Host {host!r} is not a name of this machine's loopback",
            subject=asked.path,
            hint="use http://localhost:PORT or http://127.0.0.1:PORT",
        )
    origin = asked.headers.get("Origin")
    if origin is not None and origin.lower() != f"http://{host.lower()}":
        raise Forbidden(f"a page of {origin!r} may not ask this server", subject=asked.path)


def is_loopback_name(host: str) -> bool:
    """Whether a ``Host`` header (with or without a port) names the loopback interface."""
    name = host.lower()
    if name.startswith("["):
        name = name[1:].partition("]")[0]
    elif name.count(":") == 1:
        name = name.partition(":")[0]
    if name in ("localhost", "localhost."):
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False
