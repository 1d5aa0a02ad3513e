"""What the machine does during a benchmark, and what that says of the limit."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from platformd.core.quantities import format_seconds

BUSY: Final = 0.85
"""A core that is used so much is taken as fully used."""
SHORTEST: Final = 0.25
"""Seconds of a run that says something: CPU is counted in hundredths of a second."""
SYNCS: Final = 100
SYNC_SECONDS: Final = 1.0
"""How often and how long the disk is asked, at most."""
PAGE: Final = 4096


def daemon_cpu(status: Mapping[str, Any]) -> float | None:
    """Seconds of CPU that the daemon has used; ``None`` when it is not on this machine."""
    try:
        fields = Path(f"/proc/{int(status['pid'])}/stat").read_text().rpartition(")")[2].split()
        if str(status.get("state_dir")) and not Path(str(status["state_dir"])).exists():
            return None  # another machine's pid
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    except (OSError, KeyError, ValueError, IndexError):
        return None


def machine_cpu() -> float | None:
    """Seconds of CPU that all programs of this machine have used together."""
    try:
        fields = [int(field) for field in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
        return (sum(fields) - fields[3] - fields[4]) / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, IndexError):
        return None


def sync_latency(directory: str) -> float | None:
    """The median of 4 KiB writes with fdatasync, seconds, into a file without a name in the daemon's directory.

    ``None`` where that cannot be measured: on another machine, without permission, or without such files.
    """
    try:
        file = os.open(directory, os.O_TMPFILE | os.O_RDWR, 0o600)
    except (OSError, AttributeError):
        return None
    try:
        os.pwrite(file, bytes(PAGE * SYNCS), 0)
        os.fdatasync(file)
        taken: list[float] = []
        until = time.monotonic() + SYNC_SECONDS
        while len(taken) < SYNCS and time.monotonic() < until:
            begun = time.monotonic()
            os.pwrite(file, b"x" * PAGE, PAGE * len(taken))
            os.fdatasync(file)
            taken.append(time.monotonic() - begun)
        return sorted(taken)[len(taken) // 2]
    except OSError:
        return None
    finally:
        os.close(file)


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What was seen during a run."""

    cores: int
    daemon_cores: float | None
    """Cores that the daemon used; ``None``: it is elsewhere."""
    busy_cores: float | None
    """Cores that all programs of this machine used, ours and others."""
    producer_cores: tuple[float, ...]
    consumer_cores: tuple[float, ...]
    durability: str
    batch_seconds: float
    """The median of a batch until its acknowledgement; 0: nothing was published."""
    sync_seconds: float | None
    in_flight: int
    rate: float = 0.0
    """Records a second that were asked for; 0: as many as go."""
    achieved: float = 0.0
    seconds: float = 1.0
    """How long it was."""


def limited_by(facts: Facts) -> list[str]:
    """What the figures of a run were limited by, as sentences; the first is the likeliest."""
    if facts.rate and facts.achieved >= 0.97 * facts.rate:
        return [f"the rate that was asked for ({facts.rate:,.0f} records/s): latencies are what matters here"]
    if facts.seconds < SHORTEST:
        return [f"the length of the run: {format_seconds(facts.seconds)} are too few to tell"]
    found = []
    clients = facts.producer_cores + facts.consumer_cores
    ours = sum(clients) + (facts.daemon_cores or 0.0)
    busy = max(ours, facts.busy_cores or 0.0)
    if busy >= BUSY * facts.cores:
        shares = f"clients use {sum(clients):.1f} of them"
        shares += f", the daemon {facts.daemon_cores:.1f}" if facts.daemon_cores is not None else ""
        shares += f", other programs {busy - ours:.1f}" if busy - ours >= 0.05 else ""
        found.append(f"the {facts.cores} cores of this machine: {shares}")
    for role, cores in (("producer", facts.producer_cores), ("consumer", facts.consumer_cores)):
        if cores and min(cores) >= BUSY:
            found.append(f"the {role}s: each uses a whole core; more of them, or larger batches, would go faster")
    sync = facts.sync_seconds
    if facts.durability == "fsync" and facts.batch_seconds and sync is not None and not found:
        batches = facts.batch_seconds / facts.in_flight
        if batches <= 3 * sync:
            took = format_seconds(facts.batch_seconds)
            found.append(f"the disk: a batch takes {took}, one fdatasync here {format_seconds(sync)}")
    if not found:
        hint = "more --producers, --in-flight or a larger --batch may go faster"
        if not facts.producer_cores:
            hint = "more --consumers, --shared, or a larger --batch may go faster"
        found.append(f"waiting: neither the cores nor the disk are fully used; {hint}")
    return found
