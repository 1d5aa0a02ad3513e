"""The asyncio client, against servers that cut, drop and refuse."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from platformd.client.aio import Client
from platformd.client.http import Target
from platformd.client.watching import Change, WatchState
from platformd.core.errors import (
    DeadlineExceeded,
    Forbidden,
    Gone,
    NotFound,
    OutcomeUnknown,
    PlatformError,
    Unavailable,
)

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
EVENTS = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A socket path."""
    return tmp_path / "d.sock"


@asynccontextmanager
async def serving(path: Path, handler: Handler) -> AsyncIterator[Client]:
    """A client of a server that runs ``handler`` on each connection and then closes it."""
    running: set[asyncio.Task[None]] = set()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        running.add(task)
        try:
            await handler(reader, writer)
        except (asyncio.CancelledError, asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            running.discard(task)
            writer.close()

    server = await asyncio.start_unix_server(connected, path)
    try:
        async with Client(Target(unix=str(path)), timeout=5) as client:
            yield client
    finally:
        server.close()
        left = list(running)
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)


async def request(reader: asyncio.StreamReader) -> str:
    """The target of the next request."""
    head = await reader.readuntil(b"\r\n\r\n")
    return head.split(b" ", 2)[1].decode()


def answer(status: int, body: Any, media_type: str = "application/json") -> bytes:
    """A whole response."""
    text = json.dumps(body).encode()
    return f"HTTP/1.1 {status} X\r\ncontent-type: {media_type}\r\ncontent-length: {len(text)}\r\n\r\n".encode() + text


def chunk(data: bytes) -> bytes:
    """``data`` as one chunk."""
    return b"%x\r\n%b\r\n" % (len(data), data)


def event(name: str, revision: int, /, **document: Any) -> bytes:
    """A server-sent event."""
    return f"id: {revision}\nevent: {name}\ndata: {json.dumps(document)}\n\n".encode()


def stream(name: str, revision: int, safe: int | None = None) -> bytes:
    """An ``added`` event of a stream; ``safe`` is the revision to go on after, when that is an earlier one."""
    document = {"kind": "Stream", "name": name, "tenant": "default", "revision": revision, "spec": {}, "status": {}}
    return event("added", revision if safe is None else safe, **document)


def told(changes: list[Change]) -> list[tuple[str, int, str | None]]:
    """What was delivered, short."""
    return [(c.type, c.revision, c.document["name"] if c.document else None) for c in changes]


async def follow(client: Client, state: WatchState, into: list[Change], last: int = -1) -> None:
    """Gather the changes of one connection, up to revision ``last``."""
    async with client.watch(state) as watch:
        async for batch in watch:
            into += batch
            if into[-1].revision == last:
                return


def test_requests_share_a_connection(path: Path) -> None:
    """Requests after each other travel on one connection."""
    connections = 0

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        while True:
            writer.write(answer(200, {"path": await request(reader)}))

    async def main() -> None:
        async with serving(path, handler) as client:
            assert await client.status() == {"path": "/status"}
            assert (await client.request("GET", "/v1/streams")).json() == {"path": "/v1/streams"}

    asyncio.run(main())
    assert connections == 1


def test_a_stale_connection_is_replaced(path: Path) -> None:
    """A kept connection that the server closed meanwhile costs a GET nothing, and a POST is not repeated on it."""
    seen: list[str] = []

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.append(await request(reader))
        writer.write(answer(200, {}))
        seen.append(await request(reader))  # and closes without an answer

    async def main() -> None:
        async with serving(path, handler) as client:
            for _ in range(3):
                await client.status()
            with pytest.raises(OutcomeUnknown):
                await client.request("POST", "/v1/streams", json={"name": "a"})

    asyncio.run(main())
    assert seen == ["/status"] * 5 + ["/v1/streams"]


def test_problems_are_raised(path: Path) -> None:
    """A problem document becomes the error that it names."""

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await request(reader)
        problem = {"code": "not_found", "detail": "there is no such stream", "subject": "stream/a"}
        writer.write(answer(404, problem, "application/problem+json"))

    async def main() -> None:
        async with serving(path, handler) as client:
            with pytest.raises(NotFound, match="no such stream") as caught:
                await client.request("GET", "/v1/streams/a")
            assert caught.value.subject == "stream/a"

    asyncio.run(main())


def test_nobody_there(path: Path) -> None:
    """A missing socket and one that nobody serves say what to do."""

    async def main(words: str) -> None:
        async with Client(Target(unix=str(path))) as client:
            with pytest.raises(Unavailable, match=words) as caught:
                await client.status()
            assert caught.value.hint is not None
            assert "platformd run" in caught.value.hint

    asyncio.run(main("no such socket"))
    path.touch()
    asyncio.run(main("nobody answers"))


