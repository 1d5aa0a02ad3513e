"""Feeds: many watchers on few watches, and all of these on one stream of one connection (the *trunk*).

Watchers that want the same, and have all that happened so far, are told by one feed: etcd sends each event once, and
the feed hands it on. One task reads the trunk, always, so nobody on it can hold anybody else up: a watcher that does
not keep up is put off its feed with what it has, and reads on by itself (see ``watch``).

Each feed keeps two revisions. Everything up to ``seen`` was handed on. ``settled`` is that of the last event (or where
it began), so nothing happened to its keys between the two: whoever has seen ``settled`` may join without a gap.

When the trunk breaks, it is begun again, at another member if need be, with every feed from its ``seen`` on; the
watchers do not notice. What concerns one feed only (its revisions were compacted, it is refused) puts its watchers
off: each finds out by itself what that means to it.

Numbers of watches are ours, and never used twice on a trunk, so that what comes late for one that is over is known
to be late. Answers to requests for a new one come in the order of the requests: that is how a refusal is told whose it
is, for some versions give it the number -1. The same number stands for the whole trunk in the answer to a request
for its progress, which counts for the feeds that were there when it was asked, and for no later one.
"""

from __future__ import annotations

import collections
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple, Never, Protocol

import trio

from platformd.coordination.contract import Compacted, Event, EventType, WatchBatch
from platformd.coordination.etcd import messages
from platformd.coordination.etcd.channel import Channel, Exchange
from platformd.coordination.etcd.errors import Again, Refusal, refusal
from platformd.coordination.etcd.keyspace import Bounds
from platformd.coordination.etcd.messages import WatchAnswer
from platformd.coordination.etcd.reader import Reader
from platformd.coordination.etcd.stream import Lost, Oversize
from platformd.coordination.etcd.versions import answers_progress
from platformd.core.errors import DeadlineExceeded, PlatformError, TooLarge, Unavailable

UNNAMED = 2
"""gRPC's code for what has none: the reason of a watch's end comes as text only."""

_REFUSALS = 3  # how often the trunk is begun again for a feed that is refused for a while, before it is put off


class Wanted(NamedTuple):
    """What a watch asks for."""

    bounds: Bounds
    previous: bool
    only: EventType | None


class Member(Protocol):
    """A watcher, as its feed sees it."""

    seen: int

    def take(self, batch: WatchBatch, size: int) -> bool:
        """Events of so many bytes; false if there is no room for them."""
        ...

    def advance(self, revision: int) -> None:
        """Nothing happened up to this revision."""
        ...

    def put_off(self) -> None:
        """It is in no feed any more."""
        ...


class Feed:
    """One watch of the trunk, and the watchers that it tells.

    Args:
        wanted: what they want.
        seen: the revision before the first that it shows.
    """

    def __init__(self, wanted: Wanted, seen: int) -> None:
        self.wanted = wanted
        self.seen = self.settled = seen
        self.id = 0
        """Its number on the trunk; 0 until it is asked for."""
        self.created = False
        """Whether the member has said that it is there."""
        self.ready = trio.Event()
        """It was there, or is over."""
        self.error: PlatformError | None = None
        """Why it never will be there."""
        self.refusals = 0
        self.resumed = False
        """It was there before, on a trunk that broke."""
        self.members: dict[Member, None] = {}
        self._fresh: list[Event] = []  # of whole revisions up to ``seen``, not handed on yet
        self._partial: list[Event] = []  # of the one after them

    def begin_again(self) -> None:
        """The trunk broke: what was received in part will come again."""
        self.resumed = self.resumed or self.created
        self.id, self.created, self._partial = 0, False, []

    def take(self, events: Sequence[Event], *, fragment: bool) -> None:
        """New events; with ``fragment`` the rest of their last revision may come in the next answer."""
        whole, self._partial = whole_revisions(self._partial, events, self.seen, fragment=fragment)
        if whole:
            self._fresh += whole
            self.seen = whole[-1].kv.mod_revision

    def hand_on(self) -> None:
        """Give what came to all who are there."""
        if not self._fresh:
            return
        self.settled = self.seen
        batch = WatchBatch(revision=self.seen, events=tuple(self._fresh))
        self._fresh = []
        size = sum(map(event_bytes, batch.events))
        slow = [member for member in self.members if not member.take(batch, size)]
        for member in slow:
            del self.members[member]
            member.put_off()

    def advance(self, revision: int) -> None:
        """Nothing happened up to this revision."""
        if revision > self.seen and not self._partial:
            self.seen = revision
            for member in self.members:
                member.advance(revision)


