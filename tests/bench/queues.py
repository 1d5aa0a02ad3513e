"""What Python programs get out of the data queues: ``python -m tests.bench.queues [--quick] [--json]``.

One producer and one consumer over the Unix sockets of an engine that runs in a process of its own, as the daemon runs
it. Records have 128 bytes of payload unless a row says otherwise, and an acknowledgement means fdatasync unless a row
says otherwise. Beside them, in the same run and on the same disk (``PLATFORMD_BENCH_DIR``, else /var/tmp):

- the device itself: what 4 KiB take to be durable, and how much it takes in writes of 1 MiB;
- Redis Streams and NATS, each as safe as it is by default and as safe as it can be, nats-py and pyzmq
  (``queues_peers``); a peer that is not installed is a row with how to get it.

We and the peers take turns, and the best round of each counts. Then much of everything, a long log, and how quiet an
idle engine is (``queues_scale``). It takes about six minutes and 12 GB of the disk; ``--quick`` under one minute.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from time import perf_counter

from platformd.client.queues import Consumer, Producer, Record
from platformd.queues.contract import Durability
from tests.bench import queues_peers as peers
from tests.bench.harness import (
    Aim,
    Figure,
    Skipped,
    at_least,
    at_most,
    bandwidth_mib,
    fdatasync_ms,
    percentile,
    run,
    scratch,
)
from tests.bench.queues_host import Consuming, Host, hosted
from tests.bench.queues_live import live
from tests.bench.queues_scale import scale

BATCH = 512
"""Records in a batch: about 80 KB on the wire."""
LARGE_BATCH = 2048
"""About 310 KB."""
PAYLOAD = bytes(peers.PAYLOAD)
PACKET = 82_000
"""Bytes of a survey's alert packet."""
PACKETS = 10_000

Measured = dict[str, float]
"""Figures by name; the best of all rounds."""
Missing = dict[str, str]
"""Why some are not there."""


