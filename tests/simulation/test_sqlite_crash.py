"""The embedded store's process is killed again and again under clients of its door: what they were told stays true.

The clients do nothing about it: their connections come back by themselves, and so does a watch that is open all the
time.
"""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import trio
import trio.testing

from platformd.coordination.contract import Store
from tests.simulation import workload
from tests.simulation.checker import check
from tests.simulation.history import History, Log, Outcome, Range, read_log
from tests.simulation.host import Host, running
from tests.simulation.validators import WatchRecord, record_watch, validate

CLIENTS = 8
CONNECTIONS = 3


class Killing:
    """Rounds of killing a host at random points, while clients work."""

    def __init__(self, host: Host, history: History, seed: object, rounds: int) -> None:
        self.done = False
        self._host = host
        self._history = history
        self._random = random.Random(f"{seed}/kill")
        self._rounds = rounds
        self._changed = trio.Condition()

    async def run(self) -> None:
        async with self._host.connect() as store:
            for _ in range(self._rounds):
                await self._work_goes_on(self._random.randrange(20, 250))
                await trio.sleep(self._random.randrange(3_000) / 1e6)  # not always just after an answer
                await self._host.kill()
                await trio.testing.wait_all_tasks_blocked(0.005)  # all have heard that their connection is gone
                self._history.nothing_under_way()
                await self._host.start()
                await self._look(store)
            await self._work_goes_on(50)
        self.done = True

    async def _work_goes_on(self, count: int) -> None:
        target = self._history.count(Outcome.OK) + count
        with trio.fail_after(30):
            while self._history.count(Outcome.OK) < target:  # noqa: ASYNC110
                await trio.sleep(0.002)

    async def _look(self, store: Store) -> None:
        """What is there after the restart, in the history: it separates what was before from what comes."""
        request = Range(b"", None)
        invoked_at = self._history.now()
        self._history.add(-1, request, invoked_at, Outcome.OK, await store.list(b"", None))


async def kill_and_check(directory: Path, seed: object, rounds: int) -> tuple[History, Log, int]:
    """Work and kill, then look whether it all fits together; how many unknown outcomes were done is the third."""
    history = History()
    watch = WatchRecord(b"k/", b"k0", previous=True)
    async with running(directory) as host, host.connect("watch") as watching, trio.open_nursery() as nursery:
        killing = Killing(host, history, seed, rounds)
        await nursery.start(record_watch, watching, watch, history)
        async with trio.open_nursery() as working:
            working.start_soon(killing.run)
            for connection in range(CONNECTIONS):
                working.start_soon(_work, host, history, seed, connection, killing)
        log = await read_log(watching)
        await watch.wait_for(log.last)
        nursery.cancel_scope.cancel()
    settled = check(history.operations, log)
    validate(watch, log)
    return history, log, settled


async def _work(host: Host, history: History, seed: object, connection: int, killing: Killing) -> None:
    mix = workload.Mix(impatience=0.05, cancelled=Outcome.UNKNOWN)
    async with host.connect(f"work{connection}") as store:
        await workload.run(
            workload.always(store),
            history,
            seed=f"{seed}/{connection}",
            clients=range(connection, CLIENTS, CONNECTIONS),
            until=lambda: killing.done,
            mix=mix,
        )


async def test_killed_under_clients(directory: Path, seed: int) -> None:
    """Killed four times: the history is linearizable, no write is lost or half there, the watch shows all, once."""
    history, log, _ = await kill_and_check(directory, seed, 4)
    assert log.last > 100
    assert history.count(Outcome.OK) > 300


@pytest.mark.slow
async def test_killed_many_times_under_clients(directory: Path, seed: int) -> None:
    """The same over many kills: outcomes that nobody was told are among them, done and not done."""
    history, _, settled = await kill_and_check(directory, seed, 60)
    assert 10 < settled < history.count(Outcome.UNKNOWN) - 10
