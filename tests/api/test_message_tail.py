"""Following records without a consumer, over server-sent events and WebSockets."""

from __future__ import annotations

from typing import Any

import pytest
import trio
from trio.testing import MockClock

from platformd.api import message_tail
from platformd.core.errors import NotFound
from platformd.queues.contract import Record, StreamConfig
from tests.api.conftest import Served
from tests.api.peer import Peer
from tests.api.wire import Client, Events, ServerSent

PATH = "/v1/streams/s/messages"


@pytest.fixture
async def streams(served: Served) -> Any:
    """The engine, with a stream ``s``."""
    await served.context.streams.put_stream("s", StreamConfig(subjects=("a.>",)))
    return served.context.streams


async def put(streams: Any, *payloads: str, subject: str = "a.b", stream: str = "s") -> None:
    await streams.publish([Record(subject=subject, payload=p.encode()) for p in payloads], stream=stream)


async def some(events: Events, count: int) -> list[tuple[str, str, Any]]:
    """The next events that say something, as (event, id, text of the record or the whole)."""
    found: list[tuple[str, str, Any]] = []
    with trio.fail_after(30):
        while len(found) < count:
            event: ServerSent = await anext(events)
            if event.data is not None:
                what = event.data.get("text") if event.event == "record" else event.data
                found.append((event.event, event.id, what))
    return found


async def test_a_tail_begins_now(streams: Any, client: Client, clock: MockClock) -> None:
    """What was there is not told; a bookmark says where the tail began, and what comes follows in order."""
    await put(streams, "old")
    events = client.events(f"{PATH}?watch")
    assert await some(events, 1) == [("bookmark", "1", {"sequence": 1})]
    await put(streams, "x", "y")
    assert await some(events, 2) == [("record", "2", "x"), ("record", "3", "y")]
    await trio.sleep(0.5)
    await put(streams, "z")
    assert await some(events, 1) == [("record", "4", "z")]


@pytest.mark.parametrize("how", ["query", "header"])
async def test_a_tail_goes_on_where_it_was(streams: Any, client: Client, how: str) -> None:
    """The id of the last event brings exactly what was missed; 0 is the beginning."""
    await put(streams, "a", "b", "c")
    path = f"{PATH}?watch&after=" + ("1" if how == "query" else "0")
    events = client.events(path, {"Last-Event-ID": "1"} if how == "header" else {})
    assert [e[:2] for e in await some(events, 3)] == [("bookmark", "1"), ("record", "2"), ("record", "3")]


async def test_only_what_matches_is_told(streams: Any, client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """A reader of one of many subjects gets bookmarks instead of what is not for it, and reads nothing twice."""
    monkeypatch.setattr(message_tail, "SKIPPED_BEFORE_BOOKMARK", 10)
    events = client.events(f"{PATH}?watch&after=0&subject=a.mine")
    await put(streams, *"0123456789ab")
    assert await some(events, 2) == [("bookmark", "0", {"sequence": 0}), ("bookmark", "12", {"sequence": 12})]
    await put(streams, "me", subject="a.mine")
    assert await some(events, 1) == [("record", "13", "me")]
    assert max(after for after, subject in streams.reads if subject == "a.mine") == 12


async def test_what_cannot_be_read_yet_is_not_passed_over(
    streams: Any, client: Client, clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Records that are on their way to the disk come when they are there, whatever the last sequence says."""
    monkeypatch.setattr(message_tail, "SKIPPED_BEFORE_BOOKMARK", 2)
    events = client.events(f"{PATH}?watch&after=0&subject=a.mine")
    assert len(await some(events, 1)) == 1
    streams.hidden = {4}
    await put(streams, "1", "2", "3")
    await put(streams, "me", subject="a.mine")
    await put(streams, "5")
    assert await some(events, 1) == [("bookmark", "3", {"sequence": 3})]
    await trio.sleep(1)
    streams.hidden = set()
    assert await some(events, 1) == [("record", "4", "me")]


async def test_what_was_removed_is_counted_and_told(streams: Any, client: Client) -> None:
    """A tail that comes back after its records were removed is told how many it does not get."""
    await put(streams, *"abcdef")
    await streams.purge("s", before=4)
    events = client.events(f"{PATH}?watch", {"Last-Event-ID": "1"})
    told = {"records": 2, "reason": "removed", "total": 2, "last_sequence": 3}
    assert await some(events, 3) == [("bookmark", "1", {"sequence": 1}), ("dropped", "3", told), ("record", "4", "d")]


async def test_the_end_of_a_stream_ends_its_tails(streams: Any, client: Client) -> None:
    """When the stream is deleted, the last event says that it is not there."""
    events = client.events(f"{PATH}?watch")
    await some(events, 1)
    await streams.delete_stream("s")
    ((name, _, problem),) = await some(events, 1)
    assert (name, problem["code"]) == ("error", "not_found")


@pytest.mark.parametrize(
    ("query", "headers", "status"),
    [
        ("watch&after=7", {}, 410),
        ("watch", {"Last-Event-ID": "7"}, 410),
        ("watch", {"Last-Event-ID": "x"}, 400),
        ("watch&after=-1", {}, 400),
        ("watch&subject=a..b", {}, 400),
        ("watch&on_slow=panic", {}, 400),
        ("watch&max_waiting=0", {}, 400),
        ("watch&limit=3", {}, 400),
        ("watch&nope", {}, 400),
    ],
)
async def test_what_a_tail_refuses(
    streams: Any, client: Client, query: str, headers: dict[str, str], status: int
) -> None:
    """Parameters that make no sense, and a sequence that is not there yet, before a tail begins."""
    answer = await client.request("GET", f"{PATH}?{query}", headers=headers)
    assert (answer.status, answer.headers["content-type"]) == (status, "application/problem+json")


async def test_a_tail_over_a_websocket(streams: Any, served: Served) -> None:
    """The same events come as messages; the id is text."""
    await put(streams, "a")
    async with await trio.open_unix_socket(str(served.path)) as stream:
        peer = await Peer.open(stream, f"{PATH}?watch&after=0")
        assert await peer.json() == {"event": "bookmark", "id": "0", "data": {"sequence": 0}}
        record = await peer.json()
        assert (record["event"], record["id"], record["data"]["text"]) == ("record", "1", "a")
        assert served.context.stopping is not None
        assert (await peer.close()).code == 1000


async def test_drops_are_counted_for_operators(streams: Any, served: Served, client: Client) -> None:
    """What readers did not get is a metric, by its reason."""
    await put(streams, "a", "b")
    await streams.purge("s")
    await put(streams, "c")
    watcher = await served.client()
    await some(watcher.events(f"{PATH}?watch&after=0"), 3)
    text = (await client.request("GET", "/metrics")).body.decode()
    assert 'platformd_http_records_dropped_total{reason="removed"} 2.0' in text


async def test_a_stream_that_is_not_there_has_no_tail(served: Served, client: Client) -> None:
    """It is refused before a tail begins."""
    assert (await client.request("GET", "/v1/streams/none/messages?watch")).status == NotFound.status
