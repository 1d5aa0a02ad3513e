"""Watches: each is told by a feed that it shares with others, or reads on by itself; a break of either is resumed.

A watcher is in one of two places:

- *on a feed* (see ``feeds``): what comes is put into its buffer. That is where it is as long as it keeps up.
- *by itself*, on an exchange of its own with a member. That is where it begins if it wants what is long past, and where
  it goes on when its buffer was full. What a member sends there is read when the watcher is iterated; while
  it is not, the exchange's window stays closed and the member goes back to reading history for it.

So memory is bounded, and a slow watcher costs nobody else anything. As soon as one by itself has seen all that the
feed of its kind has shown, it joins that; both are known on one thread, without an await in between.

``seen`` is the place in history: all that is wanted up to it was received. It only moves by whole revisions, so
after any interruption the watch goes on at ``seen`` + 1, and events at or before it are dropped when they come again.
Two traps on the way there:

- The revision in the header of an answer with events may be ahead of them while the member catches up, so
  only events themselves and answers without any (progress) move ``seen``.
- Where a watch begins "now" is decided by a read of the cluster, not by the member: one that lags behind
  would begin in the past, and its progress would lie before what was promised.
"""

from __future__ import annotations

import collections
from typing import Never

import trio

from platformd.coordination.contract import Compacted, Event, EventType, FutureRevision, WatchBatch
from platformd.coordination.etcd import messages
from platformd.coordination.etcd.channel import Channel, Exchange
from platformd.coordination.etcd.errors import Again, refusal
from platformd.coordination.etcd.feeds import UNNAMED, Feed, Feeds, Wanted, event_bytes, whole_revisions
from platformd.coordination.etcd.keyspace import Bounds, Keyspace
from platformd.coordination.etcd.messages import WatchAnswer
from platformd.coordination.etcd.reader import Reader
from platformd.coordination.etcd.stream import Lost, Oversize
from platformd.coordination.etcd.versions import answers_progress
from platformd.core.errors import DeadlineExceeded, LimitReached, PlatformError, TooLarge, Unavailable

BUFFER_BYTES = 1024 * 1024
"""The most bytes of events that a feed keeps for a watcher (one batch may be larger); a slower one reads by itself."""