def figures(quick: bool) -> Iterator[Figure | Skipped]:
    """All rows."""
    seconds = 0.7 if quick else 3.0
    with scratch() as name:
        directory = Path(name)
        device: Measured = {"fdatasync": percentile(fdatasync_ms(directory), 50)}
        device["bandwidth"] = bandwidth_mib(directory, seconds)
        yield Figure(name="the device: 4 KiB and fdatasync, p50", value=device["fdatasync"], unit="ms")
        yield Figure(name="the device: 1 MiB writes, each with fdatasync", value=device["bandwidth"], unit="MiB/s")
        found: Measured = {}
        missing: Missing = {}
        for _ in range(1 if quick else 2):
            beside(directory, seconds, found, missing)
            ours(directory, seconds, found)
        yield from peer_rows(found, missing)
        yield from publishing_rows(found, missing, device)
        yield from live(directory, seconds, found.get("core"))
        yield from packets(directory, PACKETS // 10 if quick else PACKETS, device["bandwidth"])
        yield from scale(directory, quick)


def best(found: Measured, name: str, value: float, choose: Callable[[float, float], float] = max) -> None:
    """Keep the better of all rounds."""
    found[name] = choose(found.get(name, value), value)


# The peers


def beside(directory: Path, seconds: float, found: Measured, missing: Missing) -> None:
    """One round of every peer."""

    def attempt(name: str, measure: Callable[[], float]) -> None:
        try:
            best(found, name, measure())
        except peers.Missing as error:
            missing[name] = str(error)

    records = round(250_000 * seconds)
    attempt("redis always", lambda: peers.redis(directory, "always", records))
    attempt("redis everysec", lambda: peers.redis(directory, "everysec", records))
    attempt("pyzmq", lambda: peers.pyzmq(seconds))
    try:
        with peers.nats(directory, "") as server:
            best(found, "jetstream", peers.jetstream(server, seconds))
            best(found, "core", peers.core(server, seconds))
            publish, pull = peers.nats_py(server, seconds)
            best(found, "nats-py publish", publish)
            best(found, "nats-py pull", pull)
        with peers.nats(directory, "sync_interval: always") as server:
            best(found, "jetstream always", peers.jetstream(server, max(seconds, 2.0)))
    except peers.Missing as error:
        for name in ("jetstream", "core", "nats-py publish", "nats-py pull", "jetstream always"):
            if name not in found:
                missing[name] = str(error)


_PEERS = {
    "redis always": "Redis XADD, appendfsync always, redis-benchmark -P 64 -c 50",
    "redis everysec": "Redis XADD, appendfsync everysec, the same",
    "jetstream": "JetStream file, 4000 under way, no fsync",
    "jetstream always": "JetStream file, sync_interval always",
    "nats-py publish": "nats-py publish_async, JetStream, no fsync",
    "nats-py pull": "nats-py pull and ack, 500 a time",
    "core": "NATS core, publish to subscribe",
    "pyzmq": "pyzmq PUB to SUB, Python to Python",
}


def peer_rows(found: Measured, missing: Missing) -> Iterator[Figure | Skipped]:
    """What the peers did, or why they did not."""
    for name, title in _PEERS.items():
        if name in found:
            yield Figure(name=title, value=found[name], unit="records/s")
        else:
            yield Skipped(name=title, reason=missing.get(name, "not measured"))


# Publishing and consuming small records


def ours(directory: Path, seconds: float, found: Measured) -> None:
    """One round of ours."""
    with hosted(directory / "engine") as host:
        host.stream("small", "flow", max_bytes=4 << 30)
        host.consumer("small", "flow", max_ack_pending=65536)
        same = [Record(subject="small.a", payload=PAYLOAD, time_ns=1)] * BATCH
        best(found, "publish", publish_payloads(host, seconds))
        best(found, "publish os", publish_payloads(host, seconds, durability="os"))
        best(found, "objects", publish(host, lambda _: same, seconds))
        best(found, "one", one_by_one(host, seconds), min)
        best(found, "one memory", one_by_one(host, seconds, durability="memory"), min)
        best(found, "consume", consume(host, "small", seconds))
        best(found, "consume objects", consume_objects(host, "small", seconds))
        best(found, "named", publish(host, _named_batch, seconds))
        best(found, "flow", flow(host, "flow", round(1_000_000 * seconds)))
        host.delete("small", "flow")


def publishing_rows(found: Measured, missing: Missing, device: Measured) -> Iterator[Figure | Skipped]:
    """The rows of small records, each aim beside its figure."""

    def beside_peer(title: str, value: str, name: str, aim: Aim | None = None) -> Figure | Skipped:
        if name not in found:
            return Skipped(name=title, reason=missing.get(name, "not measured"))
        return Figure(
            name=title, value=found[value], unit="records/s", peer=name, peer_value=found[name], ratio_aim=aim
        )

    publish_title = f"publish, fsync, batches of {LARGE_BATCH} payloads"
    yield Figure(name=publish_title, value=found["publish"], unit="records/s", aim=at_least(2e6))
    yield beside_peer(publish_title, "publish", "redis always", at_least(3))
    yield beside_peer(publish_title, "publish", "jetstream", at_least(5))
    yield beside_peer(publish_title, "publish", "jetstream always", at_least(100))
    yield beside_peer(publish_title, "publish", "nats-py publish")
    yield beside_peer("publish, os", "publish os", "redis everysec")
    yield Figure(name=f"publish, fsync, batches of {BATCH} record objects", value=found["objects"], unit="records/s")
    yield Figure(name="publish, fsync, each record with its msg_id", value=found["named"], unit="records/s")
    yield Figure(
        name="publish one record, fsync, p50",
        value=found["one"],
        unit="ms",
        peer="fdatasync p50",
        peer_value=device["fdatasync"],
        aim=at_most(device["fdatasync"] + 0.2),
    )
    yield Figure(name="publish one record, memory, p50", value=found["one memory"], unit="ms")
    yield beside_peer("fetch and ack of a backlog, each payload looked at", "consume", "nats-py pull")
    yield beside_peer("fetch and ack of a backlog, each record an object", "consume objects", "nats-py pull")
    flow_title = "publish to deliver through the log, fsync, Python to Python"
    yield Figure(name=flow_title, value=found["flow"], unit="records/s", aim=at_least(1.5e6))
    yield beside_peer(flow_title, "flow", "pyzmq")


def _named_batch(number: int) -> list[Record]:
    return [Record(subject="small.b", payload=PAYLOAD, msg_id=f"{number:08d}.{i:07d}", time_ns=1) for i in range(BATCH)]


def publish(host: Host, make: Callable[[int], list[Record]], seconds: float, durability: Durability = "fsync") -> float:
    """Acknowledged records a second of one producer with eight batches under way."""
    with Producer(host.address("ingest"), durability=durability) as producer:
        producer.publish_batch(make(0))
        count, number, begin = 0, 0, perf_counter()
        while perf_counter() - begin < seconds:
            number += 1
            batch = make(number)
            producer.submit(batch)
            count += len(batch)
        producer.flush()
        return count / (perf_counter() - begin)


def publish_payloads(host: Host, seconds: float, durability: Durability = "fsync") -> float:
    """The same of payloads in large batches."""
    payloads = [PAYLOAD] * LARGE_BATCH
    with Producer(host.address("ingest"), durability=durability) as producer:
        count, begin = 0, perf_counter()
        while perf_counter() - begin < seconds:
            producer.submit_payloads("small.a", payloads)
            count += LARGE_BATCH
        producer.flush()
        return count / (perf_counter() - begin)


def one_by_one(host: Host, seconds: float, durability: Durability = "fsync") -> float:
    """The median time from publishing one record to its acknowledgement, milliseconds."""
    taken = []
    with Producer(host.address("ingest"), durability=durability) as producer:
        until = perf_counter() + seconds
        while (begin := perf_counter()) < until:
            producer.publish("small.c", PAYLOAD)
            taken.append((perf_counter() - begin) * 1e3)
    return percentile(taken, 50)


def consume(host: Host, stream: str, seconds: float) -> float:
    """Records a second that one consumer takes in batches and acknowledges, as long as there are any."""
    with Consumer(host.address("fetch"), stream, "c") as consumer:
        count, begin = 0, perf_counter()
        while perf_counter() - begin < seconds:
            batch = consumer.fetch_batch(max_records=8192, max_bytes=2 << 20, wait=0)
            if not batch:
                break
            count += sum(1 for payload in batch.payloads() if len(payload) > 0)
            consumer.ack(batch)
        return count / (perf_counter() - begin)


def consume_objects(host: Host, stream: str, seconds: float) -> float:
    """The same with an object for each record."""
    with Consumer(host.address("fetch"), stream, "c") as consumer:
        count, begin = 0, perf_counter()
        while perf_counter() - begin < seconds:
            deliveries = consumer.fetch(max_records=4096, wait=0)
            if not deliveries:
                break
            consumer.ack(deliveries)
            count += len(deliveries)
        return count / (perf_counter() - begin)


def flow(host: Host, stream: str, total: int) -> float:
    """Records a second from a Python producer to a Python consumer that acknowledges, until the last of ``total``."""
    payloads = [PAYLOAD] * LARGE_BATCH
    batches = -(-total // LARGE_BATCH)
    consuming = Consuming(host, stream, batches * LARGE_BATCH, max_records=8192, max_bytes=2 << 20)
    with Producer(host.address("ingest")) as producer:
        begin = perf_counter()
        for _ in range(batches):
            producer.submit_payloads(f"{stream}.a", payloads)
    return batches * LARGE_BATCH / (consuming.done() - begin)


# Survey packets


def packets(directory: Path, total: int, bandwidth: float) -> Iterator[Figure]:
    """So many packets through publish, fsync, fetch and ack, both sides at once."""
    batch = 8
    records = [Record(subject="packets.a", payload=os.urandom(PACKET), time_ns=1) for _ in range(batch)]
    with hosted(directory / "engine") as host:
        host.stream("packets")
        host.consumer("packets", max_ack_pending=4096)
        consuming = Consuming(host, "packets", total, max_records=256, max_bytes=2 << 20)
        with Producer(host.address("ingest")) as producer:
            begin = perf_counter()
            for _ in range(total // batch):
                producer.submit(records)
        taken = consuming.done() - begin
        host.delete("packets")
    title = f"{total:,} packets of {PACKET // 1000} KB: publish, fsync, fetch, ack"
    yield Figure(name=title, value=taken, unit="s", aim=at_most(3 * total / PACKETS))
    yield Figure(
        name=title,
        value=total * PACKET / taken / (1 << 20),
        unit="MiB/s",
        peer="the device's 1 MiB writes",
        peer_value=bandwidth,
    )


if __name__ == "__main__":
    run(figures)
