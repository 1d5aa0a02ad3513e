"""The rules of the store's connection, without a socket."""

from __future__ import annotations

from typing import Any

import pytest

from platformd.client.http import Target
from platformd.client.store_core import Call, StoreCore
from platformd.client.store_requests import MAX_DELAY, Backoff, Pages, store_socket
from platformd.client.store_watching import WINDOW, WatchCore
from platformd.coordination.codec import MAGIC, VERSION, FrameBuffer, append_frame, decode_request, frames
from platformd.coordination.codec.replies import wire_events, wire_kv, wire_problem
from platformd.coordination.codec.requests import (
    CancelRequest,
    CreditRequest,
    GetRequest,
    Hello,
    TxnRequest,
    WatchRequest,
    wire_txn,
)
from platformd.coordination.contract import Event, KeyValue, Listing, Put, WatchBatch
from platformd.core.errors import InvalidInput, LimitReached, NotFound, OutcomeUnknown, TooLarge, Unavailable

KV = KeyValue(key=b"k", value=b"v", create_revision=1, mod_revision=2, version=2)


def bytes_of(*messages: tuple[Any, ...]) -> bytes:
    out = bytearray()
    for message in messages:
        append_frame(out, message)
    return bytes(out)


def sent(core: StoreCore) -> list[Any]:
    """What the core has to send, as the server reads it."""
    buffer = FrameBuffer(1 << 30)
    buffer.feed(bytes(core.take()))
    found = []
    while (message := buffer.next()) is not None:
        found.append(decode_request(message))
    return found


def connect(core: StoreCore, max_frame: int = 1 << 20, max_in_flight: int = 100, credit: int = 1 << 20) -> list[Any]:
    """A connection whose server says hello; what the core then sends."""
    core.open()
    assert isinstance(sent(core)[0], Hello)
    core.receive(bytes_of((frames.HELLO, MAGIC, VERSION, "test", max_frame, max_in_flight, credit)))
    return sent(core)


@pytest.fixture
def core() -> StoreCore:
    return StoreCore("test", "/p.store")


def get(core: StoreCore, key: bytes = b"k") -> Call:
    return core.call(frames.GET, key, 0, repeatable=True)


def write(core: StoreCore, value: bytes = b"v") -> Call:
    return core.call(frames.TXN, *wire_txn((), (Put(b"k", value),), ()), repeatable=False)


def test_answers_find_their_calls_in_any_order(core: StoreCore) -> None:
    """Two requests, answered the other way round, one of them with a problem."""
    connect(core)
    first, second = get(core), get(core)
    requests = sent(core)
    woken = core.receive(
        bytes_of(
            wire_problem(requests[1].id, NotFound("no", subject="s")),
            (frames.KEY_VALUE, requests[0].id, wire_kv(KV)),
        )
    )
    assert woken == [second, first]
    assert first.fact() == KV
    with pytest.raises(NotFound):
        second.fact()
    assert core.in_flight == 0


def test_what_is_asked_before_hello_is_sent_after_it(core: StoreCore) -> None:
    """Nothing but hello is said before the server has answered it."""
    get(core, b"early")
    core.open()
    assert [type(each) for each in sent(core)] == [Hello]
    core.receive(bytes_of((frames.HELLO, MAGIC, VERSION, "test", 1000, 10, 1000)))
    assert [each.key for each in sent(core)] == [b"early"]


def test_no_more_in_flight_than_the_server_takes(core: StoreCore) -> None:
    """Requests over the server's limit wait here, and go when others are answered, in order."""
    connect(core, max_in_flight=2)
    calls = [get(core, b"%d" % i) for i in range(5)]
    keys = []
    while not all(call.done for call in calls):
        batch = sent(core)
        assert len(batch) <= 2
        keys += [request.key for request in batch]
        core.receive(bytes_of(*((frames.KEY_VALUE, request.id, None) for request in batch)))
    assert keys == [b"0", b"1", b"2", b"3", b"4"]


