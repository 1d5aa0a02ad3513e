"""Fences: what must still hold when a controller writes, so that one whose right has ended writes nothing more.

A fence belongs to a task and to those that it starts. Who leads puts one around all controllers; every change that they
make through the conductor compares it in its own transaction.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from platformd.coordination.contract import Compare, Store
from platformd.core.errors import Unavailable

_fence: ContextVar[Compare | None] = ContextVar("platformd_fence", default=None)


def fence() -> Compare | None:
    """What must hold for this task to write; ``None`` for nothing."""
    return _fence.get()


@contextmanager
def fenced(compare: Compare) -> Iterator[None]:
    """Within the block nothing is written unless ``compare`` holds."""
    token = _fence.set(compare)
    try:
        yield
    finally:
        _fence.reset(token)


async def check_fence(store: Store, compare: Compare) -> None:
    """See that a fence on a key's creation still stands.

    Raises:
        Unavailable: it does not: another daemon leads.
    """
    kv = await store.get(compare.key)
    if kv is None or kv.create_revision != compare.operand:
        raise Unavailable("this daemon leads no more", subject="leadership", hint="the one that leads goes on with it")
