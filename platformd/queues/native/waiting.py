"""Waiting for a stream to grow: however many wait, C is asked to tell of it once, and told ones ask nothing more."""

from __future__ import annotations

from typing import Any

import trio

from platformd.core.errors import PlatformError
from platformd.queues.checks import named
from platformd.queues.codec import error_for
from platformd.queues.native._native import lib
from platformd.queues.native.completions import Completions
from platformd.queues.native.library import call


class _Growth:
    """Of one stream, from one sequence on."""

    def __init__(self) -> None:
        self.over = trio.Event()
        self.error: PlatformError | None = None


class Waits:
    """Those who wait, by stream.

    Args:
        engine: the ``pd_engine``.
        completions: through which C tells.
    """

    def __init__(self, engine: Any, completions: Completions) -> None:
        self._engine = engine
        self._completions = completions
        self._growing: dict[str, _Growth] = {}

    async def growth(self, stream: str, visible: int) -> None:
        """Wait until more than up to ``visible`` can be read, which is what can now.

        Raises:
            NotFound: the stream goes.
            Unavailable: the engine stops.
        """
        growth = self._growing.get(stream)
        if growth is None:
            growth = self._growing[stream] = _Growth()
            # A system task: who began it may be cancelled, and the others still wait.
            trio.lowlevel.spawn_system_task(self._watch, stream, visible, growth)
        await growth.over.wait()
        if growth.error is not None:
            raise growth.error

    async def _watch(self, stream: str, visible: int, growth: _Growth) -> None:
        try:
            token = self._completions.token()
            call(named(stream), lib.pd_stream_await, self._engine, stream.encode(), visible, token)
            completion = await self._completions.wait(token)
            if completion.status:
                growth.error = error_for(completion.status, "it went while somebody waited", subject=named(stream))
        except PlatformError as error:
            growth.error = error
        finally:
            if self._growing.get(stream) is growth:
                del self._growing[stream]
            growth.over.set()
