"""What is being asked: a request, or the handshake of a WebSocket. Both have a path, a query, headers and a scope."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from quart import has_websocket_context, request, websocket
from werkzeug.local import LocalProxy

if TYPE_CHECKING:
    from quart.wrappers.base import BaseRequestWebsocket


def _current() -> Any:
    found: Any = websocket if has_websocket_context() else request
    return found._get_current_object()  # noqa: SLF001 - the documented way through werkzeug's proxies


asked = cast("BaseRequestWebsocket", LocalProxy(_current))
"""The request or the handshake of the current task."""
