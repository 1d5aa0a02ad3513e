"""The sans-I/O core: targets, requests, answers cut anywhere, and what a lost connection means."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from platformd.client.http import (
    Collector,
    End,
    Head,
    HttpConnection,
    Response,
    Target,
    default_target,
    make_request,
    path_of,
)
from platformd.client.problems import problem_of
from platformd.core.errors import (
    BY_CODE,
    Gone,
    InvalidInput,
    NotFound,
    OutcomeUnknown,
    PlatformError,
    TooLarge,
    Unavailable,
    Unprocessable,
)

SOCKET = Target(unix="/run/p.sock")
ANSWER = (
    b'HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\nETag: "7"\r\n\r\n'
    b'4\r\n{"a"\r\n3;x=y\r\n:1}\r\n0\r\n\r\n'
)  # fmt: skip


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({"PLATFORMD_URL": "http://127.0.0.1:8080", "PLATFORMD_SOCKET": "/s"}, Target(host="127.0.0.1", port=8080)),
        ({"PLATFORMD_URL": "unix:///tmp/x.sock"}, Target(unix="/tmp/x.sock")),
        ({"PLATFORMD_SOCKET": "/s", "PLATFORMD_STATE_DIR": "/state"}, Target(unix="/s")),
        ({"PLATFORMD_STATE_DIR": "/state"}, Target(unix="/state/platformd.sock")),
        ({"PLATFORMD_URL": "http://[::1]:80/"}, Target(host="::1", port=80)),
    ],
)
def test_the_environment_says_where_the_daemon_is(environ: dict[str, str], expected: Target) -> None:
    """The URL wins over the socket, and the socket over the state directory."""
    assert default_target(environ) == expected


def test_nothing_said_means_the_default_socket() -> None:
    """An empty environment leads to the socket of the default state directory."""
    target = default_target({})
    assert target.unix is not None
    assert target.unix.endswith("platformd.sock")


@pytest.mark.parametrize(
    "url", ["https://h:1/x", "ftp://h:1", "http://", "h:1", "http://h:99999", "unix://h/x", "http://h/v1", "http://h?x"]
)
def test_a_url_that_cannot_be_meant_is_refused(url: str) -> None:
    """What is not a URL of the control API is an error that shows the forms."""
    with pytest.raises(InvalidInput) as caught:
        Target.parse(url)
    assert caught.value.subject == url
    assert "unix:///PATH" in str(caught.value)


def test_an_ipv6_host_is_bracketed_in_the_host_header() -> None:
    """The Host header of an IPv6 address has its brackets."""
    assert Target(host="::1", port=80).authority == "[::1]:80"


def test_paths_and_queries_are_quoted() -> None:
    """Names cannot break out of their place in the path, nor values out of the query."""
    assert path_of("streams", "a/../b?c", tenant="t é") == "/v1/tenants/t%20%C3%A9/streams/a%2F..%2Fb%3Fc"
    request = make_request("GET", "/v1/x", query={"watch": "", "label": "a=b,c!=d&e", "after": "3"})
    assert request.path == "/v1/x?watch&label=a%3Db,c%21%3Dd%26e&after=3"


def test_a_body_comes_with_its_length_and_type() -> None:
    """A JSON body is encoded once and announced; a write without a body announces none."""
    sent = HttpConnection(SOCKET).send(make_request("PUT", "/x", json={"a": 1}))
    assert sent.startswith(b"PUT /x HTTP/1.1\r\nhost: localhost\r\n")
    assert b"content-type: application/json\r\ncontent-length: 7\r\n" in sent
    assert sent.endswith(b'\r\n\r\n{"a":1}')
    assert b"content-length: 0" in HttpConnection(SOCKET).send(make_request("POST", "/x"))


def test_a_request_that_http_cannot_carry_is_refused() -> None:
    """A header with a line break is an error before anything is sent."""
    with pytest.raises(InvalidInput):
        HttpConnection(SOCKET).send(make_request("GET", "/x", headers={"if-match": "a\r\nb: c"}))


@settings(deadline=None)
@given(st.lists(st.integers(0, len(ANSWER)), max_size=8))
def test_an_answer_cut_anywhere_reads_the_same(cuts: list[int]) -> None:
    """Wherever the bytes of a chunked answer are cut apart, the same response comes of them."""
    connection, collector, response = HttpConnection(SOCKET), Collector(), None
    connection.send(make_request("GET", "/x"))
    edges = sorted({0, len(ANSWER), *cuts})
    for start, end in pairwise(edges):
        for part in connection.receive(ANSWER[start:end]):
            response = collector.add(part) or response
    assert response is not None
    assert response.check().json() == {"a": 1}
    assert response.headers["etag"] == '"7"'
    assert connection.reusable


def test_a_second_request_goes_over_the_same_connection() -> None:
    """After a whole answer the connection takes the next request; after "close" it does not."""
    connection = HttpConnection(SOCKET)
    for closing, body in ((b"", b"1"), (b"connection: close\r\n", b"2")):
        connection.send(make_request("GET", "/x"))
        parts = connection.receive(b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\n" + closing + b"\r\n" + body)
        assert [type(p) for p in parts] == [Head, bytes, End]
    assert not connection.reusable


@pytest.mark.parametrize("data", [b"", ANSWER[:20], ANSWER[:-1]])
def test_a_truncated_answer_to_a_read_is_unavailable(data: bytes) -> None:
    """When the peer closes before the end of an answer to a GET, nothing was changed and it says so."""
    connection = HttpConnection(SOCKET)
    connection.send(make_request("GET", "/x"))
    with pytest.raises(Unavailable, match="closed the connection"):
        [connection.receive(piece) for piece in (data, b"")]


@pytest.mark.parametrize("method", ["PUT", "POST", "PATCH", "DELETE"])
def test_a_lost_answer_to_a_write_has_an_unknown_outcome(method: str) -> None:
    """When the peer closes before the end of an answer to a write, it may or may not have been done."""
    connection = HttpConnection(SOCKET)
    connection.send(make_request(method, "/v1/streams/a"))
    with pytest.raises(OutcomeUnknown) as caught:
        connection.receive(b"")
    assert caught.value.subject == f"{method} /v1/streams/a"


def test_a_peer_that_does_not_speak_http_is_named_as_such() -> None:
    """Bytes that are no HTTP are reported, not raised as the parser's own error."""
    connection = HttpConnection(SOCKET)
    connection.send(make_request("GET", "/x"))
    with pytest.raises(Unavailable, match="not HTTP"):
        connection.receive(b"SSH-2.0-OpenSSH_9.2\r\n\r\n")


