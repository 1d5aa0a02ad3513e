"""Clients that do not behave: each is refused, held back or cut off, and the others are served."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio
import trio.testing

from platformd.api.door import connection as connection_module
from platformd.coordination.codec import MAGIC, VERSION, append_frame, frames
from platformd.coordination.codec.replies import HelloReply, ProblemReply
from platformd.coordination.sqlite import open_sqlite
from platformd.core.clock import SystemClock
from platformd.core.settings import StoreSettings
from tests.api.door.wire import PATIENCE, Slow, connect, door, watchers

PUT = frames.PUT


async def test_hello_names_the_bounds(tmp_path: Path) -> None:
    """The server's hello says what it takes."""
    async with door(tmp_path, max_frame="2MiB", max_in_flight=7, watch_credit="8KiB") as address:
        async with await connect(address) as raw:
            hello = await raw.hello()
            assert isinstance(hello, HelloReply)
            assert (hello.magic, hello.version) == (MAGIC, VERSION)
            assert (hello.max_frame, hello.max_in_flight, hello.max_credit) == (2 << 20, 7, 8192)


@pytest.mark.parametrize(
    ("first", "code"),
    [
        ((frames.HELLO, MAGIC, VERSION + 1, ""), "unsupported"),
        ((frames.HELLO, "somebody-else", VERSION, ""), "invalid_input"),
        ((frames.PING, 1), "invalid_input"),
        ((99, 1), "invalid_input"),
    ],
)
async def test_strangers_are_told_why(tmp_path: Path, first: tuple[object, ...], code: str) -> None:
    """Who does not say hello in this version gets a problem of the connection, and its end."""
    async with door(tmp_path) as address, await connect(address) as raw:
        await raw.send(first)
        problem = await raw.receive()
        assert isinstance(problem, ProblemReply)
        assert (problem.id, problem.problem["code"]) == (0, code)
        assert await raw.receive() is None


