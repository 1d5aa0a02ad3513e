"""The decisions about pipelines, as functions of facts: what is refused, what starts and stops, what is said."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import msgspec

from platformd.core.errors import FieldError, nearest
from platformd.model.pipeline import (
    AnnotateStage,
    FilterStage,
    PipelineSpec,
    PipelineStatus,
    RouteStage,
    StageStatus,
)
from platformd.model.resource import AnyResource
from platformd.pipelines.annotators import ANNOTATORS
from platformd.pipelines.expressions import Expression, ExpressionError, expression_errors
from platformd.pipelines.plan import StagePlan

CALM = 60.0
"""Seconds without a failure after which a stage's next failure counts as the first again."""
MAX_KILLS = 5
"""How many workers a packet may take with it before it is a dead letter."""

WorkerState = Literal["starting", "ready", "stopping"]


# -- admission -----------------------------------------------------------------------------------------


def check_expressions(spec: PipelineSpec) -> list[FieldError]:
    """What is wrong with the expressions and annotators of a pipeline: an admission rule of its kind."""
    errors: list[FieldError] = []
    given: set[str] = set()
    for i, stage in enumerate(spec.stages):
        if isinstance(stage, FilterStage):
            errors += _check(stage.expression, f"spec.stages[{i}].expression", given)
        elif isinstance(stage, RouteStage):
            for j, route in enumerate(stage.routes):
                if route.when is not None:
                    errors += _check(route.when, f"spec.stages[{i}].routes[{j}].when", given)
        else:
            errors += _check_annotators(stage, f"spec.stages[{i}].annotators")
            given |= {value for name in stage.annotators if name in ANNOTATORS for value in ANNOTATORS[name].gives}
    return errors


def _check_annotators(stage: AnnotateStage, path: str) -> list[FieldError]:
    errors = []
    for k, name in enumerate(stage.annotators):
        if name not in ANNOTATORS:
            near = nearest(name, list(ANNOTATORS))
            hint = f"did you mean {near}?" if near else f"known: {', '.join(ANNOTATORS)}"
            errors.append(FieldError(path=f"{path}[{k}]", message=f"there is no annotator {name!r}", hint=hint))
    return errors


def _check(source: str, path: str, given: set[str]) -> list[FieldError]:
    errors = expression_errors(source, path)
    if errors:
        return errors
    try:
        reads = Expression(source).reads
    except ExpressionError:  # pragma: no cover - expression_errors has said it
        return []
    for read in sorted(reads or ()):
        root, _, name = read.partition(".")
        first = name.split(".")[0]
        if root == "annotations" and first and first not in given:
            near = nearest(first, sorted(given))
            known = f"known here: {', '.join(sorted(given))}" if given else "no stage before this one annotates"
            hint = f"did you mean annotations.{near}?" if near else known
            errors.append(
                FieldError(path=path, message=f"no stage before this one gives annotations.{first}", hint=hint)
            )
    return errors


# -- workers -------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class WorkerFact:
    """A worker process."""

    id: int
    stage: str
    fingerprint: str
    """Of the configuration that it was started with."""
    state: WorkerState


@dataclass(frozen=True)
class Start:
    """Start one more worker of a stage."""

    stage: str


@dataclass(frozen=True)
class Stop:
    """Let a worker finish what it has and end."""

    worker: int


Action = Start | Stop


def scale(
    stages: Sequence[StagePlan],
    workers: Sequence[WorkerFact],
    *,
    free: int,
    now: float,
    not_before: Mapping[str, float],
) -> list[Action]:
    """What to start and stop so that each stage has its workers, all with its present configuration.

    A changed configuration rolls: an old worker goes when a new one is ready in its place, or at once when
    there is no room for both. Where there are not enough places for all, each stage gets its first worker
    before any gets its second.

    Args:
        stages: what is wanted.
        workers: what is there.
        free: how many processes may be added.
        now: seconds, on the clock of ``not_before``.
        not_before: by stage: when it may be started again after a failure.
    """
    actions: list[Action] = []
    known = {s.name for s in stages}
    live = [w for w in workers if w.state != "stopping"]
    actions += [Stop(w.id) for w in live if w.stage not in known]
    missing: dict[str, int] = {}
    old: dict[str, list[WorkerFact]] = {}
    for stage in stages:
        fingerprint = stage.config.fingerprint
        mine = [w for w in live if w.stage == stage.name]
        current = sorted((w for w in mine if w.fingerprint == fingerprint), key=lambda w: (w.state != "ready", w.id))
        old[stage.name] = [w for w in mine if w.fingerprint != fingerprint]
        actions += [Stop(w.id) for w in current[stage.workers :]]
        missing[stage.name] = max(0, stage.workers - len(current)) if now >= not_before.get(stage.name, now) else 0
        ready = sum(w.state == "ready" for w in current[: stage.workers])
        surplus = max(0, ready + len(old[stage.name]) - stage.workers)
        actions += [Stop(w.id) for w in old[stage.name][:surplus]]
        old[stage.name] = old[stage.name][surplus:]
    while free > 0 and any(missing.values()):
        for stage in stages:
            if missing[stage.name] and free > 0:
                actions.append(Start(stage.name))
                missing[stage.name] -= 1
                free -= 1
    actions += [Stop(old[name][0].id) for name, count in missing.items() if count and old[name]]
    return actions


