"""The life of a WebSocket: messages both ways, signs of life, back-pressure, and every way to end."""

from __future__ import annotations

import socket
import struct
from typing import Any

import pytest
import trio
from trio.testing import MockClock
from wsproto.events import Ping

from platformd.api.server import serve
from platformd.api.server.websocket import INBOX, TAKE_SECONDS
from platformd.api.server.websocket_stream import FAREWELL_SECONDS
from tests.api.conftest import Served, Start
from tests.api.fakes import make_settings
from tests.api.peer import Closed, Peer, frame
from tests.api.test_hostile import dribble, plain_app
from tests.api.wire import Client


class App:
    """Echoes what it is sent, or does what the path says, and remembers how each WebSocket ended."""

    def __init__(self) -> None:
        self.codes: list[int] = []
        self.ended = trio.Event()
        """Set at the first end."""
        self.sent = 0

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            await plain_app(scope, receive, send)
            return
        await receive()
        await send({"type": "websocket.accept"})
        await getattr(self, scope["path"][1:])(receive, send)

    async def echo(self, receive: Any, send: Any) -> None:
        while (message := await receive())["type"] == "websocket.receive":
            await send({**message, "type": "websocket.send"})
        self._end(message)

    async def flood(self, receive: Any, send: Any) -> None:
        """Sends without end, until the WebSocket is over."""

        async def more() -> None:
            while True:
                await send({"type": "websocket.send", "bytes": b"x" * 10_000})
                self.sent += 10_000

        async with trio.open_nursery() as nursery:
            nursery.start_soon(more)
            self._end(await receive())
            nursery.cancel_scope.cancel()

    def _end(self, message: Any) -> None:
        assert message["type"] == "websocket.disconnect"
        self.codes.append(message["code"])
        self.ended.set()

    async def bye(self, _receive: Any, send: Any) -> None:
        for i in range(100):
            await send({"type": "websocket.send", "text": f"{i}" * 1000})
        await send({"type": "websocket.close", "code": 4321, "reason": "that was all"})
        await send({"type": "websocket.send", "text": "too late"})

    async def deaf(self, _receive: Any, _send: Any) -> None:
        """Takes no messages, and no news of the end either."""
        await trio.sleep_forever()


@pytest.fixture
def app() -> App:
    return App()


async def open_at(served: Served, path: str = "/echo", **more: Any) -> Peer:
    return await Peer.open((await served.client()).stream, path, **more)


@pytest.mark.parametrize("over", ["unix", "tcp"])
async def test_messages_go_both_ways(start: Start, app: App, over: str) -> None:
    """Text and bytes, empty and large, whole and in fragments, on both sockets."""
    served = await start(app, listen="127.0.0.1:0")
    port = int(served.addresses[1].rpartition(":")[2])
    client = await served.client() if over == "unix" else await Client.connect_tcp("127.0.0.1", port)
    peer = await Peer.open(client.stream, "/echo", host="localhost")
    for data in ("hello", b"\x00\xff", "", b"", "ü" * 30_000, b"x" * 65_536):
        await peer.say(data)
        assert await peer.receive() == data
    for piece in ("frag", "men"):
        await peer.say(piece, finished=False)
        await peer.send(Ping(piece.encode()))
    await peer.say("ts")
    assert await peer.receive() == "fragments"
    assert peer.pongs[-1] == b"men"
    assert await peer.close(4000, "bye") == Closed(4000, "bye")
    assert await peer.ended()
    await client.aclose()
    assert app.codes == [4000]


async def test_a_frame_in_the_segment_of_the_handshake(start: Start, app: App) -> None:
    """What ends hypercorn's server is answered here."""
    served = await start(app)
    peer = await open_at(served, behind=frame(b"early") + frame(b"bird")[:4])
    assert await peer.receive() == "early"
    await peer.stream.send_all(frame(b"bird")[4:])
    assert await peer.receive() == "bird"


