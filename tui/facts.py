"""What documents say, read forgivingly.

A terminal stays open while the daemon is upgraded under it, so a field that this version does not know
is passed over and a status that it cannot read is shown as such, never raised.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple

from platformd.client.reading import read_resource
from platformd.core.errors import Unsupported
from platformd.model.kinds import BY_NAME
from platformd.model.node import NodeStatus
from platformd.model.pipeline import PipelineStatus, StageStatus
from platformd.model.resource import DEFAULT_TENANT, Status
from platformd.model.stream import StreamStatus

from .events import Document
from .format import plain

TONES = {
    "running": "good",
    "active": "good",
    "passing": "good",
    "available": "good",
    "registered": "good",
    "pending": "warn",
    "starting": "warn",
    "stopping": "warn",
    "degraded": "warn",
    "warning": "warn",
    "suspended": "warn",
    "unknown": "warn",
    "error": "bad",
    "critical": "bad",
}
"""How each state looks; a state that is not here looks plain."""


class Key(NamedTuple):
    """What an object is called; the identity of its row."""

    kind: str
    tenant: str
    name: str

    def __str__(self) -> str:
        """As the command line names it: ``stream/alerts``, with the tenant before it unless it is the default."""
        tenant = "" if self.tenant == DEFAULT_TENANT else f"{self.tenant}:"
        return plain(f"{tenant}{self.kind.lower()}/{self.name}")


def key_of(document: Document) -> Key:
    """The key of a resource document."""
    return Key(
        str(document.get("kind", "")), str(document.get("tenant") or DEFAULT_TENANT), str(document.get("name", ""))
    )


def dig(document: object, *path: str) -> Any:
    """The member at ``path``, or ``None`` where there is none."""
    for step in path:
        if not isinstance(document, Mapping):
            return None
        document = document.get(step)
    return document


def read_status(document: Document) -> Status:
    """The status as its kind's type (``Status`` itself for an unknown kind).

    What cannot be read gives a status that says so, in the state that was told.
    """
    kind = BY_NAME.get(str(document.get("kind")))
    struct: type[Status] = kind.status if kind else Status
    if kind is not None:
        try:
            status: Status = read_resource(kind, document).status
        except Unsupported as error:
            unreadable = plain(error.message)
        else:
            return status
    else:
        unreadable = "this version does not know the kind"
    return struct(state=plain(dig(document, "status", "state") or "unknown"), reason="Unreadable", message=unreadable)


@dataclass(frozen=True, slots=True)
class Daemon:
    """What ``GET /status`` says of the daemon."""

    name: str
    version: str
    state: str
    started_at: str
    uptime: float
    """Seconds, at the time ``read_at``."""
    state_dir: str
    node: str
    """The name of the Node that it runs on."""
    pid: int
    jobs_running: int
    jobs_queued: int
    read_at: float

    def same_run(self, other: Daemon) -> bool:
        """Whether ``other`` is the same process on the same state, so that revisions can be resumed."""
        return (self.started_at, self.state_dir, self.pid) == (other.started_at, other.state_dir, other.pid)


def read_daemon(status: Document, now: float) -> Daemon:
    """The facts in an answer to ``GET /status`` that was read at ``now``."""
    started_at = plain(status.get("started_at") or "")
    uptime = number(status.get("uptime_seconds"))
    return Daemon(
        name=plain(status.get("name") or "platformd"),
        version=plain(status.get("version") or ""),
        state=plain(status.get("state") or "unknown"),
        started_at=started_at,
        uptime=uptime or max(0.0, now - (_epoch(started_at) or now)),
        state_dir=plain(status.get("state_dir") or ""),
        node=plain(status.get("node") or ""),
        pid=int(number(status.get("pid"))),
        jobs_running=int(number(dig(status, "jobs", "running"))),
        jobs_queued=int(number(dig(status, "jobs", "queued"))),
        read_at=now,
    )


def number(value: object) -> float:
    """``value`` when it is a number, else 0."""
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else 0.0


def _epoch(stamp: str) -> float | None:
    try:
        return datetime.fromisoformat(stamp).timestamp()
    except ValueError:
        return None


def samples(status: Status) -> dict[str, float]:
    """The values of a status whose history is kept, by the name of their ring."""
    if isinstance(status, StreamStatus):
        return {"rate": status.messages_per_second}
    if isinstance(status, PipelineStatus):
        return {
            f"{name}/{stage.name}": value
            for stage in status.stages
            for name, value in (("rate", stage.packets_per_second), ("lag", float(stage.lag)))
        }
    if isinstance(status, NodeStatus):
        disks = {f"disk/{d.mount}": float(d.used_bytes) for d in status.disks}
        return {
            "cpu": status.cpu_percent,
            "memory": share(status.memory_used_bytes, status.memory_total_bytes) * 100,
            "rss": float(status.daemon_rss_bytes),
            "daemon_cpu": status.daemon_cpu_percent,
            **disks,
        }
    return {}


def share(part: float, whole: float) -> float:
    """``part`` of ``whole``, 0 when there is no whole."""
    return part / whole if whole > 0 else 0.0


def mean_seconds(stage: StageStatus) -> float | None:
    """The mean time a stage spends on a packet, or ``None`` before the first."""
    return stage.busy_seconds / stage.received if stage.received else None
