"""A daemon of a few lines: the REST of the control API on a Unix socket, from the standard library.

``FakeApi`` keeps resources in a dict and speaks HTTP through ``http.server``. ``ScriptedPeer`` speaks no
protocol at all: each connection gets the next script, so that it can do what a well-behaved server never does.
"""

from __future__ import annotations

import http.server
import json
import socket
import socketserver
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from platformd.core.errors import Conflict, MethodNotAllowed, NotFound, PlatformError, Unprocessable
from platformd.model.kinds import BY_PLURAL

CREATED_AT = "2026-01-31T12:00:00.000000Z"


@dataclass
class Seen:
    """One request as it came."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: bytes
    peer: object = None
    """Whose connection it came on."""


@dataclass
class FakeApi:
    """The daemon's state. Change it between requests, or have ``answers`` speak first."""

    objects: dict[tuple[str, str, str], dict[str, Any]] = field(default_factory=dict)
    """By (tenant, plural, name)."""
    status: dict[str, Any] = field(default_factory=dict)
    revision: int = 0
    page_limit: int = 500
    slow_to_delete: int = 0
    """How many reads a deleted object survives."""
    deleting: dict[tuple[str, str, str], int] = field(default_factory=dict)
    consumers: dict[tuple[str, str], dict[str, Any]] = field(default_factory=dict)
    watches: list[bytes] = field(default_factory=list)
    """The bodies of the watches to come; after the last one a watch ends at once."""
    answers: list[Callable[[Seen], tuple[int, dict[str, str], bytes] | None]] = field(default_factory=list)
    """Asked before anything else; the first that gives an answer has the word."""
    seen: list[Seen] = field(default_factory=list)

    def put(self, plural: str, name: str, tenant: str = "default", **members: Any) -> dict[str, Any]:
        """Store an object as the daemon would."""
        self.revision += 1
        kind = BY_PLURAL[plural].name
        document = {
            "kind": kind, "name": name, "tenant": tenant, "labels": {}, "annotations": {},
            "uid": f"uid-{self.revision}", "generation": 1, "revision": self.revision,
            "created_at": CREATED_AT, "updated_at": CREATED_AT,
            "deleting_at": None, "finalizers": [], "owner": None, "spec": {}, "status": {"state": "pending"},
        } | members  # fmt: skip
        self.objects[tenant, plural, name] = document
        return document

    def answer(self, seen: Seen) -> tuple[int, dict[str, str], bytes]:
        """The answer to a request."""
        for answer in self.answers:
            given = answer(seen)
            if given is not None:
                return given
        try:
            status, headers, document = self._route(seen)
        except PlatformError as error:
            problem = error.to_problem() | {"instance": seen.path}
            return error.status, {"content-type": "application/problem+json"}, json.dumps(problem).encode()
        if isinstance(document, bytes):
            return status, headers, document
        return status, headers | {"content-type": "application/json"}, json.dumps(document).encode()

    def _route(self, seen: Seen) -> tuple[int, dict[str, str], Any]:
        if seen.path == "/status":
            return 200, {}, self.status
        parts = [unquote(part) for part in seen.path.removeprefix("/v1/").split("/")]
        tenant = "default"
        if parts[0] == "tenants":
            tenant, parts = parts[1], parts[2:]
        if parts[0] == "watch" or "watch" in seen.query:
            body = self.watches.pop(0) if self.watches else b""
            return 200, {"content-type": "text/event-stream"}, body
        if parts[2:3] == ["consumers"]:
            return self._consumer(seen, *parts[1::2])
        if parts[0] not in BY_PLURAL:
            raise NotFound("there is no such kind", subject=parts[0])
        if len(parts) > 2:
            raise NotFound("there is no such path", subject=seen.path)
        if len(parts) == 1:
            return self._collection(seen, tenant, parts[0])
        return self._object(seen, (tenant, parts[0], parts[1]))

    def _collection(self, seen: Seen, tenant: str, plural: str) -> tuple[int, dict[str, str], Any]:
        if seen.method == "POST":
            document = json.loads(seen.body)
            if (tenant, plural, document["name"]) in self.objects:
                raise Conflict("it is there already", subject=f"{BY_PLURAL[plural].singular}/{document['name']}")
            return 201, {}, self.put(plural, document["name"], tenant, spec=document.get("spec", {}))
        if seen.method != "GET":
            raise MethodNotAllowed("only GET and POST")
        key, _, value = seen.query.get("label", "").partition("=")

        def selected(labels: dict[str, str]) -> bool:
            return not key or (labels.get(key) == value if value else key in labels)

        names = sorted(n for t, p, n in self.objects if (t, p) == (tenant, plural))
        after = seen.query.get("cursor", "")
        names = [n for n in names if n > after and selected(self.objects[tenant, plural, n]["labels"])]

        limit = min(self.page_limit, int(seen.query.get("limit", self.page_limit)))
        page, more = names[:limit], len(names) > limit
        items = [self.objects[tenant, plural, n] for n in page]
        return 200, {}, {"items": items, "revision": self.revision, "cursor": page[-1] if more else None}

    def _object(self, seen: Seen, key: tuple[str, str, str]) -> tuple[int, dict[str, str], Any]:
        subject = f"{BY_PLURAL[key[1]].singular}/{key[2]}"
        if seen.method == "PUT":
            return self._apply(seen, key)
        if key not in self.objects:
            raise NotFound("there is no such thing", subject=subject)
        document = self.objects[key]
        if seen.method == "PATCH":
            changes = json.loads(seen.body)
            return 200, {}, self.put(key[1], key[2], key[0], spec=document["spec"] | changes.get("spec", {}))
        if key in self.deleting:
            self.deleting[key] -= 1
            if self.deleting[key] < 0:
                del self.objects[key], self.deleting[key]
                raise NotFound("there is no such thing", subject=subject)
        if seen.method == "DELETE" and seen.query.get("dry_run") != "true":
            if self.slow_to_delete:
                self.deleting[key] = self.slow_to_delete
                return 202, {}, document
            del self.objects[key]
        return 200, {"etag": f'"{document["revision"]}"'}, document

    def _kept(self, before: dict[str, Any] | None) -> dict[str, Any]:
        return {} if before is None else {"uid": before["uid"], "created_at": before["created_at"]}

    def _apply(self, seen: Seen, key: tuple[str, str, str]) -> tuple[int, dict[str, str], Any]:
        document, before = json.loads(seen.body), self.objects.get(key)
        spec = document.get("spec", {})
        if spec.get("bad"):
            from platformd.core.errors import FieldError

            errors = (FieldError(path="spec.bad", message="is not a known field"),)
            raise Unprocessable(
                "the document is not valid", subject=f"{BY_PLURAL[key[1]].singular}/{key[2]}", errors=errors
            )
        outcome = "created" if before is None else "unchanged" if before["spec"] == spec else "configured"
        if seen.query.get("dry_run") == "true":
            after = document
        else:
            after = (
                before
                if before is not None and outcome == "unchanged"
                else self.put(key[1], key[2], key[0], **self._kept(before), **_decided(document))
            )
        return 201 if before is None else 200, {"platformd-outcome": outcome}, after

    def _consumer(self, seen: Seen, stream: str, name: str = "") -> tuple[int, dict[str, str], Any]:
        key = (stream, name)
        if ("default", "streams", stream) not in self.objects:
            raise NotFound("there is no such stream", subject=f"stream/{stream}")
        if not name:
            return 200, {}, {"items": [info for (of, _), info in self.consumers.items() if of == stream]}
        if seen.method == "PUT":
            self.consumers[key] = {"stream": stream, "name": name, "config": json.loads(seen.body)}
            return 201, {}, self.consumers[key]
        if key not in self.consumers:
            raise NotFound("there is no such consumer", subject=f"consumer/{name}")
        if seen.method != "DELETE":
            raise MethodNotAllowed("only PUT and DELETE")
        del self.consumers[key]
        return 204, {}, b""


