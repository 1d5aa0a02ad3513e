"""Rules: what is refused when a pipeline is applied, what starts and stops, and what the status says."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from platformd.model.pipeline import (
    PIPELINE,
    AnnotateStage,
    FilterStage,
    PipelineStatus,
    Route,
    RouteStage,
    StageStatus,
)
from platformd.pipelines.plan import StagePlan
from platformd.pipelines.rules import (
    CALM,
    Condition,
    Counts,
    Failures,
    Start,
    Stop,
    WorkerFact,
    WorkerState,
    added,
    check_expressions,
    scale,
    status_of,
)
from tests.pipelines.resources import ANNOTATE, FILTER, ROUTE, pipeline, worker_config

# -- admission ---------------------------------------------------------------------------------------------


def test_a_good_pipeline_is_admitted() -> None:
    """Nothing is wrong with the chain of the tests."""
    spec = pipeline().spec
    assert check_expressions(spec) == []
    assert [e for check in PIPELINE.checks for e in check(spec)] == []


def test_all_errors_are_said_at_once_with_their_paths() -> None:
    """Every expression and annotator is checked, wherever it stands."""
    broken = pipeline(
        FilterStage(name="f", expression="candidate.rb >"),
        AnnotateStage(name="a", annotators=("galactic", "galaktic")),
        RouteStage(name="r", routes=(Route(subject="out.a", when="abs(1) > 0"), Route(subject="out.b", when="x +"))),
    )
    errors = {e.path: e for e in check_expressions(broken.spec)}
    assert set(errors) == {
        "spec.stages[0].expression",
        "spec.stages[1].annotators[1]",
        "spec.stages[2].routes[0].when",
        "spec.stages[2].routes[1].when",
    }
    assert errors["spec.stages[1].annotators[1]"].hint == "did you mean galactic?"


@pytest.mark.parametrize(
    ("expression", "hint"),
    [
        ("annotations.galactic_latitud < 15.0", "did you mean annotations.galactic_latitude?"),
        ("annotations.zzz == 1", "known here: galactic_latitude, galactic_longitude"),
    ],
)
def test_an_annotation_that_no_earlier_stage_gives_is_refused(expression: str, hint: str) -> None:
    """What stages compute is known when the pipeline is applied, unlike the packet's fields."""
    route = RouteStage(name="r", routes=(Route(subject="out.a", when=expression),))
    (error,) = check_expressions(pipeline(ANNOTATE, route).spec)
    assert "no stage before this one gives annotations." in error.message
    assert error.hint == hint
    (early,) = check_expressions(pipeline(FilterStage(name="f", expression=expression), ANNOTATE, ROUTE).spec)
    assert early.hint == "no stage before this one annotates"


@pytest.mark.parametrize("changes", [{"dead_letter": "alerts.dead"}, {"source": "*.dead"}, {"source": ">"}])
def test_a_pipeline_cannot_read_its_own_output(changes: dict[str, Any]) -> None:
    """A source that matches an output would go round for ever."""
    spec = pipeline(**({"source": "alerts.>"} | changes)).spec
    errors = [e for check in PIPELINE.checks for e in check(spec)]
    assert errors
    assert all("is matched by the source" in e.message for e in errors)


@pytest.mark.parametrize(("ack_wait", "good"), [("0", False), ("999ms", False), ("1s", True)])
def test_packets_may_be_held_for_a_second_at_least(ack_wait: str, good: bool) -> None:
    """With a shorter ack_wait packets would come again while they are being processed."""
    errors = [e.path for check in PIPELINE.checks for e in check(pipeline(ack_wait=ack_wait).spec)]
    assert errors == ([] if good else ["spec.ack_wait"])


# -- scaling -----------------------------------------------------------------------------------------------


def plans(**workers: int) -> list[StagePlan]:
    config = worker_config()
    return [
        StagePlan(
            name=name,
            type="filter",
            workers=count,
            config=msgspec.structs.replace(config, stage=FilterStage(name=name, expression="true")),
        )
        for name, count in workers.items()
    ]


