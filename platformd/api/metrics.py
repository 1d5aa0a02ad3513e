"""Metrics in the Prometheus text format.

What happens (requests) is counted as it happens. What is (messages, lag, memory) is read once when somebody
asks: a collector turns one snapshot into families, so that no gauge can be stale and none outlives the
stream or pipeline it speaks of.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from platformd.conductor.reconcile import Load
from platformd.coordination.contract import StoreStatus
from platformd.model.resource import AnyResource
from platformd.queues.contract import ConsumerInfo, StreamInfo
from platformd.queues.statistics import SocketStatistics

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
BUCKETS: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)
"""Upper bounds of the latency histogram, seconds."""
METHODS: Final = frozenset({"GET", "HEAD", "OPTIONS", "POST", "PUT", "PATCH", "DELETE"})
"""Methods that get a label of their own; a client can invent as many others as it likes."""


class HttpMetrics:
    """Requests by method, route and status, and how long they took until their response began."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry(auto_describe=False)
        self._requests = Counter(
            "platformd_http_requests",
            "Requests that were answered.",
            ("method", "route", "status"),
            registry=self.registry,
        )
        self._seconds = Histogram(
            "platformd_http_request_seconds",
            "From the request to the beginning of its response.",
            ("method", "route"),
            buckets=BUCKETS,
            registry=self.registry,
        )
        self._dropped = Counter(
            "platformd_http_records_dropped",
            "Records that readers of tails did not get: removed before, or the reader was too slow.",
            ("reason",),
            registry=self.registry,
        )
        self._children: dict[tuple[str, str, int], tuple[Counter, Histogram]] = {}
        """Looking a child up by its labels costs more than counting."""

    def count(self, method: str, route: str, status: int, elapsed: float) -> None:
        """Count one request. ``route`` is the rule that matched, never the path, of which there are too many."""
        method = method if method in METHODS else "other"
        key = (method, route, status)
        children = self._children.get(key)
        if children is None:
            children = (self._requests.labels(method, route, str(status)), self._seconds.labels(method, route))
            self._children[key] = children
        children[0].inc()
        children[1].observe(elapsed)

    def count_dropped(self, reason: str, records: int) -> None:
        """Count records that the reader of a tail did not get."""
        self._dropped.labels(reason).inc(records)


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """What is, at one moment."""

    version: str
    started_ns: int
    store: StoreStatus
    streams: tuple[StreamInfo, ...]
    consumers: tuple[ConsumerInfo, ...]
    pipelines: tuple[AnyResource, ...]
    nodes: tuple[AnyResource, ...]
    watchers: int
    loop_lag_seconds: float
    sockets: SocketStatistics | None = None
    controllers: tuple[Load, ...] = ()


