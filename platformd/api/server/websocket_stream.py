"""The application's side of a WebSocket (ASGI, WebSocket specification 2.3): its decision, its messages, its end.

The application is asked before anything is answered. It accepts, or it answers as it answers any request: what comes
of a refused handshake is an ordinary response, and the last one of its connection, since what the client may have sent
behind the handshake is not HTTP.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import Any, Final, Protocol

import trio
from wsproto.frame_protocol import CloseReason

from platformd.api.server.handshake import Handshake, Headers
from platformd.api.server.websocket import WebSocket
from platformd.core.errors import Forbidden, PlatformError

log = logging.getLogger("platformd.api.server")

FAREWELL_SECONDS: Final = 5.0
"""How long the application may take to finish after its WebSocket has ended; then it is cancelled."""


class Answers(Protocol):
    """How the connection carries a decision out."""

    async def switch(self, headers: Headers) -> WebSocket:
        """Answer 101: what follows is a WebSocket."""

    async def respond(self, status: int, headers: Headers, body: bytes) -> None:
        """Answer with a last, whole response."""

    async def refuse(self, error: PlatformError, status: int | None = None) -> None:
        """Answer with a last problem document."""


class WebSocketStream:
    """One handshake, and the WebSocket that may come of it.

    Args:
        app: the application, an ASGI callable.
        scope: what it is told of the handshake.
        handshake: the handshake.
        answers: the connection.
    """

    def __init__(
        self, app: Callable[..., Awaitable[None]], scope: dict[str, Any], handshake: Handshake, answers: Answers
    ) -> None:
        self._app, self._scope, self._handshake, self._answers = app, scope, handshake, answers
        self._websocket: WebSocket | None = None
        self._told = False
        """Whether the application has been told of the handshake."""
        self._decided = trio.Event()
        self._running = trio.CancelScope()
        self._status, self._headers, self._body = HTTPStatus.FORBIDDEN.value, Headers(), b""
        """The refusal, as it comes from the application."""

    async def wait_decided(self) -> WebSocket | None:
        """The WebSocket, when the application has accepted; ``None`` when the handshake has been refused."""
        await self._decided.wait()
        return self._websocket

    def end(self) -> None:
        """The connection is over: the application is told, and has a moment left."""
        self._decided.set()
        self._running.deadline = trio.current_time() + FAREWELL_SECONDS

    async def run(self) -> None:
        """Run the application on it."""
        try:
            with self._running:
                await self._app(self._scope, self._receive, self._send)
        except* Exception:
            log.exception("the application failed on the WebSocket %s", self._scope["path"])
        finally:
            if self._websocket is not None:
                self._websocket.close(CloseReason.INTERNAL_ERROR, "the application ended without closing")
            elif not self._decided.is_set():
                error = PlatformError("the request could not be carried out", hint="the daemon's log says more")
                await self._answers.refuse(error)
                self._decided.set()
        if self._running.cancelled_caught:
            log.warning("the application did not end with its WebSocket %s and was cancelled", self._scope["path"])

    async def _receive(self) -> dict[str, Any]:
        if not self._told:
            self._told = True
            return {"type": "websocket.connect"}
        await self._decided.wait()
        if self._websocket is None:
            return {"type": "websocket.disconnect", "code": CloseReason.ABNORMAL_CLOSURE.value}
        try:
            data = (await self._websocket.messages.receive()).data
        except trio.EndOfChannel:
            return {"type": "websocket.disconnect", "code": self._websocket.code}
        text = isinstance(data, str)
        return {"type": "websocket.receive", "text": data if text else None, "bytes": None if text else data}

    async def _send(self, message: dict[str, Any]) -> None:
        kind = message["type"]
        if self._websocket is not None:
            await self._say(self._websocket, kind, message)
        elif self._decided.is_set():
            await trio.lowlevel.checkpoint()  # refused, or the client left while the application was thinking
        elif kind == "websocket.accept":
            headers = self._handshake.acceptance(message.get("subprotocol"))
            self._websocket = await self._answers.switch([*headers, *message.get("headers", [])])
            self._decided.set()
        elif kind == "websocket.close":
            await self._answers.refuse(Forbidden("the handshake was refused", subject=self._scope["path"]))
            self._decided.set()
        elif kind == "websocket.http.response.start":
            self._status, self._headers = int(message["status"]), list(message.get("headers", []))
        elif kind == "websocket.http.response.body":
            self._body += message.get("body", b"")
            if not message.get("more_body", False):
                await self._answers.respond(self._status, self._headers, self._body)
                self._decided.set()
        else:
            raise RuntimeError(f"{kind} before the handshake was answered")

    @staticmethod
    async def _say(websocket: WebSocket, kind: str, message: dict[str, Any]) -> None:
        if kind == "websocket.send":
            text = message.get("text")
            await websocket.send(text if text is not None else bytes(message["bytes"]))
        elif kind == "websocket.close":
            websocket.close(int(message.get("code", CloseReason.NORMAL_CLOSURE)), message.get("reason") or "")
        else:
            raise RuntimeError(f"{kind} after the handshake was answered")
