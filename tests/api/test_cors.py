"""Pages of other origins."""

from __future__ import annotations

import pytest

from platformd.api.cors import read_origins
from platformd.core.errors import InvalidInput
from tests.api.conftest import Served, Start
from tests.api.wire import Answer, Client

PANEL = "https://panel.example.org"


async def over_tcp(served: Served) -> Client:
    host, _, port = served.addresses[1].removeprefix("http://").rpartition(":")
    served.clients.append(await Client.connect_tcp(host, int(port)))
    return served.clients[-1]


async def preflight(client: Client, origin: str) -> Answer:
    headers = {"Origin": origin, "Access-Control-Request-Method": "PUT"}
    return await client.request("OPTIONS", "/v1/services/a", headers=headers)


async def test_nobody_elses_page_may_ask_by_default(start: Start) -> None:
    """Without a setting a foreign page is refused, and no answer lets it read anything."""
    client = await over_tcp(await start(listen="127.0.0.1:0"))
    for answer in (
        await preflight(client, PANEL),
        await client.request("GET", "/status", headers={"Origin": PANEL}),
        await client.request("GET", "/status"),
    ):
        assert not [name for name in answer.headers if name.startswith("access-control-")]
        assert answer.status == 200 or answer.json["code"] == "forbidden"


async def test_a_page_that_may_ask_is_told_what_it_may(start: Start) -> None:
    """The preflight allows it, each answer may be read, and caches know that it depends on the origin."""
    client = await over_tcp(await start(listen="127.0.0.1:0", cors_origins=(PANEL,)))
    asked = await preflight(client, PANEL)
    assert asked.status == 204
    assert "PUT" in asked.headers["access-control-allow-methods"]
    assert "Idempotency-Key" in asked.headers["access-control-allow-headers"]
    for path, status in (("/status", 200), ("/v1/services/none", 404)):
        answer = await client.request("GET", path, headers={"Origin": PANEL})
        assert answer.status == status
        assert answer.headers["access-control-allow-origin"] == PANEL
        assert "access-control-allow-credentials" not in answer.headers
        assert "Origin" in answer.headers["vary"]


async def test_other_pages_are_refused_all_the_same(start: Start) -> None:
    """An origin that is not in the list, or only begins like one, may not ask."""
    client = await over_tcp(await start(listen="127.0.0.1:0", cors_origins=(PANEL,)))
    for origin in ("https://example.org", f"{PANEL}.evil.example", "null"):
        assert "access-control-allow-origin" not in (await preflight(client, origin)).headers
        answer = await client.request("GET", "/status", headers={"Origin": origin})
        assert (answer.status, answer.json["code"]) == (403, "forbidden")


@pytest.mark.parametrize("wrong", ["panel.example.org", "*", "https://a/b", "https://*.example.org", ""])
def test_what_is_no_origin_is_refused_at_the_start(wrong: str) -> None:
    """A setting that would never match is an error."""
    with pytest.raises(InvalidInput):
        read_origins([wrong])
