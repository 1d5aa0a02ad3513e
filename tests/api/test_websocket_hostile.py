"""WebSocket clients that do not behave: each is closed for what it did, and nobody else notices."""

from __future__ import annotations

import contextlib
import logging
import socket
import struct

import pytest
import trio
from trio.testing import MockClock

from tests.api.conftest import Served, Start
from tests.api.peer import Peer, announced, frame, offer
from tests.api.test_hostile import dribble, send
from tests.api.test_websocket import App, open_at
from tests.api.wire import Client, masked_frame

HOSTILE: dict[str, tuple[list[bytes], int]] = {
    "garbage": ([bytes(range(256)) * 16], 1002),
    "zero bytes": ([bytes(4096)], 1002),
    "HTTP": ([b"GET /status HTTP/1.1\r\nHost: localhost\r\n\r\n"], 1002),
    "an unmasked frame": ([frame(masked=False)], 1002),
    "a compressed frame": ([frame(rsv=4)], 1002),
    "a frame of no type": ([frame(opcode=7)], 1002),
    "a continuation of nothing": ([frame(opcode=0)], 1002),
    "a ping that is too long": ([frame(b"x" * 200, opcode=9)], 1002),
    "a ping in pieces": ([frame(b"x", opcode=9, fin=False)], 1002),
    "text that is not UTF-8": ([frame(b"\xff\xfe\xfd")], 1007),
    "text that stops being UTF-8": ([frame(b"\xe2\x82", fin=False), frame(b"\x28", opcode=0)], 1007),
    "a message over the limit": ([frame(b"x" * 70_000)], 1009),
    "fragments over the limit": ([frame(b"x" * 60_000, fin=False), frame(b"x" * 60_000, opcode=0, fin=False)], 1009),
    "a flood of fragments of a byte": ([frame(b"x", fin=False), frame(b"x", opcode=0, fin=False) * 70_000], 1009),
    "what announces 4 EiB and keeps to it": ([announced(1 << 62), b"x" * 100_000], 1009),
    "a length of 2^63": ([announced(1 << 63)], 1002),
    "a close that is no close": ([frame(b"\x03", opcode=8)], 1002),
    "frames behind a close": ([frame(b"\x03\xe8", opcode=8) + frame() * 1000], 1000),
    "a flood of pings": ([frame(b"x" * 100, opcode=9) * 10_000, frame(b"\x03\xe8", opcode=8)], 1000),
    "a flood of pongs": ([frame(b"x", opcode=10) * 10_000, frame(b"\x03\xe8", opcode=8)], 1000),
    "messages to a watch": ([masked_frame()], 1008),
}
"""What comes behind a handshake, and what it is closed with."""


