"""The component control API: what every component of the platform answers, platformd itself included.

``/`` links to what there is, ``/status`` says how the daemon is, ``/services`` what it offers with the
parameters of each, ``/metrics`` counts for Prometheus.
"""

from __future__ import annotations

import os
from typing import Any

import msgspec
import trio
from quart import Response
from quart_trio import QuartTrio

from platformd import __version__
from platformd.api.access import needs
from platformd.api.context import ApiContext
from platformd.api.metrics import CONTENT_TYPE, HttpMetrics, Snapshot, render
from platformd.api.openapi import Answer, operation
from platformd.api.openapi.shapes import DaemonStatus, OfferedServices, Root
from platformd.api.replies import Query, reply
from platformd.api.watch import Watches
from platformd.conductor.reconcile import loads
from platformd.core.clock import rfc3339
from platformd.model.kind import Kind
from platformd.model.node import NODE
from platformd.model.pipeline import PIPELINE
from platformd.model.resource import AnyResource

TAG = "Component"

LAG_SAMPLES = 3
LAG_SLEEP_SECONDS = 0.002
"""The loop's lag is measured while metrics are made: how late short sleeps end."""


class Component:
    """The routes outside ``/v1``."""

    def __init__(self, context: ApiContext, watches: Watches, http: HttpMetrics) -> None:
        self._context = context
        self._watches = watches
        self._http = http
        self._kinds = {kind.name: kind for kind in context.conductor.kinds}
        self._services = [
            {
                "name": PIPELINE.singular,
                "description": PIPELINE.summary,
                "parameters": msgspec.json.schema(PIPELINE.spec),
            }
        ]

    def add_to(self, app: QuartTrio) -> None:
        """Route requests here."""
        app.add_url_rule("/", "root", self.root, methods=["GET"])
        app.add_url_rule("/status", "status", self.status, methods=["GET"])
        app.add_url_rule("/services", "services", self.services, methods=["GET"])
        app.add_url_rule("/metrics", "metrics", self.metrics, methods=["GET"])

    @needs("status.read")
    @operation("getRoot", TAG, answers={200: Answer("The links.", Root)})
    async def root(self) -> Response:
        """GET /: the name, the version and where to go from here."""
        Query()
        links = {
            "status": "/status",
            "services": "/services",
            "metrics": "/metrics",
            "openapi": "/v1/openapi.json",
            "docs": "/v1/docs",
            "kinds": "/v1/kinds",
            "watch": "/v1/watch",
            **{kind.plural: f"/v1/{kind.plural}" for kind in self._kinds.values()},
        }
        return reply({"name": "platformd", "version": __version__, "links": links})

    @needs("status.read")
    @operation("getStatus", TAG, answers={200: Answer("The status.", DaemonStatus)})
    async def status(self) -> Response:
        """GET /status: how the daemon is."""
        Query()
        context = self._context
        streams = context.streams.streams()
        pipelines = await self._all(PIPELINE)
        return reply(
            {
                "name": "platformd",
                "version": __version__,
                "state": context.state(),
                "started_at": rfc3339(context.started_ns),
                "uptime_seconds": round((context.clock.time_ns() - context.started_ns) / 1e9, 3),
                "pid": os.getpid(),
                "state_dir": str(context.settings.state_path),
                "node": context.node_name,
                "jobs": jobs(pipelines),
                "store": await context.store.status(),
                "store_socket": f"unix:{context.settings.store_socket_path}",
                "queues": {
                    "streams": len(streams),
                    "consumers": sum(stream.consumers for stream in streams),
                    "sockets": context.sockets,
                },
                "watchers": self._watches.open,
            }
        )

    @needs("status.read")
    @operation("listOfferedServices", TAG, answers={200: Answer("The services.", OfferedServices)})
    async def services(self) -> Response:
        """GET /services: what can be asked of this component, with a JSON Schema for the parameters."""
        Query()
        return reply({"items": self._services})

    @needs("metrics.read")
    @operation("getMetrics", TAG, answers={200: Answer("The metrics.", str, ("text/plain",))})
    async def metrics(self) -> Response:
        """GET /metrics: the Prometheus text format."""
        Query()
        streams = self._context.streams.streams()
        snapshot = Snapshot(
            version=__version__,
            started_ns=self._context.started_ns,
            store=await self._context.store.status(),
            streams=streams,
            consumers=tuple(c for stream in streams for c in self._context.streams.consumers(stream.name)),
            pipelines=await self._all(PIPELINE),
            nodes=await self._all(NODE),
            watchers=self._watches.open,
            loop_lag_seconds=await loop_lag(),
            controllers=loads(self._context.conductor),
            sockets=self._context.socket_statistics() if self._context.socket_statistics else None,
        )
        # Thousands of series take tens of milliseconds: not on the loop.
        return Response(await trio.to_thread.run_sync(render, snapshot, self._http), content_type=CONTENT_TYPE)

    async def _all(self, kind: Kind) -> tuple[AnyResource, ...]:
        if kind.name not in self._kinds:
            return ()
        return (await self._context.conductor.list(kind, None)).items


def jobs(pipelines: tuple[AnyResource, ...]) -> dict[str, int]:
    """What runs: a stage of a pipeline is a job that runs until it is stopped.

    ``queued`` are stages that wait for their workers. A stage that runs has run today, and one that is
    stopped leaves no record, so ``today`` is what has run and still wants to.
    """
    stages: list[Any] = [stage for pipeline in pipelines for stage in pipeline.status.stages]
    running = sum(stage.workers_ready > 0 for stage in stages)
    queued = sum(stage.workers_ready == 0 and stage.workers_desired > 0 for stage in stages)
    return {"today": running, "queued": queued, "running": running}


async def loop_lag() -> float:
    """By how many seconds the latest of a few short sleeps ended late."""
    worst = 0.0
    for _ in range(LAG_SAMPLES):
        before = trio.current_time()
        await trio.sleep(LAG_SLEEP_SECONDS)
        worst = max(worst, trio.current_time() - before - LAG_SLEEP_SECONDS)
    return worst