def fact(id_: int, plan: StagePlan, state: WorkerState = "ready", *, old: bool = False) -> WorkerFact:
    return WorkerFact(id=id_, stage=plan.name, fingerprint="old" if old else plan.config.fingerprint, state=state)


def decide(stages: list[StagePlan], workers: list[WorkerFact], free: int = 64, **kwargs: Any) -> list[Any]:
    return scale(stages, workers, free=free, now=100.0, not_before=kwargs.get("not_before", {}))


def test_what_is_missing_starts_and_what_is_too_many_stops() -> None:
    """Scaling up and down, and a stage that is no longer there."""
    a, b = plans(a=2, b=1)
    (gone,) = plans(gone=1)
    workers = [fact(1, a), fact(2, b), fact(3, b, "starting"), fact(4, gone), fact(5, gone, "stopping")]
    assert decide([a, b], workers) == [Stop(4), Stop(3), Start("a")]
    assert decide([a, b], [fact(1, a), fact(2, a, "starting"), fact(3, b)]) == []


def test_a_changed_configuration_rolls() -> None:
    """The new one starts beside the old one, which goes when the new one is ready."""
    (a,) = plans(a=1)
    assert decide([a], [fact(1, a, old=True)]) == [Start("a")]
    assert decide([a], [fact(1, a, old=True), fact(2, a, "starting")]) == []
    assert decide([a], [fact(1, a, old=True), fact(2, a)]) == [Stop(1)]


def test_without_room_an_old_one_makes_way() -> None:
    """When there is no place for both, the old one stops first."""
    (a,) = plans(a=1)
    assert decide([a], [fact(1, a, old=True)], free=0) == [Stop(1)]
    assert decide([a], [fact(1, a, "stopping", old=True)], free=0) == []
    assert decide([a], [], free=1) == [Start("a")]


def test_each_stage_gets_one_before_any_gets_two() -> None:
    """With few places no stage is left out for another's second worker: the chain can move."""
    assert decide(plans(a=4, b=4, c=1), [], free=4) == [Start("a"), Start("b"), Start("c"), Start("a")]


def test_a_stage_that_failed_waits() -> None:
    """Its place is not filled before its time; others are not held up."""
    a, b = plans(a=1, b=1)
    assert decide([a, b], [], not_before={"a": 100.5, "b": 100.0}) == [Start("b")]


def test_an_old_worker_stays_while_its_successor_may_not_start() -> None:
    """A new configuration that keeps failing leaves the old one at work, which is better than nothing."""
    (a,) = plans(a=1)
    assert decide([a], [fact(1, a, old=True)], not_before={"a": 105.0}) == []


STATES: list[WorkerState] = ["starting", "ready", "stopping"]


@given(
    st.dictionaries(st.sampled_from("abc"), st.integers(1, 3)),
    st.lists(st.tuples(st.sampled_from("abcd"), st.booleans(), st.sampled_from(STATES)), max_size=8),
    st.integers(0, 4),
)
def test_scaling_settles(wanted: dict[str, int], there: list[tuple[str, bool, WorkerState]], free: int) -> None:
    """From any state, doing what is decided ends with the wanted workers, and never exceeds the places."""
    stages = plans(**wanted)
    by_name = {s.name: s for s in plans(a=1, b=1, c=1, d=1)}
    workers = {i: fact(i, by_name[name], state, old=old) for i, (name, old, state) in enumerate(there)}
    places = len(workers) + free
    for step in range(60):
        actions = scale(stages, list(workers.values()), free=places - len(workers), now=0.0, not_before={})
        for action in actions:
            if isinstance(action, Start):
                workers[1000 + 100 * step + len(workers)] = fact(0, by_name[action.stage], "starting")
                workers = {i: msgspec_id(w, i) for i, w in workers.items()}
            else:
                workers[action.worker] = state_of(workers[action.worker], "stopping")
        assert len(workers) <= places
        workers = {
            i: state_of(w, "ready") if w.state == "starting" else w
            for i, w in workers.items()
            if w.state != "stopping" or i % 2 == step % 2
        }
    live = {name: [w for w in workers.values() if w.stage == name] for name in "abcd"}
    possible = min(places, sum(wanted.values()))
    assert sum(len(w) for w in live.values()) == possible
    assert all(w.fingerprint != "old" and w.state == "ready" for w in workers.values())
    assert all(len(live[name]) <= wanted.get(name, 0) for name in live)


