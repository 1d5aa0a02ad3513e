"""A short directory for sockets."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture
def directory() -> Iterator[Path]:
    """A fresh directory whose path leaves room for a Unix socket's name."""
    path = Path(tempfile.mkdtemp(prefix="pdn"))
    yield path
    shutil.rmtree(path)
