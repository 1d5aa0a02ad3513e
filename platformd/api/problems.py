"""Every error as a problem document (RFC 9457), whoever raised it.

Errors of the platform bring their own text. What Quart and werkzeug raise (no such path, wrong method) is
translated in one table. Anything else is a fault of the daemon: the client gets a request id, the log gets
the traceback under the same id, and nothing of the inside goes out.
"""

from __future__ import annotations

import logging

from quart import Response, request
from werkzeug import exceptions as web
from werkzeug.routing.exceptions import WebsocketMismatch

from platformd.api.asked import asked
from platformd.api.replies import PROBLEM, encode, request_id
from platformd.api.server.protocol import body_too_large
from platformd.core.errors import InvalidInput, MethodNotAllowed, NotFound, PlatformError, Unauthorized

log = logging.getLogger("platformd.api")

RETRY_SECONDS = {429: 1, 503: 1}
"""How long a client should wait at least before it asks again, by status."""


def problem(error: PlatformError, headers: dict[str, str] | None = None) -> Response:
    """The response that ``error`` becomes."""
    document = error.to_problem() | {"instance": asked.path}
    response = Response(encode(document), int(document["status"]), headers, content_type=PROBLEM)
    if response.status_code in RETRY_SECONDS:
        response.headers["Retry-After"] = str(error.details.get("retry_after", RETRY_SECONDS[response.status_code]))
    if response.status_code == Unauthorized.status:
        response.headers["WWW-Authenticate"] = 'Bearer realm="platformd"'
    return response


async def on_platform_error(error: PlatformError) -> Response:
    """An error that was raised on purpose."""
    if error.status == 500:  # damaged data and the like are the operator's to see
        log.error("request %s: %s", request_id(), error)
    return problem(error)


async def on_http_error(error: web.HTTPException) -> Response:
    """An error of the web framework."""
    translated, headers = _translate(error)
    return problem(translated, headers)


async def on_fault(error: Exception) -> Response:
    """An error that nobody expected."""
    return problem(as_platform_error(error, request_id(), f"{asked.method} {asked.path}"))


def as_platform_error(error: Exception, number: str, subject: str) -> PlatformError:
    """What a client may know of ``error``: all of a ``PlatformError``, nothing but a request id of another one,
    which is logged."""
    found: BaseException = error
    while isinstance(found, BaseExceptionGroup) and len(found.exceptions) == 1:
        found = found.exceptions[0]
    if isinstance(found, PlatformError):
        return found
    log.error("request %s failed: %s", number, subject, exc_info=error)
    return PlatformError(
        "the daemon failed to carry this out",
        subject=subject,
        hint=f"the daemon's log has the reason under request {number}",
        details={"request_id": number},
    )


def _translate(error: web.HTTPException) -> tuple[PlatformError, dict[str, str]]:
    if isinstance(error, web.NotFound):
        return NotFound("there is no such path", subject=asked.path, hint="GET / lists what there is"), {}
    if isinstance(error, web.MethodNotAllowed):
        allowed = ", ".join(sorted(error.valid_methods or ()))
        reason = f"this path cannot be asked to {asked.method}"
        return MethodNotAllowed(reason, subject=asked.path, hint=f"it takes {allowed}"), {"Allow": allowed}
    if isinstance(error, web.RequestEntityTooLarge):
        return body_too_large(request.max_content_length or 0), {}
    if isinstance(error, WebsocketMismatch):
        return InvalidInput("nothing is served over a WebSocket here", subject=asked.path, hint="leave Upgrade out"), {}
    return InvalidInput(error.description or "the request is not valid", subject=asked.path), {}
