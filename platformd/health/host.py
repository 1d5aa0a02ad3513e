"""What psutil and the kernel say of this machine, as facts. Reading them blocks for about a millisecond."""

from __future__ import annotations

import os
import platform
import socket
from pathlib import Path
from typing import Final

import psutil

from platformd.core.clock import Clock, rfc3339
from platformd.model.node import DiskUsage, NetworkRate, NodeStatus

_PSEUDO: Final = frozenset({"squashfs", "tmpfs", "devtmpfs", "overlay", "proc", "sysfs", "cgroup", "cgroup2"})


class HostCollector:
    """Measures the machine; rates and percentages are over the time since the last measurement."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._process = psutil.Process()
        self._process.cpu_percent(None)
        psutil.cpu_percent(None)
        self._traffic = psutil.net_io_counters(pernic=True)
        self._traffic_at = clock.monotonic()
        self._os = _os_name()

    def measure(self) -> NodeStatus:
        """The machine now."""
        memory, swap = psutil.virtual_memory(), psutil.swap_memory()
        with self._process.oneshot():
            rss, own_cpu = self._process.memory_info().rss, self._process.cpu_percent(None)
        return NodeStatus(
            state="passing",
            hostname=socket.gethostname(),
            os=self._os,
            kernel=platform.release(),
            architecture=platform.machine(),
            boot_time=rfc3339(int(psutil.boot_time() * 1e9)),
            cpu_count=psutil.cpu_count() or 1,
            cpu_percent=psutil.cpu_percent(None),
            load=tuple(round(v, 2) for v in os.getloadavg()),
            memory_total_bytes=memory.total,
            memory_used_bytes=memory.total - memory.available,
            swap_total_bytes=swap.total,
            swap_used_bytes=swap.used,
            disks=_disks(),
            networks=self._network_rates(),
            pressure=read_pressure(Path("/proc/pressure")),
            daemon_rss_bytes=rss,
            daemon_cpu_percent=own_cpu,
            measured_at=rfc3339(self._clock.time_ns()),
        )

    def _network_rates(self) -> tuple[NetworkRate, ...]:
        traffic, now = psutil.net_io_counters(pernic=True), self._clock.monotonic()
        span = max(now - self._traffic_at, 1e-9)
        rates = tuple(
            NetworkRate(
                interface=name,
                receive_bytes_per_second=round(max(0, new.bytes_recv - old.bytes_recv) / span, 1),
                transmit_bytes_per_second=round(max(0, new.bytes_sent - old.bytes_sent) / span, 1),
            )
            for name, new in sorted(traffic.items())
            if (old := self._traffic.get(name)) is not None
        )
        self._traffic, self._traffic_at = traffic, now
        return rates


def _disks() -> tuple[DiskUsage, ...]:
    found: dict[str, DiskUsage] = {}
    for part in psutil.disk_partitions(all=False):
        if part.fstype in _PSEUDO or part.device in found:
            continue
        try:
            usage = psutil.disk_usage(part.mountpoint)
        except OSError:
            continue  # unmounted since, or a mount that does not answer to us
        found[part.device] = DiskUsage(
            mount=part.mountpoint,
            device=part.device,
            filesystem=part.fstype,
            total_bytes=usage.total,
            used_bytes=usage.used,
        )
    return tuple(found.values())


def read_pressure(directory: Path) -> dict[str, float]:
    """Pressure stall information, 10-second averages in percent (Linux, Documentation/accounting/psi.rst)."""
    pressure: dict[str, float] = {}
    for resource in ("cpu", "memory", "io"):
        try:
            lines = (directory / resource).read_text().splitlines()
        except OSError:
            continue  # a kernel without PSI
        for line in lines:
            which, *pairs = line.split()
            averages = dict(pair.split("=", 1) for pair in pairs)
            if "avg10" in averages and (resource, which) != ("cpu", "full"):
                pressure[f"{resource}.{which}"] = float(averages["avg10"])
    return pressure


def _os_name() -> str:
    try:
        return platform.freedesktop_os_release().get("PRETTY_NAME", platform.system())
    except OSError:
        return platform.system()
