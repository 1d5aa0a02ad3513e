"""The composition root: the only file that knows everything.

The daemon's life is a tree of nurseries, each ring living inside the one before it:

    state directory ⊃ engines (store, queues) ⊃ controllers ⊃ services ⊃ faces

They start outside-in, each only when the one before it can serve, and stop inside-out.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import trio

from platformd.access import Gate, open_gate
from platformd.api.app import create_app
from platformd.api.context import ApiContext
from platformd.api.door import serve_door
from platformd.api.server import serve
from platformd.conductor import Conductor, ownership, quotas
from platformd.conductor import schemas as schema_controller
from platformd.conductor import streams as stream_controller
from platformd.conductor.events import event_bounds
from platformd.conductor.history import history_bounds
from platformd.conductor.leading import Leading
from platformd.conductor.retention import keep_bounded
from platformd.conductor.schemas import SchemaRules
from platformd.coordination.contract import Store
from platformd.coordination.etcd import open_etcd
from platformd.coordination.recipes import claim, user_keys
from platformd.coordination.sqlite import open_sqlite
from platformd.core import garbage
from platformd.core.clock import Clock, SystemClock, rfc3339
from platformd.core.errors import PlatformError
from platformd.core.ids import uuid7
from platformd.core.logs import configure_logging
from platformd.core.quantities import seconds
from platformd.core.settings import Settings
from platformd.core.statedir import hold_state_dir
from platformd.core.systemd import Notifier
from platformd.health import controller as health
from platformd.health.host import HostCollector
from platformd.model.kind import Check
from platformd.model.kinds import KINDS
from platformd.model.quota import QUOTA
from platformd.model.resource import AnyResource, Resource
from platformd.model.service import ENDPOINT, SERVICE, EndpointSpec, EndpointStatus, ServiceSpec, ServiceStatus
from platformd.pipelines import controller as pipelines
from platformd.pipelines.bridges import controller as bridges
from platformd.pipelines.bridges.rules import check_installed, check_key
from platformd.pipelines.rules import check_expressions
from platformd.queues.advisories import log_advisories
from platformd.queues.contract import Streams
from platformd.queues.encodings.checkers import Checkers
from platformd.queues.jetstream import open_jetstream
from platformd.queues.native import NativeStreams, open_native
from platformd.registry import controller as registry

log = logging.getLogger("platformd")

OWNER_KEY = b"/platformd/daemon/owner"
"""Whose the keyspace of a cluster is."""


@dataclass(frozen=True, kw_only=True)
class Platform:
    """A running platform without faces, as a trio program holds it."""

    settings: Settings
    clock: Clock
    store: Store
    streams: Streams
    conductor: Conductor
    gate: Gate
    node_name: str
    leading: Leading | None
    """Who leads, where daemons share a store."""


@asynccontextmanager
async def open_platform(settings: Settings, clock: Clock | None = None) -> AsyncIterator[Platform]:
    """Everything but the faces, for as long as the block runs.

    Raises:
        Conflict: another daemon has the state directory.
        Corrupted: stored data is damaged; the message names the file.
    """
    clock = clock or SystemClock()
    node_name = settings.daemon.node_name or socket.gethostname().split(".")[0].lower() or "localhost"
    holder = {"pid": os.getpid(), "socket": str(settings.socket_path), "since": rfc3339(clock.time_ns())}
    with hold_state_dir(settings.state_path, holder) as state:
        async with (
            _open_store(state, settings, clock) as store,
            _open_streams(state, settings, clock) as streams,
            _checkers() as checkers,
            open_gate(settings.access, store, clock) as gate,
        ):
            conductor = Conductor(store, clock, uuid7(clock), KINDS, admission=_admission())
            SchemaRules(conductor, checkers).stand_guard()
            quotas.Quotas(conductor).stand_guard()
            platform = Platform(
                settings=settings,
                clock=clock,
                store=store,
                streams=streams,
                conductor=conductor,
                gate=gate,
                node_name=node_name,
                leading=_leading(store, settings),
            )
            async with _ring() as beside:
                await beside.start(conductor.events.run)
                interval = seconds(settings.health.collect_interval)
                await beside.start(partial(health.run, conductor, HostCollector(clock), node_name, interval))
                if platform.leading is None:
                    async with _controllers(platform):
                        yield platform
                else:
                    beside.start_soon(platform.leading.run, partial(_control, platform))
                    yield platform


@asynccontextmanager
async def _controllers(platform: Platform) -> AsyncIterator[None]:
    """All controllers and services, for as long as the block runs."""
    store, clock, conductor, settings = platform.store, platform.clock, platform.conductor, platform.settings
    async with _ring() as controllers:
        await controllers.start(partial(keep_bounded, store, clock, history_bounds(settings.history)))
        await controllers.start(partial(keep_bounded, store, clock, event_bounds(settings.events)))
        await controllers.start(partial(ownership.run, conductor))
        await controllers.start(partial(quotas.run, conductor))
        await controllers.start(partial(log_advisories, platform.streams))
        await controllers.start(partial(schema_controller.run, conductor))
        await controllers.start(partial(stream_controller.run, conductor, platform.streams))
        async with _ring() as services:
            await _start_services(services, platform)
            yield


async def _control(platform: Platform) -> None:
    """What a daemon does while it leads."""
    try:
        async with _controllers(platform):
            await trio.sleep_forever()
    finally:
        platform.conductor.controllers.clear()


def _admission() -> dict[str, tuple[Check, ...]]:
    """Rules over specs that the model cannot know: they take a compiler, what is installed, or all kinds."""
    return {
        "Pipeline": (check_expressions,),
        "Bridge": (check_installed, check_key),
        QUOTA.name: (quotas.check_kinds(KINDS),),
    }


@asynccontextmanager
async def _checkers() -> AsyncIterator[Checkers]:
    """Who looks into schemas when they are registered; the queues have their own for what is published."""
    checkers = Checkers()
    try:
        yield checkers
    finally:
        with trio.CancelScope(shield=True):
            await checkers.stop()


@asynccontextmanager
async def _open_store(state: Path, settings: Settings, clock: Clock) -> AsyncIterator[Store]:
    """The engine that the settings name.

    Unless it is shared, a cluster's keyspace belongs to one daemon at a time, as a state directory does: the second is
    told who has it, and one whose claim was lost stops rather than work beside its successor.
    """
    if settings.store.engine == "sqlite":
        async with open_sqlite(state / "store.db", settings.store, clock) as embedded:
            yield embedded
        return
    async with open_etcd(settings.etcd, settings.store) as cluster:
        if settings.etcd.shared:
            yield cluster
            return
        async with claim(cluster, OWNER_KEY):
            yield cluster


def _leading(store: Store, settings: Settings) -> Leading | None:
    """What decides who leads; ``None`` where a daemon is alone. The leader owns the key that a lone daemon owns, so
    these two do not come together either.
    """
    if settings.store.engine != "etcd" or not settings.etcd.shared:
        return None
    return Leading(store, OWNER_KEY, seconds(settings.etcd.leader_lease))


@asynccontextmanager
async def _open_streams(state: Path, settings: Settings, clock: Clock) -> AsyncIterator[Streams]:
    """The engine that the settings name, with the same sockets for programs outside."""
    sockets = _queue_sockets(settings.socket_path)
    if settings.queues.engine == "native":
        async with open_native(state / "streams", sockets, settings.queues, clock) as embedded:
            yield embedded
        return
    async with open_jetstream(sockets, settings.nats, settings.queues, clock) as distributed:
        yield distributed


def _queue_sockets(socket_path: Path) -> Path:
    """The folder of the queues' nng sockets: beside the control socket and named after it."""
    return socket_path.with_suffix(".queues")


