"""A process that publishes to a compressed stream until it is killed, and prints the last sequence of each batch when
that is acknowledged: ``python -m tests.conformance.streams_packing_host ENGINE DIR``."""

from __future__ import annotations

import sys
from pathlib import Path

import trio

from platformd.core.settings import QueueSettings
from platformd.queues.contract import Record, StreamConfig
from tests.conformance.streams_engines import ENGINES

SETTINGS = QueueSettings(segment_size="64KiB", max_batch="64KiB", max_record="16KiB", decompressed_cache="512KiB")
CONFIG = StreamConfig(subjects=("a.>",), compression="zstd")


def record(number: int) -> Record:
    """The record that gets the sequence ``number``."""
    return Record(subject=f"a.{number % 3}", msg_id=str(number), payload=b"%d " % number * (1 + number % 200))


async def main() -> None:
    async with ENGINES[sys.argv[1]](Path(sys.argv[2])).open(SETTINGS) as streams:
        last = (await streams.put_stream("s", CONFIG)).last_sequence
        while True:
            await streams.publish([record(number) for number in range(last + 1, last + 21)])
            last += 20
            sys.stdout.write(f"{last}\n")
            sys.stdout.flush()


if __name__ == "__main__":
    trio.run(main)
