"""The routes outside ``/v1``: the component control API, as the daemon answers it, and where to go from here."""

from __future__ import annotations

from quart import Response
from quart_trio import QuartTrio

from platformd import __version__
from platformd.api.access import needs
from platformd.api.component_routes import TAG, ComponentRoutes
from platformd.api.context import ApiContext
from platformd.api.daemon_component import DaemonComponent
from platformd.api.metrics import HttpMetrics
from platformd.api.openapi import Answer, operation
from platformd.api.openapi.shapes import DaemonStatus, Root
from platformd.api.replies import Query, reply
from platformd.api.watch import Watches


class Component(ComponentRoutes):
    """The routes outside ``/v1``."""

    def __init__(self, context: ApiContext, watches: Watches, http: HttpMetrics) -> None:
        self._kinds = context.conductor.kinds
        super().__init__(DaemonComponent(context, watches, http))

    def add_to(self, app: QuartTrio) -> None:
        """Route requests here."""
        app.add_url_rule("/", "root", self.root, methods=["GET"])
        super().add_to(app)

    @needs("status.read")
    @operation("getStatus", TAG, answers={200: Answer("The status.", DaemonStatus)})
    async def status(self) -> Response:
        """GET /status: how the daemon is, with its store and its queues."""
        return await super().status()

    @needs("status.read")
    @operation("getRoot", TAG, answers={200: Answer("The links.", Root)})
    async def root(self) -> Response:
        """GET /: the name, the version and where to go from here."""
        Query()
        links = {
            "status": "/status",
            "services": "/services",
            "jobs": "/jobs/",
            "config": "/config",
            "control": "/control",
            "metrics": "/metrics",
            "openapi": "/v1/openapi.json",
            "docs": "/v1/docs",
            "kinds": "/v1/kinds",
            "watch": "/v1/watch",
            **{kind.plural: f"/v1/{kind.plural}" for kind in self._kinds},
        }
        return reply({"name": "platformd", "version": __version__, "links": links})