@asynccontextmanager
async def _ring() -> AsyncIterator[trio.Nursery]:
    """A nursery whose tasks run for ever and are cancelled when the block is left."""
    async with trio.open_nursery() as nursery:
        yield nursery
        nursery.cancel_scope.cancel()


async def _start_services(nursery: trio.Nursery, platform: Platform) -> None:
    settings, conductor = platform.settings, platform.conductor
    await nursery.start(partial(registry.run, conductor))
    await nursery.start(partial(pipelines.run, conductor, platform.streams, settings.pipelines))
    await nursery.start(partial(bridges.run, conductor, platform.streams, settings.pipelines, settings.files_path))


class Daemon:
    """The platform with its faces, from start to stop."""

    def __init__(self, settings: Settings, notifier: Notifier) -> None:
        self._settings = settings
        self._notifier = notifier
        self._state = "starting"
        self._stopping = trio.Event()
        self._everything = trio.CancelScope()

    async def run(self) -> None:
        """Serve until SIGTERM or SIGINT; a second one ends the stop at once."""
        with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._obey, signals, nursery.cancel_scope)
                async with open_platform(self._settings) as platform:
                    await self._serve(platform)
                nursery.cancel_scope.cancel()

    async def _obey(self, signals: AsyncIterator[int], everything: trio.CancelScope) -> None:
        self._everything = everything
        async for number in signals:
            name = signal.Signals(number).name
            if self._state == "running":
                self._stop(name)
            else:
                log.warning("%s while %s: ending at once", name, self._state)
                everything.cancel()

    def _stop(self, why: str) -> None:
        log.info("%s: stopping within %s", why, self._settings.daemon.stop_deadline)
        self._stopping.set()
        self._everything.deadline = trio.current_time() + seconds(self._settings.daemon.stop_deadline)

    async def _serve(self, platform: Platform) -> None:
        streams = platform.streams
        context = ApiContext(
            conductor=platform.conductor,
            streams=platform.streams,
            store=platform.store,
            gate=platform.gate,
            settings=platform.settings,
            clock=platform.clock,
            state=lambda: self._state,
            started_ns=platform.clock.time_ns(),
            sockets=dict(platform.streams.addresses),
            stopping=self._stopping,
            node_name=platform.node_name,
            stop=partial(self._stop, "told to by its control API"),
            leading=platform.leading,
            socket_statistics=streams.socket_statistics if isinstance(streams, NativeStreams) else None,
        )
        async with trio.open_nursery() as faces:
            door = partial(
                serve_door, user_keys(platform.store), platform.settings, gate=platform.gate, stopping=self._stopping
            )
            log.info("the store's own socket: %s", await faces.start(door))
            bound: list[str] = await faces.start(
                partial(serve, create_app(context), platform.settings, stopping=self._stopping)
            )
            await _register_own_services(platform, bound)
            self._state = "running"
            if self._notifier.watchdog_interval:
                faces.start_soon(self._watchdog, self._notifier.watchdog_interval)
            garbage.settle()
            self._notifier.ready(f"serving on {', '.join(bound)}")
            log.info("ready: %s, state in %s", ", ".join(bound), platform.settings.state_path)
            await self._stopping.wait()
            self._state = "stopping"
            self._notifier.stopping("stopping")
        log.info("the faces are closed")

    async def _watchdog(self, interval: float) -> None:
        """Pings from the loop itself, so that a loop that hangs is found."""
        while not self._stopping.is_set():
            self._notifier.watchdog()
            with trio.move_on_after(interval):
                await self._stopping.wait()


