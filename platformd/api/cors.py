"""Pages of other origins that may ask (CORS, in the Fetch standard). Without ``http.cors_origins`` there are none.

No credentials: a page shows a token in a header of its own, as every client over TCP does. So what a page may do is
what its token may, and a browser adds nothing that its user has.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from quart import Response

from platformd.api.asked import asked
from platformd.core.errors import InvalidInput

METHODS: Final = "GET, HEAD, POST, PUT, PATCH, DELETE"
HEADERS: Final = (
    "Authorization, Content-Type, If-Match, If-None-Match, Idempotency-Key, Last-Event-ID, Platformd-Reason, "
    "X-Request-Id"
)
"""What a page may send beside what it always may."""
EXPOSED: Final = "ETag, Location, Retry-After, X-Request-Id, Platformd-Outcome, Idempotency-Replayed"
"""What a page may read of an answer beside what it always may."""
MAX_AGE_SECONDS: Final = 600
"""How long a browser need not ask again whether it may."""
_ORIGIN: Final = re.compile(r"https?://[^/\s*?#]+")


def read_origins(configured: Sequence[str]) -> frozenset[str]:
    """The origins of the setting, as browsers write them.

    Raises:
        InvalidInput: one of them is none.
    """
    for origin in configured:
        if not _ORIGIN.fullmatch(origin):
            raise InvalidInput(
                f"{origin!r} is not an origin",
                subject="http.cors_origins",
                hint="write https://HOST or https://HOST:PORT",
            )
    return frozenset(origin.lower() for origin in configured)


def preflight(origins: frozenset[str]) -> Response | None:
    """The answer to a browser that asks whether a page may ask; ``None`` if this is no such question."""
    if asked.method != "OPTIONS" or "Access-Control-Request-Method" not in asked.headers or not _origin(origins):
        return None
    allowed = {
        "Access-Control-Allow-Methods": METHODS,
        "Access-Control-Allow-Headers": HEADERS,
        "Access-Control-Max-Age": str(MAX_AGE_SECONDS),
    }
    return Response(b"", 204, allowed)


def allow(origins: frozenset[str], response: Response) -> None:
    """Let the page that asked read ``response``, if it may."""
    if not origins:
        return
    response.vary.add("Origin")
    origin = _origin(origins)
    if origin:
        response.headers["Access-Control-Allow-Origin"] = origin
        response.headers["Access-Control-Expose-Headers"] = EXPOSED


def _origin(origins: frozenset[str]) -> str:
    given: str = asked.headers.get("Origin", "")
    return given if given.lower() in origins else ""
