"""Publishing, removing, fetching and acknowledging over HTTP, on an engine in memory."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
import trio
from trio.testing import MockClock

from platformd.api import message_forms
from platformd.core.errors import Unsupported
from platformd.queues.contract import Ack, ConsumerConfig, Record, StreamConfig
from tests.api.conftest import Served
from tests.api.wire import Client

BATCH = "/v1/streams/s/messages/batch"
LINES = {"content-type": "application/x-ndjson"}
PACKED = {"content-type": "application/msgpack"}


@pytest.fixture
async def streams(served: Served) -> Any:
    """The engine, with a stream ``s`` and a consumer ``c``."""
    engine = served.context.streams
    await engine.put_stream("s", StreamConfig(subjects=("a.>",)))
    await engine.put_consumer("s", "c", ConsumerConfig())
    return engine


async def payloads(streams: Any) -> list[bytes]:
    return [d.payload for d in await streams.read("s")]


async def test_one_record_has_headers_and_expectations(streams: Any, client: Client) -> None:
    """A record takes its headers from the request's and is appended only where it is expected."""
    query = "subject=a.b&durability=os&expect_last_sequence=0&expect_last_subject_sequence=7"
    headers = {
        "Platformd-Header-Survey": "ztf",
        "platformd-header-content-type": "image/fits",
        "platformd-header-": "x",
    }
    answer = await client.request("POST", f"/v1/streams/s/messages?{query}", b"\x00\xff", headers)
    assert (answer.status, answer.json) == (201, {"stream": "s", "sequence": 1, "duplicate": False})
    assert streams.calls == [("publish", "os", 0, 7)]
    (found,) = await streams.read("s")
    assert (found.payload, found.headers) == (b"\x00\xff", {"survey": "ztf", "content-type": "image/fits"})


async def test_a_batch_of_json_lines(streams: Any, client: Client) -> None:
    """Each line is a record in one of the forms of a payload; positions that were there already are told."""
    lines = [
        {"subject": "a.x", "payload": base64.b64encode(b"\xff").decode(), "msg_id": "1", "headers": {"K": "v"}},
        {"text": "grün", "time": "2026-01-31T12:00:00Z"},
        {"json": {"z": [1, None]}},
        {"json": None},
        {"subject": "a.x", "msg_id": "1"},
        {},
    ]
    body = b"\n".join(json.dumps(line).encode() for line in lines) + b"\n"
    answer = await client.request("POST", f"{BATCH}?subject=a.b&durability=memory", body, LINES)
    assert answer.status == 201
    assert answer.json == {"stream": "s", "appended": 5, "first_sequence": 1, "last_sequence": 5, "duplicates": [4]}
    found = await streams.read("s")
    assert [d.payload for d in found] == [b"\xff", "grün".encode(), b'{"z":[1,null]}', b"null", b""]
    assert [d.subject for d in found] == ["a.x", "a.b", "a.b", "a.b", "a.b"]
    assert (found[0].headers, found[1].time_ns) == ({"K": "v"}, 1_769_860_800_000_000_000)
    again = await client.request("POST", BATCH, json.dumps(lines[0]).encode(), LINES)
    assert (again.status, again.json["appended"], again.json["first_sequence"]) == (200, 0, None)


async def test_a_batch_of_messagepack_and_of_an_array(streams: Any, client: Client) -> None:
    """MessagePack carries payloads as they are; a JSON array is what lines are."""
    packed = msgspec.msgpack.encode([{"payload": b"\x00\xff"}, {"json": {"a": 1}}])
    assert (await client.request("POST", f"{BATCH}?subject=a.b", packed, PACKED)).json["appended"] == 2
    assert (await client.request("POST", f"{BATCH}?subject=a.b", [{"text": "x"}])).json["first_sequence"] == 3
    assert await payloads(streams) == [b"\x00\xff", b'{"a":1}', b"x"]


@pytest.mark.parametrize("accept", ["application/json", "application/msgpack"])
async def test_what_was_read_can_be_published(streams: Any, client: Client, accept: str) -> None:
    """The answer of a look, sent as a batch, makes the same records again."""
    before = [
        Record(subject="a.b", payload=b"\xff", headers={"k": "v"}, time_ns=1_000_000_000),
        Record(subject="a.c", payload=b"text", msg_id="7", time_ns=2_000_000_000),
    ]
    await streams.publish(before, stream="s")
    seen = await client.request("GET", "/v1/streams/s/messages", headers={"accept": accept})
    assert (seen.headers["content-type"], seen.headers["vary"]) == (accept, "Accept")
    decode: Any = msgspec.json.decode if accept == "application/json" else msgspec.msgpack.decode
    encode: Any = msgspec.json.encode if accept == "application/json" else msgspec.msgpack.encode
    body = encode(decode(seen.body)["items"])
    await streams.put_stream("copy", StreamConfig(subjects=("copy",)))
    answer = await client.request("POST", "/v1/streams/copy/messages/batch", body, {"content-type": accept})
    assert answer.json["appended"] == 2
    copied = await streams.read("copy")
    assert [(d.subject, d.payload, d.msg_id, d.headers, d.time_ns) for d in copied] == [
        (r.subject, r.payload, r.msg_id, r.headers, r.time_ns) for r in before
    ]


