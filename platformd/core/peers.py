"""Who is at the other end of a Unix socket, as the kernel saw it when it connected."""

from __future__ import annotations

import contextlib
import socket
import struct
from typing import Any, Final

import msgspec

_SO_PEERGROUPS: Final = 59
"""Linux' socket option for the groups of the peer; Python has no name for it."""
_GROUPS_BYTES: Final = 4096


class PeerCredentials(msgspec.Struct, frozen=True):
    """Who connected to the Unix socket, as the kernel saw it when it did."""

    pid: int
    uid: int
    gid: int
    groups: frozenset[int] = frozenset()
    """Supplementary groups."""


def peer_credentials(sock: Any) -> PeerCredentials | None:
    """Who is at the other end of ``sock``; ``None`` when it is not a Unix socket."""
    if sock.family != socket.AF_UNIX:
        return None
    pid, uid, gid = struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i")))
    groups: frozenset[int] = frozenset()
    with contextlib.suppress(OSError):  # more groups than fit: then the primary one decides
        found = sock.getsockopt(socket.SOL_SOCKET, _SO_PEERGROUPS, _GROUPS_BYTES)
        groups = frozenset(struct.unpack(f"{len(found) // 4}I", found))
    return PeerCredentials(pid, uid & 0xFFFFFFFF, gid & 0xFFFFFFFF, groups)
