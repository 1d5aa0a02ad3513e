"""What a watch promises, checked on what it gave, beside what the store says happened (``Log``).

One function for each promise, so that a failure has its name. They are those of etcd's robustness tests
(``tests/robustness/validate/watch.go``): ordered, unique, atomic, reliable, resumable, bookmarkable, filtered, with the
right facts and previous values.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import trio

from platformd.coordination.contract import Compacted, Event, EventType, Store, TxnResult, WatchBatch
from tests.simulation.history import History, Log, Operation
from tests.simulation.model import changes_something


class BrokenWatch(AssertionError):
    """A watch did not do what is promised."""


@dataclass
class WatchRecord:
    """One watch: what was asked and what came."""

    key: bytes
    end: bytes | None
    start_revision: int = 0
    previous: bool = False
    only: EventType | None = None
    invoked_at: int = 0
    placed_at: int = 0
    """When the watch was in place."""
    batches: list[WatchBatch] = field(default_factory=list)
    ended: Compacted | None = None
    """What it ended with, if not because nobody wanted more."""
    forgiven: int = 0
    """Up to this revision, previous values may be missing, because what was before is compacted."""
    dropped: frozenset[int] = frozenset()
    """Revisions of compactions of an etcd before 3.5.18, which takes deletions of that very revision away from a watch
    that is still reading history when it is done (etcd issue 19179): there is nothing to be told from. Only those."""
    changed: trio.Event = field(default_factory=trio.Event)

    def __str__(self) -> str:
        start = f" from {self.start_revision}" if self.start_revision else ""
        return f"watch of [{self.key!r}, {self.end!r}){start}{f', {self.only}s only' if self.only else ''}"

    @property
    def revision(self) -> int:
        """Up to where it said that it is complete."""
        return self.batches[-1].revision if self.batches else 0

    def take(self, batch: WatchBatch) -> None:
        """Record what came."""
        self.batches.append(batch)
        self.tell()

    def tell(self) -> None:
        """Wake who waits for it."""
        self.changed.set()
        self.changed = trio.Event()

    async def wait_for(self, revision: int) -> None:
        """Until it is at ``revision``, or has ended."""
        with trio.fail_after(60):
            while self.revision < revision and self.ended is None:
                await self.changed.wait()

    def wants(self, event: Event) -> bool:
        """Whether an event is what was asked for."""
        inside = self.key <= event.kv.key and (self.end is None or event.kv.key < self.end)
        return inside and self.only in (None, event.type)


async def record_watch(
    store: Store,
    record: WatchRecord,
    history: History,
    *,
    until: Callable[[WatchRecord], bool] = lambda _: False,
    pause: Callable[[], float] = lambda: 0.0,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Watch and record.

    Args:
        store: where.
        record: what is asked; what comes is put into it.
        history: whose time is used.
        until: whether it is enough, asked after each batch.
        pause: seconds to wait before each batch, for one who is slow.
        task_status: trio's; started when the watch is in place.
    """
    record.invoked_at = history.now()
    try:
        async with store.watch(
            record.key, record.end, start_revision=record.start_revision, previous=record.previous, only=record.only
        ) as watch:
            record.placed_at = history.now()
            task_status.started()
            async for batch in watch:
                record.take(batch)
                if until(record):
                    return
                await trio.sleep(pause())
    except Compacted as error:
        record.ended = error
        record.tell()


# --- one watch ------------------------------------------------------------------------------------


def validate(record: WatchRecord, log: Log, operations: Iterable[Operation] = ()) -> None:
    """All that is promised of one watch.

    Args:
        record: what was asked and what came.
        log: what the store says happened, at least up to where the watch came.
        operations: what others did meanwhile; with them, where a watch from now on began is checked too.

    Raises:
        BrokenWatch: it says which promise, and where.
    """
    for promise in PROMISES:
        for wrong in promise(record, log):
            raise BrokenWatch(f"{record} is not {promise.__name__}: {wrong}")
    for wrong in _placed(record, operations):
        raise BrokenWatch(f"{record} is not in place: {wrong}")


def begun(record: WatchRecord, log: Log) -> Iterator[str]:
    """The first batch is a bookmark of the revision that it starts from."""
    if record.batches:
        first = record.batches[0]
        if first.events:
            yield f"the first batch is {first}"
        if record.start_revision and first.revision != record.start_revision - 1:
            yield f"it begins at revision {first.revision}"
        if first.revision > log.last:
            yield f"it begins at revision {first.revision}, which never was"


def ordered(record: WatchRecord, log: Log) -> Iterator[str]:
    """Revisions never go back, neither those of events nor those of batches."""
    for before, batch in itertools.pairwise(record.batches):
        if batch.revision < before.revision:
            yield f"revision {batch.revision} after {before.revision}"
    for first, second in itertools.pairwise(_revisions(record)):
        if second < first:
            yield f"an event of revision {second} after one of {first}"


def unique(record: WatchRecord, log: Log) -> Iterator[str]:
    """No event comes twice."""
    seen: set[tuple[int, bytes]] = set()
    for event in _events(record):
        place = event.kv.mod_revision, event.kv.key
        if place in seen:
            yield f"{event.kv.key!r} of revision {event.kv.mod_revision} comes twice"
        seen.add(place)


