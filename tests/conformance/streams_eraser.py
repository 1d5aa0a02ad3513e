"""A process that publishes and removes until it is killed.

``python -m tests.conformance.streams_eraser ENGINE DIR HOW``

With ``purge`` it purges by subject and place, with ``queue`` it works off a work queue, out of order. It says what
it is about to do and what was acknowledged, a line each. Records with even sequences are on ``a.x``, the others on
``a.y``. Few are kept, so that whole segments become empty, at the front and in the middle.
"""

from __future__ import annotations

import random
import sys
from pathlib import Path

import msgspec
import trio

from platformd.core.settings import QueueSettings
from platformd.queues.contract import Ack, ConsumerConfig, Record, Retention, StreamConfig, Streams
from tests.conformance.streams_engines import ENGINES

SETTINGS = msgspec.structs.replace(QueueSettings(), segment_size="8KiB", max_batch="8KiB", max_record="1KiB")


def say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


async def publish(streams: Streams, generator: random.Random) -> None:
    last, count = streams.stream("s").last_sequence, generator.randrange(1, 12)
    batch = [Record(subject=f"a.{'xy'[s % 2]}", payload=bytes(200)) for s in range(last + 1, last + 1 + count)]
    published = await streams.publish(batch, durability="os")
    say(f"published {published.first_sequence} {count}")


async def purge(streams: Streams, generator: random.Random) -> None:
    last = streams.stream("s").last_sequence
    name = generator.choice(["x", "y", "x", ">"])
    before = generator.randrange(last // 2, last + 2)
    say(f"purging {name} {before}")
    await streams.purge("s", subject=">" if name == ">" else f"a.{name}", before=before)
    say(f"purged {name} {before}")


async def work(streams: Streams, generator: random.Random) -> None:
    taken = [d.sequence for d in await streams.fetch("s", "c", max_records=20)]
    chosen = generator.sample(taken, len(taken) * 3 // 4)
    if chosen:
        say(f"acking {' '.join(map(str, chosen))}")
        await streams.ack("s", "c", [Ack(sequence=s) for s in chosen])
        say("acked")
    rest = [Ack(sequence=s, kind="nak") for s in taken if s not in chosen]
    await streams.ack("s", "c", rest)


async def main() -> None:
    generator = random.Random()
    how = sys.argv[3]
    async with ENGINES[sys.argv[1]](Path(sys.argv[2])).open(SETTINGS) as streams:
        retention: Retention = "work_queue" if how == "queue" else "limits"
        await streams.put_stream("s", StreamConfig(subjects=("a.>",), retention=retention))
        await streams.put_consumer("s", "c", ConsumerConfig())
        while True:
            if streams.stream("s").messages < 300 and generator.random() < 0.7:
                await publish(streams, generator)
            else:
                await (work if how == "queue" else purge)(streams, generator)


if __name__ == "__main__":
    trio.run(main)
