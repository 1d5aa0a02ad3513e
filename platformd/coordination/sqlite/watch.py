"""Watches: one hub hands every commit's events to those who want them; who is slow reads history instead.

A watcher is in one of two places:

- *live*: the hub has it in its index and puts what it wants into its buffer, as part of delivering a commit;
- *behind*: the hub does not know it. It reads history itself, step by step, up to what the hub has
  dispatched.

It starts behind unless it wants only what is new. It goes live when it has read up to the hub's revision; it
falls behind when its buffer is full. Both are single steps of trio's thread without an await in them, and so
is the dispatch of a commit: between "read up to R" and "in the index from R + 1 on" nothing fits. That is the
whole of the argument why there is no gap and nothing twice. ``seen`` is each watcher's place in it: all that
it wants up to that revision is delivered or in its buffer.

What is kept in the buffer when it falls behind is still delivered, then history goes on from ``seen``: memory
is bounded, and nothing is read twice that was in memory already.

Who wants an event is found without asking every watcher: exact keys and prefixes are looked up (one look for
each length of prefix that is watched); only ranges that are neither are tried one by one.
"""

from __future__ import annotations

import collections
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple, Never

import trio

from platformd.coordination.contract import Event, WatchBatch, prefix_end
from platformd.coordination.sqlite import rows
from platformd.coordination.sqlite.queue import copy_of
from platformd.coordination.sqlite.reader import Reader, event_bytes
from platformd.coordination.sqlite.rows import Wanted
from platformd.coordination.sqlite.txn import Change
from platformd.core.errors import LimitReached, PlatformError

PROGRESS_INTERVAL = 5.0
"""How often an idle watcher is told the revision that it is at, seconds: so that when it resumes, that is not
compacted."""

WATCH_BUFFER_BYTES = 4 * 1024 * 1024
"""The most bytes of events kept in memory for a watch; a slower watcher is served from history."""


class Watcher:
    """One watch. Iterating it gives ``WatchBatch``es; one task may do so.

    Args:
        hub: its hub.
        wanted: what it asks for.
        seen: the revision before the first that it wants.
    """

    __slots__ = (
        "_begun", "_bookmark_due", "_broken", "_buffer", "_bytes", "_hub", "_told", "_waiting", "live", "seen",
        "wanted",
    )  # fmt: skip

    def __init__(self, hub: WatchHub, wanted: Wanted, seen: int) -> None:
        self.wanted = wanted
        self.seen = seen
        self.live = False
        self._hub = hub
        self._buffer: collections.deque[Event] = collections.deque()
        self._bytes = 0
        self._told = seen  # the revision of the last batch that was handed out
        self._begun = False
        self._bookmark_due = False
        self._waiting: trio.lowlevel.Task | None = None
        self._broken: Exception | None = None

    def __aiter__(self) -> Watcher:
        return self

    async def __anext__(self) -> WatchBatch:
        # From the checkpoint to the return there is no other one, so a cancelled wait loses no events. Waiting is one
        # too: who has nothing to give waits at once, which halves what thousands of watchers of one key cost.
        if not self._idle():
            await trio.lowlevel.checkpoint()
        while True:
            batch = self._next()
            if batch is not None:
                return batch
            if self.live:
                await self._wait()
            else:
                await trio.lowlevel.checkpoint()

    async def _wait(self) -> None:
        """Until it is woken. A parking lot does more, and a thousand watchers of one key pay for it together."""
        if self._waiting is not None:
            raise trio.BusyResourceError("another task waits for this watch")
        self._waiting = trio.lowlevel.current_task()
        await trio.lowlevel.wait_task_rescheduled(self._abort)

    def _abort(self, _: object) -> trio.lowlevel.Abort:
        self._waiting = None
        return trio.lowlevel.Abort.SUCCEEDED

    def _idle(self) -> bool:
        """Whether ``_next`` will have nothing, and it will wait to be woken."""
        due = self._bookmark_due and self._hub.revision > self._told
        return self.live and self._begun and not self._buffer and not due and self._broken is None

    def _next(self) -> WatchBatch | None:
        if self._broken is not None:
            raise self._broken
        if not self._begun:
            # Of the start, not of ``seen``: there may be events in the buffer by now.
            self._begun = True
            return WatchBatch(revision=self._told)
        if self._buffer:
            return self._batch(self._drain())
        if not self.live:
            events, self.seen = self._hub.read(self)
            caught_up = self.seen >= self._hub.revision
            if caught_up:
                self._hub.go_live(self)
            # Having caught up is worth telling even if none of it was for this watcher.
            return self._batch(events) if events or (caught_up and self.seen > self._told) else None
        if self._bookmark_due and self._hub.revision > self._told:
            return self._batch(())
        return None

    def _batch(self, events: Sequence[Event]) -> WatchBatch:
        if self.live:
            self.seen = max(self.seen, self._hub.revision)
        self._told = self.seen
        self._bookmark_due = False
        return WatchBatch(revision=self.seen, events=tuple(events))

    def _drain(self) -> Sequence[Event]:
        events = tuple(self._buffer)
        self._buffer.clear()
        self._bytes = 0
        return events

    # --- the hub's side ---

    def push(self, revision: int, events: Sequence[Event], size: int, limit: int) -> bool:
        """Take the events of one revision, of ``size`` bytes, into the buffer; false if they do not fit."""
        if len(self._buffer) + len(events) > limit or self._bytes + size > WATCH_BUFFER_BYTES:
            return False
        self._buffer.extend(events)
        self._bytes += size
        self.seen = revision
        self.wake()
        return True

    def remind(self) -> None:
        """Have it give a bookmark if it has nothing else to give."""
        self._bookmark_due = True
        if self._hub.revision > self._told:
            self.wake()

    def wake(self) -> None:
        """Have it look again."""
        task, self._waiting = self._waiting, None
        if task is not None:
            trio.lowlevel.reschedule(task)

    def fail(self, error: Exception) -> None:
        """Have its iteration end with ``error``."""
        self._broken = error
        self.wake()


