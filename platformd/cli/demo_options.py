"""What ``platformd demo`` was asked for."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class DemoOptions:
    """The options of one demonstration."""

    alerts: Path | None = None
    """A directory of Avro object container files to replay; ``None`` generates packets."""
    filter: str | None = None
    """The filter stage's expression; ``None`` for the usual one."""
    rate: float | None = None
    """Packets per second; ``None`` for as fast as they are taken."""
    count: int = 300
    """How many packets are generated."""
    json: bool = False
    """Print one JSON document instead of a progress bar and a table."""
    keep: bool = False
    """Stay up afterwards and say how to attach."""
    state_dir: Path | None = None
    """Where the daemon keeps its state; ``None`` for a temporary directory."""
    seed: int = 0
    """What the generated packets follow from."""
