"""The engines that the Store's conformance suite runs on, and short words for its requests.

Another engine joins by a class like ``SqliteEngine`` and a line in ``ENGINES``.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any, Protocol

import trio
import trio.testing

from platformd.coordination.contract import Event, Put, Store, TxnResult, WatchBatch
from platformd.coordination.sqlite import open_sqlite
from platformd.core.clock import SystemClock
from platformd.core.settings import StoreSettings
from tests.support.etcd import EtcdEngine
from tests.support.store_door import DoorEngine

PATIENCE = 30.0
"""Seconds of real time after which a test that waits is broken."""


class Engine(Protocol):
    """One place with one store's state, opened again and again."""

    def open(self, **settings: Any) -> AbstractAsyncContextManager[Store]:
        """The store, with these settings of ``StoreSettings`` changed."""
        ...


class SqliteEngine:
    """The embedded engine."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / "store.db"

    def open(self, **settings: Any) -> AbstractAsyncContextManager[Store]:
        return open_sqlite(self.path, StoreSettings(**settings), SystemClock())


ENGINES: dict[str, Callable[[Path], Engine]] = {"sqlite": SqliteEngine, "etcd": EtcdEngine, "door": DoorEngine}

ON_TRIOS_CLOCK: dict[str, Callable[[Path], Engine]] = {"sqlite": SqliteEngine, "door": DoorEngine}
"""Those whose leases a test's clock can move; the others have tests of their own in real time."""


async def put(store: Store, key: bytes, value: bytes = b"v", lease: int = 0) -> int:
    """Put one key; its revision."""
    return (await store.txn([], [Put(key, value, lease)])).revision


async def settled(store: Store) -> TxnResult:
    """Everything that was on its way when this was called is done (writes are done in order)."""
    return await store.txn([], [])


async def events_until(watch: Any, revision: int, batches: list[WatchBatch] | None = None) -> list[Event]:
    """All events of a watch, until it says that it is at ``revision``."""
    events: list[Event] = []
    while True:
        batch = await anext(watch)
        if batches is not None:
            batches.append(batch)
        events += batch.events
        if batch.revision >= revision:
            return events


async def eventually(condition: Callable[[], Awaitable[bool]], clock: trio.testing.MockClock | None = None) -> None:
    """Wait for something that threads do, in real time; ``clock`` is moved on a little each time."""
    deadline = SystemClock().monotonic() + PATIENCE
    while not await condition():
        assert SystemClock().monotonic() < deadline, "it never came to be"
        if clock is not None:
            clock.jump(0.05)
        await trio.testing.wait_all_tasks_blocked()
        # The threads that are waited for get the interpreter's lock, or this would spin beside them for seconds.
        time.sleep(0.0005)  # noqa: ASYNC251
