"""What a Pipeline resource means for the queues and for worker processes: names, subjects, configurations.

    source stream ──(consumer pipeline-NAME)──▶ first stage ─┐ pipeline.NAME.SECOND
    own stream pipeline-NAME ──(consumer SECOND)──▶ second stage ─┐ pipeline.NAME.THIRD …
    last stage ──▶ the subjects of its routes, in whatever streams capture them

A subject between stages is named after the stage that *reads* it, and the cursor over the source after the
pipeline alone. So a chain can change its shape while it runs and no packet is processed by fewer stages than
the chain had when it came by: an inserted stage gets what is accepted from now on, a changed order keeps each
stage's own backlog. A stage that is taken out leaves a backlog; the stage that came after it reads that too
(see ``leftovers``), until it is done.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import msgspec

from platformd.core.quantities import seconds
from platformd.model.pipeline import AnnotateStage, FilterStage, PipelineSpec, RouteStage, Stage
from platformd.model.resource import DEFAULT_TENANT, AnyResource
from platformd.pipelines.annotators import ANNOTATORS
from platformd.pipelines.expressions import Expression
from platformd.queues.contract import ConsumerConfig, ConsumerInfo, StreamConfig, StreamInfo

MAX_ENGINE_NAME = 63
"""Characters of a stream's or consumer's name."""
MAX_ACK_PENDING = 4096
"""Packets of a stage that its workers may hold together."""


class Input(msgspec.Struct, frozen=True, kw_only=True):
    """A cursor that a worker reads from."""

    stream: str
    consumer: str


class WorkerConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that a worker process is told, as one line of JSON on its standard input."""

    pipeline: str
    stage: Stage
    inputs: tuple[Input, ...]
    """The first one is the stage's own; others are backlogs of stages that were taken out."""
    next_subject: str
    """Where accepted packets go; empty for a route."""
    streams: dict[str, str]
    """Which stream captures each subject that the worker publishes to."""
    dead_letter: str
    id_field: str
    fields: tuple[str, ...] | None
    """Dotted paths of the packet's fields that the chain reads; ``None`` for all."""
    ack_wait: float
    """Seconds."""
    ingest: str
    """The address of the queues' ingest socket."""
    fetch: str
    """The address of the queues' fetch socket."""
    condemned: dict[str, str] = {}
    """Packets (``STREAM:SEQUENCE``) that are not to be processed again, with the reason."""
    suspects: tuple[str, ...] = ()
    """Packets that have killed workers and are to be tried after all others."""

    @property
    def stage_name(self) -> str:
        """The name of its stage."""
        return self.stage.name

    @property
    def fingerprint(self) -> str:
        """The same for two configurations that make the same worker."""
        same = msgspec.structs.replace(self, condemned={}, suspects=())
        return hashlib.sha256(msgspec.json.encode(same, order="deterministic")).hexdigest()[:16]


@dataclass(frozen=True, kw_only=True)
class StagePlan:
    """One stage and what its workers are told."""

    name: str
    type: str
    workers: int
    config: WorkerConfig


@dataclass(frozen=True, kw_only=True)
class WantedConsumer:
    """A cursor that has to be there."""

    stream: str
    name: str
    config: ConsumerConfig


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What has to be there for a pipeline to run."""

    stream: str
    stream_config: StreamConfig
    consumers: tuple[WantedConsumer, ...]
    stages: tuple[StagePlan, ...]


@dataclass(frozen=True, kw_only=True)
class Surroundings:
    """What a plan depends on beside the resource."""

    streams: tuple[StreamInfo, ...]
    backlogs: Mapping[str, ConsumerInfo]
    """The cursors of the pipeline's own stream, by name."""
    addresses: Mapping[str, str]
    order: tuple[str, ...] = ()
    """The stages in the order that the status lists them, those that were taken out included."""


class NotCaptured(Exception):
    """No stream captures a subject of the pipeline."""

    def __init__(self, subject: str, what: str) -> None:
        super().__init__(f"no stream captures {subject!r}, {what}")
        self.subject = subject


def own_stream(resource: AnyResource) -> str:
    """The name of the stream between the stages.

    Names of resources have no upper case, so the mark of a tenant cannot be part of another name.
    """
    tenant = "" if resource.tenant == DEFAULT_TENANT else f".T-{resource.tenant}"
    return _fitting(f"pipeline-{resource.name}{tenant}")


def own_subject(resource: AnyResource, stage: str) -> str:
    """The subject of the packets that wait for ``stage``; ``>`` for those of all."""
    tenant = "" if resource.tenant == DEFAULT_TENANT else f"@{resource.tenant}"
    return f"pipeline.{_token(resource.name)}{_token(tenant)}.{_token(stage)}"


def source_consumer(resource: AnyResource) -> str:
    """The name of the cursor over the source; it outlives every change of the stages."""
    return own_stream(resource)


def covers(wide: str, narrow: str) -> bool:
    """Whether every subject that the pattern ``narrow`` matches is matched by ``wide`` too."""
    left, right = wide.split("."), narrow.split(".")
    for i, token in enumerate(left):
        if token == ">":
            return len(right) > i
        if i >= len(right) or right[i] == ">" or token not in ("*", right[i]):
            return False
    return len(left) == len(right)


