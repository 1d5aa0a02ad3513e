"""Idempotency-Key: a POST that is sent again is answered again, and not done again."""

from __future__ import annotations

from typing import Any

import pytest
import trio

from platformd.api import idempotency
from platformd.coordination.contract import prefix_end
from tests.api.conftest import Served, Start
from tests.api.fakes import MemoryStore
from tests.api.wire import Answer, Client

SERVICE = {"name": "a", "spec": {}}


async def create(client: Client, key: str, body: Any = SERVICE, path: str = "/v1/services") -> Answer:
    return await client.request("POST", path, body, {"Idempotency-Key": key})


def seen(answer: Answer) -> tuple[int, bytes, str | None, str | None]:
    return answer.status, answer.body, answer.headers.get("etag"), answer.headers.get("location")


async def test_the_same_request_is_answered_again(client: Client) -> None:
    """The answer is the first one, byte by byte, and says that it was kept; without the key it is done anew."""
    first = await create(client, "k")
    again = await create(client, "k")
    assert first.status == 201
    assert seen(again) == seen(first)
    assert "idempotency-replayed" not in first.headers
    assert again.headers["idempotency-replayed"] == "true"
    assert (await client.request("POST", "/v1/services", SERVICE)).status == 409


async def test_a_key_is_for_one_request(client: Client) -> None:
    """Another body, path or query with the key is refused by name, and not done."""
    await create(client, "k")
    for body, path in (({"name": "b", "spec": {}}, "/v1/services"), (SERVICE, "/v1/services?dry_run")):
        other = await create(client, "k", body, path)
        assert (other.status, other.json["code"]) == (422, "idempotency_key_reused")
    assert (await client.request("GET", "/v1/services/b")).status == 404


async def test_what_was_refused_may_be_tried_again(client: Client) -> None:
    """A refusal is not kept: when the reason is gone, the same request with the same key is done."""
    await create(client, "first")
    assert (await create(client, "k")).status == 409
    await client.request("DELETE", "/v1/services/a")
    assert (await create(client, "k")).status == 201


async def test_answers_survive_a_restart(start: Start) -> None:
    """A daemon that starts on the same store knows what was answered."""
    store = MemoryStore()
    before = await start(store=store)
    first = await create(await before.client(), "k")
    before.stop()
    await before.done.wait()
    after = await start(store=store)
    assert seen(await create(await after.client(), "k")) == seen(first)


async def test_a_request_that_did_not_end_is_said_to_be_unknown(start: Start) -> None:
    """While it is carried out the key is in use; when its client has gone, nobody knows what came of it."""
    held, entered = trio.Event(), trio.Event()
    store = MemoryStore()
    plain = store.txn

    async def slow(*args: Any) -> Any:
        if b"/resources/" in args[1][0].key:
            entered.set()
            await held.wait()
        return await plain(*args)

    store.txn = slow  # type: ignore[method-assign]
    served: Served = await start(store=store)
    client, leaving = await served.client(), await served.client()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(create, leaving, "k")
        await entered.wait()
        second = await create(client, "k")
        assert (second.status, second.json["code"]) == (409, "idempotency_key_in_use")
        nursery.cancel_scope.cancel()
    await leaving.aclose()
    with trio.fail_after(30):
        while (last := await create(client, "k")).json["code"] == "idempotency_key_in_use":  # noqa: ASYNC110
            await trio.sleep(0.001)
    assert (last.status, last.json["code"]) == (409, "idempotency_outcome_unknown")


async def test_the_oldest_answers_go_first(start: Start) -> None:
    """No more keys are kept than the setting says, also by a daemon that found them in its store."""
    store = MemoryStore()
    for _ in range(2):
        served = await start(store=store, idempotency_keys=3)
        client = await served.client()
        for number in range(5):
            await create(client, str(number), path="/v1/services?dry_run")
        served.stop()
        await served.done.wait()
        kept = await store.list(idempotency.ROOT, prefix_end(idempotency.ROOT))
        assert kept.count == 3


async def test_answers_that_are_too_old_are_not_given(start: Start) -> None:
    """After their time it is as if the key had never been used."""
    served = await start(idempotency_age="0")
    client = await served.client()
    assert (await create(client, "k")).status == 201
    assert (await create(client, "k")).status == 409


async def test_what_takes_no_key_says_so(client: Client) -> None:
    """An operation whose answer cannot be kept refuses the key; so is a key that is none."""
    for path, key in (("/v1/store/snapshot", "k"), ("/v1/services", "x" * 256), ("/v1/services", "")):
        answer = await create(client, key, path=path)
        assert (answer.status, answer.json["subject"]) == (400, "Idempotency-Key")


async def test_an_answer_that_is_too_large_is_known_to_have_been_given(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is not done again, and the client is told why it gets no answer."""
    monkeypatch.setattr(idempotency, "MAX_KEPT_BYTES", 10)
    assert (await create(client, "k")).status == 201
    again = await create(client, "k")
    assert (again.status, again.json["code"]) == (409, "idempotency_outcome_unknown")
    assert "201" in again.json["detail"]
