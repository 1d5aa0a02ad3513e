"""Opening the JetStream engine, and ending it in the right order."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import trio

from platformd.core.clock import Clock
from platformd.core.settings import QueueSettings
from platformd.core.settings_engines import NatsSettings
from platformd.queues.gateway import serve_gateway
from platformd.queues.jetstream.client import Client
from platformd.queues.jetstream.engine import JetStreamStreams

log = logging.getLogger("platformd.queues")


@asynccontextmanager
async def open_jetstream(
    socket_directory: Path, nats: NatsSettings, queues: QueueSettings, clock: Clock
) -> AsyncIterator[JetStreamStreams]:
    """The engine on a NATS, for as long as the block runs, with the sockets for programs outside.

    Args:
        socket_directory: where ``ingest.sock`` and ``fetch.sock`` are made.
        nats: which servers.
        queues: our bounds.
        clock: for records that come without a time.

    Raises:
        InvalidInput: a setting is not valid, or a file of it cannot be used.
        Unavailable: no server can be reached.
        Unauthorized, Unsupported: a server does not admit us, is too old, or has no JetStream.
        Conflict: somebody listens on the sockets already.
    """
    client = Client(nats)
    streams = JetStreamStreams(client, nats, queues, clock)
    client.on_stray = streams.stray
    if nats.sync != "always":
        log.warning("publishing with durability fsync is refused: nats.sync is %r", nats.sync)
    loaded = False

    async def connected() -> None:
        if loaded:
            await streams.give_back()

    crashed: list[Exception] = []

    async def run(part: Callable[[], Awaitable[None]]) -> None:
        try:
            await part()
        except Exception as error:
            crashed.append(error)
            raise

    try:
        async with trio.open_nursery() as nursery:
            try:
                await nursery.start(client.run, connected)
                await streams.load()
                loaded = True
                nursery.start_soon(run, streams.keep)
                nursery.start_soon(run, streams.give_up)
                async with trio.open_nursery() as outside:
                    streams.addresses = await outside.start(partial(serve_gateway, streams, socket_directory, queues))
                    try:
                        yield streams
                    finally:
                        await streams.stop()
                        outside.cancel_scope.cancel()
            finally:
                nursery.cancel_scope.cancel()
    except BaseExceptionGroup as group:
        # The nurseries wrap whatever leaves the block. Callers see them only when a part of the engine failed.
        error = _only(group)
        if crashed or error is None:
            raise
        raise error from error.__cause__


def _only(group: BaseExceptionGroup[BaseException]) -> BaseException | None:
    """The one error in a group, through all layers; ``None`` when there are several."""
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        if len(error.exceptions) != 1:
            return None
        error = error.exceptions[0]
    return error
