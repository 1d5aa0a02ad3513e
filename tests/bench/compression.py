"""Compressed segments beside plain ones: how long compressing takes, how small they become, and what reading costs.

    python -m tests.bench.compression [--quick] [--json]

The records are JSON lines of 128 bytes, and packets in the layout of ZTF's alerts with 18 KiB of images, which are
compressed already. The peer of each figure of reading is the same stream before it was compressed, in the page cache.
Reading is the engine's own (``pd_stream_read``, a mebibyte at a time), without sockets; the whole stream does
not fit into ``decompressed_cache``, so that every pass decompresses everything. Batches have about a mebibyte, and one
record is read with its whole batch. Compressing has one thread at a low priority, so that on a busy machine its figure
says how little it takes.
"""

from __future__ import annotations

import json
import random
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import trio

from platformd.core.clock import SystemClock
from platformd.core.settings import QueueSettings
from platformd.pipelines import ztf
from platformd.queues.contract import Record, StreamConfig
from platformd.queues.native._native import ffi, lib
from platformd.queues.native.engine import open_native
from platformd.queues.native.streams import NativeStreams
from tests.bench.harness import Figure, percentile, run

MIB = 1 << 20
PLAIN = StreamConfig(subjects=("s.>",), duplicate_window=0)
PACKED = msgspec.structs.replace(PLAIN, compression="zstd")
LOOKS = 400
IMAGE = 6 << 10
"""Bytes of each of a packet's three images."""


def json_line(random_numbers: random.Random, number: int) -> bytes:
    """A measurement of 128 bytes."""
    fields = {
        "id": number,
        "time": 1_790_000_000_000 + number * 25,
        "sensor": f"tower-{random_numbers.randrange(40):02d}",
        "value": round(random_numbers.gauss(20, 5), 4),
        "unit": "degC",
        "state": "ok",
    }
    return json.dumps(fields).encode().ljust(128)[:128]


def json_records(size: int) -> Iterator[bytes]:
    """Lines of ``size`` bytes together."""
    numbers = random.Random(1)
    for number in range(size // 128):
        yield json_line(numbers, number)


def packets(size: int) -> Iterator[bytes]:
    """Alerts of about ``size`` bytes together. Their images are what gzip made of noise: here, noise."""
    made = 0
    numbers = random.Random(7)
    for packet in ztf.packets(1 << 20, seed=7):
        for name in ("cutoutScience", "cutoutTemplate", "cutoutDifference"):
            image = packet[name]
            packet[name] = image | {"stampData": numbers.randbytes(IMAGE)}
        encoded = ztf.encoded(packet)
        yield encoded
        made += len(encoded)
        if made >= size:
            return


async def fill(streams: NativeStreams, payloads: Iterator[bytes]) -> None:
    """Publish all of it in batches of up to 4 MiB."""
    batch: list[Record] = []
    size = 0
    for payload in payloads:
        batch.append(Record(subject=f"s.{len(batch) % 8}", payload=payload))
        size += len(payload)
        if size > MIB:
            await streams.publish(batch, stream="s", durability="os")
            batch, size = [], 0
    if batch:
        await streams.publish(batch, stream="s")


def block(engine: object, after: int, records: int) -> tuple[int, int]:
    """Read a mebibyte behind ``after``: bytes, and records."""
    data, length, count, error = (
        ffi.new("uint8_t **"),
        ffi.new("size_t *"),
        ffi.new("uint32_t *"),
        ffi.new("pd_error *"),
    )
    status = lib.pd_stream_read(engine, b"s", after, b">", records, MIB, data, length, count, error)
    assert status == 0, ffi.string(error.text)
    lib.pd_block_free(data[0])
    return length[0], count[0]


def read_through(engine: object, last: int) -> float:
    """MiB a second from the first record to ``last``."""
    begin, after, total = time.perf_counter(), 0, 0
    while after < last:
        length, count = block(engine, after, 16384)
        if count == 0:
            break
        after += count
        total += length
    return total / MIB / (time.perf_counter() - begin)


def look_here_and_there(engine: object, last: int) -> float:
    """Microseconds for one record anywhere, at the median."""
    choose = random.Random(2)
    times = []
    for _ in range(LOOKS):
        begin = time.perf_counter()
        block(engine, choose.randrange(last), 1)
        times.append((time.perf_counter() - begin) * 1e6)
    return percentile(times, 50)


async def compared(name: str, payloads: Callable[[int], Iterator[bytes]], segments: int) -> list[Figure]:
    """Write so many segments, read them, compress them, and read them again."""
    settings = QueueSettings(decompressed_cache="16MiB")
    with tempfile.TemporaryDirectory() as directory:
        place = Path(directory)
        async with open_native(place / "streams", place / "q", settings, SystemClock()) as streams:
            await streams.put_stream("s", PLAIN)
            await fill(streams, payloads(segments * 64 * MIB + MIB))
            engine, log = streams._engine, place / "streams" / "s" / "log"
            sealed = sum(path.stat().st_size for path in sorted(log.glob("*.seg"))[:-1])
            last = streams.stream("s").last_sequence
            plain = (read_through(engine, last), read_through(engine, last), look_here_and_there(engine, last))
            begin = time.perf_counter()
            await streams.put_stream("s", PACKED)
            while len(list(log.glob("*.seg"))) > 1 and time.perf_counter() - begin < 60:  # noqa: ASYNC110
                await trio.sleep(0.005)
            took = time.perf_counter() - begin
            stored = sum(path.stat().st_size for path in log.glob("*.zst"))
            left = len(list(log.glob("*.seg"))) - 1
            packed = (read_through(engine, last), read_through(engine, last), look_here_and_there(engine, last))
    if left:
        return [Figure(name=f"{name}: segments left as they are", value=left, unit="segments")]
    return [
        Figure(name=f"{name}: compress a segment of 64 MiB", value=took / (sealed / MIB / 64) * 1000, unit="ms"),
        Figure(name=f"{name}: ratio", value=sealed / stored, unit="times"),
        Figure(name=f"{name}: read", value=packed[1], unit="MiB/s", peer="not compressed", peer_value=plain[1]),
        Figure(
            name=f"{name}: one record anywhere, p50",
            value=packed[2],
            unit="µs",
            peer="not compressed",
            peer_value=plain[2],
        ),
    ]


def figures(quick: bool) -> Iterator[Figure]:
    """Both kinds of records."""
    segments = 1 if quick else 3
    yield from trio.run(compared, "JSON, 128 B", json_records, segments)
    yield from trio.run(compared, "ZTF packets", packets, segments)


if __name__ == "__main__":
    run(figures)
