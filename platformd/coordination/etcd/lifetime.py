"""The life of a store at a cluster: the connection's tasks inside the block, and nothing outside it."""

from __future__ import annotations

import contextlib
import random
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Never

import trio

from platformd.coordination.checks import Limits
from platformd.coordination.etcd.channel import Channel
from platformd.coordination.etcd.dial import tls_context
from platformd.coordination.etcd.engine import EtcdStore
from platformd.coordination.etcd.keyspace import Keyspace
from platformd.coordination.etcd.lease import EtcdLeases
from platformd.coordination.etcd.reader import Reader
from platformd.coordination.etcd.settings import parse_endpoints
from platformd.coordination.etcd.watch import WatchHub
from platformd.core.errors import Unavailable
from platformd.core.quantities import seconds, size_bytes
from platformd.core.settings import StoreSettings
from platformd.core.settings_engines import EtcdSettings


@contextlib.asynccontextmanager
async def open_etcd(
    settings: EtcdSettings, limits: StoreSettings, *, rng: random.Random | None = None
) -> AsyncIterator[EtcdStore]:
    """The store at a cluster, for as long as the block lasts. It is entered when the cluster has answered.

    An exception that leaves the block comes out as it is, not wrapped in a group.

    Args:
        settings: where the cluster is, and how it is asked.
        limits: the limits of requests, watches and leases (its other fields are of the embedded engine).
        rng: for jitter, lease ids, and the member that is asked first; ``None`` for the system's.

    Raises:
        InvalidInput: the settings cannot be used.
        Unavailable: no member answers within ``request_timeout``.
        Unauthorized: the cluster does not take the user.
    """
    rng = rng or random.SystemRandom()
    endpoints = parse_endpoints(settings)
    tls: ssl.SSLContext | None = None
    if endpoints[0].tls:
        tls = await trio.to_thread.run_sync(tls_context, settings)
    channel = Channel(endpoints, settings, tls, rng)
    keyspace = Keyspace(settings.prefix.encode())
    reader = Reader(channel, keyspace)
    hub = _hub(channel, reader, keyspace, settings, limits)
    store = _store(channel, reader, keyspace, hub, limits, rng)
    crashed: list[Exception] = []

    async def run(part: Callable[[], Awaitable[Never]]) -> None:
        try:
            await part()
        except Exception as error:
            crashed.append(error)
            raise

    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(run, channel.run)
            nursery.start_soon(run, hub.run)
            try:
                await store.ping()
                yield store
            finally:
                channel.close(Unavailable("the store is stopping"))
                nursery.cancel_scope.cancel()
    except BaseExceptionGroup as group:
        # The nursery wraps whatever leaves the block. Callers see the nursery only when a part of it failed.
        if crashed or len(group.exceptions) != 1:
            raise
        error = group.exceptions[0]
        raise error from error.__cause__


def _hub(
    channel: Channel, reader: Reader, keyspace: Keyspace, settings: EtcdSettings, limits: StoreSettings
) -> WatchHub:
    return WatchHub(
        channel,
        reader,
        keyspace,
        max_watchers=limits.max_watchers,
        batch=limits.watch_buffer,
        progress_interval=seconds(settings.progress_interval),
    )


def _store(
    channel: Channel, reader: Reader, keyspace: Keyspace, hub: WatchHub, limits: StoreSettings, rng: random.Random
) -> EtcdStore:
    leases = EtcdLeases(channel, keyspace, seconds(limits.lease_min_ttl), seconds(limits.lease_max_ttl), rng)
    bounds = Limits(size_bytes(limits.max_key), size_bytes(limits.max_value), limits.max_txn_operations)
    return EtcdStore(channel, keyspace, reader, hub, leases, bounds)
