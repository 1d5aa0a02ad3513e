"""Records of the Streams contract on the native engine: publishing, looking, removing."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import trio

from platformd.model.subjects import subject_error, subject_matches
from platformd.queues.checks import whole
from platformd.queues.codec import NO_EXPECTATION, Status, encode_batch, error_for
from platformd.queues.codec.frames import durability_code
from platformd.queues.contract import Delivery, Durability, Published, Record
from platformd.queues.native._native import ffi, lib
from platformd.queues.native.base import NativeBase
from platformd.queues.native.checks import check_pattern, named
from platformd.queues.native.library import U32, U64, call

READ_BYTES = 16 << 20
"""The most that one ``read`` gives, in bytes of records; it gives at least one record."""
ROOM_RETRY = 0.01
"""Seconds after which a publish that found the engine's buffer full tries again, if nothing of ours completes."""


class NativeRecords(NativeBase):
    """The methods of ``contract.Streams`` that are about records and no consumer."""

    def stream_for(self, subject: str) -> str | None:
        """As ``contract.Streams.stream_for``."""
        self._check_open()
        if subject_error(subject, pattern=False):
            return None
        name, error = ffi.new("char[64]"), ffi.new("pd_error *")
        if lib.pd_stream_find(self._engine, subject.encode(), name, 64, error) == Status.OK:
            found: str = ffi.string(name).decode()
            return found
        for damaged, config in self._known_configs().items():
            if damaged in self.problems and any(subject_matches(p, subject) for p in config.subjects):
                return damaged
        return None

    async def publish(
        self,
        records: Sequence[Record],
        *,
        stream: str = "",
        durability: Durability = "fsync",
        expect_last_sequence: int | None = None,
        expect_last_subject_sequence: int | None = None,
    ) -> Published:
        """As ``contract.Streams.publish``; when the engine's buffer is full, it waits for room.

        Cancelled: the records may or may not be appended.
        """
        batch = encode_batch(records, self._clock.time_ns())
        name = stream or self.stream_for(records[0].subject) or ""
        form = self._stream_config(name).format if name else None
        if name:
            await self._know_subjects(name, expect_last_subject_sequence is not None)
        expected = (
            _expected("expect_last_sequence", expect_last_sequence),
            _expected("expect_last_subject_sequence", expect_last_subject_sequence),
        )
        subject = named(name) if name else None
        where = (self._engine, stream.encode(), batch, len(batch), durability_code(durability))
        append = partial(lib.pd_append_expecting, *where, *expected)
        await trio.lowlevel.checkpoint_if_cancelled()
        if form is not None and form.validate:
            await self._checkers.check(name, form, batch)
        while True:
            self._check_open()
            token, error = self._completions.token(), ffi.new("pd_error *")
            status = append(token, error)
            if status != Status.LIMIT_REACHED:
                break
            await self._completions.wait_for_any(ROOM_RETRY)
        if status:
            raise error_for(status, ffi.string(error.text).decode(errors="replace"), subject=subject)
        completion = await self._completions.wait(token)
        if completion.status:
            raise error_for(completion.status, f"the batch could not be stored ({durability})", subject=subject)
        return Published(
            stream=name,
            first_sequence=completion.first_sequence,
            appended=completion.appended,
            duplicates=completion.duplicates,
        )

    async def _know_subjects(self, stream: str, expecting: bool) -> None:
        """What a publish has to know is read from the log first, in a worker thread: it may be much."""
        config = self._stream_config(stream)
        if not expecting and not (config.max_records_per_subject and config.discard == "new"):
            return
        if not self._raw_info(stream).knows_subjects:
            await self._in_thread(call, named(stream), lib.pd_stream_know_subjects, self._engine, stream.encode())

    async def read(self, stream: str, *, after: int = 0, limit: int = 100, subject: str = ">") -> tuple[Delivery, ...]:
        """As ``contract.Streams.read``; fewer than ``limit`` also when they are over ``READ_BYTES`` together."""
        self._stream_config(stream)
        check_pattern(subject)
        arguments = (stream.encode(), whole("after", after, U64), subject.encode(), whole("limit", limit, U32, 1))
        return await self._in_thread(self._take, named(stream), lib.pd_stream_read, *arguments, READ_BYTES)

    async def wait(self, stream: str, after: int) -> int:
        """As ``contract.Streams.wait``."""
        await trio.lowlevel.checkpoint_if_cancelled()
        while True:
            self._stream_config(stream)
            visible = int(self._raw_info(stream).durable_sequence)
            if visible > after:
                await trio.lowlevel.cancel_shielded_checkpoint()
                return visible
            await self._waits.growth(stream, visible)

    async def purge(self, stream: str, *, subject: str = ">", before: int = 0, keep: int = 0) -> int:
        """As ``contract.Streams.purge``."""
        self._stream_config(stream)
        check_pattern(subject)
        bounds = (whole("before", before, U64), whole("keep", keep, U64))
        removed = ffi.new("uint64_t *")
        await self._in_thread(
            call, named(stream), lib.pd_stream_purge, self._engine, stream.encode(), subject.encode(), *bounds, removed
        )
        return int(removed[0])


def _expected(name: str, sequence: int | None) -> int:
    return NO_EXPECTATION if sequence is None else whole(name, sequence, NO_EXPECTATION - 1)
