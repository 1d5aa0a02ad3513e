"""Bridges in a real daemon with librdkafka's mock cluster: a crash, a cluster that hangs, poison."""

from __future__ import annotations

import contextlib
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import psutil
import pytest

pytest.importorskip("confluent_kafka", reason="the extra kafka is not installed")

from platformd.client.queues import Consumer, Delivery, Producer, Record
from platformd.core.errors import PlatformError
from platformd.model.bridge import BridgeStatus
from platformd.pipelines.messages import REASON
from tests.support.daemon import DaemonProcess, short_directory
from tests.support.kafka import KafkaCluster

SOON = {"PLATFORMD_PIPELINES_STATUS_INTERVAL": "100ms", "PLATFORMD_PIPELINES_RESTART_DELAY_MAX": "400ms"}
SESSION = {"session.timeout.ms": "3500", "heartbeat.interval.ms": "300"}
"""The shortest that the mock takes: its groups wait three seconds for their first members."""


@pytest.fixture(scope="module")
def cluster() -> Iterator[KafkaCluster]:
    with KafkaCluster() as cluster:
        yield cluster


@pytest.fixture(scope="module")
def running_daemon() -> Iterator[DaemonProcess]:
    with short_directory() as directory, DaemonProcess(directory, environ=SOON) as running:
        yield running
        assert running.stop() == 0, running.log.read_text()


@pytest.fixture
def daemon(running_daemon: DaemonProcess) -> Iterator[DaemonProcess]:
    """A daemon with two streams and without bridges; starting one takes longer than most of the tests."""
    with running_daemon.client as client:
        client.apply("streams", {"name": "alerts", "spec": {"subjects": ["alerts.>"]}})
        client.apply("streams", {"name": "dead", "spec": {"subjects": ["dead.>"]}})
    yield running_daemon
    with running_daemon.client as client:
        for kind in ("bridges", "streams"):
            for resource in client.list(kind).items:
                client.delete(kind, resource.name)
            until(lambda kind=kind: not client.list(kind).items, running_daemon)
    assert not workers(running_daemon)


def workers(daemon: DaemonProcess) -> list[psutil.Process]:
    assert daemon.process is not None
    found = []
    for child in psutil.Process(daemon.process.pid).children():
        with contextlib.suppress(psutil.NoSuchProcess):  # a zombie is one too
            if "platformd.pipelines.bridges.worker" in child.cmdline():
                found.append(child)
    return found


def until(condition: Callable[[], Any], daemon: DaemonProcess, within: float = 60.0) -> Any:
    deadline = time.monotonic() + within
    while True:
        with contextlib.suppress(PlatformError):
            found = condition()
            if found:
                return found
        assert time.monotonic() < deadline, f"it takes too long: {states(daemon)}\n{daemon.log.read_text()}"
        time.sleep(0.02)


def states(daemon: DaemonProcess) -> list[BridgeStatus]:
    with contextlib.suppress(PlatformError), daemon.client as client:
        return [b.status for b in client.list("bridges").items]
    return []


def status(daemon: DaemonProcess, name: str) -> BridgeStatus:
    with daemon.client as client:
        found: BridgeStatus = client.get("bridges", name).status
        return found


def apply(daemon: DaemonProcess, cluster: KafkaCluster, name: str, properties: dict[str, str], **spec: Any) -> None:
    kafka = {"bootstrap_servers": [cluster.address], "properties": properties}
    with daemon.client as client:
        client.apply("bridges", {"name": name, "spec": {"kafka": kafka, "dead_letter": f"dead.{name}", **spec}})


def sockets(daemon: DaemonProcess) -> dict[str, str]:
    with daemon.client as client:
        found: dict[str, str] = client.status()["queues"]["sockets"]
        return found


def everything(daemon: DaemonProcess, stream: str) -> list[Delivery]:
    """All records of a stream, as a consumer from its beginning gets them."""
    with daemon.client as client:
        client.request("PUT", f"/v1/streams/{stream}/consumers/check", json={})
    found: list[Delivery] = []
    with Consumer(sockets(daemon)["fetch"], stream, "check") as consumer:
        while deliveries := consumer.fetch(wait=0.0):
            found += deliveries
            consumer.ack(deliveries)
    with daemon.client as client:
        client.request("DELETE", f"/v1/streams/{stream}/consumers/check")
    return found


