"""A watch over a WebSocket.

Each event is a text message, ``{"event": "put", "id": "42", "data": {…}}``. An error is the last one and has no id; its
status is also in the code that closes, as 4000 + status, except that 1001 says that the daemon stops, 1011 that it
failed, and 1013 that there are too many. A watch is told everything in its URL, so a message from the client ends it
(1008).
"""

from __future__ import annotations

from http import HTTPStatus
from typing import Final

import trio
from quart import g, websocket
from wsproto.frame_protocol import CloseReason

from platformd.api.access import ended
from platformd.api.problems import as_platform_error
from platformd.api.replies import encode
from platformd.api.server.protocol import GOING_AWAY, STOPPING
from platformd.api.watch import Followed, Said, Watches
from platformd.core.errors import PlatformError

PRIVATE_CODES: Final = 4000
"""Closing codes from here on mean what server and client agree on (RFC 6455 §7.4.2)."""


async def serve_socket(watches: Watches, followed: Followed) -> None:
    """Accept the current handshake and give out a watch until it ends. When the client leaves, it is cancelled.

    Raises:
        LimitReached: there are as many watches as may be; the handshake has not been answered.
    """
    with watches.place():
        await websocket.accept({"X-Request-Id": g.request_id})
        watches.accepted()
        await _SocketWatch(watches, followed).run()


class _SocketWatch:
    """One watch over the current WebSocket."""

    def __init__(self, watches: Watches, followed: Followed) -> None:
        self._watches, self._followed = watches, followed
        self._following = trio.CancelScope()
        self._end: tuple[int, str] = (GOING_AWAY, STOPPING)

    async def run(self) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._watches.end, self._following)
            nursery.start_soon(self._watches.end_when, ended(), self._following)
            nursery.start_soon(self._listen)
            with self._following:
                await self._follow()
            nursery.cancel_scope.cancel()
        await websocket.close(*self._end)

    async def _follow(self) -> None:
        async def say(said: list[Said]) -> None:
            for one in said:
                await websocket.send(message(one))

        try:
            await self._followed.follow(say)
        except Exception as error:  # noqa: BLE001 - it ends this watch, is logged, and the client is told
            told = as_platform_error(error, g.request_id, "watch")
            self._end = closing_code(told), f"{told.code}: {told.message}"
            await websocket.send(error_message(told))

    async def _listen(self) -> None:
        await websocket.receive()
        self._end = CloseReason.POLICY_VIOLATION.value, "a watch takes no messages"
        self._following.cancel()


def message(said: Said) -> str:
    """One message. The id is text: it is only ever given back, and JavaScript rounds large numbers."""
    return f'{{"event":"{said.name}","id":"{said.id}","data":{said.data.decode()}}}'


def error_message(error: PlatformError) -> str:
    """The message that ends a watch: a problem document, without an id."""
    return f'{{"event":"error","data":{encode(error.to_problem()).decode()}}}'


def closing_code(error: PlatformError) -> int:
    """What a WebSocket is closed with for ``error``."""
    status = int(error.to_problem()["status"])
    if status == HTTPStatus.TOO_MANY_REQUESTS:
        return CloseReason.TRY_AGAIN_LATER.value
    return CloseReason.INTERNAL_ERROR.value if status == HTTPStatus.INTERNAL_SERVER_ERROR else PRIVATE_CODES + status
