"""The store's process is killed at any moment: what it acknowledged is there, and nothing is there by half."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
from pathlib import Path

from platformd.coordination.sqlite import open_sqlite
from platformd.core.clock import SystemClock
from platformd.core.settings import StoreSettings
from tests.coordination.crash_writer import PARTS, TASKS

ROUNDS = 6


def write_and_kill(path: Path, number: int, lines: int) -> list[bytes]:
    """Run the writer until it has acknowledged ``lines`` writes, and kill it; all that it acknowledged."""
    command = [sys.executable, "-m", "tests.coordination.crash_writer", str(path), str(number)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        read = [process.stdout.readline() for _ in range(lines)]
        process.send_signal(signal.SIGKILL)
        read += process.stdout.readlines()
    assert process.returncode == -signal.SIGKILL
    return [line for line in read if line.endswith(b"\n")]


async def test_kill_loses_nothing_acknowledged(tmp_path: Path) -> None:
    """Six times killed in the middle of writing and reopened: every acknowledged write is there, every one whole."""
    path = tmp_path / "s.db"
    generator = random.Random()
    acknowledged: dict[bytes, int] = {}
    for number in range(ROUNDS):
        for line in write_and_kill(path, number, generator.randrange(30, 800)):
            revision, name = line.split()
            acknowledged[name] = int(revision)
        async with open_sqlite(path, StoreSettings(), SystemClock()) as store:
            status = await store.status()
            parts = [
                {kv.key.partition(b"/")[2]: kv for kv in (await store.list(b"part%d/" % part, b"part%d0" % part)).items}
                for part in range(PARTS)
            ]
            markers = [kv.key for kv in (await store.list(b"marker/", b"marker0")).items]
            revisions = [{name: kv.mod_revision for name, kv in part.items()} for part in parts]
            assert revisions == [revisions[0]] * PARTS  # no transaction is there by half
            assert acknowledged.items() <= revisions[0].items()
            assert len(markers) == TASKS * (number + 1)
            assert status.keys == len(markers) + PARTS * len(parts[0])
            assert status.revision >= max(acknowledged.values())
            # Every transaction was one revision, so the revisions of all that is there have no gap.
            assert sorted(revisions[0].values()) == list(range(2, status.revision + 1))
