"""Locks over REST: had, waited for, kept, given up and lost."""

from __future__ import annotations

from typing import Any

import pytest
import trio
from trio.testing import MockClock

from tests.api.conftest import Served, Start
from tests.api.wire import Answer, Client
from tests.support.memory_store import MemoryStore


@pytest.fixture
def store(nursery: trio.Nursery) -> MemoryStore:
    """A store in memory whose leases end by themselves."""
    store = MemoryStore()
    nursery.start_soon(store.leases.run)
    return store


@pytest.fixture
async def served(start: Start, store: MemoryStore) -> Served:
    """A server over it."""
    found: Served = await start(store=store)
    return found


async def acquire(client: Client, name: str = "a", **document: Any) -> Answer:
    return await client.request("POST", f"/v1/locks/{name}", document)


async def until_waiting(client: Client, count: int) -> None:
    """Wait until so many wait for the lock."""
    with trio.fail_after(100):
        while len((await client.request("GET", "/v1/locks/a")).json["waiters"]) != count:  # noqa: ASYNC110 - asked over HTTP
            await trio.sleep(0.01)


async def test_a_lock_is_had_seen_and_given_up(client: Client, store: MemoryStore) -> None:
    """The holder gets a lease, a key that it can fence with, and a revision; then it lets go."""
    got = await acquire(client, ttl="20s", owner="me")
    assert got.status == 201
    assert got.json | {"lease": "", "revision": 0, "key": ""} == {
        "name": "a", "key": "", "lease": "", "revision": 0, "ttl": 20,
    }  # fmt: skip
    fence = {"key": got.json["key"], "target": "create_revision", "operator": "==", "operand": got.json["revision"]}
    put = {"op": "put", "key": "x", "value": "mine"}
    assert (await client.request("POST", "/v1/txn", {"compares": [fence], "then": [put]})).json["succeeded"]
    shown = (await client.request("GET", "/v1/locks/a")).json
    holder = {"owner": "me", "lease": got.json["lease"], "revision": got.json["revision"]}
    assert shown == {"name": "a", "holder": holder, "waiters": []}
    refused = await acquire(client)
    assert (refused.status, refused.json["code"], refused.json["owner"]) == (409, "lock_held", "me")
    assert (await client.request("DELETE", "/v1/locks/a")).status == 400
    assert (await client.request("DELETE", f"/v1/locks/a?lease={got.json['lease']}&revoke")).json == {"released": True}
    assert (await client.request("DELETE", f"/v1/locks/a?lease={got.json['lease']}")).status == 404
    assert (await client.request("GET", "/v1/locks/a")).json["holder"] is None
    assert store.leases.deadlines == {}
    assert not (await client.request("POST", "/v1/txn", {"compares": [fence], "then": [put]})).json["succeeded"]
    again = await acquire(client)
    assert again.json["revision"] > got.json["revision"]


async def test_waiters_get_it_in_order(served: Served, client: Client, clock: MockClock) -> None:
    """A request that waits is answered when its turn has come; the lease lives on while it waits."""
    holder = (await acquire(client, ttl="1000s")).json
    got: list[int] = []

    async def wait(number: int) -> None:
        answer = await acquire(await served.client(), ttl="1s", wait="500s", owner=str(number))
        got.append(number)
        await client.request("DELETE", f"/v1/leases/{answer.json['lease']}")

    async with trio.open_nursery() as nursery:
        for number in range(3):
            nursery.start_soon(wait, number)
            await until_waiting(client, number + 1)
        await trio.sleep(4)
        assert got == []
        (lock,) = (await client.request("GET", "/v1/locks")).json["items"]
        assert [waiter["owner"] for waiter in lock["waiters"]] == ["0", "1", "2"]
        await client.request("DELETE", f"/v1/leases/{holder['lease']}")
    assert got == [0, 1, 2]


async def test_a_wait_that_is_over(client: Client, store: MemoryStore, clock: MockClock) -> None:
    """After the wait comes 409, and nothing of the one who waited is left."""
    await acquire(client, ttl="1000s", owner="me")
    refused = await acquire(client, ttl="5s", wait="60s")
    assert (refused.status, refused.json["owner"]) == (409, "me")
    assert "after 60s" in refused.json["detail"]
    assert len(store.leases.deadlines) == len(store.keys) == 1


