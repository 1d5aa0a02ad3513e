"""Watches over WebSockets: the same events, errors and bounds as in a stream, of resources and of keys."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from platformd.conductor import Change, ChangeBatch
from platformd.coordination.contract import Put
from platformd.coordination.recipes import user_keys
from platformd.coordination.sqlite import open_sqlite
from platformd.core.clock import SystemClock
from platformd.core.errors import NotFound
from platformd.core.settings import StoreSettings
from tests.api.conftest import Served, Start
from tests.api.peer import Closed, Peer, offer
from tests.api.test_kv_watch import put
from tests.api.test_watch import Canned, make, service, watch_gives
from tests.api.wire import Client
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
    """A server over a SQLite store, on both sockets."""
    async with open_sqlite(tmp_path / "store.db", StoreSettings(), SystemClock()) as sqlite:
        found: Served = await start(store=sqlite, listen="127.0.0.1:0")
        yield found
        found.stop()
        await found.done.wait()


async def watch(served: Served, path: str, **headers: str) -> Peer:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return await Peer.open((await served.client()).stream, path, named)


async def begun(served: Served, path: str) -> Peer:
    """A watch of what happens from now on, which has said so."""
    peer = await watch(served, path)
    assert (await peer.json())["event"] == "bookmark"
    return peer


async def take(peer: Peer, count: int, *, bookmarks: bool = False) -> list[Any]:
    """The next messages, bookmarks only if they are wanted."""
    found: list[Any] = []
    while len(found) < count:
        message = await peer.json()
        if bookmarks or message["event"] != "bookmark":
            found.append(message)
    return found


def short(messages: list[Any]) -> list[tuple[str, Any, str]]:
    return [(m["event"], m["data"].get("key", m["data"].get("revision")), m["id"]) for m in messages]


@pytest.mark.parametrize("over", ["unix", "tcp"])
async def test_a_watch_of_a_prefix(stored: Served, over: str) -> None:
    """Over the embedded engine and on both sockets: a bookmark of now, then each change with its revision."""
    writer = await stored.client()
    await put(writer, "a/0")
    port = int(stored.addresses[1].rpartition(":")[2])
    client = await stored.client() if over == "unix" else await Client.connect_tcp("127.0.0.1", port)
    peer = await Peer.open(client.stream, "/v1/kv?prefix=a/&watch")
    assert (await peer.json())["event"] == "bookmark"
    first, _, third = [await put(writer, key) for key in ("a/1", "b", "a/1")]
    gone = (await writer.request("DELETE", "/v1/kv/a/1")).json["revision"]
    found = await take(peer, 3)
    assert short(found) == [("put", "a/1", str(first)), ("put", "a/1", str(third)), ("delete", "a/1", str(gone))]
    assert (found[0]["data"]["value"], found[2]["data"]["mod_revision"]) == ("v", gone)
    assert (await peer.close()).code == 1000
    await client.aclose()


async def test_both_forms_say_the_same(served: Served, client: Client) -> None:
    """Event for event, a stream and a WebSocket on one URL have the same names, ids and documents."""
    path = "/v1/kv?prefix=k&watch&previous"
    peer, stream = await watch(served, path), (await served.client()).events(path)
    begun = await peer.json()
    events = [e for e in [await anext(stream), await anext(stream)] if e.data is not None]
    for value in (b"1", b"2", "ü\N{GRINNING FACE}".encode(), b"\x00\xff"):
        await put(client, "k", value)
    await client.request("DELETE", "/v1/kv/k")
    messages = [begun, *await take(peer, 5)]
    while len(events) < 6:
        event = await anext(stream)
        events += [event] if event.event != "bookmark" else []
    assert messages == [{"event": e.event, "id": e.id, "data": e.data} for e in events]


async def test_one_key_and_what_was_before(served: Served, client: Client) -> None:
    """A watch of one key sees that key alone, with what was before; a filter filters."""
    await put(client, "a", b"1")
    both = await begun(served, "/v1/kv/a?watch&previous")
    deletes = await begun(served, "/v1/kv/a?watch&only=delete")
    await put(client, "a/b")
    await put(client, "a", b"2")
    await client.request("DELETE", "/v1/kv/a")
    found = await take(both, 2)
    assert [(m["event"], m["data"]["previous"]["value"]) for m in found] == [("put", "1"), ("delete", "2")]
    assert [m["event"] for m in await take(deletes, 1)] == ["delete"]


@pytest.mark.parametrize("how", ["header", "query"])
async def test_a_watch_goes_on_where_it_was(served: Served, client: Client, how: str) -> None:
    """With the id of the last message nothing is missed and nothing comes twice."""
    revisions = [await put(client, f"k{i}") for i in range(4)]
    path = "/v1/kv?prefix=k&watch"
    if how == "header":
        peer = await watch(served, path, Last_Event_ID=str(revisions[1]))
    else:
        peer = await watch(served, f"{path}&after={revisions[1]}")
    assert short(await take(peer, 2)) == [("put", "k2", str(revisions[2])), ("put", "k3", str(revisions[3]))]


async def test_who_is_cut_off_within_a_revision_misses_nothing(
    served: Served, client: Client, store: MemoryStore
) -> None:
    """Of the events of one revision only the last carries it, so that resuming brings all of them again."""
    before = await put(client, "k")
    peer = await begun(served, "/v1/kv?prefix=k&watch")
    result = await user_keys(store).txn([], [Put(b"k%d" % i, b"") for i in range(3)])
    (first,) = await take(peer, 1)
    await peer.stream.aclose()
    assert first["id"] == str(before)
    again = await watch(served, f"/v1/kv?prefix=k&watch&after={first['id']}")
    assert [m["id"] for m in await take(again, 3)] == [str(before), str(before), str(result.revision)]


async def test_history_that_is_gone_ends_the_watch(served: Served, client: Client, store: MemoryStore) -> None:
    """A compacted place, or one that is yet to be, is told as a message and in the code that closes."""
    for _ in range(3):
        await put(client, "k")
    await store.compact(store.revision)
    peer = await watch(served, "/v1/kv?watch&after=1")
    error = await peer.json()
    assert (error["event"], error["data"]["code"]) == ("error", "gone")
    assert error["data"]["compact_revision"] == store.revision
    assert "id" not in error
    assert await peer.receive() == Closed(4410, "gone: revision 2 has been compacted")
    assert await peer.ended()
    peer = await watch(served, "/v1/kv?watch&after=99")
    assert (await peer.json())["data"]["code"] == "future_revision"
    assert (await peer.closed()).code == 4409


async def test_resources_of_one_kind(served: Served, client: Client) -> None:
    """The state, a bookmark, then changes through a selector, each with its resource."""
    await make(client, "a", zone="x")
    await make(client, "b", zone="y")
    peer = await watch(served, "/v1/services?watch&label=zone%3Dx")
    found = await take(peer, 2, bookmarks=True)
    assert [(m["event"], m["data"].get("name")) for m in found] == [("added", "a"), ("bookmark", None)]
    assert [m["id"] for m in found] == ["0", found[1]["id"]]
    revision = await make(client, "b", zone="x")
    await client.request("DELETE", "/v1/services/a")
    found = await take(peer, 2)
    assert [(m["event"], m["data"]["name"]) for m in found] == [("added", "b"), ("deleted", "a")]
    assert found[0]["id"] == str(revision)


@pytest.mark.parametrize("where", ["/v1", "/v1/tenants/default"])
async def test_several_kinds_share_a_connection(served: Served, client: Client, where: str) -> None:
    """One WebSocket follows all the kinds that it names and no others."""
    await make(client, "a")
    await client.request("POST", "/v1/streams", {"name": "s", "spec": {"subjects": ["s"]}})
    await client.request("POST", "/v1/endpoints", {"name": "e", "spec": {"service": "a", "address": "x"}})
    found = await take(await watch(served, f"{where}/watch?kinds=services,streams"), 3, bookmarks=True)
    assert {m["data"].get("name") for m in found[:2]} == {"a", "s"}
    assert found[2]["event"] == "bookmark"


async def test_a_big_listing_comes_whole(served: Served) -> None:
    """However much there is, it comes in order, one message for each object."""
    big = [service(f"s{i}", filling="x" * 500) for i in range(1000)]
    changes = tuple(Change(type="added", resource=one, revision=i) for i, one in enumerate(big, 1))
    watch_gives(served, Canned(ChangeBatch(revision=0, changes=changes)))
    peer = await watch(served, "/v1/services?watch")
    assert [m["data"]["name"] for m in await take(peer, 1000)] == [f"s{i}" for i in range(1000)]


@pytest.mark.parametrize("grouped", [False, True])
async def test_an_error_within_a_watch_is_its_last_message(served: Served, grouped: bool) -> None:
    """An error of the platform, also from within a nursery, is told and closes with its status."""
    error: Exception = NotFound("the store is gone", subject="store")
    watch_gives(served, Canned(ExceptionGroup("nursery", [error]) if grouped else error))
    peer = await watch(served, "/v1/services?watch")
    assert (await peer.json())["data"]["detail"] == "the store is gone"
    assert await peer.receive() == Closed(4404, "not_found: the store is gone")


async def test_a_fault_within_a_watch_tells_only_its_request(served: Served, caplog: pytest.LogCaptureFixture) -> None:
    """Of an unexpected error the client gets 1011 and the request id, under which the log has the rest."""
    watch_gives(served, Canned(ZeroDivisionError("secret")))
    peer = await watch(served, "/v1/services?watch", X_Request_Id="r-1")
    assert peer.headers["x-request-id"] == "r-1"
    message = await peer.json()
    closed = await peer.closed()
    assert (message["data"]["request_id"], closed.code) == ("r-1", 1011)
    assert "secret" not in str(message) + closed.reason
    assert "secret" in caplog.text


async def test_a_watch_takes_no_messages(served: Served) -> None:
    """What a client says to a watch would be lost, so it is told that nobody listens."""
    peer = await watch(served, "/v1/kv?watch")
    await peer.say('{"cancel": 1}')
    assert await peer.closed() == Closed(1008, "a watch takes no messages")


async def test_a_stop_ends_watches(served: Served) -> None:
    """When the daemon stops, watches are closed with 1001, behind what was already said."""
    peer = await begun(served, "/v1/kv?watch")
    served.stop()
    assert await peer.receive() == Closed(1001, "the daemon stops")
    assert await peer.ended()


async def test_a_watcher_that_does_not_read_holds_up_nobody(start: Start, store: MemoryStore, clock: MockClock) -> None:
    """While one watch is stuck others and writers go on; after the write timeout its watch of the store ends."""
    served = await start(store=store, write_timeout="10s", websocket_close="2s")
    writer = await served.client()
    stuck = await watch(served, "/v1/kv?watch")
    reading = await begun(served, "/v1/kv?prefix=k&watch")
    for _ in range(30):
        await put(writer, "k", b"x" * 100_000)
        await take(reading, 1)
    assert store.watchers == 2
    await trio.sleep(11)
    assert store.watchers == 1
    assert (await stuck.closed()).code in (1006, 1008)  # as it wakes up within its closing time, or not
    await put(writer, "k")
    await take(reading, 1)


KILLED = """
import socket, sys
sock = socket.socket(socket.AF_UNIX)
sock.connect(sys.argv[1])
sock.sendall(bytes.fromhex(sys.argv[2]))
while b"bookmark" not in sock.recv(65536):
    pass
print("watching", flush=True)
sys.stdin.read()
"""


async def test_a_watcher_that_is_killed_frees_its_place(start: Start, store: MemoryStore) -> None:
    """kill -9 of the client's process ends its watch of the store, and another one gets its place."""
    served = await start(store=store, max_watchers=1)
    command = [sys.executable, "-c", KILLED, str(served.path), offer("/v1/kv?watch").hex()]
    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            run = partial(trio.run_process, command, check=False, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
            process: trio.Process = await nursery.start(run)
            assert process.stdout is not None
            assert await process.stdout.receive_some(100) == b"watching\n"
            assert store.watchers == 1
            process.kill()
        while store.watchers:  # noqa: ASYNC110 - the store has no event for it
            await trio.sleep(0.001)
    await begun(served, "/v1/kv?watch")
