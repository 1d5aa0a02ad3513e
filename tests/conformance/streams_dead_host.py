"""A process in which everything dies, until it is killed: ``python -m tests.conformance.streams_dead_host ENGINE DIR``.

It publishes into ``s``, and its consumer gives each record up: by term, or by refusing it as often as it may.
"""

from __future__ import annotations

import sys
from pathlib import Path

import trio

from platformd.queues.contract import Ack, ConsumerConfig, Streams
from tests.conformance.streams_engines import ENGINES, records

BATCH = 30
CONFIG = ConsumerConfig(dead_letter_subject="dead.s", max_deliver=2)


async def give_up_everything(streams: Streams) -> None:
    """Until nothing is left that could be delivered."""
    while deliveries := await streams.fetch("s", "c", max_records=BATCH):
        said = [
            Ack(sequence=d.sequence, kind="term", reason=f"reason {d.sequence}") if d.sequence % 2
            else Ack(sequence=d.sequence, kind="nak")
            for d in deliveries
        ]  # fmt: skip
        await streams.ack("s", "c", said)


async def main() -> None:
    async with ENGINES[sys.argv[1]](Path(sys.argv[2])).open() as streams:
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        while True:
            await streams.publish(records(*["x"] * BATCH), durability="os")
            await give_up_everything(streams)


if __name__ == "__main__":
    trio.run(main)
