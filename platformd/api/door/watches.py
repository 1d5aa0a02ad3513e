"""A watch of a client: the store's batches, as long as the client has given credit and takes what was sent."""

from __future__ import annotations

from collections.abc import Callable

import trio

from platformd.api.door.outbox import Outbox
from platformd.coordination.codec import frames
from platformd.coordination.codec.replies import wire_events, wire_problem
from platformd.coordination.codec.requests import WatchRequest
from platformd.coordination.contract import Store
from platformd.core.errors import PlatformError


class Watch:
    """One watch.

    Args:
        store: what is watched.
        request: what was asked for.
        outbox: where batches go.
        max_credit: the most credit that is kept, bytes.
        note: told what ends it.
    """

    def __init__(
        self,
        store: Store,
        request: WatchRequest,
        outbox: Outbox,
        max_credit: int,
        note: Callable[[PlatformError], None],
    ) -> None:
        self._store = store
        self._request = request
        self._outbox = outbox
        self._max_credit = max_credit
        self._note = note
        self._credit = min(request.credit, max_credit)
        self._more = trio.lowlevel.ParkingLot()
        self._scope = trio.CancelScope()

    def give(self, credit: int) -> None:
        """More credit from the client, bytes."""
        self._credit = min(self._credit + max(credit, 0), self._max_credit)
        if self._credit > 0:
            self._more.unpark_all()

    def cancel(self) -> None:
        """End it; nothing more of it is sent."""
        self._scope.cancel()

    async def run(self, answered: Callable[[], None]) -> None:
        """Hand batches on until it is cancelled, or the store ends it.

        Args:
            answered: called when the watch is in place or refused.
        """
        number = self._request.id
        try:
            with self._scope:
                await self._hand_on(answered)
        except PlatformError as error:
            self._note(error)
            self._outbox.put(wire_problem(number, error))
            answered()

    async def _hand_on(self, answered: Callable[[], None]) -> None:
        asked, outbox = self._request, self._outbox
        watch = self._store.watch(
            asked.key, asked.end, start_revision=asked.start_revision, previous=asked.previous, only=asked.only
        )
        async with watch as batches:
            # The first batch is a bookmark of the start: a client that knows it can resume from the first moment on.
            batch = await anext(batches)
            outbox.put((frames.WATCHING, asked.id, batch.revision))
            answered()
            while True:
                while self._credit <= 0:
                    await self._more.park()
                batch = await anext(batches)
                await outbox.wait_room()
                self._credit -= outbox.put(wire_events(asked.id, batch))
