"""Watches: what is delivered, and that a lost connection leaves no gap and repeats nothing."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
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
    state = WatchState(["streams"], selector="a=b")
    state.request()
    state.feed(event(0, "added", stream("a")))
    assert (state.after, state.request().path) == (None, "/v1/streams?watch&label=a%3Db")
    state.feed(event(9, "bookmark", {"revision": 9}))
    assert (state.after, state.request().path) == (9, "/v1/streams?watch&label=a%3Db&after=9")
    state.feed(event(12, "modified", stream("a")))
    assert state.after == 12
    state.feed(event(12, "modified", stream("b")))
    assert state.after == 12


def test_several_kinds_share_one_connection() -> None:
    """Several kinds go through the common route, another tenant's through that tenant's."""
    assert WatchState(["streams", "no"]).request().path == "/v1/watch?kinds=streams,nodes"
    assert WatchState(["st"], tenant="t", after=0).request().path == "/v1/tenants/t/streams?watch"


LOG = [(11, "added", "a"), (11, "added", "b"), (12, "modified", "a"), (13, "modified", "b"), (13, "deleted", "a")]
"""(revision, type, name): what happened after revision 10; 11 and 13 are of two events each."""


def served(after: int) -> bytes:
    """What the daemon sends after a revision: the id of each event is what it is safe to go on after."""
    left = [(r, t, n) for r, t, n in LOG if r > after]
    body = b""
    for i, (revision, kind, name) in enumerate(left):
        last = i == len(left) - 1 or left[i + 1][0] != revision
        after = revision if last else after
        body += event(after, kind, stream(name, revision=revision))
    return body


@settings(deadline=None)
@given(st.lists(st.integers(0, 600), max_size=4))
def test_lost_connections_anywhere_leave_no_gap_and_repeat_nothing(cuts: list[int]) -> None:
    """After a bookmark, every change is told exactly once, wherever connections are cut."""
    state = WatchState(["streams"], after=10)
    got: list[Change] = []
    for cut in (*cuts, None):
        state.request()
        assert state.after is not None
        got += state.feed(served(state.after)[:cut])
    assert [(c.document["revision"], c.type, c.document["name"]) for c in got] == LOG


def test_a_connection_lost_in_the_listing_starts_over() -> None:
    """Until the first bookmark the objects come again, since nothing says which are missing."""
    state = WatchState(["streams"])
    state.request()
    assert told(state.feed(event(0, "added", stream("a")))) == [("added", 0, "a")]
    assert "after" not in state.request().path
    body = event(0, "added", stream("a")) + event(0, "added", stream("b")) + event(9, "bookmark", {"revision": 9})
    assert told(state.feed(body)) == [("added", 0, "a"), ("added", 0, "b"), ("bookmark", 9, "")]


def test_an_error_event_is_raised_as_what_it_is() -> None:
    """The watch ends with the error that the server names."""
    state = WatchState(["streams"], after=1)
    assert state.feed(event(0, "error", Gone("compacted", details={"oldest": 5}).to_problem())) == []
    with pytest.raises(Gone, match="compacted") as caught:
        state.raise_if_failed()
    assert caught.value.details["oldest"] == 5


def test_an_error_does_not_hide_the_changes_before_it() -> None:
    """Changes that came in the same bytes are told first; the error follows, and a new connection is free of it."""
    state = WatchState(["streams"], after=1)
    state.request()
    body = event(2, "added", stream("a")) + event(0, "error", Gone("compacted").to_problem())
    assert told(state.feed(body)) == [("added", 2, "a")]
    with pytest.raises(Gone):
        state.raise_if_failed()
    assert "after=2" in state.request().path
    assert told(state.feed(event(3, "added", stream("b")))) == [("added", 3, "b")]
    state.raise_if_failed()


def test_events_of_a_newer_server_are_passed_over() -> None:
    """A type of event that this version does not know is no error."""
    assert WatchState(["streams"], after=1).feed(event(2, "moved", stream("a"))) == []


@pytest.mark.parametrize(
    "data", [b"id: 1\nevent: added\ndata: {\n\n", b"id: x\nevent: added\ndata: {}\n\n", b"data: 1\n\n"]
)
def test_an_event_that_cannot_be_read_is_an_error(data: bytes) -> None:
    """Broken JSON, an id that is no revision and data that is no object are reported."""
    state = WatchState(["streams"], after=1)
    assert state.feed(data) == []
    with pytest.raises(PlatformError, match="event of the watch"):
        state.raise_if_failed()


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
