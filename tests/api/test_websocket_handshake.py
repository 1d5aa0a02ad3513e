"""The opening handshake: what is accepted, what is refused and how, and who may ask."""

from __future__ import annotations

import os
from typing import Any

import h11
import pytest
import trio
from quart import websocket
from quart_trio import QuartTrio
from trio.testing import MockClock

from platformd.api import access
from platformd.api.server.handshake import BadHandshake, Handshake, offers_websocket, read_handshake
from tests.api.conftest import Served, Start
from tests.api.peer import Closed, Peer, Refused, frame, offer
from tests.api.test_hostile import plain_app
from tests.api.wire import Client, get


def request(data: bytes) -> h11.Request:
    connection = h11.Connection(h11.SERVER)
    connection.receive_data(data)
    found = connection.next_event()
    assert isinstance(found, h11.Request)
    return found


OFFERS: dict[str, tuple[bytes, bool]] = {
    "plain": (offer(), True),
    "in other words": (
        offer().replace(b": websocket", b": h2c, WebSocket").replace(b": Upgrade", b": x,UPGRADE"),
        True,
    ),
    "on several lines": (offer().replace(b"Connection: Upgrade", b"Connection: x\r\nConnection: upgrade"), True),
    "without Connection": (offer().replace(b"Connection: Upgrade\r\n", b""), False),
    "in HTTP/1.0": (offer().replace(b"HTTP/1.1", b"HTTP/1.0"), False),
    "in a POST": (offer().replace(b"GET", b"POST"), False),
    "to h2c": (offer().replace(b"websocket", b"h2c"), False),
}


@pytest.mark.parametrize("name", OFFERS)
def test_what_is_an_offer(name: str) -> None:
    """An Upgrade counts when RFC 9110 says so; otherwise the request is a request."""
    data, expected = OFFERS[name]
    assert offers_websocket(request(data)) is expected


