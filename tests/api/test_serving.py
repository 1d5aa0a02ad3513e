"""The life of the server: when it says that it serves, and how it stops."""

from __future__ import annotations

from typing import Any

import pytest
import trio
from trio.testing import MockClock

from platformd.api.server import serve
from platformd.core.errors import Conflict
from tests.api.conftest import Start
from tests.api.fakes import make_settings
from tests.api.test_hostile import STALLED_BYTES, plain_app, send
from tests.api.wire import Client, get, post


async def test_started_means_that_connections_are_accepted(start: Start) -> None:
    """The addresses are told when a request is answered at each of them."""
    served = await start(plain_app, listen="127.0.0.1:0")
    unix, http = served.addresses
    assert unix == f"unix:{served.path}"
    assert (await (await served.client()).request("GET", "/")).body == b"ok"
    port = int(http.rpartition(":")[2])
    over_tcp = await Client.connect_tcp("127.0.0.1", port)
    assert (await over_tcp.request("GET", "/")).body == b"ok"
    await over_tcp.aclose()


async def test_stopping_an_idle_server_is_immediate(start: Start, clock: MockClock) -> None:
    """Connections that serve nothing are closed at once, whether new, used or within a request's head."""
    served = await start(plain_app, grace=100.0)
    clients = [await served.client() for _ in range(5)]
    await clients[0].request("GET", "/")
    await send(clients[1], b"GET / HT")
    before = trio.current_time()
    served.stop()
    await served.done.wait()
    assert trio.current_time() - before < 1
    assert [await client.ended() for client in clients] == [b""] * 5
    assert not served.path.exists()
    with pytest.raises(OSError, match="No such file"):
        await served.client()


async def test_a_request_that_is_being_served_is_finished(start: Start) -> None:
    """A response that is under way when the stop comes is written whole, and says that it is the last."""
    go_on = trio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await go_on.wait()
        await plain_app(scope, receive, send)

    served = await start(app)
    client = await served.client()
    async with trio.open_nursery() as nursery:
        answers = []

        async def ask() -> None:
            answers.append(await client.request("GET", "/"))

        nursery.start_soon(ask)
        await trio.testing.wait_all_tasks_blocked(0.01)
        served.stop()
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert not served.done.is_set()
        go_on.set()
    assert (answers[0].status, answers[0].body, answers[0].headers["connection"]) == (200, b"ok", "close")
    with trio.fail_after(2):
        await served.done.wait()


async def test_the_deadline_holds_whatever_the_clients_do(start: Start, clock: MockClock) -> None:
    """A stalled reader, a request that is never answered and one that never ends do not hold up the stop."""
    served = await start(plain_app, grace=3.0, write_timeout="100s", read_timeout="100s")
    stalled, slow, half, idle = [await served.client() for _ in range(4)]
    await send(stalled, get("/big"))
    await send(slow, get("/slow"))
    await send(half, post(b"x", b"Content-Length: 10", path="/slow"))
    await idle.request("GET", "/")
    before = trio.current_time()
    served.stop()
    await served.done.wait()
    assert trio.current_time() - before == pytest.approx(3.0, abs=0.2)
    assert 0 < len(await stalled.ended()) < STALLED_BYTES
    assert await slow.ended() == await half.ended() == b""


async def test_the_api_stops_within_its_deadline(start: Start, clock: MockClock) -> None:
    """Open watches end by themselves; a watcher that does not read is cut off at the deadline."""
    served = await start(grace=3.0, write_timeout="100s")
    reading, idle, stalled = [await served.client() for _ in range(3)]
    events = reading.events("/v1/services?watch")
    await anext(events)
    await anext(events)
    await idle.request("GET", "/status")
    await send(stalled, get("/v1/kinds") * 500)
    before = trio.current_time()
    served.stop()
    assert [e async for e in events] == []
    assert trio.current_time() - before < 0.5
    await served.done.wait()
    assert trio.current_time() - before < 3.5


async def test_cancelling_the_server_is_immediate(start: Start, tmp_path: Any, clock: MockClock) -> None:
    """Without a stop, cancelling cuts everything off: shielded writes do not hold it up."""
    settings = make_settings(tmp_path, write_timeout="100s")
    async with trio.open_nursery() as nursery:
        await nursery.start(
            lambda task_status: serve(plain_app, settings, stopping=trio.Event(), task_status=task_status)
        )
        stalled = await Client.connect(settings.socket_path)
        await send(stalled, get("/big"))
        before = trio.current_time()
        nursery.cancel_scope.cancel()
    assert trio.current_time() - before < 1
    assert not settings.socket_path.exists()
    await stalled.aclose()


async def test_a_second_server_names_the_socket_of_the_first(start: Start) -> None:
    """A live socket is never taken; the first server goes on."""
    served = await start(plain_app)
    with pytest.raises(Conflict) as caught:
        await serve(plain_app, served.context.settings, stopping=trio.Event())
    assert caught.value.subject == str(served.path)
    assert (await (await served.client()).request("GET", "/")).body == b"ok"


async def test_one_peer_cannot_take_all_places(start: Start) -> None:
    """Over its own limit a peer's idle connection goes; when none is idle, the new one is told which limit it is."""
    served = await start(max_connections=10, max_connections_per_peer=2)
    watching = [await served.client() for _ in range(2)]
    events = [client.events("/v1/services?watch") for client in watching]
    for each in events:
        await anext(each)
    refused = await served.client()
    with trio.fail_after(30):
        received = await refused.ended()
    assert received.startswith(b"HTTP/1.1 429 ")
    assert b"http.max_connections_per_peer" in received
    assert b"retry-after: 1\r\n" in received
    await watching[0].aclose()
    with trio.fail_after(30):
        while True:
            idle = await served.client()
            try:
                assert (await idle.request("GET", "/status")).status == 200
                break
            except (EOFError, trio.BrokenResourceError, AssertionError):
                continue
        newer = await served.client()
        assert (await newer.request("GET", "/status")).status == 200
        assert await idle.ended() == b""


async def test_the_limit_of_heads_is_a_setting(start: Start) -> None:
    """A head over the limit is refused with the limit; one below it is not."""
    served = await start(max_head="1KiB")
    client = await served.client()
    assert (await client.request("GET", "/status", headers={"X-Some": "x" * 500})).status == 200
    await client.stream.send_all(b"GET /status HTTP/1.1\r\nHost: localhost\r\nX-Some: " + b"x" * 2000)
    with trio.fail_after(30):
        received = await client.ended()
    assert received.startswith(b"HTTP/1.1 431 ")
    assert b"1024 bytes (http.max_head)" in received
