"""What a Bridge takes from Kafka: records a second until they are on the disk here, beside a bare consumer.

    python -m tests.bench.bridges [--quick] [--json]

Both read the same topics of librdkafka's mock cluster, from the first record that comes (joining a group takes the mock
three seconds) to the last; the bridge publishes each to a daemon with durability fsync before its offset is stored. The
mock keeps 5 MiB of a partition, which is why there are no more records. The best of some rounds counts.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from pathlib import Path
from time import perf_counter
from typing import Any

from confluent_kafka import Consumer, Message

from platformd.client.queues import Producer
from platformd.model.bridge import BridgeFormat, BridgeKey, Kafka
from platformd.pipelines import ztf
from platformd.pipelines.bridges.formats import Formats
from platformd.pipelines.bridges.kafka import Connection, source_config
from platformd.pipelines.bridges.plan import BridgeConfig, BridgeReport
from platformd.pipelines.bridges.source import Source
from tests.bench.harness import Figure, run
from tests.support.daemon import DaemonProcess, short_directory
from tests.support.kafka import KafkaCluster

SIZES = (("128 B", 128, 60_000), ("82 KB", 82_000, 200))
"""Name, bytes, and how many fit the mock's four partitions."""
PACKETS = 300
PATIENCE = 60.0
_names = itertools.count(1)


class _Timed:
    """A consumer that knows when its first record came."""

    def __init__(self, inner: Consumer) -> None:
        self._inner = inner
        self.began = 0.0

    def poll(self, timeout: float = -1) -> Message | None:
        message = self._inner.poll(timeout)
        if message is not None and not self.began:
            self.began = perf_counter()
        return message

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


def bridged(cluster: KafkaCluster, daemon: DaemonProcess, topic: str, count: int, form: str, *, check: bool) -> float:
    """Records a second through a source, until all are durable."""
    with daemon.client as client:
        sockets = client.status()["queues"]["sockets"]
    name = f"bench-{next(_names)}"
    config = BridgeConfig(
        bridge=name, direction="source", kafka=Kafka(bootstrap_servers=(cluster.address,)), topics=(topic,), pattern="",
        group=name, files="", subject=f"bench.{name}", dead_letter="bench.dead",
        format=BridgeFormat(type=form, check=check),  # type: ignore[arg-type]
        key=BridgeKey(), start="earliest", batch=500, linger=0.02, max_in_flight=4000, max_in_flight_bytes=32 << 20,
        stream="", consumer="", ingest=sockets["ingest"], fetch=sockets["fetch"],
    )  # fmt: skip
    connection = Connection()
    kafka = _Timed(Consumer(source_config(config) | {"stats_cb": connection.on_statistics}))
    ended: list[float] = []

    def tell(report: BridgeReport, urgent: bool) -> None:
        if report.counts.records_out >= count and not ended:
            ended.append(perf_counter())

    with Producer(config.ingest) as producer:
        Source(config, kafka, connection, producer, Formats(config.format), tell, lambda: bool(ended)).run()  # type: ignore[arg-type]
    return count / (ended[0] - kafka.began)


def bare(cluster: KafkaCluster, topic: str, count: int) -> float:
    """Records a second that a consumer takes and forgets."""
    consumer = Consumer(cluster.client(group_id=f"bare-{next(_names)}", auto_offset_reset="earliest"))
    consumer.subscribe([topic])
    try:
        first = consumer.poll(PATIENCE)
        assert first is not None
        began, taken = perf_counter(), 1
        while taken < count:
            taken += len(consumer.consume(min(500, count - taken), 1.0))
        return count / (perf_counter() - began)
    finally:
        consumer.close()


def figures(quick: bool) -> Iterator[Figure]:
    """The rows."""
    rounds = 1 if quick else 3
    packets = [ztf.encoded(packet) for packet in ztf.packets(PACKETS, seed=3)]
    loads = [(name, "bytes", [os.urandom(size)] * count) for name, size, count in SIZES]
    loads.append((f"ZTF packets of {sum(map(len, packets)) // len(packets) // 1000} KB", "container", packets))
    with short_directory() as directory, KafkaCluster() as cluster, DaemonProcess(Path(directory)) as daemon:
        with daemon.client as client:
            client.apply("streams", {"name": "bench", "spec": {"subjects": ["bench.>"]}})
        for number, (name, form, values) in enumerate(loads):
            topic = f"bench-{number}"
            for partition in range(4):
                cluster.produce(topic, list(values[partition::4]), partition=partition)
            peer = max(bare(cluster, topic, len(values)) for _ in range(rounds))
            for check in (True, False) if form == "container" else (True,):
                how = "" if check else ", unchecked"
                rate = max(bridged(cluster, daemon, topic, len(values), form, check=check) for _ in range(rounds))
                yield Figure(
                    name=f"bridge, {name}{how}", value=rate, unit="records/s", peer="bare consumer", peer_value=peer
                )
        daemon.stop()


if __name__ == "__main__":
    run(figures)
