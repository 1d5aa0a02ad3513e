"""What is refused of a Bridge, and what is said of one."""

from __future__ import annotations

import importlib.util
from typing import Any

import pytest

from platformd.model.bridge import BRIDGE, BridgeFormat, BridgeKey, BridgeLimits, Kafka, Sasl, Tls
from platformd.pipelines.bridges.plan import BridgeReport, cursor_name, make_plan
from platformd.pipelines.bridges.rules import Condition, check_installed, check_key, state_of
from platformd.pipelines.plan import NotCaptured
from tests.pipelines.bridges.resources import bridge, spec
from tests.pipelines.resources import ADDRESSES, stream

STREAMS = (stream("alerts", "alerts.>"), stream("dead", "dead.>"))


def kafka(**fields: Any) -> Kafka:
    return Kafka(**({"bootstrap_servers": ("k:9092",)} | fields))


@pytest.mark.parametrize(
    ("direction", "fields", "path"),
    [
        ("source", {"topics": ()}, "spec.topics"),
        ("source", {"pattern": "^x"}, "spec.topics"),
        ("source", {"topics": ("a b",)}, "spec.topics[0]"),
        ("source", {"topics": (), "pattern": "x"}, "spec.pattern"),
        ("source", {"topics": (), "pattern": "^("}, "spec.pattern"),
        ("sink", {"topics": ("a", "b")}, "spec.topics"),
        ("source", {"kafka": kafka(bootstrap_servers=("k",))}, "spec.kafka.bootstrap_servers[0]"),
        ("source", {"kafka": kafka(bootstrap_servers=("k:1,m:2",))}, "spec.kafka.bootstrap_servers[0]"),
        ("source", {"kafka": kafka(properties={"debug": "all"})}, "spec.kafka.properties.debug"),
        ("source", {"kafka": kafka(properties={"batch.size": "1"})}, "spec.kafka.properties.batch.size"),
        ("sink", {"kafka": kafka(properties={"client.id": ""})}, "spec.kafka.properties.client.id"),
        (
            "source",
            {"kafka": kafka(sasl=Sasl(mechanism="PLAIN", username="u", password_file="p"))},
            "spec.kafka.sasl.mechanism",
        ),
        ("source", {"kafka": kafka(tls=Tls(certificate_file="c"))}, "spec.kafka.tls.certificate_file"),
        ("source", {"subject": "a.{nothing}"}, "spec.subject"),
        ("source", {"subject": "a.{topic"}, "spec.subject"),
        ("source", {"subject": "a.>"}, "spec.subject"),
        ("source", {"dead_letter": "a..b"}, "spec.dead_letter"),
        ("sink", {"dead_letter": "alerts.dead"}, "spec.dead_letter"),
        ("source", {"format": BridgeFormat(type="container", register="x")}, "spec.format"),
        ("source", {"format": BridgeFormat(type="registry", register="x", directory="y")}, "spec.format"),
        ("source", {"format": BridgeFormat(type="registry", register="X")}, "spec.format.register"),
        ("source", {"key": BridgeKey(subject=True)}, "spec.key"),
        ("sink", {"key": BridgeKey(subject=True, header="h")}, "spec.key"),
        ("source", {"start": "time"}, "spec.start_time"),
        ("source", {"start_time": "2026-01-01T00:00:00Z"}, "spec.start_time"),
        ("source", {"start": "time", "start_time": "yesterday"}, "spec.start_time"),
        ("source", {"start": "time", "start_time": "1960-01-01T00:00:00Z"}, "spec.start_time"),
        ("source", {"limits": BridgeLimits(linger="1m")}, "spec.limits.linger"),
        ("source", {"limits": BridgeLimits(max_in_flight_bytes="1KiB")}, "spec.limits.max_in_flight_bytes"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_with_its_place(direction: str, fields: dict[str, Any], path: str) -> None:
    """Each rule of the kind refuses what it is for, and nothing else does."""
    found = {error.path for check in BRIDGE.checks for error in check(spec(direction, **fields))}
    assert found == {path}


@pytest.mark.parametrize("direction", ["source", "sink"])
def test_what_is_right_is_taken(direction: str) -> None:
    """The plain forms, and those with everything set, are refused by nothing."""
    tls = Tls(ca_file="ca.pem", certificate_file="c.pem", key_file="k.pem")
    full = kafka(sasl=Sasl(mechanism="PLAIN", username="u", password_file="kafka/password"), tls=tls)
    for fields in ({}, {"kafka": full, "start": "time", "start_time": "2026-01-01T00:00:00Z"}):
        assert not [e for check in BRIDGE.checks for e in check(spec(direction, **fields))]


def test_without_the_package_a_bridge_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error names the package, and its hint is the command that installs it."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    (error,) = check_installed(spec())
    assert "confluent-kafka" in error.message
    assert error.hint is not None
    assert "pip install 'platformd[kafka]'" in error.hint


@pytest.mark.parametrize(
    ("expression", "form", "words"),
    [
        ("subject +", "bytes", "too early"),
        ("objectId", "container", "there is no objectId"),
        ("packet.objectId", "bytes", "there is no packet"),
        ("packet.objectId", "registry", "there is no packet"),
    ],
)
def test_keys_that_cannot_be(expression: str, form: Any, words: str) -> None:
    """An expression for a key is compiled, and may only speak of what a record has."""
    (error,) = check_key(spec("sink", key=BridgeKey(expression=expression), format=BridgeFormat(type=form)))
    assert words in error.message


def test_keys_that_can_be() -> None:
    """Fields of an Avro packet, headers and constants make keys."""
    form = BridgeFormat(type="container")
    for expression in ("packet.objectId", 'headers["x"] + subject', '"all"'):
        assert not check_key(spec("sink", key=BridgeKey(expression=expression), format=form))


def test_every_subject_must_be_captured() -> None:
    """All that a template can become, a sink's pattern and the dead letters need a stream."""
    for resource in (
        bridge(subject="ztf.{topic}"),
        bridge(subject="{topic}.x"),
        bridge(dead_letter="gone"),
        bridge("sink", subject="other.>"),
    ):
        with pytest.raises(NotCaptured):
            make_plan(resource, STREAMS, ADDRESSES, schemas={}, files="/f")


def test_the_plan_of_a_sink_has_a_cursor() -> None:
    """It reads what the specification says, from where it says, and holds no more than it may."""
    limits = BridgeLimits(max_in_flight=7)
    resource = bridge("sink", start="latest", limits=limits, tenant="lab")
    plan = make_plan(resource, STREAMS, ADDRESSES, schemas={}, files="/f")
    assert plan.consumer is not None
    assert (plan.consumer.stream, plan.consumer.name) == ("alerts", "bridge-demo.T-lab")
    assert plan.consumer.config.filter_subject == "alerts.>"
    assert plan.consumer.config.deliver_policy == "new"
    assert plan.consumer.config.max_ack_pending == 7


def test_names_fit_the_engine() -> None:
    """A cursor's name is at most 63 characters and its own for each bridge."""
    first, second = (cursor_name(bridge(name=letter * 63)) for letter in "ab")
    assert first != second
    assert len(first) <= 63


def test_the_group_is_named_after_the_bridge() -> None:
    """Two bridges share a group only where the specification says so."""
    groups = {
        make_plan(resource, STREAMS, ADDRESSES, schemas={}, files="/f").config.group
        for resource in (bridge(), bridge(name="b"), bridge(tenant="lab"), bridge(kafka=kafka(group="mine")))
    }
    assert groups == {"platformd-demo", "platformd-b", "platformd-lab.demo", "mine"}


@pytest.mark.parametrize(
    ("fields", "report", "condition", "expected"),
    [
        ({}, {"ready": True}, {"working": True}, ("running", "")),
        ({}, {}, {"working": True}, ("pending", "Connecting")),
        ({}, {}, {}, ("pending", "Starting")),
        ({}, {"ready": True, "trouble": "no broker"}, {"working": True}, ("degraded", "CannotGoOn")),
        ({}, {}, {"failure": "SIGKILL"}, ("degraded", "WorkerFailed")),
        ({}, {"ready": True}, {"failure": "SIGKILL", "working": True}, ("running", "")),
        ({}, {}, {"no_room": True}, ("degraded", "MaxBridges")),
        ({"paused": True}, {}, {}, ("paused", "Paused")),
        ({}, {}, {"problem": ("NotFound", "no schema")}, ("error", "NotFound")),
    ],
)
def test_the_state_says_what_is_so(
    fields: dict[str, Any], report: dict[str, Any], condition: dict[str, Any], expected: tuple[str, str]
) -> None:
    """Each condition has its state and reason, with a message wherever it does not simply run."""
    state, reason, message = state_of(bridge(**fields), BridgeReport(**report), Condition(max_workers=3, **condition))
    assert (state, reason) == expected
    assert bool(message) == (state != "running")