class WatchHub:
    """All watches of a store.

    Args:
        reader: where history is read.
        revision: the store's revision now.
        max_watchers: open watches at once.
        buffer: events kept in memory for each.
    """

    def __init__(self, reader: Reader, revision: int, max_watchers: int, buffer: int) -> None:
        self.revision = revision
        """The newest revision that was dispatched."""
        self._reader = reader
        self._max = max_watchers
        self._buffer = buffer
        self._all: set[Watcher] = set()
        self._index = WatchIndex()

    def __len__(self) -> int:
        return len(self._all)

    def open(self, wanted: Wanted, seen: int) -> Watcher:
        """A watch of what is ``wanted`` after revision ``seen``.

        Raises:
            LimitReached: there are too many.
        """
        if len(self._all) >= self._max:
            raise LimitReached(
                f"{self._max} watches are open; max_watchers is {self._max}",
                subject="watch",
                hint="close some, or raise store.max_watchers",
            )
        watcher = Watcher(self, wanted, seen)
        self._all.add(watcher)
        if seen >= self.revision:
            self.go_live(watcher)
        return watcher

    def close(self, watcher: Watcher) -> None:
        """Forget a watch."""
        self._all.discard(watcher)
        if watcher.live:
            self._index.remove(watcher)
        watcher.fail(trio.ClosedResourceError("the watch's block was left"))

    def close_all(self, error: PlatformError) -> None:
        """End every watch with ``error``."""
        for watcher in self._all:
            watcher.fail(copy_of(error))

    def go_live(self, watcher: Watcher) -> None:
        """``watcher`` has seen all that was dispatched: from here on it is told."""
        watcher.live = True
        self._index.add(watcher)

    def read(self, watcher: Watcher) -> tuple[list[Event], int]:
        """A step through history for a watcher that is behind."""
        return self._reader.events(watcher.wanted, watcher.seen, self.revision)

    def floor(self) -> int | None:
        """The oldest revision that a watcher still has to read in history; ``None`` if none has to."""
        behind = [watcher.seen + 1 for watcher in self._all if not watcher.live]
        return min(behind) if behind else None

    def dispatch(self, history: Iterable[tuple[int, Sequence[Change]]]) -> None:
        """Tell everyone who wants to know what was committed. Must not be interrupted by an await."""
        for revision, changes in history:
            if self._index:
                self._dispatch_one(revision, changes)
            self.revision = revision

    def _dispatch_one(self, revision: int, changes: Sequence[Change]) -> None:
        wanted: dict[Watcher, list[_Shown]] = {}
        for change in changes:
            made = _Made(revision, change)
            takers = [
                (watcher, shown) for watcher in self._index.interested(change.key) if (shown := made.shown(watcher))
            ]
            if len(changes) == 1:  # by far the most frequent, and nothing to gather
                for watcher, shown in takers:
                    self._push(watcher, revision, shown.events, shown.size)
                return
            for watcher, shown in takers:
                wanted.setdefault(watcher, []).append(shown)
        for watcher, all_shown in wanted.items():
            events = [shown.events[0] for shown in all_shown]
            self._push(watcher, revision, events, sum(shown.size for shown in all_shown))

    def _push(self, watcher: Watcher, revision: int, events: Sequence[Event], size: int) -> None:
        if not watcher.push(revision, events, size, self._buffer):
            self._fall_behind(watcher)

    def _fall_behind(self, watcher: Watcher) -> None:
        """Its buffer is full: it has all up to the revision before this one, and reads the rest itself."""
        watcher.seen = max(watcher.seen, self.revision)
        watcher.live = False
        self._index.remove(watcher)
        watcher.wake()

    async def run(self) -> Never:
        """Have idle watchers give a bookmark now and then, for ever."""
        while True:
            await trio.sleep(PROGRESS_INTERVAL)
            for watcher in self._all:
                if watcher.live:
                    watcher.remind()