async def test_silent_client_is_cut_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection that says nothing, or half a hello, does not stay."""
    monkeypatch.setattr(connection_module, "HELLO_SECONDS", 0.05)
    async with door(tmp_path) as address:
        async with await connect(address) as silent, await connect(address) as half:
            await half.stream.send_all(b"\x00\x00\x00\x20\x93")
            assert await silent.receive() is None
            assert await half.receive() is None


@pytest.mark.parametrize(
    "junk", [b"GET / HTTP/1.1\r\n\r\n", b"\xff\xff\xff\xff", b"\x00\x00\x00\x02\xc1\xc1", b"\x00\x00\x00\x00"]
)
async def test_garbage_ends_its_own_connection_only(tmp_path: Path, junk: bytes) -> None:
    """Bytes that are no frames, a length beyond the limit, a message that is no array: the others notice nothing."""
    async with door(tmp_path) as address, await connect(address) as good, await connect(address) as bad:
        await good.hello()
        await bad.hello()
        await bad.stream.send_all(junk)
        problem = await bad.receive()
        assert isinstance(problem, ProblemReply)
        assert problem.id == 0
        assert problem.problem["code"] in ("invalid_input", "too_large")
        assert await bad.receive() is None
        assert await good.alive()


async def test_wrong_request_is_refused_alone(tmp_path: Path) -> None:
    """A request that can be told by its id is refused by its id; the connection and its neighbours go on."""
    async with door(tmp_path) as address, await connect(address) as raw:
        await raw.hello()
        await raw.send((frames.GET, 1, "text"), (frames.GET, 2, b"k"), (77, 3), (frames.GRANT, 4, "long"))
        replies = {}
        while len(replies) < 4:
            reply = await raw.receive()
            replies[reply.id] = reply
        assert [isinstance(replies[i], ProblemReply) for i in (1, 2, 3, 4)] == [True, False, True, True]
        assert "Expected `bytes`" in replies[1].problem["detail"]
        assert await raw.alive()


async def test_half_a_frame_waits_for_its_rest(tmp_path: Path) -> None:
    """A request in single bytes is answered like any other; one that never ends is dropped with its connection."""
    async with door(tmp_path) as address, await connect(address) as raw:
        await raw.hello()
        message = bytearray()
        append_frame(message, (frames.TXN, 1, (), ((PUT, b"k", b"v"),)))
        for byte in message:
            await raw.stream.send_all(bytes([byte]))
        assert (await raw.receive()).succeeded
        async with await connect(address) as other:
            await other.hello()
            await other.stream.send_all(message[:-1])
        assert await raw.alive()


async def test_large_frame_comes_in_many_pieces(tmp_path: Path) -> None:
    """A request as large as the limit is taken; a byte more is refused, and says by how much."""
    value = bytes(900_000)
    async with door(tmp_path, max_frame="1MiB") as address, await connect(address) as raw:
        await raw.hello()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(raw.send, (frames.TXN, 1, (), ((PUT, b"k", value),)))
            assert (await raw.receive()).succeeded
        await raw.stream.send_all(((1 << 20) + 1).to_bytes(4, "big"))
        problem = await raw.receive()
        assert problem.problem["code"] == "too_large"
        assert "max_frame is 1048576" in problem.problem["detail"]


async def test_too_many_connections_are_turned_away(tmp_path: Path) -> None:
    """Over the limit a connection is told so; when one ends, the next is served."""
    async with door(tmp_path, max_connections=1) as address:
        async with await connect(address) as first:
            await first.hello()
            async with await connect(address) as second:
                problem = await second.receive()
                assert (problem.id, problem.problem["code"]) == (0, "limit_reached")
            assert await first.alive()
        with trio.fail_after(PATIENCE):
            while True:
                async with await connect(address) as third:
                    if isinstance(await third.hello(), HelloReply):
                        break
                    await trio.sleep(0.005)


async def test_too_many_in_flight_are_not_read(tmp_path: Path) -> None:
    """Over ``max_in_flight`` nothing more is taken from the connection until something is answered; then all is."""
    async with open_sqlite(tmp_path / "store.db", StoreSettings(), SystemClock()) as embedded:
        slow = Slow(embedded)
        async with door(tmp_path, store=slow, max_in_flight=3) as address:
            async with await connect(address) as raw, await connect(address) as other:
                await raw.hello()
                await other.hello()
                await raw.send(*((frames.TXN, i, (), ((PUT, b"k%d" % i, b""),)) for i in range(1, 11)))
                await slow.wait_begun(3)
                assert await other.alive()
                assert slow.begun == 3
                slow.gate.set()
                assert sorted([(await raw.receive()).id for _ in range(10)]) == list(range(1, 11))


async def test_client_that_does_not_read_is_not_read_from(tmp_path: Path) -> None:
    """Answers that are not taken are bounded: the server stops reading instead, and goes on when they are taken."""
    size = 60_000
    async with open_sqlite(tmp_path / "store.db", StoreSettings(), SystemClock()) as embedded:
        counted = _Counted(embedded)
        counted.gate.set()
        async with door(tmp_path, store=counted) as address:
            async with await connect(address) as raw, await connect(address) as other:
                await raw.hello()
                await other.hello()
                await other.send((frames.TXN, 1, (), ((PUT, b"k", bytes(size)),)))
                await other.receive()
                asked = 500
                await raw.send(*((frames.GET, i, b"k") for i in range(1, asked + 1)))
                await trio.testing.wait_all_tasks_blocked(0.1)
                # What the kernel's buffer and the outbox hold, and what the crew had begun.
                assert 0 < counted.gets * size < (4 << 20)
                assert await other.alive()
                assert sorted([(await raw.receive()).id for _ in range(asked)]) == list(range(1, asked + 1))


class _Counted(Slow):
    gets = 0

    async def get(self, *arguments: object, **named: object) -> object:
        self.gets += 1
        return await self._store.get(*arguments, **named)  # type: ignore[arg-type]


async def test_client_that_leaves_takes_its_watches_along(tmp_path: Path) -> None:
    """A closed connection ends its watches in the store, however many they were."""
    async with open_sqlite(tmp_path / "store.db", StoreSettings(), SystemClock()) as embedded:
        async with door(tmp_path, store=embedded) as address:
            async with await connect(address) as raw:
                await raw.hello()
                await raw.send(*((frames.WATCH, i, b"k", None, 0, False, None, 1000) for i in range(1, 51)))
                for _ in range(50):
                    await raw.receive()
                assert (await embedded.status()).watchers == 50
            assert await watchers(embedded) == 0
