"""What every queue engine promises of where consumers begin, and of moving them."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from platformd.core.errors import Conflict, InvalidInput, NotFound
from platformd.queues.contract import ConsumerConfig, StreamConfig
from tests.conformance.streams_engines import ENGINES, acks, payloads, records

A = StreamConfig(subjects=("a.>",))


@pytest.fixture(params=ENGINES)
def engine(request, tmp_path):
    """Each engine, not open yet."""
    return ENGINES[request.param](tmp_path)


@pytest.fixture
async def streams(engine):
    """The engine, open, with the records x1 y2 x3 z4 y5 on ``a.x``, ``a.y`` and ``a.z`` of stream ``s``."""
    async with engine.open() as opened:
        await fill(opened)
        yield opened


async def fill(streams):
    await streams.put_stream("s", A)
    await streams.publish(
        [r for p in ("x1", "y2") for r in records(p, subject=f"a.{p[0]}")] + records("x3", subject="a.x")
    )
    for payload in ("z4", "y5"):
        await streams.publish(records(payload, subject=f"a.{payload[0]}"))


def info(streams, name="c"):
    return next(c for c in streams.consumers("s") if c.name == name)


async def begin(streams, policy, **config):
    """What a new consumer gets first, and its lag before."""
    await streams.put_consumer("s", "c", ConsumerConfig(deliver_policy=policy, **config))
    lag = info(streams).pending
    return payloads(await streams.fetch("s", "c")), lag


async def test_last(streams):
    """``last`` begins at the newest record that matches, and goes on from there."""
    assert await begin(streams, "last", filter_subject="a.x") == (["x3"], 1)
    await streams.publish(records("y6", subject="a.y") + records("x7", subject="a.x"))
    assert payloads(await streams.fetch("s", "c")) == ["x7"]


async def test_last_of_everything(streams):
    """``last`` without a filter is the newest record of all."""
    assert await begin(streams, "last") == (["y5"], 1)


async def test_last_of_nothing(streams):
    """``last`` where nothing matches yet begins with what comes."""
    assert await begin(streams, "last", filter_subject="a.q") == ([], 0)
    await streams.publish(records("q6", subject="a.q"))
    assert payloads(await streams.fetch("s", "c")) == ["q6"]


async def test_last_per_subject(streams):
    """``last_per_subject``: the newest of every subject in the order of sequences, and then all that comes."""
    assert await begin(streams, "last_per_subject") == (["x3", "z4", "y5"], 3)
    await streams.publish(records("x6", "x7", subject="a.x"))
    assert payloads(await streams.fetch("s", "c")) == ["x6", "x7"]


async def test_last_per_subject_with_a_filter(streams):
    """Subjects that do not match are not among them."""
    assert await begin(streams, "last_per_subject", filter_subject="a.x") == (["x3"], 1)


async def test_last_per_subject_goes_on_where_it_was(engine):
    """What was not delivered of the newest records is delivered after a restart, once and in order."""
    async with engine.open() as streams:
        await fill(streams)
        await streams.put_consumer("s", "c", ConsumerConfig(deliver_policy="last_per_subject", max_ack_pending=2))
        await streams.publish(records("x6", subject="a.x"))
        first = await streams.fetch("s", "c", max_records=1)
        assert payloads(first) == ["x3"]
        assert info(streams).ack_floor < 3
        await streams.ack("s", "c", acks(first))
    async with engine.open() as streams:
        assert (info(streams).pending, info(streams).ack_floor) == (3, 3)
        rest = await streams.fetch("s", "c")
        assert payloads(rest) == ["z4", "y5"]  # max_ack_pending holds the next one back
        await streams.ack("s", "c", acks(rest))
        rest = await streams.fetch("s", "c")
        assert payloads(rest) == ["x6"]
        await streams.ack("s", "c", acks(rest))
        assert (info(streams).pending, info(streams).ack_floor) == (0, 6)


async def test_last_per_subject_comes_again_when_refused(streams):
    """A refused one of them comes again before the others go on."""
    await streams.put_consumer("s", "c", ConsumerConfig(deliver_policy="last_per_subject"))
    one = await streams.fetch("s", "c", max_records=1)
    await streams.ack("s", "c", acks(one, "nak"))
    again = await streams.fetch("s", "c")
    assert [(d.payload, d.deliveries) for d in again] == [(b"x3", 2), (b"z4", 1), (b"y5", 1)]


async def test_last_per_subject_without_acknowledgements(engine):
    """Without acknowledgements each of them is delivered once, also over a restart."""
    config = ConsumerConfig(deliver_policy="last_per_subject", ack_policy="none")
    async with engine.open() as streams:
        await fill(streams)
        await streams.put_consumer("s", "c", config)
        assert payloads(await streams.fetch("s", "c", max_records=2)) == ["x3", "z4"]
    async with engine.open() as streams:
        assert payloads(await streams.fetch("s", "c")) == ["y5"]


async def test_by_time(streams):
    """``by_time`` begins with the first record that was appended then or later."""
    times = [d.append_time_ns for d in await streams.read("s")]
    for i, (time_ns, wanted) in enumerate(((0, 5), (times[0], 5), (times[3], 2), (times[4], 1), (times[4] + 1, 0))):
        name = f"c{i}"
        await streams.put_consumer("s", name, ConsumerConfig(deliver_policy="by_time", start_time_ns=time_ns))
        assert len(await streams.fetch("s", name)) == wanted
        await streams.delete_consumer("s", name)


async def test_a_start_cannot_change(streams):
    """What a consumer began with cannot be put otherwise; it is sought."""
    await streams.put_consumer("s", "c", ConsumerConfig(deliver_policy="by_time", start_time_ns=5))
    for different in ({"deliver_policy": "last"}, {"deliver_policy": "by_time", "start_time_ns": 6}):
        with pytest.raises(Conflict):
            await streams.put_consumer("s", "c", ConsumerConfig(**different))


@pytest.mark.parametrize(
    ("where", "wanted"),
    [
        (("all", {}), ["x1", "y2", "x3", "z4", "y5"]),
        (("by_sequence", {"sequence": 4}), ["z4", "y5"]),
        (("by_time", {"time_ns": 1}), ["x1", "y2", "x3", "z4", "y5"]),
        (("last", {}), ["y5"]),
        (("last_per_subject", {}), ["x3", "z4", "y5"]),
        (("new", {}), []),
    ],
)
async def test_seek(engine, where, wanted):
    """A consumer that is sought delivers as one that is made there, what was out is stale, and a restart keeps it."""
    policy, arguments = where
    async with engine.open() as streams:
        await fill(streams)
        await streams.put_consumer("s", "c", ConsumerConfig())
        out = await streams.fetch("s", "c", max_records=3)
        await streams.ack("s", "c", acks(out[:1]))
        moved = await streams.seek("s", "c", policy, **arguments)
        assert (moved.pending, moved.ack_pending) == (len(wanted), 0)
        assert await streams.ack("s", "c", acks(out)) == 0
    async with engine.open() as streams:
        assert info(streams).pending == len(wanted)
        deliveries = await streams.fetch("s", "c")
        assert payloads(deliveries) == wanted
        assert {d.deliveries for d in deliveries} <= {1}
        await streams.ack("s", "c", acks(deliveries))
        await streams.publish(records("x6", subject="a.x"))
        assert payloads(await streams.fetch("s", "c")) == ["x6"]


async def test_seek_to_what_is_not_there_yet(streams):
    """A consumer may be sought into the future."""
    await streams.put_consumer("s", "c", ConsumerConfig())
    await streams.seek("s", "c", "by_sequence", sequence=7)
    await streams.publish(records("6", "7", "8"))
    assert payloads(await streams.fetch("s", "c")) == ["7", "8"]


async def test_a_waiting_fetch_sees_a_seek_at_once(streams):
    """A fetch that waits gets what the consumer was sought to."""
    await streams.put_consumer("s", "c", ConsumerConfig(deliver_policy="new"))
    async with trio.open_nursery() as nursery:

        async def waits():
            with trio.fail_after(3):
                assert payloads(await streams.fetch("s", "c", wait=30)) == ["z4", "y5"]

        nursery.start_soon(waits)
        await trio.testing.wait_all_tasks_blocked(0.01)
        await streams.seek("s", "c", "by_sequence", sequence=4)


async def test_seek_refuses_what_cannot_be(streams):
    """What is not there is not found; what is no place is refused; nothing moves."""
    await streams.put_consumer("s", "c", ConsumerConfig())
    with pytest.raises(NotFound):
        await streams.seek("s", "nobody", "all")
    with pytest.raises(NotFound):
        await streams.seek("nowhere", "c", "all")
    for policy, wrong in (("by_sequence", {"sequence": -1}), ("by_time", {"time_ns": -1}), ("backwards", {})):
        with pytest.raises(InvalidInput):
            await streams.seek("s", "c", policy, **wrong)
    assert len(await streams.fetch("s", "c")) == 5
