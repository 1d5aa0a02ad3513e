"""The blocking client against a small daemon, and against peers that misbehave."""

from __future__ import annotations

import socket
import threading
from pathlib import Path

import pytest

from platformd.client import blocking, blocking_link
from platformd.client.blocking import Client
from platformd.client.http import Target, make_request
from platformd.core.errors import (
    Conflict,
    DeadlineExceeded,
    Forbidden,
    InvalidInput,
    NotFound,
    OutcomeUnknown,
    PlatformError,
    PreconditionFailed,
    TooLarge,
    Unavailable,
    Unprocessable,
)
from platformd.model.resource import AnyResource, Resource
from platformd.model.stream import StreamSpec, StreamStatus

from .fake_api import FakeApi, ScriptedPeer, Seen, plain_answer, read_request, serving

SPEC = {"subjects": ["alerts.>"]}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A short path for a socket."""
    return tmp_path / "s"


def client_of(path: Path, timeout: float = 10.0) -> Client:
    return Client(Target(unix=str(path)), timeout=timeout, sleep=lambda _seconds: None)


def test_resources_are_created_read_applied_changed_and_deleted(path: Path) -> None:
    """One life of a resource through every operation, typed on the way back."""
    with serving(FakeApi(), path) as api, client_of(path) as client:
        created = client.create("streams", {"name": "a", "spec": SPEC})
        assert created.spec == StreamSpec(subjects=("alerts.>",))
        assert client.get("stream", "a") == created
        assert client.apply("stream", created).outcome == "configured"  # defaults are now spelled out
        assert client.apply("stream", client.get("stream", "a")).outcome == "unchanged"
        assert client.patch("stream", "a", {"spec": {"max_bytes": "1GiB"}}).spec.max_bytes == "1GiB"
        assert client.list("streams").items == (client.get("stream", "a"),)
        assert client.delete("stream", "a") is True
        with pytest.raises(NotFound, match="stream/a"):
            client.get("stream", "a")
        assert api.seen[-4].headers["user-agent"].startswith("platformd/")


def test_a_deletion_that_waits_for_a_controller_says_so(path: Path) -> None:
    """202 means that the resource is still there."""
    with serving(FakeApi(slow_to_delete=1), path) as api, client_of(path) as client:
        api.put("streams", "a", spec=SPEC)
        assert client.delete("stream", "a") is False


def test_a_listing_follows_its_cursors(path: Path) -> None:
    """All pages become one listing, with the revision of the first."""
    with serving(FakeApi(page_limit=2), path) as api, client_of(path) as client:
        for name in "edcba":
            api.put("streams", name, tenant="t", labels={"odd": name} if name in "ace" else {}, spec=SPEC)
        listing = client.list("streams", tenant="t", selector="odd")
        assert ([r.name for r in listing.items], listing.revision) == (["a", "c", "e"], 5)
        assert len(api.seen) == 2


def test_conditions_and_dry_runs_reach_the_server(path: Path) -> None:
    """If-Match carries the expected revision, and dry runs their flag."""
    with serving(FakeApi(), path) as api, client_of(path) as client:
        resource = client.create("streams", {"name": "a", "spec": SPEC}, dry_run=True)
        client.apply("streams", resource, expect_revision=4, dry_run=True)
        client.patch("streams", "a", {}, expect_revision=5)
        client.delete("streams", "a", expect_revision=6)
        assert [s.headers.get("if-match") for s in api.seen] == [None, '"4"', '"5"', '"6"']
        assert [s.query.get("dry_run") for s in api.seen] == ["true", "true", None, None]
        assert api.seen[2].headers["content-type"] == "application/merge-patch+json"


def test_refusals_are_raised_as_what_they_are(path: Path) -> None:
    """The class, the field errors and the subject come through."""
    with serving(FakeApi(), path) as api, client_of(path) as client:
        with pytest.raises(Unprocessable) as caught:
            client.apply("streams", {"name": "a", "spec": {"bad": 1}})
        assert [e.path for e in caught.value.errors] == ["spec.bad"]
        client.create("streams", {"name": "a", "spec": SPEC})
        with pytest.raises(Conflict, match="already"):
            client.create("streams", {"name": "a", "spec": SPEC})
        api.answers.append(lambda _: (500, {"content-type": "text/plain"}, b"Internal Server Error"))
        with pytest.raises(PlatformError, match="500") as crashed:
            client.status()
        assert type(crashed.value) is PlatformError


def test_requests_share_one_connection(path: Path) -> None:
    """Two requests in a row use the same connection, and the client works again after it was closed."""

    def twice(connection: socket.socket) -> None:
        for _ in range(2):
            read_request(connection)
            connection.sendall(plain_answer(b'{"n":1}'))

    with ScriptedPeer(path, twice, twice), client_of(path) as client:
        for _ in range(2):
            assert [client.status(), client.status()] == [{"n": 1}] * 2
            client.close()


def once(answer: bytes) -> blocking.Callable[[socket.socket], None]:
    """A script that answers one request and closes."""

    def script(connection: socket.socket) -> None:
        read_request(connection)
        connection.sendall(answer)

    return script


def test_a_kept_connection_that_the_server_closed_is_replaced(path: Path) -> None:
    """A closed connection is noticed before it is used, so even a write goes through."""
    closed = threading.Event()

    def closing(connection: socket.socket) -> None:
        once(plain_answer(b"{}"))(connection)
        connection.shutdown(socket.SHUT_RDWR)
        closed.set()

    with ScriptedPeer(path, closing, once(plain_answer(b"{}"))), client_of(path) as client:
        client.status()
        assert closed.wait(5)
        client.request("POST", "/v1/streams", json={})


def race(connection: socket.socket) -> None:
    """Answer one request, then close just when the next one arrives: the keep-alive race."""
    once(plain_answer(b"{}"))(connection)
    connection.recv(1)


def test_a_read_that_loses_the_keep_alive_race_is_sent_again(path: Path) -> None:
    """A server that closes a kept connection while a GET is on its way is asked again."""
    with ScriptedPeer(path, race, once(plain_answer(b'{"again":true}'))), client_of(path) as client:
        client.status()
        assert client.status() == {"again": True}


def test_a_write_that_loses_the_keep_alive_race_is_not_sent_again(path: Path) -> None:
    """A POST on a kept connection that ends without an answer has an unknown outcome."""
    with ScriptedPeer(path, race), client_of(path) as client:
        client.status()
        with pytest.raises(OutcomeUnknown):
            client.request("POST", "/v1/streams", json={})


def test_a_read_is_sent_again_only_once(path: Path) -> None:
    """When the second connection ends without an answer too, that is the error."""

    def deaf(connection: socket.socket) -> None:
        connection.recv(1)

    with ScriptedPeer(path, race, deaf), client_of(path) as client:
        client.status()
        with pytest.raises(Unavailable):
            client.status()


@pytest.mark.parametrize("cut", [0, 10, len(plain_answer(b'{"a":1}')) - 1])
def test_a_truncated_answer_is_an_error(path: Path, cut: int) -> None:
    """An answer that ends before its end is never taken for a whole one."""
    with ScriptedPeer(path, once(plain_answer(b'{"a":1}')[:cut])), client_of(path) as client:
        with pytest.raises(Unavailable, match="closed the connection"):
            client.status()


def test_an_answer_that_comes_before_the_body_was_read_is_seen(path: Path) -> None:
    """A server that refuses a large body with 413 and closes is heard, although sending failed."""

    def refuse(connection: socket.socket) -> None:
        connection.recv(100)
        body = b'{"code":"too_large","detail":"over 4MiB"}'
        connection.sendall(plain_answer(body, status=b"413 Too Large", kind=b"application/problem+json", close=True))

    with ScriptedPeer(path, refuse), client_of(path) as client:
        with pytest.raises(TooLarge, match="over 4MiB"):
            client.request("POST", "/v1/streams", body=b"x" * (8 << 20))


def test_silence_has_a_deadline(path: Path) -> None:
    """A daemon that takes the request and says nothing is given up after the timeout."""
    done = threading.Event()

    def silent(connection: socket.socket) -> None:
        read_request(connection)
        done.wait(10)

    with ScriptedPeer(path, silent, silent):
        with client_of(path, timeout=0.05) as client:
            with pytest.raises(DeadlineExceeded, match=r"0\.05s"):
                client.status()
            with pytest.raises(OutcomeUnknown, match="nothing came"):
                client.request("POST", "/x")
        done.set()


def test_an_http_1_0_answer_without_a_length_is_read_to_the_end(path: Path) -> None:
    """A proxy that answers with HTTP/1.0 and closes is understood."""
    with ScriptedPeer(path, once(b"HTTP/1.0 200 OK\r\n\r\n{}")), client_of(path) as client:
        assert client.status() == {}


def test_a_socket_that_is_not_there_says_what_to_do(path: Path) -> None:
    """Nobody there is Unavailable with a hint, whether the socket is missing or dead."""
    with pytest.raises(Unavailable, match="no such socket") as missing:
        client_of(path).status()
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
        with pytest.raises(Unavailable, match="nothing is listening") as refused:
            client_of(path).status()
    for error in (missing.value, refused.value):
        assert error.subject == str(path)
        assert "platformd run" in str(error.hint)


def test_a_port_where_nobody_listens_says_what_to_do() -> None:
    """The same over TCP, with the URL as the subject."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    with pytest.raises(Unavailable, match="nothing is listening"):
        Client(Target(host="127.0.0.1", port=port)).status()


