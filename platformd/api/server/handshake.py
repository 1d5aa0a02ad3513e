"""The opening handshake of a WebSocket (RFC 6455 §4.2): a request that offers to become one, and what answers it."""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass
from http import HTTPStatus
from typing import Final

import h11
from wsproto.handshake import WEBSOCKET_VERSION
from wsproto.utilities import generate_accept_token

from platformd.core.errors import InvalidInput

KEY_BYTES: Final = 16
"""How long the client's nonce is, RFC 6455 §4.1."""

Headers = list[tuple[bytes, bytes]]


class BadHandshake(InvalidInput):
    """A handshake that RFC 6455 does not allow; ``answer`` is the status, ``headers`` go with it."""

    def __init__(
        self, message: str, answer: HTTPStatus = HTTPStatus.BAD_REQUEST, headers: Headers | None = None
    ) -> None:
        super().__init__(message, subject="WebSocket handshake")
        self.answer = answer
        self.headers = headers or []


@dataclass(frozen=True, kw_only=True)
class Handshake:
    """A handshake that can be accepted."""

    key: bytes
    """The client's nonce, as it was sent."""
    subprotocols: tuple[str, ...]
    """What the client offers to speak, the best first."""

    def acceptance(self, subprotocol: str | None) -> Headers:
        """The headers of the 101 that accepts it. No extension is ever agreed on: see ``platformd.api.server.frames``.

        Raises:
            ValueError: the client did not offer ``subprotocol``.
        """
        headers = [
            (b"upgrade", b"websocket"),
            (b"connection", b"Upgrade"),
            (b"sec-websocket-accept", generate_accept_token(self.key)),
        ]
        if subprotocol is not None:
            if subprotocol not in self.subprotocols:
                raise ValueError(f"the client did not offer to speak {subprotocol!r}")
            headers.append((b"sec-websocket-protocol", subprotocol.encode("ascii")))
        return headers


def offers_websocket(request: h11.Request) -> bool:
    """Whether ``request`` wants to become a WebSocket. With an Upgrade that HTTP tells us to ignore it does not: one in
    HTTP/1.0, or one that Connection does not name (RFC 9110 §7.8)."""
    return (
        request.method == b"GET"
        and request.http_version == b"1.1"
        and "websocket" in _tokens(request, b"upgrade")
        and "upgrade" in _tokens(request, b"connection")
    )


def read_handshake(request: h11.Request) -> Handshake:
    """The handshake of a request that ``offers_websocket``.

    Raises:
        BadHandshake: it is not a valid one.
    """
    if _values(request, b"sec-websocket-version") != [WEBSOCKET_VERSION]:
        wanted = [
            (b"sec-websocket-version", WEBSOCKET_VERSION),
            (b"upgrade", b"websocket"),
            (b"connection", b"upgrade"),
        ]
        raise BadHandshake("this server speaks version 13 of the protocol", HTTPStatus.UPGRADE_REQUIRED, wanted)
    keys = _values(request, b"sec-websocket-key")
    if len(keys) != 1 or not _is_nonce(keys[0]):
        raise BadHandshake("Sec-WebSocket-Key is not one nonce of 16 bytes in base64")
    if _values(request, b"transfer-encoding") or any(int(v) for v in _values(request, b"content-length")):
        raise BadHandshake("it has a body, which nothing would read")
    offered = tuple(_tokens(request, b"sec-websocket-protocol", lower=False))
    return Handshake(key=keys[0], subprotocols=offered)


def _values(request: h11.Request, name: bytes) -> list[bytes]:
    return [value for header, value in request.headers if header == name]


def _tokens(request: h11.Request, name: bytes, *, lower: bool = True) -> list[str]:
    """The members of a list header, which may be split over several lines."""
    text = b",".join(_values(request, name)).decode("latin-1")
    return [word.strip() for word in (text.lower() if lower else text).split(",") if word.strip()]


def _is_nonce(key: bytes) -> bool:
    try:
        return len(base64.b64decode(key, validate=True)) == KEY_BYTES
    except binascii.Error:
        return False
