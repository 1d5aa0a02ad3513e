"""Who may do what: peers of the Unix socket, and names over TCP."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator

import pytest

from platformd.api import access
from platformd.api.access import is_loopback_name
from platformd.core.peers import PeerCredentials
from tests.api.conftest import Start
from tests.api.wire import Client


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
    """Over TCP this machine's names are served."""
    assert (await tcp.request("GET", "/v1/services", headers={"Host": host})).status == 200


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
        ("http://localhost:7070", 200),
        ("http://localhost:8888", 403),
        ("http://evil.example", 403),
        ("https://localhost:7070", 403),
        ("null", 403),
    ],
)
async def test_pages_of_other_origins_are_refused(tcp: Client, origin: str, status: int) -> None:
    """Only a page of this very server may ask it."""
    headers = {"Host": "localhost:7070", "Origin": origin}
    assert (await tcp.request("GET", "/v1/services", headers=headers)).status == status


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
