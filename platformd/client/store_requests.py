"""What both shells of the store's client share: the socket and its errors, when to try again, lists in parts."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from platformd.client.http import HINT_NOT_RUNNING, Target, default_target
from platformd.coordination.contract import KeyValue, Listing, Order
from platformd.core.errors import Forbidden, InvalidInput, PlatformError, Unavailable, Unsupported
from platformd.core.settings import store_socket_for

FIRST_DELAY: Final = 0.02
"""Seconds before a lost connection is tried again; doubles with each failure up to ``MAX_DELAY``. Half of it is chance,
so that the programs of a machine do not come all at once."""
MAX_DELAY: Final = 2.0
"""The longest wait between two attempts."""
MAX_RESTARTS: Final = 3
"""How often a long list begins again because its revision was compacted in between."""


def store_socket(target: Target | str | Path | None) -> str:
    """The path of the store's socket.

    Args:
        target: the daemon's control API, or the path of its control socket or of the store's own; ``None`` for what the
            environment says (``default_target``).

    Raises:
        InvalidInput: the target is not on a Unix socket.
    """
    if target is None:
        target = default_target(os.environ)
    if isinstance(target, Target):
        if target.unix is None:
            hint = "name the daemon's control socket instead"
            raise InvalidInput("the store's door is a Unix socket", subject=str(target), hint=hint)
        target = target.unix
    path = Path(target)
    return str(path if path.suffix == ".store" else store_socket_for(path))


def store_token(target: Target | str | Path | None) -> str:
    """The token that goes with a target; empty for none, and for a path, where the kernel says who asks.

    Raises:
        InvalidInput: its file cannot be used.
    """
    if target is None:
        target = default_target(os.environ)
    return target.credentials.read_token() if isinstance(target, Target) else ""


def connect_socket(path: str) -> socket.socket:
    """A socket that is connected to ``path``, not blocking. It does not wait: Unix sockets connect at once or never.

    Raises:
        Unavailable: nobody answers there.
        Forbidden: this user may not open it.
    """
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        sock.connect(path)
    except OSError as error:
        sock.close()
        raise _refusal(error, path) from error
    return sock


def _refusal(error: OSError, path: str) -> PlatformError:
    if isinstance(error, PermissionError):
        return Forbidden("this user may not open the socket", subject=path, hint="join the daemon's group, or use sudo")
    if error.errno == errno.EAGAIN:
        return Unavailable("too many wait for the daemon to accept them", subject=path, hint="try again later")
    return Unavailable(error.strerror or str(error), subject=path, hint=HINT_NOT_RUNNING)


class Backoff:
    """How long to wait before the next attempt.

    Args:
        chance: gives numbers from 0 to 1.
        patience: how long callers wait, seconds: it is tried several times before they give up.
    """

    def __init__(self, chance: Callable[[], float], patience: float) -> None:
        self._chance = chance
        self._longest = max(FIRST_DELAY, min(MAX_DELAY, patience / 4))
        self._delay = FIRST_DELAY

    def next(self) -> float:
        """Seconds to wait now; after each failure longer."""
        delay, self._delay = self._delay, min(2 * self._delay, self._longest)
        return delay * (0.5 + self._chance() / 2)

    def reset(self) -> None:
        """It worked."""
        self._delay = FIRST_DELAY


def refuse_snapshot(path: Path) -> Unsupported:
    """Why a snapshot is not taken through the door: the file would be the daemon's, wherever its user may write."""
    return Unsupported(
        "a snapshot is a file of the daemon's machine, which this connection does not make",
        subject=str(path),
        hint="run `platformd backup FILE`",
    )


class Pages:
    """A list that comes in parts: all of one revision."""

    def __init__(
        self,
        key: bytes,
        end: bytes | None,
        *,
        revision: int,
        limit: int,
        keys_only: bool,
        count_only: bool,
        order: Order,
    ) -> None:
        self._asked = (key, end, revision, limit)
        self._how = (keys_only, count_only, order)
        self._items: list[KeyValue] = []
        self._first: Listing | None = None
        self._restarts = 0

    def request(self) -> tuple[Any, ...]:
        """What to ask for next, after the id."""
        key, end, revision, limit = self._asked
        if self._first is not None:
            key, revision = self._items[-1].key + b"\x00", self._first.revision
            limit -= len(self._items) if limit > 0 else 0
        return (key, end, revision, limit, *self._how)

    def add(self, listing: Listing) -> Listing | None:
        """Take a part; the whole if it was the last."""
        _, _, _, limit = self._asked
        whole = not listing.more or self._how != (self._how[0], False, "key")
        if self._first is None:
            if whole or 0 < limit <= len(listing.items):
                return listing
            self._first = listing
        self._items += listing.items
        if whole or 0 < limit <= len(self._items):
            return Listing(
                items=tuple(self._items), revision=self._first.revision, more=listing.more, count=self._first.count
            )
        return None

    def start_over(self) -> bool:
        """A part was compacted: whether to begin again, which only a list of "now" can."""
        if self._first is None or self._asked[2] or self._restarts >= MAX_RESTARTS:
            return False
        self._restarts += 1
        self._first = None
        self._items.clear()
        return True
