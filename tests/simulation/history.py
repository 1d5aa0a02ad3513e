"""What clients did to a store and what they were told (``Operation``), and what the store says happened (``Log``).

Times are the numbers of a counter, not seconds: all clients of a history run in one trio thread, so the order in which
requests began and ended is total, without ties and without a clock.
"""

from __future__ import annotations

import bisect
import enum
import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from platformd.coordination import contract
from platformd.coordination.contract import Event, KeyValue, Listing, TxnResult

NEVER = math.inf
"""When something returned that nobody ever heard of again."""


class NotLinearizable(AssertionError):
    """No order of the operations explains what the clients were told."""


# --- what was asked -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Fetch:
    """``Store.get``."""

    key: bytes
    revision: int = 0

    def __str__(self) -> str:
        return f"get {_text(self.key)}{f' at revision {self.revision}' if self.revision else ''}"


@dataclass(frozen=True)
class Range:
    """``Store.list``."""

    key: bytes
    end: bytes | None
    revision: int = 0
    limit: int = 0
    order: contract.Order = "key"

    def __str__(self) -> str:
        then = f" at revision {self.revision}" if self.revision else ""
        limit = f" limit {self.limit}" if self.limit else ""
        return f"list [{_text(self.key)}, {_text(self.end)}) by {self.order}{limit}{then}"


@dataclass(frozen=True)
class Txn:
    """``Store.txn``."""

    compares: tuple[contract.Compare, ...]
    then: tuple[contract.Operation, ...]
    otherwise: tuple[contract.Operation, ...] = ()

    def __str__(self) -> str:
        condition = " and ".join(f"{c.target} of {_text(c.key)} {c.operator} {c.operand!r}" for c in self.compares)
        then = ", ".join(map(_shown, self.then))
        other = f" else {', '.join(map(_shown, self.otherwise))}" if self.otherwise else ""
        return f"txn ({f'if {condition} then ' if condition else ''}{then}{other})"


Request = Fetch | Range | Txn


def _text(key: bytes | None) -> str:
    return "…" if key is None else repr(key)[2:-1]


def _shown(operation: contract.Operation) -> str:
    if isinstance(operation, contract.Put):
        return f"put {_text(operation.key)}={_text(operation.value)}"
    word = "delete" if isinstance(operation, contract.Delete) else "get"
    return f"{word} {_text(operation.key)}" if operation.end is None else f"{word} all of {_text(operation.key)}…"


# --- what came of it ------------------------------------------------------------------------------


class Outcome(enum.Enum):
    """What its client knows of an operation."""

    OK = "ok"
    """It was done; ``result`` is what was told."""
    FAILED = "failed"
    """It was refused: nothing was done."""
    UNKNOWN = "unknown"
    """It may have been done, once or not at all."""


Result = KeyValue | Listing | TxnResult | None


@dataclass(frozen=True)
class Operation:
    """One request of one client."""

    client: int
    request: Request
    invoked_at: float
    returned_at: float
    """Its effect, if it had one, was before this. ``NEVER`` for an unknown outcome whose request may still be on
    its way."""
    outcome: Outcome
    result: Result = None
    refusal: str = ""
    """Code of the error of a failed operation."""

    def __str__(self) -> str:
        until = "never" if self.returned_at == NEVER else f"{self.returned_at:g}"
        told = [] if self.outcome is Outcome.OK else [self.outcome.value, f"({self.refusal})" if self.refusal else ""]
        time = f"from {self.invoked_at:g} to {until}"
        return " ".join(filter(None, [f"client {self.client}'s {self.request}", time, *told])) + _answer(self.result)


def _answer(result: Result) -> str:
    if isinstance(result, TxnResult):
        return f" → revision {result.revision}{'' if result.succeeded else ', compares failed'}"
    if isinstance(result, Listing):
        items = ", ".join(f"{_text(kv.key)}={_text(kv.value)}@{kv.mod_revision}" for kv in result.items)
        return f" → revision {result.revision}: {items or 'nothing'}"
    return "" if result is None else f" → {_text(result.value)}@{result.mod_revision}"


@dataclass
class History:
    """All operations of a test, in the order in which they returned."""

    operations: list[Operation] = field(default_factory=list)
    _ticks: itertools.count[int] = field(default_factory=lambda: itertools.count(1))
    _counts: dict[Outcome, int] = field(default_factory=lambda: dict.fromkeys(Outcome, 0))

    def now(self) -> int:
        """The next moment."""
        return next(self._ticks)

    def add(
        self, client: int, request: Request, invoked_at: int, outcome: Outcome, result: Result = None, refusal: str = ""
    ) -> Operation:
        """Record that an operation returned now."""
        moment = self.now()
        returned_at = NEVER if outcome is Outcome.UNKNOWN else moment
        operation = Operation(client, request, invoked_at, returned_at, outcome, result, refusal)
        self.operations.append(operation)
        self._counts[outcome] += 1
        return operation

    def nothing_under_way(self) -> None:
        """The store's process is dead: what is unknown so far was done before this moment, or never will be."""
        moment = self.now()
        for index, old in enumerate(self.operations):
            if old.outcome is Outcome.UNKNOWN and old.returned_at == NEVER:
                self.operations[index] = Operation(
                    old.client, old.request, old.invoked_at, moment, old.outcome, old.result, old.refusal
                )

    def count(self, outcome: Outcome) -> int:
        """How many came out like this."""
        return self._counts[outcome]