BAD: dict[str, tuple[bytes, int]] = {
    "no key": (offer().replace(b"Sec-WebSocket-Key", b"X-Key"), 400),
    "two keys": (offer("/v1/kv?watch", b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA=="), 400),
    "a short key": (offer(key=b"AAAA"), 400),
    "a key that is not base64": (offer(key=b"!!!!!!!!!!!!!!!!!!!!!!=="), 400),
    "no version": (offer().replace(b"Sec-WebSocket-Version", b"X-Version"), 426),
    "an old version": (offer(version=b"8"), 426),
    "two versions": (offer("/v1/kv?watch", b"Sec-WebSocket-Version: 8"), 426),
    "a body": (offer("/v1/kv?watch", b"Content-Length: 5") + b"hello", 400),
    "a chunked body": (offer("/v1/kv?watch", b"Transfer-Encoding: chunked") + b"0\r\n\r\n", 400),
}


@pytest.mark.parametrize("name", BAD)
async def test_a_bad_handshake_is_told_what_is_wrong(served: Served, name: str) -> None:
    """What RFC 6455 does not allow is answered with a problem document, and the connection ends."""
    data, status = BAD[name]
    with pytest.raises(BadHandshake):
        read_handshake(request(data))
    client = await served.client()
    await client.stream.send_all(data)
    with trio.fail_after(5):
        received = await client.ended()
    assert received.startswith(b"HTTP/1.1 %d " % status)
    assert b"content-type: application/problem+json" in received
    assert (b"sec-websocket-version: 13" in received) is (status == 426)


def test_no_body_may_be_announced_as_such() -> None:
    """Content-Length: 0 is no body."""
    assert read_handshake(request(offer("/", b"Content-Length: 0"))).subprotocols == ()


def test_the_answer_is_the_one_of_the_rfc() -> None:
    """The accept token is that of RFC 6455's own example; a subprotocol must have been offered."""
    handshake = Handshake(key=b"dGhlIHNhbXBsZSBub25jZQ==", subprotocols=("a", "b"))
    assert (b"sec-websocket-accept", b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo=") in handshake.acceptance(None)
    assert (b"sec-websocket-protocol", b"b") in handshake.acceptance("b")
    with pytest.raises(ValueError, match="did not offer"):
        handshake.acceptance("c")


REFUSED: dict[str, tuple[str, int, str]] = {
    "no such path": ("/nowhere", 404, "there is no such path"),
    "no such kind": ("/v1/cats?watch", 404, "there is no such kind"),
    "not a WebSocket": ("/status", 400, "nothing is served over a WebSocket here"),
    "not a watch": ("/v1/kv?prefix=a", 400, "only a watch is served over a WebSocket"),
    "not a watch of a key": ("/v1/kv/a", 400, "only a watch is served over a WebSocket"),
    "not a watch of a kind": ("/v1/services?limit=3", 400, "the query is not valid"),
    "an unknown parameter": ("/v1/kv?watch&limit=3", 400, "the query is not valid"),
    "an event of no type": ("/v1/kv?watch&only=both", 400, "'both' is no type of event"),
    "no revision": ("/v1/services?watch&after=x", 400, "the query is not valid"),
}


@pytest.mark.parametrize("name", REFUSED)
async def test_a_refusal_is_that_of_any_request(served: Served, name: str) -> None:
    """The application's refusal is an ordinary problem document, with the request's id, and ends the connection."""
    path, status, detail = REFUSED[name]
    client = await served.client()
    with pytest.raises(Refused) as caught, trio.fail_after(5):
        await Peer.open(client.stream, path, {"X-Request-Id": "r-1"})
    answer = caught.value.answer
    assert (answer.status, answer.json["status"], answer.json["detail"]) == (status, status, detail)
    assert (answer.headers["x-request-id"], answer.headers["connection"]) == ("r-1", "close")
    assert await client.ended() == b""


async def test_a_refused_handshake_is_counted(served: Served, client: Client) -> None:
    """The metrics have handshakes among the requests, refused or accepted, by route."""
    with pytest.raises(Refused):
        await Peer.open((await served.client()).stream, "/v1/kv")
    await Peer.open((await served.client()).stream, "/v1/services?watch")
    text = (await client.request("GET", "/metrics")).body.decode()
    assert 'platformd_http_requests_total{method="GET",route="/v1/kv",status="400"} 1.0' in text
    assert 'platformd_http_requests_total{method="GET",route="/v1/<kind:plural>",status="101"} 1.0' in text
    assert "platformd_http_watchers 1.0" in text


@pytest.mark.parametrize(
    ("host", "origin", "status"),
    [
        ("localhost:{port}", None, 101),
        ("127.0.0.1:{port}", "http://127.0.0.1:{port}", 101),
        ("localhost:{port}", "http://evil.example", 403),
        ("localhost:{port}", "http://localhost:1", 403),
        ("localhost:{port}", "null", 403),
        ("rebound.example:{port}", None, 403),
    ],
)
async def test_pages_of_others_are_kept_out(start: Start, host: str, origin: str | None, status: int) -> None:
    """On TCP a handshake is held to the rule of all requests: a loopback Host, and no Origin but this server's own."""
    served = await start(listen="127.0.0.1:0")
    port = int(served.addresses[1].rpartition(":")[2])
    stream = await trio.open_tcp_stream("127.0.0.1", port)
    headers = {} if origin is None else {"Origin": origin.format(port=port)}
    async with stream:
        try:
            await Peer.open(stream, "/v1/services?watch", headers, host=host.format(port=port))
        except Refused as refused:
            found = refused.answer.status
        else:
            found = 101
    assert found == status


async def test_on_the_socket_the_peer_is_known(start: Start) -> None:
    """A handshake brings the kernel's word on who is there, as every request does."""
    app, seen = QuartTrio("test"), []

    @app.websocket("/who")
    async def who() -> None:
        seen.append(access.peer())
        await websocket.send("hello")

    served = await start(app)
    peer = await Peer.open((await served.client()).stream, "/who")
    assert await peer.receive() == "hello"
    assert seen[0] is not None
    assert (seen[0].pid, seen[0].uid) == (os.getpid(), os.getuid())


async def test_a_route_of_quart_trio(start: Start) -> None:
    """A usual WebSocket route sees messages of both types, answers, and closes normally when it returns."""
    app = QuartTrio("test")

    @app.websocket("/echo/<name>")
    async def echo(name: str) -> None:
        await websocket.accept({"X-Name": name}, subprotocol="two")
        for _ in range(3):
            await websocket.send(await websocket.receive())

    served = await start(app)
    peer = await Peer.open((await served.client()).stream, "/echo/bob", subprotocols=("one", "two"))
    assert peer.headers["x-name"] == "bob"
    for data in ("grüße", b"\x00\xff", "x" * 60_000):
        await peer.say(data)
        assert await peer.receive() == data
    closed = await peer.closed()
    assert closed.code == 1000
    assert await peer.ended()


async def asgi(scope: Any, receive: Any, send: Any) -> None:
    """Does with a handshake what its path says."""
    assert (await receive())["type"] == "websocket.connect"
    if scope["path"] == "/close":
        await send({"type": "websocket.close"})
    elif scope["path"] == "/fail":
        raise ZeroDivisionError("on purpose")
    elif scope["path"] == "/later":
        await send({"type": "websocket.accept"})
        raise ZeroDivisionError("on purpose")
    elif scope["path"] == "/response":
        await send({"type": "websocket.http.response.start", "status": 418, "headers": [(b"x-a", b"b")]})
        await send({"type": "websocket.http.response.body", "body": b"short ", "more_body": True})
        await send({"type": "websocket.http.response.body", "body": b"and stout"})
    elif scope["path"] == "/wrong":
        await send({"type": "websocket.send", "text": "too early"})
    elif scope["path"] == "/slow":
        await trio.sleep(1)
        await send({"type": "websocket.accept"})
        assert await receive() == {"type": "websocket.disconnect", "code": 1001}
    elif scope["path"] == "/think":
        while (await receive())["type"] != "websocket.disconnect":
            pass


@pytest.mark.parametrize(("path", "status"), [("/close", 403), ("/fail", 500), ("/wrong", 500), ("/nothing", 500)])
async def test_an_application_that_does_not_accept(start: Start, path: str, status: int) -> None:
    """Closing is 403, failing and doing nothing is 500, each with a problem document."""
    served = await start(asgi)
    with pytest.raises(Refused) as caught, trio.fail_after(5):
        await Peer.open((await served.client()).stream, path)
    assert (caught.value.answer.status, caught.value.answer.json["status"]) == (status, status)


async def test_an_application_that_answers_otherwise(start: Start) -> None:
    """A response in pieces instead of an acceptance reaches the client whole."""
    served = await start(asgi)
    with pytest.raises(Refused) as caught, trio.fail_after(5):
        await Peer.open((await served.client()).stream, "/response")
    answer = caught.value.answer
    assert (answer.status, answer.headers["x-a"], answer.body) == (418, "b", b"short and stout")


async def test_an_application_that_fails_later(start: Start, caplog: pytest.LogCaptureFixture) -> None:
    """After the acceptance a fault closes with 1011, is logged, and says nothing of the inside."""
    served = await start(asgi)
    peer = await Peer.open((await served.client()).stream, "/later")
    with trio.fail_after(5):
        closed = await peer.closed()
    assert closed.code == 1011
    assert "on purpose" not in closed.reason
    assert "on purpose" in caplog.text


async def test_handshakes_count_as_connections(start: Start) -> None:
    """WebSockets have their places among all connections, and are never idle: at the limit the new one is told."""
    served = await start(max_connections=2)
    peers = [await Peer.open((await served.client()).stream, "/v1/services?watch") for _ in range(2)]
    refused = await served.client()
    with trio.fail_after(5):
        assert (await refused.ended()).startswith(b"HTTP/1.1 429 ")
        assert (await peers[0].close()).code == 1000
        assert await peers[0].ended()
        await peers[0].stream.aclose()
        while True:
            client = await served.client()
            try:
                assert (await client.request("GET", "/status")).status == 200
            except (EOFError, trio.BrokenResourceError, AssertionError):
                continue
            break


async def test_watches_over_websockets_count_as_watches(start: Start) -> None:
    """The limit of watches is one for both forms, and a WebSocket that ends frees its place."""
    served = await start(max_watchers=1)
    first = await Peer.open((await served.client()).stream, "/v1/services?watch")
    await first.receive()
    other = await served.client()
    assert (await other.request("GET", "/v1/services?watch")).status == 429
    with pytest.raises(Refused) as caught:
        await Peer.open((await served.client()).stream, "/v1/services?watch")
    assert caught.value.answer.status == 429
    await first.close()
    with trio.fail_after(5):
        while (await other.request("GET", "/status")).json["watchers"]:
            pass
    assert (await other.begin("GET", "/v1/services?watch")).status_code == 200


async def test_a_handshake_behind_requests(served: Served) -> None:
    """A kept connection may become a WebSocket after requests, with a frame behind the handshake at once."""
    client = await served.client()
    await client.stream.send_all(get("/v1/services") + offer("/v1/services?watch") + frame(b"x", opcode=9))
    received = b""
    with trio.fail_after(5):
        while b"\x8a\x01x" not in received:
            received += bytes(await client.stream.receive_some(65536))
    assert received.index(b"HTTP/1.1 200 ") < received.index(b"HTTP/1.1 101 ") < received.index(b"\x8a\x01x")


async def test_a_client_that_leaves_while_the_application_thinks(start: Start, clock: MockClock) -> None:
    """The stop does not wait for an application that has not decided, and tells it."""
    served = await start(asgi, grace=3.0)
    client = await served.client()
    await client.stream.send_all(offer("/think"))
    await trio.testing.wait_all_tasks_blocked(0.01)
    await client.aclose()
    before = trio.current_time()
    served.stop()
    await served.done.wait()
    assert trio.current_time() - before < 3.5


async def test_an_application_that_accepts_while_the_server_stops(start: Start, clock: MockClock) -> None:
    """A handshake that was being thought about when the stop came is accepted, and told to go away at once."""
    served = await start(asgi, grace=10.0)
    client = await served.client()
    async with trio.open_nursery() as nursery:

        async def stop() -> None:
            await trio.sleep(0.5)
            served.stop()

        nursery.start_soon(stop)
        peer = await Peer.open(client.stream, "/slow")
        assert (await peer.receive()) == Closed(1001, "the daemon stops")
    await peer.stream.aclose()
    before = trio.current_time()
    await served.done.wait()
    assert trio.current_time() - before < 1


async def test_an_application_that_talks_to_nobody(start: Start) -> None:
    """An application that sends without end after its handshake was refused holds up neither others nor the stop."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            await plain_app(scope, receive, send)
            return
        await send({"type": "websocket.close"})
        while True:
            await send({"type": "websocket.send", "text": "x"})

    served = await start(app, grace=0.1)
    with trio.fail_after(5):
        with pytest.raises(Refused):
            await Peer.open((await served.client()).stream, "/")
        assert (await (await served.client()).request("GET", "/")).body == b"ok"
        served.stop()
        await served.done.wait()
