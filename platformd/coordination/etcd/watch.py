"""Watches: one exchange with a member for each, begun again elsewhere when it breaks.

A watcher has no task of its own. What a member sends is read when the watcher is iterated; while it is not, the
exchange's window stays closed and the member goes back to reading history for it: memory is bounded, and a slow
watcher costs nobody else anything.

``seen`` is the place in history: all that is wanted up to it was received. It only moves by whole revisions, so
after any interruption the watch goes on at ``seen`` + 1, and events at or before it are dropped when they come again.
Two traps on the way there:

- The revision in the header of an answer with events may be ahead of them while the member catches up, so
  only events themselves and answers without any (progress) move ``seen``.
- Where a watch begins "now" is decided by a read of the cluster, not by the member: one that lags behind
  would begin in the past, and its progress would lie before what was promised.
"""

from __future__ import annotations

from collections.abc import Sequence

import trio

from platformd.coordination.contract import Compacted, Event, EventType, FutureRevision, WatchBatch
from platformd.coordination.etcd import messages
from platformd.coordination.etcd.channel import Channel, Exchange
from platformd.coordination.etcd.errors import Again, refusal
from platformd.coordination.etcd.keyspace import Bounds, Keyspace
from platformd.coordination.etcd.messages import WatchAnswer
from platformd.coordination.etcd.reader import Reader
from platformd.coordination.etcd.stream import Lost, Oversize
from platformd.coordination.etcd.versions import answers_progress
from platformd.core.errors import DeadlineExceeded, LimitReached, PlatformError, TooLarge, Unavailable

_UNNAMED = 2  # gRPC's code for what has none: a watch's reason for its end comes as text only


class Watcher:
    """One watch. Iterating it gives ``WatchBatch``es; one task may do so.

    Args:
        hub: where it belongs.
        bounds: its range.
        previous: whether it wants what was before each event.
        only: the kind of events that it wants; ``None`` for all.
    """

    def __init__(self, hub: WatchHub, bounds: Bounds, *, previous: bool, only: EventType | None) -> None:
        self.seen = 0
        self._hub = hub
        self._bounds = bounds
        self._previous = previous
        self._only = only
        self._told = 0  # the revision of the last batch that was handed out
        self._begun = False
        self._bookmark = False
        self._events: list[Event] = []  # of whole revisions up to ``seen``
        self._partial: list[Event] = []  # of the one after them
        self._exchange: Exchange | None = None
        self._broken: Exception | None = None

    def __aiter__(self) -> Watcher:
        return self

    async def __anext__(self) -> WatchBatch:
        await trio.lowlevel.checkpoint()
        while True:
            batch = self._next()
            if batch is not None:
                return batch
            if self._exchange is None:
                await self._resume()
            else:
                await self._receive(self._exchange)

    def _next(self) -> WatchBatch | None:
        if not self._begun:
            self._begun = True
            return WatchBatch(revision=self._told)
        if self._events or (self._bookmark and self.seen > self._told):
            events, self._events = self._events, []
            self._told, self._bookmark = self.seen, False
            return WatchBatch(revision=self.seen, events=tuple(events))
        if self._broken is not None:
            raise self._broken
        return None

    # --- receiving ---

    async def _receive(self, exchange: Exchange) -> None:
        message: bytes | None = None
        try:
            with trio.move_on_after(self._hub.progress_interval) as idle:
                message = await exchange.stream.receive()
            if idle.cancelled_caught:
                if answers_progress(exchange.connection.version):
                    exchange.stream.send(messages.watch_progress())
                return
            while message is not None:
                self._handle(exchange, self._hub.decode(message))
                if self._exchange is None or len(self._events) >= self._hub.batch:
                    return
                message = exchange.stream.take()
            if exchange.stream.end is not None:
                end = exchange.stream.end
                self._ended(exchange, end.status or _UNNAMED, end.message)
        except Lost:
            self._drop()
        except Oversize as error:
            self._fail(TooLarge(str(error), subject="watch", hint="raise max_message"))

    def _handle(self, exchange: Exchange, answer: WatchAnswer) -> None:
        if answer.canceled:
            if answer.compact_revision:
                self._fail(Compacted(self.seen + 1, self._hub.reader.was_compacted(answer.compact_revision)))
            else:
                self._ended(exchange, _UNNAMED, answer.reason)
        elif answer.events:
            self._take(answer.events, fragment=answer.fragment)
        elif not answer.created and answer.revision > self.seen and not self._partial:
            self.seen = answer.revision
            self._bookmark = True

    def _take(self, events: Sequence[Event], *, fragment: bool) -> None:
        """New events; with ``fragment`` the rest of their last revision may come in the next answer."""
        fresh = [*self._partial, *(event for event in events if event.kv.mod_revision > self.seen)]
        if not fresh:
            return
        self._partial = []
        if fragment:
            last = fresh[-1].kv.mod_revision
            self._partial = [event for event in fresh if event.kv.mod_revision == last]
            fresh = fresh[: len(fresh) - len(self._partial)]
        if fresh:
            fresh.sort(key=_order)
            self._events += fresh
            self.seen = fresh[-1].kv.mod_revision

    def _ended(self, exchange: Exchange, status: int, reason: str) -> None:
        """The member has ended it: for good, or so that another one is asked."""
        refused = refusal(status, reason)
        if refused.again is Again.NEVER:
            self._fail(refused.error)
        else:
            self._hub.channel.after_refusal(refused, exchange.connection, exchange.token)
            self._drop()

    def _drop(self) -> None:
        """What was begun is over; what was received in part will come again."""
        if self._exchange is not None:
            self._exchange.close()
            self._exchange = None
        self._partial = []

    def _fail(self, error: Exception) -> None:
        self._drop()
        self._broken = self._broken or error

    # --- beginning ---

    async def begin(self, start: int) -> None:
        """Have the watch in place, from ``start`` (0: now) on.

        Raises:
            Compacted, FutureRevision: ``start`` cannot be watched from.
        """
        channel = self._hub.channel
        newest = await self._hub.reader.newest()
        start = start or newest + 1
        if start > newest + 1:
            raise FutureRevision(
                f"cannot watch from revision {start}; the newest is {newest}",
                subject="store",
                hint="list again and go on from its revision: the store was restored, or is another one",
            )
        self.seen = self._told = start - 1
        failures, deadline = 0, trio.current_time() + channel.timeout
        while self._exchange is None:
            try:
                self._exchange = await self._create(start, newest)
            except Unavailable:
                failures += 1
                if trio.current_time() >= deadline or channel.closed:
                    raise
                await trio.sleep(channel.delay(failures))

    async def _resume(self) -> None:
        failures = 0
        while True:
            try:
                newest = await self._hub.reader.newest()
                if newest < self.seen:
                    self._fail(FutureRevision(f"the store went back from revision {self.seen} to {newest}"))
                else:
                    self._exchange = await self._create(self.seen + 1, newest)
            except (Unavailable, DeadlineExceeded) as error:
                if self._hub.channel.closed:
                    self._fail(error)
                    return
                failures += 1
                await trio.sleep(self._hub.channel.delay(failures))
            except PlatformError as error:
                self._fail(error)
                return
            else:
                return

    async def _create(self, start: int, newest: int) -> Exchange:
        """An exchange that will give all from ``start`` on.

        Raises:
            Compacted: history begins later.
            PlatformError: it is refused.
        """
        request = messages.watch_create(self._bounds, start, previous=self._previous, only=self._only)
        exchange = await self._hub.channel.open(messages.WATCH, request)
        try:
            with trio.fail_after(self._hub.channel.timeout):
                await self._created(exchange)
                if start <= newest:  # else etcd says so too, but later; who enters wants to know now
                    await self._hub.reader.watchable(start)
        except (Lost, trio.TooSlowError) as error:
            exchange.close()
            raise Unavailable(f"the watch was not begun ({str(error) or 'no answer'})", subject="etcd") from error
        except BaseException:
            exchange.close()
            raise
        return exchange

    async def _created(self, exchange: Exchange) -> None:
        message = await exchange.stream.receive()
        if message is None:
            assert exchange.stream.end is not None
            refused = refusal(exchange.stream.end.status or _UNNAMED, exchange.stream.end.message)
        else:
            answer = self._hub.decode(message)
            if not answer.canceled:
                return
            refused = refusal(_UNNAMED, answer.reason)
        if refused.again is Again.NEVER:
            raise refused.error
        self._hub.channel.after_refusal(refused, exchange.connection, exchange.token)
        raise Unavailable(refused.error.message, subject="etcd", hint=refused.error.hint)

    def close(self, error: Exception) -> None:
        """End it; iterating it raises ``error``."""
        self._events.clear()
        self._broken = error
        self._drop()


