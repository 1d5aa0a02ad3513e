"""Who may do what: peers of the Unix socket, and names over TCP."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator

import pytest

from platformd.api import access
from platformd.api.access import is_loopback_name, may_write
from platformd.api.server import PeerCredentials
from tests.api.conftest import Start
from tests.api.wire import Client


@pytest.mark.parametrize(
    ("peer", "allowed"),
    [
        (PeerCredentials(1, 0, 0), True),
        (PeerCredentials(1, 1000, 5), True),
        (PeerCredentials(1, 2000, 100), True),
        (PeerCredentials(1, 2000, 5, frozenset({7, 100})), True),
        (PeerCredentials(1, 2000, 5, frozenset({7})), False),
    ],
)
def test_who_may_write(peer: PeerCredentials, allowed: bool) -> None:
    """Root, the daemon's user, and its group as the primary or a supplementary one."""
    assert may_write(peer, uid=1000, gid=100) is allowed


async def test_the_peer_is_who_connected(start: Start) -> None:
    """The kernel's word on the peer is in the scope of each request."""
    seen = []

    async def app(scope: object, _receive: object, send: object) -> None:
        seen.append(scope["state"]["peercred"])  # type: ignore[index]
        await send({"type": "http.response.start", "status": 204, "headers": []})  # type: ignore[operator]
        await send({"type": "http.response.body", "body": b""})  # type: ignore[operator]

    served = await start(app, listen="127.0.0.1:0")
    await (await served.client()).request("GET", "/")
    tcp = await Client.connect_tcp("127.0.0.1", int(served.addresses[1].rpartition(":")[2]))
    await tcp.request("GET", "/")
    await tcp.aclose()
    assert (seen[0].pid, seen[0].uid, seen[0].gid) == (os.getpid(), os.geteuid(), os.getegid())
    assert set(os.getgroups()) <= seen[0].groups | {os.getegid()}
    assert seen[1] is None


async def test_strangers_only_read(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """A peer that is neither the daemon's user nor in its group gets 403 on each write and reads on."""
    served = await start()
    client = await served.client()
    monkeypatch.setattr(access, "peer", lambda: PeerCredentials(1, 4711, 4711))
    for method, path in (
        ("POST", "/v1/services"),
        ("PUT", "/v1/services/s"),
        ("PATCH", "/v1/services/s"),
        ("DELETE", "/v1/services/s"),
        ("POST", "/v1/streams/s/messages?subject=s"),
        ("BREW", "/status"),
    ):
        answer = await client.request(method, path, {"name": "s", "spec": {}})
        assert (answer.status, answer.json["code"]) == (403, "forbidden"), (method, path)
        assert "4711" in answer.json["detail"]
    for method in ("GET", "HEAD", "OPTIONS"):
        assert (await client.request(method, "/v1/services")).status == 200


@pytest.fixture
async def tcp(start: Start) -> AsyncIterator[Client]:
    """A connection over TCP loopback."""
    served = await start(listen="127.0.0.1:0")
    client = await Client.connect_tcp("127.0.0.1", int(served.addresses[1].rpartition(":")[2]))
    yield client
    await client.aclose()


@pytest.mark.parametrize("host", ["localhost:7070", "127.0.0.1", "[::1]:80", "LOCALHOST"])
async def test_loopback_names_are_served(tcp: Client, host: str) -> None:
    """Over TCP this machine's names do everything."""
    answer = await tcp.request("POST", "/v1/services", {"name": "s", "spec": {}}, {"Host": host})
    assert answer.status == 201


@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1.evil.example:80", "localhost.evil.example", "10.0.0.1", ""]
)
async def test_rebound_names_are_refused(tcp: Client, host: str) -> None:
    """A name that was pointed at 127.0.0.1 is known by its Host, on reads too."""
    answer = await tcp.request("GET", "/status", headers={"Host": host})
    assert (answer.status, answer.json["code"]) == (403, "forbidden")


@pytest.mark.parametrize(
    ("origin", "status"),
    [
        ("http://localhost:7070", 201),
        ("http://localhost:8888", 403),
        ("http://evil.example", 403),
        ("https://localhost:7070", 403),
        ("null", 403),
    ],
)
async def test_pages_of_other_origins_are_refused(tcp: Client, origin: str, status: int) -> None:
    """Only a page of this very server may ask it."""
    headers = {"Host": "localhost:7070", "Origin": origin}
    answer = await tcp.request("POST", "/v1/services", {"name": "s", "spec": {}}, headers)
    assert answer.status == status


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        ("127.9.9.9:1", True),
        ("::1", True),
        ("[::1]", True),
        ("[::2]:80", False),
        ("localhost.:80", True),
        ("x:y:z", False),
    ],
)
def test_loopback_names(host: str, loopback: bool) -> None:
    """With and without ports, brackets and the root's dot."""
    assert is_loopback_name(host) is loopback
