"""Raw HTTP/1.1 clients for tests: one that speaks it right, and the bytes of those that do not."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h11
import trio


@dataclass
class Answer:
    """A whole response."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class ServerSent:
    """One server-sent event; comments have the event name ``:``."""

    event: str
    id: str
    data: Any


class Client:
    """One connection that is kept."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self.stream = stream
        self._h11 = h11.Connection(h11.CLIENT)

    @classmethod
    async def connect(cls, path: Path) -> Client:
        return cls(await trio.open_unix_socket(str(path)))

    @classmethod
    async def connect_tcp(cls, host: str, port: int) -> Client:
        return cls(await trio.open_tcp_stream(host, port))

    async def request(
        self,
        method: str,
        path: str,
        body: Any = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """One request and its whole response. ``body`` is sent as JSON unless it is bytes."""
        head = await self.begin(method, path, body, headers)
        received = b""
        while True:
            event = await self.next_event()
            if isinstance(event, h11.EndOfMessage):
                break
            received += bytes(event.data)
        if self._h11.our_state is h11.DONE and self._h11.their_state is h11.DONE:
            self._h11.start_next_cycle()
        found = {name.decode(): value.decode() for name, value in head.headers}
        return Answer(head.status_code, found, received)

    async def begin(
        self, method: str, path: str, body: Any = None, headers: Mapping[str, str] | None = None
    ) -> h11.Response:
        """Send a request and read the head of its response."""
        sent = {"host": "localhost", **{k.lower(): v for k, v in (headers or {}).items()}}
        data = b""
        if body is not None:
            data = body if isinstance(body, bytes) else json.dumps(body).encode()
            sent.setdefault("content-length", str(len(data)))
            if not isinstance(body, bytes):
                sent.setdefault("content-type", "application/json")
        out = self._h11.send(h11.Request(method=method, target=path, headers=list(sent.items()))) or b""
        if data:
            out += self._h11.send(h11.Data(data=data)) or b""
        out += self._h11.send(h11.EndOfMessage()) or b""
        await self.stream.send_all(out)
        while True:
            event = await self.next_event()
            if isinstance(event, h11.Response):
                return event

    def events(self, path: str, headers: Mapping[str, str] | None = None) -> Events:
        """The server-sent events of a watch, comments included, until the server ends it."""
        return Events(self, path, headers)

    async def ended(self) -> bytes:
        """What comes until the server closes the connection."""
        received = b""
        try:
            while data := await self.stream.receive_some(65536):
                received += data
        except trio.BrokenResourceError:
            pass
        return received

    async def aclose(self) -> None:
        await self.stream.aclose()

    async def next_event(self) -> Any:
        while True:
            event = self._h11.next_event()
            if event is h11.NEED_DATA:
                self._h11.receive_data(bytes(await self.stream.receive_some(65536)))
            elif isinstance(event, h11.ConnectionClosed):
                raise EOFError("the server closed the connection")
            elif not isinstance(event, h11.InformationalResponse):
                return event


class Events:
    """The events of a watch, one by one."""

    def __init__(self, client: Client, path: str, headers: Mapping[str, str] | None) -> None:
        self._client, self._path, self._headers = client, path, headers
        self._begun = False
        self._text = ""
        self._blocks: list[str] = []

    def __aiter__(self) -> Events:
        return self

    async def __anext__(self) -> ServerSent:
        if not self._begun:
            self._begun = True
            head = await self._client.begin("GET", self._path, headers=self._headers)
            assert head.status_code == 200, head
        while not self._blocks:
            event = await self._client.next_event()
            if isinstance(event, h11.EndOfMessage):
                raise StopAsyncIteration
            *self._blocks, self._text = (self._text + bytes(event.data).decode()).split("\n\n")
        return _parse(self._blocks.pop(0))


def _parse(block: str) -> ServerSent:
    if block.startswith(":"):
        return ServerSent(":", "", None)
    fields = {name: value for name, _, value in (line.partition(": ") for line in block.split("\n"))}
    data = fields.get("data")
    return ServerSent(fields.get("event", "message"), fields.get("id", ""), json.loads(data) if data else None)


def masked_frame(payload: bytes = b"hello") -> bytes:
    """A WebSocket text frame as a client sends it."""
    mask = b"\x01\x02\x03\x04"
    return b"\x81" + bytes([0x80 | len(payload)]) + mask + bytes(b ^ mask[i % 4] for i, b in enumerate(payload))


UPGRADE = (
    b"GET /status HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)
H2_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\x00\x00\x00\x04\x00\x00\x00\x00\x00"


def get(path: str = "/status", *headers: bytes, version: bytes = b"1.1") -> bytes:
    """A GET with raw header lines."""
    lines = b"".join(header + b"\r\n" for header in (b"Host: localhost", *headers))
    return b"GET " + path.encode() + b" HTTP/" + version + b"\r\n" + lines + b"\r\n"


def post(body: bytes, *headers: bytes, path: str = "/v1/streams") -> bytes:
    """A POST of JSON with raw header lines and body; no length is added."""
    lines = b"".join(h + b"\r\n" for h in (b"Host: localhost", b"Content-Type: application/json", *headers))
    return b"POST " + path.encode() + b" HTTP/1.1\r\n" + lines + b"\r\n" + body


HOSTILE: dict[str, list[bytes]] = {
    "websocket upgrade with a frame in the same segment": [UPGRADE + masked_frame()],
    "websocket upgrade, then a frame": [UPGRADE, masked_frame()],
    "websocket upgrade with half a frame": [UPGRADE + masked_frame()[:3]],
    "websocket upgrade with garbage": [UPGRADE + bytes(range(256))],
    "websocket upgrade without a key": [UPGRADE.replace(b"Sec-WebSocket-Key", b"X-Nothing") + masked_frame()],
    "websocket upgrade of a watch": [UPGRADE.replace(b"/status", b"/v1/streams?watch") + masked_frame()],
    "h2c upgrade": [
        get("/status", b"Upgrade: h2c", b"Connection: Upgrade, HTTP2-Settings", b"HTTP2-Settings: AAMAAABk")
    ],
    "h2c upgrade with frames behind": [
        get("/status", b"Upgrade: h2c", b"Connection: Upgrade, HTTP2-Settings", b"HTTP2-Settings: !!!") + H2_PREFACE
    ],
    "http/2 preface": [H2_PREFACE],
    "http/2 preface in two parts": [H2_PREFACE[:10], H2_PREFACE[10:]],
    "nothing but a newline": [b"\r\n"],
    "garbage": [bytes(range(256)) * 16],
    "a TLS hello": [bytes.fromhex("160301020001000001fc0303") + b"\x00" * 64],
    "zero bytes": [b"\x00" * 4096],
    "half a request line": [b"GET /sta"],
    "half a head": [b"GET /status HTTP/1.1\r\nHost: local"],
    "half a body": [post(b'{"name": "x"', b"Content-Length: 100")],
    "a body in a second segment to a 404": [post(b"", b"Content-Length: 5", path="/nowhere"), b"hello"],
    "a body in a second segment to a 405": [post(b"", b"Content-Length: 5", path="/status"), b"hello"],
    "a body that never comes to a 404": [post(b"", b"Content-Length: 5", path="/nowhere")],
    "more body than announced": [post(b"{}" * 50, b"Content-Length: 2")],
    "a body over the limit": [post(b"x" * 1000, b"Content-Length: 999999999999")],
    "expect 100-continue and nothing": [post(b"", b"Content-Length: 10", b"Expect: 100-continue")],
    "expect 100-continue over the limit": [post(b"", b"Content-Length: 99999999", b"Expect: 100-continue")],
    "a length that is no number": [post(b"{}", b"Content-Length: two")],
    "a negative length": [post(b"{}", b"Content-Length: -2")],
    "a length of a thousand digits": [post(b"{}", b"Content-Length: " + b"9" * 1000)],
    "two lengths that differ": [post(b"{}", b"Content-Length: 2", b"Content-Length: 3")],
    "length and chunked": [post(b"2\r\n{}\r\n0\r\n\r\n", b"Content-Length: 2", b"Transfer-Encoding: chunked")],
    "an unknown transfer coding": [post(b"", b"Transfer-Encoding: gzip, chunked")],
    "a chunk size that is no number": [post(b"zz\r\n{}\r\n", b"Transfer-Encoding: chunked")],
    "a huge chunk size": [post(b"FFFFFFFFFFFFFFFF\r\n" + b"x" * 1000, b"Transfer-Encoding: chunked")],
    "a chunk size without end": [post(b"1" * 70000, b"Transfer-Encoding: chunked")],
    "a chunk without its end": [post(b"2\r\n{}XX0\r\n\r\n", b"Transfer-Encoding: chunked")],
    "chunks of one byte over the limit": [post(b"1\r\nx\r\n" * 5000, b"Transfer-Encoding: chunked")],
    "a head of 100 KB": [get("/status", b"X-Big: " + b"x" * 100_000)],
    "10,000 headers": [get("/status", *(b"X-%d: y" % i for i in range(10_000)))],
    "a path of 60 KB": [get("/" + "a" * 60_000)],
    "a header without a colon": [get("/status", b"nonsense")],
    "a header with a zero byte": [get("/status", b"X-Zero: a\x00b")],
    "a header with bytes above ASCII": [get("/status", b"X-High: \xff\xfe", b"X-Request-Id: \xff")],
    "no host": [b"GET /status HTTP/1.1\r\n\r\n"],
    "HTTP/0.9": [b"GET /status\r\n\r\n"],
    "HTTP/1.0": [get("/status", version=b"1.0")],
    "HTTP/9.9": [get("/status", version=b"9.9")],
    "a target that is a query": [get("/status").replace(b" /status ", b" ?watch ")],
    "a target that is an asterisk": [get("/status").replace(b"GET /status ", b"OPTIONS * ")],
    "a target with another host": [get("/status").replace(b" /status ", b" http://example.org ")],
    "a target with a bad URL": [get("/status").replace(b" /status ", b" http://[ ")],
    "CONNECT": [get("/status").replace(b"GET /status ", b"CONNECT example.org:443 ") + b"\x16\x03\x01"],
    "an unknown method": [get("/status").replace(b"GET ", b"BREW ")],
    "a path with bad escapes": [get("/v1/streams/%ff%00%zz%2f..%2f")],
    "a query with bad escapes": [get("/v1/streams?%ff=%00&label=%&cursor=%ff")],
    "JSON nested 100,000 deep": [post(b"[" * 100_000, b"Content-Length: 100000")],
    "pipelined requests": [get() * 100],
    "pipelined requests with garbage behind": [get() * 3 + b"\x00\x01\x02"],
    "a pipelined body without end": [get() + post(b"{", b"Content-Length: 99")],
    "a watch, then garbage": [get("/v1/streams?watch"), b"\x00" * 100],
    "a watch with requests behind": [get("/v1/streams?watch") + get() * 10],
}
"""What a client may send, in segments; after each of them the server must be as good as before."""
