"""One connection: windows, bounds, deadlines, and every way to be cut off, with an HTTP/2 that is not ours."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import h2.events
import pytest
import trio
import trio.testing

from platformd.coordination.etcd import frames
from platformd.coordination.etcd.connection import Connection
from platformd.coordination.etcd.stream import STREAM_WINDOW, Lost, Oversize, Reply, TimedOut, framed
from tests.coordination.etcd.peer import BOUNDS, HEADERS, connected

FOREVER = float("inf")


class Call:
    """A call in a task of its own, and what came of it."""

    def __init__(self, connection: Connection, message: bytes = b"ask", deadline: float = FOREVER, keep: bool = False):
        self.result: Reply | Exception | None = None
        self.scope = trio.CancelScope()
        self._make: Callable[[], Awaitable[Reply]] = lambda: connection.call(HEADERS, message, deadline, keep=keep)

    async def run(self) -> None:
        with self.scope:
            try:
                self.result = await self._make()
            except (Lost, Oversize) as error:
                self.result = error


async def test_call_is_answered() -> None:
    """The request arrives with its headers and message, the answer with its message."""
    async with connected() as (connection, peer), trio.open_nursery() as nursery:
        call = Call(connection)
        nursery.start_soon(call.run)
        number, headers = await peer.request()
        assert headers == {
            ":method": "POST", ":scheme": "http", ":path": "/service/Method", ":authority": "etcd",
            "te": "trailers", "content-type": "application/grpc", "hasleader": "true",
        }  # fmt: skip
        assert bytes(peer.requests[number]) == framed(b"ask")
        await peer.answer(number, b"told")
    assert call.result == Reply(0, "", b"told")


async def test_refusal_comes_with_its_text() -> None:
    """A status other than 0, and the message that is percent-encoded on the way."""
    async with connected() as (connection, peer), trio.open_nursery() as nursery:
        call = Call(connection)
        nursery.start_soon(call.run)
        number, _ = await peer.request()
        await peer.answer(number, None, 14, "no leader: %C3%A9")
    assert call.result == Reply(14, "no leader: é")


async def test_answer_that_is_not_grpc_is_a_refusal() -> None:
    """A proxy's page is told as what it is."""
    async with connected() as (connection, peer), trio.open_nursery() as nursery:
        call = Call(connection)
        nursery.start_soon(call.run)
        number, _ = await peer.request()
        peer.state.send_headers(number, [(":status", "503")])
        await peer.send(number, b"<html>")
    assert call.result == Reply(14, "HTTP status 503, which is not gRPC's")


async def test_large_request_keeps_to_the_windows() -> None:
    """A request far larger than the peer's windows goes through in pieces, and small ones pass beside it."""
    async with connected(s4=1000) as (connection, peer), trio.open_nursery() as nursery:
        large = Call(connection, b"x" * 300_000)
        nursery.start_soon(large.run)
        event = await peer.next(h2.events.RequestReceived)
        await peer.next(h2.events.DataReceived)
        small = Call(connection)
        nursery.start_soon(small.run)
        await peer.answer((await peer.request())[0], b"small")
        while len(peer.requests[event.stream_id]) < 300_005:
            peer.state.increment_flow_control_window(20_000)
            peer.state.increment_flow_control_window(20_000, event.stream_id)
            await peer.flush()
            await peer.next(h2.events.DataReceived)
        await peer.next(h2.events.StreamEnded)
        await peer.answer(event.stream_id, b"large")
    assert bytes(peer.requests[event.stream_id]) == framed(b"x" * 300_000)
    assert (small.result, large.result) == (Reply(0, "", b"small"), Reply(0, "", b"large"))


