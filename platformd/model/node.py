"""Node: a machine of the platform. Its status is what the host collector measured last."""

from __future__ import annotations

from platformd.model.kind import Column, Kind
from platformd.model.resource import Status, Struct


class NodeSpec(Struct, frozen=True, kw_only=True):
    """What a person says of the machine."""

    description: str = ""
    zone: str = ""
    """Where it stands; discovery prefers the own zone."""


class DiskUsage(Struct, frozen=True, kw_only=True):
    """One mounted file system with a disk behind it."""

    mount: str
    device: str
    filesystem: str
    total_bytes: int
    used_bytes: int


class NetworkRate(Struct, frozen=True, kw_only=True):
    """One network interface's traffic over the last interval."""

    interface: str
    receive_bytes_per_second: float
    transmit_bytes_per_second: float


class NodeStatus(Status, frozen=True, kw_only=True):
    """What was found and measured. ``state`` is ``passing`` or ``unknown`` (no measurement)."""

    hostname: str = ""
    os: str = ""
    kernel: str = ""
    architecture: str = ""
    boot_time: str | None = None
    cpu_count: int = 0
    cpu_percent: float = 0.0
    """Share of all CPUs over the last interval, 0 to 100."""
    load: tuple[float, ...] = ()
    """1, 5 and 15 minute load averages."""
    memory_total_bytes: int = 0
    memory_used_bytes: int = 0
    swap_total_bytes: int = 0
    swap_used_bytes: int = 0
    disks: tuple[DiskUsage, ...] = ()
    networks: tuple[NetworkRate, ...] = ()
    pressure: dict[str, float] = {}
    """Pressure stall information: ``cpu.some``, ``memory.some``, ``memory.full``, ``io.some``,
    ``io.full`` as 10-second averages in percent; absent where the kernel has none."""
    daemon_rss_bytes: int = 0
    """Resident memory of the platformd process itself."""
    daemon_cpu_percent: float = 0.0
    """CPU of the platformd process itself over the last interval, 100 = one core."""
    measured_at: str | None = None


NODE = Kind(
    name="Node",
    plural="nodes",
    summary="A machine of the platform, with what the host collector measured on it.",
    spec=NodeSpec,
    status=NodeStatus,
    facility=True,
    aliases=("no",),
    columns=(
        Column(title="STATE", path="status.state"),
        Column(title="CPU%", path="status.cpu_percent", format="percent"),
        Column(title="MEM-USED", path="status.memory_used_bytes", format="bytes"),
        Column(title="MEM-TOTAL", path="status.memory_total_bytes", format="bytes"),
        Column(title="KERNEL", path="status.kernel", wide=True),
        Column(title="OS", path="status.os", wide=True),
    ),
)
