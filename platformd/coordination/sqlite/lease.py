"""Leases: never early, cheap to keep alive, and with their remaining time across a restart.

Deadlines live in memory, on trio's clock. On disk a lease has its granted time to live, and sometimes
``remaining``, what was left of it when that was written. After a restart a lease has ``remaining`` if it is
there, else its whole time to live, counted from the restart. So what is on disk may only ever be
*more* than what is truly left:

- A keep-alive raises what is left. If no ``remaining`` is on disk, the whole time to live is what counts there, which
  is never too little: nothing is written. If one is there, it is cleared, durably, *before* the keep-alive is
  acknowledged.
- Writing ``remaining`` for a lease that nobody keeps alive is safe at any time, because what is left
  only falls after that. It is done now and then for long leases, so that a daemon that restarts often
  does not keep a dead client's lease for ever, and for all of them at a clean stop.

The end of many leases at once (every client of a network that failed) is spread out: ``EXPIRE_PER_SECOND``.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Iterable
from typing import Never

import trio

from platformd.coordination.sqlite.queue import WriteQueue
from platformd.coordination.sqlite.work import EndLease, GrantLease, SaveLeases
from platformd.core.errors import Conflict, InvalidInput, LimitReached, NotFound, PlatformError

MAX_LEASES = 100_000
"""Leases at once."""

EXPIRE_PER_SECOND = 1000
"""How many leases are ended in a second when many are due."""

EXPIRE_AT_ONCE = 128
"""How many of these ends wait for the writer together."""

RETRY_AFTER = 1.0
"""How long after a failed attempt (a full disk) the end of a lease is tried again, seconds."""

SAVE_INTERVAL = 60.0
"""How often the remaining time of long leases is written, seconds; long are those of at least twice that."""

_SAVE_AT_ONCE = 1000
_ID_BITS = 63


class _Saved:
    """A ``remaining`` that is on disk, or on its way there. Compared by identity: each one is another."""

    __slots__ = ("remaining",)

    def __init__(self, remaining: float) -> None:
        self.remaining = remaining


class Entry:
    """A lease in memory."""

    __slots__ = ("deadline", "ended", "id", "saved", "started", "ttl")

    def __init__(self, lease_id: int, ttl: float, deadline: float, saved: _Saved | None) -> None:
        self.id = lease_id
        self.ttl = ttl
        self.deadline = deadline
        self.saved = saved
        self.ended = False
        """Its end has begun: it cannot be kept alive any more."""
        self.started = False
        """Some of its keys are gone already: its end cannot be taken back."""


class LeaseTable:
    """All leases of a store, on trio's clock.

    Args:
        queue: where changes are made durable.
        stored: ``(id, ttl, remaining or None)`` of each lease on disk.
        min_ttl: the shortest time to live that is granted, seconds.
        max_ttl: the longest, seconds.
        random_bytes: where ids come from.
    """

    def __init__(
        self,
        queue: WriteQueue,
        stored: Iterable[tuple[int, float, float | None]],
        min_ttl: float,
        max_ttl: float,
        random_bytes: Callable[[int], bytes],
    ) -> None:
        self._queue = queue
        self._min_ttl = min_ttl
        self._max_ttl = max_ttl
        self._random_bytes = random_bytes
        self._entries: dict[int, Entry] = {}
        self._due: list[tuple[float, int]] = []  # may be early: an entry's own deadline is what counts
        self._earlier = trio.Event()
        now = trio.current_time()
        for lease_id, ttl, remaining in stored:
            saved = None if remaining is None else _Saved(remaining)
            self._add(Entry(lease_id, ttl, now + (ttl if remaining is None else remaining), saved))

    def __len__(self) -> int:
        return len(self._entries)

    def entries(self) -> list[Entry]:
        """All leases, by id."""
        return sorted(self._entries.values(), key=lambda entry: entry.id)

    def _add(self, entry: Entry) -> None:
        self._entries[entry.id] = entry
        self._schedule(entry)

    def _schedule(self, entry: Entry) -> None:
        if not self._due or entry.deadline < self._due[0][0]:
            self._earlier.set()
        heapq.heappush(self._due, (entry.deadline, entry.id))

    def _alive(self, lease_id: int) -> Entry:
        entry = self._entries.get(lease_id)
        if entry is None or entry.ended:
            raise _not_there(lease_id)
        return entry

    # --- what callers ask for ---

    def get(self, lease_id: int) -> Entry:
        """A lease, also one whose end has begun.

        Raises:
            NotFound: it is not there.
        """
        entry = self._entries.get(lease_id)
        if entry is None:
            raise _not_there(lease_id)
        return entry

    async def grant(self, ttl: float, lease_id: int = 0) -> Entry:
        """A new lease, durable on return; its time begins then.

        Args:
            ttl: its time to live, seconds.
            lease_id: the id that it shall have; 0 for one that is free.

        Raises:
            Conflict: there is a lease of that id.
            InvalidInput: ``ttl`` is not a number, or ``lease_id`` is out of range.
            LimitReached: there are too many leases.
        """
        if math.isnan(ttl):
            raise InvalidInput("the time to live is not a number", subject="lease")
        if not 0 <= lease_id < 1 << _ID_BITS:
            raise InvalidInput(f"{lease_id} is not a lease id", subject="lease", hint="from 1 to 2**63 - 1; 0 for any")
        if len(self._entries) >= MAX_LEASES:
            raise LimitReached(f"{MAX_LEASES} leases are there, which is the limit", subject="lease")
        ttl = float(min(max(ttl, self._min_ttl), self._max_ttl))
        if lease_id and not await self._try_grant(lease_id, ttl):
            raise Conflict(
                "it is there already",
                subject=f"lease {lease_id}",
                hint="keep it alive, or take another id (0 for one that is free)",
            )
        while not lease_id:
            drawn = int.from_bytes(self._random_bytes(8), "big") & (1 << _ID_BITS) - 1
            if drawn and await self._try_grant(drawn, ttl):
                lease_id = drawn
        entry = Entry(lease_id, ttl, trio.current_time() + ttl, None)
        self._add(entry)
        return entry

    async def _try_grant(self, lease_id: int, ttl: float) -> bool:
        # What is in memory is more than what the writer knows: a lease whose end has begun is not over.
        return lease_id not in self._entries and await self._queue.submit(GrantLease(lease_id, ttl))

    async def keep_alive(self, lease_id: int) -> Entry:
        """Make a lease's remaining time its time to live again.

        Raises:
            NotFound: it is not there, or its end has begun.
        """
        entry = self._alive(lease_id)
        # Before the wait, so that it cannot end during it; if the write fails it merely lives longer.
        entry.deadline = trio.current_time() + entry.ttl
        saved = entry.saved
        if saved is None:
            await trio.lowlevel.checkpoint()
            return entry
        await self._queue.submit(SaveLeases({lease_id: None}))
        if entry.saved is saved:  # else another one is on its way, later than ours
            entry.saved = None
        return entry

    async def revoke(self, lease_id: int) -> int:
        """End a lease now; how many keys went with it.

        Raises:
            NotFound: it is not there, or its end has begun.
        """
        entry = self._alive(lease_id)
        deadline = entry.deadline
        entry.ended, entry.deadline = True, math.inf  # so that it does not come due meanwhile
        try:
            return await self._end(entry)
        except BaseException:
            # What was begun is finished by ``run``; what was not is as if nobody had asked.
            entry.ended = entry.started
            entry.deadline = trio.current_time() if entry.started else deadline
            self._schedule(entry)
            raise

    async def _end(self, entry: Entry) -> int:
        deleted = 0
        more = True
        while more:
            step, more = await self._queue.submit(EndLease(entry.id, resume=entry.started))
            deleted += step
            entry.started = True
        del self._entries[entry.id]
        return deleted

    # --- what goes on by itself ---

    async def run(self) -> Never:
        """End what is due, for ever."""
        while True:
            due = self._take_due(trio.current_time())
            if due:
                async with trio.open_nursery() as nursery:
                    for entry in due:
                        nursery.start_soon(self._expire, entry)
                await trio.sleep(len(due) / EXPIRE_PER_SECOND)
            else:
                await self._wait_for_next()

    async def _wait_for_next(self) -> None:
        self._earlier = trio.Event()
        with trio.move_on_at(self._due[0][0] if self._due else math.inf):
            await self._earlier.wait()

    def _take_due(self, now: float) -> list[Entry]:
        """Some of the leases whose time is over; they cannot be kept alive from here on."""
        due: list[Entry] = []
        while self._due and self._due[0][0] <= now and len(due) < EXPIRE_AT_ONCE:
            _, lease_id = heapq.heappop(self._due)
            entry = self._entries.get(lease_id)
            if entry is None or (entry.ended and entry.deadline > now):
                continue
            if entry.deadline > now:  # it was kept alive since
                heapq.heappush(self._due, (entry.deadline, lease_id))
            else:
                entry.ended = True
                entry.deadline = math.inf
                due.append(entry)
        return due

    async def _expire(self, entry: Entry) -> None:
        try:
            await self._end(entry)
        except PlatformError:
            # It stays ended, its keys stay for now; what refused them (a full disk) is told to whoever writes.
            entry.deadline = trio.current_time() + RETRY_AFTER
            self._schedule(entry)

    async def run_saving(self) -> Never:
        """Write the remaining time of long leases now and then, for ever."""
        while True:
            await trio.sleep(SAVE_INTERVAL)
            long = [e for e in self._entries.values() if e.ttl >= 2 * SAVE_INTERVAL and self._worth_saving(e)]
            try:
                await self._save(long)
            except PlatformError:
                continue  # nothing is lost but precision: in a minute again

    @staticmethod
    def _worth_saving(entry: Entry) -> bool:
        """Whether so much of its time is over that it is worth a write."""
        known = entry.ttl if entry.saved is None else entry.saved.remaining
        return not entry.ended and known - (entry.deadline - trio.current_time()) >= entry.ttl / 10

    async def save_all(self) -> None:
        """Write every lease's remaining time: for a clean stop, after which none can be kept alive.

        Raises:
            PlatformError: the disk is full, for one; then each has its whole time to live after the restart.
        """
        await self._save([entry for entry in self._entries.values() if not entry.ended])

    async def _save(self, entries: list[Entry]) -> None:
        for start in range(0, len(entries), _SAVE_AT_ONCE):
            now = trio.current_time()
            remaining: dict[int, float | None] = {}
            for entry in entries[start : start + _SAVE_AT_ONCE]:
                if not entry.ended:
                    left = max(0.0, entry.deadline - now)
                    # Before it is written: a keep-alive that comes meanwhile must clear it.
                    entry.saved = _Saved(left)
                    remaining[entry.id] = left
            if remaining:
                await self._queue.submit(SaveLeases(remaining))


def _not_there(lease_id: int) -> NotFound:
    return NotFound("it ended or was never granted", subject=f"lease {lease_id}", hint="grant a new one")