async def test_peer_limits_the_number_of_exchanges() -> None:
    """Over the peer's limit of streams a call waits for another one to end."""
    async with connected(s3=1) as (connection, peer), trio.open_nursery() as nursery:
        calls = [Call(connection) for _ in range(3)]
        for call in calls:
            nursery.start_soon(call.run)
        for _ in calls:
            number, _ = await peer.request()
            await peer.no_request()
            await peer.answer(number, b"told")
    assert [call.result for call in calls] == [Reply(0, "", b"told")] * 3


async def test_messages_that_are_added_to_an_exchange_are_counted() -> None:
    """What is sent on an open exchange, before and after it has begun, in one go or many, counts until it has left."""
    async with connected() as (connection, peer):
        stream = connection.open(HEADERS, b"first")
        stream.send(b"second", b"third")
        assert connection._outgoing.unsent == len(b"firstsecondthird") + 15
        number = (await peer.next(h2.events.RequestReceived)).stream_id
        await peer.next(h2.events.DataReceived)
        for _ in range(2):
            stream.send(b"more")
        assert connection._outgoing.unsent == 2 * len(framed(b"more"))
        await peer.next(h2.events.DataReceived)
        assert connection._outgoing.unsent == 0
        expected = [b"first", b"second", b"third", b"more", b"more"]
        assert bytes(peer.requests[number]) == b"".join(map(framed, expected))
        connection.close(stream)
        stream.send(b"too late")
        assert connection._outgoing.unsent == 0


async def test_unread_stream_stays_within_its_window() -> None:
    """A stream that nobody reads holds no more than its window; a call beside it is answered; then all comes."""
    async with connected() as (connection, peer), trio.open_nursery() as nursery:
        stream = connection.open(HEADERS, b"watch")
        number = (await peer.next(h2.events.RequestReceived)).stream_id
        peer.state.send_headers(number, [(":status", "200"), ("content-type", "application/grpc")])
        messages = [framed(bytes([count]) * 10_000) for count in range(40)]
        waiting = b"".join(messages)
        sent = 0

        async def push() -> None:
            nonlocal sent
            while sent < len(waiting):
                allowed = min(peer.state.local_flow_control_window(number), 16_384, len(waiting) - sent)
                if allowed:
                    await peer.send(number, waiting[sent : sent + allowed])
                    sent += allowed
                else:
                    await peer.next(h2.events.WindowUpdated)

        with trio.move_on_after(0.05):
            await push()
        assert len(stream.received) == sent == STREAM_WINDOW
        call = Call(connection)
        nursery.start_soon(call.run)
        await peer.answer((await peer.request())[0], b"told")
        nursery.start_soon(push)
        assert [await stream.receive() for _ in messages] == [message[5:] for message in messages]
        connection.close(stream)
        assert (await peer.next(h2.events.StreamReset)).stream_id == number
    assert call.result == Reply(0, "", b"told")


async def test_too_large_answer_is_refused_at_its_head() -> None:
    """An answer over the limit is reset as soon as its length is known."""
    async with connected() as (connection, peer), trio.open_nursery() as nursery:
        call = Call(connection)
        nursery.start_soon(call.run)
        number, _ = await peer.request()
        peer.state.send_headers(number, [(":status", "200")])
        await peer.send(number, b"\x00" + (BOUNDS.max_message + 1).to_bytes(4, "big"))
        await peer.next(h2.events.StreamReset)
    assert isinstance(call.result, Oversize)
    assert call.result.size == BOUNDS.max_message + 1


async def test_calls_over_the_bound_wait() -> None:
    """No more than ``max_in_flight`` calls are on their way, however many ask."""
    async with connected(BOUNDS._replace(max_in_flight=2)) as (connection, peer), trio.open_nursery() as nursery:
        calls = [Call(connection) for _ in range(5)]
        for call in calls:
            nursery.start_soon(call.run)
        numbers = [(await peer.request())[0] for _ in range(2)]
        await peer.no_request()
        for _ in calls:
            await peer.answer(numbers.pop(0), b"told")
            with trio.move_on_after(0.02):
                numbers.append((await peer.request())[0])
    assert all(call.result == Reply(0, "", b"told") for call in calls)


