"""Keeps what grows by itself bounded: history, events. The oldest goes first, in small transactions."""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Final, Never

import msgspec
import trio

from platformd.coordination.contract import Compare, Delete, KeyValue, Store, prefix_end
from platformd.core.clock import Clock
from platformd.core.errors import Gone, PlatformError

log = logging.getLogger(__name__)

PAGE: Final = 500
"""Keys that are listed at a time."""
BATCH: Final = 60
"""Keys that one transaction removes: each takes a compare and an operation."""


class Bounds(msgspec.Struct, frozen=True, kw_only=True):
    """What is kept below a prefix."""

    prefix: bytes
    object_of: Callable[[bytes], bytes]
    """The object that a key is of."""
    per_object: int
    """Keys of one object."""
    overall: int
    """Keys of all objects."""
    max_age: float
    """Seconds since a key was written last; 0 for ever."""


class Ages:
    """Which keys there are, the oldest first, and which of them are too many. Knows no store and no clock."""

    def __init__(self, bounds: Bounds) -> None:
        self._bounds = bounds
        self._all: OrderedDict[bytes, tuple[int, float]] = OrderedDict()
        """Each key's last revision and when that was, seconds."""
        self._of: dict[bytes, OrderedDict[bytes, None]] = {}

    def __len__(self) -> int:
        return len(self._all)

    def put(self, key: bytes, revision: int, at: float) -> None:
        """A key was written."""
        self.drop(key)
        self._all[key] = (revision, at)
        self._of.setdefault(self._bounds.object_of(key), OrderedDict())[key] = None

    def drop(self, key: bytes) -> None:
        """A key is gone."""
        if self._all.pop(key, None) is None:
            return
        mine = self._of[self._bounds.object_of(key)]
        del mine[key]
        if not mine:
            del self._of[self._bounds.object_of(key)]

    def clear(self) -> None:
        """Nothing is known any more."""
        self._all.clear()
        self._of.clear()

    def due(self, now: float) -> list[tuple[bytes, int]]:
        """Keys that are to go, with the revisions that they were seen at."""
        bounds = self._bounds
        going: dict[bytes, None] = {}
        for mine in self._of.values():
            surplus = len(mine) - bounds.per_object
            going |= dict.fromkeys(key for key, _ in zip(mine, range(surplus), strict=False))
        surplus = len(self._all) - bounds.overall - len(going)
        for key, (_, at) in self._all.items():
            if surplus <= 0 and not (bounds.max_age and now - at > bounds.max_age):
                break
            if key not in going:
                surplus -= 1
                going[key] = None
        return [(key, self._all[key][0]) for key in going]


async def keep_bounded(
    store: Store,
    clock: Clock,
    bounds: Bounds,
    *,
    interval: float = 10.0,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> Never:
    """Remove what is beyond ``bounds``, every ``interval`` seconds. Started when it is done for the first time.

    When a key was written is known from then on; those that were there before count from the start of the daemon, and
    from their ``at`` if they are JSON with one.
    """
    ages = Ages(bounds)
    revision = await _fill(store, clock, bounds, ages)

    async def sweep(*, task_status: trio.TaskStatus[None]) -> None:
        while True:
            try:
                await _remove(store, ages.due(_now(clock)))
            except PlatformError as error:
                log.warning("what is too old below %s could not be removed: %s", bounds.prefix.decode(), error)
            task_status.started()
            task_status = trio.TASK_STATUS_IGNORED
            await trio.sleep(interval)

    async with trio.open_nursery() as nursery:
        await nursery.start(sweep)
        task_status.started()
        while True:
            try:
                await _follow(store, clock, bounds, ages, revision)
            except Gone:
                ages.clear()  # too slow for the watch: list again
                revision = await _fill(store, clock, bounds, ages)
    raise AssertionError("unreachable")


async def _follow(store: Store, clock: Clock, bounds: Bounds, ages: Ages, revision: int) -> None:
    end = prefix_end(bounds.prefix)
    async with store.watch(bounds.prefix, end, start_revision=revision + 1) as batches:
        async for batch in batches:
            for event in batch.events:
                if event.type == "put":
                    ages.put(event.kv.key, event.kv.mod_revision, _now(clock))
                else:
                    ages.drop(event.kv.key)


async def _fill(store: Store, clock: Clock, bounds: Bounds, ages: Ages) -> int:
    start, revision, more = bounds.prefix, 0, True
    found: list[tuple[int, bytes, float]] = []
    while more:
        page = await store.list(start, prefix_end(bounds.prefix), revision=revision, limit=PAGE)
        revision, more = page.revision, page.more
        found += [(kv.mod_revision, kv.key, _written_at(kv, _now(clock))) for kv in page.items]
        if page.items:
            start = page.items[-1].key + b"\x00"
    for changed, key, at in sorted(found):
        ages.put(key, changed, at)
    return revision


class _Dated(msgspec.Struct):
    at: str = ""


def _written_at(kv: KeyValue, now: float) -> float:
    try:
        text = msgspec.json.decode(kv.value, type=_Dated).at
        return min(now, msgspec.convert(text, datetime, strict=False).timestamp())
    except (msgspec.DecodeError, msgspec.ValidationError):
        return now


async def _remove(store: Store, keys: Sequence[tuple[bytes, int]]) -> None:
    for i in range(0, len(keys), BATCH):
        part = keys[i : i + BATCH]
        # What was written again meanwhile is looked at the next time.
        compares = [Compare(key, "mod_revision", "==", revision) for key, revision in part]
        await store.txn(compares, [Delete(key) for key, _ in part])


def _now(clock: Clock) -> float:
    return clock.time_ns() / 1e9
