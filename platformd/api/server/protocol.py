"""HTTP/1.1 as the control API speaks it: hypercorn's protocol objects with the rules that they lack.

- Only HTTP/1.0 and HTTP/1.1, and WebSocket out of them. Another offer to upgrade (h2c) is ignored, which RFC 9110 §7.8
  allows. hypercorn's own code for both is left out: it is where foreign frames end servers.
- What the protocol refuses before the application sees it is answered with the same problem documents as
  everything else.
- A request that announces a body over the limit is refused before a byte of it is asked for.
- The head of a response leaves with the first piece of its body: one system call, one wake-up of the client.
"""

from __future__ import annotations

import contextlib
from http import HTTPStatus
from typing import Any, Final
from urllib.parse import unquote

import h11
import msgspec
from hypercorn.events import Closed, RawData
from hypercorn.events import Event as ConnectionEvent
from hypercorn.protocol.events import Body, EndBody, Event, Request, Response, StreamClosed
from hypercorn.protocol.h11 import STREAM_ID, H11Protocol
from hypercorn.protocol.http_stream import ASGIHTTPState, HTTPStream
from hypercorn.typing import H11SendableEvent

from platformd.api.server.handshake import BadHandshake, Headers, offers_websocket, read_handshake
from platformd.api.server.websocket import WebSocket, WebSocketLimits
from platformd.api.server.websocket_stream import WebSocketStream
from platformd.core.errors import InvalidInput, PlatformError, TooLarge

GOING_AWAY: Final = 1001
"""The code that a WebSocket is closed with when the server stops (RFC 6455 §7.4.1)."""
STOPPING: Final = "the daemon stops"
_VERSIONS: Final = (b"1.0", b"1.1")
_JOIN_BYTES: Final = 64 * 1024
"""A head and a body piece up to this size are sent together; copying more costs more than it saves."""


_REASONS: Final = {
    HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE: "the request head has more than {limit} bytes (http.max_head)",
    HTTPStatus.NOT_IMPLEMENTED: "the only transfer coding that is understood is chunked",
}


def problem_body(error: PlatformError, status: int | None = None) -> tuple[int, bytes]:
    """The status and the body of ``error`` as a problem document, for answers without a request.

    Args:
        error: what is wrong.
        status: a status that says it more closely than the error's own.
    """
    problem = error.to_problem()
    if status is not None:
        problem |= {"status": status, "title": HTTPStatus(status).phrase}
    return int(problem["status"]), msgspec.json.encode(problem)


def problem_headers(body: bytes) -> list[tuple[bytes, bytes]]:
    """The headers of a last answer on a connection, with ``body``."""
    return [
        (b"content-type", b"application/problem+json"),
        (b"content-length", b"%d" % len(body)),
        (b"connection", b"close"),
    ]


class ControlStream(HTTPStream):
    """One request and its response. What hypercorn answers on its own gets a body that says why."""

    async def _send_error_response(self, status_code: int) -> None:
        error = PlatformError("the request could not be carried out", hint="the daemon's log says more")
        status, body = problem_body(error, status_code)
        await self.send(Response(stream_id=self.stream_id, headers=problem_headers(body), status_code=status))
        await self.send(Body(stream_id=self.stream_id, data=body))
        await self.send(EndBody(stream_id=self.stream_id))
        self.state = ASGIHTTPState.CLOSED


class _Switched(Exception):
    """Leaves hypercorn's loop over HTTP events, as its own exceptions for HTTP/2 do."""


