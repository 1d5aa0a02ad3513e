"""``api``: any request, with the command line's own access."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ..client.fake_api import FakeApi, event
from .conftest import Cli


def test_an_answer_is_printed_byte_for_byte(cli: Cli, api: FakeApi) -> None:
    """As it comes; a path without a slash is below /v1 and the tenant."""
    api.put("streams", "a")
    api.put("streams", "b", tenant="t")
    ran = cli("api", "streams/a")
    assert json.loads(ran.raw) == api.objects["default", "streams", "a"]
    assert cli("api", "GET", "streams/b", "--tenant", "t", "-o", "jsonpath=.tenant").out == "t\n"
    assert api.seen[-1].path == "/v1/tenants/t/streams/b"
    assert cli("api", "/status", "-o", "json").json() == {}
    assert cli("api", "streams", "-o", "yaml").out.startswith("kind: Stream")


def test_parameters_headers_and_a_body(cli: Cli, api: FakeApi, tmp_path: Path) -> None:
    """They are sent as they are given; with data the method is POST; a file and standard input can be the body."""
    document = '{"name": "a", "spec": {"subjects": ["a"]}}'
    assert cli("api", "streams?apply", "-q", "x=y=z", "-H", "X-Request-Id: r1", "-d", document).code == 0
    seen = api.seen[-1]
    assert (seen.method, seen.query, seen.body.decode()) == ("POST", {"apply": "", "x": "y=z"}, document)
    assert (seen.headers["x-request-id"], seen.headers["content-type"]) == ("r1", "application/json")
    file = tmp_path / "d.json"
    file.write_text('{"spec": {"max_age": "1d"}}')
    assert cli("api", "PATCH", "streams/a", "-d", f"@{file}").code == 0
    assert api.seen[-1].headers["content-type"] == "application/merge-patch+json"
    assert cli("api", "patch", "streams/a", "-d", "@-", "--dry-run", stdin=b"{}").code == 0
    assert (api.seen[-1].body, api.seen[-1].query) == (b"{}", {"dry_run": "true"})


def test_a_refusal_is_an_error_like_any_other(cli: Cli, api: FakeApi) -> None:
    """Nothing on standard output, the message on standard error, and the code of the table."""
    ran = cli("api", "streams/nobody")
    assert (ran.code, ran.out) == (3, "")
    assert "no such thing" in ran.err
    assert json.loads(cli("api", "streams/nobody", "-o", "json").err)["code"] == "not_found"


def test_headers_are_shown_when_asked_for(cli: Cli, api: FakeApi) -> None:
    """As curl -i does."""
    api.put("streams", "a")
    lines = cli("api", "-i", "streams/a").out.splitlines()
    assert lines[0] == "HTTP/1.1 200 OK"
    assert 'etag: "1"' in lines
    assert cli("api", "-i", "streams/a", "-o", "jsonpath=name").out.endswith("\n\na\n")


def test_a_stream_of_events_comes_as_it_is(cli: Cli, api: FakeApi) -> None:
    """A watch is printed until it ends."""
    api.watches = [event(7, "bookmark", {"revision": 7})]
    assert cli("api", "watch?kinds=streams&watch").raw == event(7, "bookmark", {"revision": 7})


@pytest.mark.parametrize(
    "words", [("A", "B", "C"), ("FETCH", "streams"), ("streams", "-H", "nonsense"), ("streams?a=1", "-q", "a=2")]
)
def test_what_is_no_request_is_refused(cli: Cli, api: FakeApi, words: tuple[str, ...]) -> None:
    """Before anything is sent."""
    assert cli("api", *words).code == 2
    assert not api.seen
