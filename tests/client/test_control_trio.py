"""The control client for trio, against a small daemon and against peers that misbehave."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio
import trustme

import platformd.client
from platformd.client.control_trio import Client
from platformd.client.retrying import Retry
from platformd.client.target import Credentials, Target
from platformd.core.errors import (
    DeadlineExceeded,
    Gone,
    InvalidInput,
    NotFound,
    OutcomeUnknown,
    PreconditionFailed,
    Unavailable,
)

from .fake_api import FakeApi, ScriptedPeer, event, plain_answer, read_request, serving, serving_tls

STREAM = {"kind": "Stream", "name": "a", "uid": "u", "spec": {"subjects": ["a"]}, "status": {"state": "active"}}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the daemon's socket is."""
    return tmp_path / "s"


@pytest.fixture
def api(path: Path) -> Iterator[FakeApi]:
    """A daemon."""
    with serving(FakeApi(), path) as api:
        yield api


def client_of(path: Path, **options) -> Client:
    return Client(Target(unix=str(path)), **options)


async def test_a_resource_from_its_making_to_its_end(api: FakeApi, path: Path) -> None:
    """Typed both ways, with the daemon's own errors; the reason goes along with what changes something."""
    async with client_of(path, reason="because") as client:
        made = await client.create("stream", {"name": "a", "spec": {"subjects": ["a"]}})
        assert made.spec.subjects == ("a",)
        assert api.seen[-1].headers["platformd-reason"] == "because"
        applied = await client.apply("stream", {"name": "a", "spec": {"subjects": ["a", "b"]}})
        assert applied.outcome == "configured"
        assert (await client.get("stream", "a")).spec.subjects == ("a", "b")
        assert "platformd-reason" not in api.seen[-1].headers
        assert (await client.patch("stream", "a", {"spec": {"max_age": "1d"}})).spec.max_age == "1d"
        assert [one.name for one in (await client.list("streams")).items] == ["a"]
        assert await client.delete("stream", "a")
        with pytest.raises(NotFound):
            await client.get("stream", "a")
        assert await client.status() == {}


async def test_tasks_share_connections(api: FakeApi, path: Path) -> None:
    """Each request has one of its own, a bounded number is kept, and one that went stale is replaced."""
    for name in "abcdef":
        api.put("streams", name, spec={"subjects": [name]})
    async with client_of(path, max_idle=2) as client:
        async with trio.open_nursery() as nursery:
            for name in "abcdef":
                nursery.start_soon(client.get, "stream", name)
        assert len(client._idle) <= 2
        await client.get("stream", "a")
        assert len(api.seen) == 7


async def test_a_connection_that_the_daemon_has_closed_is_replaced(path: Path) -> None:
    """What may be repeated is asked again on a new one; a change whose answer is lost is said to be unknown."""

    def once(connection: socket.socket) -> None:
        read_request(connection)
        connection.sendall(plain_answer(b"{}"))

    def lose(connection: socket.socket) -> None:
        read_request(connection)

    with ScriptedPeer(path, once, once, lose):
        async with client_of(path) as client:
            await client.status()
            await client.status()
            await client.aclose()
            with pytest.raises(OutcomeUnknown):
                await client.delete("stream", "a")


async def test_a_restart_is_sat_out(path: Path) -> None:
    """With patience, a daemon that is away for a moment is no error."""
    async with client_of(path, retry=Retry(within=30.0)) as client, trio.open_nursery() as nursery:
        answers: list[dict[str, object]] = []
        answered = trio.Event()

        async def ask() -> None:
            answers.append(await client.status())
            answered.set()

        nursery.start_soon(ask)
        await trio.sleep(0.01)
        with serving(FakeApi(status={"version": "2"}), path):
            await answered.wait()
    assert answers == [{"version": "2"}]
    async with client_of(path.with_name("nobody")) as client:
        with pytest.raises(Unavailable):
            await client.status()


async def test_a_silent_daemon_has_a_deadline(path: Path) -> None:
    """An answer that does not come is an error, and its connection is not used again."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        async with client_of(path, timeout=0.05) as client:
            with pytest.raises(DeadlineExceeded):
                await client.status()
            assert not client._idle


async def test_a_watch_goes_on_over_lost_connections(api: FakeApi, path: Path) -> None:
    """Without a gap and without repetition, from where it stood."""
    listing = event(0, "added", STREAM) + event(5, "bookmark", {"revision": 5})
    api.watches = [listing, event(7, "modified", STREAM | {"revision": 7})]
    seen = []
    async with client_of(path) as client, client.watch(["streams"]) as changes:
        async for change in changes:
            seen.append((change.type, change.revision))
            if len(seen) == 3:
                break
    assert seen == [("added", 0), ("bookmark", 5), ("modified", 7)]
    assert api.seen[1].query["after"] == "5"


async def test_what_ends_a_watch_is_raised(api: FakeApi, path: Path) -> None:
    """History that is gone, a refusal, and a daemon that was never there."""
    api.watches = [event(5, "bookmark", {"revision": 5}) + event(0, "error", Gone("compacted").to_problem())]
    async with client_of(path) as client:
        async with client.watch(["streams"]) as changes:
            assert (await anext(changes)).type == "bookmark"
            with pytest.raises(Gone):
                await anext(changes)
        problem = PreconditionFailed("no").to_problem()
        api.answers.append(lambda _: (412, {"content-type": "application/problem+json"}, str_json(problem)))
        async with client.watch(["streams"]) as changes:
            with pytest.raises(PreconditionFailed):
                await anext(changes)
    async with client_of(path.with_name("nobody")) as client, client.watch(["streams"]) as changes:
        with pytest.raises(Unavailable):
            await anext(changes)


def str_json(document: object) -> bytes:
    """``document`` as JSON."""
    import json

    return json.dumps(document).encode()


async def test_behind_tls_with_a_token(tmp_path: Path) -> None:
    """Its authority is checked, and the token is sent; without it, the daemon is not trusted."""
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(context)
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    with serving_tls(FakeApi(), context) as (api, port):
        own = Credentials(token="pd_x", ca_file=str(tmp_path / "ca.pem"))
        async with Client(Target(host="localhost", port=port, tls=True, credentials=own)) as client:
            assert await client.status() == {}
            assert await client.status() == {}
        assert api.seen[-1].headers["authorization"] == "Bearer pd_x"
        assert len({seen.peer for seen in api.seen}) == 1
        async with Client(Target(host="localhost", port=port, tls=True)) as client:
            with pytest.raises(InvalidInput, match="certificate"):
                await client.status()


def test_two_lines_are_enough(api: FakeApi, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment says where the daemon is, or a URL does."""
    monkeypatch.setenv("PLATFORMD_SOCKET", str(path))
    with platformd.client.connect() as daemon:
        assert daemon.status() == {}
    with platformd.client.connect(f"unix://{path}", patience=0) as daemon:
        assert daemon.status() == {}

    async def ask() -> None:
        async with platformd.client.connect_trio() as daemon:
            assert await daemon.status() == {}

    trio.run(ask)
