"""The queue engines that the conformance suite runs on, and small helpers for its tests."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import trio

from platformd.core.clock import SystemClock
from platformd.core.settings import QueueSettings
from platformd.queues.contract import Ack, AckKind, Delivery, Record, Streams
from platformd.queues.jetstream import open_jetstream
from platformd.queues.native.engine import open_native
from tests.support.nats import binary, shared_nats

SETTINGS = QueueSettings(
    segment_size="1MiB", max_batch="256KiB", max_record="64KiB", max_streams=8, max_consumers=8, max_waiting_fetches=8
)
"""Small bounds, so that tests reach them."""


class NativeEngine:
    """The embedded engine, opened as often as a test likes over the same directory."""

    name = "native"
    refuses: frozenset[str] = frozenset()

    def __init__(self, directory: Path) -> None:
        self.directory = directory / "streams"
        self.sockets = directory / "q"

    @asynccontextmanager
    async def open(self, settings: QueueSettings = SETTINGS) -> AsyncIterator[Streams]:
        async with open_native(self.directory, self.sockets, settings, SystemClock()) as streams:
            yield streams


class Engine(Protocol):
    """One place with one engine's state, opened again and again."""

    name: str
    refuses: frozenset[str]
    """What it does not do, and says so."""
    directory: Path
    sockets: Path

    def open(self, settings: QueueSettings = SETTINGS) -> AbstractAsyncContextManager[Streams]:
        """The engine, with these settings."""
        ...


class JetStreamEngine:
    """The engine on a NATS that all tests share, below a prefix that belongs to the directory."""

    name = "jetstream"
    refuses = frozenset({"duplicate_limit", "compression", "purge before and keep", "repeated expectations"})

    def __init__(self, directory: Path) -> None:
        self.directory = directory / "streams"
        self.sockets = directory / "q"
        self._directory = directory
        shared_nats(directory)  # from here on other processes find it

    @asynccontextmanager
    async def open(self, settings: QueueSettings = SETTINGS, **nats: Any) -> AsyncIterator[Streams]:
        found = shared_nats(self._directory, sync="always", **{"status_interval": "100ms", **nats})
        async with open_jetstream(self.sockets, found, settings, SystemClock()) as streams:
            yield streams


ENGINES: dict[str, Callable[[Path], Engine]] = {"native": NativeEngine}
if binary() is not None:
    ENGINES["jetstream"] = JetStreamEngine


def records(*payloads: str, subject: str = "a.b", ids: bool = False) -> list[Record]:
    """A record for each payload, named after it when it shall have an id."""
    return [Record(subject=subject, payload=p.encode(), msg_id=p if ids else "") for p in payloads]


def payloads(deliveries: Sequence[Delivery]) -> list[str]:
    return [d.payload.decode() for d in deliveries]


def acks(deliveries: Sequence[Delivery], kind: AckKind = "ack", delay: float = 0.0) -> list[Ack]:
    return [Ack(sequence=d.sequence, kind=kind, delay=delay) for d in deliveries]


async def in_thread(function: Callable[..., Any], *arguments: Any, **keywords: Any) -> Any:
    """Run a synchronous client beside the engine."""
    return await trio.to_thread.run_sync(partial(function, *arguments, **keywords))
