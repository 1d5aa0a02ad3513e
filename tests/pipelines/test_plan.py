"""Plans: names that cannot clash, subjects that survive a change of the chain, and what each worker is told."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from platformd.model.pipeline import FilterStage, Route, RouteStage
from platformd.model.subjects import subject_error, subject_matches
from platformd.pipelines.plan import (
    Input,
    NotCaptured,
    WorkerConfig,
    covers,
    fields_read,
    make_plan,
    own_stream,
    own_subject,
    source_consumer,
)
from tests.pipelines.resources import ANNOTATE, FILTER, ROUTE, around, cursor, pipeline, stream, worker_config

LATER = FilterStage(name="later", expression="candidate.magpsf < 19.0")


def test_a_chain_of_three() -> None:
    """The source feeds the first stage, subjects named after their readers feed the others."""
    plan = make_plan(pipeline(keep="1d"), around())
    assert (plan.stream, plan.stream_config.subjects) == ("pipeline-demo", ("pipeline.demo.>",))
    assert plan.stream_config.max_age == 86400.0
    assert [(c.stream, c.name, c.config.filter_subject) for c in plan.consumers] == [
        ("alerts", "pipeline-demo", "alerts.ztf"),
        ("pipeline-demo", "annotate", "pipeline.demo.annotate"),
        ("pipeline-demo", "route", "pipeline.demo.route"),
    ]
    assert [s.config.next_subject for s in plan.stages] == ["pipeline.demo.annotate", "pipeline.demo.route", ""]
    assert [s.type for s in plan.stages] == ["filter", "annotate", "route"]
    assert plan.stages[0].config.streams == {
        "out.near": "out",
        "out.far": "out",
        "out.dead": "out",
        "pipeline.demo.annotate": "pipeline-demo",
    }


def test_all_stages_decode_what_the_whole_chain_reads() -> None:
    """The first stage decodes for all; annotations are not the packet's."""
    fields = fields_read(pipeline(FILTER, ANNOTATE, ROUTE).spec)
    assert fields == ("candid", "candidate.dec", "candidate.ra", "candidate.rb")
    unknown = RouteStage(name="route", routes=(Route(subject="out.x", when=".candidate.rb > 1.0"),))
    assert fields_read(pipeline(unknown).spec) is None


@pytest.mark.parametrize(
    ("streams", "subject"),
    [
        ((stream("out", "out.>"),), "alerts.ztf"),
        ((stream("alerts", "alerts.>"),), "out.dead"),
        ((stream("alerts", "alerts.>"), stream("out", "out.dead", "out.far")), "out.near"),
    ],
)
def test_subjects_without_a_stream_are_named(streams: tuple[object, ...], subject: str) -> None:
    """A pipeline that could not read or publish says which subject nobody captures."""
    with pytest.raises(NotCaptured, match=f"no stream captures '{subject}'"):
        make_plan(pipeline(), around(streams=streams))


def test_the_same_worker_has_the_same_fingerprint() -> None:
    """How many workers there are, and what is condemned, does not make another worker; an expression does."""
    first = make_plan(pipeline(), around()).stages[0].config
    more = msgspec.structs.replace(FILTER, workers=5)
    assert make_plan(pipeline(more, ANNOTATE, ROUTE), around()).stages[0].config.fingerprint == first.fingerprint
    condemned = msgspec.structs.replace(first, condemned={"alerts:1": "x"})
    assert condemned.fingerprint == first.fingerprint
    other = FilterStage(name="filter", expression="candidate.rb > 0.6")
    assert make_plan(pipeline(other, ANNOTATE, ROUTE), around()).stages[0].config.fingerprint != first.fingerprint


def test_a_configuration_survives_the_pipe() -> None:
    """It is a line of JSON."""
    config = worker_config(condemned={"alerts:1": "x"})
    line = msgspec.json.encode(config)
    assert b"\n" not in line
    assert msgspec.json.decode(line, type=WorkerConfig) == config


# -- changing chains ---------------------------------------------------------------------------------------

OLD = ("filter", "annotate", "route")


def inputs(plan_stage: object) -> list[tuple[str, str]]:
    return [(i.stream, i.consumer) for i in plan_stage.config.inputs]  # type: ignore[attr-defined]