class ControlProtocol(H11Protocol):
    """The HTTP/1.1 side of one connection."""

    connection: h11.Connection
    stream: ControlStream | None
    max_body = 0
    """Bytes; set by the connection."""
    websocket_limits: WebSocketLimits
    """Set by the connection."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._held = b""
        self._refused = False
        self._websocket_stream: WebSocketStream | None = None
        self.websocket: WebSocket | None = None
        """What the connection has become, if it has; then nothing more is for this object."""

    @property
    def request_number(self) -> int:
        """Which request of the connection is being received or has been, from 1."""
        return self.keep_alive_requests + (self.connection.their_state is h11.IDLE)

    @property
    def receiving(self) -> bool:
        """Whether a request has begun to come in and has not come in whole."""
        state = self.connection.their_state
        return state is h11.SEND_BODY or (state is h11.IDLE and bool(self.connection.trailing_data[0]))

    @property
    def unread(self) -> bool:
        """Whether the client has been answered and may still be sending what nobody will read."""
        if self.connection.our_state is h11.IDLE:
            return False
        return self.connection.their_state in (h11.SEND_BODY, h11.ERROR) or bool(self.connection.trailing_data[0])

    async def handle(self, event: ConnectionEvent) -> None:
        """What the connection has received, or that it is over."""
        if isinstance(event, Closed) and self._websocket_stream is not None:
            self._websocket_stream.end()
            if self.websocket is not None:  # it may have been lost before it ran
                self.websocket.abandon()
        with contextlib.suppress(_Switched):  # what comes after that is for ``websocket``
            await super().handle(event)

    async def refuse(self, error: PlatformError, status: int | None = None, headers: Headers | None = None) -> None:
        """Answer the request that is coming in with ``error``, if nothing has been answered yet."""
        status, body = problem_body(error, status)
        await self.respond(status, [*problem_headers(body), *(headers or [])], body)

    async def respond(self, status: int, headers: Headers, body: bytes) -> None:
        """Answer the request that is coming in with the last response of the connection, if nothing was answered yet.

        ``headers`` say how long the body is. The connection goes on until the caller says ``Closed``.
        """
        if self.connection.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
            return
        self._refused = True
        all_headers = [*headers, *self.config.response_headers("h11")]
        if not any(name == b"connection" and value == b"close" for name, value in headers):
            all_headers.append((b"connection", b"close"))
        await self._send_h11_event(h11.Response(status_code=status, headers=all_headers))
        await self._send_h11_event(h11.Data(data=body))
        await self._send_h11_event(h11.EndOfMessage())

    async def switch(self, headers: Headers) -> WebSocket:
        """Answer 101: the connection becomes a WebSocket."""
        answer = h11.InformationalResponse(
            status_code=101, reason=b"Switching Protocols", headers=[*headers, *self.config.response_headers("h11")]
        )
        data = self.connection.send(answer) or b""
        self.websocket = WebSocket(self.websocket_limits, self.connection.trailing_data[0])
        await self.send(RawData(data))
        if self.context.terminated.is_set():  # the stop came while the application was thinking
            self.websocket.close(GOING_AWAY, STOPPING)
        return self.websocket

    async def stream_send(self, event: Event) -> None:
        """What the application says, to the wire. While stopping, each response says that it is the last."""
        if self._refused and not isinstance(event, StreamClosed):
            return  # the connection has had its last answer; the application is being told
        if isinstance(event, Response) and self.context.terminated.is_set():
            event = Response(
                stream_id=event.stream_id,
                headers=[*event.headers, (b"connection", b"close")],
                status_code=event.status_code,
            )
        await super().stream_send(event)

    async def _send_error_response(self, status_code: int) -> None:
        reason = _REASONS.get(HTTPStatus(status_code), "the request is not valid HTTP/1.1")
        await self.refuse(InvalidInput(reason.format(limit=self.config.h11_max_incomplete_size)), status_code)

    async def _send_h11_event(self, event: H11SendableEvent) -> None:
        try:
            data = self.connection.send(event) or b""
        except h11.LocalProtocolError:
            if self.connection.their_state is not h11.ERROR:
                raise
            return
        if isinstance(event, h11.Response):
            self._held = data
            return
        if self._held:
            held, self._held = self._held, b""
            if len(data) > _JOIN_BYTES:
                await self.send(RawData(held))
            else:
                data = held + data
        if data:
            await self.send(RawData(data))

    async def _check_protocol(self, event: h11.Request) -> None:
        """Nothing: ``_create_stream`` refuses what this server does not speak and ignores upgrades."""

    async def _create_stream(self, request: h11.Request) -> None:
        target = request.target
        if target.startswith((b"http://", b"https://")):  # absolute-form, RFC 9112 §3.2.2
            target = b"/" + target.split(b"/", 3)[3] if target.count(b"/") > 2 else b"/"
        error, status = self._refusal(request, target)
        if error is not None:
            await self.refuse(error, status)
            await self.send(Closed())
            return
        if offers_websocket(request):
            await self._open_websocket(request, target)
            return
        self.stream = ControlStream(
            self.app,
            self.config,
            self.context,
            self.task_group,
            self.ssl,
            self.client,
            self.server,
            self.stream_send,
            STREAM_ID,
        )
        # Counted before the application can answer: the count says which request is being received.
        self.keep_alive_requests += 1
        await self.stream.handle(
            Request(
                stream_id=STREAM_ID,
                headers=list(request.headers),
                http_version=request.http_version.decode("ascii"),
                method=request.method.decode("ascii").upper(),
                raw_path=target,
                state=self.connection_state,
            )
        )

    async def _open_websocket(self, request: h11.Request, target: bytes) -> None:
        """Ask the application what becomes of a handshake. Until it says, nothing is read from the client.

        Raises:
            _Switched: the connection is a WebSocket now.
        """
        self.keep_alive_requests += 1
        try:
            handshake = read_handshake(request)
        except BadHandshake as error:
            await self.refuse(error, error.answer, error.headers)
            await self.send(Closed())
            return
        self.connection.next_event()  # the end of the request, which has no body
        path, _, query = target.partition(b"?")
        scope: dict[str, Any] = {
            "type": "websocket",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "scheme": "wss" if self.ssl else "ws",
            "path": unquote(path.decode("ascii")),
            "raw_path": path,
            "query_string": query,
            "root_path": self.config.root_path,
            "headers": list(request.headers),
            "client": self.client,
            "server": self.server,
            "subprotocols": list(handshake.subprotocols),
            "state": self.connection_state.copy(),
            "extensions": {"websocket.http.response": {}},
        }
        self._websocket_stream = WebSocketStream(self.app, scope, handshake, self)
        self.task_group.spawn(self._websocket_stream.run)
        if await self._websocket_stream.wait_decided() is None:
            await self.send(Closed())
            return
        raise _Switched

    def _refusal(self, request: h11.Request, target: bytes) -> tuple[PlatformError | None, int | None]:
        if request.http_version not in _VERSIONS:
            return InvalidInput("this server speaks HTTP/1.1"), HTTPStatus.HTTP_VERSION_NOT_SUPPORTED
        if not target.startswith(b"/") and not (target == b"*" and request.method == b"OPTIONS"):
            return InvalidInput("the request target is not a path", hint="it begins with /"), None
        for name, value in request.headers:
            if name == b"content-length" and int(value) > self.max_body:
                return body_too_large(self.max_body, int(value)), None
        return None, None


def body_too_large(limit: int, announced: int | None = None) -> TooLarge:
    """The refusal of a request body, by its announced length or by what has come of it."""
    size = f"has {announced} bytes" if announced is not None else "is larger than that"
    return TooLarge(
        f"the limit for a request body is {limit} bytes; this one {size}",
        subject="request body",
        hint="send less at once, or raise http.max_body",
    )
