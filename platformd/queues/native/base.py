"""What all parts of ``NativeStreams`` share: the engine, what is known of its streams, and how C is called."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import trio

from platformd.core.clock import Clock
from platformd.core.errors import PlatformError, Unavailable
from platformd.queues.codec import decode_block
from platformd.queues.contract import Delivery, StreamConfig
from platformd.queues.encodings.checkers import Checkers
from platformd.queues.native import library
from platformd.queues.native._native import ffi, lib
from platformd.queues.native.broker import LossReporter
from platformd.queues.native.catalogue import Catalogue, StoredConsumer
from platformd.queues.native.checks import named, no_stream, storage_error
from platformd.queues.native.completions import Completions
from platformd.queues.native.gate import Gate
from platformd.queues.native.library import call
from platformd.queues.native.waiting import Waits

THREADS = 8
"""Worker threads that may be in C at once. More callers wait."""

T = TypeVar("T")


class NativeBase:
    """The state, and the only ways into C."""

    def __init__(self, engine: Any, event_fd: int, catalogue: Catalogue, clock: Clock, paths: dict[str, Path]) -> None:
        self._engine = engine
        self._catalogue = catalogue
        self._clock = clock
        self._completions = Completions(engine, event_fd)
        self._waits = Waits(engine, self._completions)
        self._losses = LossReporter(engine, self._completions, clock)
        self._streams: dict[str, StreamConfig] = {}
        self._checkers = Checkers()
        self._gate = Gate(engine, self._checkers, self._streams)
        self._consumers: dict[str, dict[str, StoredConsumer]] = {}
        self._changing = trio.Lock()
        self._limiter = trio.CapacityLimiter(THREADS)
        self._busy = 0
        self._idle = trio.Event()
        self._stopping = False
        self.problems: dict[str, PlatformError] = {}
        """What cannot be opened, by ``STREAM`` or ``STREAM/CONSUMER``, and why."""
        self.cut_bytes: dict[str, int] = {}
        """Bytes of a torn tail that opening removed, by stream: appends that nobody was told are durable."""
        self.addresses: dict[str, str] = {role: f"ipc://{path}" for role, path in paths.items()}
        """The nng addresses for programs outside: ``ingest``, ``fetch``, ``push`` and ``live``, and with TCP more, such
        as ``push-tcp`` and ``live-tls``."""

    def _raw_info(self, name: str) -> Any:
        info = ffi.new("pd_stream_info *")
        call(named(name), lib.pd_stream_info_get, self._engine, name.encode(), info)
        return info

    def _take(self, subject: str, function: Callable[..., int], *arguments: Any) -> tuple[Delivery, ...]:
        block, length, records = ffi.new("uint8_t **"), ffi.new("size_t *"), ffi.new("uint32_t *")
        call(subject, function, self._engine, *arguments, block, length, records)
        return decode_block(library.take_block(block[0], length[0]), records[0])

    async def _in_thread(self, function: Callable[..., T], *arguments: Any) -> T:
        """Run what may wait for the disk in a worker thread; the engine is not freed under it."""
        self._check_open()
        self._busy += 1
        try:
            return await trio.to_thread.run_sync(self._guarded, function, arguments, limiter=self._limiter)
        finally:
            self._busy -= 1
            if self._busy == 0 and self._stopping:
                self._idle.set()

    def _guarded(self, function: Callable[..., T], arguments: tuple[Any, ...]) -> T:
        self._check_open()
        try:
            return function(*arguments)
        except OSError as error:
            raise storage_error(error) from error

    def _check_open(self) -> None:
        if self._stopping:
            raise Unavailable("the queues are stopping", subject="queues", hint="try again when the daemon is back")

    def _known_configs(self) -> dict[str, StreamConfig]:
        """The configurations of all streams, of damaged ones as far as they can be read."""
        configs = dict(self._streams)
        for name in self.problems.keys() - configs.keys():
            if "/" not in name:
                try:
                    configs[name] = self._catalogue.stream(name)
                except PlatformError:
                    continue
        return configs

    def _stream_config(self, name: str) -> StreamConfig:
        self._check_open()
        if name in self.problems:
            raise self.problems[name]
        if name not in self._streams:
            raise no_stream(name)
        return self._streams[name]
