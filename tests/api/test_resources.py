"""Resources over HTTP: create, read, change, delete, conditionally and without writing."""

from __future__ import annotations

from typing import Any

import pytest

from tests.api.conftest import Served
from tests.api.wire import Client

STREAM: dict[str, Any] = {"name": "alerts", "spec": {"subjects": ["alerts.>"]}}


async def test_what_is_created_is_there(client: Client) -> None:
    """A created resource has a location and an entity tag, and reading it there gives the same."""
    made = await client.request("POST", "/v1/streams", STREAM)
    assert (made.status, made.headers["location"]) == (201, "/v1/streams/alerts")
    assert made.headers["etag"] == f'"{made.json["revision"]}"'
    assert made.headers["platformd-outcome"] == "created"
    read = await client.request("GET", made.headers["location"])
    assert (read.status, read.json, read.headers["etag"]) == (200, made.json, made.headers["etag"])
    assert read.headers["content-type"] == "application/json"


async def test_creating_twice_is_a_conflict(client: Client) -> None:
    """POST never replaces."""
    await client.request("POST", "/v1/streams", STREAM)
    again = await client.request("POST", "/v1/streams", STREAM)
    assert (again.status, again.json["code"]) == (409, "conflict")


async def test_put_creates_configures_and_leaves_alone(client: Client) -> None:
    """PUT says what it did, so that apply can print it."""
    outcomes = []
    for description in ("one", "two", "two"):
        document = {"spec": {"subjects": ["a"], "description": description}}
        answer = await client.request("PUT", "/v1/streams/s?apply=true", document)
        outcomes.append((answer.status, answer.headers["platformd-outcome"]))
    assert outcomes == [(201, "created"), (200, "configured"), (200, "unchanged")]


async def test_what_was_read_can_be_put_back(client: Client) -> None:
    """Server-owned members in a body are ignored, so get, edit and apply work together."""
    made = (await client.request("POST", "/v1/streams", STREAM)).json
    made["spec"]["description"] = "edited"
    answer = await client.request("PUT", "/v1/streams/alerts", made)
    assert (answer.status, answer.json["spec"]["description"]) == (200, "edited")
    assert answer.json["uid"] == made["uid"]


async def test_if_match_guards_against_lost_updates(client: Client) -> None:
    """A write with the entity tag of an old revision fails and changes nothing."""
    first = await client.request("POST", "/v1/streams", STREAM)
    await client.request("PATCH", "/v1/streams/alerts", {"labels": {"a": "b"}})
    old = {"If-Match": first.headers["etag"]}
    for method, body in (("PUT", STREAM), ("PATCH", {"labels": {"a": "c"}}), ("DELETE", None)):
        answer = await client.request(method, "/v1/streams/alerts", body, old)
        assert (answer.status, answer.json["code"]) == (412, "precondition_failed")
    now = await client.request("GET", "/v1/streams/alerts")
    assert now.json["labels"] == {"a": "b"}
    done = await client.request("PATCH", "/v1/streams/alerts", {"labels": None}, {"If-Match": now.headers["etag"]})
    assert (done.status, done.json["labels"]) == (200, {})


async def test_if_match_star_needs_something_there(client: Client) -> None:
    """If-Match: * makes PUT replace only."""
    answer = await client.request("PUT", "/v1/streams/alerts", STREAM, {"If-Match": "*"})
    assert answer.status == 412
    await client.request("POST", "/v1/streams", STREAM)
    answer = await client.request("PUT", "/v1/streams/alerts", STREAM, {"If-Match": "*"})
    assert answer.status == 200


async def test_if_none_match_star_only_creates(client: Client) -> None:
    """If-None-Match: * makes PUT create only."""
    first = await client.request("PUT", "/v1/streams/alerts", STREAM, {"If-None-Match": "*"})
    again = await client.request("PUT", "/v1/streams/alerts", STREAM, {"If-None-Match": "*"})
    assert (first.status, again.status) == (201, 412)


@pytest.mark.parametrize(
    "headers",
    [{"If-Match": 'W/"1"'}, {"If-Match": "1"}, {"If-Match": '"x"'}, {"If-Match": '"1", "2"'}, {"If-None-Match": '"1"'}],
)
async def test_conditions_that_cannot_be_read_are_refused(client: Client, headers: dict[str, str]) -> None:
    """A condition that this server cannot check is never taken as fulfilled."""
    answer = await client.request("PUT", "/v1/streams/alerts", STREAM, headers)
    assert (answer.status, answer.json["code"]) == (400, "invalid_input")


async def test_a_read_of_what_the_client_has_is_empty(client: Client) -> None:
    """If-None-Match with the current entity tag gives 304."""
    made = await client.request("POST", "/v1/streams", STREAM)
    answer = await client.request("GET", "/v1/streams/alerts", headers={"If-None-Match": made.headers["etag"]})
    assert (answer.status, answer.body) == (304, b"")
    answer = await client.request("GET", "/v1/streams/alerts", headers={"If-None-Match": '"999"'})
    assert answer.status == 200


