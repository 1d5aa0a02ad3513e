"""What every queue engine promises to those who wait for a stream to grow."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from platformd.core.errors import NotFound, Unavailable
from platformd.queues.contract import StreamConfig
from tests.conformance.streams_engines import ENGINES, payloads, records

A = StreamConfig(subjects=("a.>",))


@pytest.fixture(params=ENGINES)
def engine(request, tmp_path):
    """Each engine, not open yet."""
    return ENGINES[request.param](tmp_path)


@pytest.fixture
async def streams(engine):
    """The engine, open, without a stream."""
    async with engine.open() as opened:
        yield opened


async def test_waiting_for_a_stream_to_grow(streams):
    """Who waits behind a sequence gets the last one that can be read, at once when there is more; all of many do."""
    await streams.put_stream("s", A)
    assert await streams.wait("s", -1) == 0
    await streams.publish(records("1", "2"))
    assert await streams.wait("s", 1) == 2
    seen, cancelled = [], trio.Event()

    async def wait(after):
        last = await streams.wait("s", after)
        assert last > after
        assert payloads(await streams.read("s", after=last - 1, limit=1)) == [str(last)]
        seen.append(after)

    async def give_up():
        with trio.move_on_after(0.02):
            await streams.wait("s", 2)
        cancelled.set()

    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(give_up)
            await trio.testing.wait_all_tasks_blocked()
            for after in [2] * 50 + [3] * 50:
                nursery.start_soon(wait, after)
            await cancelled.wait()
            assert seen == []
            await streams.publish(records("3"))
            while len(seen) < 50:  # noqa: ASYNC110 - they tell nobody
                await trio.sleep(0.001)
            assert set(seen) == {2}
            await streams.publish(records("4"))
    assert len(seen) == 100


async def test_waiting_ends_with_the_stream(streams):
    """When the stream goes, or is not there, who waits is told so; a new one of its name is another."""
    with pytest.raises(NotFound):
        await streams.wait("s", 0)
    for _ in range(2):
        await streams.put_stream("s", A)
        told = []

        async def wait(told=told):
            with pytest.raises(NotFound):
                await streams.wait("s", 0)
            told.append(True)

        with trio.fail_after(60):
            async with trio.open_nursery() as nursery:
                for _ in range(3):
                    nursery.start_soon(wait)
                await trio.testing.wait_all_tasks_blocked()
                await streams.delete_stream("s")
        assert len(told) == 3


async def test_waiting_ends_with_the_engine(engine):
    """When the engine stops, who waits is told so."""
    async with trio.open_nursery() as nursery:

        async def wait(streams):
            with pytest.raises(Unavailable):
                await streams.wait("s", 0)

        async with engine.open() as streams:
            await streams.put_stream("s", A)
            nursery.start_soon(wait, streams)
            await trio.testing.wait_all_tasks_blocked(0.01)


async def test_a_thousand_who_wait_ask_nothing(tmp_path, monkeypatch):
    """While nothing comes, the native engine is not asked again, however many wait; a record wakes all of them."""
    async with ENGINES["native"](tmp_path).open() as streams:
        await streams.put_stream("s", A)
        asked = []
        look = streams._raw_info
        monkeypatch.setattr(streams, "_raw_info", lambda name: asked.append(name) or look(name))
        with trio.fail_after(60):
            async with trio.open_nursery() as nursery:
                for _ in range(1000):
                    nursery.start_soon(streams.wait, "s", 0)
                await trio.testing.wait_all_tasks_blocked(0.05)
                assert len(asked) == 1000
                await trio.testing.wait_all_tasks_blocked(0.05)
                assert len(asked) == 1000
                await streams.publish(records("1"))