@pytest.mark.parametrize("together", [False, True], ids=["later", "in the segment of the handshake"])
@pytest.mark.parametrize("name", HOSTILE)
async def test_hostile_frames_harm_nobody_else(
    served: Served, client: Client, name: str, together: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """The offender gets its code, another watch its events and another client its answers, meanwhile and after."""
    segments, code = HOSTILE[name]
    watching = await open_at(served, "/v1/services?watch")
    assert (await watching.json())["event"] == "bookmark"
    hostile = await open_at(served, "/v1/services?watch", behind=b"".join(segments) if together else b"")
    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(send, Client(hostile.stream), *([] if together else segments))
            assert (await client.request("PUT", "/v1/services/a", {"spec": {}})).status == 201
            assert (await watching.json())["data"]["name"] == "a"
            assert (await hostile.closed()).code == code
            await hostile.stream.aclose()
        assert (await client.request("DELETE", "/v1/services/a")).status == 200
        assert (await watching.json())["event"] == "deleted"
        late = await open_at(served, "/v1/services?watch")
        assert (await late.json())["event"] == "bookmark"
    assert not [r for r in caplog.records if r.levelno >= logging.ERROR], caplog.text


SILENT: dict[str, list[bytes]] = {
    "half a head": [frame()[:1]],
    "half a length": [announced(1000)[:5]],
    "a head": [announced(1 << 17)],
    "half a ping": [frame(b"hello", opcode=9)[:8]],
    "half a frame": [frame(b"x" * 1000)[:500]],
    "half a message": [frame(b"x", fin=False)],
    "4 EiB to come": [announced(1 << 62), b"x"],
}


@pytest.mark.parametrize("name", SILENT)
async def test_half_a_frame_and_silence(start: Start, clock: MockClock, name: str) -> None:
    """Whoever stops within a frame cannot answer a ping either, and is closed with 1008 in bounded time."""
    app = App()
    served = await start(app, websocket_ping="10s", read_timeout="15s", websocket_close="2s")
    peer = await open_at(served)
    before = trio.current_time()
    await send(Client(peer.stream), *SILENT[name])
    await app.ended.wait()
    assert app.codes == [1008]
    assert 14 < trio.current_time() - before < 21
    await trio.sleep(2.5)
    assert (await peer.closed()).code == 1008


@pytest.mark.parametrize("piece", [b"", b"x"], ids=["empty", "of a byte"])
async def test_fragments_without_end(start: Start, clock: MockClock, piece: bytes) -> None:
    """A message has the time of a request, however busily its pieces come."""
    served = await start(App(), read_timeout="10s")
    peer = await open_at(served)
    before = trio.current_time()
    async with trio.open_nursery() as nursery:

        async def go_on() -> None:
            await peer.stream.send_all(frame(piece, fin=False))
            while True:
                await trio.sleep(0.5)
                await peer.stream.send_all(frame(piece, opcode=0, fin=False))

        nursery.start_soon(go_on)
        closed = await peer.closed()
        nursery.cancel_scope.cancel()
    assert (closed.code, closed.reason) == (1008, "a message did not come in whole within 10 s")
    assert trio.current_time() - before == pytest.approx(10, abs=1)


async def test_a_flood_of_pings_from_who_does_not_read(start: Start, clock: MockClock) -> None:
    """Pongs that are not taken do not pile up: the peer is cut off after the write timeout, others are served."""
    app = App()
    served = await start(app, write_timeout="10s", websocket_close="2s")
    flooding = await open_at(served, "/flood")
    other = await open_at(served)
    pings = frame(b"x" * 125, opcode=9) * 500
    before = trio.current_time()
    async with trio.open_nursery() as nursery:

        async def flood() -> None:
            with contextlib.suppress(trio.BrokenResourceError):
                await dribble(Client(flooding.stream), pings, every=1.0)
            nursery.cancel_scope.cancel()

        nursery.start_soon(flood)
        for _ in range(100):
            await other.say("me too")
            assert await other.receive() == "me too"
            await trio.sleep(1)
    assert trio.current_time() - before == pytest.approx(12, abs=1.5)
    assert app.codes == [1008]


async def test_handshakes_that_stop_half_way(start: Start, clock: MockClock) -> None:
    """Two hundred of them, cut at every place: requests and WebSockets go on, and the read timeout clears them away."""
    served = await start(App(), read_timeout="10s", keep_alive_timeout="10s")
    whole = offer("/echo")
    halves = [await served.client() for _ in range(200)]
    for i, half in enumerate(halves):
        await half.stream.send_all(whole[: i and 1 + i * (len(whole) - 2) // 200])
    peer, client = await open_at(served), await served.client()
    for _ in range(10):
        await peer.say("hello")
        assert await peer.receive() == "hello"
        assert (await client.request("GET", "/")).body == b"ok"
    await trio.sleep(11)
    answers = [await half.ended() for half in halves]
    assert answers[0] == b""
    assert all(answer.startswith(b"HTTP/1.1 408 ") for answer in answers[1:])
    await peer.say("still here")
    assert await peer.receive() == "still here"


@pytest.mark.parametrize("over", ["unix", "tcp"])
async def test_many_that_leave_in_the_middle(start: Start, over: str) -> None:
    """Peers that go away at any byte of a handshake or a frame, with a reset over TCP, leave nothing behind."""
    served = await start(listen="127.0.0.1:0")
    port = int(served.addresses[1].rpartition(":")[2])
    whole = offer("/v1/services?watch") + frame(b"x" * 20, opcode=9) + masked_frame()
    for cut in range(1, len(whole) + 1, 3):
        leaving = await served.client() if over == "unix" else await Client.connect_tcp("127.0.0.1", port)
        await leaving.stream.send_all(whole[:cut])
        await trio.lowlevel.checkpoint()
        if over == "tcp":
            leaving.stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        await leaving.aclose()
    client = await served.client()
    with trio.fail_after(10):
        while served.context.store.watchers:  # noqa: ASYNC110 - no event for it
            await trio.sleep(0.001)
        while (await client.request("GET", "/status")).json["watchers"]:
            pass
    peer = await Peer.open((await served.client()).stream, "/v1/services?watch")
    assert (await peer.json())["event"] == "bookmark"
