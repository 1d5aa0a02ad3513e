"""What a Python program gets out of the data queues: one producer and one consumer over the Unix sockets.

    python -m tests.bench.queues [--quick] [--json]

The engine runs in a process of its own, as the daemon does; its state lies in ``--directory``, by default
the current one, since a temporary directory is often in memory. An acknowledgement means fdatasync unless
a row says otherwise, so the disk's own fdatasync, measured before, stands beside. The rows have no other peer:
none that is as durable is a Python package that starts within a second.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import trio

from platformd.client.queues import Consumer, Producer, Record
from platformd.core.clock import SystemClock
from platformd.core.settings import QueueSettings
from platformd.queues.contract import ConsumerConfig, Durability, StreamConfig
from platformd.queues.native import open_native

BATCH = 512
"""Records of 128 bytes in a batch: about 80 KB on the wire."""
PACKET = 66_000
"""Bytes of a survey's alert packet."""
Row = dict[str, Any]


def main() -> None:
    """Measure and print one row a figure."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="short rounds")
    parser.add_argument("--json", action="store_true", help="rows as JSON")
    parser.add_argument("--directory", type=Path, default=Path(), help="where the log is written")
    parser.add_argument("--host", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.host:
        trio.run(_host, arguments.host)
        return
    with tempfile.TemporaryDirectory(prefix="queues-bench-", dir=arguments.directory) as directory:
        rows = measure(Path(directory), seconds=0.5 if arguments.quick else 3.0)
    if arguments.json:
        print(json.dumps(rows, indent=2))
        return
    for row in rows:
        beside = f"   {row['peer']}: {row['peer_value']:,} (x {row['ratio']:g})" if row["peer"] else ""
        print(f"{row['name']:<62} {row['value']:>12,} {row['unit']}{beside}")


def measure(directory: Path, seconds: float) -> list[Row]:
    """All rows; ``seconds`` for each that is a rate."""
    sync = fdatasync_ms(directory, 200)
    rows = [row("fdatasync of 4 KiB appended, p50", sync, "ms")]
    with hosted(directory) as sockets:
        small = [Record(subject="small.a", payload=bytes(104), time_ns=1)] * BATCH  # 128 bytes with its header
        fsync = publish(sockets, lambda _: small, seconds)
        rows.append(row("publish 128 B, fsync, batches of 512", fsync, "records/s"))
        rows.append(row("the same, os", publish(sockets, lambda _: small, seconds, durability="os"), "records/s"))
        named = publish(sockets, _named_batch, seconds)
        rows.append(row("the same, fsync, each record with its msg_id", named, "records/s"))
        one = one_by_one(sockets, seconds)
        rows.append(row("publish one record, fsync, p50", one, "ms", "fdatasync p50", sync))
        one = one_by_one(sockets, seconds, durability="memory")
        rows.append(row("publish one record, memory, p50", one, "ms"))
        fetched = consume(sockets, "small", seconds * 2)
        rows.append(row("fetch and ack 128 B, 1024 a time", fetched, "records/s"))
        packet = os.urandom(PACKET)
        for count in (1, 8):
            batch = [Record(subject="packets.a", payload=packet, time_ns=1)] * count
            packets = publish(sockets, lambda _, batch=batch: batch, seconds)
            rows.append(
                row(f"publish 66 KB packets, fsync, {count} a batch, 8 batches under way", packets, "packets/s")
            )
        rows.append(row("fetch and ack 66 KB packets", consume(sockets, "packets", seconds), "packets/s"))
    return rows


def row(name: str, value: float, unit: str, peer: str | None = None, peer_value: float | None = None) -> Row:
    """A row of the table that all benchmarks print."""
    value = round(value, 3) if value < 100 else round(value)
    ratio = round(value / peer_value, 2) if peer_value else None
    return {
        "name": name,
        "value": value,
        "unit": unit,
        "peer": peer,
        "peer_value": peer_value and round(peer_value, 3),
        "ratio": ratio,
        "aim": None,
        "met": None,
    }


def fdatasync_ms(directory: Path, times: int) -> float:
    """The median time of an append of 4 KiB and its fdatasync, milliseconds."""
    taken = []
    with (directory / "probe").open("wb", buffering=0) as file:
        for _ in range(times):
            begin = time.perf_counter()
            file.write(bytes(4096))
            os.fdatasync(file.fileno())
            taken.append(time.perf_counter() - begin)
    return statistics.median(taken) * 1e3


def _named_batch(number: int) -> list[Record]:
    return [
        Record(subject="small.b", payload=bytes(88), msg_id=f"{number:08d}.{i:07d}", time_ns=1) for i in range(BATCH)
    ]


def publish(
    sockets: Path, make: Callable[[int], list[Record]], seconds: float, durability: Durability = "fsync"
) -> float:
    """Acknowledged records a second of one producer with eight batches under way."""
    with Producer(f"ipc://{sockets}/ingest.sock", durability=durability) as producer:
        producer.publish_batch(make(0))
        count, number, begin = 0, 0, time.perf_counter()
        while time.perf_counter() - begin < seconds:
            number += 1
            batch = make(number)
            producer.submit(batch)
            count += len(batch)
        producer.flush()
        return count / (time.perf_counter() - begin)


def one_by_one(sockets: Path, seconds: float, durability: Durability = "fsync") -> float:
    """The median time from publishing one record to its acknowledgement, milliseconds."""
    taken = []
    with Producer(f"ipc://{sockets}/ingest.sock", durability=durability) as producer:
        until = time.perf_counter() + seconds
        while (begin := time.perf_counter()) < until:
            producer.publish("small.c", bytes(104))
            taken.append(time.perf_counter() - begin)
    return statistics.median(taken) * 1e3


def consume(sockets: Path, stream: str, seconds: float) -> float:
    """Records a second that one consumer fetches and acknowledges, as long as there are any."""
    with Consumer(f"ipc://{sockets}/fetch.sock", stream, "c") as consumer:
        count, begin = 0, time.perf_counter()
        while time.perf_counter() - begin < seconds:
            deliveries = consumer.fetch(max_records=1024, wait=0)
            if not deliveries:
                break
            consumer.ack(deliveries)
            count += len(deliveries)
        return count / (time.perf_counter() - begin)


@contextmanager
def hosted(directory: Path) -> Iterator[Path]:
    """The engine in a process of its own; gives the folder of its sockets, which is short enough for them."""
    with tempfile.TemporaryDirectory(prefix="qb") as sockets:
        command = [sys.executable, "-m", "tests.bench.queues", "--host", str(directory.resolve())]
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=os.environ | {"BENCH_SOCKETS": sockets}
        )
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            if process.stdout.readline() != b"ready\n":
                raise RuntimeError("the engine did not start")
            yield Path(sockets)
        finally:
            process.stdin.close()
            process.wait()
            process.stdout.close()


async def _host(directory: Path) -> None:
    sockets = Path(os.environ["BENCH_SOCKETS"])
    async with open_native(directory / "streams", sockets, QueueSettings(), SystemClock()) as streams:
        for name in ("small", "packets"):
            await streams.put_stream(name, StreamConfig(subjects=(f"{name}.>",)))
            await streams.put_consumer(name, "c", ConsumerConfig(max_ack_pending=4096))
        print("ready", flush=True)
        await trio.to_thread.run_sync(sys.stdin.read)  # until the other side closes it


if __name__ == "__main__":
    main()