class Feeds:
    """All feeds of a store. ``run`` it for as long as they are used.

    Args:
        channel: the way to the cluster.
        reader: its reads.
        decode: an answer from its message.
        progress_interval: how often the trunk is asked how far it is, seconds.
    """

    def __init__(
        self, channel: Channel, reader: Reader, decode: Callable[[bytes], WatchAnswer], progress_interval: float
    ) -> None:
        self._channel = channel
        self._reader = reader
        self._decode = decode
        self._progress_interval = progress_interval
        self._feeds: dict[Wanted, Feed] = {}
        self._wanted = trio.Event()
        self._closed = False
        # Of the trunk that there is now:
        self._trunk: Exchange | None = None
        self._trunk_scope = trio.CancelScope()
        self._ids: dict[int, Feed] = {}
        self._received = False
        self._next_id = 1
        self._unanswered: collections.deque[int] = collections.deque()  # numbers that were asked for, in order
        self._asked: list[Feed] | None = None  # those that the next answer of the whole trunk counts for

    # --- watchers ---

    def settled(self, wanted: Wanted) -> int:
        """The newest revision that a feed has shown; 0 without one."""
        feed = self._feeds.get(wanted)
        return feed.settled if feed is not None else 0

    def join(self, member: Member, wanted: Wanted, *, begin: bool) -> Feed | None:
        """Be told by a feed what comes after the member's ``seen``; ``None`` if that is not possible now.

        Args:
            member: who is to be told.
            wanted: what of.
            begin: begin a feed if there is none, from ``seen`` on.
        """
        feed = self._feeds.get(wanted)
        if self._closed or (feed is None and not begin) or (feed is not None and member.seen < feed.settled):
            return None
        if feed is None:
            feed = self._feeds[wanted] = Feed(wanted, member.seen)
            self._wanted.set()
            if self._trunk is not None:
                if self._trunk.connection.usable:
                    self._trunk.stream.send(self._request(feed))
                else:  # that member is on its way out
                    self._trunk_scope.cancel()
        feed.members[member] = None
        member.seen = max(member.seen, feed.seen)
        return feed

    def leave(self, feed: Feed, member: Member) -> None:
        """Be told no more."""
        feed.members.pop(member, None)
        if not feed.members:
            self._end(feed)

    def _end(self, feed: Feed, error: PlatformError | None = None) -> None:
        """A feed is over; its watchers go on by themselves."""
        if self._feeds.get(feed.wanted) is feed:
            del self._feeds[feed.wanted]
        if self._ids.pop(feed.id, None) is not None and feed.created and self._trunk is not None:
            self._trunk.stream.send(messages.watch_cancel(feed.id))
        feed.error = feed.error or error
        feed.ready.set()
        members, feed.members = feed.members, {}
        for member in members:
            member.put_off()
        if not self._feeds:
            self._trunk_scope.cancel()

    def _end_all(self, error: PlatformError | None = None) -> None:
        for feed in list(self._feeds.values()):
            self._end(feed, error)

    # --- the trunk's life ---

    async def run(self) -> Never:
        """Keep a trunk for as long as there are feeds."""
        failures = 0
        try:
            while True:
                if not self._feeds:
                    self._wanted = trio.Event()
                    await self._wanted.wait()
                failures = 0 if await self._one_trunk() else failures + 1
                if failures:
                    await trio.sleep(self._channel.delay(failures))
        finally:
            self._closed = True
            self._end_all()

    async def _one_trunk(self) -> bool:
        """Begin a trunk and read it until it breaks; whether it was of any use."""
        self._trunk_scope, self._received = trio.CancelScope(), False
        try:
            with self._trunk_scope:
                await self._examine()
                if self._feeds:
                    first = next(iter(self._feeds.values()))
                    self._trunk = await self._channel.open(messages.WATCH, self._request(first))
                    self._trunk.stream.send(*(self._request(feed) for feed in self._feeds.values() if not feed.id))
                    await self._read(self._trunk)
        except (Unavailable, DeadlineExceeded, Lost):
            pass  # try again
        except Oversize as error:  # whose answer it is cannot be told: each tries by itself
            self._end_all(TooLarge(str(error), subject="watch", hint="raise max_message"))
        except PlatformError as error:
            self._end_all(error)
        finally:
            self._drop_trunk()
        return self._received or self._trunk_scope.cancelled_caught

    def _drop_trunk(self) -> None:
        if self._trunk is not None:
            self._trunk.close()
            self._trunk = None
        self._ids.clear()
        self._unanswered.clear()
        self._asked = None
        for feed in list(self._feeds.values()):
            feed.begin_again()
            self._hand_on(feed)  # what came before it broke

    async def _examine(self) -> None:
        """See that feeds that are resumed can be; watchers of those that cannot are put off.

        Raises:
            PlatformError: the cluster does not say.
        """
        resumed = [feed for feed in self._feeds.values() if feed.resumed]
        if not resumed:
            return
        newest = await self._reader.newest()
        for feed in resumed:
            if newest < feed.seen:  # the store went back
                self._end(feed)
        start = min((feed.seen for feed in resumed), default=newest) + 1
        if start <= newest:  # else etcd says so too, but some versions lose a deletion on the way
            try:
                await self._reader.watchable(start)
            except Compacted as error:
                for feed in resumed:
                    if feed.seen + 1 < error.compact_revision:
                        self._end(feed)

    def _request(self, feed: Feed) -> bytes:
        """Give a feed a number, and ask for it."""
        feed.id, self._next_id = self._next_id, self._next_id + 1
        self._ids[feed.id] = feed
        self._unanswered.append(feed.id)
        wanted = feed.wanted
        return messages.watch_create(
            wanted.bounds, feed.seen + 1, previous=wanted.previous, only=wanted.only, watch_id=feed.id
        )

    # --- what comes on it ---

    async def _read(self, trunk: Exchange) -> None:
        """Hand on what comes, until the trunk is over.

        Raises:
            Lost: it broke, or is to be begun again.
            Oversize: a message is too large.
            PlatformError: it is refused.
        """
        due = trio.current_time() + self._progress_interval
        while True:
            message: bytes | None = None
            with trio.move_on_at(due) as idle:
                message = await trunk.stream.receive()
            if idle.cancelled_caught:
                self._ask_progress(trunk)
                due = trio.current_time() + self._progress_interval
                continue
            touched: dict[Feed, None] = {}
            while message is not None:
                self._received = True
                self._handle(trunk, self._decode(message), touched)
                message = trunk.stream.take()
            for feed in touched:
                self._hand_on(feed)
            if trunk.stream.end is not None:
                end = trunk.stream.end
                self._refused(None, trunk, refusal(end.status or UNNAMED, end.message))

    def _ask_progress(self, trunk: Exchange) -> None:
        if answers_progress(trunk.connection.version):
            if self._asked is None:
                self._asked = [feed for feed in self._feeds.values() if feed.created]
            trunk.stream.send(messages.watch_progress())

    def _handle(self, trunk: Exchange, answer: WatchAnswer, touched: dict[Feed, None]) -> None:
        number = answer.watch_id
        if answer.created and self._unanswered:
            asked = self._unanswered.popleft()
            number = number if number > 0 else asked
        feed = self._ids.get(number)
        if feed is None:
            if answer.created and not answer.canceled:  # nobody wants it any more
                trunk.stream.send(messages.watch_cancel(number))
            elif number < 0 and not answer.events:
                self._advance_all(answer.revision)
        elif answer.canceled:
            del self._ids[number]
            feed.hand_on()  # what came before
            if answer.compact_revision:
                self._reader.was_compacted(answer.compact_revision)
                self._end(feed)
            else:
                self._refused(feed, trunk, refusal(UNNAMED, answer.reason))
        elif answer.created:
            feed.created = True
            feed.refusals = 0
            feed.ready.set()
        elif answer.events:
            feed.take(answer.events, fragment=answer.fragment)
            touched[feed] = None
        else:
            self._hand_on(feed)
            feed.advance(answer.revision)

    def _hand_on(self, feed: Feed) -> None:
        feed.hand_on()
        if not feed.members:
            self._end(feed)

    def _advance_all(self, revision: int) -> None:
        """An answer for the whole trunk."""
        asked, self._asked = self._asked or [], None
        for feed in asked:
            if self._ids.get(feed.id) is feed:
                self._hand_on(feed)
                feed.advance(revision)

    def _refused(self, feed: Feed | None, trunk: Exchange, refused: Refusal) -> None:
        """One feed, or the whole trunk, is refused: for good, or so that it is begun again.

        Raises:
            Lost: it is to be begun again.
            PlatformError: the whole trunk is refused for good.
        """
        if refused.again is Again.NEVER:
            if feed is None:
                raise refused.error
            self._end(feed, refused.error)
            return
        if feed is not None:
            feed.refusals += 1
            if feed.refusals > _REFUSALS:
                self._end(feed, refused.error)
        self._channel.after_refusal(refused, trunk.connection, trunk.token)
        self._received = False  # wait before the next attempt
        raise Lost(refused.error.message, sent=True)


def whole_revisions(
    partial: Sequence[Event], events: Iterable[Event], seen: int, *, fragment: bool
) -> tuple[list[Event], list[Event]]:
    """What came of revisions after ``seen``, ordered, and what of it must wait for the rest of its revision.

    Args:
        partial: what waited for this.
        events: what came now.
        seen: what is older came before.
        fragment: the rest of the last revision may come later.
    """
    fresh = [*partial, *(event for event in events if event.kv.mod_revision > seen)]
    waiting: list[Event] = []
    if fragment and fresh:
        last = fresh[-1].kv.mod_revision
        waiting = [event for event in fresh if event.kv.mod_revision == last]
        fresh = fresh[: len(fresh) - len(waiting)]
    fresh.sort(key=_order)
    return fresh, waiting


def _order(event: Event) -> tuple[int, bytes]:
    return event.kv.mod_revision, event.kv.key


def event_bytes(event: Event) -> int:
    """What an event takes, about."""
    previous = event.previous
    size = len(event.kv.key) + len(event.kv.value)
    return size if previous is None else size + len(previous.key) + len(previous.value)
