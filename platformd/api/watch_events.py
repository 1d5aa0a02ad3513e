"""A watch as server-sent events (WHATWG HTML §9.2)."""

from __future__ import annotations

from contextlib import AsyncExitStack
from types import TracebackType
from typing import Final

import trio
from quart import Response, request
from quart.wrappers.response import ResponseBody

from platformd.api.access import ended
from platformd.api.problems import as_platform_error
from platformd.api.replies import encode, request_id
from platformd.api.watch import Followed, Said, Watches
from platformd.core.errors import LimitReached, PlatformError

RETRY_MILLISECONDS: Final = 1000
"""How long a browser waits before it connects again."""
_HEARTBEAT: Final = b": \n\n"


def events_response(watches: Watches, followed: Followed) -> Response:
    """The response whose body is a watch.

    Raises:
        LimitReached: there are as many watches as may be.
    """
    watches.check_room()
    body: ResponseBody | bytes = b"" if request.method == "HEAD" else EventsBody(watches, followed)
    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    response = Response(body, 200, headers, content_type="text/event-stream")
    response.timeout = None
    return response


class EventsBody(ResponseBody):
    """The body of one response with server-sent events: the watch, heartbeats, and its end.

    The watch itself runs in a task of its own, because waiting for the next batch with a timeout would
    cancel the iterator below, which does not survive that.
    """

    def __init__(self, watches: Watches, followed: Followed) -> None:
        self._watches, self._followed = watches, followed
        self._request_id = request_id()
        self._ended = ended()
        self._stack = AsyncExitStack()
        self._out: trio.MemoryReceiveChannel[bytes]

    async def __aenter__(self) -> EventsBody:
        await self._stack.__aenter__()
        into, self._out = trio.open_memory_channel[bytes](0)
        self._stack.callback(self._out.close)
        try:
            self._stack.enter_context(self._watches.place())
            full = None
        except LimitReached as error:  # another one took the place since the response was begun
            full = error
        nursery = await self._stack.enter_async_context(trio.open_nursery())
        self._stack.callback(nursery.cancel_scope.cancel)
        if full is not None:
            nursery.start_soon(self._say_error, into, full)
            return self
        following = trio.CancelScope()
        nursery.start_soon(self._follow, into, following)
        nursery.start_soon(self._watches.end, following)
        nursery.start_soon(self._watches.end_when, self._ended, following)
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc_value: BaseException | None, tb: TracebackType | None
    ) -> None:
        await self._stack.__aexit__(exc_type, exc_value, tb)

    def __aiter__(self) -> EventsBody:
        return self

    async def __anext__(self) -> bytes:
        with trio.move_on_after(self._watches.heartbeat):
            try:
                return await self._out.receive()
            except trio.EndOfChannel:
                raise StopAsyncIteration from None
        return _HEARTBEAT

    async def _follow(self, into: trio.MemorySendChannel[bytes], scope: trio.CancelScope) -> None:
        """Give the watch its bytes until it ends; errors become its last event."""

        async def say(said: list[Said]) -> None:
            await into.send(b"".join(map(event, said)))

        with scope, into:
            try:
                await into.send(b"retry: %d\n\n" % RETRY_MILLISECONDS)
                await self._followed.follow(say)
            except Exception as error:  # noqa: BLE001 - it ends this watch, is logged, and the client is told
                await into.send(error_event(as_platform_error(error, self._request_id, "watch")))

    @staticmethod
    async def _say_error(into: trio.MemorySendChannel[bytes], error: PlatformError) -> None:
        with into:
            await into.send(error_event(error))


def event(said: Said) -> bytes:
    """One server-sent event; its data is JSON, which has no line ends of its own."""
    return b"id: %d\nevent: %s\ndata: %s\n\n" % (said.id, said.name.encode("ascii"), said.data)


def error_event(error: PlatformError) -> bytes:
    """The event that ends a watch: a problem document. It has no id, so it is not gone on from."""
    return b"event: error\ndata: %s\n\n" % encode(error.to_problem())
