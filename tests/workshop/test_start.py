"""What a start need not do."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from platformd.coordination.sqlite.schema import open_writer

SELDOM_NEEDED = {"cel", "confluent_kafka", "cryptography", "fastavro", "jsonschema_rs", "numpy", "sqlite_utils"}
"""Packages that are slow to import or large, and that many facilities never use: who needs one imports it then."""

START = f"""
import sys
from pathlib import Path
import platformd.daemon
from platformd.coordination.sqlite.schema import open_writer
open_writer(Path(sys.argv[1])).close()
print(*sorted({SELDOM_NEEDED!r} & sys.modules.keys()))
"""


def test_a_start_imports_nothing_that_is_seldom_needed(tmp_path: Path) -> None:
    """With a store of the newest schema, the daemon's imports and opening that store leave these packages alone."""
    path = tmp_path / "store.db"
    open_writer(path).close()
    done = subprocess.run([sys.executable, "-c", START, path], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.split() == []
