"""The quick way of plain reads gives the answers that Quart gives."""

from __future__ import annotations

import re
from typing import Any

import pytest
import trio

from platformd.api import hot
from tests.api.conftest import Served, Start
from tests.api.wire import Client

LONG = "x" * 3000
PATHS = [
    "/v1/services/a",
    "/v1/services/long",
    "/v1/services/none",
    "/v1/services/a..b",
    "/v1/services/A",
    "/v1/cats/a",
    "/v1/kv/a/b",
    "/v1/kv/none",
    "/v1/kv/%61/b",
    "/v1/kv/a/b/",
    "/v1/kv//resources/Service/default/a",
    "/v1/kv/leased",
    "/v1/kv/a/b?revision=0",
]
HEADERS = [
    b"",
    b"Accept: */*\r\nUser-Agent: curl/8\r\n",
    b"Accept: application/json\r\n",
    b'If-None-Match: "2"\r\n',
    b"Accept-Encoding: gzip\r\n",
    b"Accept-Encoding: identity\r\n",
    b"Authorization: Bearer nothing\r\n",
    b"Connection: close\r\n",
]


async def ask(served: Served, path: str, headers: bytes) -> bytes:
    """All bytes of the answer, but for the date."""
    client = await served.client()
    request = f"GET {path} HTTP/1.1\r\nHost: localhost\r\nX-Request-Id: same\r\n".encode() + headers
    if b"Connection" not in headers:
        request += b"Connection: close\r\n"
    await client.stream.send_all(request + b"\r\n")
    with trio.fail_after(30):
        return re.sub(rb"date: .*?\r\n", b"", await client.ended())


@pytest.fixture
async def filled(served: Served, client: Client) -> Served:
    await client.request("PUT", "/v1/services/a", {"spec": {}})
    await client.request("PUT", "/v1/services/long", {"spec": {"description": LONG}})
    await client.request("PUT", "/v1/kv/a/b", b"\x00value\xff")
    return served


@pytest.mark.parametrize("path", PATHS)
async def test_both_ways_answer_alike(filled: Served, path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is asked and however, every byte is the same with and without the quick way."""
    for headers in HEADERS:
        quick = await ask(filled, path, headers)
        with monkeypatch.context() as patched:
            patched.setattr(hot, "_plain", lambda *_: None)
            assert quick == await ask(filled, path, headers), headers


@pytest.mark.parametrize("path", ["/v1/services/a", "/v1/kv/a/b"])
async def test_both_ways_answer_alike_over_tcp(start: Start, path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Over a loopback address too, whatever the request calls the server and whichever page asks."""
    served = await start(listen="127.0.0.1:0")
    local = await served.client()
    await local.request("PUT", "/v1/services/a", {"spec": {}})
    await local.request("PUT", "/v1/kv/a/b", b"value")
    port = int(served.addresses[1].rpartition(":")[2])

    async def ask_tcp(headers: bytes) -> bytes:
        client = await Client.connect_tcp("127.0.0.1", port)
        head = f"GET {path} HTTP/1.1\r\nX-Request-Id: same\r\nConnection: close\r\n".encode()
        await client.stream.send_all(head + headers + b"\r\n")
        with trio.fail_after(30):
            received = await client.ended()
        await client.aclose()
        return re.sub(rb"date: .*?\r\n", b"", received)

    for headers in (
        b"Host: localhost\r\n",
        b"Host: 127.0.0.1:%d\r\n" % port,
        b"Host: rebound.example\r\n",
        b"Host: localhost.evil.example\r\n",
        b"Host: localhost\r\nOrigin: http://evil.example\r\n",
        b"Host: localhost\r\nAuthorization: Bearer nothing\r\n",
    ):
        quick = await ask_tcp(headers)
        with monkeypatch.context() as patched:
            patched.setattr(hot, "_plain", lambda *_: None)
            assert quick == await ask_tcp(headers), headers


@pytest.mark.parametrize("path", ["/v1/services/a", "/v1/kv/a/b"])
async def test_plain_reads_take_the_quick_way(
    filled: Served, client: Client, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is plain is answered before Quart is asked, gets an id of its own, and is counted like all others."""
    before = await client.request("GET", path)

    async def unused(*_: Any) -> Any:
        raise AssertionError("Quart was asked")

    monkeypatch.setattr("quart_trio.QuartTrio.handle_request", unused)
    again = await client.request("GET", path)
    assert (again.status, again.body) == (200, before.body)
    assert again.headers["x-request-id"] != before.headers["x-request-id"]
    monkeypatch.undo()
    text = (await client.request("GET", "/metrics")).body.decode()
    route = hot.KEY_ROUTE if "kv" in path else hot.RESOURCE_ROUTE
    assert f'platformd_http_requests_total{{method="GET",route="{route}",status="200"}} 2.0' in text