def test_tcp_works_like_the_socket() -> None:
    """A request over TCP carries the authority as its Host."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        heads = []

        def serve() -> None:
            connection, _ = server.accept()
            with connection:
                heads.append(read_request(connection))
                connection.sendall(plain_answer(b"{}"))

        thread = threading.Thread(target=serve)
        thread.start()
        with Client(Target(host="127.0.0.1", port=port)) as client:
            assert client.status() == {}
        thread.join()
    assert f"host: 127.0.0.1:{port}\r\n".encode() in heads[0]


def test_a_socket_that_may_not_be_opened_is_forbidden(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Missing permission is told apart from a daemon that is not there."""

    def refuse(_path: str) -> socket.socket:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(blocking_link, "_connect_unix", refuse)
    with pytest.raises(Forbidden, match="group"):
        client_of(path).status()


def test_a_path_that_no_socket_can_have_is_refused(tmp_path: Path) -> None:
    """The limit of the kernel is named, instead of its error."""
    with pytest.raises(InvalidInput, match="107"):
        client_of(tmp_path / ("x" * 120)).status()


def test_a_full_backlog_is_waited_for_and_then_reported(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A daemon that accepts nobody is given up after the connect timeout, not at once and not never."""
    monkeypatch.setattr(blocking_link, "CONNECT_TIMEOUT", 0.05)
    with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as waiting:
        listener.bind(str(path))
        listener.listen(0)
        waiting.connect(str(path))
        with pytest.raises(Unavailable, match="no connection was accepted"):
            client_of(path).status()


def test_a_resource_that_is_handed_back_is_accepted(path: Path) -> None:
    """A typed resource can be written as it is, whatever the server owns in it."""
    resource: AnyResource = Resource(
        kind="Stream", name="a", uid="u", revision=4, spec=StreamSpec(subjects=("a",)), status=StreamStatus()
    )
    with serving(FakeApi(), path) as api, client_of(path) as client:
        assert client.apply("stream", resource).outcome == "created"
        assert api.seen[0].path == "/v1/streams/a"


def test_a_failed_precondition_has_its_own_error(path: Path) -> None:
    """412 is PreconditionFailed, so that read-modify-write loops can catch it."""

    def answer(_seen: Seen) -> tuple[int, dict[str, str], bytes]:
        return 412, {"content-type": "application/problem+json"}, b'{"code":"precondition_failed","detail":"is 5"}'

    with serving(FakeApi(answers=[answer]), path), client_of(path) as client:
        with pytest.raises(PreconditionFailed, match="is 5"):
            client.apply("stream", {"name": "a"}, expect_revision=4)


def test_any_request_can_be_made(path: Path) -> None:
    """``send`` gives the answer as it is, ``request`` only a success."""
    with serving(FakeApi(), path), client_of(path) as client:
        assert client.send(make_request("GET", "/v1/nonsense")).status == 404
        with pytest.raises(NotFound):
            client.request("GET", "/v1/nonsense")
