"""The Streams contract on the native engine.

Appends go to C from the trio thread, since they only copy; whatever may wait for the disk goes through a
worker thread. What finishes later comes back through ``completions``. The configurations are ours
(``catalogue``), the records and the cursors are C's; publishing and looking are in ``records``. A stream
that cannot be opened is kept out, stands in ``problems``, and answers every question with what is wrong with
it; the others go on.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any

import msgspec
import trio

from platformd.core.errors import PlatformError
from platformd.queues.codec import error_for
from platformd.queues.codec.frames import check_name, pack_acks
from platformd.queues.contract import (
    Ack,
    Advisory,
    ConsumerConfig,
    ConsumerInfo,
    DeliverPolicy,
    Delivery,
    StreamConfig,
    StreamInfo,
)
from platformd.queues.native import library, supported
from platformd.queues.native._native import ffi, lib
from platformd.queues.native.catalogue import StoredConsumer
from platformd.queues.native.checks import (
    check_pattern,
    check_same_start,
    check_subjects,
    named,
    no_consumer,
    no_stream,
)
from platformd.queues.native.library import U32, call, whole
from platformd.queues.native.records import NativeRecords

STOP_DEADLINE = 10.0
"""Seconds for what was accepted to get onto the disk when the engine stops."""
WAIT_PIECE_MS = 5000
"""A ``fetch`` waits in pieces of this, so that one that was cancelled does not count as waiting for long."""

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


class NativeStreams(NativeRecords):
    """``contract.Streams``; made by ``open_native``."""

    # Life, which is open_native's

    def start(self) -> None:
        """Begin to take completions."""
        self._completions.start()

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
            await trio.to_thread.run_sync(lib.pd_engine_stop, self._engine, abandon_on_cancel=True)
            await self._completions.stop()
            return True
        return False

    # Streams

    async def put_stream(self, name: str, config: StreamConfig) -> StreamInfo:
        """As ``contract.Streams.put_stream``; tries again to open one that could not be opened."""
        check_name("stream", name)
        supported.check_stream(named(name), config)
        async with self._changing:
            check_subjects(name, config, self._known_configs())
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

    def _raw_info(self, name: str) -> Any:
        info = ffi.new("pd_stream_info *")
        call(named(name), lib.pd_stream_info_get, self._engine, name.encode(), info)
        return info

    async def delete_stream(self, name: str) -> None:
        """As ``contract.Streams.delete_stream``; also removes one that could not be opened."""
        async with self._changing:
            if name not in self._streams and name not in self.problems:
                raise no_stream(name)
            await self._in_thread(self._delete_stream, name)

    def _delete_stream(self, name: str) -> None:
        if name in self._streams:
            self._catalogue.begin_delete(name)
            try:
                call(named(name), lib.pd_stream_delete, self._engine, name.encode())
            except PlatformError:
                self._catalogue.undo_delete(name)
                raise
        self._catalogue.finish_delete(name)
        self._streams.pop(name, None)
        self._consumers.pop(name, None)
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

    # Consumers

    async def put_consumer(self, stream: str, name: str, config: ConsumerConfig) -> ConsumerInfo:
        """As ``contract.Streams.put_consumer``; tries again to open one that could not be opened."""
        check_name("consumer", name)
        check_pattern(config.filter_subject)
        supported.check_consumer(named(stream, name), config)
        async with self._changing:
            info = self.stream(stream)
            stored = self._consumers[stream].get(name)
            if stored is not None:
                check_same_start(stream, name, stored.config, config)
                stored = msgspec.structs.replace(stored, config=config)
            else:
                start: dict[str, int] = {"all": 1, "new": info.last_sequence + 1, "by_sequence": config.start_sequence}
                stored = StoredConsumer(config=config, first_sequence=start[config.deliver_policy])
            await self._in_thread(self._put_consumer, stream, name, stored)
        return self._consumer_info(stream, name)

    def _put_consumer(self, stream: str, name: str, stored: StoredConsumer) -> None:
        before = self._consumers[stream].get(name)
        library.consumer_config(stored.config, stored.first_sequence)  # refuses before anything is written
        if before is None:
            self._catalogue.save_consumer(stream, name, stored)
        try:
            self._open_consumer(stream, name, stored)
        except PlatformError:
            if before is None:
                self._catalogue.remove_consumer(stream, name)
            raise
        if before is not None:
            self._catalogue.save_consumer(stream, name, stored)
        self._consumers[stream][name] = stored
        self.problems.pop(f"{stream}/{name}", None)

    def _open_consumer(self, stream: str, name: str, stored: StoredConsumer) -> None:
        config = library.consumer_config(stored.config, stored.first_sequence)
        pattern = stored.config.filter_subject.encode()
        subject = named(stream, name)
        call(subject, lib.pd_consumer_open, self._engine, stream.encode(), name.encode(), pattern, config)

    async def seek(
        self, stream: str, consumer: str, policy: DeliverPolicy, *, sequence: int = 1, time_ns: int = 0
    ) -> ConsumerInfo:
        """As ``contract.Streams.seek``."""
        raise supported.unsupported(named(stream, consumer), "seek")

    async def delete_consumer(self, stream: str, name: str) -> None:
        """As ``contract.Streams.delete_consumer``; also removes one that could not be opened."""
        async with self._changing:
            self._stream_config(stream)
            if name not in self._consumers[stream] and f"{stream}/{name}" not in self.problems:
                raise no_consumer(stream, name)
            await self._in_thread(self._delete_consumer, stream, name)

    def _delete_consumer(self, stream: str, name: str) -> None:
        self._catalogue.remove_consumer(stream, name)
        if self.problems.pop(f"{stream}/{name}", None) is None:
            call(named(stream, name), lib.pd_consumer_delete, self._engine, stream.encode(), name.encode())
        else:
            self._catalogue.consumers(stream)  # takes its journal away
        self._consumers[stream].pop(name, None)

    def consumers(self, stream: str) -> tuple[ConsumerInfo, ...]:
        """As ``contract.Streams.consumers``; those in ``problems`` are not among them."""
        self._stream_config(stream)
        names = sorted(n for n in self._consumers[stream] if f"{stream}/{n}" not in self.problems)
        return tuple(self._consumer_info(stream, name) for name in names)

    async def fetch(
        self, stream: str, consumer: str, *, max_records: int = 256, max_bytes: int = 1 << 20, wait: float = 0.0
    ) -> tuple[Delivery, ...]:
        """As ``contract.Streams.fetch``. What is taken belongs to this process, until it is acknowledged or late."""
        self._check_consumer(stream, consumer)
        names = (stream.encode(), consumer.encode())
        wanted = (whole("max_records", max_records, U32, 1), whole("max_bytes", max_bytes, U32, 1))
        until = trio.current_time() + wait
        while True:
            taken = await self._in_thread(self._take, named(stream, consumer), lib.pd_consumer_fetch, *names, *wanted)
            remaining = until - trio.current_time()
            if taken or remaining <= 0:
                return taken
            self._check_open()
            token = self._completions.token()
            wait_ms = min(int(remaining * 1000) + 1, WAIT_PIECE_MS)
            call(named(stream, consumer), lib.pd_consumer_wait, self._engine, *names, wait_ms, token)
            completion = await self._completions.wait(token)
            if completion.status:
                raise error_for(
                    completion.status, "it was deleted while a fetch waited", subject=named(stream, consumer)
                )

    async def ack(self, stream: str, consumer: str, acks: Sequence[Ack]) -> int:
        """As ``contract.Streams.ack``."""
        self._check_consumer(stream, consumer)
        if not acks:
            return 0
        packed = ffi.from_buffer("pd_ack[]", bytearray(pack_acks(acks)))
        known = ffi.new("uint32_t *")
        names = (stream.encode(), consumer.encode())
        await self._in_thread(
            call, named(stream, consumer), lib.pd_consumer_ack, self._engine, *names, packed, len(acks), known
        )
        return int(known[0])

    def advisories(self) -> AbstractAsyncContextManager[AsyncIterator[Advisory]]:
        """As ``contract.Streams.advisories``."""
        raise supported.unsupported("queues", "advisories")

    def statistics(self) -> QueueStatistics:
        """Counters since the engine was opened."""
        self._check_open()
        raw = ffi.new("pd_statistics *")
        lib.pd_engine_statistics(self._engine, raw)
        return QueueStatistics(**{name: getattr(raw, name) for name in QueueStatistics.__struct_fields__})

    # Inside

    def _load_consumers(self, stream: str) -> None:
        consumers = self._consumers[stream] = {}
        for name in self._catalogue.consumers(stream):
            try:
                check_name("consumer", name)
                stored = consumers[name] = self._catalogue.consumer(stream, name)
                self._open_consumer(stream, name, stored)
            except PlatformError as error:
                self.problems[f"{stream}/{name}"] = error
                log.error("consumer %s/%s cannot be opened: %s", stream, name, error)

    def _check_consumer(self, stream: str, name: str) -> None:
        self._stream_config(stream)
        if f"{stream}/{name}" in self.problems:
            raise self.problems[f"{stream}/{name}"]
        if name not in self._consumers[stream]:
            raise no_consumer(stream, name)

    def _consumer_info(self, stream: str, name: str) -> ConsumerInfo:
        self._check_consumer(stream, name)
        info = ffi.new("pd_consumer_info *")
        call(named(stream, name), lib.pd_consumer_info_get, self._engine, stream.encode(), name.encode(), info)
        counts = {
            field: getattr(info, field)
            for field in ConsumerInfo.__struct_fields__
            if field not in ("stream", "name", "config")
        }
        return ConsumerInfo(stream=stream, name=name, config=self._consumers[stream][name].config, **counts)
