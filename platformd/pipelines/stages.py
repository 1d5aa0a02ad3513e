"""A stage as a pure function: an envelope in, an outcome out.

The first stage makes envelopes of packets, so that no other decodes Avro. An envelope has the packet's
fields that any stage of the chain reads, what the stages computed, and where the whole packet is.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from platformd.model.pipeline import AnnotateStage, FilterStage, RouteStage, Stage
from platformd.pipelines.annotators import ANNOTATORS
from platformd.pipelines.expressions import EvaluationError, Expression


class Origin(msgspec.Struct, frozen=True, kw_only=True):
    """The record that a packet came in."""

    stream: str
    sequence: int


class Envelope(msgspec.Struct, frozen=True, kw_only=True):
    """What travels between stages and comes out at the end, as MessagePack."""

    id: str
    """What identifies the packet; its ``msg_id``."""
    packet: dict[str, Any]
    """Those of its fields that the pipeline reads."""
    annotations: dict[str, Any] = {}
    origin: Origin


class Accept(msgspec.Struct, frozen=True):
    """Goes on to the next stage."""

    envelope: Envelope


class Publish(msgspec.Struct, frozen=True):
    """Leaves the pipeline on a subject."""

    subject: str
    envelope: Envelope


class Reject(msgspec.Struct, frozen=True):
    """Is not wanted; that is its end."""


class Dead(msgspec.Struct, frozen=True):
    """Could not be processed."""

    reason: str


Outcome = Accept | Publish | Reject | Dead
Step = Callable[[Envelope], Outcome]
"""What a stage does with one packet."""


def build(stage: Stage) -> Step:
    """The function that a stage is.

    Raises:
        ExpressionError: an expression cannot be compiled.
        KeyError: an annotator is not known (both are refused when a pipeline is applied).
    """
    if isinstance(stage, FilterStage):
        return _filter(stage)
    return _annotate(stage) if isinstance(stage, AnnotateStage) else _route(stage)


def _filter(stage: FilterStage) -> Step:
    wanted = Expression(stage.expression)

    def step(envelope: Envelope) -> Outcome:
        try:
            return Accept(envelope) if wanted(envelope.packet, envelope.annotations) else Reject()
        except EvaluationError as error:
            return Dead(f"the filter fails on it: {error.message}")

    return step


def _annotate(stage: AnnotateStage) -> Step:
    annotators = [ANNOTATORS[name] for name in stage.annotators]

    def step(envelope: Envelope) -> Outcome:
        annotations = dict(envelope.annotations)
        for annotator in annotators:
            annotations |= annotator.compute(envelope.packet)
        return Accept(msgspec.structs.replace(envelope, annotations=annotations))

    return step


def _route(stage: RouteStage) -> Step:
    routes = [(r.subject, None if r.when is None else Expression(r.when)) for r in stage.routes]

    def step(envelope: Envelope) -> Outcome:
        for subject, condition in routes:
            try:
                if condition is None or condition(envelope.packet, envelope.annotations):
                    return Publish(subject, envelope)
            except EvaluationError as error:
                return Dead(f"the condition of the route to {subject} fails on it: {error.message}")
        return Reject()

    return step
