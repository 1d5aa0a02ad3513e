"""Answers in gzip."""

from __future__ import annotations

import gzip

import pytest

from tests.api.wire import Client


async def test_a_client_that_takes_gzip_gets_it(client: Client) -> None:
    """The same document in fewer bytes; caches are told that there are two forms."""
    plain = await client.request("GET", "/v1/kinds")
    packed = await client.request("GET", "/v1/kinds", headers={"Accept-Encoding": "br, gzip;q=0.5"})
    assert "content-encoding" not in plain.headers
    assert packed.headers["content-encoding"] == "gzip"
    assert gzip.decompress(packed.body) == plain.body
    assert len(packed.body) < len(plain.body) / 3
    assert int(packed.headers["content-length"]) == len(packed.body)
    assert plain.headers["vary"] == packed.headers["vary"] == "Accept-Encoding"


@pytest.mark.parametrize("given", ["identity", "gzip;q=0", "br", "gzip; q=0.0"])
async def test_nobody_else_gets_it(client: Client, given: str) -> None:
    """Who does not take gzip gets the document as it is."""
    answer = await client.request("GET", "/v1/kinds", headers={"Accept-Encoding": given})
    assert "content-encoding" not in answer.headers


async def test_small_answers_and_streams_are_not_compressed(client: Client) -> None:
    """Where it gains nothing, or would hold up what must leave at once."""
    small = await client.request("GET", "/v1/services", headers={"Accept-Encoding": "gzip"})
    assert "content-encoding" not in small.headers
    head = await client.begin("GET", "/v1/services?watch", headers={"Accept-Encoding": "gzip"})
    assert b"content-encoding" not in dict(head.headers)


async def test_large_answers_are_compressed_too(client: Client) -> None:
    """What is compressed in a thread is the same."""
    plain = await client.request("GET", "/v1/openapi.json")
    packed = await client.request("GET", "/v1/openapi.json", headers={"Accept-Encoding": "gzip"})
    assert gzip.decompress(packed.body) == plain.body
    assert packed.headers["etag"] == plain.headers["etag"]
