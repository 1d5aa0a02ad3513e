"""The client's side of a tail: requests that go on where it was, and what its events mean."""

from __future__ import annotations

import json
from typing import Any

import pytest

from platformd.client.blocking import Client
from platformd.client.http import Head
from platformd.client.tailing import Tailed, TailState
from platformd.core.errors import LimitReached, PlatformError, Unavailable
from tests.client.fake_api import FakeApi, serving


def event(name: str, number: int | str, data: Any) -> bytes:
    return f"id: {number}\nevent: {name}\ndata: {json.dumps(data)}\n\n".encode()


def test_a_tail_goes_on_after_the_last_event() -> None:
    """The request names the stream, what is wanted of it, and after each event where to go on."""
    state = TailState("a b", tenant="site", subject="x.>", on_slow="drop_oldest")
    assert state.request().path == "/v1/tenants/site/streams/a%20b/messages?watch&subject=x.%3E&on_slow=drop_oldest"
    told = state.feed(event("bookmark", 3, {"sequence": 3}) + event("record", 5, {"sequence": 5})[:20])
    assert told == [Tailed(type="bookmark", sequence=3, document={"sequence": 3})]
    assert state.request().path.endswith("&after=3")
    told = state.feed(event("record", 5, {"text": "a"}) + event("new", 9, {}) + event("dropped", 8, {"records": 3}))
    assert [(t.type, t.sequence) for t in told] == [("record", 5), ("dropped", 8)]
    assert state.after == 8
    state.raise_if_failed()
    assert TailState("s", after=0).request().path.endswith("after=0")


def test_an_error_comes_after_what_was_before_it() -> None:
    """Records that came with the error are given out; then it is raised as what it is."""
    state = TailState("s")
    problem = LimitReached("this reader is too slow", subject="max_waiting").to_problem()
    told = state.feed(event("record", 1, {}) + b"event: error\ndata: " + json.dumps(problem).encode() + b"\n\n")
    assert [t.sequence for t in told] == [1]
    with pytest.raises(LimitReached, match="too slow"):
        state.raise_if_failed()
    assert state.after == 1


@pytest.mark.parametrize("data", [event("record", "x", {}), event("record", 1, [1]), b"event: record\ndata: {\n\n"])
def test_an_event_that_cannot_be_read_ends_the_tail(data: bytes) -> None:
    """Neither an id that is no sequence nor data that is no object passes as a record."""
    state = TailState("s")
    assert state.feed(data) == []
    with pytest.raises(PlatformError, match="cannot be read"):
        state.raise_if_failed()


def test_another_answer_is_no_tail() -> None:
    """A page of JSON where a stream of events was asked for is an error."""
    with pytest.raises(PlatformError):
        TailState("s").check(Head(200, {"content-type": "application/json"}))
    TailState("s").check(Head(404, {"content-type": "application/problem+json"}))


def test_a_lost_connection_is_made_again(tmp_path: Any) -> None:
    """The client goes on after the last event, and says that it was lost."""
    api, lost = FakeApi(), list[PlatformError]()
    api.watches = [event("record", 1, {"n": 1}), event("record", 2, {"n": 2}), event("record", 3, {"n": 3})]
    with serving(api, tmp_path / "s") as _, Client(target(tmp_path), sleep=lambda _seconds: None) as client:
        tail = client.tail(TailState("s"), lambda error, _delay: lost.append(error))
        assert [next(tail).sequence for _ in range(3)] == [1, 2, 3]
    assert [seen.query.get("after") for seen in api.seen] == [None, "1", "2"]
    assert [type(error) for error in lost] == [Unavailable, Unavailable]


def target(directory: Any) -> Any:
    from platformd.client.http import Target

    return Target(unix=str(directory / "s"))
