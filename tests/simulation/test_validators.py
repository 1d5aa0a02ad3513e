"""The validators are checked: what a right watch gave is accepted, and with one thing changed it is refused by name."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from platformd.coordination.contract import Compacted, Delete, Event, KeyValue, Put, WatchBatch
from tests.simulation import model
from tests.simulation.history import Log, Operation, Outcome, Txn
from tests.simulation.validators import BrokenWatch, WatchRecord, resumed, validate

REQUESTS = (
    Txn((), (Put(b"a", b"1"),)),
    Txn((), (Put(b"a", b"2"), Put(b"b", b"1"), Put(b"z", b"1"))),
    Txn((), (Put(b"z", b"2"),)),
    Txn((), (Delete(b"a", b"c"),)),
    Txn((), (Put(b"b", b"2"),)),
    Txn((), (Put(b"a", b"3"), Put(b"b", b"3"))),
    Txn((), (Put(b"z", b"3"),)),
)
LAST = len(REQUESTS) + 1


def happened() -> tuple[Log, list[Event]]:
    state: dict[bytes, KeyValue] = {}
    events: list[Event] = []
    for revision, request in enumerate(REQUESTS, 1):
        done = model.run(state, revision, request)
        for event in done.events:
            state.pop(event.kv.key, None)
            if event.type == "put":
                state[event.kv.key] = event.kv
        events += done.events
    return Log(1, (), events, LAST), events


LOG, EVENTS = happened()


def of(*revisions: int, previous: bool = True) -> tuple[Event, ...]:
    """What a watch of a and b is given of some revisions."""
    found = [event for event in EVENTS if event.kv.mod_revision in revisions and event.kv.key < b"c"]
    return tuple(event if previous else Event(type=event.type, kv=event.kv) for event in found)


def batch(revision: int, *events: Event) -> WatchBatch:
    return WatchBatch(revision=revision, events=events)


def right() -> WatchRecord:
    """A watch of a and b from revision 2, as it should be: bookmarks, batches of one and of several revisions."""
    record = WatchRecord(b"a", b"c", 2, previous=True)
    record.batches = [
        batch(1), batch(2, *of(2)), batch(4, *of(3)), batch(6, *of(5, 6)), batch(6), batch(7, *of(7)), batch(LAST),
    ]  # fmt: skip
    return record


def test_right_watches_are_accepted() -> None:
    """Whole, in part, filtered, without previous values, from now on, and ended by a compaction."""
    validate(right(), LOG)
    part = right()
    part.batches = part.batches[:3]
    part.ended = Compacted(5, 6)
    validate(part, LOG)
    puts = WatchRecord(b"a", None, only="put")
    puts.batches = [batch(2), batch(6, *(e for e in EVENTS if 2 < e.kv.mod_revision < 7 and e.type == "put"))]
    with pytest.raises(BrokenWatch, match="truthful"):
        validate(puts, LOG)  # it has previous values that it did not ask for
    puts.previous = True
    validate(puts, LOG)
    bare = WatchRecord(b"a", b"c", 2)
    bare.batches = [batch(1), batch(3, *of(2, 3, previous=False))]
    validate(bare, LOG)


def told(index: int, changed: WatchBatch) -> Callable[[WatchRecord], None]:
    def change(record: WatchRecord) -> None:
        record.batches[index] = changed

    return change


def events_first(record: WatchRecord) -> None:
    del record.batches[0]


def batches_swapped(record: WatchRecord) -> None:
    record.batches[1], record.batches[2] = record.batches[2], record.batches[1]


def split_revision(record: WatchRecord) -> None:
    first, second = of(3)
    record.batches[2:3] = [batch(3, first), batch(3, second)]


def ended_too_early(record: WatchRecord) -> None:
    record.batches = record.batches[:3]
    record.ended = Compacted(5, 5)


def altered(event: Event, **fields: object) -> Event:
    kv = {name: getattr(event.kv, name) for name in event.kv.__struct_fields__} | fields
    return Event(type=event.type, kv=KeyValue(**kv), previous=event.previous)


WRONG: dict[str, tuple[str, Callable[[WatchRecord], None]]] = {
    "no bookmark first": ("begun", events_first),
    "begins elsewhere": ("begun", told(0, batch(2))),
    "begins in the future": ("begun", told(0, batch(LAST + 1))),
    "batches go back": ("ordered", batches_swapped),
    "events go back": ("ordered", told(3, batch(6, *of(6), *of(5)))),
    "bookmark goes back": ("ordered", told(4, batch(5))),
    "event twice in a batch": ("unique", told(1, batch(2, *of(2), *of(2)))),
    "event again later": ("ordered|unique", told(4, batch(6, *of(6)))),
    "revision in two batches": ("atomic", split_revision),
    "event of another key": ("filtered", told(2, batch(4, *(e for e in EVENTS if e.kv.mod_revision in (3, 4))))),
    "event missing": ("bookmarkable|reliable", told(3, batch(6, *of(6)))),
    "half a revision": ("bookmarkable|reliable", told(2, batch(4, of(3)[0]))),
    "progress ahead of events": ("bookmarkable", told(2, batch(5, *of(3)))),
    "progress beyond the store": ("bookmarkable", told(-1, batch(LAST + 1))),
    "batch behind its events": ("bookmarkable", told(1, batch(1, *of(2)))),
    "wrong value": ("truthful", told(1, batch(2, altered(of(2)[0], value=b"?")))),
    "wrong version": ("truthful", told(1, batch(2, altered(of(2)[0], version=2)))),
    "no previous value": ("truthful", told(3, batch(6, *of(5, 6, previous=False)))),
    "wrong type": ("bookmarkable", told(1, batch(2, Event(type="delete", kv=of(2)[0].kv)))),
    "ended for nothing": ("refused_rightly", ended_too_early),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_watch_is_refused_by_name(name: str) -> None:
    """Each broken promise is found, and named."""
    promise, change = WRONG[name]
    record = right()
    change(record)
    with pytest.raises(BrokenWatch, match=f"is not ({promise}):"):
        validate(record, LOG)


def test_watches_resume() -> None:
    """A chain of watches is accepted if each goes on where the one before stopped, and refused if one does not."""
    whole = right()
    for cut in range(1, len(whole.batches)):
        head, tail = right(), right()
        head.batches = whole.batches[:cut]
        tail.start_revision = head.revision + 1
        tail.batches = [batch(head.revision), *whole.batches[cut:]]
        resumed([head, tail], LOG)
        tail.start_revision += 1
        with pytest.raises(BrokenWatch, match="was asked for after"):
            resumed([head, tail], LOG)


def test_watch_from_now_on_begins_now() -> None:
    """A watch without a start misses nothing that was asked after it was in place, and nothing older is in it."""
    record = WatchRecord(b"a", b"c", previous=True, invoked_at=10, placed_at=12)
    record.batches = [batch(3), batch(6, *of(5, 6))]

    def wrote(begin: int, end: int, revision: int) -> Operation:
        request = REQUESTS[revision - 2]
        result = model.run(LOG.state(revision - 1), revision - 1, request).result
        return Operation(1, request, begin, end, Outcome.OK, result)

    validate(record, LOG, [wrote(1, 2, 3), wrote(8, 11, 4), wrote(9, 13, 2), wrote(13, 14, 5)])
    for wrong in (wrote(8, 9, 4), wrote(13, 14, 3), wrote(13, 14, 2)):
        with pytest.raises(BrokenWatch, match="is not in place"):
            validate(record, LOG, [wrong])


def test_only_what_an_old_etcd_drops_is_forgiven() -> None:
    """A deletion may be missing at a revision of ``dropped``; nothing else may, and no deletion elsewhere."""
    deletion = next(event for event in EVENTS if event.type == "delete" and event.kv.key < b"c")
    put = next(event for event in EVENTS if event.type == "put" and event.kv.mod_revision > 2 and event.kv.key < b"c")
    for missing, dropped, forgiven in (
        (deletion, {deletion.kv.mod_revision}, True),
        (deletion, {deletion.kv.mod_revision - 1}, False),
        (put, {put.kv.mod_revision}, False),
    ):
        record = right()
        record.dropped = frozenset(dropped)
        record.batches = [batch(b.revision, *(e for e in b.events if e != missing)) for b in record.batches]
        if forgiven:
            validate(record, LOG)
        else:
            with pytest.raises(BrokenWatch):
                validate(record, LOG)
