"""The decisions about bridges, as functions of facts: what is refused, what is said."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass

import msgspec

from platformd.core.errors import FieldError
from platformd.model.bridge import BridgeSpec, BridgeStatus
from platformd.model.resource import AnyResource
from platformd.pipelines.bridges.plan import BridgeCounts, BridgeReport
from platformd.pipelines.expressions import Expression, ExpressionError, expression_errors

KEY_VARIABLES = ("subject", "headers", "msg_id", "packet")
COUNTS = tuple(BridgeCounts.__struct_fields__)


def check_installed(spec: BridgeSpec) -> list[FieldError]:
    """Whether Kafka's client is there: an admission rule of the kind."""
    if importlib.util.find_spec("confluent_kafka") is not None:
        return []
    message = "needs the package confluent-kafka, which the daemon does not have"
    hint = "pip install 'platformd[kafka]', in the daemon's environment, and restart it"
    return [FieldError(path="spec.kafka", message=message, hint=hint)]


def check_key(spec: BridgeSpec) -> list[FieldError]:
    """What is wrong with the expression of a key: an admission rule of the kind."""
    source, path = spec.key.expression, "spec.key.expression"
    if not source:
        return []
    try:
        expression = Expression(source)
    except ExpressionError:
        return expression_errors(source, path)
    errors = []
    for name in sorted(expression.variables - set(KEY_VARIABLES)):
        hint = f"known: {', '.join(KEY_VARIABLES)}; a packet's field is packet.{name}"
        errors.append(FieldError(path=path, message=f"there is no {name}", hint=hint))
    if "packet" in expression.variables and not decodes(spec):
        message = f"there is no packet in format {spec.format.type}"
        errors.append(FieldError(path=path, message=message, hint="use subject, headers or msg_id"))
    return errors


def decodes(spec: BridgeSpec) -> bool:
    """Whether a sink's records are object container files."""
    form = spec.format
    return form.type == "container" or (form.type == "registry" and bool(form.register or form.directory))


@dataclass(frozen=True, kw_only=True)
class Condition:
    """What is so, beside the counts."""

    problem: tuple[str, str] | None = None
    """Reason and message of what keeps the bridge from running."""
    failure: str = ""
    """What its worker failed of lately."""
    working: bool = False
    """Whether there is a worker that has reported."""
    no_room: bool = False
    max_workers: int


def state_of(resource: AnyResource, report: BridgeReport, condition: Condition) -> tuple[str, str, str]:
    """State, reason and message that the facts make."""
    there = "its group's offsets" if resource.spec.direction == "source" else "its cursor"
    if condition.problem is not None:
        return ("error", *condition.problem)
    if resource.spec.paused:
        return "paused", "Paused", f"spec.paused is true; {there} say where it goes on"
    if not condition.working and condition.failure:
        return "degraded", "WorkerFailed", condition.failure
    if not condition.working and condition.no_room:
        limit = condition.max_workers
        return "degraded", "MaxBridges", f"pipelines.max_bridges is {limit}, and that many bridges run"
    if condition.working and report.trouble:
        return "degraded", "CannotGoOn", report.trouble
    if not condition.working:
        return "pending", "Starting", "its worker is starting"
    if not report.ready:
        return "pending", "Connecting", "it waits for Kafka to let it in"
    return "running", "", ""


def status_of(resource: AnyResource, counted: BridgeStatus, report: BridgeReport, condition: Condition) -> BridgeStatus:
    """The status that the facts make of the counts."""
    state, reason, message = state_of(resource, report, condition)
    return msgspec.structs.replace(
        counted,
        state=state,
        reason=reason,
        message=message,
        observed_generation=resource.generation,
        assigned=report.assigned,
        partitions=report.partitions,
        lag=report.lag if condition.working else counted.lag,
        in_flight=report.in_flight,
    )


def added(status: BridgeStatus, new: BridgeCounts, old: BridgeCounts) -> BridgeStatus:
    """A bridge's counts with what its worker did between two reports."""
    changed = {name: getattr(status, name) + getattr(new, name) - getattr(old, name) for name in COUNTS}
    return msgspec.structs.replace(status, **changed)
