"""Watches over HTTP: server-sent events (WHATWG HTML §9.2).

Each change is one event; its ``id`` is a revision to go on from (``Last-Event-ID`` or ``?after``). Only the
last change of a revision carries that revision as its id, the ones before it carry the id before, so that a
client which is cut off between two changes of one revision misses neither. For the same reason everything
that was there at the beginning has id 0 (nothing is complete yet) until the first bookmark.

Memory is bounded by construction: one batch is taken from the conductor when the one before it is written.
A client that does not read holds up its own watch only, until the server's write deadline cuts it off.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AsyncExitStack
from types import TracebackType
from typing import Final

import trio
from quart import Response, request
from quart.wrappers.response import ResponseBody

from platformd.api.context import ApiContext
from platformd.api.problems import as_platform_error
from platformd.api.replies import Query, encode, request_id
from platformd.conductor import Change, ChangeBatch, Conductor
from platformd.conductor.selector import Selector, parse_selector
from platformd.core.errors import InvalidInput, LimitReached, PlatformError
from platformd.core.quantities import seconds
from platformd.model.kind import Kind

MAX_REVISION: Final = 2**63 - 1
CHUNK_BYTES: Final = 64 * 1024
"""Events of one batch are written together up to about this size."""
RETRY_MILLISECONDS: Final = 1000
"""How long a browser waits before it connects again."""
_HEARTBEAT: Final = b": \n\n"


class Watches:
    """All open watch streams."""

    def __init__(self, context: ApiContext) -> None:
        self._conductor = context.conductor
        self._stopping = context.stopping
        self._max = context.settings.http.max_watchers
        self._heartbeat = seconds(context.settings.http.watch_heartbeat)
        self.open = 0
        """How many there are now."""

    def respond(self, kinds: Sequence[Kind], tenant: str, query: Query) -> Response:
        """The response that follows ``kinds``.

        Raises:
            LimitReached: there are as many watches as may be.
            InvalidInput: ``after``, ``Last-Event-ID`` or ``label`` cannot be read.
        """
        after = start_after(query)
        selector = parse_selector(query.text("label")) if query.text("label") else None
        return self.answer(lambda: WatchBody(self, self._conductor, kinds, tenant, after, selector))

    def answer(self, make_body: Callable[[], EventsBody]) -> Response:
        """The response whose body is a watch.

        Raises:
            LimitReached: there are as many watches as may be.
        """
        if self.open >= self._max:
            raise self.limit_reached()
        body: ResponseBody | bytes = b"" if request.method == "HEAD" else make_body()
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        response = Response(body, 200, headers, content_type="text/event-stream")
        response.timeout = None
        return response

    def limit_reached(self) -> LimitReached:
        """The refusal of one watch more."""
        return LimitReached(
            f"{self._max} watches are open, which is the limit",
            subject="http.max_watchers",
            hint="watch several kinds on one connection (/v1/watch?kinds=a,b), or raise the limit",
        )

    async def end(self, scope: trio.CancelScope) -> None:
        """End a watch when the daemon begins to stop."""
        await self._stopping.wait()
        scope.cancel()

    @property
    def heartbeat(self) -> float:
        """Seconds of silence after which a comment is written."""
        return self._heartbeat

    @property
    def full(self) -> bool:
        """Whether there are more than may be."""
        return self.open > self._max


class EventsBody(ResponseBody):
    """The body of one watch response: heartbeats, bounds, and its end; what it says is in ``write``.

    The watch itself runs in a task of its own, because waiting for the next batch with a timeout would
    cancel the iterator below, which does not survive that.
    """

    def __init__(self, watches: Watches, after: int | None) -> None:
        self._watches = watches
        self.after = after
        self.request_id = request_id()
        self._safe = after or 0
        """Everything up to this revision has been written."""
        self._stack = AsyncExitStack()
        self._out: trio.MemoryReceiveChannel[bytes]

    async def write(self, into: trio.MemorySendChannel[bytes]) -> None:
        """Follow what is watched and send its events."""
        raise NotImplementedError

    async def __aenter__(self) -> EventsBody:
        await self._stack.__aenter__()
        self._watches.open += 1
        self._stack.callback(self._closed)
        into, self._out = trio.open_memory_channel[bytes](0)
        self._stack.callback(self._out.close)
        nursery = await self._stack.enter_async_context(trio.open_nursery())
        self._stack.callback(nursery.cancel_scope.cancel)
        if self._watches.full:
            nursery.start_soon(self._say_full, into)
            return self
        following = trio.CancelScope()
        nursery.start_soon(self._follow, into, following)
        nursery.start_soon(self._watches.end, following)
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
        with scope, into:
            try:
                await into.send(b"retry: %d\n\n" % RETRY_MILLISECONDS)
                await self.write(into)
            except Exception as error:  # noqa: BLE001 - it ends this watch, is logged, and the client is told
                await into.send(error_event(as_platform_error(error, self.request_id, "watch")))

    async def _say_full(self, into: trio.MemorySendChannel[bytes]) -> None:
        with into:
            await into.send(error_event(self._watches.limit_reached()))

    def _closed(self) -> None:
        self._watches.open -= 1


class WatchBody(EventsBody):
    """A watch of resources."""

    def __init__(
        self,
        watches: Watches,
        conductor: Conductor,
        kinds: Sequence[Kind],
        tenant: str,
        after: int | None,
        selector: Selector | None,
    ) -> None:
        super().__init__(watches, after)
        self._conductor, self._kinds, self._tenant = conductor, kinds, tenant
        self._selected = Selection(selector) if selector else None

    async def write(self, into: trio.MemorySendChannel[bytes]) -> None:
        """Follow the kinds."""
        async with self._conductor.watch(self._kinds, self._tenant, after=self.after) as batches:
            async for batch in batches:
                for chunk in self.chunks(batch):
                    await into.send(chunk)

    def chunks(self, batch: ChangeBatch) -> Iterator[bytes]:
        """The events of ``batch``, in pieces of about ``CHUNK_BYTES``."""
        if not batch.changes:
            self._safe = max(self._safe, batch.revision)
            yield event(b"bookmark", self._safe, encode({"revision": batch.revision}))
            return
        pieces, size = [], 0
        last = len(batch.changes) - 1
        for i, change in enumerate(batch.changes):
            # A batch of revision 0 is part of a listing: nothing of it is complete before the bookmark.
            if batch.revision and (i == last or batch.changes[i + 1].revision != change.revision):
                self._safe = change.revision
            name: str | None = change.type if self._selected is None else self._selected.seen_as(change)
            if name is not None:
                pieces.append(event(name.encode(), self._safe, encode(change.resource)))
                size += len(pieces[-1])
            if size >= CHUNK_BYTES:
                yield b"".join(pieces)
                pieces, size = [], 0
        if pieces:
            yield b"".join(pieces)


class Selection:
    """A watch through a label selector: a resource whose labels change comes into view or goes out of it."""

    def __init__(self, selector: Selector) -> None:
        self._selector = selector
        self._in_view: dict[str, bool] = {}
        """By uid; what is not in it has not been seen, and may be in the client's view from before."""

    def seen_as(self, change: Change) -> str | None:
        """The type of event that ``change`` is for this watch; ``None`` for none."""
        uid = change.resource.uid
        before = self._in_view.get(uid)
        if change.type == "deleted":
            self._in_view.pop(uid, None)
            return "deleted" if before or (before is None and self._selector(change.resource.labels)) else None
        now = self._in_view[uid] = self._selector(change.resource.labels)
        if now:
            return "added" if before is False else change.type
        return "deleted" if before or (before is None and change.type == "modified") else None


def event(name: bytes, revision: int, data: bytes) -> bytes:
    """One server-sent event; ``data`` is JSON, which has no line ends of its own."""
    return b"id: %d\nevent: %s\ndata: %s\n\n" % (revision, name, data)


def error_event(error: PlatformError) -> bytes:
    """The event that ends a watch: a problem document. It has no id, so it is not gone on from."""
    return b"event: error\ndata: %s\n\n" % encode(error.to_problem())


def start_after(query: Query) -> int | None:
    """The revision to go on from; ``None`` (also for 0) to begin with what is there."""
    given = request.headers.get("Last-Event-ID", "").strip()
    if not given:
        return query.number("after", 0, 0, MAX_REVISION) or None
    if not given.isascii() or not given.isdigit() or int(given[:20]) > MAX_REVISION:
        raise InvalidInput(f"{given[:40]!r} is not a revision", subject="Last-Event-ID")
    return int(given) or None