def atomic(record: WatchRecord, log: Log) -> Iterator[str]:
    """All events of a revision come in one batch."""
    for before, batch in itertools.pairwise(batch for batch in record.batches if batch.events):
        if before.events[-1].kv.mod_revision == batch.events[0].kv.mod_revision:
            yield f"revision {batch.events[0].kv.mod_revision} comes in two batches"


def filtered(record: WatchRecord, log: Log) -> Iterator[str]:
    """Nothing comes that was not asked for."""
    for event in _events(record):
        if not record.wants(event):
            yield f"{event.type} of {event.kv.key!r} was not asked for"


def bookmarkable(record: WatchRecord, log: Log) -> Iterator[str]:
    """A batch's revision says that everything up to it has come, and nothing comes that is at or before it."""
    position = record.batches[0].revision if record.batches else 0
    for batch in record.batches:
        expected = _wanted(record, log, position, batch.revision)
        if missing := [event for event in expected if not _has(batch, event) and not _dropped(record, event)]:
            yield f"revision {batch.revision} is told, and {missing[0].kv} has not come"
        for event in batch.events:
            if not position < event.kv.mod_revision <= batch.revision:
                yield f"revision {position} was told, then came {event.kv} in a batch of revision {batch.revision}"
        if batch.revision > log.last:
            yield f"revision {batch.revision} is told, the last is {log.last}"
        position = batch.revision


def reliable(record: WatchRecord, log: Log) -> Iterator[str]:
    """From the beginning to where it came, every event came, and in the store's order."""
    if not record.batches:
        return
    came = [_place(event) for event in _events(record)]
    wanted = _wanted(record, log, record.batches[0].revision, record.revision)
    expected = [_place(event) for event in wanted if _place(event) in came or not _dropped(record, event)]
    for there, told in itertools.zip_longest(expected, came):
        if there != told:
            yield f"{there} happened, {told} came"
            return


def truthful(record: WatchRecord, log: Log) -> Iterator[str]:
    """Events are as they happened, with what was before if that was asked for."""
    for event in _events(record):
        happened = {there.kv.key: there for there in log.changes(event.kv.mod_revision)}.get(event.kv.key)
        if happened is None:
            yield f"{event} never happened"
        elif (event.type, event.kv) != (happened.type, happened.kv):
            yield f"{event} was {happened}"
        elif event.previous is None and event.kv.mod_revision <= record.forgiven:
            continue
        elif event.previous != (happened.previous if record.previous else None):
            yield f"before revision {event.kv.mod_revision} was {happened.previous}, not {event.previous}"


def refused_rightly(record: WatchRecord, log: Log) -> Iterator[str]:
    """A watch ends for compaction only if it misses what was compacted."""
    if record.ended is not None:
        next_revision = record.revision + 1 if record.batches else record.start_revision
        if record.ended.compact_revision <= next_revision or record.ended.compact_revision > log.last:
            yield f"it ended at revision {next_revision - 1} for a compaction to {record.ended.compact_revision}"


Promise = Callable[[WatchRecord, Log], Iterator[str]]

PROMISES: Sequence[Promise] = (
    begun, ordered, unique, atomic, filtered, bookmarkable, reliable, truthful, refused_rightly,
)  # fmt: skip


def _placed(record: WatchRecord, operations: Iterable[Operation]) -> Iterator[str]:
    """A watch from now on begins after what was done before it was asked for, and before what was asked later."""
    if record.start_revision or not record.batches:
        return
    first = record.batches[0].revision
    for operation in operations:
        if isinstance(operation.result, TxnResult):
            revision = operation.result.revision
            if operation.returned_at < record.invoked_at and revision > first:
                yield f"it begins at revision {first}, after which there was {operation}"
            if operation.invoked_at > record.placed_at and revision < first + changes_something(operation.result):
                yield f"it begins at revision {first}, and will not show {operation}"


# --- a chain of watches ---------------------------------------------------------------------------


def resumed(records: Sequence[WatchRecord], log: Log) -> None:
    """Watches of which each began after the last revision of the one before give together what one would have.

    Raises:
        BrokenWatch: they do not.
    """
    for before, after in itertools.pairwise(records):
        if after.start_revision != before.revision + 1:
            raise BrokenWatch(f"{after} was asked for after revision {before.revision}")
    together = WatchRecord(
        records[0].key, records[0].end, records[0].start_revision, records[0].previous, records[0].only
    )
    together.forgiven, together.dropped = records[0].forgiven, records[0].dropped
    together.batches = [batch for record in records for batch in record.batches]
    validate(together, log)


# --- words ----------------------------------------------------------------------------------------


def _dropped(record: WatchRecord, event: Event) -> bool:
    return event.type == "delete" and event.kv.mod_revision in record.dropped


def _events(record: WatchRecord) -> Iterator[Event]:
    return itertools.chain.from_iterable(batch.events for batch in record.batches)


def _revisions(record: WatchRecord) -> Iterator[int]:
    return (event.kv.mod_revision for event in _events(record))


def _wanted(record: WatchRecord, log: Log, after: int, upto: int) -> list[Event]:
    return [event for revision in range(after + 1, upto + 1) for event in log.changes(revision) if record.wants(event)]


def _place(event: Event) -> tuple[int, bytes, str]:
    return event.kv.mod_revision, event.kv.key, event.type


def _has(batch: WatchBatch, event: Event) -> bool:
    return any(_place(event) == _place(one) for one in batch.events)
