"""The application: all routes, and what happens before and after each request."""

from __future__ import annotations

import logging
from http import HTTPStatus
from typing import Any

import trio
from quart import Response, g
from quart_trio import QuartTrio
from werkzeug.exceptions import HTTPException

from platformd.api import cors, problems
from platformd.api.access import Access, address, principal
from platformd.api.asked import asked
from platformd.api.component import Component
from platformd.api.compressing import compress
from platformd.api.consumers import Consumers
from platformd.api.context import ApiContext
from platformd.api.histories import Histories
from platformd.api.hot import HotPaths
from platformd.api.idempotency import Idempotency
from platformd.api.kv import Keys
from platformd.api.leases import Leases
from platformd.api.locks import Locks
from platformd.api.messages import Messages
from platformd.api.metrics import HttpMetrics
from platformd.api.openapi.declared import declaration
from platformd.api.openapi.routes import Description
from platformd.api.replies import accepted_request_id
from platformd.api.resources import Resources
from platformd.api.store import StoreRoutes
from platformd.api.tokens import AccessRoutes
from platformd.api.transactions import Transactions
from platformd.api.watch import Watches
from platformd.core.errors import PlatformError
from platformd.core.ids import uuid7
from platformd.core.quantities import size_bytes

access_log = logging.getLogger("platformd.api.access")


def create_app(context: ApiContext) -> QuartTrio:
    """The REST API over ``context``; serve it with ``platformd.api.server.serve``."""
    app = QuartTrio("platformd.api", static_folder=None, template_folder=None)
    app.debug = False
    app.config.update(
        TESTING=False,
        PROPAGATE_EXCEPTIONS=False,
        MAX_CONTENT_LENGTH=size_bytes(context.settings.http.max_body),
        BODY_TIMEOUT=None,  # the server's read_timeout is for the whole request
        RESPONSE_TIMEOUT=None,  # would end watches; the server's write_timeout is for each piece
    )
    # A redirect would be one more answer that is not a problem document.
    app.url_map.strict_slashes = False
    app.url_map.merge_slashes = False
    http = HttpMetrics()
    origins = cors.read_origins(context.settings.http.cors_origins)
    access = Access(app, context.gate, origins)
    frame = Frame(context, http, access)
    watches = Watches(context, frame.accepted)
    Component(context, watches, http).add_to(app)
    Messages(context, watches, http).add_to(app)
    Consumers(context).add_to(app)
    Keys(context, watches).add_to(app)
    Leases(context).add_to(app)
    Locks(context).add_to(app)
    StoreRoutes(context).add_to(app)
    AccessRoutes(context).add_to(app)
    Resources(context, watches).add_to(app)
    Histories(context).add_to(app)
    Transactions(context).add_to(app)
    Description(context).add_to(app)
    app.register_error_handler(PlatformError, frame.on_platform_error)
    app.register_error_handler(HTTPException, problems.on_http_error)
    app.register_error_handler(Exception, problems.on_fault)
    frame.add_to(app)
    app.asgi_app = HotPaths(app.asgi_app, context, http)  # type: ignore[method-assign]
    return app


class Frame:
    """What is done around every request, and around the handshake of every WebSocket."""

    def __init__(self, context: ApiContext, http: HttpMetrics, access: Access) -> None:
        self._http, self._access = http, access
        self._app: QuartTrio
        self._origins = cors.read_origins(context.settings.http.cors_origins)
        self._idempotency = Idempotency(context)
        self._new_id = uuid7(context.clock)

    def add_to(self, app: QuartTrio) -> None:
        """Stand around the routes of ``app``."""
        self._app = app
        app.teardown_request(self._over)
        app.before_request(self._preflight)
        app.before_request(self._begin)
        app.before_request(self._replayed)
        app.after_request(self._end)
        app.before_websocket(self._begin)
        app.after_websocket(self._end_websocket)

    def accepted(self) -> None:
        """The current handshake has been accepted."""
        self._note(HTTPStatus.SWITCHING_PROTOCOLS)

    async def _preflight(self) -> Response | None:
        """What a browser asks before a page may: it shows no token yet."""
        self._number()
        return cors.preflight(self._origins)

    def _number(self) -> None:
        g.request_id = accepted_request_id() or self._new_id()
        g.begun = trio.current_time()

    async def _begin(self) -> None:
        if "request_id" not in g:
            self._number()
        self._access.check()

    async def on_platform_error(self, error: PlatformError) -> Response:
        """An error that was raised on purpose; a refusal is put down."""
        self._access.refused(error)
        return await problems.on_platform_error(error)

    async def _replayed(self) -> Response | None:
        """What was answered when this request was made before with the same Idempotency-Key."""
        rule = asked.url_rule
        declared = None if rule is None else declaration(self._app.view_functions[rule.endpoint])
        return await self._idempotency.begin(offered=declared is None or declared.repeatable)

    async def _over(self, _: BaseException | None) -> None:
        self._idempotency.release()

    async def _end(self, response: Response) -> Response:
        response.headers["X-Request-Id"] = g.request_id
        await self._idempotency.end(response)
        await compress(response)
        cors.allow(self._origins, response)
        self._note(response.status_code)
        return response

    async def _end_websocket(self, response: Any) -> Any:
        return None if response is None else await self._end(response)  # else it was accepted

    def _note(self, status: int) -> None:
        elapsed = trio.current_time() - g.begun
        route = asked.url_rule.rule if asked.url_rule is not None else "unmatched"
        self._http.count(asked.method, route, status, elapsed)
        if access_log.isEnabledFor(logging.DEBUG):
            access_log.debug(
                "%s %s %d %.1f ms peer=%s request=%s",
                asked.method,
                asked.path,
                status,
                elapsed * 1000,
                f"{principal().name}@{address()}",
                g.request_id,
            )