def kill_everything(daemon: DaemonProcess) -> None:
    for worker in workers(daemon):
        worker.send_signal(signal.SIGKILL)
    daemon.kill()


def test_a_crash_of_everything(daemon: DaemonProcess, cluster: KafkaCluster) -> None:
    """Bridge and daemon are killed: of a source each record is there once, though Kafka gives all of them again."""
    never = SESSION | {"auto.commit.interval.ms": "3600000"}  # what was taken is committed by nobody
    apply(daemon, cluster, "in", never, direction="source", topics=["ztf"], subject="alerts.{topic}")
    before = [b"before-%d" % i for i in range(300)]
    cluster.produce("ztf", list(before), key=b"k", headers=[("night", b"7")])
    until(lambda: status(daemon, "in").records_out == 300, daemon)
    assert not cluster.committed("platformd-in", "ztf")
    kill_everything(daemon)
    after = [b"after-%d" % i for i in range(100)]
    cluster.produce("ztf", list(after))
    daemon.start()
    until(lambda: status(daemon, "in").duplicates == 300, daemon)
    until(lambda: status(daemon, "in").records_out == 400, daemon)
    records = everything(daemon, "alerts")
    assert Counter(r.payload for r in records) == Counter([*before, *after])
    assert {r.subject for r in records} == {"alerts.ztf"}
    assert records[0].headers["night"] == "7"
    assert records[0].headers["Kafka-Key"] == "k"
    # Told to stop it commits what is durable, and no more.
    with daemon.client as client:
        client.patch("bridges", "in", {"spec": {"paused": True}})
    until(lambda: status(daemon, "in").state == "paused" and not workers(daemon), daemon)
    assert sum(cluster.committed("platformd-in", "ztf").values()) == 400


def test_a_sink_waits_for_a_cluster_that_hangs(daemon: DaemonProcess, cluster: KafkaCluster) -> None:
    """Kafka stops answering: the bridge says so, loses nothing, and goes on; what is too large is a dead letter."""
    impatient = {"socket.timeout.ms": "500", "request.timeout.ms": "500", "reconnect.backoff.max.ms": "200"}
    impatient["message.max.bytes"] = "100000"
    apply(
        daemon, cluster, "out", impatient, direction="sink", topics=["copy"], subject="alerts.>", key={"subject": True}
    )
    until(lambda: status(daemon, "out").state == "running", daemon)
    with Producer(sockets(daemon)["ingest"]) as producer:
        producer.publish("alerts.a", b"first", headers={"h": "1"}, time_ns=1_700_000_000_000_000_000)
        until(lambda: status(daemon, "out").records_out == 1, daemon)
        cluster.freeze()
        producer.publish_batch([Record(subject="alerts.a", payload=b"%d" % i) for i in range(50)])
        producer.publish("alerts.a", b"x" * 200_000)
        told = until(lambda: status(daemon, "out").state == "degraded" and status(daemon, "out"), daemon)
        assert "no broker of Kafka can be reached" in told.message
        assert status(daemon, "out").records_out == 1
        cluster.thaw()
    until(lambda: status(daemon, "out").records_out == 51 and status(daemon, "out").state == "running", daemon)
    messages = cluster.read("copy", 51)
    assert Counter(m.value() for m in messages) == Counter([b"first", *(b"%d" % i for i in range(50))])
    assert {m.key() for m in messages} == {b"alerts.a"}
    first = next(m for m in messages if m.value() == b"first")
    assert first.headers() == [("h", b"1")]
    assert first.timestamp()[1] == 1_700_000_000_000
    (letter,) = everything(daemon, "dead")
    assert len(letter.payload) == 200_000
    assert "Kafka refuses it" in letter.headers[REASON]


