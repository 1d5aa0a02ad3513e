"""Who is acting, and why: what the audit record of a change says of its author.

The faces set it for each request (``Principal.name``), and ``run_controller`` for each controller. It belongs to the
task, and to those that the task starts: nobody has to hand it on.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Final

import msgspec

MAX_REASON: Final = 500
"""Characters of a reason; what is longer is cut."""


class Acting(msgspec.Struct, frozen=True, kw_only=True):
    """Who, and why."""

    actor: str = "daemon"
    """``user:alice``, ``token:nightly``, ``controller:streams``; ``daemon``: the daemon itself, or whoever acts before
    anybody else is named."""
    reason: str = ""
    """What the actor said of it, on one line."""


_NOBODY_NAMED: Final = Acting()
_acting: ContextVar[Acting] = ContextVar("platformd_acting", default=_NOBODY_NAMED)


def acting() -> Acting:
    """Who is acting in this task, and why."""
    return _acting.get()


def set_acting(actor: str, reason: str = "") -> None:
    """From now on, in this task and in those it starts, ``actor`` acts. For the beginning of a request's task."""
    _acting.set(Acting(actor=actor, reason=_one_line(reason)))


@contextmanager
def acting_as(actor: str, reason: str = "") -> Iterator[None]:
    """``actor`` acts within the block."""
    token = _acting.set(Acting(actor=actor, reason=_one_line(reason)))
    try:
        yield
    finally:
        _acting.reset(token)


def _one_line(reason: str) -> str:
    return " ".join(reason.split())[:MAX_REASON]