async def test_what_is_sent_before_a_close_arrives(start: Start, app: App) -> None:
    """The application's close comes behind its messages, with code and reason; later messages are dropped."""
    peer = await open_at(await start(app, websocket_buffer="4KiB"), "/bye")
    for i in range(100):
        assert await peer.receive() == f"{i}" * 1000
    assert await peer.receive() == Closed(4321, "that was all")
    assert await peer.ended()


async def test_only_the_latest_ping_needs_an_answer(start: Start, app: App) -> None:
    """Of many pings that come at once the last one is answered, and the message behind them too."""
    peer = await open_at(await start(app))
    await peer.stream.send_all(b"".join(frame(b"%d" % i, opcode=9) for i in range(1000)) + frame(b"hello"))
    assert await peer.receive() == "hello"
    assert peer.pongs[-1] == b"999"
    assert len(peer.pongs) < 100


async def test_a_silent_peer_that_lives_is_kept(start: Start, app: App, clock: MockClock) -> None:
    """Silence is met with pings; who answers them stays for as long as it likes."""
    peer = await open_at(await start(app, websocket_ping="10s"))
    with trio.move_on_after(100):
        await peer.receive()
    assert peer.pings == pytest.approx(10, abs=1)
    await peer.say("still here")
    assert await peer.receive() == "still here"


async def test_a_peer_that_is_gone_is_let_go(start: Start, app: App, clock: MockClock) -> None:
    """Half open: nothing comes, not even a pong. After two times of silence it is closed, and its place is free."""
    served = await start(app, websocket_ping="10s", websocket_close="3s")
    peer = await open_at(served)
    before = trio.current_time()
    await app.ended.wait()
    assert trio.current_time() - before == pytest.approx(20, abs=1)
    assert app.codes == [1008]
    await trio.sleep(3.5)
    assert await peer.closed() == Closed(1008, "no sign of life within 10 s of a ping")
    assert await peer.ended()


async def test_a_closing_handshake_has_a_deadline(start: Start, app: App, clock: MockClock) -> None:
    """Who does not answer a close is cut off after its time, busy or not; the application hears of it at once."""
    served = await start(app, websocket_close="3s", grace=100.0)
    peer = await open_at(served)
    before = trio.current_time()
    served.stop()
    with pytest.raises(trio.BrokenResourceError):
        await dribble(Client(peer.stream), frame(b"x" * 1000), every=0.1)
    assert trio.current_time() - before == pytest.approx(3, abs=0.5)
    assert app.codes == [1001]


async def test_a_stop_says_goodbye(start: Start, app: App, clock: MockClock) -> None:
    """Every WebSocket gets 1001 and answers it; then the stop is done, long before its deadline."""
    served = await start(app, grace=100.0)
    peers = [await open_at(served) for _ in range(5)]
    before = trio.current_time()
    served.stop()
    for peer in peers:
        assert await peer.receive() == Closed(1001, "the daemon stops")
        assert await peer.ended()
        await peer.stream.aclose()
    await served.done.wait()
    assert trio.current_time() - before < 1
    assert app.codes == [1001] * 5


async def test_a_stop_does_not_wait_for_the_stubborn(start: Start, app: App, clock: MockClock) -> None:
    """Peers that do not read, do not answer or do not stop hold up nothing past the deadline."""
    served = await start(app, grace=3.0, websocket_close="60s", write_timeout="60s")
    await open_at(served, "/flood")
    await open_at(served, "/echo")
    await open_at(served, "/deaf")
    await trio.sleep(1)
    before = trio.current_time()
    served.stop()
    await served.done.wait()
    assert trio.current_time() - before == pytest.approx(3, abs=0.5)


