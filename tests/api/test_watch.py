"""Watches over server-sent events."""

from __future__ import annotations

import json
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from platformd.api.kind_watch import Selection
from platformd.conductor import Change, ChangeBatch
from platformd.conductor.selector import parse_selector
from platformd.core.errors import NotFound
from platformd.model.resource import Resource
from platformd.model.service import ServiceSpec, ServiceStatus
from tests.api.conftest import Served, Start
from tests.api.wire import Client, ServerSent


async def collect(client: Client, path: str, count: int, headers: dict[str, str] | None = None) -> list[ServerSent]:
    """The first ``count`` events of a watch that are not comments or the preamble."""
    found: list[ServerSent] = []
    events = client.events(path, headers)
    async for event in events:
        if event.event != ":" and event.data is not None:
            found.append(event)
        if len(found) == count:
            break
    return found


async def make(client: Client, name: str, **labels: str) -> int:
    answer = await client.request("PUT", f"/v1/services/{name}", {"spec": {}, "labels": labels})
    return int(answer.json["revision"])


async def test_a_watch_begins_with_what_is_there(served: Served, client: Client) -> None:
    """The state comes as added events, then a bookmark of the revision it was read at."""
    await make(client, "a")
    await make(client, "b")
    watcher = await served.client()
    found = await collect(watcher, "/v1/services?watch", 3)
    assert [(e.event, e.id) for e in found] == [("added", "0"), ("added", "0"), ("bookmark", "2")]
    assert [e.data.get("name") for e in found] == ["a", "b", None]
    assert found[2].data == {"revision": 2}


async def test_changes_follow_in_order(served: Served, client: Client) -> None:
    """Added, modified and deleted come with the resource and the revision to go on from."""
    watcher = await served.client()
    events = watcher.events("/v1/services?watch")
    assert (await anext(events)).data is None  # the preamble: how long to wait before connecting again
    assert (await anext(events)).event == "bookmark"
    await make(client, "a")
    await make(client, "a", colour="red")
    await client.request("DELETE", "/v1/services/a")
    found = [await anext(events) for _ in range(3)]
    assert [(e.event, e.id) for e in found] == [("added", "1"), ("modified", "2"), ("deleted", "3")]
    assert found[1].data["labels"] == found[2].data["labels"] == {"colour": "red"}


@pytest.mark.parametrize("how", ["query", "header"])
async def test_a_watch_goes_on_where_it_was(served: Served, client: Client, how: str) -> None:
    """After a lost connection the id of the last event brings exactly what was missed."""
    for name in "abc":
        await make(client, name)
    watcher = await served.client()
    path = "/v1/services?watch" + ("&after=2" if how == "query" else "")
    headers = {"Last-Event-ID": "2"} if how == "header" else {}
    found = await collect(watcher, path, 2, headers)
    assert [(e.event, e.id) for e in found] == [("bookmark", "2"), ("added", "3")]
    assert found[1].data["name"] == "c"


async def test_being_cut_off_within_the_listing_begins_anew(served: Served, client: Client) -> None:
    """The id of a listed object is no place to go on from, so that nothing of the listing is missed."""
    await make(client, "a")
    watcher = await served.client()
    found = await collect(watcher, "/v1/services?watch", 2, {"Last-Event-ID": "0"})
    assert [e.event for e in found] == ["added", "bookmark"]


async def test_a_compacted_revision_is_an_error_event(served: Served, client: Client) -> None:
    """Asking for history that is gone ends the watch with the problem that names what is left."""
    for name in "abc":
        await make(client, name)
    served.context.store.compacted = 2  # type: ignore[attr-defined]
    watcher = await served.client()
    found = [e async for e in watcher.events("/v1/services?watch&after=1") if e.data is not None]
    assert [e.event for e in found] == ["error"]
    assert (found[0].data["code"], found[0].data["status"]) == ("gone", 410)
    assert found[0].data["compact_revision"] == 3


async def test_several_kinds_share_a_connection(served: Served, client: Client) -> None:
    """/v1/watch follows the kinds it names and no others."""
    await make(client, "a")
    await client.request("POST", "/v1/streams", {"name": "s", "spec": {"subjects": ["s"]}})
    await client.request("POST", "/v1/endpoints", {"name": "e", "spec": {"service": "a", "address": "x"}})
    watcher = await served.client()
    found = await collect(watcher, "/v1/watch?kinds=services,streams", 3)
    assert {e.data.get("name") for e in found[:2]} == {"a", "s"}
    assert found[2].event == "bookmark"
    other = await served.client()
    assert len(await collect(other, "/v1/watch", 4)) == 4


async def test_a_client_that_leaves_frees_its_place(start: Start) -> None:
    """When the connection ends, the watch of the store ends, and another client gets the place."""
    served = await start(max_watchers=1)
    store: Any = served.context.store
    for _ in range(3):
        watcher = await served.client()
        await collect(watcher, "/v1/services?watch", 1)
        assert store.watchers == 1
        await watcher.aclose()
        with trio.fail_after(5):
            while store.watchers:  # noqa: ASYNC110 - the fake store has no event for it
                await trio.sleep(0.001)


async def test_the_number_of_watches_is_limited(start: Start) -> None:
    """One more than may be is refused with 429 and a word on what to do; ordinary requests go on."""
    served = await start(max_watchers=1)
    first, second = await served.client(), await served.client()
    await collect(first, "/v1/services?watch", 1)
    refused = await second.request("GET", "/v1/services?watch")
    assert (refused.status, refused.json["code"], refused.headers["retry-after"]) == (429, "limit_reached", "1")
    assert (await second.request("GET", "/v1/services")).status == 200


