"""What every benchmark shares: the row for a figure, the two flags, and how rows are printed.

A benchmark is ``python -m tests.bench.NAME [--quick] [--json]``; it starts its peers itself, in the same run, so that
both see the same machine, and asserts nothing on time::

    if __name__ == "__main__":
        run(figures)  # figures(quick: bool) -> Iterable[Figure]
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter

import msgspec


class Aim(msgspec.Struct, frozen=True):
    """What a figure should be: at least or at most a value, in the figure's unit."""

    bound: str
    value: float

    def met(self, value: float) -> bool:
        """Whether ``value`` is as good as wanted."""
        return value >= self.value if self.bound == ">=" else value <= self.value

    def __str__(self) -> str:
        return f"{self.bound} {self.value:g}"


def at_least(value: float) -> Aim:
    """The more the better, and no less than this."""
    return Aim(">=", value)


def at_most(value: float) -> Aim:
    """The less the better, and no more than this."""
    return Aim("<=", value)


class Figure(msgspec.Struct, frozen=True, kw_only=True):
    """One row: what was measured, beside what, and whether it is as good as wanted."""

    name: str
    value: float
    unit: str
    peer: str | None = None
    """What it is compared with."""
    peer_value: float | None = None
    """The same figure of the peer, in the same unit."""
    aim: Aim | None = None
    ratio_aim: Aim | None = None
    """What the ratio to the peer's figure should be, where that is the aim."""

    def row(self) -> dict[str, object]:
        """The row as a document."""
        ratio = self.value / self.peer_value if self.peer_value else None
        return {
            "name": self.name,
            "value": _rounded(self.value),
            "unit": self.unit,
            "peer": self.peer,
            "peer_value": _rounded(self.peer_value),
            "ratio": _rounded(ratio),
        } | self._aimed(ratio)

    def _aimed(self, ratio: float | None) -> dict[str, object]:
        if self.ratio_aim is not None and ratio is not None:
            return {"aim": f"ratio {self.ratio_aim}", "met": self.ratio_aim.met(ratio)}
        return {"aim": str(self.aim) if self.aim else None, "met": self.aim.met(self.value) if self.aim else None}


class Skipped(msgspec.Struct, frozen=True, kw_only=True):
    """A row for what could not be measured here."""

    name: str
    reason: str

    def row(self) -> dict[str, object]:
        """The row as a document."""
        return {"name": self.name, "value": None, "skipped": self.reason}


def _rounded(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.4g}")


def percentile(samples: Sequence[float], percent: float) -> float:
    """The value that ``percent`` of the samples do not exceed."""
    ordered = sorted(samples)
    return ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))]


def bandwidth_mib(directory: Path, seconds: float = 1.0) -> float:
    """MiB a second that the device takes in writes of 1 MiB, each made durable, in a file that has its size already."""
    blocks = 64
    block = os.urandom(1 << 20)
    path = directory / "bandwidth"
    file = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        os.posix_fallocate(file, 0, blocks << 20)
        os.fsync(file)
        count, begin = 0, perf_counter()
        while perf_counter() - begin < seconds:
            os.pwrite(file, block, count % blocks << 20)
            os.fdatasync(file)
            count += 1
        return count / (perf_counter() - begin)
    finally:
        os.close(file)
        path.unlink()


def fdatasync_ms(directory: Path, times: int = 500) -> list[float]:
    """Milliseconds that the device takes to make 4 KiB durable in a file that has its size already."""
    blocks = 256
    samples = []
    path = directory / "fdatasync"
    file = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        os.pwrite(file, b"\0" * 4096 * blocks, 0)
        os.fsync(file)
        for number in range(times):
            begin = perf_counter()
            os.pwrite(file, b"\1" * 4096, number % blocks * 4096)
            os.fdatasync(file)
            samples.append((perf_counter() - begin) * 1000)
    finally:
        os.close(file)
        path.unlink()
    return samples


def scratch() -> TemporaryDirectory[str]:
    """A directory on a real disk: in ``PLATFORMD_BENCH_DIR``, or /var/tmp (/tmp may be memory)."""
    return TemporaryDirectory(prefix="platformd-bench", dir=os.environ.get("PLATFORMD_BENCH_DIR", "/var/tmp"))


def run(figures: Callable[[bool], Iterable[Figure | Skipped]], argv: Sequence[str] | None = None) -> None:
    """Measure and print: a table, each row as soon as it is there, or with ``--json`` one document."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true", help="a few seconds, for a look; figures are less steady")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    options = parser.parse_args(argv)
    if options.json:
        rows = [figure.row() for figure in figures(options.quick)]
        sys.stdout.write(
            msgspec.json.format(msgspec.json.encode({"machine": _machine(), "rows": rows})).decode() + "\n"
        )
        return
    sys.stdout.write(f"{_machine()}\n{'figure':62} {'value':>10} {'unit':10} {'ratio':>7}  peer / aim\n")
    for figure in figures(options.quick):
        if isinstance(figure, Skipped):
            sys.stdout.write(f"{figure.name:62} {'skipped':>10}  {figure.reason}\n")
            continue
        row = figure.row()
        beside = f"{row['peer']}: {row['peer_value']:g}" if row["peer"] else ""
        aim = f"aim {row['aim']}: {'met' if row['met'] else 'NOT MET'}" if row["aim"] else ""
        ratio = f"{row['ratio']:>7g}" if row["ratio"] else " " * 7
        notes = "  ".join(note for note in (beside, aim) if note)
        sys.stdout.write(f"{figure.name:62} {row['value']:>10g} {figure.unit:10} {ratio}  {notes}\n")
        sys.stdout.flush()


def _machine() -> str:
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    return f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, load {load}"
