"""Tokens over HTTP: on both sockets, created once, refused by name, and never shown."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator

import pytest
import trio

from platformd.core.peers import PeerCredentials
from tests.api.conftest import Served, Start
from tests.api.peer import Peer, Refused
from tests.api.wire import Client


def bearer(secret: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {secret}"}


@pytest.fixture
async def served(start: Start) -> Served:
    """A server on both sockets."""
    found: Served = await start(listen="127.0.0.1:0")
    return found


@pytest.fixture
async def tcp(served: Served) -> AsyncIterator[Client]:
    """A connection over TCP."""
    client = await _tcp(served)
    yield client
    await client.aclose()


async def _tcp(served: Served) -> Client:
    return await Client.connect_tcp("127.0.0.1", int(served.addresses[1].rpartition(":")[2]))


async def made(client: Client, name: str, role: str, **more: str) -> str:
    answer = await client.request("POST", "/v1/tokens", {"name": name, "role": role} | more)
    assert answer.status == 201, answer.body
    assert answer.headers["cache-control"] == "no-store"
    secret: str = answer.json["token"]
    return secret


async def test_loopback_reads_and_a_token_writes(client: Client, tcp: Client) -> None:
    """Over TCP whoever shows nothing may look and is asked for a token to write; with one of the role it is done."""
    body = {"name": "s", "spec": {}}
    assert (await tcp.request("GET", "/v1/services")).status == 200
    refused = await tcp.request("POST", "/v1/services", body)
    assert (refused.status, refused.json["code"], refused.json["roles"]) == (401, "unauthorized", ["admin", "operator"])
    assert refused.headers["www-authenticate"].startswith("Bearer")
    assert (
        await tcp.request("POST", "/v1/services", body, bearer(await made(client, "ops", "operator")))
    ).status == 201
    look = await tcp.request("PUT", "/v1/services/s", body, bearer(await made(client, "look", "reader")))
    assert (look.status, "token:look is reader" in look.json["detail"]) == (403, True)


async def test_a_token_counts_more_than_the_peer(client: Client) -> None:
    """On the Unix socket too whoever shows a token is who it says; a wrong one is not let pass for the peer's sake."""
    secret = await made(client, "guest", "reader", tenant="survey")
    who = (await client.request("GET", "/v1/access/whoami", headers=bearer(secret))).json
    assert who == {"name": "token:guest", "role": "reader", "tenant": "survey", "how": "token"}
    assert (await client.request("GET", "/v1/services", headers=bearer(secret))).status == 403
    assert (await client.request("GET", "/v1/tenants/survey/services", headers=bearer(secret))).status == 200
    for wrong in (bearer(secret[:-1]), bearer("x"), {"Authorization": "Basic YTpi"}):
        assert (await client.request("GET", "/status", headers=wrong)).status == 401, wrong
    assert (await client.request("GET", "/v1/access/whoami")).json["role"] == "admin"


async def test_history_says_who_acted(client: Client, served: Served) -> None:
    """A change is the token's that made it."""
    secret = await made(client, "ops", "operator")
    answer = await client.request("POST", "/v1/services", {"name": "s", "spec": {}}, bearer(secret))
    assert answer.status == 201
    assert served.context.gate.tokens.all()[0].created_by.startswith("user:")


async def test_revoked_tokens_are_refused_by_name_and_their_watches_end(client: Client, served: Served) -> None:
    """DELETE ends the token for the next request, and what it is watching over SSE and WebSocket."""
    secret = await made(client, "ops", "operator")
    sse = (await served.client()).events("/v1/watch", bearer(secret))
    await anext(sse)
    socket = await Peer.open((await served.client()).stream, "/v1/watch", bearer(secret))
    assert (await socket.json())["event"] == "bookmark"
    assert (await client.request("DELETE", "/v1/tokens/ops")).json["state"] == "revoked"
    with trio.fail_after(30):
        async for _ in sse:
            pass
        assert (await socket.closed()).code == 1001
    answer = await client.request("GET", "/status", headers=bearer(secret))
    assert (answer.status, "token ops was revoked at" in answer.json["detail"]) == (401, True)
    with pytest.raises(Refused):
        await Peer.open((await served.client()).stream, "/v1/watch", bearer(secret))
    assert (await client.request("DELETE", "/v1/tokens/none")).status == 404