@pytest.mark.parametrize("content_type", ["application/merge-patch+json", "application/json"])
async def test_a_patch_merges(client: Client, content_type: str) -> None:
    """Members replace, objects merge, null removes (RFC 7396)."""
    await client.request("POST", "/v1/streams", STREAM | {"labels": {"a": "1", "b": "2"}})
    patch = {"labels": {"a": None, "c": "3"}, "spec": {"description": "new"}}
    answer = await client.request("PATCH", "/v1/streams/alerts", patch, {"Content-Type": content_type})
    assert answer.status == 200
    assert answer.json["labels"] == {"b": "2", "c": "3"}
    assert answer.json["spec"]["subjects"] == ["alerts.>"]
    assert answer.json["spec"]["description"] == "new"


async def test_a_patch_must_be_an_object(client: Client) -> None:
    """A merge patch that would replace the whole resource by a number is refused."""
    await client.request("POST", "/v1/streams", STREAM)
    answer = await client.request("PATCH", "/v1/streams/alerts", 42)
    assert (answer.status, answer.json["subject"]) == (422, "stream/alerts")


async def test_deleting_waits_for_controllers(client: Client) -> None:
    """DELETE is 202 while a finalizer is pending and 200 when the resource is gone at once."""
    await client.request("POST", "/v1/streams", STREAM)
    pending = await client.request("DELETE", "/v1/streams/alerts")
    assert pending.status == 202
    assert pending.json["deleting_at"] is not None
    await client.request("POST", "/v1/services", {"name": "s", "spec": {}})
    gone = await client.request("DELETE", "/v1/services/s")
    assert (gone.status, gone.json["name"]) == (200, "s")
    assert (await client.request("GET", "/v1/services/s")).status == 404


async def test_a_dry_run_writes_nothing(client: Client, served: Served) -> None:
    """Every write with ?dry_run answers as the real one would and leaves the store as it was."""
    await client.request("POST", "/v1/streams", STREAM)
    await client.request("POST", "/v1/services", {"name": "s", "spec": {}})
    revision = (await served.context.store.status()).revision
    answers = [
        await client.request("POST", "/v1/streams?dry_run=true", {"name": "b", "spec": {"subjects": ["b"]}}),
        await client.request("PUT", "/v1/streams/alerts?dry_run=true", {"spec": {"subjects": ["c"]}}),
        await client.request("PATCH", "/v1/streams/alerts?dry_run", {"spec": {"subjects": ["d"]}}),
        await client.request("DELETE", "/v1/services/s?dry_run=1"),
    ]
    assert [a.status for a in answers] == [201, 200, 200, 200]
    assert [a.json["spec"].get("subjects") for a in answers[:3]] == [["b"], ["c"], ["d"]]
    assert all("etag" not in a.headers for a in answers)
    assert (await served.context.store.status()).revision == revision
    wrong = await client.request("POST", "/v1/streams?dry_run=true", {"name": "b", "spec": {}})
    assert wrong.status == 422


async def test_a_listing_comes_in_pages(client: Client) -> None:
    """Pages follow each other by cursor and end with none."""
    for i in range(5):
        await client.request("POST", "/v1/services", {"name": f"s{i}", "spec": {}, "labels": {"odd": str(i % 2)}})
    names, cursor = [], ""
    for _ in range(3):
        page = (await client.request("GET", f"/v1/services?limit=2{cursor}")).json
        names.append([item["name"] for item in page["items"]])
        cursor = f"&cursor={page['cursor']}"
    assert names == [["s0", "s1"], ["s2", "s3"], ["s4"]]
    assert page["cursor"] is None
    assert page["revision"] == 5
    odd = (await client.request("GET", "/v1/services?label=odd%3D1")).json
    assert [item["name"] for item in odd["items"]] == ["s1", "s3"]


async def test_tenants_are_apart(client: Client) -> None:
    """What one tenant has is not seen by another."""
    made = await client.request("POST", "/v1/tenants/radio/services", {"name": "s", "spec": {}})
    assert made.headers["location"] == "/v1/tenants/radio/services/s"
    assert (await client.request("GET", made.headers["location"])).json["tenant"] == "radio"
    assert (await client.request("GET", "/v1/services")).json["items"] == []
    assert len((await client.request("GET", "/v1/tenants/radio/services")).json["items"]) == 1


async def test_every_kind_is_described_and_served(client: Client) -> None:
    """Whatever /v1/kinds names can be listed, and its description has what a face needs."""
    kinds = (await client.request("GET", "/v1/kinds")).json["items"]
    assert {k["plural"] for k in kinds} >= {"nodes", "services", "endpoints", "streams", "pipelines"}
    for kind in kinds:
        assert set(kind) >= {"name", "plural", "singular", "summary", "aliases", "columns", "schema", "actions"}
        for word in (kind["name"], kind["plural"], *kind["aliases"]):
            assert (await client.request("GET", f"/v1/kinds/{word}")).json == kind
        assert "$defs" in kind["schema"]
        assert all(set(column) == {"title", "path", "format", "wide"} for column in kind["columns"])
        assert (await client.request("GET", f"/v1/{kind['plural']}")).status == 200


async def test_head_has_the_headers_without_the_body(client: Client) -> None:
    """HEAD of a resource and of a watch end at once."""
    await client.request("POST", "/v1/streams", STREAM)
    one = await client.request("HEAD", "/v1/streams/alerts")
    assert (one.status, one.body, int(one.headers["content-length"]) > 10) == (200, b"", True)
    watch = await client.request("HEAD", "/v1/streams?watch")
    assert (watch.status, watch.headers["content-type"]) == (200, "text/event-stream")
