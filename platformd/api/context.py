"""What the API is given: the rooms below it, and what only the daemon knows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import trio

from platformd.access import Gate
from platformd.conductor import Conductor
from platformd.conductor.leading import Leading
from platformd.coordination.contract import Store
from platformd.core.clock import Clock
from platformd.core.settings import Settings
from platformd.queues.contract import Streams
from platformd.queues.statistics import SocketStatistics


@dataclass(frozen=True, kw_only=True)
class ApiContext:
    """Everything that a request may need."""

    conductor: Conductor
    streams: Streams
    store: Store
    gate: Gate
    """Who is who."""
    settings: Settings
    clock: Clock
    state: Callable[[], str]
    """What the daemon is doing now: ``starting``, ``running`` or ``stopping``."""
    started_ns: int
    """When the daemon started, nanoseconds since the epoch."""
    sockets: dict[str, str]
    """The queue sockets for programs: ``ingest``, ``fetch``, and where the engine has them ``push`` and ``live``."""
    stopping: trio.Event
    """Set when the daemon begins to stop: watches end."""
    node_name: str
    """This machine, as a Node."""
    stop: Callable[[], None]
    """Begins to stop the daemon, as SIGTERM does."""
    socket_statistics: Callable[[], SocketStatistics] | None = None
    """What ``push`` and ``live`` did, where the engine has them."""
    leading: Leading | None = None
    """Who leads, where several daemons share a store."""
