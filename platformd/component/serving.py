"""A component's control API: the same routes, errors and server as the daemon's own, around its functions."""

from __future__ import annotations

import hmac
import logging
from functools import cached_property
from typing import Any

import trio
from quart import Response, g
from quart_trio import QuartTrio
from werkzeug.exceptions import HTTPException

from platformd.api import problems
from platformd.api.access import is_loopback_name, peer
from platformd.api.asked import asked
from platformd.api.component_routes import TAG, ComponentRoutes
from platformd.api.openapi import Answer, operation
from platformd.api.openapi.document import openapi_document
from platformd.api.replies import Query, accepted_request_id, encode, reply
from platformd.api.server import serve as serve_http
from platformd.api.server.sockets import BoundSocket, bind_tcp, bind_unix
from platformd.component.backend import Backend
from platformd.component.declaration import Component, schema_of
from platformd.component.options import Options
from platformd.core.clock import SystemClock
from platformd.core.errors import Forbidden, InvalidInput, PlatformError, Unauthorized
from platformd.core.ids import uuid7
from platformd.core.quantities import seconds
from platformd.core.settings import DaemonSettings, HttpSettings, Settings

log = logging.getLogger("platformd.component")

READING = frozenset({"GET", "HEAD", "OPTIONS"})
"""Methods that change nothing."""


async def serve(
    component: Component,
    options: Options,
    *,
    stopping: trio.Event,
    task_status: trio.TaskStatus[list[str]] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Answer until ``stopping`` is set, by whomever; then let jobs end, within the deadline.

    Raises:
        InvalidInput: there is nowhere to listen, or an address is none.
        Conflict, Unavailable: the addresses cannot be had.
    """
    if not options.socket and not options.listen:
        raise InvalidInput(
            "has nowhere to listen", subject=component.name, hint="give --socket PATH or --listen HOST:PORT"
        )
    settings = Settings(
        daemon=DaemonSettings(socket=options.socket, socket_mode=options.socket_mode),
        http=HttpSettings(listen=options.listen),
    )
    backend = Backend(component, options, stopping)
    async with trio.open_nursery() as nursery:
        await nursery.start(backend.run)
        addresses = await nursery.start(
            _serve_http, create_component_app(component, backend, options), settings, stopping
        )
        log.info("%s serves on %s", component.name, ", ".join(addresses))
        task_status.started(addresses)


async def _serve_http(
    app: QuartTrio,
    settings: Settings,
    stopping: trio.Event,
    *,
    task_status: trio.TaskStatus[list[str]] = trio.TASK_STATUS_IGNORED,
) -> None:
    grace = seconds(settings.daemon.stop_deadline) / 2
    await serve_http(app, settings, stopping=stopping, grace=grace, opening=_listen, task_status=task_status)


def _listen(settings: Settings) -> list[BoundSocket]:
    bound = []
    if settings.daemon.socket:
        bound.append(bind_unix(settings.socket_path, int(settings.daemon.socket_mode, 8)))
    try:
        if settings.http.listen:
            bound.append(bind_tcp(settings.http))
    except BaseException:
        for each in bound:
            each.release()
        raise
    return bound


def create_component_app(component: Component, backend: Backend, options: Options) -> QuartTrio:
    """The application of a component."""
    app = QuartTrio("platformd.component", static_folder=None, template_folder=None)
    app.config.update(PROPAGATE_EXCEPTIONS=False, MAX_CONTENT_LENGTH=4 << 20, BODY_TIMEOUT=None, RESPONSE_TIMEOUT=None)
    app.url_map.strict_slashes = False
    app.url_map.merge_slashes = False
    ComponentRoutes(backend).add_to(app)
    _Front(app, component).add_to(app)
    app.register_error_handler(PlatformError, problems.on_platform_error)
    app.register_error_handler(HTTPException, problems.on_http_error)
    app.register_error_handler(Exception, problems.on_fault)
    _Frame(options).add_to(app)
    return app


class _Front:
    """Where a component tells what it is: ``/`` and its OpenAPI document."""

    def __init__(self, app: QuartTrio, component: Component) -> None:
        self._app, self._component = app, component

    def add_to(self, app: QuartTrio) -> None:
        app.add_url_rule("/", "root", self.root, methods=["GET"])
        app.add_url_rule("/openapi.json", "openapi", self.openapi, methods=["GET"])

    @operation("getRoot", TAG, answers={200: Answer("The links.", {"type": "object"})})
    async def root(self) -> Response:
        """GET /: the name, the version and where to go from here."""
        Query()
        words = ("status", "services", "jobs/", "config", "control", "metrics", "openapi.json")
        links = {word.rstrip("/").removesuffix(".json"): f"/{word}" for word in words}
        return reply({"name": self._component.name, "version": self._component.version, "links": links})

    @operation("getOpenapi", TAG, answers={200: Answer("The document.", {"type": "object", "required": ["openapi"]})})
    async def openapi(self) -> Response:
        """GET /openapi.json: this, with the schemas of what the services take."""
        Query()
        return reply(self._document)

    @cached_property
    def _document(self) -> dict[str, Any]:
        document = openapi_document(self._app, ())
        document["info"] = {
            "title": self._component.name,
            "version": self._component.version,
            "summary": "The component control API.",
        }
        for service in self._component.services.values():
            schema = schema_of(service.parameters)
            document["components"]["schemas"][f"{service.name}.parameters"] = schema | {
                "description": service.description
            }
        encode(document)
        return document


class _Frame:
    """What is done around every request: its id, and whether it may be made."""

    def __init__(self, options: Options) -> None:
        self._token = options.token
        self._new_id = uuid7(SystemClock())

    def add_to(self, app: QuartTrio) -> None:
        app.before_request(self._begin)
        app.after_request(self._end)

    async def _begin(self) -> None:
        g.request_id = accepted_request_id() or self._new_id()
        if peer() is None:
            self._check()

    async def _end(self, response: Response) -> Response:
        response.headers["X-Request-Id"] = g.request_id
        if response.status_code == 401:
            response.headers["WWW-Authenticate"] = "Bearer"
        return response

    def _check(self) -> None:
        """Refuse what may not be asked over TCP.

        Raises:
            Forbidden, Unauthorized: it may not.
        """
        host, origin = asked.headers.get("Host", ""), asked.headers.get("Origin")
        if not is_loopback_name(host):
            raise Forbidden(f"Host {host!r} is not a name of this machine's loopback", subject=asked.path)
        if origin is not None and origin.lower() != f"http://{host.lower()}":
            raise Forbidden(f"a page of {origin!r} may not ask this component", subject=asked.path)
        if asked.method in READING:
            return
        if not self._token:
            raise Forbidden(
                "over TCP without a token this component may only be read",
                subject=f"{asked.method} {asked.path}",
                hint="ask on its Unix socket, or give it a token (--token-file)",
            )
        scheme, _, given = asked.headers.get("Authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not hmac.compare_digest(given.strip().encode(), self._token.encode()):
            raise Unauthorized(
                "the token of this component is needed", subject=asked.path, hint="Authorization: Bearer …"
            )
