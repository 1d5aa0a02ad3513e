"""Every error is a problem document, whoever raised it."""

from __future__ import annotations

from typing import Any

import pytest

from platformd.core.errors import Corrupted
from tests.api.conftest import Served, Start
from tests.api.wire import Answer, Client

JSON = {"Content-Type": "application/json"}


def problem(answer: Answer, status: int, code: str) -> dict[str, Any]:
    """The document of ``answer``, after checking what all of them have."""
    assert answer.headers["content-type"] == "application/problem+json"
    document: dict[str, Any] = answer.json
    assert answer.status == document["status"] == status, document
    assert document["code"] == code
    assert document["type"] == f"urn:platformd:error:{code}"
    assert document["title"]
    assert document["detail"]
    assert document["instance"].startswith("/")
    assert "Traceback" not in answer.body.decode()
    assert answer.headers["x-request-id"]
    return document


@pytest.mark.parametrize("path", ["/nowhere", "/v1", "/v1/a/b/c/d", "/v1//streams", "/v1/tenants/x"])
async def test_no_such_path(client: Client, path: str) -> None:
    """404 for paths that no route has."""
    assert problem(await client.request("GET", path), 404, "not_found")["instance"] == path


async def test_no_such_kind_names_the_nearest(client: Client) -> None:
    """A mistyped kind is answered with the one that was meant."""
    document = problem(await client.request("GET", "/v1/straems"), 404, "not_found")
    assert document["hint"] == "did you mean streams?"


async def test_no_such_resource(client: Client) -> None:
    """404 names the resource as the command line would."""
    assert problem(await client.request("GET", "/v1/streams/x"), 404, "not_found")["subject"] == "stream/x"


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("POST", "/status", {"GET", "HEAD", "OPTIONS"}),
        ("DELETE", "/v1/streams", {"GET", "HEAD", "OPTIONS", "POST"}),
        ("POST", "/v1/streams/x", {"GET", "HEAD", "OPTIONS", "PUT", "PATCH", "DELETE"}),
        ("BREW", "/v1/streams", {"GET", "HEAD", "OPTIONS", "POST"}),
    ],
)
async def test_wrong_methods_are_told_the_right_ones(client: Client, method: str, path: str, allowed: set[str]) -> None:
    """405 with the methods in Allow."""
    answer = await client.request(method, path)
    problem(answer, 405, "method_not_allowed")
    assert set(answer.headers["allow"].split(", ")) == allowed


@pytest.mark.parametrize(
    ("body", "line", "column"),
    [
        (b'{"a": tru}', 1, 11),
        (b'{\n  "a": 1,\n  "b" 2\n}', 3, 7),
        (b'{"name": "x"', 1, 13),
        ('{"ä": ?}'.encode(), 1, 7),
        (b'{"a": "\xff"}', 1, 8),
        (b"[1, 2,]", 1, 7),
        (b"{} {}", 1, 5),
    ],
)
async def test_malformed_json_says_where(client: Client, body: bytes, line: int, column: int) -> None:
    """400 with the line and column of the first wrong character."""
    document = problem(await client.request("POST", "/v1/streams", body, JSON), 400, "invalid_input")
    assert (document["line"], document["column"]) == (line, column)
    assert f"line {line}, column {column}" in document["detail"]


@pytest.mark.parametrize("body", [b"", b"  \n", b"[" * 100_000, b"1" * 5000])
async def test_json_without_a_place_of_error(client: Client, body: bytes) -> None:
    """Empty, too deep and too large bodies are refused as well."""
    problem(await client.request("POST", "/v1/streams", body, JSON), 400, "invalid_input")


async def test_an_invalid_resource_says_everything_at_once(client: Client) -> None:
    """422 with each wrong field and its path."""
    body = {"name": "Bad Name", "colour": 1, "spec": {"subjects": ["a..b"], "max_age": "soon", "more": True}}
    document = problem(await client.request("POST", "/v1/streams", body), 422, "invalid_resource")
    paths = {error["path"] for error in document["errors"]}
    assert {"name", "colour", "spec.max_age", "spec.more"} <= paths