async def test_cancelled_call_resets_only_itself() -> None:
    """The peer is told that nobody waits, and the call beside it goes on."""
    async with connected() as (connection, peer), trio.open_nursery() as nursery:
        one, other = Call(connection), Call(connection)
        nursery.start_soon(one.run)
        first, _ = await peer.request()
        nursery.start_soon(other.run)
        second, _ = await peer.request()
        one.scope.cancel()
        assert (await peer.next(h2.events.StreamReset)).stream_id == first
        await peer.answer(second, b"told")
    assert one.result is None
    assert other.result == Reply(0, "", b"told")


async def test_kept_call_is_waited_for_in_spite_of_a_cancellation() -> None:
    """Once it was sent, a call that is to be kept gives its answer; before, it is withdrawn."""
    async with connected(s3=1) as (connection, peer), trio.open_nursery() as nursery:
        sent, waiting = Call(connection, keep=True), Call(connection, keep=True)
        nursery.start_soon(sent.run)
        number, _ = await peer.request()
        nursery.start_soon(waiting.run)
        await trio.testing.wait_all_tasks_blocked()
        sent.scope.cancel()
        waiting.scope.cancel()
        await trio.testing.wait_all_tasks_blocked()
        assert waiting.scope.cancelled_caught
        await peer.answer(number, b"told")
        await peer.no_request()
    assert sent.result == Reply(0, "", b"told")


async def test_deadline_ends_a_call(autojump_clock: trio.testing.MockClock) -> None:
    """A call that is not answered in time is reset and says that it was sent, one that had to wait that it was not."""
    async with connected(s3=1) as (connection, peer), trio.open_nursery() as nursery:
        start = trio.current_time()
        first, second = Call(connection, deadline=start + 2, keep=True), Call(connection, deadline=start + 1)
        nursery.start_soon(first.run)
        await peer.request()
        nursery.start_soon(second.run)
        nursery.start_soon(peer.next, h2.events.StreamReset)
    assert trio.current_time() - start == pytest.approx(2)
    assert isinstance(first.result, TimedOut)
    assert isinstance(second.result, TimedOut)
    assert (first.result.sent, second.result.sent) == (True, False)


async def test_silent_member_is_given_up(autojump_clock: trio.testing.MockClock) -> None:
    """A member that answers neither the call nor a ping is lost after both waits, long before the deadline."""
    async with connected() as (connection, peer), trio.open_nursery() as nursery:
        call = Call(connection)
        nursery.start_soon(call.run)
        start = trio.current_time()
        await peer.request()
        while (received := await peer.stream.receive_some(65536)) != b"":
            assert frames.frame(frames.PING, 0, 0, b"platform") == received
    assert isinstance(call.result, Lost)
    assert "no sign of life" in call.result.reason
    assert trio.current_time() - start <= BOUNDS.keepalive_interval + BOUNDS.keepalive_timeout + 1


async def test_member_that_answers_pings_is_kept(autojump_clock: trio.testing.MockClock) -> None:
    """An idle stream lasts as long as the member answers, and is not asked more often than the interval."""
    async with connected() as (connection, peer):
        connection.open(HEADERS, b"watch")
        pings = 0
        with trio.move_on_after(60):
            while True:
                await peer.next(h2.events.PingReceived)
                pings += 1
        assert 11 <= pings <= 12
        assert connection.usable


async def test_member_that_goes_away_finishes_what_it_took() -> None:
    """After GOAWAY what the member took is still answered; what it did not take was certainly not done."""
    async with connected() as (connection, peer), trio.open_nursery() as nursery:
        taken, refused = Call(connection), Call(connection)
        nursery.start_soon(taken.run)
        first, _ = await peer.request()
        nursery.start_soon(refused.run)
        await peer.request()
        await peer.stream.send_all(frames.frame(frames.GOAWAY, 0, 0, first.to_bytes(4, "big") + bytes(4)))
        await trio.testing.wait_all_tasks_blocked()
        assert isinstance(refused.result, Lost)
        assert not refused.result.sent
        assert not connection.usable
        with pytest.raises(Lost):
            connection.open(HEADERS, b"new")
        await peer.answer(first, b"told")
    assert taken.result == Reply(0, "", b"told")