def test_lost_connection_repeats_what_may_be_repeated(core: StoreCore) -> None:
    """A read is asked again; a write that was handed to the socket is of unknown outcome, one that was not is sent."""
    connect(core)
    read, perhaps = get(core), write(core, b"perhaps")
    core.take()
    unsent = write(core, b"unsent")
    assert core.lose("it broke") == [perhaps]
    with pytest.raises(OutcomeUnknown, match="it broke"):
        perhaps.fact()
    again = connect(core)
    assert [type(request) for request in again] == [GetRequest, TxnRequest]
    assert again[1].then[0].value == b"unsent"
    core.receive(bytes_of((frames.KEY_VALUE, again[0].id, None), (frames.OUTCOME, again[1].id, True, 5, [])))
    assert read.done
    assert unsent.fact().revision == 5


def test_goodbye_makes_the_unanswered_repeatable(core: StoreCore) -> None:
    """The server said that what it did not answer was not done: a write is sent again instead of given up."""
    connect(core)
    answered, unanswered = write(core, b"1"), write(core, b"2")
    requests = sent(core)
    core.receive(bytes_of((frames.OUTCOME, requests[0].id, True, 5, []), (frames.GOODBYE,)))
    assert answered.done
    assert core.lose("closed") == []
    assert [request.then[0].value for request in connect(core)] == [b"2"]
    assert not unanswered.done


def test_goodbye_does_not_outlive_its_connection(core: StoreCore) -> None:
    """What is lost on the connection after a goodbye is of unknown outcome again."""
    connect(core)
    core.receive(bytes_of((frames.GOODBYE,)))
    core.lose("closed")
    connect(core)
    call = write(core)
    core.take()
    assert core.lose("broke") == [call]


def test_answers_before_garbage_count(core: StoreCore) -> None:
    """What was answered in the same bytes that end the connection is answered."""
    connect(core)
    call = write(core)
    (request,) = sent(core)
    with pytest.raises(InvalidInput):
        core.receive(bytes_of((frames.OUTCOME, request.id, True, 5, [])) + bytes_of((66, 1)))
    assert core.lose("garbage") == [call]
    assert call.fact().revision == 5


def test_refused_connection_says_why(core: StoreCore) -> None:
    """A problem of the connection is raised, before and after hello."""
    refusal = bytes_of(wire_problem(0, LimitReached("full")))
    core.open()
    with pytest.raises(LimitReached, match="full"):
        core.receive(refusal)
    connect(core)
    with pytest.raises(LimitReached, match="full"):
        core.receive(refusal)


@pytest.mark.parametrize("first", [(frames.HELLO, "http", VERSION, "", 1, 1, 1), (frames.DONE, 1), (frames.GOODBYE,)])
def test_stranger_is_not_a_server(core: StoreCore, first: tuple[Any, ...]) -> None:
    """What does not begin with a hello of the store's door is not talked to."""
    core.open()
    if first[0] == frames.GOODBYE:  # a server that stops just now
        core.receive(bytes_of(first))
        assert not core.ready
        return
    with pytest.raises(InvalidInput, match="not a store's door"):
        core.receive(bytes_of(first))


def test_what_cannot_be_sent_is_refused_here(core: StoreCore) -> None:
    """A request over the server's limit and one with an object in it never travel; the others do."""
    connect(core, max_frame=100)
    large, strange, good = write(core, bytes(200)), core.call(frames.GET, object(), 0, repeatable=True), get(core)
    with pytest.raises(TooLarge, match="the server takes 100"):
        large.fact()
    with pytest.raises(InvalidInput, match="cannot be sent"):
        strange.fact()
    assert len(sent(core)) == 1
    assert not good.done
    core.lose("x")
    waiting = write(core, bytes(200))
    core.open()
    core.take()
    assert core.receive(bytes_of((frames.HELLO, MAGIC, VERSION, "", 100, 9, 9))) == [waiting]
    with pytest.raises(TooLarge):
        waiting.fact()


def test_forgotten_calls_are_not_sent_nor_missed(core: StoreCore) -> None:
    """One that waits is taken out; the answer to one that was sent is ignored."""
    waiting = get(core)
    core.forget(waiting)
    assert connect(core) == []
    call = get(core)
    (request,) = sent(core)
    core.forget(call)
    assert core.receive(bytes_of((frames.KEY_VALUE, request.id, None))) == []


