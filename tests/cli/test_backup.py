"""``platformd backup`` and ``platformd restore``."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio

from platformd.coordination.sqlite import open_sqlite
from platformd.core.clock import SystemClock
from platformd.core.settings import StoreSettings
from tests.cli.conftest import Cli
from tests.conformance.store_engines import put


@pytest.fixture
def backup(tmp_path: Path) -> Path:
    """A backup of a store with one key, at revision 2."""

    async def make() -> None:
        async with open_sqlite(tmp_path / "store.db", StoreSettings(), SystemClock()) as store:
            await put(store, b"k")
            await store.snapshot(tmp_path / "backup")

    trio.run(make)
    return tmp_path / "backup"


def test_restore_says_what_it_did(cli: Cli, tmp_path: Path, backup: Path) -> None:
    """Where the store is, what is in it, at which revision it goes on."""
    ran = cli("restore", str(backup), "--state-dir", str(tmp_path / "state"))
    assert (ran.code, ran.err) == (0, "")
    assert "1 keys and 0 leases of revision 2" in ran.out
    assert "1000000002" in ran.out
    assert (tmp_path / "state" / "store.db").exists()


def test_restore_twice_needs_force(cli: Cli, tmp_path: Path, backup: Path) -> None:
    """A store that is there is a conflict (5) until it is forced, and then it is said where it went."""
    words = ["restore", str(backup), "--state-dir", str(tmp_path / "state")]
    cli(*words)
    again = cli(*words)
    assert (again.code, "--force" in again.err) == (5, True)
    forced = cli(*words, "--force", "-o", "json")
    assert forced.code == 0
    assert forced.json()["replaced"] == str(tmp_path / "state" / "store.db.replaced")
    assert forced.json()["revision"] == 2_000_000_002


def test_check_changes_nothing(cli: Cli, tmp_path: Path, backup: Path) -> None:
    """``--check`` says what is in the backup and leaves the state directory alone."""
    ran = cli("restore", str(backup), "--check", "--state-dir", str(tmp_path / "state"))
    assert (ran.code, "whole; revision 2, 1 keys" in ran.out) == (0, True)
    assert not (tmp_path / "state").exists()
    backup.write_bytes(b"x" * 10_000)
    assert cli("restore", str(backup), "--check").code == 7


def test_backup_needs_a_daemon(cli: Cli, tmp_path: Path) -> None:
    """Without one it fails (6) and leaves nothing."""
    ran = cli("backup", str(tmp_path / "b"), "--socket", str(tmp_path / "none"))
    assert (ran.code, "platformd run" in ran.err) == (6, True)
    assert list(tmp_path.glob("*b*")) == []
