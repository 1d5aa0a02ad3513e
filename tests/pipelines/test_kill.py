"""SIGKILL in the middle of a replay: every packet is processed, and nothing appears twice on the outputs."""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import psutil
import pytest

from platformd.client.queues import Consumer, Delivery, Producer, Record
from platformd.core.errors import PlatformError
from platformd.pipelines import messages, ztf
from platformd.pipelines.expressions import Expression
from tests.support.daemon import DaemonProcess, short_directory

FILTER = "candidate.rb >= 0.55 && candidate.nbad == 0 && candidate.magpsf < 19.5"
PACKETS = list(ztf.packets(160, seed=11))
WANTED = {str(p["candid"]) for p in PACKETS if Expression(FILTER)(p, {})}
PACE = 0.004
"""Seconds between two packets, so that a kill hits the middle."""
SOON = {"PLATFORMD_PIPELINES_STATUS_INTERVAL": "100ms", "PLATFORMD_PIPELINES_RESTART_DELAY_MAX": "400ms"}


@pytest.fixture
def daemon() -> Iterator[DaemonProcess]:
    with short_directory() as directory, DaemonProcess(directory, environ=SOON) as running:
        yield running
        workers = worker_processes(running)
        assert running.stop() == 0, running.log.read_text()
        assert not [w for w in workers if w.is_running()]


def worker_processes(daemon: DaemonProcess) -> list[psutil.Process]:
    assert daemon.process is not None
    found = []
    for child in psutil.Process(daemon.process.pid).children():
        with contextlib.suppress(psutil.NoSuchProcess):  # a zombie is one too
            if "platformd.pipelines.worker" in child.cmdline():
                found.append(child)
    return found


def until(condition: Callable[[], Any], within: float = 40.0) -> Any:
    deadline = time.monotonic() + within
    while True:
        found = condition()
        if found:
            return found
        assert time.monotonic() < deadline, "it takes too long"
        time.sleep(0.02)


def set_up(daemon: DaemonProcess, expression: str = FILTER) -> dict[str, str]:
    """A stream and a pipeline whose workers run; the addresses of the queues."""
    stages = [
        {"type": "filter", "name": "filter", "expression": expression, "workers": 2},
        {"type": "annotate", "name": "annotate"},
        {"type": "route", "name": "route", "routes": [{"subject": "alerts.out"}]},
    ]
    spec = {"source": "alerts.ztf", "dead_letter": "alerts.dead", "stages": stages}
    with daemon.client as client:
        client.apply("streams", {"name": "alerts", "spec": {"subjects": ["alerts.>"]}})
        client.apply("pipelines", {"name": "p", "spec": spec})
        until(lambda: client.get("pipelines", "p").status.state == "running")
        sockets: dict[str, str] = client.status()["queues"]["sockets"]
    return sockets


class Replay(threading.Thread):
    """Publishes all packets and some garbage, slowly; lives through restarts of the daemon."""

    def __init__(self, address: str) -> None:
        super().__init__(daemon=True)
        self._address = address
        self.sent = 0
        self.garbage = 0

    def run(self) -> None:
        with Producer(self._address) as producer:
            for i, packet in enumerate(PACKETS):
                records = [Record(subject="alerts.ztf", payload=ztf.encoded(packet), msg_id=str(packet["candid"]))]
                if i % 40 == 0:
                    records.append(Record(subject="alerts.ztf", payload=b"garbage", msg_id=f"garbage-{i}"))
                    self.garbage += 1
                producer.publish_batch(records)
                self.sent += 1
                time.sleep(PACE)


def wait_until_idle(daemon: DaemonProcess) -> None:
    """Wait until nothing waits for any stage."""
    cursors: list[dict[str, Any]] = []

    def idle() -> bool:
        try:
            with daemon.client as client:
                cursors[:] = [
                    cursor
                    for stream in ("alerts", "pipeline-p")
                    for cursor in client.request("GET", f"/v1/streams/{stream}/consumers").json()["items"]
                ]
        except PlatformError:
            return False
        return len(cursors) == 3 and not any(c["pending"] + c["ack_pending"] for c in cursors)

    try:
        until(idle)
    except AssertionError:
        raise AssertionError(f"packets wait: {cursors}\n{daemon.log.read_text()}") from None


def everything(daemon: DaemonProcess, address: str, subject: str) -> list[Delivery]:
    """All records of a subject, as a consumer from its beginning gets them."""
    name = f"check-{subject.rpartition('.')[2]}"
    with daemon.client as client:
        client.request("PUT", f"/v1/streams/alerts/consumers/{name}", json={"filter_subject": subject})
    found: list[Delivery] = []
    with Consumer(address, "alerts", name) as consumer:
        while deliveries := consumer.fetch(wait=0.2):
            found += deliveries
            consumer.ack(deliveries)
    return found


def assert_exactly_once(daemon: DaemonProcess, address: str, garbage: int) -> None:
    ids = Counter(messages.read_envelope(d.payload).id for d in everything(daemon, address, "alerts.out"))
    assert set(ids) == WANTED
    assert set(ids.values()) == {1}
    dead = Counter(d.headers[messages.ORIGIN] for d in everything(daemon, address, "alerts.dead"))
    assert len(dead) == garbage
    assert set(dead.values()) == {1}


def test_killed_workers(daemon: DaemonProcess) -> None:
    """Workers of every stage are killed again and again while packets come; others take over what they had."""
    sockets = set_up(daemon)
    replay = Replay(sockets["ingest"])
    replay.start()
    kills = 0
    while replay.is_alive():
        replay.join(0.15)
        for worker in worker_processes(daemon)[kills % 2 :: 2]:
            worker.send_signal(signal.SIGKILL)
            kills += 1
    assert kills > 4
    wait_until_idle(daemon)
    assert_exactly_once(daemon, sockets["fetch"], replay.garbage)
    with daemon.client as client:
        restarts = sum(s.restarts for s in client.get("pipelines", "p").status.stages)
    assert restarts >= kills - 4  # the last ones may not be in the status yet


def test_a_killed_daemon(daemon: DaemonProcess) -> None:
    """The daemon is killed twice: its workers end by themselves, and a new one goes on where it was."""
    sockets = set_up(daemon)
    replay = Replay(sockets["ingest"])
    replay.start()
    for moment in (40, 110):
        until(lambda moment=moment: replay.sent >= moment)
        workers = worker_processes(daemon)
        assert workers
        daemon.kill()
        daemon.start()
        until(lambda workers=workers: not any(w.is_running() for w in workers), within=10.0)
    replay.join()
    wait_until_idle(daemon)
    assert_exactly_once(daemon, sockets["fetch"], replay.garbage)


def test_nothing_is_lost_when_the_chain_changes(daemon: DaemonProcess) -> None:
    """A stage is taken out and put back in the middle of a replay: every packet comes out once."""
    sockets = set_up(daemon)
    replay = Replay(sockets["ingest"])
    replay.start()
    with daemon.client as client:
        document = client.get("pipelines", "p")
        stages = document.spec.stages
        for moment, chosen in ((40, (stages[0], stages[2])), (110, stages)):
            until(lambda moment=moment: replay.sent >= moment)
            client.patch("pipelines", "p", {"spec": {"stages": msgspec.to_builtins(chosen)}})
    replay.join()
    wait_until_idle(daemon)
    assert_exactly_once(daemon, sockets["fetch"], replay.garbage)