@pytest.mark.parametrize("content_type", ["text/plain", "application/x-www-form-urlencoded", ""])
async def test_bodies_in_other_forms_are_refused(client: Client, content_type: str) -> None:
    """415 with the content type that is taken."""
    answer = await client.request("POST", "/v1/streams", b"{}", {"Content-Type": content_type})
    assert "application/json" in problem(answer, 415, "unsupported_media_type")["hint"]


async def test_a_body_over_the_limit(start: Start) -> None:
    """413 quotes the limit, whether the length was announced or not, and the connection's end is clean."""
    served = await start(max_body="1KiB")
    announced, chunked = await served.client(), await served.client()
    answer = await announced.request("POST", "/v1/streams", b"x" * 2000, JSON)
    assert (answer.status, answer.json["code"]) == (413, "too_large")
    assert "1024 bytes; this one has 2000 bytes" in answer.json["detail"]
    head = (
        b"POST /v1/streams HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
    )
    await chunked.stream.send_all(head + b"400\r\n" + b"x" * 1024 + b"\r\n1\r\nx\r\n")
    received = await chunked.stream.receive_some(65536)
    assert received.startswith(b"HTTP/1.1 413 ")
    assert b"1024 bytes" in received


@pytest.mark.parametrize(
    "path",
    [
        "/v1/streams?limit=0",
        "/v1/streams?limit=1001",
        "/v1/streams?limit=ten",
        "/v1/streams?limit=1&limit=2",
        "/v1/streams?lmit=1",
        "/v1/streams?cursor=nonsense",
        "/v1/streams?label=%3D%3D",
        "/v1/streams?watch=perhaps",
        "/v1/streams?watch&after=-1",
        "/v1/streams?watch&limit=3",
        "/v1/streams/x?dry_run",
        "/status?verbose",
    ],
)
async def test_queries_are_checked(client: Client, path: str) -> None:
    """A parameter that is unknown, twice there or out of bounds is refused instead of ignored."""
    problem(await client.request("GET", path), 400, "invalid_input")


async def test_a_mistyped_parameter_is_told_the_right_one(client: Client) -> None:
    """The nearest known parameter is in the hint."""
    document = problem(await client.request("GET", "/v1/streams?lmit=1"), 400, "invalid_input")
    assert document["errors"] == [
        {"path": "lmit", "message": "is not a parameter of this path", "hint": "did you mean limit?"}
    ]


@pytest.mark.parametrize("given", ["x" * 100, "12345678901234567890123", "1.5", "latest"])
async def test_an_event_id_that_is_no_revision(client: Client, given: str) -> None:
    """Last-Event-ID must be one of ours."""
    answer = await client.request("GET", "/v1/streams?watch", headers={"Last-Event-ID": given})
    problem(answer, 400, "invalid_input")


async def test_a_fault_tells_only_its_request(served: Served, client: Client, caplog: pytest.LogCaptureFixture) -> None:
    """An unexpected error is 500 with a request id; the log has the traceback under it."""
    served.context.store.broken = ZeroDivisionError("secret")  # type: ignore[attr-defined]
    answer = await client.request("GET", "/v1/streams/x", headers={"X-Request-Id": "r-42"})
    document = problem(answer, 500, "internal")
    assert document["request_id"] == answer.headers["x-request-id"] == "r-42"
    assert "secret" not in answer.body.decode()
    assert "r-42" in caplog.text
    assert "ZeroDivisionError: secret" in caplog.text


async def test_an_error_in_a_group_keeps_its_meaning(served: Served, client: Client) -> None:
    """An error of the platform that comes out of a nursery is still that error."""
    served.context.store.broken = ExceptionGroup("nursery", [Corrupted("bad page", subject="store")])  # type: ignore[attr-defined]
    problem(await client.request("GET", "/v1/streams/x"), 500, "corrupted")


@pytest.mark.parametrize("given", ["x" * 65, "a b", "a/b", '"'])
async def test_request_ids_that_are_unfit_for_logs_are_replaced(client: Client, given: str) -> None:
    """A client's request id goes into the log, so it may only be a short word."""
    answer = await client.request("GET", "/status", headers={"X-Request-Id": given})
    assert len(answer.headers["x-request-id"]) == 36