# --- what the store says happened -----------------------------------------------------------------


class Log:
    """Every change from a revision on, as a watch of all keys with previous values told it.

    It is taken apart here, and refused if it does not hang together: a gap, a key twice in one revision, a version, a
    creation or a previous value that does not follow from what was before.

    Args:
        base: the revision that it begins after.
        items: the keys at that revision.
        events: all changes of the revisions after it.
        last: the last revision.
    """

    def __init__(self, base: int, items: Iterable[KeyValue], events: Iterable[Event], last: int) -> None:
        self.base = base
        self.last = base
        self._changes: dict[int, tuple[Event, ...]] = {}
        self._timelines: dict[bytes, list[tuple[int, KeyValue | None]]] = {kv.key: [(base, kv)] for kv in items}
        for revision, group in itertools.groupby(events, lambda event: event.kv.mod_revision):
            self._take(revision, tuple(group))
        if self.last != last:
            raise NotLinearizable(f"the store is at revision {last}, but its history ends at {self.last}")

    def _take(self, revision: int, events: tuple[Event, ...]) -> None:
        if revision != self.last + 1:
            raise NotLinearizable(f"the store's history goes from revision {self.last} to {revision}")
        keys = [event.kv.key for event in events]
        if len(set(keys)) < len(keys):
            raise NotLinearizable(f"revision {revision} changes a key twice: {keys}")
        for event in events:
            self._follow(revision, event)
        self.last = revision
        self._changes[revision] = tuple(sorted(events, key=lambda event: event.kv.key))

    def _follow(self, revision: int, event: Event) -> None:
        before = self.at(event.kv.key, revision)
        kv = event.kv
        if event.previous != before:
            raise NotLinearizable(f"revision {revision}: {_text(kv.key)} was {before}, but {event.previous} is told")
        if event.type == "put":
            created, version = (before.create_revision, before.version + 1) if before else (revision, 1)
            wrong = (kv.create_revision, kv.version) != (created, version)
        else:
            wrong = before is None or (kv.value, kv.create_revision, kv.version, kv.lease) != (b"", 0, 0, 0)
        if wrong:
            raise NotLinearizable(f"revision {revision} does not follow: {kv} after {before}")
        self._timelines.setdefault(kv.key, []).append((revision, kv if event.type == "put" else None))

    def changes(self, revision: int) -> tuple[Event, ...]:
        """What a revision changed, by key."""
        return self._changes.get(revision, ())

    def revisions(self) -> range:
        """All revisions after the base."""
        return range(self.base + 1, self.last + 1)

    def at(self, key: bytes, revision: int) -> KeyValue | None:
        """A key as it was at a revision."""
        timeline = self._timelines.get(key, [])
        place = bisect.bisect_right(timeline, revision, key=lambda entry: entry[0])
        return timeline[place - 1][1] if place else None

    def state(self, revision: int) -> dict[bytes, KeyValue]:
        """All keys as they were at a revision, ordered."""
        found = {key: self.at(key, revision) for key in sorted(self._timelines)}
        return {key: kv for key, kv in found.items() if kv is not None}

    def spans(self, key: bytes, kv: KeyValue | None) -> list[tuple[int, int]]:
        """The revisions, first and last of each stretch, at which ``key`` was ``kv``."""
        timeline = list(self._timelines.get(key, []))
        if not timeline or timeline[0][0] > self.base:
            timeline.insert(0, (self.base, None))
        ends: Sequence[int] = [*(revision - 1 for revision, _ in timeline[1:]), self.last]
        return [(first, last) for (first, then), last in zip(timeline, ends, strict=True) if then == kv]


async def read_log(store: contract.Store, base: int = 1, items: Mapping[bytes, KeyValue] | None = None) -> Log:
    """The store's history after ``base`` (when it had ``items``) up to now, also beside what it says it has now."""
    listing = await store.list(b"", None)
    events: list[Event] = []
    async with store.watch(b"", None, start_revision=base + 1, previous=True) as watch:
        async for batch in watch:
            events += (event for event in batch.events if event.kv.mod_revision <= listing.revision)
            if batch.revision >= listing.revision:
                break
    log = Log(base, (items or {}).values(), events, listing.revision)
    if log.state(log.last) != {kv.key: kv for kv in listing.items}:
        raise NotLinearizable(f"at revision {log.last} the store lists {listing.items}, its history says otherwise")
    return log