@pytest.mark.parametrize(("code", "sent"), [(frames.REFUSED_STREAM, False), (frames.CANCEL, True), (2, True)])
async def test_reset_says_whether_it_was_taken(code: int, sent: bool) -> None:
    """Only REFUSED_STREAM means that nothing was done."""
    async with connected() as (connection, peer), trio.open_nursery() as nursery:
        call = Call(connection)
        nursery.start_soon(call.run)
        number, _ = await peer.request()
        peer.state.reset_stream(number, code)
        await peer.flush()
    assert isinstance(call.result, Lost)
    assert call.result.sent is sent


async def test_closed_connection_tells_everyone() -> None:
    """Whoever waits, and whoever comes later, is told."""
    async with connected(s3=1) as (connection, peer), trio.open_nursery() as nursery:
        sent, waiting = Call(connection), Call(connection)
        nursery.start_soon(sent.run)
        await peer.request()
        nursery.start_soon(waiting.run)
        await trio.testing.wait_all_tasks_blocked()
        await peer.stream.aclose()
        await trio.testing.wait_all_tasks_blocked()
        assert isinstance(sent.result, Lost)
        assert isinstance(waiting.result, Lost)
        assert (sent.result.sent, waiting.result.sent) == (True, False)
        with pytest.raises(Lost, match="closed the connection"):
            await connection.call(HEADERS, b"", FOREVER, keep=False)


@pytest.mark.parametrize(
    "bad",
    [
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        frames.frame(frames.DATA, 0, 1, b"x" * 16_385),
        frames.frame(frames.CONTINUATION, 0, 1, b""),
        frames.frame(frames.PUSH_PROMISE, 0, 1, b"\x00\x00\x00\x02"),
        frames.frame(frames.SETTINGS, 0, 0, b"\x00\x04\xff\xff\xff\xff"),
        frames.frame(frames.WINDOW_UPDATE, 0, 0, b"\x00"),
        frames.frame(frames.GOAWAY, 0, 0, b"\x00"),
        frames.frame(frames.HEADERS, frames.END_HEADERS, 1, b"\xff\xff\xff"),
        frames.frame(frames.HEADERS, frames.PADDED, 1, b"\x09"),
    ],
)
async def test_peer_that_breaks_the_rules_is_cut_off(bad: bytes) -> None:
    """Nonsense ends the connection with a reason, and whoever waits is told."""
    async with connected() as (connection, peer), trio.open_nursery() as nursery:
        call = Call(connection)
        nursery.start_soon(call.run)
        await peer.request()
        await peer.stream.send_all(bad)
    assert isinstance(call.result, Lost)
    assert "HTTP/2" in call.result.reason


async def test_headers_may_come_in_pieces() -> None:
    """A block of headers that goes on in further frames is read as one."""
    async with connected() as (connection, peer), trio.open_nursery() as nursery:
        call = Call(connection)
        nursery.start_soon(call.run)
        number, _ = await peer.request()
        block = b"\x88" + b"\x00\x0bgrpc-status\x011"  # :status 200, and a literal
        pieces = [
            frames.frame(frames.HEADERS, frames.END_STREAM, number, block[:3]),
            frames.frame(frames.CONTINUATION, 0, number, block[3:7]),
            frames.frame(frames.CONTINUATION, frames.END_HEADERS, number, block[7:]),
        ]
        for byte in b"".join(pieces):
            await peer.stream.send_all(bytes([byte]))
    assert call.result == Reply(1, "")