@dataclass(frozen=True, kw_only=True)
class Failures:
    """How a stage's workers have failed lately."""

    count: int = 0
    last: float = float("-inf")
    """When, seconds."""
    message: str = ""

    def another(self, now: float, message: str) -> Failures:
        """With one more failure."""
        return Failures(count=1 if now - self.last > CALM else self.count + 1, last=now, message=message)

    def not_before(self, delay: float, delay_max: float) -> float:
        """When the next worker may be started: the wait doubles with each failure."""
        if not self.count:
            return float("-inf")
        return self.last + min(delay_max, delay * 2.0 ** min(self.count - 1, 32))

    def recent(self, now: float) -> bool:
        """Whether it is still worth telling."""
        return self.count > 0 and now - self.last <= CALM


# -- status --------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Condition:
    """What is so, beside the counts."""

    problem: tuple[str, str] | None = None
    """Reason and message of what keeps the pipeline from running."""
    failures: Mapping[str, str]
    """By stage: what its workers failed of lately."""
    troubles: Mapping[str, str]
    """By stage: what its workers cannot do at the moment, though they live."""
    no_room: bool = False
    """Whether the limit of processes keeps workers from being started."""
    max_workers: int


def status_of(resource: AnyResource, stages: tuple[StageStatus, ...], condition: Condition) -> PipelineStatus:
    """The status that the facts make."""
    lacking = [s for s in stages if s.workers_ready < s.workers_desired]
    names = ", ".join(f"{s.name} {s.workers_ready}/{s.workers_desired}" for s in lacking)
    failures = [f"stage {name}: {text}" for name, text in condition.failures.items()]
    troubles = [f"stage {name}: {text}" for name, text in condition.troubles.items()]
    before = resource.status.state
    if condition.problem is not None:
        state, (reason, message) = "error", condition.problem
    elif resource.spec.suspend:
        state, reason, message = "suspended", "Suspended", "spec.suspend is true; what comes waits in the stream"
    elif lacking and failures:
        state, reason, message = "degraded", "WorkerFailed", "; ".join(failures)
    elif troubles:
        state, reason, message = "degraded", "CannotPublish", "; ".join(troubles)
    elif lacking and condition.no_room:
        state, reason = "degraded", "MaxWorkers"
        message = f"{names}: pipelines.max_workers is {condition.max_workers}, and that many processes run"
    elif lacking:
        state = before if before in ("pending", "running", "degraded") else "pending"
        reason, message = "Starting", f"workers are starting: {names}"
    else:
        state, reason, message = "running", "", ""
    return PipelineStatus(
        state=state, reason=reason, message=message, observed_generation=resource.generation, stages=stages
    )


class Counts(msgspec.Struct, frozen=True, kw_only=True):
    """What a worker has done since it started, as it reports it."""

    received: int = 0
    accepted: int = 0
    rejected: int = 0
    dead_lettered: int = 0
    duplicates: int = 0
    busy_seconds: float = 0.0


COUNTS = tuple(Counts.__struct_fields__)


class Report(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A line that a worker writes for the controller: where it is."""

    counts: Counts = Counts()
    """Since it started."""
    trying: str = ""
    """The record that has come before and is being processed alone."""
    trouble: str = ""
    """What it cannot do at the moment."""


def added(status: StageStatus, new: Counts, old: Counts) -> StageStatus:
    """A stage's counts with what a worker did between two of its reports."""
    changed = {name: getattr(status, name) + getattr(new, name) - getattr(old, name) for name in COUNTS}
    return msgspec.structs.replace(status, **changed)