async def test_silence_is_broken_by_heartbeats(start: Start, clock: MockClock) -> None:
    """An idle watch carries comments, so that both sides know that the other is there."""
    served = await start(watch_heartbeat="10s")
    watcher = await served.client()
    events = watcher.events("/v1/services?watch")
    kinds = [(await anext(events)).event for _ in range(4)]
    assert kinds == ["message", "bookmark", ":", ":"]
    assert 20 <= trio.current_time() < 60


async def test_a_watch_ends_politely_when_the_daemon_stops(start: Start) -> None:
    """The response is complete, so the client knows that it was not cut off."""
    served = await start()
    watcher = await served.client()
    events = watcher.events("/v1/services?watch")
    await anext(events)
    await anext(events)
    served.stop()
    assert [e async for e in events] == []
    with trio.fail_after(2):
        await served.done.wait()


async def test_a_label_selector_moves_resources_in_and_out_of_view(served: Served, client: Client) -> None:
    """Through ?label a resource is added when it begins to match and deleted when it stops."""
    await make(client, "a", zone="x")
    await make(client, "b", zone="y")
    watcher = await served.client()
    events = watcher.events("/v1/services?watch&label=zone%3Dx")
    found = [await anext(events) for _ in range(3)][1:]
    assert [(e.event, e.data.get("name")) for e in found] == [("added", "a"), ("bookmark", None)]
    await make(client, "b", zone="x")
    await make(client, "a", zone="y")
    await make(client, "a", zone="z")
    await client.request("DELETE", "/v1/services/b")
    found = [await anext(events) for _ in range(3)]
    assert [(e.event, e.data["name"]) for e in found] == [("added", "b"), ("deleted", "a"), ("deleted", "b")]


def service(name: str, **labels: str) -> Any:
    return Resource(kind="Service", name=name, uid=name, labels=labels, spec=ServiceSpec(), status=ServiceStatus())


def test_a_resumed_selection_lets_go_of_what_may_be_in_view() -> None:
    """After resuming nobody knows what the client shows, so what does not match is deleted once."""
    selection = Selection(parse_selector("zone=x"))
    seen = [
        selection.seen_as(Change(type=kind, resource=service("a", zone=zone), revision=1))  # type: ignore[arg-type]
        for kind, zone in (("modified", "y"), ("modified", "y"), ("modified", "x"), ("deleted", "x"), ("deleted", "y"))
    ]
    assert seen == ["deleted", None, "added", "deleted", None]


async def test_only_the_last_change_of_a_revision_says_so(served: Served, client: Client) -> None:
    """A client that is cut off between two changes of one revision is given both of them again."""

    async def watch(batch: ChangeBatch) -> list[str]:
        watch_gives(served, Canned(batch))
        connection = await served.client()
        return [e.id async for e in connection.events("/v1/services?watch&after=5") if e.data is not None]

    changes = tuple(
        Change(type="added", resource=service(name), revision=revision)
        for name, revision in (("a", 6), ("b", 6), ("c", 7))
    )
    assert await watch(ChangeBatch(revision=9, changes=changes)) == ["5", "6", "7"]


async def test_a_big_listing_is_written_in_pieces(served: Served, client: Client) -> None:
    """Events of a batch are complete and in order however many there are."""
    batch = ChangeBatch(
        revision=0,
        changes=tuple(
            Change(type="added", resource=service(f"s{i}", filling="x" * 500), revision=i + 1) for i in range(1000)
        ),
    )
    watch_gives(served, Canned(batch))
    names = [e.data["name"] async for e in client.events("/v1/services?watch") if e.data is not None]
    assert names == [f"s{i}" for i in range(1000)]


@pytest.mark.parametrize("grouped", [False, True])
async def test_an_error_within_a_watch_is_its_last_event(served: Served, client: Client, grouped: bool) -> None:
    """An error of the platform, also from within a nursery, reaches the client as a problem."""
    error: Exception = NotFound("the store is gone", subject="store")
    canned = Canned(ExceptionGroup("nursery", [error]) if grouped else error)
    watch_gives(served, canned)
    found = [e async for e in client.events("/v1/services?watch") if e.data is not None]
    assert [(e.event, e.data["detail"]) for e in found] == [("error", "the store is gone")]


async def test_a_fault_within_a_watch_tells_only_its_request(
    served: Served, client: Client, caplog: pytest.LogCaptureFixture
) -> None:
    """Of an unexpected error the client gets the request id, under which the log has the rest."""
    canned = Canned(ZeroDivisionError("secret"))
    watch_gives(served, canned)
    events = client.events("/v1/services?watch", {"X-Request-Id": "r-1"})
    found = [e async for e in events if e.data is not None]
    assert found[0].data["request_id"] == "r-1"
    assert "secret" not in json.dumps(found[0].data)
    assert "r-1" in caplog.text
    assert "secret" in caplog.text


def watch_gives(served: Served, canned: Canned) -> None:
    """Put ``canned`` in the place of the conductor's watches."""
    vars(served.context.conductor)["watch"] = lambda *_, **__: canned


class Canned:
    """A watch of one batch, or one that fails."""

    def __init__(self, what: ChangeBatch | Exception) -> None:
        self._what = what

    async def __aenter__(self) -> Canned:
        return self

    async def __aexit__(self, *_: object) -> None:
        pass

    def __aiter__(self) -> Canned:
        return self

    async def __anext__(self) -> ChangeBatch:
        await trio.lowlevel.checkpoint()
        what, self._what = self._what, StopAsyncIteration()
        if isinstance(what, Exception):
            raise what
        return what
