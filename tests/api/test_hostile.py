"""Connections that do not behave: after each of them the server is as good as before.

The first four tests are the faults that hypercorn and quart-trio have by themselves (see
``platformd.api.server``); the long list that follows is what else a client may send.
"""

from __future__ import annotations

import contextlib
import logging
import re
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from platformd.api.server.connection import LINGER_SECONDS
from platformd.api.server.protocol import ControlProtocol
from tests.api.conftest import Served, Start
from tests.api.wire import HOSTILE, UPGRADE, Client, get, masked_frame, post

STALLED_BYTES = 8 << 20
"""More than socket buffers take."""


async def plain_app(scope: Any, receive: Any, send: Any) -> None:
    """Answers without reading: /big with much, /fail not at all, /slow when nobody waits any more, others with ok."""
    if scope["path"] == "/fail":
        raise ZeroDivisionError("on purpose")
    if scope["path"] == "/slow":
        while (await receive())["type"] != "http.disconnect":
            pass
        return
    body = b"x" * STALLED_BYTES if scope["path"] == "/big" else b"ok"
    headers = [(b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body, "more_body": False})


async def send(client: Client, *segments: bytes) -> None:
    """Send segments, each of which the server sees on its own; it may close at any of them."""
    for segment in segments:
        try:
            await client.stream.send_all(segment)
        except trio.BrokenResourceError:
            return
        await trio.testing.wait_all_tasks_blocked(0.002)


async def dribble(client: Client, piece: bytes, *, every: float) -> None:
    """Send ``piece`` again and again, until the server closes the connection."""
    while True:
        await client.stream.send_all(piece)
        await trio.sleep(every)