class Watcher:
    """One watch. Iterating it gives ``WatchBatch``es; one task may do so.

    Args:
        hub: where it belongs.
        wanted: what it asks for.
    """

    def __init__(self, hub: WatchHub, wanted: Wanted) -> None:
        self.seen = 0
        self._hub = hub
        self._wanted = wanted
        self._told = 0  # the revision of the last batch that was handed out
        self._begun = False
        self._bookmark = False
        self._broken: Exception | None = None
        # On a feed:
        self._feed: Feed | None = None
        self._buffer: collections.deque[tuple[WatchBatch, int]] = collections.deque()  # with each one's bytes
        self._events_kept = self._bytes_kept = 0
        self._waiting: trio.lowlevel.Task | None = None
        # By itself:
        self._events: list[Event] = []  # of whole revisions up to ``seen``
        self._partial: list[Event] = []  # of the one after them
        self._exchange: Exchange | None = None
        self._past = 0  # up to here it was history when the exchange was begun

    def __aiter__(self) -> Watcher:
        return self

    async def __anext__(self) -> WatchBatch:
        # From the checkpoint to the return there is no other one, so a cancelled wait loses no events. Waiting is one
        # too: who has nothing to give waits at once, which halves what thousands of watchers of one key cost.
        if self._feed is None or self._buffer or self._broken is not None or not self._begun:
            await trio.lowlevel.checkpoint()
        while True:
            batch = self._next()
            if batch is not None:
                return batch
            if self._feed is not None:
                await self._wait()
            elif self._exchange is None:
                await self._resume()
            elif not self._join(self._exchange, begin=False):
                await self._receive(self._exchange)

    def _next(self) -> WatchBatch | None:
        if not self._begun:
            self._begun = True
            return WatchBatch(revision=self._told)
        if self._buffer:
            batch, size = self._buffer.popleft()
            self._events_kept -= len(batch.events)
            self._bytes_kept -= size
            self._told = batch.revision
            return batch
        if self._events or (self._bookmark and self.seen > self._told):
            events, self._events = self._events, []
            self._told, self._bookmark = self.seen, False
            return WatchBatch(revision=self.seen, events=tuple(events))
        if self._broken is not None:
            raise self._broken
        return None

    # --- on a feed ---

    def take(self, batch: WatchBatch, size: int) -> bool:
        """See ``feeds.Member``."""
        count = len(batch.events)
        if batch.events[0].kv.mod_revision <= self.seen:  # older ones come to those who were there before it
            fresh = tuple(event for event in batch.events if event.kv.mod_revision > self.seen)
            if not fresh:
                return True
            batch, count = WatchBatch(revision=batch.revision, events=fresh), len(fresh)
        if self._buffer and (self._events_kept + count > self._hub.batch or self._bytes_kept + size > BUFFER_BYTES):
            return False
        self._keep(batch, size)
        self.seen = batch.revision
        self._wake()
        return True

    def _keep(self, batch: WatchBatch, size: int) -> None:
        self._buffer.append((batch, size))
        self._events_kept += len(batch.events)
        self._bytes_kept += size

    def advance(self, revision: int) -> None:
        """See ``feeds.Member``."""
        if revision > self.seen:
            self.seen = revision
            self._bookmark = True
            self._wake()

    def put_off(self) -> None:
        """See ``feeds.Member``."""
        self._feed = None
        self._wake()

    def _wake(self) -> None:
        task, self._waiting = self._waiting, None
        if task is not None:
            trio.lowlevel.reschedule(task)

    async def _wait(self) -> None:
        """Until it is woken. A parking lot does more, and a thousand watchers of one key pay for it together."""
        if self._waiting is not None:
            raise trio.BusyResourceError("another task waits for this watch")
        self._waiting = trio.lowlevel.current_task()
        await trio.lowlevel.wait_task_rescheduled(self._abort)

    def _abort(self, _: object) -> trio.lowlevel.Abort:
        self._waiting = None
        return trio.lowlevel.Abort.SUCCEEDED

    def _join(self, exchange: Exchange, *, begin: bool) -> bool:
        """Go on on a feed if all that came here was taken in, and it has shown no more; whether it did."""
        if self._partial or exchange.stream.received:
            return False
        before = self.seen
        self._feed = self._hub.feeds.join(self, self._wanted, begin=begin and before >= self._past)
        if self._feed is None:
            return False
        if self._events:  # before what comes there
            batch = WatchBatch(revision=before, events=tuple(self._events))
            self._keep(batch, sum(map(event_bytes, batch.events)))
            self._events = []
        self._drop()
        return True

    # --- by itself ---

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
                self._ended(exchange, end.status or UNNAMED, end.message)
            else:  # now, while what comes next is surely not compacted
                self._join(exchange, begin=True)
        except Lost:
            self._drop()
        except Oversize as error:
            self._fail(TooLarge(str(error), subject="watch", hint="raise max_message"))

    def _handle(self, exchange: Exchange, answer: WatchAnswer) -> None:
        if answer.canceled:
            if answer.compact_revision:
                self._fail(Compacted(self.seen + 1, self._hub.reader.was_compacted(answer.compact_revision)))
            else:
                self._ended(exchange, UNNAMED, answer.reason)
        elif answer.events:
            whole, self._partial = whole_revisions(self._partial, answer.events, self.seen, fragment=answer.fragment)
            if whole:
                self._events += whole
                self.seen = whole[-1].kv.mod_revision
        elif not answer.created and answer.revision > self.seen and not self._partial:
            self.seen = answer.revision
            self._bookmark = True

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
        hub = self._hub
        newest = await hub.reader.newest()
        if start > newest + 1:
            raise FutureRevision(
                f"cannot watch from revision {start}; the newest is {newest}",
                subject="store",
                hint="list again and go on from its revision: the store was restored, or is another one",
            )
        if 0 < start <= newest:  # else etcd says so too, but later; who enters wants to know now
            await hub.reader.watchable(start)
        # Without an await to the joining: what the feed has shown by now has happened by now, too.
        self.seen = self._told = start - 1 if start else max(newest, hub.feeds.settled(self._wanted))
        self._feed = hub.feeds.join(self, self._wanted, begin=newest - self.seen <= hub.batch)
        failures, deadline = 0, trio.current_time() + hub.channel.timeout
        if self._feed is not None:
            await self._on_feed(self._feed, deadline)
        while self._feed is None and self._exchange is None:
            try:
                self._exchange = await self._create(self.seen + 1, newest)
            except Unavailable:
                failures += 1
                if trio.current_time() >= deadline or hub.channel.closed:
                    raise
                await trio.sleep(hub.channel.delay(failures))

    async def _on_feed(self, feed: Feed, deadline: float) -> None:
        """Until the feed is there, or it is known that it will not be.

        Raises:
            PlatformError: it is refused.
            Unavailable: nobody says so in time.
        """
        with trio.move_on_at(deadline):
            await feed.ready.wait()
        if feed.error is not None:
            raise feed.error
        if not feed.ready.is_set():
            raise Unavailable("the watch was not begun (no answer)", subject="etcd")

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
        bounds, previous, only = self._wanted
        request = messages.watch_create(bounds, start, previous=previous, only=only)
        exchange = await self._hub.channel.open(messages.WATCH, request)
        try:
            with trio.fail_after(self._hub.channel.timeout):
                await self._created(exchange)
                if start <= newest:
                    await self._hub.reader.watchable(start)
        except (Lost, trio.TooSlowError) as error:
            exchange.close()
            raise Unavailable(f"the watch was not begun ({str(error) or 'no answer'})", subject="etcd") from error
        except BaseException:
            exchange.close()
            raise
        self._past = newest
        return exchange

    async def _created(self, exchange: Exchange) -> None:
        message = await exchange.stream.receive()
        if message is None:
            assert exchange.stream.end is not None
            refused = refusal(exchange.stream.end.status or UNNAMED, exchange.stream.end.message)
        else:
            answer = self._hub.decode(message)
            if not answer.canceled:
                return
            refused = refusal(UNNAMED, answer.reason)
        if refused.again is Again.NEVER:
            raise refused.error
        self._hub.channel.after_refusal(refused, exchange.connection, exchange.token)
        raise Unavailable(refused.error.message, subject="etcd", hint=refused.error.hint)

    def close(self, error: Exception) -> None:
        """End it; iterating it raises ``error``."""
        self._events.clear()
        self._buffer.clear()
        self._broken = error
        self._drop()
        if self._feed is not None:
            self._hub.feeds.leave(self._feed, self)
            self._feed = None
        self._wake()


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
        self.feeds = Feeds(channel, reader, self.decode, progress_interval)
        self._max = max_watchers
        self._all: set[Watcher] = set()

    def __len__(self) -> int:
        return len(self._all)

    async def run(self) -> Never:
        """Keep what watchers share for as long as the store is open."""
        await self.feeds.run()

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
        watcher = Watcher(self, Wanted(bounds, previous, only))
        self._all.add(watcher)
        return watcher

    def remove(self, watcher: Watcher) -> None:
        """Forget a watch."""
        self._all.discard(watcher)
        watcher.close(trio.ClosedResourceError("the watch's block was left"))
