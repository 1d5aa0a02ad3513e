"""Long polls of resources."""

from __future__ import annotations

from typing import Any

import pytest
import trio
from trio.testing import MockClock

from tests.api.conftest import Served
from tests.api.wire import Answer, Client


async def put(client: Client, name: str, description: str = "") -> Answer:
    return await client.request("PUT", f"/v1/services/{name}", {"spec": {"description": description}})


async def until_watched(served: Served, number: int = 1) -> None:
    store: Any = served.context.store
    while store.watchers < number:  # noqa: ASYNC110 - no event for it
        await trio.sleep(0.001)


@pytest.mark.parametrize("path", ["/v1/services", "/v1/services/a"])
async def test_a_poll_is_answered_by_the_next_change(
    served: Served, client: Client, clock: MockClock, path: str
) -> None:
    """It waits while nothing happens, and says what is so after the change."""
    revision = (await put(client, "a")).json["revision"]
    waiting = await served.client()
    got: list[Answer] = []

    async def poll() -> None:
        got.append(await waiting.request("GET", f"{path}?wait=500s&after={revision}"))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(poll)
        await until_watched(served)
        assert not got
        changed = (await put(client, "a", "new")).json
    body = got[0].json
    assert got[0].status == 200
    assert (body["items"][0] if "items" in body else body) == changed


@pytest.mark.parametrize("path", ["/v1/services", "/v1/services/a"])
async def test_what_is_newer_is_told_at_once(client: Client, path: str) -> None:
    """A change that happened before the poll ends it, and without a revision nothing is waited for."""
    before = (await put(client, "a")).json["revision"]
    await put(client, "a", "new")
    for after in (before, 0):
        with trio.fail_after(20):
            assert (await client.request("GET", f"{path}?wait=500s&after={after}")).status == 200


async def test_a_poll_ends_with_its_time(client: Client, clock: MockClock) -> None:
    """After the wait it is answered with what is so; with the ETag that says nothing new: 304."""
    made = await put(client, "a")
    begin = trio.current_time()
    path = f"/v1/services/a?wait=7s&after={made.json['revision']}"
    same = await client.request("GET", path, headers={"If-None-Match": made.headers["etag"]})
    assert same.status == 304
    assert trio.current_time() - begin >= 7


async def test_another_resource_does_not_end_it(served: Served, client: Client, clock: MockClock) -> None:
    """A poll of one resource waits for that one; what is not there is not waited for."""
    revision = (await put(client, "a")).json["revision"]
    begin = trio.current_time()
    waiting = await served.client()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(waiting.request, "GET", f"/v1/services/a?wait=9s&after={revision}")
        await until_watched(served)
        await put(client, "b")
    assert trio.current_time() - begin >= 9
    assert (await client.request("GET", "/v1/services/c?wait=9s&after=1")).status == 404


async def test_a_poll_ends_when_the_daemon_stops(served: Served, client: Client, clock: MockClock) -> None:
    """A stop does not wait for polls; they are answered."""
    revision = (await put(client, "a")).json["revision"]
    waiting = await served.client()
    got: list[Answer] = []

    async def poll() -> None:
        got.append(await waiting.request("GET", f"/v1/services?wait=500s&after={revision}"))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(poll)
        await until_watched(served)
        served.stop()
    assert got[0].status == 200


@pytest.mark.parametrize("query", ["wait=5s", "after=1", "wait=601s&after=1", "wait=soon&after=1", "wait=5s&after=x"])
async def test_half_a_poll_is_refused(client: Client, query: str) -> None:
    """Without a revision or a time, or with a wrong one, it is an error."""
    await put(client, "a")
    for path in ("/v1/services", "/v1/services/a"):
        assert (await client.request("GET", f"{path}?{query}")).status == 400
