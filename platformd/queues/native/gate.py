"""Batches from the sockets for streams that validate: from C's gate to the checkers and back.

C tells by an eventfd that batches wait; one task here takes them in their order, asks, and answers. It takes them
as fast as they come, since the gate has no more than a bounded number of them. Those that expect a sequence of a stream
that must read its log first, once, wait for that; others may be answered before them.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import trio

from platformd.core.errors import InvalidInput, LimitReached, NotFound, PlatformError
from platformd.queues.checks import named
from platformd.queues.codec import Status, decode_batch, encode_batch
from platformd.queues.codec.status import detail_of
from platformd.queues.contract import StreamConfig
from platformd.queues.encodings.checkers import Checkers
from platformd.queues.native import library
from platformd.queues.native._native import ffi, lib
from platformd.queues.native.library import call

LEARNERS = 2
"""Worker threads that read logs for what batches expect."""
MAX_DETAIL = 4096
"""Bytes of the sentence that a publisher is told."""

_STATUSES: tuple[tuple[type[PlatformError], Status], ...] = (
    (InvalidInput, Status.INVALID),
    (LimitReached, Status.LIMIT_REACHED),
    (NotFound, Status.NO_STREAM),
)


class Gate:
    """Answers C's gate.

    Args:
        engine: the ``pd_engine``.
        checkers: who looks into payloads.
        streams: the configurations, as they are at any time.
    """

    def __init__(self, engine: Any, checkers: Checkers, streams: Mapping[str, StreamConfig]) -> None:
        self._engine = engine
        self._checkers = checkers
        self._streams = streams
        self._scope = trio.CancelScope()
        self._ended = trio.Event()
        self._learners = trio.CapacityLimiter(LEARNERS)
        self._learning = 0
        self._learned = trio.Event()

    def start(self) -> None:
        """Begin. A system task, for the reason that ``Completions`` has one."""
        event_fd = ffi.new("int *")
        call("queues", lib.pd_gate_open, self._engine, event_fd)
        trio.lowlevel.spawn_system_task(self._run, event_fd[0])

    async def stop(self) -> None:
        """End. The engine has stopped, and with it everything was answered."""
        self._scope.cancel()
        await self._ended.wait()
        if self._learning:
            self._learned = trio.Event()
            await self._learned.wait()

    async def _run(self, event_fd: int) -> None:
        try:
            with self._scope:
                while True:
                    await trio.lowlevel.wait_readable(event_fd)
                    self._take()
        finally:
            self._ended.set()

    def _take(self) -> None:
        token, name = ffi.new("uint64_t *"), ffi.new("char[64]")
        batch, length, wants = ffi.new("uint8_t **"), ffi.new("size_t *"), ffi.new("uint32_t *")
        while lib.pd_gate_take(self._engine, token, name, batch, length, wants):
            stream = ffi.string(name).decode()
            data = library.take_block(batch[0], length[0])
            if wants[0] & lib.PD_GATE_SUBJECTS:
                self._learning += 1
                trio.lowlevel.spawn_system_task(self._learn_and_look, token[0], stream, data)
            else:
                self._look(token[0], stream, data, apart=bool(wants[0] & lib.PD_GATE_APART))

    def _look(self, token: int, stream: str, batch: bytes, *, apart: bool) -> None:
        config = self._streams.get(stream)
        done = partial(self._sort_out, token, batch) if apart else partial(self._answer, token)
        if config is None or not config.format.validate:  # or it was changed meanwhile
            done(None)
        else:
            self._checkers.submit(stream, config.format, batch, done, apart=apart)

    async def _learn_and_look(self, token: int, stream: str, batch: bytes) -> None:
        """Have the stream know its subjects, which may mean to read all of its log, and go on."""
        learn = partial(call, named(stream), lib.pd_stream_know_subjects, self._engine, stream.encode())
        try:
            await trio.to_thread.run_sync(learn, limiter=self._learners)
        except PlatformError as error:  # the engine is stopping, or the stream is gone or damaged
            self._answer(token, error)
        else:
            self._look(token, stream, batch, apart=False)
        finally:
            self._learning -= 1
            if self._learning == 0:
                self._learned.set()

    def _answer(self, token: int, refused: PlatformError | None) -> None:
        status, why = Status.OK, ""
        if refused is not None:
            status = next((s for kind, s in _STATUSES if isinstance(refused, kind)), Status.UNCHECKED)
            why = detail_of(refused)
        lib.pd_gate_answer(self._engine, token, status, why.encode()[:MAX_DETAIL])

    def _sort_out(self, token: int, batch: bytes, refused: PlatformError | None) -> None:
        """Records of different publishers: those that fit are stored."""
        wrong = set(refused.details.get("positions", ())) if refused is not None else set()
        _, records = decode_batch(batch) if wrong else (None, ())
        rest = [record for position, record in enumerate(records) if position not in wrong]
        if not rest or refused is None:
            self._answer(token, refused)
        else:
            encoded, why = encode_batch(rest, 0), detail_of(refused).encode()[:MAX_DETAIL]
            lib.pd_gate_answer_rest(self._engine, token, encoded, len(encoded), len(wrong), why)
