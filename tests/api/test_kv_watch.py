"""Watches of keys over server-sent events: whole, resumable, bounded."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from platformd.coordination.contract import Put
from platformd.coordination.recipes import user_keys
from platformd.coordination.sqlite import open_sqlite
from platformd.core.clock import SystemClock
from platformd.core.settings import StoreSettings
from tests.api.conftest import Served, Start
from tests.api.wire import Client, ServerSent
from tests.support.memory_store import MemoryStore


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


@pytest.fixture
async def served(start: Start, store: MemoryStore) -> Served:
    """A server over a whole store in memory."""
    found: Served = await start(store=store)
    return found


@pytest.fixture
async def stored(tmp_path: Path, start: Start) -> AsyncIterator[Served]:
    """A server over a SQLite store."""
    async with open_sqlite(tmp_path / "store.db", StoreSettings(), SystemClock()) as sqlite:
        found: Served = await start(store=sqlite)
        yield found
        found.stop()
        await found.done.wait()


class Watching:
    """A watch that has begun."""

    def __init__(self, client: Client, path: str, headers: dict[str, str] | None = None) -> None:
        self._events = client.events(path, headers)

    async def take(self, count: int) -> list[ServerSent]:
        """The next events that are not comments or the preamble."""
        found: list[ServerSent] = []
        while len(found) < count:
            event = await anext(self._events)
            if event.event != ":" and event.data is not None:
                found.append(event)
        return found


async def put(client: Client, key: str, value: bytes = b"v") -> int:
    return int((await client.request("PUT", f"/v1/kv/{key}", value)).json["revision"])


def short(events: list[ServerSent]) -> list[tuple[str, Any, str]]:
    return [(e.event, e.data.get("key", e.data.get("revision")), e.id) for e in events]


async def test_a_watch_of_a_prefix(served: Served) -> None:
    """It begins with a bookmark of now, then each change comes with its revision; others' keys do not."""
    await follow_a_prefix(served)


async def test_a_watch_of_a_prefix_of_the_real_store(stored: Served) -> None:
    """The same over the embedded engine."""
    await follow_a_prefix(stored)


async def follow_a_prefix(served: Served) -> None:
    writer = await served.client()
    await put(writer, "a/0")
    watching = Watching(await served.client(), "/v1/kv?prefix=a/&watch")
    (begun,) = await watching.take(1)
    assert begun.event == "bookmark"
    first, _, third = [await put(writer, key) for key in ("a/1", "b", "a/1")]
    gone = (await writer.request("DELETE", "/v1/kv/a/1")).json["revision"]
    events: list[ServerSent] = []
    while len(events) < 3:
        events += [e for e in await watching.take(1) if e.event != "bookmark"]
    assert short(events) == [("put", "a/1", str(first)), ("put", "a/1", str(third)), ("delete", "a/1", str(gone))]
    assert (events[0].data["value"], events[2].data["mod_revision"]) == ("v", gone)


async def test_one_key_and_what_was_before(served: Served, client: Client) -> None:
    """A watch of one key sees that key alone; on request each event has what was before it; a filter filters."""
    await put(client, "a", b"1")
    both = Watching(await served.client(), "/v1/kv/a?watch&previous")
    deletes = Watching(await served.client(), "/v1/kv/a?watch&only=delete")
    await both.take(1)
    await deletes.take(1)
    await put(client, "a/b")
    await put(client, "a", b"2")
    await client.request("DELETE", "/v1/kv/a")
    events = await both.take(2)
    assert [(e.event, e.data["previous"]["value"]) for e in events] == [("put", "1"), ("delete", "2")]
    assert [e.event for e in await deletes.take(1)] == ["delete"]


@pytest.mark.parametrize("how", ["header", "query"])
async def test_a_watch_goes_on_where_it_was(served: Served, client: Client, how: str) -> None:
    """With the id of the last event nothing is missed and nothing comes twice."""
    revisions = [await put(client, f"k{i}") for i in range(4)]
    path, headers = "/v1/kv?prefix=k&watch", {}
    if how == "header":
        headers = {"Last-Event-ID": str(revisions[1])}
    else:
        path += f"&after={revisions[1]}"
    watching = Watching(await served.client(), path, headers)
    assert short(await watching.take(3))[1:] == [("put", "k2", str(revisions[2])), ("put", "k3", str(revisions[3]))]


async def test_an_id_never_promises_half_a_revision(served: Served, client: Client, store: MemoryStore) -> None:
    """Of the events of one revision only the last carries it: who is cut off before it gets all of them again."""
    before = await put(client, "k")
    watching = Watching(await served.client(), "/v1/kv?prefix=k&watch")
    await watching.take(1)
    result = await user_keys(store).txn([], [Put(b"k%d" % i, b"") for i in range(3)])
    assert [e.id for e in await watching.take(3)] == [str(before), str(before), str(result.revision)]


async def test_history_that_is_gone_ends_the_watch(served: Served, client: Client, store: MemoryStore) -> None:
    """A compacted place, or one that is yet to be, is an error event that says so."""
    for _ in range(3):
        await put(client, "k")
    await store.compact(store.revision)
    (error,) = await Watching(await served.client(), "/v1/kv?watch&after=1").take(1)
    assert (error.event, error.data["code"], error.data["compact_revision"]) == ("error", "gone", store.revision)
    (error,) = await Watching(await served.client(), "/v1/kv?watch&after=99").take(1)
    assert (error.event, error.data["code"]) == ("error", "future_revision")


@pytest.mark.parametrize("query", ["watch&only=both", "watch&after=x", "watch&limit=3", "watch=maybe"])
async def test_a_watch_that_cannot_be(client: Client, query: str) -> None:
    """Parameters that mean nothing are refused before anything begins."""
    assert (await client.request("GET", f"/v1/kv?{query}")).status == 400


async def test_watches_of_keys_count_with_the_others(start: Start, store: MemoryStore) -> None:
    """The limit is on all watches together, and a watch that ends frees its place and its watcher."""
    served = await start(store=store, max_watchers=1)
    first = await served.client()
    watching = Watching(first, "/v1/kv?watch")
    await watching.take(1)
    other = await served.client()
    assert (await other.request("GET", "/v1/kv/a?watch")).status == 429
    await first.aclose()
    with trio.fail_after(10):
        while store.watchers:
            await put(other, "a")  # what it cannot be told any more ends it
    await Watching(await served.client(), "/v1/services?watch").take(1)


async def test_a_client_that_does_not_read_holds_up_nobody(
    start: Start, store: MemoryStore, mock_clock: MockClock
) -> None:
    """While one watch is stuck, another one and writers go on, and what waits for the stuck one does not grow."""
    served = await start(store=store)
    stuck = await served.client()
    await stuck.begin("GET", "/v1/kv?watch")
    writer = await served.client()
    reading = Watching(await served.client(), "/v1/kv?prefix=k&watch")
    await reading.take(1)
    for _ in range(30):
        await put(writer, "k", b"x" * 300_000)
        await reading.take(1)
    assert store.watchers == 2


async def test_a_stop_ends_watches(served: Served) -> None:
    """When the daemon stops, watches end by themselves."""
    watching = Watching(await served.client(), "/v1/kv?watch")
    await watching.take(1)
    served.stop()
    with pytest.raises(StopAsyncIteration), trio.fail_after(10):
        await watching.take(1)