def test_a_cluster_that_is_not_there(daemon: DaemonProcess, cluster: KafkaCluster) -> None:
    """A bridge to a wrong address says so; put right, it runs. A wrong password's file is named, and no more."""
    with daemon.client as client:
        kafka = {"bootstrap_servers": ["127.0.0.1:1"], "properties": {"reconnect.backoff.max.ms": "200"}}
        spec = {"direction": "sink", "kafka": kafka, "topics": ["copy"], "subject": "alerts.>", "dead_letter": "dead.x"}
        client.apply("bridges", {"name": "x", "spec": spec})
        told = until(lambda: status(daemon, "x").state == "degraded" and status(daemon, "x"), daemon)
        assert "no broker of Kafka can be reached" in told.message
        assert told.errors
        sasl = {"mechanism": "SCRAM-SHA-512", "username": "me", "password_file": "kafka/password"}
        client.patch("bridges", "x", {"spec": {"kafka": {"sasl": sasl}}})
        told = until(lambda: status(daemon, "x").reason == "WorkerFailed" and status(daemon, "x"), daemon)
        assert "kafka/password" in told.message
        client.patch("bridges", "x", {"spec": {"kafka": {"sasl": None, "bootstrap_servers": [cluster.address]}}})
        until(lambda: status(daemon, "x").state == "running", daemon)
        assert not client.delete("bridges", "x")
        until(lambda: not client.list("bridges").items, daemon)
        assert not client.request("GET", "/v1/streams/alerts/consumers").json()["items"]


@pytest.mark.slow
def test_from_now_on_in_topics_of_a_pattern(daemon: DaemonProcess, cluster: KafkaCluster) -> None:
    """A source that begins at the end leaves out what was there, takes what comes, and goes on there after a pause."""
    cluster.produce("nightly_1", [b"old"] * 10)
    cluster.produce("nightly_2", [b"old"] * 10)
    fields = {"direction": "source", "pattern": "^nightly_.*", "subject": "alerts.{topic}", "start": "latest"}
    cooperative = SESSION | {"partition.assignment.strategy": "cooperative-sticky"}
    apply(daemon, cluster, "nightly", cooperative, **fields)
    until(lambda: status(daemon, "nightly").assigned == 8, daemon)
    assert sum(cluster.committed("platformd-nightly", "nightly_1").values()) == 10
    with daemon.client as client:
        client.patch("bridges", "nightly", {"spec": {"paused": True}})
        until(lambda: status(daemon, "nightly").state == "paused" and not workers(daemon), daemon)
        cluster.produce("nightly_1", [b"new 1"] * 5)
        client.patch("bridges", "nightly", {"spec": {"paused": False}})
    until(lambda: status(daemon, "nightly").records_out == 5, daemon)
    cluster.produce("nightly_2", [b"new 2"] * 5)
    until(lambda: status(daemon, "nightly").records_out == 10, daemon)
    found = Counter((r.subject, r.payload) for r in everything(daemon, "alerts"))
    assert found == {("alerts.nightly_1", b"new 1"): 5, ("alerts.nightly_2", b"new 2"): 5}


@pytest.mark.slow
def test_killed_again_and_again(daemon: DaemonProcess, cluster: KafkaCluster) -> None:
    """Workers are killed while records pass: each is in the stream once, and in Kafka at least once."""
    apply(
        daemon,
        cluster,
        "again",
        SESSION,
        direction="source",
        topics=["more"],
        subject="alerts.ztf",
        limits={"batch": 20},
    )
    apply(
        daemon,
        cluster,
        "onward",
        {},
        direction="sink",
        topics=["all"],
        subject="alerts.>",
        limits={"max_in_flight": 20},
    )
    values: list[bytes] = []
    for round_number in range(5):
        more = [b"%d-%d" % (round_number, i) for i in range(2000)]
        cluster.produce("more", list(more))
        values += more
        until(lambda n=round_number: status(daemon, "again").records_out > n * 2000, daemon)
        for worker in workers(daemon):
            worker.send_signal(signal.SIGKILL)
    until(lambda: status(daemon, "again").state == "running" and status(daemon, "again").lag == 0, daemon)
    until(lambda: len(everything(daemon, "alerts")) >= len(values), daemon)
    assert Counter(r.payload for r in everything(daemon, "alerts")) == Counter(values)
    until(lambda: status(daemon, "onward").lag == 0 and status(daemon, "onward").in_flight == 0, daemon)
    sent = {m.value() for m in cluster.read("all", len(values))}
    assert sent <= set(values)
    assert not everything(daemon, "dead")
