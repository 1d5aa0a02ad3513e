"""The quick way of the plainest reads: one resource or one key, asked for with nothing special, by a peer of the Unix
socket or over a loopback address.

Quart's routing, contexts and hooks cost more than the read itself. So a request that cannot mean anything else is
answered here, before Quart; whatever has a query, an escape, a condition, a token or a header that is not known to
change nothing goes on to Quart, and so does everything that is not simply there and allowed: every refusal is made in
one place.
The answers are those that Quart gives, byte by byte; ``tests/api/test_hot.py`` compares them.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Awaitable, Callable
from typing import Any, Final

import trio

from platformd.access import guarded
from platformd.api.compressing import MIN_BYTES
from platformd.api.context import ApiContext
from platformd.api.metrics import HttpMetrics
from platformd.api.openapi.parameters import BYTES
from platformd.api.replies import JSON, REQUEST_ID, encode, etag
from platformd.coordination.recipes import user_keys
from platformd.core.ids import uuid7
from platformd.model.access import Principal, check
from platformd.model.resource import DEFAULT_TENANT

Asgi = Callable[..., Awaitable[None]]
Headers = list[tuple[bytes, bytes]]

KEYS: Final = b"/v1/kv/"
KEY_ROUTE: Final = "/v1/kv/<anything:key>"
RESOURCE_ROUTE: Final = "/v1/<kind:plural>/<name>"
"""The rules that stand for these requests in the metrics."""
_KEY: Final = re.compile(rb"/v1/kv/[A-Za-z0-9._-][A-Za-z0-9._/-]*")
_RESOURCE: Final = re.compile(rb"/v1/([a-z]+)/([a-z0-9][a-z0-9_-]*)")
_CHANGES_NOTHING: Final = frozenset({b"host", b"user-agent", b"connection", b"x-request-id"})
_OF_RESOURCES: Final = _CHANGES_NOTHING | {b"accept"}
"""A resource has one form, whatever the client would rather have."""
_ANYTHING: Final = {b"accept": (b"*/*",), b"accept-encoding": (b"identity",)}
"""Headers that change nothing when they say this."""
_LOOPBACK: Final = frozenset({"127.0.0.1", "::1"})
_LOOPBACK_HOSTS: Final = frozenset({b"localhost", b"127.0.0.1"})
_access_log = logging.getLogger("platformd.api.access")


class HotPaths:
    """The application with a quick way around it.

    Args:
        app: the application.
        context: the daemon.
        http: where requests are counted.
    """

    def __init__(self, app: Asgi, context: ApiContext, http: HttpMetrics) -> None:
        self._app, self._http = app, http
        self._conductor, self._gate = context.conductor, context.gate
        self._kinds = {kind.plural.encode(): kind for kind in context.conductor.kinds}
        self._keys = user_keys(context.store)
        self._new_id = uuid7(context.clock)
        self._varied = bool(context.settings.http.cors_origins)
        """Answers depend on the origin, which is too much for here."""

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Serve one request, as ASGI has it."""
        if scope["type"] == "http" and scope["method"] == "GET" and not scope["query_string"] and not self._varied:
            begun = trio.current_time()
            known = _CHANGES_NOTHING if scope["raw_path"].startswith(KEYS) else _OF_RESOURCES
            number = _plain(scope["headers"], known)
            if number is not None and not _access_log.isEnabledFor(logging.DEBUG):
                found = await self._find(scope)
                if found is not None:
                    route, headers, body = found
                    headers.append((b"x-request-id", number or self._new_id().encode()))
                    if route is RESOURCE_ROUTE and len(body) >= MIN_BYTES:
                        headers.append((b"vary", b"Accept-Encoding"))
                    self._http.count("GET", route, 200, trio.current_time() - begun)
                    await send({"type": "http.response.start", "status": 200, "headers": headers})
                    await send({"type": "http.response.body", "body": body, "more_body": False})
                    return
        await self._app(scope, receive, send)

    async def _find(self, scope: Any) -> tuple[str, Headers, bytes] | None:
        """The route, the headers and the body of the answer; ``None`` if it is for Quart to answer."""
        path: bytes = scope["raw_path"]
        try:
            who = self._who(scope)
            if who is None:
                return None
            return await (self._key(who, path) if path.startswith(KEYS) else self._resource(who, path))
        except Exception:  # noqa: BLE001 - whatever goes wrong goes wrong there too, and is told there
            return None

    def _who(self, scope: Any) -> Principal | None:
        """Who asks, where that takes no thought: a peer of the Unix socket, or whoever asks a loopback address by its
        name and shows nothing. ``None`` for everybody else."""
        state = scope.get("state", {})
        credentials = state.get("peercred")
        if credentials is not None:
            return self._gate.peer(credentials)
        if scope["scheme"] != "http" or state.get("certificate") or (scope["server"] or ("",))[0] not in _LOOPBACK:
            return None
        hosts = [value.partition(b":")[0] for name, value in scope["headers"] if name == b"host"]
        named = len(hosts) == 1 and hosts[0] in _LOOPBACK_HOSTS
        return self._gate.anonymous(loopback=True) if named else None

    async def _key(self, who: Principal, path: bytes) -> tuple[str, Headers, bytes] | None:
        if not _KEY.fullmatch(path):
            return None
        store = guarded(self._keys, who)
        kv = await store.get(path[len(KEYS) :])
        if kv is None or kv.lease:
            return None
        headers = [
            (b"etag", etag(kv.mod_revision).encode()),
            (b"vary", b"Accept"),
            (b"platformd-create-revision", b"%d" % kv.create_revision),
            (b"platformd-version", b"%d" % kv.version),
            (b"x-content-type-options", b"nosniff"),
            (b"content-type", BYTES.encode()),
            (b"content-length", b"%d" % len(kv.value)),
        ]
        return KEY_ROUTE, headers, kv.value

    async def _resource(self, who: Principal, path: bytes) -> tuple[str, Headers, bytes] | None:
        match = _RESOURCE.fullmatch(path)
        kind = self._kinds.get(match[1]) if match else None
        if match is None or kind is None:
            return None
        tenant = kind.whose(DEFAULT_TENANT, "resources.read")
        check(who, "resources.read", tenant, "")
        resource = await self._conductor.get(kind, match[2].decode())
        body = encode(resource)
        headers = [
            (b"etag", etag(resource.revision).encode()),
            (b"content-type", JSON.encode()),
            (b"content-length", b"%d" % len(body)),
        ]
        return RESOURCE_ROUTE, headers, body


def _plain(headers: Headers, known: frozenset[bytes]) -> bytes | None:
    """The request's id, empty if it says none; ``None`` if some header may change the answer."""
    number = b""
    for name, value in headers:
        if name in known:
            if name == b"x-request-id":
                if not REQUEST_ID.match(value.decode("latin-1")) or number:
                    return None
                number = value
        elif value not in _ANYTHING.get(name, ()):
            return None
    return number
