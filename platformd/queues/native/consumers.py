"""Consumers of the native engine: making, moving and removing them, fetching and acknowledging.

Where a consumer begins is C's to say, since it knows the log; the answer is written into the catalogue before
the engine makes its files, so that a consumer that lost them in a crash begins there again.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any

import msgspec
import trio

from platformd.core.errors import InvalidInput, NotFound, PlatformError, Unavailable
from platformd.model.subjects import subject_error
from platformd.queues.advisories import Advisories
from platformd.queues.checks import whole
from platformd.queues.codec import Status, error_for
from platformd.queues.codec.frames import check_name, pack_acks
from platformd.queues.contract import Ack, Advisory, ConsumerConfig, ConsumerInfo, DeliverPolicy, Delivery
from platformd.queues.native import library
from platformd.queues.native._native import ffi, lib
from platformd.queues.native.advisories import AdvisoryRing
from platformd.queues.native.catalogue import StoredConsumer
from platformd.queues.native.checks import check_pattern, check_same_start, check_work_queue, named, no_consumer
from platformd.queues.native.library import U32, call
from platformd.queues.native.records import NativeRecords

WAIT_PIECE_MS = 5000
"""A ``fetch`` waits in pieces of this, so that one that was cancelled does not count as waiting for long."""

log = logging.getLogger("platformd.queues")


class NativeConsumers(NativeRecords):
    """The consumers' part of ``NativeStreams``, and what is told of them."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._advisories = Advisories()
        self._ring = AdvisoryRing(self._engine)

    async def put_consumer(self, stream: str, name: str, config: ConsumerConfig) -> ConsumerInfo:
        """As ``contract.Streams.put_consumer``; tries again to open one that could not be opened."""
        check_name("consumer", name)
        check_pattern(config.filter_subject)
        async with self._changing:
            retention = self._stream_config(stream).retention
            self._check_dead_letters(stream, name, config)
            self._forget_if_removed(stream, name)
            stored = self._consumers[stream].get(name)
            if stored is None and retention == "work_queue":
                others = {other: known.config for other, known in self._consumers[stream].items()}
                check_work_queue(stream, name, config, others)
            if stored is not None:
                check_same_start(stream, name, stored.config, config)
                stored = msgspec.structs.replace(stored, config=config)
            await self._in_thread(self._put_consumer, stream, name, stored or StoredConsumer(config=config))
        return self._consumer_info(stream, name)

    def _check_dead_letters(self, stream: str, name: str, config: ConsumerConfig) -> None:
        subject = config.dead_letter_subject
        wrong = subject_error(subject, pattern=False) if subject else None
        if wrong:
            raise InvalidInput(f"the dead_letter_subject {subject!r} {wrong}", subject=named(stream, name))
        target = self.stream_for(subject) if subject else None
        if target == stream:
            raise InvalidInput(
                f"its own stream captures the dead_letter_subject {subject!r}",
                subject=named(stream, name),
                hint="choose a subject that another stream captures",
            )
        if subject and target is None:
            raise NotFound(
                f"no stream captures the dead_letter_subject {subject!r}",
                subject=named(stream, name),
                hint="create the stream first",
            )

    def _put_consumer(self, stream: str, name: str, stored: StoredConsumer) -> None:
        before = self._consumers[stream].get(name)
        library.consumer_config(stored.config, 1)  # refuses before anything is written
        if before is None:
            stored = msgspec.structs.replace(stored, first_sequence=self._first_sequence(stream, name, stored.config))
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
        if self.problems.pop(f"{stream}/{name}", None) is not None:
            self._tell_known(stream)

    def _first_sequence(self, stream: str, name: str, config: ConsumerConfig) -> int:
        start = library.start(config.deliver_policy, config.start_sequence, config.start_time_ns)
        first = ffi.new("uint64_t *")
        pattern = config.filter_subject.encode()
        call(named(stream, name), lib.pd_consumer_start, self._engine, stream.encode(), pattern, start, first)
        return int(first[0])

    def _open_consumer(self, stream: str, name: str, stored: StoredConsumer) -> None:
        config = library.consumer_config(stored.config, stored.first_sequence)
        pattern = stored.config.filter_subject.encode()
        subject = named(stream, name)
        call(subject, lib.pd_consumer_open, self._engine, stream.encode(), name.encode(), pattern, config)

    async def seek(
        self, stream: str, consumer: str, policy: DeliverPolicy, *, sequence: int = 1, time_ns: int = 0
    ) -> ConsumerInfo:
        """As ``contract.Streams.seek``."""
        start = library.start(policy, sequence, time_ns)
        async with self._changing:
            self._check_consumer(stream, consumer)
            await self._in_thread(self._seek, stream, consumer, start)
        return self._consumer_info(stream, consumer)

    def _seek(self, stream: str, name: str, start: object) -> None:
        first, names = ffi.new("uint64_t *"), (stream.encode(), name.encode())
        call(named(stream, name), lib.pd_consumer_seek, self._engine, *names, start, first)
        stored = msgspec.structs.replace(self._consumers[stream][name], first_sequence=int(first[0]))
        self._catalogue.save_consumer(stream, name, stored)
        self._consumers[stream][name] = stored

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
            self._tell_known(stream)
        self._consumers[stream].pop(name, None)

    def consumers(self, stream: str) -> tuple[ConsumerInfo, ...]:
        """As ``contract.Streams.consumers``; those in ``problems`` are not among them."""
        self._stream_config(stream)
        names = sorted(n for n in self._consumers[stream] if f"{stream}/{n}" not in self.problems)
        raw = ((name, self._raw_consumer(stream, name)) for name in names)
        return tuple(self._info_of(stream, name, info) for name, info in raw if info is not None)

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
        packed = bytearray(pack_acks(acks))
        end = len(acks) * ffi.sizeof("pd_ack")
        reasons, said = ffi.from_buffer(packed[end:]), len(packed) - end
        known = ffi.new("uint32_t *")
        packed_acks = (ffi.from_buffer("pd_ack[]", packed), len(acks), reasons, said, known)
        names = (stream.encode(), consumer.encode())
        await self._in_thread(call, named(stream, consumer), lib.pd_consumer_ack, self._engine, *names, *packed_acks)
        return int(known[0])

    def advisories(self) -> AbstractAsyncContextManager[AsyncIterator[Advisory]]:
        """As ``contract.Streams.advisories``."""
        return self._advisories.listen()

    # Inside

    def _take_advisories(self) -> None:
        removed = False
        for advisory, lost in self._ring.take():
            removed = removed or lost > 0 or advisory.kind == "consumer_removed"
            self._advisories.tell(advisory)
        if removed:
            trio.lowlevel.spawn_system_task(self._forget_removed)

    async def _forget_removed(self) -> None:
        """Take consumers that C removed for being idle out of the catalogue."""
        try:
            async with self._changing:
                for stream in tuple(self._streams):
                    await self._in_thread(self._forget_removed_of, stream)
        except Unavailable:
            return  # the next start finds that they have no journal
        except PlatformError as error:
            log.warning("consumers that were idle could not be removed from the disk: %s", error)

    def _forget_removed_of(self, stream: str) -> None:
        for name in tuple(self._consumers[stream]):
            self._forget_if_removed(stream, name)

    def _forget_if_removed(self, stream: str, name: str) -> None:
        known = name in self._consumers[stream] and f"{stream}/{name}" not in self.problems
        if known and self._raw_consumer(stream, name) is None:
            self._catalogue.remove_consumer(stream, name)
            del self._consumers[stream][name]

    def _raw_consumer(self, stream: str, name: str) -> Any:
        """What C says of a consumer; ``None`` when it has none, since nobody used it for ``inactive_after``."""
        info, error = ffi.new("pd_consumer_info *"), ffi.new("pd_error *")
        status = lib.pd_consumer_info_get(self._engine, stream.encode(), name.encode(), info, error)
        if status and status != Status.NO_CONSUMER:
            raise error_for(status, ffi.string(error.text).decode(errors="replace"), subject=named(stream, name))
        return None if status else info

    def _load_consumers(self, stream: str) -> None:
        consumers = self._consumers[stream] = {}
        for name in self._catalogue.consumers(stream):
            try:
                check_name("consumer", name)
                stored = self._catalogue.consumer(stream, name)
                if stored.config.inactive_after and not self._catalogue.has_journal(stream, name):
                    self._catalogue.remove_consumer(stream, name)  # it was idle, and C removed its half
                    continue
                consumers[name] = stored
                self._open_consumer(stream, name, stored)
            except PlatformError as error:
                self.problems[f"{stream}/{name}"] = error
                log.error("consumer %s/%s cannot be opened: %s", stream, name, error)
        self._tell_known(stream)

    def _tell_known(self, stream: str) -> None:
        """Nothing goes for want of interest while there is a consumer that could not be opened."""
        if not any(place.startswith(f"{stream}/") for place in self.problems):
            call(named(stream), lib.pd_stream_consumers_known, self._engine, stream.encode())

    def _check_consumer(self, stream: str, name: str) -> None:
        self._stream_config(stream)
        if f"{stream}/{name}" in self.problems:
            raise self.problems[f"{stream}/{name}"]
        if name not in self._consumers[stream]:
            raise no_consumer(stream, name)

    def _consumer_info(self, stream: str, name: str) -> ConsumerInfo:
        self._check_consumer(stream, name)
        info = self._raw_consumer(stream, name)
        if info is None:
            raise no_consumer(stream, name)
        return self._info_of(stream, name, info)

    def _info_of(self, stream: str, name: str, info: Any) -> ConsumerInfo:
        counts = {
            field: getattr(info, field)
            for field in ConsumerInfo.__struct_fields__
            if field not in ("stream", "name", "config")
        }
        return ConsumerInfo(stream=stream, name=name, config=self._consumers[stream][name].config, **counts)
