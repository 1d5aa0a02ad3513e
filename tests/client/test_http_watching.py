"""Watches: what is delivered, and that a lost connection leaves no gap and repeats nothing."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from platformd.client.http import Head
from platformd.client.watching import Change, WatchState
from platformd.core.errors import Gone, PlatformError, Unsupported
from platformd.model.stream import StreamSpec

from .fake_api import event


def stream(name: str, **members: Any) -> dict[str, Any]:
    return {"kind": "Stream", "name": name, "tenant": "default", "spec": {"subjects": ["a"]}, "status": {}} | members


def told(changes: list[Change]) -> list[tuple[str, int, str]]:
    return [(c.type, c.revision, c.document["name"] if c.document else "") for c in changes]


def test_the_request_follows_where_the_watch_stands() -> None:
    """It starts with a listing, and after the bookmark goes on from what is delivered."""
    state = WatchState(["streams"])
    assert state.request().path == "/v1/streams?watch"
    state.feed(event(5, "added", stream("a")))
    assert state.request().path == "/v1/streams?watch"
    state.feed(event(9, "bookmark", {"revision": 9}))
    assert (state.after, state.request().path) == (9, "/v1/streams?watch&after=9")
    state.feed(event(12, "modified", stream("a")))
    assert state.request().path == "/v1/streams?watch&after=11"


def test_several_kinds_share_one_connection() -> None:
    """Several kinds go through the common route, another tenant's through that tenant's."""
    assert WatchState(["streams", "no"]).request().path == "/v1/watch?kinds=streams,nodes"
    assert WatchState(["st"], tenant="t", after=0).request().path == "/v1/tenants/t/streams?watch&after=0"


@given(st.integers(0, 400), st.integers(0, 400))
def test_two_lost_connections_anywhere_leave_no_gap_and_repeat_nothing(first: int, second: int) -> None:
    """After a bookmark, every change is told exactly once, wherever two connections are cut."""
    log = [(11, "added", "a"), (11, "added", "b"), (12, "modified", "a"), (13, "deleted", "b"), (13, "deleted", "a")]
    state = WatchState(["streams"], after=10)
    got: list[Change] = []
    for cut in (first, second, None):
        state.request()
        after = state.after
        assert after is not None
        body = b"".join(event(r, t, stream(n)) for r, t, n in log if r > after)
        got += state.feed(body[:cut])
    assert told(got) == [(t, r, n) for r, t, n in log]


def test_a_connection_lost_in_the_listing_starts_over() -> None:
    """Until the first bookmark the objects come again, since a revision says nothing about the others."""
    state = WatchState(["streams"])
    state.request()
    assert told(state.feed(event(7, "added", stream("a")))) == [("added", 7, "a")]
    assert "after" not in state.request().path
    body = event(7, "added", stream("a")) + event(3, "added", stream("b")) + event(9, "bookmark", {"revision": 9})
    assert told(state.feed(body)) == [("added", 7, "a"), ("added", 3, "b"), ("bookmark", 9, "")]


def test_a_selector_follows_what_begins_and_stops_matching() -> None:
    """What starts to match is added and what stops is deleted, for whoever follows the selection."""
    state = WatchState(["streams"], after=1, selector="team=x")
    state.request()
    x, y = {"team": "x"}, {"team": "y"}
    changes = [(2, "added", y), (3, "modified", x), (4, "modified", x), (5, "modified", y), (6, "deleted", y)]
    body = b"".join(event(r, t, stream("a", labels=labels)) for r, t, labels in changes)
    got = state.feed(body + event(7, "deleted", stream("b", labels=x)))
    assert told(got) == [("added", 3, "a"), ("modified", 4, "a"), ("deleted", 5, "a"), ("deleted", 7, "b")]


def test_an_error_event_is_raised_as_what_it_is() -> None:
    """The watch ends with the error that the server names."""
    with pytest.raises(Gone, match="compacted") as caught:
        WatchState(["streams"], after=1).feed(event(0, "error", Gone("compacted", details={"oldest": 5}).to_problem()))
    assert caught.value.details["oldest"] == 5


def test_events_of_a_newer_server_are_passed_over() -> None:
    """A type of event that this version does not know is no error."""
    assert WatchState(["streams"], after=1).feed(event(2, "moved", stream("a"))) == []


@pytest.mark.parametrize(
    "data", [b"id: 1\nevent: added\ndata: {\n\n", b"id: x\nevent: added\ndata: {}\n\n", b"data: 1\n\n"]
)
def test_an_event_that_cannot_be_read_is_an_error(data: bytes) -> None:
    """Broken JSON, an id that is no revision and data that is no object are reported."""
    with pytest.raises(PlatformError, match="event of the watch"):
        WatchState(["streams"], after=1).feed(data)


def test_a_success_that_is_no_event_stream_is_an_error() -> None:
    """A proxy's page with status 200 does not pass for a watch without events."""
    with pytest.raises(PlatformError, match="text/html"):
        WatchState(["streams"]).check(Head(200, {"content-type": "text/html; charset=utf-8"}))


def test_a_change_has_its_resource_typed() -> None:
    """The resource of a change is the kind's own struct; a bookmark has none."""
    resource = Change(type="added", revision=1, document=stream("a", new_member=1)).resource
    assert resource.spec == StreamSpec(subjects=("a",))
    with pytest.raises(PlatformError, match="bookmark event carries no resource"):
        _ = Change(type="bookmark", revision=1).resource
    with pytest.raises(Unsupported):
        _ = Change(type="added", revision=1, document=stream("a", spec={"subjects": 5})).resource
