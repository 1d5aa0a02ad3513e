"""The checker is checked: histories that cannot be are refused with a reason, those that can be are accepted.

Histories made by hand, one for each way to be wrong; and small random histories, on which an exhaustive search must
agree. ``test_faulty_stores`` has the third way: whole workloads on stores of which each has one fault.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st

from platformd.coordination.contract import Compare, Delete, Event, KeyValue, Put, TxnResult
from tests.simulation import model
from tests.simulation.checker import FUTURE, check
from tests.simulation.history import NEVER, Fetch, Log, NotLinearizable, Operation, Outcome, Range, Txn
from tests.simulation.search import linearizable

A, B = b"a", b"b"


def put(key: bytes, value: bytes, lease: int = 0) -> Txn:
    return Txn((), (Put(key, value, lease),))


def swap(key: bytes, old: bytes, new: bytes) -> Txn:
    return Txn((Compare(key, "value", "==", old),), (Put(key, new),))


def refusal(checking: Callable[[], object]) -> str | None:
    """Why a check refuses; ``None`` if it does not."""
    try:
        checking()
    except NotLinearizable as refused:
        return str(refused)
    return None


class Story:
    """What a store did, one thing after the other, and what clients say about it."""

    def __init__(self) -> None:
        self.states: list[dict[bytes, KeyValue]] = [{}, {}]
        self.events: list[Event] = []
        self.operations: list[Operation] = []

    @property
    def revision(self) -> int:
        return len(self.states) - 1

    def do(self, request: Txn) -> TxnResult:
        done = model.run(self.states[-1], self.revision, request)
        if done.events:
            self.take(done.events)
        return done.result

    def take(self, events: Sequence[Event]) -> None:
        state = dict(self.states[-1])
        for change in events:
            if change.type == "put":
                state[change.kv.key] = change.kv
            else:
                del state[change.kv.key]
        self.states.append(state)
        self.events += events

    def say(
        self, begin: float, end: float, request: Fetch | Range | Txn, result: object, outcome: Outcome = Outcome.OK
    ) -> None:
        number = len(self.operations)
        self.operations.append(Operation(number, request, begin, end, outcome, result))  # type: ignore[arg-type]

    def wrote(self, begin: float, end: float, request: Txn) -> TxnResult:
        done = self.do(request)
        self.say(begin, end, request, done)
        return done

    def got(self, begin: float, end: float, key: bytes, revision: int) -> None:
        self.say(begin, end, Fetch(key), self.states[revision].get(key))

    def lost_sight(self, begin: float, request: Txn, end: float = NEVER) -> None:
        self.say(begin, end, request, None, Outcome.UNKNOWN)

    def log(self) -> Log:
        return Log(1, (), self.events, self.revision)

    def check(self, *, leases: bool = False) -> None:
        check(self.operations, self.log(), leases=leases)


# --- histories made by hand: each is refused, and this is in the reason ---------------------------


def stale_read(story: Story) -> None:
    story.wrote(1, 2, put(A, b"1"))
    story.wrote(3, 4, put(A, b"2"))
    story.got(5, 6, A, 2)


def seen_then_unseen(story: Story) -> None:
    story.wrote(1, 2, put(A, b"1"))
    story.wrote(3, 100, put(A, b"2"))
    story.got(5, 6, A, 3)
    story.got(7, 8, A, 2)


def reads_of_two_keys_the_other_way_round(story: Story) -> None:
    story.wrote(1, 100, put(A, b"1"))
    story.wrote(2, 100, put(B, b"1"))
    story.got(5, 6, B, 3)
    story.got(7, 8, A, 1)


def list_goes_back_behind_a_get(story: Story) -> None:
    story.wrote(1, 100, put(A, b"1"))
    story.got(5, 6, A, 2)
    story.say(7, 8, Range(A, None), model.select({}, 1, Range(A, None)))


def write_before_its_time(story: Story) -> None:
    story.wrote(5, 6, put(A, b"1"))
    story.wrote(1, 2, put(A, b"2"))


def failed_compare_is_stale(story: Story) -> None:
    story.wrote(1, 2, put(A, b"1"))
    story.say(5, 6, swap(A, b"1", b"2"), model.run({}, 1, swap(A, b"1", b"2")).result)


def written_by_nobody_then(story: Story) -> None:
    story.do(put(A, b"1"))
    story.got(1, 2, A, 2)
    story.lost_sight(3, put(A, b"1"))


def done_after_its_process_died(story: Story) -> None:
    story.lost_sight(1, put(A, b"1"), end=3)
    story.say(4, 5, Range(A, None), model.select({}, 1, Range(A, None)))
    story.do(put(A, b"1"))


def read_of_a_future_that_is_past(story: Story) -> None:
    story.wrote(1, 2, put(A, b"1"))
    story.operations.append(Operation(9, Fetch(A, 2), 3, 4, Outcome.FAILED, None, FUTURE))


def lost_update(story: Story) -> None:
    story.wrote(1, 2, put(A, b"0"))
    told = [model.run(story.states[2], 2, swap(A, b"0", value)).result for value in (b"1", b"2")]
    for value, result in zip((b"1", b"2"), told, strict=True):
        story.say(3, 4, swap(A, b"0", value), result)
    story.do(swap(A, b"0", b"1"))


def lost_update_hidden_by_the_store(story: Story) -> None:
    story.wrote(1, 2, put(A, b"0"))
    for value in (b"1", b"2"):
        done = story.do(put(A, value))
        story.say(3, 4, swap(A, b"0", value), done)


def lost_write(story: Story) -> None:
    story.wrote(1, 2, put(A, b"1"))
    story.say(3, 4, put(A, b"2"), model.run(story.states[2], 2, put(A, b"2")).result)


def lost_write_with_another_in_its_place(story: Story) -> None:
    story.say(1, 2, put(A, b"1"), model.run({}, 1, put(A, b"1")).result)
    story.do(put(A, b"2"))
    story.lost_sight(1, put(A, b"2"))


def half_done(story: Story) -> None:
    both = Txn((), (Put(A, b"1"), Put(B, b"1")))
    story.say(1, 2, both, model.run({}, 1, both).result)
    story.do(put(A, b"1"))


def half_seen(story: Story) -> None:
    story.wrote(1, 2, Txn((), (Put(A, b"1"), Put(B, b"1"))))
    told = model.select(story.states[2], 2, Range(A, None))
    story.say(3, 4, Range(A, None), type(told)(items=told.items[:1], revision=2, count=1))


def done_twice(story: Story) -> None:
    story.wrote(1, 2, put(A, b"1"))
    story.do(put(A, b"1"))


def done_twice_by_whom_nobody_told(story: Story) -> None:
    story.lost_sight(1, put(A, b"1"))
    story.do(put(A, b"1"))
    story.do(put(A, b"1"))


def refused_but_done(story: Story) -> None:
    story.do(put(A, b"1"))
    story.say(1, 2, put(A, b"1"), None, Outcome.FAILED)


def out_of_nowhere(story: Story) -> None:
    story.say(1, 2, Fetch(A), KeyValue(key=A, value=b"?", create_revision=1, mod_revision=1, version=1))


def wrong_previous_answer(story: Story) -> None:
    story.wrote(1, 2, put(A, b"1"))
    done = story.wrote(3, 4, put(A, b"2"))
    story.operations[-1] = replace(story.operations[-1], result=type(done)(
        succeeded=True, revision=3, results=(type(done.results[0])(None),)  # type: ignore[arg-type]
    ))  # fmt: skip


def past_read_wrong(story: Story) -> None:
    story.wrote(1, 2, put(A, b"1"))
    story.wrote(3, 4, put(A, b"2"))
    story.say(5, 6, Fetch(A, 2), story.states[3][A])


def deletion_by_nobody(story: Story) -> None:
    story.wrote(1, 2, put(A, b"1"))
    story.do(Txn((), (Delete(A),)))


def half_a_lease_end(story: Story) -> None:
    story.wrote(1, 2, put(A, b"1", lease=7))
    story.wrote(3, 4, put(B, b"1", lease=7))
    story.do(Txn((), (Delete(A),)))


IMPOSSIBLE: dict[Callable[[Story], None], str] = {
    stale_read: "was last true at revision 2, but before it began, client 1's txn (put a=2)",
    seen_then_unseen: "saw revision 3",
    reads_of_two_keys_the_other_way_round: "was last true at revision 1, but before it began, client 2's get b",
    list_goes_back_behind_a_get: "was last true at revision 1",
    write_before_its_time: "is revision 2, but before it began, client 1's txn (put a=2)",
    failed_compare_is_stale: "saw|was done as revision 2",
    written_by_nobody_then: "revision 2 .put a=1. is nobody's",
    done_after_its_process_died: "revision 2 .put a=1. is nobody's: client 0",
    read_of_a_future_that_is_past: "was last true at revision 1, but before",
    lost_update: "on the state of revision 2|two writes were told revision 3",
    lost_update_hidden_by_the_store: "client 2's txn .if value of a == b'0'",
    lost_write: "which ends at revision 2: lost",
    lost_write_with_another_in_its_place: "is not what revision 2 did: put a=1 became put a=2",
    half_done: "put a=1, put b=1 became put a=1",
    half_seen: "is not the state of revision 2 .revision 2 has a=1, b=1.",
    done_twice: "revision 3 .put a=1. is nobody's: client 0",
    done_twice_by_whom_nobody_told: "revision 3 .put a=1. is nobody's",
    refused_but_done: "is nobody's: client 0's txn .put a=1. from 1 to 2 failed",
    out_of_nowhere: "which the key never was",
    wrong_previous_answer: "was told TxnResult",
    past_read_wrong: "is not what the key was then",
    deletion_by_nobody: "revision 3 .delete a. is nobody's",
    half_a_lease_end: "revision 4 .delete a. is nobody's",
}


@pytest.mark.parametrize("tell", IMPOSSIBLE, ids=lambda tell: str(tell.__name__))
def test_impossible_history_is_refused(tell: Callable[[Story], None]) -> None:
    """Each way for a history to be wrong is refused with a reason that names the operations."""
    story = Story()
    tell(story)
    with pytest.raises(NotLinearizable) as refused:
        story.check(leases=True)
    reason = IMPOSSIBLE[tell].replace("(", "[(]").replace(")", "[)]")
    refused.match(reason)


# --- histories made by hand: each is accepted ------------------------------------------------------


def concurrent_reads_see_before_or_after(story: Story) -> None:
    story.wrote(1, 2, put(A, b"1"))
    story.wrote(3, 100, put(A, b"2"))
    story.got(4, 7, A, 2)
    story.got(5, 8, A, 3)
    story.got(9, 10, A, 3)


def absent_before_and_after(story: Story) -> None:
    story.got(1, 2, A, 1)
    story.wrote(3, 4, put(A, b"1"))
    story.got(5, 6, A, 2)
    story.wrote(7, 8, Txn((), (Delete(A),)))
    story.got(9, 10, A, 1)
    story.wrote(11, 12, Txn((), (Delete(A),)))


def acknowledged_in_another_order(story: Story) -> None:
    story.wrote(1, 9, put(A, b"1"))
    story.wrote(2, 3, put(A, b"2"))
    story.say(8, 10, swap(A, b"1", b"3"), model.run(story.states[3], 3, swap(A, b"1", b"3")).result)


def unknown_done_much_later(story: Story) -> None:
    story.lost_sight(1, put(A, b"1"))
    story.lost_sight(2, put(A, b"lost"))
    story.wrote(3, 4, put(B, b"1"))
    story.got(5, 6, A, 1)
    story.do(put(A, b"1"))
    story.got(7, 8, A, 3)


def deletions_of_which_nobody_heard(story: Story) -> None:
    for number in range(3):
        story.lost_sight(10 * number + 1, Txn((), (Delete(A, B if number else None),)))
        story.wrote(10 * number + 2, 10 * number + 3, put(A, b"%d" % number))
    story.do(Txn((), (Delete(A),)))
    story.wrote(41, 42, put(A, b"3"))
    story.do(Txn((), (Delete(A),)))


def reads_of_the_past(story: Story) -> None:
    story.wrote(1, 2, put(A, b"1"))
    story.wrote(3, 4, put(A, b"2"))
    story.say(5, 6, Fetch(A, 2), story.states[2][A])
    story.operations.append(Operation(9, Fetch(A, 3), 2, 5, Outcome.FAILED, None, FUTURE))


def end_of_a_lease(story: Story) -> None:
    story.wrote(1, 2, put(A, b"1", lease=7))
    story.wrote(3, 4, put(B, b"1", lease=7))
    story.take(model.lease_end(story.states[-1], 7, 4))
    story.got(5, 6, A, 4)


POSSIBLE = (
    concurrent_reads_see_before_or_after, absent_before_and_after, acknowledged_in_another_order,
    unknown_done_much_later, deletions_of_which_nobody_heard, reads_of_the_past, end_of_a_lease,
)  # fmt: skip


@pytest.mark.parametrize("tell", POSSIBLE, ids=lambda tell: str(tell.__name__))
def test_possible_history_is_accepted(tell: Callable[[Story], None]) -> None:
    """What concurrency, lost answers and leases allow is not refused."""
    story = Story()
    tell(story)
    story.check(leases=True)


def test_log_that_does_not_hang_together_is_refused() -> None:
    """A gap, a missing end, a key twice, a wrong version, creation or previous value in the history are refused."""
    story = Story()
    for request in (put(A, b"1"), put(A, b"2"), put(B, b"1"), Txn((), (Delete(A),)), put(A, b"3")):
        story.do(request)
    good = story.events

    def changed(index: int, **fields: object) -> list[Event]:
        kv = {name: getattr(good[index].kv, name) for name in good[index].kv.__struct_fields__} | fields
        altered = Event(type=good[index].type, kv=KeyValue(**kv), previous=good[index].previous)
        return [*good[:index], altered, *good[index + 1 :]]

    bad = {
        "gap": [*good[:2], *good[3:]],
        "end": good[:-1],
        "twice": [good[0], *good],
        "again": [*good, good[0]],
        "version": changed(1, version=1),
        "created": changed(1, create_revision=3),
        "new life": changed(4, version=3, create_revision=2),
        "ghost": changed(3, value=b"2"),
        "previous": [*good[:1], Event(type="put", kv=good[1].kv, previous=None), *good[2:]],
        "order": [good[1], good[0], *good[2:]],
    }
    assert Log(1, (), good, 6).state(4)[B].value == b"1"
    for name, events in bad.items():
        assert refusal(lambda: Log(1, (), events, 6)), name  # noqa: B023


# --- small random histories, beside an exhaustive search -------------------------------------------

REQUESTS = st.one_of(
    st.sampled_from([Fetch(A), Fetch(B), Range(A, None), Txn((), (Delete(A),))]),
    st.builds(lambda key: ("put", key), st.sampled_from([A, B])),
    st.builds(lambda key, known: ("swap", key, known), st.sampled_from([A, B]), st.integers(0, 4)),
    st.just(("both",)),
)


def made(request: object, number: int) -> Fetch | Range | Txn:
    """A request with a value of its own."""
    value = b"%d" % number
    match request:
        case ("put", bytes() as key):
            return put(key, value)
        case ("swap", bytes() as key, int() as known):
            return swap(key, b"%d" % known, value)
        case ("both",):
            return Txn((), (Put(A, value), Put(B, value)))
    assert isinstance(request, Fetch | Range | Txn)
    return request


@st.composite
def stories(draw: st.DrawFn) -> Story:
    """A store that does everything properly, and clients whose times and answers may or may not fit."""
    story = Story()
    chosen = draw(st.lists(REQUESTS, min_size=2, max_size=6))
    requests = [made(request, number) for number, request in enumerate(chosen)]
    moments = draw(st.permutations(range(2 * len(requests))))
    near = draw(st.booleans())  # times near the true order, so that many fit
    died = draw(st.booleans())  # one outcome is unknown, because of a death that bounds it; else any, without a bound
    lost = draw(st.sets(st.integers(0, 5), max_size=1 if died else 2))
    for index, request in enumerate(requests):
        begin, end = sorted(moments[2 * index : 2 * index + 2])
        if near:
            begin, end = 4 * index - begin, 4 * index + end + 1
        unknown = index in lost
        if isinstance(request, Txn):
            done = None if unknown and draw(st.booleans()) else story.do(request)
            if unknown:
                story.lost_sight(begin, request, end if died else NEVER)
            else:
                story.say(begin, end, request, done)
        else:
            state = draw(st.integers(max(1, story.revision - 1), story.revision))
            if isinstance(request, Fetch):
                story.got(begin, end, request.key, state)
            else:
                story.say(begin, end, request, model.select(story.states[state], state, request))
    return story


@given(stories())
@settings(max_examples=400)
def test_verdict_is_that_of_an_exhaustive_search(story: Story) -> None:
    """On small histories of any kind, it accepts exactly what some order of the operations explains."""
    expected = linearizable(story.operations, story.log())
    event("linearizable" if expected else "not linearizable")
    refused = refusal(story.check)
    assert (refused is None) == expected, refused
