"""README's examples do what it says."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.daemon import DaemonProcess, environment, short_directory

README = Path(__file__).parents[2] / "README.md"
EXAMPLES = dict(re.findall(r"<!-- example: (\w+) -->\n```python\n(.*?)```", README.read_text(), re.DOTALL))
PRINTS = {
    "sync": "created ('notes.>',)\nnotes ",
    "trio": "all are active\n",
}


@pytest.fixture
def daemon() -> Iterator[DaemonProcess]:
    """A daemon of its own for each, so that none finds what another has left."""
    with short_directory() as directory, DaemonProcess(directory) as process:
        yield process


def test_all_examples_are_known() -> None:
    """What is marked in README is run here."""
    assert set(EXAMPLES) == set(PRINTS)


@pytest.mark.parametrize("name", PRINTS)
def test_an_example_runs(daemon: DaemonProcess, name: str) -> None:
    """As it stands, with the environment alone saying where the daemon is; and it is short."""
    assert len(EXAMPLES[name].splitlines()) <= 20
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", EXAMPLES[name]],
        capture_output=True,
        text=True,
        env=environment({"PLATFORMD_SOCKET": str(daemon.socket)}),
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(PRINTS[name])
