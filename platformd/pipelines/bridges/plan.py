"""What a Bridge resource means for the queues and for its worker process."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

import msgspec

from platformd.core.clock import parse_rfc3339
from platformd.core.quantities import seconds, size_bytes
from platformd.model.bridge import BridgeFormat, BridgeKey, BridgeSpec, Kafka, PartitionStatus, subject_pattern
from platformd.model.resource import DEFAULT_TENANT, AnyResource
from platformd.pipelines.plan import MAX_ENGINE_NAME, NotCaptured, WantedConsumer, capturing
from platformd.queues.contract import ConsumerConfig, DeliverPolicy, StreamInfo

ACK_WAIT = 30.0
"""Seconds that a sink may hold a record without saying that it still does."""


class BridgeConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that a bridge's process is told, as one line of JSON on its standard input; no secret is in it."""

    bridge: str
    direction: str
    kafka: Kafka
    topics: tuple[str, ...]
    pattern: str
    group: str
    files: str
    """The folder that file names are of."""
    subject: str
    dead_letter: str
    format: BridgeFormat
    schemas: dict[str, str] = {}
    """Those of ``format.register``, as JSON, by version."""
    key: BridgeKey
    start: str
    start_time_ns: int = 0
    batch: int
    linger: float
    """Seconds."""
    max_in_flight: int
    max_in_flight_bytes: int
    stream: str
    """Of a sink: where it reads."""
    consumer: str
    ack_wait: float = ACK_WAIT
    ingest: str
    fetch: str

    @property
    def stage_name(self) -> str:
        """A bridge has one worker."""
        return self.bridge

    @property
    def fingerprint(self) -> str:
        """The same for two configurations that make the same worker."""
        return hashlib.sha256(msgspec.json.encode(self, order="deterministic")).hexdigest()[:16]


class BridgeCounts(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a bridge's process has done since it started."""

    records_in: int = 0
    records_out: int = 0
    bytes: int = 0
    duplicates: int = 0
    dead_lettered: int = 0
    errors: int = 0


class BridgeReport(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A line that a bridge's process writes: where it is."""

    counts: BridgeCounts = BridgeCounts()
    ready: bool = False
    """Whether Kafka has let it in: a source to its group, a sink to a broker."""
    assigned: int = 0
    partitions: tuple[PartitionStatus, ...] = ()
    lag: int = 0
    in_flight: int = 0
    trouble: str = ""
    """What it cannot do at the moment, one sentence."""
    last_error: str = ""


@dataclass(frozen=True, kw_only=True)
class BridgePlan:
    """What has to be there for a bridge to run."""

    config: BridgeConfig
    consumer: WantedConsumer | None
    """Of a sink."""


def cursor_name(resource: AnyResource) -> str:
    """The name of a sink's cursor. Names of resources have no upper case, so the mark of a tenant is no part of one."""
    tenant = "" if resource.tenant == DEFAULT_TENANT else f".T-{resource.tenant}"
    name = f"bridge-{resource.name}{tenant}"
    if len(name) <= MAX_ENGINE_NAME:
        return name
    digest = hashlib.sha256(name.encode()).hexdigest()[:12]
    return f"{name[: MAX_ENGINE_NAME - 15].rstrip('.')}.H-{digest}"


def make_plan(
    resource: AnyResource,
    streams: tuple[StreamInfo, ...],
    addresses: Mapping[str, str],
    *,
    schemas: Mapping[int, str],
    files: str,
) -> BridgePlan:
    """What has to be there.

    Raises:
        NotCaptured: no stream captures its subject or its dead letters.
    """
    spec: BridgeSpec = resource.spec
    sink = spec.direction == "sink"
    pattern = spec.subject if sink else subject_pattern(spec.subject)
    stream = capturing(streams, pattern)
    if stream is None:
        raise NotCaptured(pattern, "its subject")
    if capturing(streams, spec.dead_letter) is None:
        raise NotCaptured(spec.dead_letter, "its dead letters")
    tenant = "" if resource.tenant == DEFAULT_TENANT else f"{resource.tenant}."
    consumer = _consumer(stream, resource) if sink else None
    config = BridgeConfig(
        bridge=resource.name,
        direction=spec.direction,
        kafka=spec.kafka,
        topics=spec.topics,
        pattern=spec.pattern,
        group=spec.kafka.group or f"platformd-{tenant}{resource.name}",
        files=files,
        subject=spec.subject,
        dead_letter=spec.dead_letter,
        format=spec.format,
        schemas={str(version): text for version, text in schemas.items()},
        key=spec.key,
        start=spec.start,
        start_time_ns=parse_rfc3339(spec.start_time) if spec.start_time else 0,
        batch=spec.limits.batch,
        linger=seconds(spec.limits.linger),
        max_in_flight=spec.limits.max_in_flight,
        max_in_flight_bytes=size_bytes(spec.limits.max_in_flight_bytes),
        stream=stream if sink else "",
        consumer=consumer.name if consumer is not None else "",
        ingest=addresses["ingest"],
        fetch=addresses["fetch"],
    )
    return BridgePlan(config=config, consumer=consumer)


_POLICIES: dict[str, DeliverPolicy] = {"earliest": "all", "latest": "new", "time": "by_time"}


def _consumer(stream: str, resource: AnyResource) -> WantedConsumer:
    spec: BridgeSpec = resource.spec
    config = ConsumerConfig(
        filter_subject=spec.subject,
        deliver_policy=_POLICIES[spec.start],
        start_time_ns=parse_rfc3339(spec.start_time) if spec.start_time else 0,
        ack_wait=ACK_WAIT,
        max_ack_pending=spec.limits.max_in_flight,
    )
    return WantedConsumer(stream=stream, name=cursor_name(resource), config=config)