@pytest.mark.parametrize(
    ("body", "headers", "status", "paths"),
    [
        (b"", LINES, 400, []),
        (b"\n", LINES, 400, []),
        (b"{}", {"content-type": "text/plain"}, 415, []),
        (b"{}", {}, 415, []),
        (b'{"text": "a"}\n{nope\n{"txt": 1, "headers": {"a": 1}}', LINES, 400, ["[1]", "[2].txt", "[2].headers.a"]),
        (b'{"subject": "a.*"}\n{"subject": "a..b"}\n{}', LINES, 400, ["[0].subject", "[1].subject", "[2].subject"]),
        (b'{"subject": "a.b", "payload": "***"}', LINES, 400, ["[0].payload"]),
        (b'{"subject": "a.b", "json": 1, "text": "x"}', LINES, 400, ["[0].json"]),
        (b'{"subject": "a.b", "time": "yesterday"}', LINES, 400, ["[0].time"]),
        (b'{"subject": "a.b"}', {"content-type": "application/json"}, 400, []),
        (b"[1]", {"content-type": "application/json"}, 400, ["[0]"]),
        (b"\xc1", PACKED, 400, []),
        (b"\x91\xc3", PACKED, 400, ["[0]"]),
        (b"[" * 100_000, LINES, 400, ["[0]"]),
        (b'"\xff"', LINES, 400, ["[0]"]),
    ],
)
async def test_what_a_batch_refuses(
    streams: Any, client: Client, body: bytes, headers: dict[str, str], status: int, paths: list[str]
) -> None:
    """Everything that is wrong is named with its position, and nothing is stored."""
    answer = await client.request("POST", BATCH, body, headers)
    assert (answer.status, [e["path"] for e in answer.json.get("errors", [])]) == (status, paths)
    assert await payloads(streams) == []


