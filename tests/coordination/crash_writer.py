"""Writes to a store as fast as it can and prints each acknowledged write, until it is killed.

Run by ``test_crash``: ``python -m tests.coordination.crash_writer PATH ROUND``.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import trio

from platformd.coordination.contract import Delete, Put
from platformd.coordination.sqlite import open_sqlite
from platformd.core.clock import SystemClock
from platformd.core.settings import StoreSettings

TASKS = 12
PARTS = 3


async def main(path: Path, number: int) -> None:
    """Each transaction puts one value under the keys of all its parts, and moves its task's one marker on."""
    settings = StoreSettings(history_age="0", history_revisions=500)
    async with open_sqlite(path, settings, SystemClock()) as store, trio.open_nursery() as nursery:

        async def write(task: int) -> None:
            count = 0
            while True:
                name = b"%d/%d/%06d" % (number, task, count)
                marker = [Put(b"marker/%d/%d/%06d" % (number, task, count), b"")]
                old = [Delete(b"marker/%d/%d/%06d" % (number, task, count - 1))]
                parts = [Put(b"part%d/" % part + name, name) for part in range(PARTS)]
                result = await store.txn([], [*parts, *marker, *old])
                os.write(1, b"%d %s\n" % (result.revision, name))
                count += 1

        for task in range(TASKS):
            nursery.start_soon(write, task)


if __name__ == "__main__":
    trio.run(main, Path(sys.argv[1]), int(sys.argv[2]))
