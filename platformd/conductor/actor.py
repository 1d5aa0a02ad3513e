"""Who is acting, and why: what the audit record of a change says of its author.

The faces set it for each request, from the peer's credentials or its token, and ``run_controller`` for each
controller. It belongs to the task, and to those that the task starts: nobody has to hand it on.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Final, Literal

import msgspec

MAX_REASON: Final = 500
"""Characters of a reason; what is longer is cut."""


class Actor(msgspec.Struct, frozen=True, kw_only=True):
    """Who changes something."""

    type: Literal["user", "token", "certificate", "controller", "daemon", "anonymous"]
    """How it is known: a peer of the Unix socket, a token, a client certificate, a part of the daemon, the daemon
    itself; ``anonymous`` is known by nothing."""
    name: str
    """A user's name or number, a token's name, a controller's name."""

    def __str__(self) -> str:
        """As it stands in listings: ``user/root``."""
        return f"{self.type}/{self.name}" if self.name else self.type


DAEMON: Final = Actor(type="daemon", name="")
"""The daemon itself: whoever acts before anybody else is named."""


class Acting(msgspec.Struct, frozen=True, kw_only=True):
    """Who, and why."""

    actor: Actor = DAEMON
    reason: str = ""


_NOBODY_NAMED: Final = Acting()
_acting: ContextVar[Acting] = ContextVar("platformd_acting", default=_NOBODY_NAMED)


def acting() -> Acting:
    """Who is acting in this task, and why."""
    return _acting.get()


def set_acting(actor: Actor, reason: str = "") -> None:
    """From now on, in this task and in those it starts, ``actor`` acts. For the beginning of a request's task."""
    _acting.set(Acting(actor=actor, reason=_one_line(reason)))


@contextmanager
def acting_as(actor: Actor, reason: str = "") -> Iterator[None]:
    """``actor`` acts within the block."""
    token = _acting.set(Acting(actor=actor, reason=_one_line(reason)))
    try:
        yield
    finally:
        _acting.reset(token)


def _one_line(reason: str) -> str:
    return " ".join(reason.split())[:MAX_REASON]
