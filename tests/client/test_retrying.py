"""What is sent again, and what is not."""

from __future__ import annotations

from pathlib import Path

import pytest

from platformd.client.blocking import Client
from platformd.client.http import Response, Target, make_request
from platformd.client.retrying import NEVER, Attempts, Retry
from platformd.core.errors import (
    Conflict,
    DeadlineExceeded,
    KeyInUse,
    LimitReached,
    OutcomeUnknown,
    PlatformError,
    Unavailable,
)

from .fake_api import FakeApi, ScriptedPeer, plain_answer, read_request

READ = make_request("GET", "/a")
PUT = make_request("PUT", "/a", json={})
GUARDED = make_request("PUT", "/a", json={}, headers={"If-Match": '"1"'})
DELETE = make_request("DELETE", "/a")
POST = make_request("POST", "/a", json={})


def attempts(request=POST, retry: Retry | None = None, clock: list[float] | None = None) -> Attempts:
    times = clock if clock is not None else [0.0]
    return Attempts(request, retry or Retry(), lambda: times[0], lambda: 1.0)


@pytest.mark.parametrize("error", [Unavailable("x"), LimitReached("x")])
@pytest.mark.parametrize("request_", [READ, PUT, GUARDED, DELETE, POST])
def test_what_was_not_done_is_sent_again(error: PlatformError, request_) -> None:
    """Whatever it is."""
    assert attempts(request_).after_error(error) == 0.05


@pytest.mark.parametrize("error", [OutcomeUnknown("x"), DeadlineExceeded("x")])
@pytest.mark.parametrize(
    ("request_", "again"), [(READ, True), (PUT, True), (GUARDED, False), (DELETE, False), (POST, True)]
)
def test_what_may_have_been_done_only_where_twice_is_once(error: PlatformError, request_, again: bool) -> None:
    """A conditional write or a DELETE could be told something false the second time."""
    assert (attempts(request_).after_error(error) is not None) == again


def test_a_post_has_a_key_of_its_own() -> None:
    """The same for all attempts, another for each request; the caller's own stays; none without repetition."""
    tried = attempts()
    key = dict(tried.request.headers)["idempotency-key"]
    assert key != dict(attempts().request.headers)["idempotency-key"]
    own = make_request("POST", "/a", json={}, headers={"Idempotency-Key": "mine"})
    assert dict(attempts(own).request.headers)["idempotency-key"] == "mine"
    assert "idempotency-key" not in dict(attempts(retry=NEVER).request.headers)
    assert "idempotency-key" not in dict(attempts(PUT).request.headers)


def test_a_key_that_is_in_use_is_ours_after_the_first_attempt() -> None:
    """Before it, somebody else has it, which is an error."""
    tried = attempts()
    assert tried.after_error(KeyInUse("x")) is None
    assert tried.after_error(OutcomeUnknown("x")) == 0.05
    assert tried.after_error(KeyInUse("x")) == 0.1


def test_refusals_are_final_and_waits_grow() -> None:
    """Each wait is twice the last one up to the longest, and the time ends it."""
    clock = [0.0]
    tried = attempts(clock=clock, retry=Retry(within=3.0, longest=0.3))
    assert tried.after_error(Conflict("x")) is None
    assert [tried.after_error(Unavailable("x")) for _ in range(4)] == [0.05, 0.1, 0.2, 0.3]
    assert tried.after_answer(Response(200)) is None
    assert tried.after_answer(Response(404)) is None
    assert tried.after_answer(Response(503)) == 0.3
    clock[0] = 2.9
    assert tried.after_error(Unavailable("x")) is None
    assert attempts(retry=NEVER).after_error(Unavailable("x")) is None


def test_a_daemon_that_comes_back_is_no_error(tmp_path: Path) -> None:
    """An answer that is lost and a refusal that says "not now" are sat out; the key stays the same."""
    heads: list[bytes] = []

    def lose(connection) -> None:
        heads.append(read_request(connection))

    def refuse(connection) -> None:
        heads.append(read_request(connection))
        connection.sendall(plain_answer(b"{}", status=b"503 Service Unavailable", close=True))

    def answer(connection) -> None:
        heads.append(read_request(connection))
        connection.sendall(plain_answer(b'{"a": 1}', close=True))

    waits: list[float] = []
    path = tmp_path / "s"
    with ScriptedPeer(path, lose, refuse, answer):
        with Client(Target(unix=str(path)), retry=Retry(within=30.0), sleep=waits.append) as client:
            assert client.request("POST", "/x", json={}).json() == {"a": 1}
    keys = {line for head in heads for line in head.lower().split(b"\r\n") if line.startswith(b"idempotency-key:")}
    assert len(heads) == 3
    assert len(keys) == 1
    assert len(waits) == 2


def test_without_patience_the_first_error_counts(tmp_path: Path) -> None:
    """The command line says at once what is wrong."""
    with pytest.raises(Unavailable):
        Client(Target(unix=str(tmp_path / "nobody"))).status()
    assert FakeApi().seen == []