def _decided(document: dict[str, Any]) -> dict[str, Any]:
    return {"spec": {}} | {key: document[key] for key in ("spec", "labels", "annotations") if key in document}


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server | _TcpServer

    def address_string(self) -> str:
        return "unix"

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the name is the library's
        """Say nothing."""

    def _answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        url = urlsplit(self.path)
        query = {k: v[0] for k, v in parse_qs(url.query, keep_blank_values=True).items()}
        seen = Seen(
            self.command, url.path, query, {k.lower(): v for k, v in self.headers.items()}, body, self.client_address
        )
        self.server.api.seen.append(seen)
        status, sent, body = self.server.api.answer(seen)
        self.send_response(status)
        for name, value in sent.items():
            self.send_header(name, value)
        if sent.get("content-type") == "text/event-stream":
            self.send_header("transfer-encoding", "chunked")
            self.end_headers()
            self.wfile.write((b"%x\r\n%b\r\n" % (len(body), body) if body else b"") + b"0\r\n\r\n")
        else:
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    do_GET = do_PUT = do_POST = do_PATCH = do_DELETE = _answer  # noqa: N815 - the names are the library's


class _Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True
    api: FakeApi

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is none of our business."""


@contextmanager
def serving(api: FakeApi, path: Path) -> Iterator[FakeApi]:
    """Serve ``api`` on the Unix socket ``path``."""
    with _Server(str(path), _Handler) as server:
        server.api = api
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield api
        finally:
            server.shutdown()
            thread.join()


class _TcpServer(socketserver.ThreadingTCPServer):
    daemon_threads = True
    api: FakeApi
    context: ssl.SSLContext

    def finish_request(self, request: Any, client_address: Any) -> None:
        with self.context.wrap_socket(request, server_side=True) as sealed:
            super().finish_request(sealed, client_address)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is none of our business."""


