"""A crowd of watchers of one store, quick and slow ones, from now and from the past, while others write and compact."""

from __future__ import annotations

import itertools
import random
from collections.abc import Awaitable, Callable

import trio

from platformd.coordination.contract import Compacted, Delete, EventType, Put, Store
from tests.simulation import workload
from tests.simulation.checker import check
from tests.simulation.history import History, Log, Outcome, Txn
from tests.simulation.validators import BrokenWatch, WatchRecord, record_watch, resumed, validate

RANGES: tuple[tuple[bytes, bytes | None], ...] = (
    (b"", None), (b"k/", b"k0"), (b"k/1", b"k/1\x00"), (b"k/1", b"k/4"), (b"k/3", None),
)  # fmt: skip
ONLY: tuple[EventType | None, ...] = (None, None, "put", "delete")

LAG = 60
"""How many revisions are left by a compaction."""

SLOWEST_US = 20_000
"""How long a slow watcher is away between two batches, at most."""


class Crowd:
    """Watchers of a store and what they were given.

    Args:
        store: the store; nobody else uses it.
        history: of those who write to it.
        seed: of all choices.
        forgets_previous: whether previous values may be missing where they are compacted.
        drops_deletions: whether it is an etcd that drops deletions of a compaction's own revision (see
            ``WatchRecord.dropped``), which is the one before that we compact to.
    """

    def __init__(
        self,
        store: Store,
        history: History,
        seed: object,
        *,
        forgets_previous: bool = False,
        drops_deletions: bool = False,
    ) -> None:
        self._store = store
        self._history = history
        self._random = random.Random(f"{seed}/watch")
        self._forgets = forgets_previous
        self._drops = drops_deletions
        self._all = WatchRecord(b"", None, previous=True)
        self._watches: list[WatchRecord] = []
        self._chains: list[list[WatchRecord]] = []
        self._compactions: list[tuple[int, int]] = [(0, 1)]
        """When each was done, and to which revision; the last may be under way."""
        self._over = False

    # --- while others write ---

    async def run(self, write: Callable[[], Awaitable[None]], *, watchers: int = 6) -> Log:
        """Watch while ``write`` (an async function) runs; then check everything, and return what happened."""
        async with trio.open_nursery() as nursery:
            await nursery.start(record_watch, self._store, self._all, self._history)
            for _ in range(watchers):
                nursery.start_soon(self._watch, 0)
                nursery.start_soon(self._watch, SLOWEST_US)
                nursery.start_soon(self._resume_again_and_again)
                nursery.start_soon(self._open_in_the_past)
            async with trio.open_nursery() as writing:
                writing.start_soon(self._compact)
                await write()
                self._over = True
            last_put, last = await self._end()
            for record in [self._all, *self._watches]:
                await record.wait_for(last_put if record.only == "put" else last)
            nursery.cancel_scope.cancel()
        start = self._all.batches[0].revision
        log = Log(start, (), (event for batch in self._all.batches for event in batch.events), last)
        await self._open_everywhere(log)
        self._check(log)
        return log

    async def _end(self) -> tuple[int, int]:
        """Change every key, so that every watcher has something to wait for."""
        puts = Txn((), tuple(Put(key, b"end") for key in workload.KEYS))
        return await self._do(puts), await self._do(Txn((), (Delete(workload.KEYS[0], workload.END),)))

    async def _do(self, request: Txn) -> int:
        invoked_at = self._history.now()
        result = await self._store.txn(request.compares, request.then)
        self._history.add(-1, request, invoked_at, Outcome.OK, result)
        return result.revision

    def _record(self, start: int = 0) -> WatchRecord:
        key, end = self._random.choice(RANGES)
        only = self._random.choice(ONLY)
        return WatchRecord(key, end, start, previous=self._random.random() < 0.5, only=only)

    async def _watch(self, slowest_us: int) -> None:
        record = self._record()
        self._watches.append(record)

        def pause() -> float:
            return 0.0 if self._over else self._random.randrange(slowest_us + 1) / 1e6

        await record_watch(self._store, record, self._history, pause=pause)

    async def _resume_again_and_again(self) -> None:
        """Leave after some batch, come back for what is after it; begin anew when that is compacted."""
        like = self._record()
        while not self._over:
            chain: list[WatchRecord] = []
            self._chains.append(chain)
            while not self._over and (not chain or chain[-1].ended is None):
                start = chain[-1].revision + 1 if chain else 0
                record = WatchRecord(like.key, like.end, start, like.previous, like.only)
                chain.append(record)
                enough = self._random.randrange(1, 4)
                await record_watch(
                    self._store,
                    record,
                    self._history,
                    until=lambda record, enough=enough: len(record.batches) > enough,  # type: ignore[misc]
                )

    async def _open_in_the_past(self) -> None:
        while not self._over:
            compacted = self._compactions[-1][1]
            start = max(1, self._random.randrange(compacted - 5, max(self._all.revision, compacted) + 2))
            record = self._record(start)
            self._chains.append([record])
            enough = self._random.randrange(1, 10)
            with trio.move_on_after(0.1):
                await record_watch(
                    self._store,
                    record,
                    self._history,
                    until=lambda record: len(record.batches) > enough,  # noqa: B023
                )

    async def _compact(self) -> None:
        while not self._over:
            await trio.sleep(0.02)
            target = self._all.revision - LAG
            if target > self._compactions[-1][1]:
                self._compactions.append((0, target))
                await self._store.compact(target)
                self._compactions[-1] = (self._history.now(), target)

    # --- afterwards ---

    async def _open_everywhere(self, log: Log) -> None:
        """A watch from each revision that is left, and from the one before."""
        oldest = self._compactions[-1][1]

        async def watch(start: int) -> None:
            record = self._record(start)
            record.only = None
            self._watches.append(record)
            mine = [r for r in log.revisions() if r >= start and any(map(record.wants, log.changes(r)))]
            target = max(mine, default=start - 1)
            await record_watch(self._store, record, self._history, until=lambda record: record.revision >= target)

        async with trio.open_nursery() as nursery:
            for start in range(max(1, oldest - 1), log.last + 2):
                nursery.start_soon(watch, start)

    def _check(self, log: Log) -> None:
        everyone = [self._all, *self._watches, *itertools.chain.from_iterable(self._chains)]
        for record in everyone:
            record.forgiven = self._compactions[-1][1] if self._forgets else 0
            record.dropped = frozenset(target - 1 for _, target in self._compactions) if self._drops else frozenset()
        for chain in self._chains:
            begun = [record for record in chain if record.batches]
            if begun:
                resumed(begun, log)
        for record in everyone:
            validate(record, log, self._history.operations)
            self._check_compaction(record)
        check(self._history.operations, log)

    def _check_compaction(self, record: WatchRecord) -> None:
        """Nothing was refused that nobody compacted, and nothing given that was."""
        if record.ended is not None and record.ended.compact_revision > self._compactions[-1][1]:
            raise BrokenWatch(f"{record} ended with {record.ended}, and nobody compacted so far")
        for done_at, target in self._compactions:
            if 0 < done_at < record.invoked_at and 0 < record.start_revision < target and record.batches:
                raise BrokenWatch(f"{record} began, after a compaction to {target} was done")

    @property
    def resumed(self) -> int:
        """How many watchers came back for what they had missed, so far."""
        return sum(len(chain) > 1 for chain in self._chains)

    @property
    def compactions(self) -> int:
        """How many compactions were done so far."""
        return len(self._compactions) - 1

    def told(self) -> dict[str, int]:
        """How much there was to check, for a test that wants to know that there was anything."""
        records = [self._all, *self._watches, *itertools.chain.from_iterable(self._chains)]
        return {
            "watches": len(records),
            "batches": sum(len(record.batches) for record in records),
            "compacted": sum(isinstance(record.ended, Compacted) for record in records),
            "compactions": self.compactions,
            "chains": self.resumed,
        }