def test_a_forbidden_socket_is_told_apart(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A socket that this user may not open is ``Forbidden``, not a missing daemon."""

    async def refuse(_path: str) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(asyncio, "open_unix_connection", refuse)

    async def main() -> None:
        with pytest.raises(Forbidden, match="may not open"):
            await Client(Target(unix=str(path))).status()

    asyncio.run(main())


def test_a_silent_server_has_a_deadline(path: Path) -> None:
    """A request and a watch that get no answer end at the deadline."""

    async def handler(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
        await reader.read()

    async def main() -> None:
        async with serving(path, handler):
            client = Client(Target(unix=str(path)), timeout=0.01)
            with pytest.raises(DeadlineExceeded):
                await client.status()
            with pytest.raises(DeadlineExceeded):
                await follow(client, WatchState(["streams"]), [])

    asyncio.run(main())


@pytest.mark.parametrize("size", [1, 2, 3, 7, 64])
def test_a_watch_may_be_cut_anywhere(path: Path, size: int) -> None:
    """Events arrive whole however the bytes, the chunks and the lines are cut."""
    body = (
        stream("a", 3, safe=0)
        + b": heartbeat\n\n"
        + stream("bé", 4, safe=0)
        + event("bookmark", 4, revision=4)
        + stream("c", 5)
    )
    pieces = [body[i : i + size] for i in range(0, len(body), size)]

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await request(reader)
        wire = EVENTS.encode() + b"".join(chunk(piece) for piece in pieces)
        for i in range(0, len(wire), size):
            writer.write(wire[i : i + size])
            await writer.drain()
        await reader.read()

    async def main() -> list[Change]:
        changes: list[Change] = []
        async with serving(path, handler) as client:
            await follow(client, WatchState(["streams", "nodes"]), changes, last=5)
        return changes

    assert told(asyncio.run(main())) == [
        ("added", 0, "a"), ("added", 0, "bé"), ("bookmark", 4, None), ("added", 5, "c"),
    ]  # fmt: skip


def test_a_lost_watch_goes_on_where_it_was(path: Path) -> None:
    """A connection dropped in the middle of an event is an error; the next one asks for what is missing, and
    what was already delivered of that revision is not delivered again."""
    asked: list[str] = []

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append(await request(reader))
        writer.write(EVENTS.encode())
        if len(asked) == 1:
            writer.write(chunk(stream("a", 3, safe=0) + event("bookmark", 4, revision=4) + stream("b", 6, safe=4)))
            writer.write(chunk(stream("c", 6)[:-7]))
            await writer.drain()
        else:
            writer.write(chunk(stream("b", 6, safe=4) + stream("c", 6) + stream("d", 7)))
            await reader.read()

    async def main() -> tuple[list[Change], list[Change]]:
        state, first, second = WatchState(["streams", "nodes"]), [], []
        async with serving(path, handler) as client:
            with pytest.raises(Unavailable):
                await follow(client, state, first)
            await follow(client, state, second, last=7)
        return first, second

    first, second = asyncio.run(main())
    assert told(first) == [("added", 0, "a"), ("bookmark", 4, None), ("added", 4, "b")]
    assert told(second) == [("added", 6, "c"), ("added", 7, "d")]
    assert asked == ["/v1/watch?kinds=streams,nodes", "/v1/watch?kinds=streams,nodes&after=4"]


def test_the_server_may_end_a_watch(path: Path) -> None:
    """An error event, a problem instead of a watch, an orderly end and a wrong type are told apart."""
    gone = event("error", 0, code="gone", status=410, detail="compacted")
    answers = [
        EVENTS.encode() + chunk(stream("a", 1) + gone),
        answer(429, {"code": "limit_reached", "detail": "256 watches are open"}, "application/problem+json"),
        EVENTS.encode() + chunk(stream("a", 1)) + chunk(b""),
        answer(200, {}),
    ]

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await request(reader)
        writer.write(answers.pop(0))

    async def main() -> None:
        async with serving(path, handler) as client:
            for error, words in (
                (Gone, "compacted"),
                (PlatformError, "256 watches"),
                (Unavailable, "ended the watch"),
                (PlatformError, "a watch was asked for"),
            ):
                with pytest.raises(error, match=words):
                    await follow(client, WatchState(["streams"]), [])

    asyncio.run(main())
    assert not answers


def test_a_cancelled_request_leaves_no_half_answer(path: Path) -> None:
    """After a request was cancelled in the middle of its answer, the next has a connection of its own."""
    served = 0

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal served
        served += 1
        await request(reader)
        if served == 1:
            writer.write(answer(200, {"half": True})[:-3])
            halfway.set()
            await reader.read()
        writer.write(answer(200, {"whole": True}))

    async def main() -> None:
        async with serving(path, handler) as client:
            task = asyncio.create_task(client.status())
            await halfway.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert await client.status() == {"whole": True}

    halfway = asyncio.Event()
    asyncio.run(main())