@contextmanager
def serving_tls(api: FakeApi, context: ssl.SSLContext) -> Iterator[tuple[FakeApi, int]]:
    """Serve ``api`` with TLS on a port of the loopback interface, which is given."""
    with _TcpServer(("127.0.0.1", 0), _Handler) as server:
        server.api, server.context = api, context
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield api, server.server_address[1]
        finally:
            server.shutdown()
            thread.join()


Script = Callable[[socket.socket], None]


class ScriptedPeer:
    """A listener that plays one script for each connection, in order."""

    def __init__(self, path: Path, *scripts: Script) -> None:
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(str(path))
        self._listener.listen()
        self.errors: list[BaseException] = []
        self._thread = threading.Thread(target=self._play, args=(scripts,))

    def _play(self, scripts: tuple[Script, ...]) -> None:
        for script in scripts:
            connection, _ = self._listener.accept()
            with connection:
                connection.settimeout(10)
                try:
                    script(connection)
                except BaseException as error:  # noqa: BLE001 - shown by the test that owns this peer
                    self.errors.append(error)

    def __enter__(self) -> ScriptedPeer:
        self._thread.start()
        return self

    def __exit__(self, *_exception: object) -> None:
        self._thread.join(10)
        self._listener.close()
        assert not self._thread.is_alive(), "fewer connections came than there are scripts"
        assert not self.errors, self.errors


def read_request(connection: socket.socket) -> bytes:
    """One request's head and body (by its content-length)."""
    data = b""
    while b"\r\n\r\n" not in data:
        piece = connection.recv(65536)
        if not piece:
            return data
        data += piece
    head, _, body = data.partition(b"\r\n\r\n")
    lengths = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
    length = int(lengths[0].split(b":")[1]) if lengths else 0
    while len(body) < length:
        body += connection.recv(65536)
    return head + b"\r\n\r\n" + body


def plain_answer(
    body: bytes, *, status: bytes = b"200 OK", kind: bytes = b"application/json", close: bool = False
) -> bytes:
    """A whole response."""
    head = b"HTTP/1.1 %b\r\ncontent-type: %b\r\ncontent-length: %d\r\n" % (status, kind, len(body))
    return head + (b"connection: close\r\n" if close else b"") + b"\r\n" + body


def event(revision: int, kind: str, document: dict[str, Any]) -> bytes:
    """One server-sent event."""
    return f"id: {revision}\nevent: {kind}\ndata: {json.dumps(document)}\n\n".encode()
