"""The Streams contract on the native engine.

Appends go to C from the trio thread, since they only copy; whatever may wait for the disk goes through a
worker thread. What finishes later comes back through ``completions``. The configurations are ours
(``catalogue``), the records and the cursors are C's; publishing and looking are in ``records``,
consumers in ``consumers``. A stream that cannot be opened is kept out, stands in ``problems``, and answers
every question with what is wrong with it; the others go on.
"""

from __future__ import annotations

import logging
from pathlib import Path

import msgspec
import trio

from platformd.core.errors import PlatformError
from platformd.core.settings import QueueSettings
from platformd.queues.codec.frames import check_name
from platformd.queues.contract import (
    StreamConfig,
    StreamInfo,
)
from platformd.queues.native import broker, library, zstd
from platformd.queues.native._native import ffi, lib
from platformd.queues.native.checks import (
    check_same_retention,
    check_subjects,
    named,
    no_stream,
)
from platformd.queues.native.consumers import NativeConsumers
from platformd.queues.native.library import call
from platformd.queues.statistics import SocketStatistics

STOP_DEADLINE = 10.0
"""Seconds for what was accepted to get onto the disk when the engine stops."""

log = logging.getLogger("platformd.queues")


class QueueStatistics(msgspec.Struct, frozen=True, kw_only=True):
    """Counters since the engine was opened; see ``pd_statistics``."""

    appends: int
    appended_records: int
    appended_bytes: int
    duplicates: int
    syncs: int
    refused: int
    delivered_records: int
    acks: int
    requests: int
    bad_requests: int


class NativeStreams(NativeConsumers):
    """``contract.Streams``; made by ``open_native``."""

    # Life, which is open_native's

    def start(self) -> None:
        """Begin to take completions."""
        self._completions.start(self._take_advisories)
        self._gate.start()

    def serve(self, paths: dict[str, Path], settings: QueueSettings) -> None:
        """Open the sockets. Blocks.

        Raises: as ``broker.start``.
        """
        self.addresses |= broker.start(self._engine, paths, settings)

    def report_losses(self) -> None:
        """Begin to say what gets lost at the sockets, in the log and to those who listen to advisories."""
        self._losses.start(self._advisories.tell)

    def load(self) -> None:
        """Open all streams and consumers that are in the catalogue, before anybody is served. Blocks."""
        for name in self._catalogue.streams():
            try:
                check_name("stream", name)
                config = self._catalogue.stream(name)
                self._open_stream(name, config)
            except PlatformError as error:
                self.problems[name] = error
                log.error("stream %s cannot be opened: %s", name, error)
            else:
                self._streams[name] = config
                self._load_consumers(name)

    async def stop(self) -> bool:
        """Take nothing more, get everything onto the disk, answer everybody. Whether it ended in time."""
        with trio.move_on_after(STOP_DEADLINE, shield=True):
            self._stopping = True
            if self._busy:
                await self._idle.wait()
            await self._losses.stop()
            await trio.to_thread.run_sync(lib.pd_engine_stop, self._engine, abandon_on_cancel=True)
            await self._completions.stop()
            await self._gate.stop()
            await self._checkers.stop()
            return True
        return False

    # Streams

    async def put_stream(self, name: str, config: StreamConfig) -> StreamInfo:
        """As ``contract.Streams.put_stream``; tries again to open one that could not be opened."""
        check_name("stream", name)
        if config.compression != "none":
            zstd.functions()  # refuses where there is none
        async with self._changing:
            known = self._known_configs()
            check_subjects(name, config, known)
            check_same_retention(name, known.get(name, config), config)
            await self._in_thread(self._put_stream, name, config)
        return self.stream(name)

    def _put_stream(self, name: str, config: StreamConfig) -> None:
        new = name not in self._streams and name not in self.problems
        if new:  # the configuration first: a log without one would be a riddle after a crash
            self._catalogue.save_stream(name, config)
        try:
            self._open_stream(name, config)
        except PlatformError:
            if new:
                self._catalogue.begin_delete(name)
                self._catalogue.finish_delete(name)
            raise
        if not new:
            self._catalogue.save_stream(name, config)
        self._streams[name] = config
        if self.problems.pop(name, None) is not None or new:
            self._load_consumers(name)

    def _open_stream(self, name: str, config: StreamConfig) -> None:
        subjects, _alive = library.subject_array(config.subjects)
        limits = library.stream_config(config)
        call(named(name), lib.pd_stream_open, self._engine, name.encode(), subjects, len(config.subjects), limits)
        cut = self._raw_info(name).cut_bytes
        if cut and name not in self.cut_bytes:
            self.cut_bytes[name] = cut
            log.warning("stream %s: cut %d bytes at the end of its log, which a crash had left unfinished", name, cut)

    async def delete_stream(self, name: str) -> None:
        """As ``contract.Streams.delete_stream``; also removes one that could not be opened."""
        async with self._changing:
            if name not in self._streams and name not in self.problems:
                raise no_stream(name)
            # First of all, on the loop: whoever lists the streams while the thread works must not ask C for this one.
            known, consumers = self._streams.pop(name, None), self._consumers.pop(name, None)
            try:
                await self._in_thread(self._delete_stream, name, known is not None)
            except BaseException:
                if known is not None:
                    self._streams[name] = known
                if consumers is not None:
                    self._consumers[name] = consumers
                raise

    def _delete_stream(self, name: str, opened: bool) -> None:
        if opened:
            self._catalogue.begin_delete(name)
            try:
                call(named(name), lib.pd_stream_delete, self._engine, name.encode())
            except PlatformError:
                self._catalogue.undo_delete(name)
                raise
        self._catalogue.finish_delete(name)
        self._checkers.forget(name)
        self.cut_bytes.pop(name, None)
        for place in [p for p in self.problems if p.partition("/")[0] == name]:
            del self.problems[place]

    def streams(self) -> tuple[StreamInfo, ...]:
        """As ``contract.Streams.streams``; those in ``problems`` are not among them."""
        return tuple(self.stream(name) for name in sorted(self._streams))

    def stream(self, name: str) -> StreamInfo:
        """As ``contract.Streams.stream``.

        Raises:
            NotFound: it is not there.
            Corrupted: it could not be opened; the message names the file.
        """
        config = self._stream_config(name)
        return library.stream_info(name, config, self._raw_info(name))

    def socket_statistics(self) -> SocketStatistics:
        """What the sockets for plain nng programs did since the engine was opened."""
        self._check_open()
        return broker.statistics(self._engine)

    def statistics(self) -> QueueStatistics:
        """Counters since the engine was opened."""
        self._check_open()
        raw = ffi.new("pd_statistics *")
        lib.pd_engine_statistics(self._engine, raw)
        return QueueStatistics(**{name: getattr(raw, name) for name in QueueStatistics.__struct_fields__})