class _Shown(NamedTuple):
    """An event, alone, and what it takes in memory."""

    events: tuple[Event]
    size: int


class _Made:
    """The event of one change, made when the first watcher wants it and shared by all."""

    __slots__ = ("_change", "_revision", "_shown", "_type")

    def __init__(self, revision: int, change: Change) -> None:
        self._revision = revision
        self._change = change
        self._type = "delete" if change.kv is None else "put"
        self._shown: dict[bool, _Shown] = {}

    def shown(self, watcher: Watcher) -> _Shown | None:
        """The event as a watcher wants it; ``None`` if it does not."""
        _, _, previous, only = watcher.wanted
        # A watcher may have started from a read that saw this commit before the hub did.
        if watcher.seen >= self._revision or (only is not None and only != self._type):
            return None
        found = self._shown.get(previous)
        if found is None:
            event = rows.live_event(self._revision, self._change, previous=previous)
            found = self._shown[previous] = _Shown((event,), event_bytes(event))
        return found


_EXACT = -1


class WatchIndex:
    """Watchers by what they watch."""

    def __init__(self) -> None:
        self._others: dict[Watcher, None] = {}
        self._tables: dict[int, dict[bytes, dict[Watcher, None]]] = {}
        # By the length of the prefix (``_EXACT``: whole keys), then by the prefix. Dicts for sets: they keep order.

    def __len__(self) -> int:
        return len(self._others) + len(self._tables)

    def add(self, watcher: Watcher) -> None:
        """Put a watcher in."""
        table = _table(watcher.wanted)
        if table is None:
            self._others[watcher] = None
        else:
            self._tables.setdefault(table, {}).setdefault(watcher.wanted.key, {})[watcher] = None

    def remove(self, watcher: Watcher) -> None:
        """Take a watcher out, and what would be left empty."""
        table = _table(watcher.wanted)
        if table is None:
            del self._others[watcher]
            return
        key, by_key = watcher.wanted.key, self._tables[table]
        del by_key[key][watcher]
        if not by_key[key]:
            del by_key[key]
        if not by_key:
            del self._tables[table]

    def interested(self, key: bytes) -> Iterator[Watcher]:
        """Those whose range has ``key`` in it."""
        for length, by_key in self._tables.items():
            yield from by_key.get(key if length == _EXACT else key[:length], ())
        for watcher in self._others:
            start, end = watcher.wanted.key, watcher.wanted.end
            if start <= key and (end is None or key < end):
                yield watcher


def _table(wanted: Wanted) -> int | None:
    if wanted.end == wanted.key + b"\x00":
        return _EXACT
    return len(wanted.key) if wanted.end == prefix_end(wanted.key) else None