def capturing(streams: Iterable[StreamInfo], pattern: str) -> str | None:
    """The name of the stream that captures all of ``pattern``."""
    return next((s.name for s in streams if any(covers(p, pattern) for p in s.config.subjects)), None)


def fields_read(spec: PipelineSpec) -> tuple[str, ...] | None:
    """Dotted paths of all the packet's fields that the chain reads; ``None`` if that cannot be told."""
    paths = {spec.id_field}
    for stage in spec.stages:
        if isinstance(stage, AnnotateStage):
            paths |= {path for name in stage.annotators for path in ANNOTATORS[name].reads}
            continue
        for source in expressions_of(stage):
            reads = Expression(source).reads
            if reads is None:
                return None
            paths |= {path for path in reads if path.split(".")[0] != "annotations"}
    return tuple(sorted(paths))


def expressions_of(stage: Stage) -> tuple[str, ...]:
    """The expressions that a stage evaluates."""
    if isinstance(stage, FilterStage):
        return (stage.expression,)
    return tuple(r.when for r in stage.routes if r.when is not None) if isinstance(stage, RouteStage) else ()


def make_plan(resource: AnyResource, around: Surroundings) -> Plan:
    """What has to be there for the pipeline to run.

    Raises:
        NotCaptured: its source, a route or its dead letters are captured by no stream.
    """
    spec: PipelineSpec = resource.spec
    stream = own_stream(resource)
    source = capturing(around.streams, spec.source)
    if source is None:
        raise NotCaptured(spec.source, "its source")
    outside = _captured(spec, around.streams)
    ack_wait = seconds(spec.ack_wait)
    consumers = [_consumer(source, source_consumer(resource), spec.source, ack_wait)]
    consumers += [_consumer(stream, s.name, own_subject(resource, s.name), ack_wait) for s in spec.stages[1:]]
    extra = leftovers(spec, around)
    fields = fields_read(spec)
    stages = []
    for i, stage in enumerate(spec.stages):
        following = own_subject(resource, spec.stages[i + 1].name) if i + 1 < len(spec.stages) else ""
        own = Input(stream=consumers[i].stream, consumer=consumers[i].name)
        left = tuple(Input(stream=stream, consumer=name) for name in extra.get(stage.name, ()))
        config = WorkerConfig(
            pipeline=resource.name,
            stage=msgspec.structs.replace(stage, workers=1),  # how many others there are is nothing to a worker
            inputs=(own, *left),
            next_subject=following,
            streams=outside | ({following: stream} if following else {}),
            dead_letter=spec.dead_letter,
            id_field=spec.id_field,
            fields=fields,
            ack_wait=ack_wait,
            ingest=around.addresses["ingest"],
            fetch=around.addresses["fetch"],
        )
        kind = str(type(stage).__struct_config__.tag)
        stages.append(StagePlan(name=stage.name, type=kind, workers=stage.workers, config=config))
    return Plan(
        stream=stream,
        stream_config=StreamConfig(subjects=(own_subject(resource, ">"),), max_age=seconds(spec.keep)),
        consumers=tuple(consumers),
        stages=tuple(stages),
    )


def leftovers(spec: PipelineSpec, around: Surroundings) -> dict[str, list[str]]:
    """By stage: the cursors of the own stream with a backlog that this stage has to read beside its own.

    A cursor is left over when its stage was taken out of the chain, or became the first one, which reads the
    source. The backlog of a stage that is still there is its own; that of another belongs to the stage that
    came after it.
    """
    names = [s.name for s in spec.stages]
    left: dict[str, list[str]] = {}
    for cursor, info in sorted(around.backlogs.items()):
        if cursor in names[1:] or not info.pending + info.ack_pending:
            continue
        heir = cursor if cursor == names[0] else _heir(cursor, names, around.order)
        left.setdefault(heir, []).append(cursor)
    return left


def _heir(gone: str, names: Sequence[str], order: Sequence[str]) -> str:
    after = order[order.index(gone) + 1 :] if gone in order else ()
    return next((name for name in after if name in names), names[-1])


def _captured(spec: PipelineSpec, streams: tuple[StreamInfo, ...]) -> dict[str, str]:
    wanted = {spec.dead_letter: "its dead letters"}
    for stage in spec.stages:
        if isinstance(stage, RouteStage):
            wanted |= {r.subject: f"a route of stage {stage.name!r}" for r in stage.routes}
    found: dict[str, str] = {}
    for subject, what in wanted.items():
        stream = capturing(streams, subject)
        if stream is None:
            raise NotCaptured(subject, what)
        found[subject] = stream
    return found


def _consumer(stream: str, name: str, subject: str, ack_wait: float) -> WantedConsumer:
    config = ConsumerConfig(filter_subject=subject, ack_wait=ack_wait, max_ack_pending=MAX_ACK_PENDING)
    return WantedConsumer(stream=stream, name=name, config=config)


def _token(name: str) -> str:
    """A name as one token of a subject; no name has a colon."""
    return name.replace(".", ":")


def _fitting(name: str) -> str:
    if len(name) <= MAX_ENGINE_NAME:
        return name
    digest = hashlib.sha256(name.encode()).hexdigest()[:12]
    return f"{name[: MAX_ENGINE_NAME - 15].rstrip('.')}.H-{digest}"