def test_an_inserted_stage_leaves_the_backlog_of_the_next_one() -> None:
    """What waits for a stage goes on waiting for it when another is put before it."""
    plan = make_plan(pipeline(FILTER, LATER, ANNOTATE, ROUTE), around(cursor("o", "annotate", pending=9), order=OLD))
    assert [inputs(s) for s in plan.stages[1:]] == [
        [("pipeline-demo", "later")],
        [("pipeline-demo", "annotate")],
        [("pipeline-demo", "route")],
    ]


def test_a_stage_that_is_taken_out_leaves_its_backlog_to_the_next_one() -> None:
    """Packets that waited for the stage go to the one after it, until there are none."""
    shorter = pipeline(FILTER, ROUTE)
    plan = make_plan(shorter, around(cursor("o", "annotate", pending=9), order=OLD))
    assert inputs(plan.stages[1]) == [("pipeline-demo", "route"), ("pipeline-demo", "annotate")]
    plan = make_plan(shorter, around(cursor("o", "annotate", ack_pending=1), order=OLD))
    assert len(plan.stages[1].config.inputs) == 2
    plan = make_plan(shorter, around(cursor("o", "annotate"), order=OLD))
    assert inputs(plan.stages[1]) == [("pipeline-demo", "route")]


def test_a_stage_that_becomes_the_first_finishes_its_backlog() -> None:
    """It reads the source, and beside it the envelopes that its predecessor had accepted."""
    plan = make_plan(pipeline(ANNOTATE, ROUTE), around(cursor("o", "annotate", pending=2), order=OLD))
    assert inputs(plan.stages[0]) == [("alerts", "pipeline-demo"), ("pipeline-demo", "annotate")]


def test_the_source_cursor_outlives_the_first_stage() -> None:
    """Another first stage goes on where the old one was."""
    first = make_plan(pipeline(FILTER, ROUTE), around()).consumers[0]
    assert make_plan(pipeline(LATER, ROUTE), around()).consumers[0] == first


def test_a_backlog_of_unknown_order_goes_to_the_last_stage() -> None:
    """Better a packet that skips a stage than one that is lost: it was accepted by some stage."""
    plan = make_plan(pipeline(FILTER, ANNOTATE, ROUTE), around(cursor("o", "forgotten", pending=1)))
    assert plan.stages[-1].config.inputs[1] == Input(stream="pipeline-demo", consumer="forgotten")


# -- names ----------------------------------------------------------------------------------------------

NAMES = st.from_regex(r"\A[a-z0-9]([a-z0-9._-]{0,61}[a-z0-9])?\Z")


@given(NAMES, NAMES, NAMES, NAMES)
def test_names_of_different_pipelines_never_clash(first: str, second: str, tenant: str, stage: str) -> None:
    """Two pipelines share no stream and no subject, whatever they and their tenants are called."""
    one = pipeline(name=first)
    other = msgspec.structs.replace(pipeline(name=second), tenant=tenant)
    for resource in (one, other):
        assert 1 <= len(own_stream(resource)) <= 63
        assert len(source_consumer(resource)) <= 63
        assert subject_error(own_subject(resource, stage), pattern=False) is None
        assert subject_matches(own_subject(resource, ">"), own_subject(resource, stage))
    if (first, "default") != (second, tenant):
        assert own_stream(one) != own_stream(other)
        assert not subject_matches(own_subject(one, ">"), own_subject(other, stage))


TOKENS = st.lists(st.sampled_from(["a", "b", "*"]), min_size=1, max_size=4)
PATTERNS = st.builds(lambda t, rest: ".".join(t + ([">"] if rest else [])), TOKENS, st.booleans())


@given(PATTERNS, PATTERNS, st.lists(st.sampled_from(["a", "b", "c"]), min_size=1, max_size=6).map(".".join))
def test_covering_means_matching_everything(wide: str, narrow: str, subject: str) -> None:
    """A pattern covers another exactly if no subject of the other is left out."""
    if covers(wide, narrow) and subject_matches(narrow, subject):
        assert subject_matches(wide, subject)
    # One witness decides the other direction: wildcards become a token that stands in no pattern.
    witnesses = [narrow.replace("*", "w").replace(">", tail) for tail in ("w", "w.w.w.w.w")]
    assert covers(wide, narrow) == all(subject_matches(wide, w) for w in witnesses)
