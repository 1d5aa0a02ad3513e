"""Opening the native engine, and stopping it in the right order.

Start: configurations and logs, then the sockets, so that whoever connects finds every stream. Stop: no new
work, everything accepted onto the disk, everybody answered, threads joined, memory freed; the same when the
block around it is cancelled.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import trio

from platformd.core.buffers import keep_buffers
from platformd.core.clock import Clock
from platformd.core.errors import Unsupported
from platformd.core.settings import QueueSettings
from platformd.queues.native import library, sockets, zstd
from platformd.queues.native._native import ffi, lib
from platformd.queues.native.catalogue import Catalogue
from platformd.queues.native.checks import storage_error
from platformd.queues.native.library import call
from platformd.queues.native.streams import STOP_DEADLINE, NativeStreams

__all__ = ["NativeStreams", "open_native"]

log = logging.getLogger("platformd.queues")


@asynccontextmanager
async def open_native(
    directory: Path, socket_directory: Path, settings: QueueSettings, clock: Clock
) -> AsyncIterator[NativeStreams]:
    """The native engine, for as long as the block runs; at its end everything accepted is durable and answered.

    Args:
        directory: where the streams are kept; made when missing.
        socket_directory: where ``ingest.sock``, ``fetch.sock``, ``push.sock`` and ``live.sock`` are made.
        settings: its bounds.
        clock: for records that come without a time.

    Raises:
        InvalidInput: a setting is not valid, or a socket's path is too long.
        Conflict: somebody listens on the sockets already.
        PlatformError: the directory or the sockets cannot be used.
    """
    paths = sockets.socket_paths(socket_directory)
    options = library.options(settings)
    sockets.tcp_listens(settings)  # refuses before anything is made
    keep_buffers()

    def begin() -> tuple[Any, int]:
        engine, event_fd = ffi.new("pd_engine **"), ffi.new("int *")
        try:
            sockets.prepare(paths)
            directory.mkdir(mode=0o750, parents=True, exist_ok=True)
        except OSError as error:
            raise storage_error(error) from error
        try:
            functions = zstd.functions()  # alive until the call has read them
            options.zstd = functions
        except Unsupported as error:  # only streams that are compressed need it
            log.warning("%s; %s", error, error.hint)
        call("queues", lib.pd_engine_open, str(directory).encode(), options, engine, event_fd)
        return engine[0], event_fd[0]

    def serve() -> None:
        try:
            streams.load()
            streams.serve(paths, settings)
            sockets.share(paths)
        except OSError as error:
            raise storage_error(error) from error

    engine, event_fd = await trio.to_thread.run_sync(begin)
    streams = NativeStreams(engine, event_fd, Catalogue(directory), clock, paths)
    streams.start()
    try:
        await trio.to_thread.run_sync(serve)
        streams.report_losses()
        yield streams
    finally:
        if await streams.stop():
            lib.pd_engine_free(engine)
        else:
            log.error("the queues did not stop within %g s; their threads are left to the process's end", STOP_DEADLINE)