def test_an_informational_answer_is_passed_over() -> None:
    """A 100 Continue before the answer changes nothing."""
    connection = HttpConnection(SOCKET)
    connection.send(make_request("GET", "/x"))
    parts = connection.receive(b"HTTP/1.1 100 Continue\r\n\r\n" + ANSWER)
    assert isinstance(parts[0], Head)
    assert parts[0].status == 200


@pytest.mark.parametrize(
    ("method", "headers", "repeatable"),
    [
        ("GET", {}, True),
        ("PUT", {}, True),
        ("PUT", {"If-Match": '"3"'}, False),
        ("DELETE", {}, False),
        ("POST", {}, False),
        ("PATCH", {}, False),
    ],
)
def test_only_what_cannot_report_something_false_is_repeatable(
    method: str, headers: dict[str, str], repeatable: bool
) -> None:
    """A repeated DELETE would say 404 and a repeated conditional PUT 412 although they had been done."""
    assert make_request(method, "/x", headers=headers).repeatable is repeatable


def test_a_body_over_the_limit_is_refused_while_it_comes() -> None:
    """A collector stops at its limit and does not wait for the end."""
    collector = Collector(max_bytes=4)
    collector.add(Head(200, {}))
    collector.add(b"1234")
    with pytest.raises(TooLarge, match="4 bytes"):
        collector.add(b"5")


@pytest.mark.parametrize("error_class", sorted(BY_CODE.values(), key=lambda c: c.code))
def test_a_problem_document_becomes_its_exception_again(error_class: type[PlatformError]) -> None:
    """Every error of the vocabulary survives the way over HTTP with its class, subject and hint."""
    import msgspec

    error = error_class("it is so", subject="stream/a", hint="do this", details={"oldest": 5})
    body = msgspec.json.encode(error.to_problem() | {"instance": "/v1/streams/a"})
    with pytest.raises(error_class) as caught:
        Response(error.status, {"content-type": "application/problem+json; charset=utf-8"}, body).check()
    assert type(caught.value) is error_class
    assert (str(caught.value), caught.value.details) == (str(error), {"oldest": 5})


def test_a_code_of_a_newer_server_falls_back_to_its_status() -> None:
    """A problem whose code this version does not know is of the class of its status."""
    body = b'{"code": "stream_frozen", "detail": "it is frozen", "errors": [{"nonsense": 1}]}'
    error = problem_of(422, {"content-type": "application/problem+json"}, body)
    assert isinstance(error, Unprocessable)
    assert error.message == "it is frozen"


@pytest.mark.parametrize(
    ("status", "kind", "body", "expected"),
    [
        (500, "text/plain", b"Traceback (most recent call last):", PlatformError),
        (404, "text/html", b"<h1>no</h1>", NotFound),
        (502, "", b"", PlatformError),
        (410, "application/problem+json", b"not json", Gone),
        (500, "application/json", b"[1]", PlatformError),
        (799, "text/plain", b"\xff\xfe", PlatformError),
    ],
)
def test_a_failure_that_is_no_problem_document_is_still_an_error(
    status: int, kind: str, body: bytes, expected: type[PlatformError]
) -> None:
    """A crash's text or a proxy's page becomes the class of its status, with the start of it quoted."""
    error = problem_of(status, {"content-type": kind}, body)
    assert type(error) is expected
    assert str(status) in error.message
    assert body[:10].decode("utf-8", "replace") in error.message


def test_a_success_that_is_not_json_is_an_error() -> None:
    """JSON is promised, so an HTML page with status 200 is reported and not returned."""
    with pytest.raises(PlatformError, match="not JSON"):
        Response(200, {}, b"<html>").json()
