"""A process that publishes and purges until it is killed: ``python -m tests.conformance.streams_eraser ENGINE DIR``.

It says what it is about to do and what was acknowledged, a line each. Records with even sequences are on ``a.x``, the
others on ``a.y``. Few are kept, so that whole segments become empty, at the front and in the middle.
"""

from __future__ import annotations

import random
import sys
from pathlib import Path

import msgspec
import trio

from platformd.core.settings import QueueSettings
from platformd.queues.contract import ConsumerConfig, Record, StreamConfig, Streams
from tests.conformance.streams_engines import ENGINES

SETTINGS = msgspec.structs.replace(QueueSettings(), segment_size="8KiB", max_batch="8KiB", max_record="1KiB")


def say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


async def step(streams: Streams, generator: random.Random) -> None:
    info = streams.stream("s")
    last = info.last_sequence
    if info.messages < 300 and generator.random() < 0.7:
        count = generator.randrange(1, 12)
        batch = [Record(subject=f"a.{'xy'[s % 2]}", payload=bytes(200)) for s in range(last + 1, last + 1 + count)]
        published = await streams.publish(batch, durability="os")
        say(f"published {published.first_sequence} {count}")
        return
    name = generator.choice(["x", "y", "x", ">"])
    before = generator.randrange(last // 2, last + 2)
    say(f"purging {name} {before}")
    await streams.purge("s", subject=">" if name == ">" else f"a.{name}", before=before)
    say(f"purged {name} {before}")


async def main() -> None:
    generator = random.Random()
    async with ENGINES[sys.argv[1]](Path(sys.argv[2])).open(SETTINGS) as streams:
        await streams.put_stream("s", StreamConfig(subjects=("a.>",)))
        await streams.put_consumer("s", "c", ConsumerConfig())
        while True:
            await step(streams, generator)


if __name__ == "__main__":
    trio.run(main)
