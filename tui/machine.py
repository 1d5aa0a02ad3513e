"""The node panel: a machine's measurements as lines of text."""

from __future__ import annotations

from platformd.model.node import DiskUsage, NodeStatus

from .facts import dig, share
from .format import bar, bytes_, percent, plain, rate, sparkline
from .history import Ring
from .state import Item, State
from .table import Line, Run

WARN_PERCENT, BAD_PERCENT = 85.0, 95.0
"""From where a share of the CPU, the memory or a disk is shown as a warning, and as bad."""
WARN_PRESSURE, BAD_PRESSURE = 20.0, 50.0
"""The same for pressure stall information, which hurts much earlier."""
LABEL = 6
"""Cells of the label before each line."""
LINES = 4
"""Lines of the panel."""
DISK_CELLS = 34
"""The least that one disk takes in its line."""


def shown_node(state: State) -> Item | None:
    """The node that the panel shows: the daemon's own, else the first."""
    nodes = state.of_kind("Node")
    own = state.daemon.node if state.daemon else ""
    return next((n for n in nodes if n.key.name == own), nodes[0] if nodes else None)


def node_title(state: State, item: Item | None) -> str:
    """The panel's heading."""
    if item is None or not isinstance(item.status, NodeStatus):
        return "Node"
    status = item.status
    facts = [status.os, status.kernel, status.architecture, dig(item.document, "spec", "zone") or ""]
    others = len(state.of_kind("Node")) - 1
    more = f"  (+{others} more)" if others > 0 else ""
    return "  ".join(filter(None, (f"Node {plain(item.key.name)}{more}", *map(plain, facts))))


def node_lines(item: Item | None, width: int) -> tuple[Line, ...]:
    """CPU, memory, disks, and the daemon itself: ``LINES`` lines for a panel of ``width`` cells."""
    if item is None or not isinstance(item.status, NodeStatus):
        return ((Run("nothing known", "dim"),), *((),) * (LINES - 1))
    status = item.status
    if status.state == "unknown" or status.measured_at is None:
        why = ": ".join(filter(None, (status.reason, status.message))) or "no measurement yet"
        return ((Run(plain(why), "warn"),), *((),) * (LINES - 1))
    return (
        _cpu(status, item, width),
        _memory(status, item, width),
        _disks(status, width),
        _daemon(status, item, width),
    )


def tone_of(value: float, warn: float = WARN_PERCENT, bad: float = BAD_PERCENT) -> str:
    """How a value looks that is better the lower it is."""
    return "bad" if value >= bad else "warn" if value >= warn else "good"


def _meter(label: str, value: float, ring: Ring | None, width: int) -> list[Run]:
    """Label, percentage, bar and history, in about half of ``width``."""
    tone = tone_of(value)
    filled, empty = bar(value / 100, max(8, min(40, width // 6)))
    past = sparkline(ring.values if ring else (), max(10, min(60, width // 5)), top=100.0)
    return [
        Run(label.ljust(LABEL), "title"),
        Run(percent(value), tone if tone != "good" else "strong"),
        Run(" "),
        Run(filled, tone),
        Run(empty, "dim"),
        Run("  "),
        Run(past, "spark"),
        Run("  "),
    ]


def _cpu(status: NodeStatus, item: Item, width: int) -> Line:
    load = " ".join(f"{v:.2f}" for v in status.load)
    return (
        *_meter("CPU", status.cpu_percent, item.rings.get("cpu"), width),
        Run(f"{status.cpu_count} CPUs  ", "dim"),
        Run("load ", "dim"),
        Run(load or "-"),
    )


def _memory(status: NodeStatus, item: Item, width: int) -> Line:
    used = share(status.memory_used_bytes, status.memory_total_bytes) * 100
    runs = _meter("MEM", used, item.rings.get("memory"), width)
    runs += [Run(f"{bytes_(status.memory_used_bytes)} of {bytes_(status.memory_total_bytes)}")]
    if status.swap_total_bytes:
        swap = f"{bytes_(status.swap_used_bytes)} of {bytes_(status.swap_total_bytes)}"
        runs += [Run("  swap ", "dim"), Run(swap)]
    return tuple(runs)


def _disks(status: NodeStatus, width: int) -> Line:
    label = Run("DISK".ljust(LABEL), "title")
    if not status.disks:
        return (label, Run("none", "dim"))
    # The fullest first: with many mounts, those are the ones that somebody must act on.
    disks = sorted(status.disks, key=lambda d: -share(d.used_bytes, d.total_bytes))
    room = max(1, (width - LABEL) // (DISK_CELLS + 2))
    shown = disks[:room]
    each = (width - LABEL - (8 if len(disks) > room else 0)) // len(shown)
    runs = [label]
    for disk in shown:
        runs += _disk(disk, min(each, 60))
    if len(disks) > room:
        runs.append(Run(f"+{len(disks) - room} more", "dim"))
    return tuple(runs)


def _disk(disk: DiskUsage, width: int) -> list[Run]:
    used = share(disk.used_bytes, disk.total_bytes)
    sizes = f"{bytes_(disk.used_bytes)} of {bytes_(disk.total_bytes)}".ljust(16)
    mount = plain(disk.mount, 16)
    tone = tone_of(used * 100)
    # percentage, bar, mount and sizes with a space between, and two after.
    filled, empty = bar(used, max(4, min(width - 4 - len(mount) - len(sizes) - 5, 20)))
    return [
        Run(percent(used * 100), tone if tone != "good" else "strong"),
        Run(" "),
        Run(filled, tone),
        Run(empty, "dim"),
        Run(f" {mount} "),
        Run(sizes, "dim"),
        Run("  "),
    ]


def _daemon(status: NodeStatus, item: Item, width: int) -> Line:
    rss, cpu = item.rings.get("rss"), item.rings.get("daemon_cpu")
    cells = max(6, min(30, width // 12))
    runs = [
        Run("SELF".ljust(LABEL), "title"),
        Run(bytes_(status.daemon_rss_bytes).rjust(7)),
        Run(" "),
        Run(sparkline(rss.values if rss else (), cells), "spark"),
        Run(f"  {status.daemon_cpu_percent:.1f}% CPU ".rjust(13)),
        Run(sparkline(cpu.values if cpu else (), cells, top=100.0), "spark"),
    ]
    if status.pressure:
        runs.append(Run("  pressure", "dim"))
        for name in ("cpu.some", "memory.some", "io.some", "memory.full", "io.full"):
            if name in status.pressure and (name.endswith("some") or width >= 110):
                runs += _pressure(name, status.pressure[name])
    if width >= 150:
        for net in status.networks[:2]:
            text = f"↓{bytes_(net.receive_bytes_per_second)}/s ↑{bytes_(net.transmit_bytes_per_second)}/s"
            runs += [Run(f"  {plain(net.interface, 12)} ", "dim"), Run(text)]
    return tuple(runs)


def _pressure(name: str, value: float) -> list[Run]:
    tone = tone_of(value, WARN_PRESSURE, BAD_PRESSURE)
    label = name.replace("memory", "mem").removesuffix(".some").replace(".", " ")
    return [Run(f" {label} ", "dim"), Run(rate(value), "" if tone == "good" else tone)]