async def _register_own_services(platform: Platform, bound: Iterable[str]) -> None:
    """The daemon is a service of the platform like any other."""
    offers: dict[str, list[tuple[str, str]]] = {
        "platformd-api": [("http", address) for address in bound],
        **{f"platformd-{name}": [("nng", address)] for name, address in platform.streams.addresses.items()},
    }
    for service, places in offers.items():
        spec = ServiceSpec(protocol=places[0][0], description=f"platformd's own {service.split('-')[1]} socket")
        await platform.conductor.replace(_own(SERVICE.name, service, spec, ServiceStatus()))
        for i, (_, address) in enumerate(places):
            host, port = _split(address)
            endpoint = EndpointSpec(service=service, address=host, port=port, node=platform.node_name)
            name = f"{service}-{platform.node_name}-{i}"[:63].rstrip("-._")
            await platform.conductor.replace(_own(ENDPOINT.name, name, endpoint, EndpointStatus()))


def _own(kind: str, name: str, spec: Any, status: Any) -> AnyResource:
    labels = {"platformd/managed-by": "platformd"}
    return Resource(kind=kind, name=name, labels=labels, spec=spec, status=status)


def _split(address: str) -> tuple[str, int]:
    """Host and port of an address as the server prints it; port 0 for Unix sockets."""
    bare = address.split("://", 1)[-1]
    host, _, port = bare.rpartition(":")
    if address.startswith(("unix:", "ipc:")) or "/" in bare or not port.isdigit():
        return bare.removeprefix("unix:"), 0
    return host.strip("[]"), int(port)


def main(settings: Settings) -> int:
    """Run the daemon until it is told to stop; the process's exit code."""
    configure_logging(settings.daemon.log_level, settings.daemon.log_format)
    errors: list[PlatformError] = []
    garbage.rest()
    try:
        trio.run(Daemon(settings, Notifier()).run)
    except* PlatformError as group:
        errors = list(_leaves(group))
    if not errors:
        log.info("stopped")
        return 0
    for error in errors:
        sys.stderr.write(f"error: {error}\n")
    return errors[0].exit_code


def _leaves(group: BaseExceptionGroup[Any]) -> Iterable[PlatformError]:
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from _leaves(error)
        elif isinstance(error, PlatformError):
            yield error