def msgspec_id(worker: WorkerFact, number: int) -> WorkerFact:
    return WorkerFact(id=number, stage=worker.stage, fingerprint=worker.fingerprint, state=worker.state)


def state_of(worker: WorkerFact, state: WorkerState) -> WorkerFact:
    return WorkerFact(id=worker.id, stage=worker.stage, fingerprint=worker.fingerprint, state=state)


def test_the_wait_doubles_and_forgets() -> None:
    """Restarts back off to a limit; after a calm minute the next failure is a first one."""
    failures, now, waits = Failures(), 1000.0, []
    assert failures.not_before(0.2, 30.0) < now
    for _ in range(10):
        failures = failures.another(now, "boom")
        waits.append(failures.not_before(0.2, 30.0) - now)
        now = failures.not_before(0.2, 30.0)
    assert waits == pytest.approx([0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8, 25.6, 30.0, 30.0])
    assert failures.recent(now)
    assert not failures.recent(now + CALM + 1)
    assert failures.another(now + CALM + 1, "boom").count == 1


# -- status ------------------------------------------------------------------------------------------------


def row(name: str, ready: int, desired: int) -> StageStatus:
    return StageStatus(name=name, type="filter", workers_ready=ready, workers_desired=desired)


def condition(**changes: Any) -> Condition:
    return Condition(**({"failures": {}, "troubles": {}, "max_workers": 64} | changes))


@pytest.mark.parametrize(
    ("rows", "changes", "before", "state", "reason"),
    [
        ((row("f", 1, 1),), {}, "pending", "running", ""),
        ((row("f", 0, 1),), {}, "pending", "pending", "Starting"),
        ((row("f", 0, 1),), {}, "running", "running", "Starting"),
        ((row("f", 0, 1),), {}, "suspended", "pending", "Starting"),
        ((row("f", 0, 1),), {}, "error", "pending", "Starting"),
        ((row("f", 0, 1),), {"failures": {"f": "SIGKILL"}}, "running", "degraded", "WorkerFailed"),
        ((row("f", 1, 1),), {"failures": {"f": "SIGKILL"}}, "degraded", "running", ""),
        ((row("f", 1, 2),), {"no_room": True}, "running", "degraded", "MaxWorkers"),
        ((row("f", 1, 1),), {"troubles": {"f": "the disk is full"}}, "running", "degraded", "CannotPublish"),
        ((row("f", 0, 0),), {"problem": ("SubjectNotCaptured", "x")}, "running", "error", "SubjectNotCaptured"),
    ],
)
def test_states(rows: Any, changes: dict[str, Any], before: str, state: str, reason: str) -> None:
    """Each state has its reason, and every change is one that the kind's table allows."""
    resource = pipeline(status=PipelineStatus(state=before))
    status = status_of(resource, rows, condition(**changes))
    assert (status.state, status.reason, status.observed_generation) == (state, reason, 1)
    assert state == before or state in PIPELINE.transitions[before]


def test_a_suspended_pipeline_says_so() -> None:
    """No worker is missed while it is suspended."""
    assert status_of(pipeline(suspend=True), (row("f", 0, 0),), condition()).state == "suspended"


def test_counts_add_up() -> None:
    """What a worker did between two reports is added to what is known of the stage."""
    stage = StageStatus(name="f", type="filter", received=100, accepted=60, rejected=40, busy_seconds=1.0)
    old, new = Counts(received=5, accepted=5), Counts(received=8, accepted=6, rejected=2, busy_seconds=0.5)
    after = added(stage, new, old)
    assert (after.received, after.accepted, after.rejected, after.busy_seconds) == (103, 61, 42, 1.5)


def test_a_filter_stage_of_the_tests_is_used() -> None:
    """The shared stages are valid on their own, so that a failure elsewhere is not theirs."""
    assert check_expressions(pipeline(FILTER, ROUTE_ALL).spec) == []


ROUTE_ALL = RouteStage(name="route", routes=(Route(subject="out.all"),))
