"""Pipelines and queue facts for tests."""

from __future__ import annotations

from typing import Any

from platformd.model.pipeline import (
    AnnotateStage,
    FilterStage,
    PipelineSpec,
    PipelineStatus,
    Route,
    RouteStage,
    Stage,
)
from platformd.model.resource import AnyResource, Resource
from platformd.pipelines.plan import Input, Surroundings, WorkerConfig
from platformd.queues.contract import ConsumerConfig, ConsumerInfo, StreamConfig, StreamInfo

FILTER = FilterStage(name="filter", expression="candidate.rb > 0.5")
ANNOTATE = AnnotateStage(name="annotate", annotators=("galactic",))
ROUTE = RouteStage(
    name="route",
    routes=(Route(subject="out.near", when="annotations.galactic_latitude < 15.0"), Route(subject="out.far")),
)
ADDRESSES = {"ingest": "ipc:///in", "fetch": "ipc:///out"}


def pipeline(*stages: Stage, name: str = "demo", status: PipelineStatus | None = None, **spec: Any) -> AnyResource:
    """A pipeline from alerts.ztf to out.*, with dead letters on out.dead."""
    fields = {"source": "alerts.ztf", "stages": stages or (FILTER, ANNOTATE, ROUTE), "dead_letter": "out.dead"} | spec
    return Resource(
        kind="Pipeline",
        name=name,
        uid="uid-1",
        generation=1,
        spec=PipelineSpec(**fields),
        status=status or PipelineStatus(),
        finalizers=("pipelines",),
    )


def stream(name: str, *subjects: str, last: int = 0) -> StreamInfo:
    """A stream that captures these subjects."""
    return StreamInfo(
        name=name,
        config=StreamConfig(subjects=subjects),
        messages=last,
        bytes=0,
        first_sequence=1,
        last_sequence=last,
        consumers=0,
    )


def cursor(stream: str, name: str, *, pending: int = 0, ack_pending: int = 0, subject: str = ">") -> ConsumerInfo:
    """A consumer with this backlog."""
    return ConsumerInfo(
        stream=stream,
        name=name,
        config=ConsumerConfig(filter_subject=subject),
        ack_floor=0,
        delivered_sequence=0,
        pending=pending,
        ack_pending=ack_pending,
        redelivered=0,
        exhausted=0,
        stalled=0,
        waiting=0,
    )


STREAMS = (stream("alerts", "alerts.>"), stream("out", "out.>"))


def around(
    *backlogs: ConsumerInfo, order: tuple[str, ...] = (), streams: tuple[StreamInfo, ...] = STREAMS
) -> Surroundings:
    """What a plan depends on."""
    return Surroundings(streams=streams, backlogs={b.name: b for b in backlogs}, addresses=ADDRESSES, order=order)


def worker_config(stage: Stage = FILTER, **changes: Any) -> WorkerConfig:
    """The configuration of a worker of a first stage."""
    fields: dict[str, Any] = {
        "pipeline": "demo",
        "stage": stage,
        "inputs": (Input(stream="alerts", consumer="pipeline-demo"),),
        "next_subject": "" if isinstance(stage, RouteStage) else "pipeline.demo.annotate",
        "streams": {
            "pipeline.demo.annotate": "pipeline-demo",
            "out.near": "out",
            "out.far": "out",
            "out.dead": "out",
        },
        "dead_letter": "out.dead",
        "id_field": "candid",
        "fields": ("candid", "candidate.rb"),
        "ack_wait": 30.0,
        "ingest": ADDRESSES["ingest"],
        "fetch": ADDRESSES["fetch"],
    }
    return WorkerConfig(**(fields | changes))
