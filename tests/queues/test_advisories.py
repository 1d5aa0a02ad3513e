"""Advisories on their way to those who listen: bounded, and honest about what was lost."""

from __future__ import annotations

import trio
import trio.testing

from platformd.queues.advisories import Advisories, log_advisories
from platformd.queues.contract import MAX_ADVISORIES, Advisory


def advisory(number, kind="stalled"):
    return Advisory(kind=kind, stream="s", consumer="c", time_ns=number, detail=f"number {number}")


async def test_everybody_is_told():
    """Each who listens gets each advisory, in order, from when it began to listen."""
    advisories = Advisories()
    advisories.tell(advisory(0))
    async with advisories.listen() as one, advisories.listen() as two:
        for i in (1, 2):
            advisories.tell(advisory(i))
        assert [(await anext(a)).time_ns for a in (one, one, two, two)] == [1, 2, 1, 2]


async def test_one_who_waits_is_woken(autojump_clock):
    """A listener that waits gets the next advisory when it comes."""
    advisories = Advisories()
    async with advisories.listen() as listener, trio.open_nursery() as nursery:

        async def tell_later():
            await trio.sleep(5)
            advisories.tell(advisory(1))

        nursery.start_soon(tell_later)
        assert (await anext(listener)).time_ns == 1


async def test_a_slow_listener_is_told_what_it_lost():
    """One who does not listen loses the oldest and learns how many, once; another one gets them all."""
    advisories = Advisories()
    async with advisories.listen() as slow, advisories.listen() as quick:
        for i in range(MAX_ADVISORIES + 10):
            advisories.tell(advisory(i))
            assert await anext(quick) == advisory(i)
        first, second = await anext(slow), await anext(slow)
    assert (first.time_ns, first.detail) == (10, "number 10 (10 advisories before this one were lost)")
    assert second == advisory(11)


async def test_they_are_logged(caplog):
    """The daemon's log has each, as a warning unless it is good news."""
    caplog.set_level("INFO", "platformd.queues")

    class Streams:
        def __init__(self):
            self.told = Advisories()
            self.advisories = self.told.listen

    streams = Streams()
    async with trio.open_nursery() as nursery:
        await nursery.start(log_advisories, streams)
        streams.told.tell(advisory(1))
        streams.told.tell(advisory(2, "resumed"))
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert [(r.levelname, r.getMessage()) for r in caplog.records] == [
        ("WARNING", "s/c: stalled: number 1"),
        ("INFO", "s/c: resumed: number 2"),
    ]