async def test_a_place_by_an_own_lease_stays(client: Client, store: MemoryStore, clock: MockClock) -> None:
    """Who waits with its own lease keeps its place between requests, and the same request twice takes one place."""
    holder = (await acquire(client, ttl="1000s")).json
    lease = (await client.request("POST", "/v1/leases", {"ttl": "1000s"})).json["id"]
    for _ in range(2):
        assert (await acquire(client, lease=lease, wait="1s")).status == 409
    (waiter,) = (await client.request("GET", "/v1/locks/a")).json["waiters"]
    assert waiter["lease"] == lease
    await client.request("DELETE", f"/v1/locks/a?lease={holder['lease']}")
    got = await acquire(client, lease=lease)
    assert (got.status, got.json["revision"]) == (201, waiter["revision"])
    assert (await acquire(client, lease=lease)).json == got.json
    assert (await client.request("GET", f"/v1/leases/{lease}")).json["keys"] == [{"key": got.json["key"]}]


async def test_a_client_that_leaves_gives_up_its_place(served: Served, client: Client, store: MemoryStore) -> None:
    """A request without a lease of its own that is cut off while it waits leaves nothing behind."""
    await acquire(client, ttl="1000s")
    leaving = await served.client()
    async with trio.open_nursery() as nursery:

        async def wait() -> None:
            with pytest.raises(trio.ClosedResourceError):
                await acquire(leaving, ttl="1000s", wait="500s")

        nursery.start_soon(wait)
        await until_waiting(client, 1)
        await leaving.aclose()
    await until_waiting(client, 0)
    with trio.fail_after(5):
        while len(store.leases.deadlines) > 1:  # noqa: ASYNC110 - the key goes first, then the lease; there is no event
            await trio.sleep(0.005)
    assert len(store.leases.deadlines) == 1


async def test_a_stop_ends_the_wait(served: Served, client: Client) -> None:
    """When the daemon stops, who waits is told so at once."""
    await acquire(client, ttl="1000s")
    waiting = await served.client()
    answers: list[Answer] = []

    async def wait() -> None:
        answers.append(await acquire(waiting, wait="500s"))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait)
        await until_waiting(client, 1)
        served.stop()
    assert (answers[0].status, answers[0].json["code"]) == (503, "unavailable")


async def test_names_are_any_text(client: Client) -> None:
    """Slashes in a name mean nothing, and no lock lies within another."""
    for name in ("a", "a/b", "/a//", "%C3%A4%20x"):
        assert (await acquire(client, name)).status == 201
    listed = (await client.request("GET", "/v1/locks")).json
    assert [lock["name"] for lock in listed["items"]] == sorted(["a", "a/b", "/a//", "ä x"])
    assert (await client.request("GET", "/v1/locks/a")).json["waiters"] == []


@pytest.mark.parametrize(
    "body",
    [{"ttl": "x"}, {"wait": "1h"}, {"wait": -1}, {"owner": 1}, {"owner": "x" * 2000}, {"lease": "x"}, {"more": 1}, []],
)
async def test_what_is_no_request_for_a_lock(client: Client, store: MemoryStore, body: Any) -> None:
    """It is refused and leaves nothing behind."""
    assert (await client.request("POST", "/v1/locks/a", body)).status == 400
    assert store.keys == store.leases.deadlines == {}


async def test_a_lease_that_is_not_there(client: Client) -> None:
    """A lock cannot be had by a lease that ended."""
    assert (await acquire(client, lease="ff")).status == 404


async def test_names_may_have_any_character(client: Client) -> None:
    """A name with line ends is a name like others, also where the answer says it in a header."""
    made = await client.request("POST", "/v1/locks/a%0D%0Ab", {})
    assert (made.status, made.json["name"]) == (201, "a\r\nb")
    assert made.headers["location"] == "/v1/locks/a%0D%0Ab"
    assert (await client.request("GET", made.headers["location"])).json["holder"]["lease"] == made.json["lease"]


async def test_a_lease_that_is_no_text_is_not_passed_over(client: Client) -> None:
    """What is meant as a lease and is none is refused, instead of being answered with another lease."""
    for path, body in (("/v1/locks/a", {"lease": 7}), ("/v1/leases", {"ttl": "5s", "id": {}})):
        answer = await client.request("POST", path, body)
        assert (answer.status, answer.json["code"]) == (400, "invalid_input"), path
    assert (await client.request("GET", "/v1/kv?encoding=nonsense")).status == 400
