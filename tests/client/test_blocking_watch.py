"""Watches of the blocking client: they go on after a lost connection, and end when that makes no sense."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import pytest

from platformd.client import blocking
from platformd.client.blocking import Client
from platformd.client.http import Target
from platformd.core.errors import Gone, NotFound, PlatformError, Unavailable

from .fake_api import FakeApi, ScriptedPeer, event, plain_answer, read_request, serving

HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A short path for a socket."""
    return tmp_path / "s"


def stream(name: str) -> dict[str, Any]:
    return {"kind": "Stream", "name": name, "tenant": "default", "labels": {}}


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def test_a_watch_goes_on_after_each_lost_connection(path: Path) -> None:
    """A truncated chunk, a clean end and a 503 are all survived without a gap or a repetition."""
    requests: list[bytes] = []
    waits: list[float] = []
    lost: list[PlatformError] = []

    def script(answer: bytes) -> Any:
        def play(connection: socket.socket) -> None:
            requests.append(read_request(connection).split(b" ")[1])
            connection.sendall(answer)

        return play

    first = event(0, "added", stream("a")) + event(5, "bookmark", {"revision": 5}) + event(5, "modified", stream("a"))
    starting = plain_answer(b'{"code":"unavailable","detail":"starting"}', status=b"503 x", kind=b"application/json")
    last = event(5, "modified", stream("a")) + event(6, "modified", stream("b")) + event(9, "added", stream("c"))
    scripts = [
        script(HEAD + chunk(first) + b"500\r\nid: 7"),
        script(HEAD + b"0\r\n\r\n"),
        script(starting),
        script(HEAD + chunk(b": \n\n") + chunk(last)),
    ]
    client = Client(Target(unix=str(path)), sleep=waits.append)
    with ScriptedPeer(path, *scripts):
        watch = client.watch(["streams"], on_lost=lambda error, _delay: lost.append(error))
        got = [
            (c.type, c.revision, c.document["name"] if c.document else None) for c in (next(watch) for _ in range(5))
        ]
        watch.close()
    assert got == [
        ("added", 0, "a"), ("bookmark", 5, None), ("modified", 5, "a"), ("modified", 6, "b"), ("added", 9, "c"),
    ]  # fmt: skip
    assert requests == [b"/v1/streams?watch", *[b"/v1/streams?watch&after=5"] * 3]
    assert waits == [0.1, 0.2, 0.4]
    assert ["starting" in e.message for e in lost] == [False, False, True]


def test_a_watch_that_never_stood_is_an_error(path: Path) -> None:
    """The first connection has to succeed; only a watch that stood is opened again."""
    with pytest.raises(Unavailable):
        next(Client(Target(unix=str(path))).watch(["streams"]))


def test_compacted_history_ends_the_watch(path: Path) -> None:
    """Gone is raised, whether the answer is 410 or the stream ends with it."""
    problem = Gone("compacted", details={"oldest": 9}).to_problem()
    with serving(FakeApi(watches=[event(0, "error", problem)]), path) as api:
        client = Client(Target(unix=str(path)))
        with pytest.raises(Gone):
            next(client.watch(["streams"], after=1))
        api.answers.append(lambda _: (410, {"content-type": "application/problem+json"}, b'{"code":"gone"}'))
        with pytest.raises(Gone):
            next(client.watch(["streams", "nodes"], after=1))


def test_a_refused_watch_is_not_tried_again(path: Path) -> None:
    """An answer that would be the same again is raised, also when the watch had stood."""
    with serving(FakeApi(watches=[event(2, "added", stream("a"))]), path) as api:
        watch = Client(Target(unix=str(path)), sleep=lambda _s: None).watch(["streams"], after=1)
        assert next(watch).revision == 2
        api.answers.append(lambda _: (404, {"content-type": "application/problem+json"}, b'{"code":"not_found"}'))
        with pytest.raises(NotFound):
            next(watch)


def test_silence_beyond_the_heartbeats_is_a_lost_connection(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection on which not even heartbeats come is replaced."""
    monkeypatch.setattr(blocking, "SILENCE_TIMEOUT", 0.05)

    def silent(connection: socket.socket) -> None:
        read_request(connection)
        connection.sendall(HEAD)
        connection.recv(1)

    def lively(connection: socket.socket) -> None:
        read_request(connection)
        connection.sendall(HEAD + chunk(event(2, "added", stream("a"))))

    client = Client(Target(unix=str(path)), sleep=lambda _s: None)
    with ScriptedPeer(path, silent, lively):
        watch = client.watch(["streams"], after=1)
        assert next(watch).revision == 2
        watch.close()


def test_a_server_that_ends_each_watch_at_once_is_not_hammered(path: Path) -> None:
    """Without any change in between, the waits between attempts grow to their limit."""
    waits: list[float] = []

    class Enough(Exception):
        pass

    def sleep(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) == 8:
            raise Enough

    with serving(FakeApi(), path), pytest.raises(Enough):
        next(Client(Target(unix=str(path)), sleep=sleep).watch(["streams"], after=1))
    assert waits == [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0]