async def test_wrong_tokens_are_told_when_to_come_again(tcp: Client) -> None:
    """After ten in a minute: 429 with a Retry-After that is the truth."""
    statuses = [(await tcp.request("GET", "/status", headers=bearer("x"))).status for _ in range(10)]
    assert set(statuses) == {401}
    answer = await tcp.request("GET", "/status", headers=bearer("x"))
    assert (answer.status, answer.headers["retry-after"]) == (429, str(answer.json["retry_after"]))
    assert (await tcp.request("GET", "/status")).status == 200


async def test_no_secret_is_shown_or_logged(client: Client, served: Served, caplog: pytest.LogCaptureFixture) -> None:
    """Neither lists nor the audit nor the log at its most talkative has a secret, a hash or an Authorization."""
    caplog.set_level(logging.DEBUG)
    secret = await made(client, "nightly", "tenant", tenant="survey", expires_in="90d")
    await client.request("GET", "/v1/services", headers=bearer(secret))
    await client.request("GET", "/status", headers=bearer(secret + "x"))
    listed = await client.request("GET", "/v1/tokens")
    audit = await client.request("GET", "/v1/access/audit")
    shown = listed.body.decode() + audit.body.decode() + caplog.text
    assert secret not in shown
    assert secret[16:40] not in shown
    assert served.context.gate.tokens.all()[0].hash.hex() not in shown
    assert [(t["name"], t["state"], t["expires_at"] is None) for t in listed.json["items"]] == [
        ("nightly", "active", False)
    ]
    assert listed.json["items"][0]["last_used_at"] is not None
    assert {entry["operation"] for entry in audit.json["items"]} == {"resources.read", "authenticate"}


async def test_only_admins_hand_out_tokens(client: Client, served: Served) -> None:
    """Operators see them, and readers not even that; what is wrong with a wish is said with its place."""
    served.context.gate.peers._others = "reader"
    ops, look = await made(client, "ops", "operator"), await made(client, "look", "reader")
    wish = {"name": "more", "role": "admin"}
    assert (await client.request("POST", "/v1/tokens", wish, bearer(ops))).status == 403
    assert (await client.request("GET", "/v1/tokens", headers=bearer(ops))).status == 200
    assert (await client.request("GET", "/v1/tokens", headers=bearer(look))).status == 403
    served.context.gate.peer = lambda _: served.context.gate.peers.principal(PeerCredentials(1, 4711, 4711))  # type: ignore[method-assign]
    assert (await client.request("POST", "/v1/tokens", wish)).status == 403
    assert (await client.request("POST", "/v1/tokens", {"name": "x", "role": "king"}, bearer(ops))).status == 403


@pytest.mark.parametrize(
    ("wish", "status"),
    [
        ({"name": "a", "role": "king"}, 422),
        ({"name": "a", "role": "tenant"}, 400),
        ({"name": "a", "role": "admin", "tenant": "survey"}, 400),
        ({"name": "A B", "role": "reader"}, 422),
        ({"name": "a", "role": "reader", "expires_in": "soon"}, 422),
        ({"name": "a", "role": "reader", "expires_in": "0"}, 400),
        ({"name": "a", "role": "reader", "expires_in": "9999999999999d"}, 201),
    ],
)
async def test_what_a_token_can_be(client: Client, wish: dict[str, str], status: int) -> None:
    """Names, roles, tenants and lives that go together."""
    assert (await client.request("POST", "/v1/tokens", wish)).status == status
