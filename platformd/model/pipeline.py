"""Pipeline: a chain of stages over the records of a stream, each stage in its own worker processes."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from platformd.core.errors import FieldError
from platformd.core.quantities import Duration, seconds
from platformd.model.kind import Action, Column, Kind
from platformd.model.resource import Name, Status, Struct
from platformd.model.subjects import subject_error, subject_matches

Expression = Annotated[
    str,
    msgspec.Meta(
        min_length=1,
        max_length=4096,
        description="A CEL expression over the decoded packet.",
        examples=["candidate.rb >= 0.55 && candidate.nbad == 0 && candidate.magpsf < 19.5"],
    ),
]
"""A CEL predicate over a packet (https://cel.dev)."""


class Route(Struct, frozen=True, kw_only=True):
    """One way out of a ``route`` stage."""

    subject: str
    """Where matching packets are published; a stream must capture it."""
    when: Expression | None = None
    """Which packets take this route; the first route that matches wins; ``None`` takes all."""


class _Stage(Struct, frozen=True, kw_only=True, tag_field="type"):
    name: Name
    """What the stage is called; it keeps its counts and what waits for it under this name."""
    workers: Annotated[int, msgspec.Meta(ge=1, le=64)] = 1
    """How many processes share the stage's work."""


class FilterStage(_Stage, frozen=True, kw_only=True, tag="filter"):
    """Keeps the packets for which an expression is true."""

    expression: Expression
    """Which packets go on."""


class AnnotateStage(_Stage, frozen=True, kw_only=True, tag="annotate"):
    """Adds computed values to a packet under ``annotations``."""

    annotators: Annotated[tuple[str, ...], msgspec.Meta(min_length=1)] = ("galactic", "delta_mag")
    """Which annotators run, by name."""


class RouteStage(_Stage, frozen=True, kw_only=True, tag="route"):
    """Publishes each packet to the first route that matches; a packet that matches none is counted as
    rejected."""

    routes: Annotated[tuple[Route, ...], msgspec.Meta(min_length=1, max_length=64)]
    """The ways out, tried in order."""


Stage = FilterStage | AnnotateStage | RouteStage
"""Any stage; ``type`` says which."""


class PipelineSpec(Struct, frozen=True, kw_only=True):
    """Where packets come from, what is done with them, in order, and where the bad ones go."""

    source: str
    """The subject pattern that the first stage reads; a stream must capture it."""
    stages: Annotated[tuple[Stage, ...], msgspec.Meta(min_length=1, max_length=32)]
    """In order; only the last one may (and must) be a ``route``."""
    dead_letter: str
    """The subject for packets that cannot be decoded or make an expression fail."""
    id_field: str = "candid"
    """The packet's field that identifies it, as a dotted path: its output's ``msg_id``, so that nothing
    appears twice."""
    format: Literal["avro"] = "avro"
    """How packets come: Avro object container files with their schema inside."""
    ack_wait: Duration = "30s"
    """How long a worker may hold packets before others get them; a dead worker's are free at once."""
    keep: Duration = "7d"
    """How long packets between two stages are kept; one that waits longer for its next stage is lost to
    the pipeline (never to the source stream). ``0`` keeps them until the pipeline is deleted."""
    suspend: bool = False
    """Stops the workers; what has not been processed waits in the stream."""


class StageStatus(Struct, frozen=True, kw_only=True):
    """One stage, counted since the pipeline was created.

    A restart of the daemon goes on from the counts that were written last, so its kill can lose those of one
    status interval, and a worker's kill those of its last 200 ms. The packets themselves are never lost. A
    stage that was taken out of the chain is listed, without workers, until what waited for it is done."""

    name: str
    """The stage's name."""
    type: str
    """What it does: filter, annotate or route."""
    workers_ready: int = 0
    """Worker processes that take packets."""
    workers_desired: int = 0
    """Worker processes that there should be."""
    restarts: int = 0
    """How often a worker ended without being told to, and was replaced."""
    lag: int = 0
    """Packets that wait for this stage."""
    in_flight: int = 0
    """Packets that a worker has and has not acknowledged."""
    received: int = 0
    """Packets taken from the stream, those that were given out again included."""
    accepted: int = 0
    """Packets that went on to the next stage or out."""
    rejected: int = 0
    """Packets that a filter left out or no route took."""
    dead_lettered: int = 0
    """Packets that could not be processed and went to ``dead_letter``."""
    duplicates: int = 0
    """Packets whose output was there already: processed again after a worker died, or sent twice."""
    busy_seconds: float = 0.0
    """Time spent on packets, all workers together, waiting for the disk not included."""
    packets_per_second: float = 0.0
    """Over the last status interval."""


class PipelineStatus(Status, frozen=True, kw_only=True):
    """``pending``, ``running``, ``degraded`` (a stage lacks workers), ``suspended``, ``error``."""

    stages: tuple[StageStatus, ...] = ()
    """The stages, in order."""


def _check_stages(spec: PipelineSpec) -> list[FieldError]:
    """Stages have names of their own, and the last one, which no other may be, is a route."""
    errors = []
    names: dict[str, int] = {}
    last = len(spec.stages) - 1
    for i, stage in enumerate(spec.stages):
        if stage.name in names:
            errors.append(
                FieldError(path=f"spec.stages[{i}].name", message=f"{stage.name!r} is stage {names[stage.name]} too")
            )
        names.setdefault(stage.name, i)
        if isinstance(stage, RouteStage) != (i == last):
            errors.append(
                FieldError(
                    path=f"spec.stages[{i}].type",
                    message="a route ends the chain: the last stage must be one and no other may",
                )
            )
    return errors


def _subjects(spec: PipelineSpec) -> list[tuple[str, str]]:
    named = [("spec.source", spec.source), ("spec.dead_letter", spec.dead_letter)]
    for i, stage in enumerate(spec.stages):
        if isinstance(stage, RouteStage):
            named += [(f"spec.stages[{i}].routes[{j}].subject", r.subject) for j, r in enumerate(stage.routes)]
    return named


def _check_subjects(spec: PipelineSpec) -> list[FieldError]:
    """Subjects are valid, only the source may be a pattern, and it covers nothing that the pipeline publishes."""
    named = [(path, subject, path == "spec.source") for path, subject in _subjects(spec)]
    found = [(path, subject, subject_error(subject, pattern=pattern)) for path, subject, pattern in named]
    errors = [FieldError(path=path, message=f"{subject!r} {wrong}") for path, subject, wrong in found if wrong]
    if not errors:
        errors = [
            FieldError(
                path=path,
                message=f"{subject!r} is matched by the source {spec.source!r}",
                hint="the pipeline would read its own output for ever: choose a source that leaves it out",
            )
            for path, subject, _ in named[1:]
            if subject_matches(spec.source, subject)
        ]
    return errors


MIN_ACK_WAIT = 1.0
"""Seconds; with less, packets would come again while they are being processed."""


def _check_durations(spec: PipelineSpec) -> list[FieldError]:
    """``ack_wait`` is at least a second."""
    if seconds(spec.ack_wait) < MIN_ACK_WAIT:
        return [FieldError(path="spec.ack_wait", message=f"{spec.ack_wait!r} is too short; at least {MIN_ACK_WAIT:g}s")]
    return []


PIPELINE = Kind(
    name="Pipeline",
    plural="pipelines",
    summary="A chain of stages over the records of a stream, each stage in its own worker processes.",
    spec=PipelineSpec,
    status=PipelineStatus,
    aliases=("pl",),
    example={
        "source": "alerts.raw",
        "stages": [
            {"type": "filter", "name": "real", "expression": "candidate.rb >= 0.55"},
            {"type": "route", "name": "out", "routes": [{"subject": "alerts.real"}]},
        ],
        "dead_letter": "alerts.dead",
    },
    actions=(
        Action(name="pause", summary="Stop the workers; what has not been processed waits in the stream."),
        Action(name="resume", summary="Start the workers again where they were stopped."),
    ),
    finalizer="pipelines",
    checks=(_check_stages, _check_subjects, _check_durations),
    subjects=_subjects,
    transitions={
        "pending": frozenset({"running", "degraded", "suspended", "error"}),
        "running": frozenset({"degraded", "suspended", "error"}),
        "degraded": frozenset({"running", "suspended", "error"}),
        "suspended": frozenset({"pending", "running", "degraded", "error"}),
        "error": frozenset({"pending", "running", "degraded", "suspended"}),
    },
    columns=(
        Column(title="STATE", path="status.state"),
        Column(title="SOURCE", path="spec.source"),
        Column(title="STAGES", path="status.stages", format="stages"),
        Column(title="MESSAGE", path="status.message", wide=True),
    ),
)
