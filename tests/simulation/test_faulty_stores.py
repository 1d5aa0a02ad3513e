"""The checker finds every fault of a store by random work on it, and none where there is none."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace

import pytest
import trio
import trio.testing

from platformd.coordination.contract import Store
from tests.simulation import faulty, workload
from tests.simulation.checker import check
from tests.simulation.history import Fetch, History, Log
from tests.simulation.test_checker import refusal


def work_on(make: Callable[[object], faulty.Delayed], seed: int, operations: int = 400) -> tuple[History, Log]:
    """A workload's history on a store in memory; the same for the same seed."""

    async def main() -> tuple[History, Log]:
        store, history = make(seed), History()
        pauses = [random.Random(f"{seed}/{client}/pause") for client in range(6)]

        async def store_of(client: int) -> Store:
            # Trio wakes tasks that are due together in any order, so no two are.
            await trio.sleep(pauses[client].uniform(1e-6, 1e-3))
            return store

        await workload.run(
            store_of,
            history,
            seed=seed,
            clients=range(6),
            until=lambda: len(history.operations) >= operations,
        )
        await trio.sleep(60)  # what was left on its way arrives
        listing = await store.list(b"", None)
        return history, Log(1, (), store.history, listing.revision)

    return trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


def check_work_on(make: Callable[[object], faulty.Delayed], seed: int) -> None:
    history, log = work_on(make, seed)
    check(history.operations, log)


@pytest.mark.parametrize("make", faulty.CORRECT)
def test_work_on_a_correct_store_is_accepted(make: type[faulty.Delayed]) -> None:
    """Random work on a store that is only slow, or does not always tell, is linearizable."""
    for seed in range(6):
        history, log = work_on(make, seed)
        check(history.operations, log)
        assert log.last > 100


@pytest.mark.parametrize("make", faulty.FAULTY)
def test_every_fault_of_a_store_is_found(make: type[faulty.Delayed]) -> None:
    """Random work on a store with any one fault is refused; with some seeds one would hide."""
    for seed in range(6):
        assert refusal(lambda: check_work_on(make, seed)), f"seed {seed} was accepted"  # noqa: B023


def test_changed_answers_are_mostly_found() -> None:
    """A get of a correct history that is told another former value instead is refused nearly always."""
    history, log = work_on(faulty.Delayed, 1)
    generator = random.Random(1)
    gets = [
        index
        for index, one in enumerate(history.operations)
        if isinstance(one.request, Fetch) and not one.request.revision and one.result is not None
    ]
    values = [one.kv for revision in log.revisions() for one in log.changes(revision) if one.type == "put"]
    found = 0
    for index in gets:
        old = history.operations[index]
        other = generator.choice([kv for kv in values if kv.key == old.request.key and kv != old.result])  # type: ignore[union-attr]
        changed = [*history.operations[:index], replace(old, result=other), *history.operations[index + 1 :]]
        found += refusal(lambda: check(changed, log)) is not None  # noqa: B023
    assert found > 0.9 * len(gets) > 50