class WatchHub:
    """All watches of a store.

    Args:
        channel: the way to the cluster.
        reader: its reads.
        keyspace: our keys there.
        max_watchers: open watches at once.
        batch: about how many events are handed out together.
        progress_interval: how often an idle watch asks how far it is, seconds.
    """

    def __init__(
        self,
        channel: Channel,
        reader: Reader,
        keyspace: Keyspace,
        *,
        max_watchers: int,
        batch: int,
        progress_interval: float,
    ) -> None:
        self.channel = channel
        self.reader = reader
        self._cut = keyspace.cut
        self._last: tuple[bytes, WatchAnswer] = b"", messages.watch_response(b"", 0)
        self.batch = batch
        self.progress_interval = progress_interval
        self._max = max_watchers
        self._all: set[Watcher] = set()

    def __len__(self) -> int:
        return len(self._all)

    def decode(self, message: bytes) -> WatchAnswer:
        """An answer; of the same one to many watches of a range, one after the other, only the first costs anything."""
        if message != self._last[0]:
            self._last = message, messages.watch_response(message, self._cut)
        return self._last[1]

    def add(self, bounds: Bounds, *, previous: bool, only: EventType | None) -> Watcher:
        """A watch that is not begun yet.

        Raises:
            LimitReached: there are too many.
        """
        if len(self._all) >= self._max:
            raise LimitReached(
                f"{self._max} watches are open; max_watchers is {self._max}",
                subject="watch",
                hint="close some, or raise store.max_watchers",
            )
        watcher = Watcher(self, bounds, previous=previous, only=only)
        self._all.add(watcher)
        return watcher

    def remove(self, watcher: Watcher) -> None:
        """Forget a watch."""
        self._all.discard(watcher)
        watcher.close(trio.ClosedResourceError("the watch's block was left"))


def _order(event: Event) -> tuple[int, bytes]:
    return event.kv.mod_revision, event.kv.key
