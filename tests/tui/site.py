"""A small observatory's objects, for tests and for looking at the screen."""

from __future__ import annotations

from typing import Any

from tests.tui.fake_daemon import FakeDaemon

GIB = 1 << 30

NODE: dict[str, Any] = {
    "state": "passing",
    "hostname": "alpha",
    "os": "Debian GNU/Linux 12",
    "kernel": "6.18.0",
    "architecture": "x86_64",
    "cpu_count": 8,
    "cpu_percent": 23.4,
    "load": [0.52, 0.61, 0.7],
    "memory_total_bytes": 16 * GIB,
    "memory_used_bytes": 6 * GIB,
    "swap_total_bytes": 2 * GIB,
    "swap_used_bytes": 0,
    "disks": [
        {"mount": "/", "device": "/dev/sda1", "filesystem": "ext4", "total_bytes": 46 * GIB, "used_bytes": 20 * GIB},
        {"mount": "/data", "device": "/dev/sdb1", "filesystem": "xfs", "total_bytes": 900 * GIB,
         "used_bytes": 810 * GIB},
    ],
    "networks": [
        {"interface": "eno1", "receive_bytes_per_second": 1.2e6, "transmit_bytes_per_second": 34e3},
    ],
    "pressure": {"cpu.some": 1.2, "memory.some": 0.0, "memory.full": 0.0, "io.some": 24.0, "io.full": 0.4},
    "daemon_rss_bytes": 84 << 20,
    "daemon_cpu_percent": 3.2,
    "measured_at": "2026-01-31T15:12:00.000000Z",
}  # fmt: skip

STAGES: list[dict[str, Any]] = [
    {"name": "filter", "type": "filter", "workers_ready": 2, "workers_desired": 2, "restarts": 0, "lag": 240,
     "in_flight": 32, "received": 1204418, "accepted": 240883, "rejected": 963523, "dead_lettered": 12,
     "busy_seconds": 722.6, "packets_per_second": 1830.0},
    {"name": "annotate", "type": "annotate", "workers_ready": 1, "workers_desired": 2, "restarts": 3, "lag": 18,
     "in_flight": 8, "received": 240883, "accepted": 240865, "rejected": 0, "dead_lettered": 0,
     "busy_seconds": 61.0, "packets_per_second": 366.1},
    {"name": "route", "type": "route", "workers_ready": 1, "workers_desired": 1, "restarts": 0, "lag": 0,
     "in_flight": 0, "received": 240865, "accepted": 239001, "rejected": 1864, "dead_lettered": 0,
     "busy_seconds": 20.1, "packets_per_second": 365.8},
]  # fmt: skip


async def populate(daemon: FakeDaemon) -> None:
    """One node, three streams, one pipeline of three stages."""
    await daemon.put("Node", "alpha", **NODE)
    await daemon.put("Stream", "alerts", spec={"subjects": ["alerts.>"]}, state="active", messages=1204418,
                     bytes=79 * GIB, first_sequence=1, last_sequence=1204418, consumers=1, messages_per_second=1832.0,
                     bytes_per_second=120e6)  # fmt: skip
    await daemon.put("Stream", "transients", spec={"subjects": ["transients.bright", "transients.faint"]},
                     state="active", messages=239001, bytes=15 * GIB, first_sequence=1, last_sequence=239001,
                     consumers=2, messages_per_second=365.8, bytes_per_second=24e6)  # fmt: skip
    await daemon.put("Stream", "dead", spec={"subjects": ["dead.>"]}, state="active", messages=12, bytes=812000,
                     first_sequence=1, last_sequence=12)  # fmt: skip
    spec = {
        "source": "alerts.>",
        "dead_letter": "dead.alerts",
        "stages": [
            {"name": "filter", "type": "filter", "workers": 2, "expression": "candidate.rb >= 0.55"},
            {"name": "annotate", "type": "annotate", "workers": 2, "annotators": ["galactic", "delta_mag"]},
            {"name": "route", "type": "route", "routes": [{"subject": "transients.bright"}]},
        ],
    }
    await daemon.put("Pipeline", "ztf-alerts", spec=spec, state="degraded", reason="WorkersMissing",
                     message="stage annotate has 1 of 2 workers", stages=STAGES)  # fmt: skip