async def test_a_batch_has_a_limit_and_so_has_its_answer(
    streams: Any, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More records than the limit are refused by its number; an answer names the first wrong ones only."""
    monkeypatch.setattr(message_forms, "MAX_BATCH_RECORDS", 30)
    many = await client.request("POST", f"{BATCH}?subject=a.b", b"{}\n" * 31, LINES)
    assert (many.status, "at most 30 records" in many.json["detail"]) == (429, True)
    wrong = await client.request("POST", BATCH, b"{}\n" * 30, LINES)
    assert len(wrong.json["errors"]) == message_forms.MAX_ERRORS


async def test_fetch_and_acknowledge(streams: Any, client: Client) -> None:
    """Records are out until they are acknowledged; what is said of each reaches the engine."""
    await streams.publish([Record(subject="a.b", payload=b"%d" % i) for i in range(4)], stream="s")
    path = "/v1/streams/s/consumers/c"
    first = await client.request("POST", f"{path}/fetch?max_records=3")
    assert [(i["sequence"], i["text"], i["deliveries"]) for i in first.json["items"]] == [
        (1, "0", 1), (2, "1", 1), (3, "2", 1),
    ]  # fmt: skip
    said = {"sequences": [1], "acks": [{"sequence": 2, "kind": "nak", "delay": "1s500ms"}]}
    said["acks"] += [{"sequence": 3, "kind": "term", "reason": "broken"}, {"sequence": 99}]
    assert (await client.request("POST", f"{path}/ack", said)).json == {"known": 3}
    assert streams.acks == [
        Ack(sequence=1), Ack(sequence=2, kind="nak", delay=1.5), Ack(sequence=3, kind="term", reason="broken"),
        Ack(sequence=99),
    ]  # fmt: skip
    rest = await client.request("POST", f"{path}/fetch", headers={"accept": "application/msgpack"})
    items = msgspec.msgpack.decode(rest.body)["items"]
    assert [(i["sequence"], i["payload"], i["deliveries"]) for i in items] == [(2, b"1", 2), (4, b"3", 1)]


async def test_a_fetch_waits_for_records(streams: Any, served: Served, client: Client, clock: MockClock) -> None:
    """A long poll is answered when something comes, and empty when its time is over."""
    with trio.fail_after(20):
        assert (await client.request("POST", "/v1/streams/s/consumers/c/fetch?wait=10s")).json == {"items": []}
    other = await served.client()
    async with trio.open_nursery() as nursery:

        async def publish() -> None:
            await trio.sleep(1)
            await client.request("POST", "/v1/streams/s/messages?subject=a.b", b"late")

        nursery.start_soon(publish)
        begun = trio.current_time()
        found = await other.request("POST", "/v1/streams/s/consumers/c/fetch?wait=5m")
    assert [i["text"] for i in found.json["items"]] == ["late"]
    assert trio.current_time() - begun < 10


async def test_a_waiting_fetch_ends_when_the_daemon_stops(
    streams: Any, served: Served, client: Client, clock: MockClock
) -> None:
    """A long poll does not hold up the stop."""
    async with trio.open_nursery() as nursery:

        async def stop() -> None:
            await trio.sleep(1)
            served.stop()

        nursery.start_soon(stop)
        with trio.fail_after(4):
            answer = await client.request("POST", "/v1/streams/s/consumers/c/fetch?wait=5m")
    assert answer.json == {"items": []}


async def test_who_leaves_takes_no_records(streams: Any, served: Served, client: Client) -> None:
    """A fetch whose client has gone waits no longer, so the next one gets the record the first time."""
    gone = await served.client()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_broken, gone, "/v1/streams/s/consumers/c/fetch?wait=5m")
        await _until(lambda: streams.waiting == 1)
        await gone.aclose()
        await _until(lambda: streams.waiting == 0)
    await client.request("POST", "/v1/streams/s/messages?subject=a.b", b"x")
    found = await client.request("POST", "/v1/streams/s/consumers/c/fetch")
    assert [i["deliveries"] for i in found.json["items"]] == [1]


async def _until(holds: Callable[[], bool]) -> None:
    with trio.fail_after(10):
        while not holds():  # noqa: ASYNC110 - what is waited for says nothing itself
            await trio.sleep(0.01)


async def _broken(client: Client, path: str) -> None:
    with pytest.raises((trio.ClosedResourceError, EOFError)):
        await client.request("POST", path)


async def test_purge_and_seek_are_actions(streams: Any, client: Client) -> None:
    """What is asked reaches the engine; the answers say what was removed and where the consumer is."""
    await streams.publish([Record(subject=f"a.{i % 2}", payload=b"") for i in range(10)], stream="s")
    purged = await client.request("POST", "/v1/streams/s/purge", {"subject": "a.1", "before": 9, "keep": 1})
    assert (purged.status, purged.json) == (200, {"stream": "s", "removed": 3})
    assert [d.sequence for d in await streams.read("s")] == [1, 3, 5, 7, 8, 9, 10]
    seek = "/v1/streams/s/consumers/c/seek"
    moved = await client.request("POST", seek, {"policy": "by_sequence", "sequence": 8})
    assert (moved.status, moved.json["pending"]) == (200, 3)
    await client.request("POST", seek, {"policy": "by_time", "time": "2026-01-31T12:00:00+00:00"})
    assert streams.calls[-2:] == [
        ("seek", "s", "c", "by_sequence", 8, 0), ("seek", "s", "c", "by_time", 1, 1_769_860_800_000_000_000),
    ]  # fmt: skip
    assert (await client.request("POST", "/v1/streams/s/purge", {})).json["removed"] == 7


async def test_what_an_engine_does_not_do_is_said(
    streams: Any, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The engine's refusal is the answer, with its hint."""

    async def purge(*_: Any, **__: Any) -> int:
        await trio.lowlevel.checkpoint()
        raise Unsupported("this engine does not do purge", subject="stream/s", hint="use max_age")

    monkeypatch.setattr(streams, "purge", purge)
    answer = await client.request("POST", "/v1/streams/s/purge", {})
    assert (answer.status, answer.json["detail"], answer.json["hint"]) == (
        Unsupported.status, "this engine does not do purge", "use max_age",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("/v1/streams/none/purge", {}, 404),
        ("/v1/streams/s/purge", None, 415),
        ("/v1/streams/s/purge", {"before": -1}, 422),
        ("/v1/streams/s/purge", {"subject": "a..b"}, 422),
        ("/v1/streams/s/purge", {"all": True}, 422),
        ("/v1/streams/s/consumers/none/seek", {"policy": "all"}, 404),
        ("/v1/streams/s/consumers/c/seek", {"policy": "back"}, 422),
        ("/v1/streams/s/consumers/c/seek", {"policy": "by_time"}, 422),
        ("/v1/streams/s/consumers/none/fetch", None, 404),
        ("/v1/streams/s/consumers/c/fetch?wait=6m", None, 400),
        ("/v1/streams/s/consumers/c/fetch?max_records=0", None, 400),
        ("/v1/streams/s/consumers/c/ack", {"acks": [{"sequence": 1, "kind": "no"}]}, 422),
        ("/v1/streams/s/consumers/c/ack", {"acks": [{"sequence": 1, "delay": "soon"}]}, 422),
        ("/v1/streams/s/consumers/c/ack", {"sequences": [0] * 16_385}, 400),
        ("/v1/streams/s/messages?subject=a.b&expect_last_sequence=x", None, 400),
    ],
)
async def test_what_actions_refuse(streams: Any, client: Client, path: str, body: Any, status: int) -> None:
    """Unknown streams and consumers, and bodies and parameters that make no sense."""
    assert (await client.request("POST", path, body)).status == status
    assert await payloads(streams) == []


async def test_tenants_have_streams_of_their_own(streams: Any, client: Client) -> None:
    """A path with a tenant is about that tenant's stream."""
    await streams.put_stream("site..s", StreamConfig(subjects=("b",)))
    path = "/v1/tenants/site/streams/s"
    await client.request("POST", f"{path}/messages/batch?subject=b", b"{}", LINES)
    assert (len(await streams.read("site..s")), await payloads(streams)) == (1, [])
    assert (await client.request("POST", f"{path}/purge", {})).json == {"stream": "s", "removed": 1}
