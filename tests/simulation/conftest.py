"""What all simulations share."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.daemon import short_directory


@pytest.fixture
def seed() -> int:
    """Of all choices that are not the operating system's; shown when the test fails, and given back with
    ``SIMULATION_SEED``."""
    chosen = int(os.environ.get("SIMULATION_SEED") or secrets.randbits(32))
    print(f"SIMULATION_SEED={chosen}")
    return chosen


@pytest.fixture
def directory() -> Iterator[Path]:
    """A directory with room for sockets."""
    with short_directory() as path:
        yield path