def render(snapshot: Snapshot, http: HttpMetrics) -> bytes:
    """All metrics as text."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_SnapshotCollector(snapshot))
    return generate_latest(registry) + generate_latest(http.registry)


class _SnapshotCollector(Collector):
    def __init__(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot

    def collect(self) -> Iterator[Metric]:
        snapshot = self._snapshot
        yield from _daemon(snapshot)
        yield from _store(snapshot.store)
        yield from _streams(snapshot.streams)
        yield from _consumers(snapshot.consumers)
        if snapshot.sockets is not None:
            yield from _sockets(snapshot.sockets)
        yield from _controllers(snapshot.controllers)
        yield from _pipelines(snapshot.pipelines)
        yield from _nodes(snapshot.nodes)


Row = tuple[tuple[str, ...], float]


def _gauge(name: str, what: str, labels: tuple[str, ...], rows: Iterable[Row]) -> Metric:
    family = GaugeMetricFamily(f"platformd_{name}", what, labels=labels)
    for values, value in rows:
        family.add_metric(values, value)
    return family


def _counter(name: str, what: str, labels: tuple[str, ...], rows: Iterable[Row]) -> Metric:
    family = CounterMetricFamily(f"platformd_{name}", what, labels=labels)
    for values, value in rows:
        family.add_metric(values, value)
    return family


def _daemon(snapshot: Snapshot) -> Iterator[Metric]:
    yield _gauge("info", "The daemon; always 1.", ("version",), [((snapshot.version,), 1)])
    yield _gauge("start_time_seconds", "When it started, Unix time.", (), [((), snapshot.started_ns / 1e9)])
    yield _gauge("http_watchers", "Open watch streams.", (), [((), snapshot.watchers)])
    what = "How late short sleeps of the event loop ended, the worst while this was measured."
    yield _gauge("loop_lag_seconds", what, (), [((), snapshot.loop_lag_seconds)])


def _store(store: StoreStatus) -> Iterator[Metric]:
    for name, what, value in (
        ("store_revision", "The store's revision.", store.revision),
        ("store_compact_revision", "The oldest revision that can be read.", store.compact_revision),
        ("store_keys", "Keys in the store.", store.keys),
        ("store_leases", "Leases in the store.", store.leases),
        ("store_watchers", "Open watches of the store.", store.watchers),
        ("store_size_bytes", "The store on disk.", store.size_bytes),
    ):
        yield _gauge(name, what, (), [((), value)])


def _streams(streams: tuple[StreamInfo, ...]) -> Iterator[Metric]:
    def rows(field: str) -> list[Row]:
        return [((stream.name,), getattr(stream, field)) for stream in streams]

    labels = ("stream",)
    yield _gauge("stream_messages", "Records that are kept.", labels, rows("messages"))
    yield _gauge("stream_bytes", "Bytes that are kept.", labels, rows("bytes"))
    yield _gauge("stream_last_sequence", "The newest record: counts all appended.", labels, rows("last_sequence"))
    yield _gauge("stream_first_sequence", "The oldest record that is kept.", labels, rows("first_sequence"))
    yield _gauge("stream_consumers", "Consumers of the stream.", labels, rows("consumers"))


def _consumers(consumers: tuple[ConsumerInfo, ...]) -> Iterator[Metric]:
    def rows(field: str) -> list[Row]:
        return [((consumer.stream, consumer.name), getattr(consumer, field)) for consumer in consumers]

    labels = ("stream", "consumer")
    yield _gauge("consumer_lag", "Records that were never delivered.", labels, rows("pending"))
    yield _gauge("consumer_in_flight", "Records delivered and not acknowledged.", labels, rows("ack_pending"))
    yield _gauge("consumer_ack_floor", "All records up to this one are done.", labels, rows("ack_floor"))
    yield _gauge("consumer_waiting", "Fetches that wait.", labels, rows("waiting"))
    yield _counter("consumer_redelivered", "Deliveries beyond the first.", labels, rows("redelivered"))
    yield _counter("consumer_exhausted", "Records given up after max_deliver.", labels, rows("exhausted"))
    yield _counter("consumer_stalled", "Fetches that waited for max_ack_pending.", labels, rows("stalled"))


def _sockets(sockets: SocketStatistics) -> Iterator[Metric]:
    refusals = [((reason,), float(count)) for reason, count in sockets.refusals().items()]
    yield _counter("push_messages", "Messages received from plain nng programs.", (), [((), sockets.push_messages)])
    yield _counter("push_records", "Records of them that were stored.", (), [((), sockets.push_records)])
    yield _counter("push_refused", "Records of them that were not, by reason.", ("reason",), refusals)
    yield _gauge("live_subscribers", "Connections to the live socket.", (), [((), sockets.live_subscribers)])
    yield _counter("live_refused", "Connections to it that were refused.", (), [((), sockets.live_refused)])
    yield _counter("live_timeouts", "Subscribers that took nothing for too long.", (), [((), sockets.live_timeouts)])
    yield _counter("live_records", "Records that were published live.", (), [((), sockets.live_records)])
    yield _counter("live_sent", "Records that were sent, for each subscriber.", (), [((), sockets.live_sent)])
    what = "Records that a subscriber missed because it was too slow, for each."
    yield _counter("live_dropped", what, (), [((), sockets.live_dropped)])
    what = "Subscribers that went, as they had asked, rather than miss a record."
    yield _counter("live_disconnected", what, (), [((), sockets.live_disconnected)])
    yield _gauge("live_waiting", "Connections that wait rather than miss a record.", (), [((), sockets.live_waiting)])


def _controllers(controllers: tuple[Load, ...]) -> Iterator[Metric]:
    def rows(field: str) -> list[Row]:
        return [((load.controller,), getattr(load, field)) for load in controllers]

    labels = ("controller",)
    yield _gauge("controller_objects", "Objects that the controller knows.", labels, rows("objects"))
    yield _gauge("controller_queue_depth", "Objects that wait to be looked at now.", labels, rows("due"))
    yield _gauge("controller_working", "Objects that are looked at.", labels, rows("working"))
    yield _gauge("controller_failing", "Objects whose last look failed.", labels, rows("failing"))
    what = "How long ago the object was looked at with success that waits longest for it."
    yield _gauge("controller_oldest_success_seconds", what, labels, rows("oldest_success_seconds"))


def _pipelines(pipelines: tuple[AnyResource, ...]) -> Iterator[Metric]:
    stages: list[tuple[tuple[str, ...], Any]] = [
        ((pipeline.tenant, pipeline.name, stage.name), stage)
        for pipeline in pipelines
        for stage in pipeline.status.stages
    ]

    def rows(field: str) -> list[Row]:
        return [(labels, getattr(stage, field)) for labels, stage in stages]

    labels = ("tenant", "pipeline", "stage")
    for field, what in (
        ("received", "Packets taken from the stream."),
        ("accepted", "Packets that went on."),
        ("rejected", "Packets that did not."),
        ("dead_lettered", "Packets that could not be processed."),
        ("restarts", "Worker processes that were started again."),
        ("busy_seconds", "Time spent on packets."),
    ):
        yield _counter(f"stage_{field}", what, labels, rows(field))
    for field, what in (
        ("lag", "Packets that wait for the stage."),
        ("in_flight", "Packets that a worker has."),
        ("workers_ready", "Worker processes that are ready."),
        ("workers_desired", "Worker processes that there should be."),
    ):
        yield _gauge(f"stage_{field}", what, labels, rows(field))


def _nodes(nodes: tuple[AnyResource, ...]) -> Iterator[Metric]:
    def rows(field: str) -> list[Row]:
        return [((node.name,), getattr(node.status, field)) for node in nodes]

    labels = ("node",)
    yield _gauge("node_cpu_percent", "Share of all CPUs in use.", labels, rows("cpu_percent"))
    yield _gauge("node_memory_used_bytes", "Memory in use.", labels, rows("memory_used_bytes"))
    yield _gauge("node_memory_total_bytes", "Memory of the machine.", labels, rows("memory_total_bytes"))
    yield _gauge("daemon_rss_bytes", "Resident memory of the daemon.", labels, rows("daemon_rss_bytes"))
    yield _gauge("daemon_cpu_percent", "CPU of the daemon, 100 for one core.", labels, rows("daemon_cpu_percent"))
