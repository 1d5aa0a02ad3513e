"""The controllers' loop: coalescing, one worker for each object, back-off, and coming back."""

from __future__ import annotations

import trio
from trio.testing import MockClock

from platformd.conductor.reconcile import BACKOFF_FIRST, BACKOFF_MAX, Key, _Queue
from platformd.core.errors import Unavailable

A, B = Key("Service", "default", "a"), Key("Service", "default", "b")


async def test_changes_coalesce(autojump_clock: MockClock) -> None:
    """An object that changed three times before anybody looked is looked at once."""
    queue = _Queue(jitter=lambda: 0.0)
    for _ in range(3):
        queue.add(A)
    assert await queue.take() == A
    with trio.move_on_after(1000) as waited:
        await queue.take()
    assert waited.cancelled_caught


async def test_an_object_is_never_with_two_workers(autojump_clock: MockClock) -> None:
    """A change during the work is looked at right after it, and others are not held up."""
    queue = _Queue(jitter=lambda: 0.0)
    queue.add(A)
    assert await queue.take() == A
    queue.add(A)
    queue.add(B)
    assert await queue.take() == B
    queue.succeeded(A, again=300.0)
    assert await queue.take() == A
    assert trio.current_time() < 300


async def test_failures_back_off_and_success_forgets_them(autojump_clock: MockClock) -> None:
    """Waits double up to their limit, and start over after a success."""
    queue = _Queue(jitter=lambda: 0.0)
    queue.add(A)
    waits = []
    for _ in range(12):
        started = trio.current_time()
        assert await queue.take() == A
        waits.append(round(trio.current_time() - started, 3))
        queue.failed(A, Unavailable("not now"))
    assert waits[:4] == [0.0, BACKOFF_FIRST, BACKOFF_FIRST * 2, BACKOFF_FIRST * 4]
    assert waits[-1] == BACKOFF_MAX
    assert await queue.take() == A
    queue.succeeded(A, again=5.0)
    started = trio.current_time()
    assert await queue.take() == A
    assert trio.current_time() - started == 5.0
    queue.failed(A, Unavailable("not now"))
    started = trio.current_time()
    assert await queue.take() == A
    assert round(trio.current_time() - started, 3) == BACKOFF_FIRST


async def test_a_sooner_change_wins_over_a_later_look(autojump_clock: MockClock) -> None:
    """A change wakes an object that was only due much later."""
    queue = _Queue(jitter=lambda: 0.0)
    queue.add(A, delay=300.0)
    async with trio.open_nursery() as nursery:

        @nursery.start_soon
        async def change() -> None:
            await trio.sleep(1)
            queue.add(A)

        assert await queue.take() == A
    assert trio.current_time() < 300
    assert trio.current_time() >= 1


async def test_the_forgotten_do_not_come_back(autojump_clock: MockClock) -> None:
    """An object that is gone is not looked at again unless it changes."""
    queue = _Queue(jitter=lambda: 0.0)
    queue.add(A)
    await queue.take()
    queue.forget(A)
    with trio.move_on_after(1000) as waited:
        await queue.take()
    assert waited.cancelled_caught
    queue.add(A)
    assert await queue.take() == A


async def test_many_objects_each_come_once_in_order(autojump_clock: MockClock) -> None:
    """Ten thousand objects that become due one after the other are each given out once, at their time."""
    queue = _Queue(jitter=lambda: 0.0)
    keys = [Key("Service", "default", f"s{i:05d}") for i in range(10_000)]
    for i, key in enumerate(keys):
        queue.add(key, delay=300.0)
        queue.add(key, delay=float(i % 100))
    taken: list[Key] = []

    async def work() -> None:
        while len(taken) < len(keys):
            key = await queue.take()
            assert trio.current_time() >= int(key.name[1:]) % 100
            taken.append(key)
            queue.forget(key)

    async with trio.open_nursery() as nursery:
        for _ in range(8):
            nursery.start_soon(work)
        while len(taken) < len(keys):  # noqa: ASYNC110 - the clock of this test costs nothing
            await trio.sleep(1)
        nursery.cancel_scope.cancel()
    assert sorted(taken) == keys
    assert trio.current_time() < 200


async def test_changes_leave_nothing_behind(autojump_clock: MockClock) -> None:
    """An object that changes all the time does not make the queue grow."""
    queue = _Queue(jitter=lambda: 0.0)
    for _ in range(5_000):
        queue.add(A)
        assert await queue.take() == A
        queue.succeeded(A, again=300.0)
    assert len(queue._heap) <= 66
