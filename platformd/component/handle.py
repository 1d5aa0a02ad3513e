"""What a job's function is given: where it says how far it is, and hears that it is to hold or to stop."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable

import trio

from platformd.core.errors import InvalidInput


class JobStopped(BaseException):
    """Raised by ``Job.check`` in a thread when the job is to stop. Not an ``Exception``, so that nothing that retries
    keeps a job alive; a function that cleans up does so in ``finally``."""


class Job:
    """A job that runs.

    Args:
        number: its id.
        tell: called, on the component's loop, when there is news.
        held: called, on the component's loop, with whether the job is held now.
    """

    def __init__(self, number: str, tell: Callable[[], None], held: Callable[[bool], None]) -> None:
        self.id = number
        self.progress: float | None = None
        self.message: str | None = None
        self._token = trio.lowlevel.current_trio_token()
        self._tell, self._held = tell, held
        self._may_run = trio.Event()
        self._may_run.set()
        self._thread_may_run = threading.Event()
        self._thread_may_run.set()
        self._stopped = False

    @property
    def stopping(self) -> bool:
        """Whether the job was told to stop."""
        return self._stopped

    def report(self, progress: float | None = None, message: str | None = None) -> None:
        """Say how far it is. From the component's loop or from the job's thread.

        Args:
            progress: from 0 to 1.
            message: what it does, in a sentence.

        Raises:
            InvalidInput: ``progress`` is out of its bounds.
        """
        if progress is not None and not 0 <= progress <= 1:
            raise InvalidInput(f"{progress} is not from 0 to 1", subject="progress")
        self.progress = self.progress if progress is None else float(progress)
        self.message = self.message if message is None else message
        self._on_loop(self._tell)

    async def checkpoint(self) -> None:
        """For trio functions: hold here while the component is paused. A job that is stopped is cancelled here."""
        await trio.lowlevel.checkpoint()
        while not self._may_run.is_set():
            self._held(True)
            await self._may_run.wait()
        self._held(False)

    async def sleep(self, seconds: float) -> None:
        """For trio functions: sleep, then hold while the component is paused."""
        await trio.sleep(seconds)
        await self.checkpoint()

    def check(self) -> None:
        """For plain functions, in their thread: hold here while the component is paused.

        Raises:
            JobStopped: the job was told to stop; let it pass.
        """
        if not self._thread_may_run.is_set() and not self._stopped:
            self._on_loop(lambda: self._held(True))
            self._thread_may_run.wait()
            self._on_loop(lambda: self._held(False))
        if self._stopped:
            raise JobStopped(self.id)

    # -- for the component ------------------------------------------------------------------------------------------

    def hold(self) -> None:
        """From the next checkpoint on it waits."""
        if self._may_run.is_set():
            self._may_run = trio.Event()
        self._thread_may_run.clear()

    def go_on(self) -> None:
        """After ``hold``."""
        self._may_run.set()
        self._thread_may_run.set()

    def stop(self) -> None:
        """Have it end at its next checkpoint."""
        self._stopped = True
        self._thread_may_run.set()

    def _on_loop(self, call: Callable[[], None]) -> None:
        try:
            trio.lowlevel.current_task()
        except RuntimeError:
            with contextlib.suppress(trio.RunFinishedError):  # the component has ended without this thread
                self._token.run_sync_soon(call)
        else:
            call()