async def test_cancelling_the_server_is_immediate(app: App, tmp_path: Any, clock: MockClock) -> None:
    """Without a stop, cancelling cuts WebSockets off, also one that does not read."""
    settings = make_settings(tmp_path, write_timeout="100s")
    async with trio.open_nursery() as nursery:
        await nursery.start(lambda task_status: serve(app, settings, stopping=trio.Event(), task_status=task_status))
        clients = [await Client.connect(settings.socket_path) for _ in range(2)]
        for client, path in zip(clients, ("/flood", "/echo"), strict=True):
            await Peer.open(client.stream, path)
        await trio.sleep(1)
        before = trio.current_time()
        nursery.cancel_scope.cancel()
    assert trio.current_time() - before < 1
    for client in clients:
        await client.aclose()


async def test_who_does_not_read_holds_up_its_own_sender(start: Start, app: App, clock: MockClock) -> None:
    """What waits is bounded; after the write timeout it is dropped, and a peer that wakes up then learns why."""
    served = await start(app, write_timeout="10s", websocket_buffer="50KiB", websocket_close="30s")
    peer = await open_at(served, "/flood")
    await trio.sleep(1)
    sent = app.sent
    await trio.sleep(8)
    assert app.sent == sent < 4 << 20
    other = await open_at(served)
    await other.say("me too")
    assert await other.receive() == "me too"
    await trio.sleep(4)
    assert app.codes == [1008]
    assert await peer.closed() == Closed(1008, "nothing was taken for 10 s")
    assert await peer.ended()


async def test_who_never_reads_is_cut_off(start: Start, app: App, clock: MockClock) -> None:
    """A peer that stays asleep loses its connection when the closing took too long."""
    served = await start(app, write_timeout="10s", websocket_close="5s", max_connections=1)
    peer = await open_at(served, "/flood")
    await trio.sleep(16)
    assert app.codes == [1008]
    assert (await (await served.client()).request("GET", "/")).body == b"ok"  # there is room for another one
    assert (await peer.closed()).code == 1006


async def test_who_reads_slowly_is_kept(start: Start, app: App, clock: MockClock) -> None:
    """The write timeout is for no byte at all, and a ping that cannot be seen is not asked for."""
    served = await start(app, write_timeout="10s", websocket_ping="5s", websocket_buffer="50KiB")
    peer = await open_at(served, "/flood")
    for _ in range(20):
        await peer.stream.receive_some(60_000)  # a Unix socket takes more when it has got rid of three quarters
        await trio.sleep(2)
    assert app.codes == []


async def test_who_sends_faster_than_it_is_taken_waits(start: Start, app: App, clock: MockClock) -> None:
    """An application that takes no messages: nothing more is read, then the WebSocket is closed with 1013."""
    served = await start(app)
    peer = await open_at(served, "/deaf")
    before = trio.current_time()
    await peer.stream.send_all(frame(b"x") * (INBOX + 2))
    assert (await peer.closed()).code == 1013
    assert trio.current_time() - before == pytest.approx(TAKE_SECONDS, abs=0.5)


async def test_an_application_that_does_not_end(
    start: Start, app: App, clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """After the end of its WebSocket an application has a moment; then it is cancelled, which the log says."""
    served = await start(app, max_connections=1)
    peer = await open_at(served, "/deaf")
    assert (await peer.close()).code == 1000
    await peer.stream.aclose()
    await trio.sleep(FAREWELL_SECONDS + 1)
    assert "was cancelled" in caplog.text
    assert (await (await served.client()).request("GET", "/")).body == b"ok"


@pytest.mark.parametrize("over", ["unix", "tcp"])
async def test_a_peer_that_is_killed(start: Start, app: App, over: str) -> None:
    """The end of a process, with a reset or without, ends the application's side with 1006."""
    served = await start(app, listen="127.0.0.1:0")
    port = int(served.addresses[1].rpartition(":")[2])
    client = await served.client() if over == "unix" else await Client.connect_tcp("127.0.0.1", port)
    peer = await Peer.open(client.stream, "/echo")
    await peer.say("x" * 1000)
    if over == "tcp":
        client.stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    await client.aclose()
    with trio.fail_after(5):
        await app.ended.wait()
    assert app.codes == [1006]
