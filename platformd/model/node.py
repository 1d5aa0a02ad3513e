"""Node: a machine of the platform. Its status is what the host collector measured last."""

from __future__ import annotations

from platformd.model.kind import Column, Kind
from platformd.model.resource import Status, Struct


class NodeSpec(Struct, frozen=True, kw_only=True):
    """What a person says of the machine."""

    description: str = ""
    """What it is, for people."""
    zone: str = ""
    """Where it stands; discovery prefers the own zone."""


class DiskUsage(Struct, frozen=True, kw_only=True):
    """One mounted file system with a disk behind it."""

    mount: str
    """Where it is mounted: ``/var``."""
    device: str
    """What is mounted: ``/dev/nvme0n1p2``."""
    filesystem: str
    """Its type: ``ext4``."""
    total_bytes: int
    """Its size."""
    used_bytes: int
    """How much of it is taken."""


class NetworkRate(Struct, frozen=True, kw_only=True):
    """One network interface's traffic over the last interval."""

    interface: str
    """The kernel's name of it: ``eth0``."""
    receive_bytes_per_second: float
    """What came in."""
    transmit_bytes_per_second: float
    """What went out."""


class NodeStatus(Status, frozen=True, kw_only=True):
    """What was found and measured. ``state`` is ``passing`` or ``unknown`` (no measurement)."""

    hostname: str = ""
    """What the machine calls itself."""
    os: str = ""
    """The operating system, as ``/etc/os-release`` names it."""
    kernel: str = ""
    """The kernel's release."""
    architecture: str = ""
    """The machine's instruction set: ``x86_64``."""
    boot_time: str | None = None
    """When it was started, RFC 3339 UTC."""
    cpu_count: int = 0
    """How many CPUs the system sees."""
    cpu_percent: float = 0.0
    """Share of all CPUs over the last interval, 0 to 100."""
    load: tuple[float, ...] = ()
    """1, 5 and 15 minute load averages."""
    memory_total_bytes: int = 0
    """Memory that the system has."""
    memory_used_bytes: int = 0
    """Memory that could not be given to programs without swapping."""
    swap_total_bytes: int = 0
    """Swap space that the system has."""
    swap_used_bytes: int = 0
    """Swap space that is taken."""
    disks: tuple[DiskUsage, ...] = ()
    """The file systems that have a disk behind them."""
    networks: tuple[NetworkRate, ...] = ()
    """The network interfaces, without the loopback."""
    pressure: dict[str, float] = {}
    """Pressure stall information: ``cpu.some``, ``memory.some``, ``memory.full``, ``io.some``,
    ``io.full`` as 10-second averages in percent; absent where the kernel has none."""
    daemon_rss_bytes: int = 0
    """Resident memory of the platformd process itself."""
    daemon_cpu_percent: float = 0.0
    """CPU of the platformd process itself over the last interval, 100 = one core."""
    measured_at: str | None = None
    """When all this was measured, RFC 3339 UTC."""


NODE = Kind(
    name="Node",
    plural="nodes",
    summary="A machine of the platform, with what the host collector measured on it.",
    spec=NodeSpec,
    status=NodeStatus,
    facility=True,
    aliases=("no",),
    example={"description": "readout server of the north dome", "zone": "north"},
    columns=(
        Column(title="STATE", path="status.state"),
        Column(title="CPU%", path="status.cpu_percent", format="percent"),
        Column(title="MEM-USED", path="status.memory_used_bytes", format="bytes"),
        Column(title="MEM-TOTAL", path="status.memory_total_bytes", format="bytes"),
        Column(title="KERNEL", path="status.kernel", wide=True),
        Column(title="OS", path="status.os", wide=True),
    ),
)