@pytest.mark.parametrize("name", HOSTILE)
async def test_hostile_bytes_harm_nobody_else(
    served: Served, client: Client, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    """While and after a client sends this, another one's requests are answered on its kept connection."""
    assert (await client.request("GET", "/v1/services")).status == 200
    hostile = await served.client()
    with trio.fail_after(10):
        await send(hostile, *HOSTILE[name])
        assert (await client.request("GET", "/v1/services")).status == 200
        await hostile.aclose()
        assert (await client.request("GET", "/v1/services")).status == 200
        late = await served.client()
        assert (await late.request("GET", "/v1/services")).status == 200
    assert not [r for r in caplog.records if r.levelno >= logging.ERROR], caplog.text


ANSWERS = {
    "websocket upgrade with a frame in the same segment": 400,
    "websocket upgrade of a watch": 101,
    "h2c upgrade": 200,
    "http/2 preface": 505,
    "garbage": 400,
    "a TLS hello": 400,
    "a body in a second segment to a 404": 404,
    "a body in a second segment to a 405": 405,
    "a body over the limit": 413,
    "expect 100-continue over the limit": 413,
    "two lengths that differ": 400,
    "an unknown transfer coding": 501,
    "a chunk size that is no number": 400,
    "a head of 100 KB": 431,
    "no host": 400,
    "HTTP/1.0": 200,
    "HTTP/9.9": 505,
    "a target that is a query": 400,
    "a target that is an asterisk": 404,
    "CONNECT": 400,
    "an unknown method": 405,
    "JSON nested 100,000 deep": 400,
}


@pytest.mark.parametrize("name", ANSWERS)
async def test_what_can_be_answered_is_answered(served: Served, name: str) -> None:
    """A wrong request gets the right status, with a problem document when it is refused."""
    hostile = await served.client()
    await send(hostile, *HOSTILE[name])
    with trio.fail_after(5):
        received = bytes(await hostile.stream.receive_some(65536))
    version, status, _ = received.split(b" ", 2)
    assert (version, int(status)) == (b"HTTP/1.1", ANSWERS[name])
    if ANSWERS[name] >= 400:
        assert b"content-type: application/problem+json" in received.lower()


async def test_what_comes_behind_a_refused_upgrade_is_not_looked_at(served: Served) -> None:
    """A handshake that is refused is the last request of its connection: the frame behind it is not HTTP."""
    hostile = await served.client()
    await hostile.stream.send_all(UPGRADE + masked_frame() + b"\r\n\r\n")
    with trio.fail_after(5):
        received = await hostile.ended()
    assert received.startswith(b"HTTP/1.1 400 ")
    assert received.count(b"HTTP/1.1 ") == 1
    assert b"\r\nconnection: close\r\n" in received


async def test_a_fault_in_a_connection_stays_in_it(
    served: Served, client: Client, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An exception anywhere in the protocol's code ends that connection, is logged, and nothing else."""
    assert (await client.request("GET", "/status")).status == 200

    def fail(*_: object) -> None:
        raise ZeroDivisionError("on purpose")

    with monkeypatch.context() as patched:
        patched.setattr(ControlProtocol, "_refusal", fail)
        victim = await served.client()
        await victim.stream.send_all(get())
        with trio.fail_after(5):
            assert await victim.ended() == b""
    assert (await client.request("GET", "/status")).status == 200
    assert "a connection failed and was closed" in caplog.text
    assert "on purpose" in caplog.text


async def test_a_fault_in_the_application_is_a_500(start: Start, caplog: pytest.LogCaptureFixture) -> None:
    """An application that raises before it answers gives a problem document and a closed connection."""
    served = await start(plain_app)
    failing = await served.client()
    answer = await failing.request("GET", "/fail")
    assert (answer.status, answer.headers["content-type"]) == (500, "application/problem+json")
    assert "on purpose" in caplog.text
    assert await failing.ended() == b""
    other = await served.client()
    assert (await other.request("GET", "/")).body == b"ok"


async def test_an_idle_connection_is_closed_after_its_time(start: Start, clock: MockClock) -> None:
    """The keep-alive timeout fires for a new connection and again after each request, not during one."""
    served = await start(keep_alive_timeout="10s")
    new, used = await served.client(), await served.client()
    await trio.sleep(7)
    for _ in range(3):
        assert (await used.request("GET", "/v1/services")).status == 200
        await trio.sleep(7)
    before = trio.current_time()
    assert await used.ended() == b""
    assert trio.current_time() - before == pytest.approx(3, abs=0.5)
    assert await new.ended() == b""


async def test_a_long_request_is_not_idle(start: Start, clock: MockClock) -> None:
    """Neither the keep-alive nor the read timeout ends a request that the application takes its time for."""
    served = await start(plain_app, keep_alive_timeout="1s", read_timeout="1s")
    slow = await served.client()
    await slow.stream.send_all(get("/slow") + get("/"))
    with trio.move_on_after(50) as scope:
        await slow.stream.receive_some(1)
    assert scope.cancelled_caught


@pytest.mark.parametrize("name", ["a body in a second segment to a 404", "a body in a second segment to a 405"])
async def test_an_answer_before_the_body_ends_the_connection_cleanly(start: Start, name: str) -> None:
    """The client gets the whole answer and then the end of the connection, also while it is still sending."""
    served = await start()
    client = await served.client()
    await send(client, *HOSTILE[name])
    with trio.fail_after(5):
        received = await client.ended()
    assert received.startswith(b"HTTP/1.1 40")
    assert received.endswith(b"}")


async def test_a_client_that_goes_on_sending_is_let_go(start: Start, clock: MockClock) -> None:
    """After an early answer the rest is dropped for a moment, then the connection is closed."""
    served = await start(plain_app)
    client = await served.client()
    await client.stream.send_all(post(b"x", b"Content-Length: 1000000"))
    received = await client.ended()
    assert received.endswith(b"ok")
    before = trio.current_time()
    with pytest.raises(trio.BrokenResourceError):
        await dribble(client, b"x" * 1000, every=0.1)
    assert trio.current_time() - before == pytest.approx(LINGER_SECONDS, abs=0.5)


@pytest.mark.parametrize(
    "sent",
    [
        b"G",
        b"GET / HTTP/1.1\r\nHost: x\r\nX-Slow: ",
        post(b'{"name":', b"Content-Length: 100"),
        post(b"FFFF\r\nab", b"Transfer-Encoding: chunked"),
        get("/v1/services") + b"GET / HT",
    ],
)
async def test_a_request_that_dribbles_in_is_refused(start: Start, clock: MockClock, sent: bytes) -> None:
    """A request has the read timeout from its first byte to its last, however busily it dribbles."""
    served = await start(read_timeout="10s", keep_alive_timeout="100s")
    client = await served.client()
    begin = trio.current_time()
    await client.stream.send_all(sent)
    async with trio.open_nursery() as nursery:

        async def go_on() -> None:
            with contextlib.suppress(trio.BrokenResourceError):
                await dribble(client, b"x", every=1.0)

        nursery.start_soon(go_on)
        received = await client.ended()
        nursery.cancel_scope.cancel()
    assert b"HTTP/1.1 408 " in received
    assert b"within 10 s" in received
    assert trio.current_time() - begin == pytest.approx(10, abs=1 + LINGER_SECONDS)


async def test_a_reader_that_stalls_is_cut_off(start: Start, clock: MockClock) -> None:
    """A response that nobody takes is given up after the write timeout; others are not held up by it."""
    served = await start(plain_app, write_timeout="10s")
    stalled, other = await served.client(), await served.client()
    await stalled.stream.send_all(get("/big"))
    await trio.sleep(5)
    assert (await other.request("GET", "/")).body == b"ok"
    await trio.sleep(10)
    received = await stalled.ended()
    assert 0 < len(received) < STALLED_BYTES


async def test_a_slow_reader_is_not_cut_off(start: Start, clock: MockClock) -> None:
    """The write timeout is for each piece: a client that takes some all the time gets all of it."""
    served = await start(plain_app, write_timeout="10s")
    slow = await served.client()
    await slow.stream.send_all(get("/big"))
    size = 0
    while size < STALLED_BYTES:
        size += len(await slow.stream.receive_some(256 * 1024))
        await trio.sleep(1)
    assert trio.current_time() > 30


async def test_requests_in_one_segment_are_answered_in_order(served: Served) -> None:
    """Pipelining works, with bodies and across segments."""
    client = await served.client()
    body = b'{"name":"s","spec":{}}'
    made = post(body, b"Content-Length: %d" % len(body), path="/v1/services")
    await client.stream.send_all(get("/v1/services") + made[:-5])
    await client.stream.send_all(made[-5:] + get("/v1/services/s") + get("/v1/services", b"Connection: close"))
    with trio.fail_after(5):
        received = await client.ended()
    assert re.findall(rb"HTTP/1.1 (\d+) ", received) == [b"200", b"201", b"200", b"200"]


async def test_a_client_that_continues_as_expected(served: Served) -> None:
    """Expect: 100-continue is answered before the body, and the request goes on."""
    client = await served.client()
    body = b'{"name":"s","spec":{}}'
    head = post(b"", b"Content-Length: %d" % len(body), b"Expect: 100-continue", path="/v1/services")
    await client.stream.send_all(head)
    with trio.fail_after(5):
        assert bytes(await client.stream.receive_some(1000)).startswith(b"HTTP/1.1 100 ")
        await client.stream.send_all(body)
        assert bytes(await client.stream.receive_some(65536)).startswith(b"HTTP/1.1 201 ")


async def test_idle_connections_make_room(start: Start) -> None:
    """At the limit the connection that is idle longest goes; one that is serving never does."""
    served = await start(max_connections=10)
    watcher = await served.client()
    events = watcher.events("/v1/services?watch")
    await anext(events)
    await anext(events)
    idle = [await served.client() for _ in range(50)]
    client = await served.client()
    with trio.fail_after(5):
        assert (await client.request("PUT", "/v1/services/s", {"spec": {}})).status == 201
        assert (await anext(events)).event == "added"
        assert await idle[0].ended() == b""


async def test_when_no_connection_is_idle_the_new_one_is_told(start: Start) -> None:
    """Over the limit a connection gets 429 and is closed; when one ends there is room again."""
    served = await start(plain_app, max_connections=2)
    busy = [await served.client() for _ in range(2)]
    for client in busy:
        await send(client, get("/slow"))
    refused = await served.client()
    with trio.fail_after(5):
        received = await refused.ended()
        assert received.startswith(b"HTTP/1.1 429 ")
        assert b"http.max_connections" in received
        await busy[0].aclose()
        while True:
            client = await served.client()
            try:
                assert (await client.request("GET", "/")).body == b"ok"
            except (EOFError, trio.BrokenResourceError, AssertionError):
                continue
            break


async def test_many_that_leave_in_the_middle(served: Served, client: Client) -> None:
    """Clients that go away at any point of a request leave nothing behind."""
    body = b'{"name":"s","spec":{}}'
    whole = post(body, b"Content-Length: %d" % len(body), path="/v1/services")
    for cut in range(0, len(whole), 3):
        leaving = await served.client()
        await leaving.stream.send_all(whole[:cut])
        await leaving.aclose()
    for _ in range(20):
        leaving = await served.client()
        await leaving.stream.send_all(get("/v1/services?watch"))
        await leaving.aclose()
    with trio.fail_after(5):
        while served.context.store.watchers:  # type: ignore[attr-defined]  # noqa: ASYNC110 - no event for it
            await trio.sleep(0.001)
        assert (await client.request("GET", "/v1/services")).status == 200


async def test_a_stop_is_within_its_deadline_whoever_is_connected(start: Start, clock: MockClock) -> None:
    """With every hostile client still there, others are served until the stop, and the stop takes no longer than its
    grace."""
    served = await start(grace=5.0)
    client = await served.client()
    for segments in HOSTILE.values():
        await send(await served.client(), *segments)
    assert (await client.request("GET", "/v1/services")).status == 200
    begin = trio.current_time()
    served.stop()
    await served.done.wait()
    assert trio.current_time() - begin <= 5.0 + 0.5
