"""Bridges and their configurations for tests."""

from __future__ import annotations

from typing import Any

from platformd.model.bridge import BridgeFormat, BridgeKey, BridgeSpec, BridgeStatus, Kafka
from platformd.model.resource import AnyResource, Resource
from platformd.pipelines.bridges.plan import BridgeConfig

KAFKA = Kafka(bootstrap_servers=("127.0.0.1:9092",))


def spec(direction: str = "source", **fields: Any) -> BridgeSpec:
    """A source from topic ztf to alerts.ztf, or a sink from alerts.> to topic out."""
    source = {"topics": ("ztf",), "subject": "alerts.ztf", "dead_letter": "dead.ztf"}
    sink = {"topics": ("out",), "subject": "alerts.>", "dead_letter": "dead.out"}
    return BridgeSpec(direction=direction, **({"kafka": KAFKA} | (source if direction == "source" else sink) | fields))


def bridge(direction: str = "source", *, name: str = "demo", tenant: str = "default", **fields: Any) -> AnyResource:
    """The resource of such a bridge."""
    return Resource(
        kind="Bridge",
        name=name,
        tenant=tenant,
        uid="uid-1",
        generation=1,
        spec=spec(direction, **fields),
        status=BridgeStatus(),
        finalizers=("bridges",),
    )


def config(direction: str = "source", **changes: Any) -> BridgeConfig:
    """The configuration of a worker."""
    fields: dict[str, Any] = {
        "bridge": "demo",
        "direction": direction,
        "kafka": KAFKA,
        "topics": ("ztf",) if direction == "source" else ("out",),
        "pattern": "",
        "group": "platformd-demo",
        "files": "/nowhere",
        "subject": "alerts.ztf" if direction == "source" else "alerts.>",
        "dead_letter": "dead.ztf" if direction == "source" else "dead.out",
        "format": BridgeFormat(),
        "key": BridgeKey(),
        "start": "earliest",
        "batch": 10,
        "linger": 0.02,
        "max_in_flight": 100,
        "max_in_flight_bytes": 1 << 20,
        "stream": "" if direction == "source" else "alerts",
        "consumer": "" if direction == "source" else "bridge-demo",
        "ingest": "ipc:///in",
        "fetch": "ipc:///out",
    }
    return BridgeConfig(**(fields | changes))
