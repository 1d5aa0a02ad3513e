"""A process that holds a queue engine until it is killed: ``python -m tests.conformance.streams_host ENGINE DIR``."""

from __future__ import annotations

import sys
from pathlib import Path

import trio

from platformd.queues.contract import ConsumerConfig, StreamConfig
from tests.conformance.streams_engines import ENGINES


async def main() -> None:
    async with ENGINES[sys.argv[1]](Path(sys.argv[2])).open() as streams:
        await streams.put_stream("s", StreamConfig(subjects=("a.>",)))
        await streams.put_consumer("s", "c", ConsumerConfig())
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        await trio.sleep_forever()


if __name__ == "__main__":
    trio.run(main)