def test_close_tells_everybody(core: StoreCore) -> None:
    """In flight, waiting, watching: all end with the error."""
    connect(core, max_in_flight=1)
    watch = WatchCore(b"k", None, 0, previous=False, only=None)
    core.watch(watch)
    calls = [get(core), get(core)]
    assert set(core.close(Unavailable("closed"))) == {watch, *calls}
    for call in calls:
        with pytest.raises(Unavailable):
            call.fact()
    with pytest.raises(Unavailable):
        watch.next()


def event(revision: int) -> Event:
    kv = KeyValue(key=b"k", value=bytes(1000), create_revision=1, mod_revision=revision, version=1)
    return Event(type="put", kv=kv)


def begin(core: StoreCore, start: int = 0, revision: int = 10) -> tuple[WatchCore, int]:
    """A watch that is in place after ``revision``; and its id."""
    watch = WatchCore(b"k", None, start, previous=True, only="put")
    core.watch(watch)
    (request,) = sent(core)
    assert isinstance(request, WatchRequest)
    assert (request.start_revision, request.previous, request.only) == (start, True, "put")
    core.receive(bytes_of((frames.WATCHING, request.id, revision)))
    return watch, request.id


def test_watch_goes_on_after_what_was_received(core: StoreCore) -> None:
    """It is asked for again from the next revision; the bookmark of that place is not shown twice."""
    connect(core)
    watch, number = begin(core)
    assert watch.next() == WatchBatch(revision=10)
    core.receive(bytes_of(wire_events(number, WatchBatch(revision=12, events=(event(12),)))))
    core.lose("broke")
    (request,) = connect(core)
    assert (request.start_revision, request.key) == (13, b"k")
    core.receive(
        bytes_of(
            (frames.WATCHING, request.id, 12),
            wire_events(request.id, WatchBatch(revision=12)),
            wire_events(request.id, WatchBatch(revision=15, events=(event(15),))),
            wire_events(request.id, WatchBatch(revision=17)),
        )
    )
    batches = []
    while (batch := watch.next()) is not None:
        batches.append((batch.revision, [e.kv.mod_revision for e in batch.events]))
    assert batches == [(12, [12]), (15, [15]), (17, [])]


def test_watch_that_was_lost_before_it_was_in_place_begins_anew(core: StoreCore) -> None:
    """Nothing was promised yet, so it is asked for as at first."""
    connect(core)
    watch = WatchCore(b"k", None, 7, previous=False, only=None)
    core.watch(watch)
    core.take()
    core.lose("broke")
    assert core.waiting() == [watch]
    (request,) = connect(core)
    assert request.start_revision == 7
    assert not watch.in_place


def test_credit_follows_what_the_program_takes(core: StoreCore) -> None:
    """What is on its way and what waits here is never above the window; taking gives credit in large steps."""
    connect(core)
    watch, number = begin(core)
    watch.next()
    received = revision = 0
    while received < WINDOW:
        revision += 1
        batch = bytes_of(wire_events(number, WatchBatch(revision=10 + revision, events=(event(10 + revision),))))
        received += len(batch) - 4
        core.receive(batch)
    assert sent(core) == []
    given = taken = 0
    while watch.next() is not None:
        taken += 1
        core.give_credit(watch)
        for message in sent(core):
            assert isinstance(message, CreditRequest)
            given += message.credit
    assert taken == revision
    assert WINDOW // 2 <= given <= received


def test_credit_is_bounded_by_the_servers(core: StoreCore) -> None:
    """The window is no larger than what the server counts, and less of it is asked for with batches still here."""
    connect(core, credit=5000)
    watch = WatchCore(b"k", None, 0, previous=False, only=None)
    core.watch(watch)
    (request,) = sent(core)
    assert request.credit == 5000
    core.receive(bytes_of((frames.WATCHING, request.id, 1)))
    batch = bytes_of(wire_events(request.id, WatchBatch(revision=2, events=(event(2),))))
    core.receive(batch)
    core.lose("broke")
    (request,) = connect(core, credit=5000)
    assert request.credit == 5000 - (len(batch) - 4)


