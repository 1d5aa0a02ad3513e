"""What finishes in C, brought to the trio tasks that wait for it.

C puts completions on a ring and makes an eventfd readable; one task here drains the ring, many at a time,
and wakes each waiting task directly. Nothing is allocated or called for a message that nobody in this
process waits for.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import outcome
import trio

from platformd.core.errors import Unavailable
from platformd.queues.native._native import ffi, lib

DRAIN = 256
"""Completions that are taken at once."""


class Completion(msgspec.Struct, frozen=True, kw_only=True):
    """What became of an append or a wait; see ``pd_completion``."""

    status: int
    first_sequence: int
    appended: int
    duplicates: tuple[int, ...]
    """Positions in the batch."""


class Completions:
    """Waits for the completions of one engine.

    Args:
        engine: the ``pd_engine``.
        event_fd: readable when there is something.
    """

    def __init__(self, engine: Any, event_fd: int) -> None:
        self._engine = engine
        self._event_fd = event_fd
        self._buffer = ffi.new("pd_completion[]", DRAIN)
        self._waiting: dict[int, trio.lowlevel.Task] = {}
        self._room = trio.lowlevel.ParkingLot()
        self._last_token = 0
        self._scope = trio.CancelScope()
        self._ended = trio.Event()
        self._woken: Callable[[], None] = lambda: None

    def start(self, woken: Callable[[], None]) -> None:
        """Begin to drain, and call ``woken`` each time when C had something to say.

        A system task, because tasks that are being cancelled with everything around them are still owed
        their answers until the engine has stopped; it ends with ``stop``.
        """
        self._woken = woken
        trio.lowlevel.spawn_system_task(self._run)

    async def stop(self) -> None:
        """Give what is there to those who wait, refuse the rest, and end. The engine has stopped."""
        self._scope.cancel()
        await self._ended.wait()
        self._drain()
        gone = Unavailable("the queues are stopping", subject="queues", hint="try again when the daemon is back")
        for task in self._waiting.values():
            trio.lowlevel.reschedule(task, outcome.Error(gone))
        self._waiting.clear()
        self._room.unpark_all()

    def token(self) -> int:
        """A token for something that will complete."""
        self._last_token += 1
        return self._last_token

    async def wait(self, token: int) -> Completion:
        """Wait for ``token``, which was handed to C since the last checkpoint. Cancelled: nobody learns of it."""
        self._waiting[token] = trio.lowlevel.current_task()

        def abort(_raise: object) -> trio.lowlevel.Abort:
            del self._waiting[token]
            return trio.lowlevel.Abort.SUCCEEDED

        completion: Completion = await trio.lowlevel.wait_task_rescheduled(abort)
        return completion

    async def wait_for_any(self, seconds: float) -> None:
        """Wait until something completes, or that many ``seconds``."""
        with trio.move_on_after(seconds):
            await self._room.park()

    async def _run(self) -> None:
        try:
            with self._scope:
                while True:
                    await trio.lowlevel.wait_readable(self._event_fd)
                    self._drain()
        finally:
            self._ended.set()

    def _drain(self) -> None:
        taken = DRAIN
        while taken == DRAIN:
            taken = lib.pd_completions_take(self._engine, self._buffer, DRAIN)
            for i in range(taken):
                self._complete(self._buffer[i])
        self._woken()
        self._room.unpark_all()

    def _complete(self, raw: Any) -> None:
        duplicates: tuple[int, ...] = ()
        if raw.duplicates:  # taken also when nobody waits any more: the engine keeps them until then
            positions = ffi.new("uint32_t[]", raw.duplicates)
            count = lib.pd_completion_duplicates(self._engine, raw.token, positions, raw.duplicates)
            duplicates = tuple(positions[0:count])
        task = self._waiting.pop(raw.token, None)
        if task is not None:
            completion = Completion(
                status=raw.status, first_sequence=raw.first_sequence, appended=raw.appended, duplicates=duplicates
            )
            trio.lowlevel.reschedule(task, outcome.Value(completion))