def test_refused_watch_shows_what_came_before(core: StoreCore) -> None:
    """The batches that were received are delivered, then the error."""
    connect(core)
    watch, number = begin(core)
    core.receive(bytes_of(wire_events(number, WatchBatch(revision=11)), wire_problem(number, NotFound("gone"))))
    assert [watch.next(), watch.next()] == [WatchBatch(revision=10), WatchBatch(revision=11)]
    with pytest.raises(NotFound):
        watch.next()
    core.lose("broke")
    assert connect(core) == []


def test_cancelled_watch_is_told_once(core: StoreCore) -> None:
    """The server is told if it knows of the watch; a connection later nobody asks for it."""
    connect(core)
    watch, number = begin(core)
    core.cancel(watch)
    assert [(type(each), each.id) for each in sent(core)] == [(CancelRequest, number)]
    core.cancel(watch)
    assert sent(core) == []
    assert core.receive(bytes_of(wire_events(number, WatchBatch(revision=11)))) == []
    core.lose("broke")
    assert connect(core) == []


def listing(keys: list[bytes], revision: int, *, more: bool, count: int) -> Listing:
    items = tuple(KeyValue(key=k, value=b"", create_revision=1, mod_revision=1, version=1) for k in keys)
    return Listing(items=items, revision=revision, more=more, count=count)


def make_pages(limit: int = 0, revision: int = 0) -> Pages:
    return Pages(b"a", b"z", revision=revision, limit=limit, keys_only=False, count_only=False, order="key")


def test_pages_are_of_one_revision() -> None:
    """The parts after the first are asked for at its revision, from behind its last key; the count is the whole's."""
    pages = make_pages(limit=3)
    assert pages.request()[:4] == (b"a", b"z", 0, 3)
    assert pages.add(listing([b"a", b"b"], 9, more=True, count=7)) is None
    assert pages.request()[:4] == (b"b\x00", b"z", 9, 1)
    whole = pages.add(listing([b"c"], 9, more=True, count=5))
    assert whole is not None
    assert ([kv.key for kv in whole.items], whole.revision, whole.more, whole.count) == ([b"a", b"b", b"c"], 9, True, 7)


def test_list_begins_again_when_its_revision_is_compacted() -> None:
    """Only a list of now, only after its first part, only a few times."""
    pages = make_pages()
    assert not pages.start_over()
    pages.add(listing([b"a"], 9, more=True, count=2))
    assert pages.start_over()
    assert pages.request()[:4] == (b"a", b"z", 0, 0)
    whole = pages.add(listing([b"a", b"b"], 20, more=False, count=2))
    assert whole is not None
    assert whole.revision == 20
    past = make_pages(revision=5)
    past.add(listing([b"a"], 5, more=True, count=2))
    assert not past.start_over()


def test_delays_grow_and_differ() -> None:
    """Each failure doubles the delay up to the longest; half of it is chance; success begins again."""
    short, long = Backoff(lambda: 0.0, 30), Backoff(lambda: 1.0, 30)
    first = long.next()
    assert short.next() == first / 2
    delays = [long.next() for _ in range(12)]
    assert delays == sorted(delays)
    assert delays[-1] == MAX_DELAY
    long.reset()
    assert long.next() == first
    hasty = Backoff(lambda: 1.0, patience=1.0)
    assert max(hasty.next() for _ in range(12)) == 0.25


def test_socket_is_named_after_the_control_socket(monkeypatch: pytest.MonkeyPatch) -> None:
    """A target, a path, the environment; TCP has no store's door."""
    assert store_socket("/run/p/platformd.sock") == "/run/p/platformd.store"
    assert store_socket("/run/p/platformd.store") == "/run/p/platformd.store"
    assert store_socket(Target(unix="/x/p.sock")) == "/x/p.store"
    monkeypatch.setenv("PLATFORMD_SOCKET", "/env/p.sock")
    monkeypatch.delenv("PLATFORMD_URL", raising=False)
    assert store_socket(None) == "/env/p.store"
    with pytest.raises(InvalidInput, match="Unix socket"):
        store_socket(Target(host="localhost", port=7070))
