"""What every queue engine promises of work queues and of streams that keep what somebody is interested in."""

from __future__ import annotations

from functools import partial

import pytest
import trio

from platformd.core.errors import Conflict, PlatformError, Unsupported
from platformd.queues.contract import Ack, ConsumerConfig, StreamConfig
from tests.conformance.streams_engines import ENGINES, acks, payloads, records

QUEUE = StreamConfig(subjects=("a.>",), retention="work_queue")
INTEREST = StreamConfig(subjects=("a.>",), retention="interest")
X, Y = ConsumerConfig(filter_subject="a.x"), ConsumerConfig(filter_subject="a.y")


@pytest.fixture(params=ENGINES)
def engine(request, tmp_path):
    """Each engine, not open yet."""
    return ENGINES[request.param](tmp_path)


@pytest.fixture
async def streams(engine):
    """The engine, open, with no stream."""
    async with engine.open() as opened:
        yield opened


async def kept(streams) -> list[str]:
    return payloads(await streams.read("s", limit=10_000))


async def eventually_kept(streams, *wanted: str) -> None:
    """What concerns many records at once goes a moment later."""
    with trio.fail_after(5):
        while await kept(streams) != list(wanted):  # noqa: ASYNC110 - nobody is told
            await trio.sleep(0.005)


async def test_a_work_queue_gives_each_record_once(streams):
    """What was acknowledged or given up is gone; what is out, or waits for a consumer, stays."""
    await streams.put_stream("s", QUEUE)
    await streams.put_consumer("s", "x", X)
    await streams.publish(records("1", "2", "3", "4", subject="a.x") + records("5", subject="a.y"))
    taken = await streams.fetch("s", "x", max_records=3)
    await streams.ack("s", "x", [*acks(taken[1:2]), Ack(sequence=3, kind="term")])
    await eventually_kept(streams, "1", "4", "5")
    info = streams.stream("s")
    assert (info.messages, info.first_sequence, info.last_sequence) == (3, 1, 5)
    await streams.ack("s", "x", acks(taken[:1]))
    await eventually_kept(streams, "4", "5")
    await streams.put_consumer("s", "y", Y)
    assert payloads(await streams.fetch("s", "y")) == ["5"]


async def test_consumers_of_a_work_queue_share_no_record(streams):
    """Filters that overlap, and one that would begin anywhere but at all, are refused."""
    await streams.put_stream("s", QUEUE)
    await streams.put_consumer("s", "x", X)
    with pytest.raises(Conflict, match=r"work ?queue"):
        await streams.put_consumer("s", "all", ConsumerConfig(filter_subject="a.>"))
    with pytest.raises(PlatformError, match="all"):
        await streams.put_consumer("s", "new", ConsumerConfig(filter_subject="a.y", deliver_policy="new"))
    await streams.put_consumer("s", "y", Y)
    await streams.put_consumer("s", "x", X)
    await streams.delete_consumer("s", "x")
    await streams.put_consumer("s", "z", ConsumerConfig(filter_subject="a.x"))


async def test_a_work_queue_outlives_its_consumer(engine):
    """Deleting the consumer erases nothing: the next one gets what was not acknowledged, also after a restart."""
    async with engine.open() as streams:
        await streams.put_stream("s", QUEUE)
        await streams.put_consumer("s", "x", X)
        await streams.publish(records("1", "2", "3", subject="a.x"))
        await streams.ack("s", "x", acks(await streams.fetch("s", "x", max_records=2))[1:])
        await streams.delete_consumer("s", "x")
        await eventually_kept(streams, "1", "3")
    async with engine.open() as streams:
        await streams.put_consumer("s", "again", X)
        assert payloads(await streams.fetch("s", "again")) == ["1", "3"]


async def test_interest_of_all_that_match(streams):
    """A record goes when the last of its consumers is done with it."""
    await streams.put_stream("s", INTEREST)
    await streams.put_consumer("s", "x", X)
    await streams.put_consumer("s", "all", ConsumerConfig())
    await streams.publish(records("1", "2", subject="a.x") + records("3", subject="a.y"))
    await streams.ack("s", "all", acks(await streams.fetch("s", "all")))
    await eventually_kept(streams, "1", "2")
    await streams.ack("s", "x", acks(await streams.fetch("s", "x", max_records=1)))
    await eventually_kept(streams, "2")


async def test_a_record_without_interest_is_not_kept(streams):
    """What no consumer matches when it is appended gets its sequence and is gone."""
    await streams.put_stream("s", INTEREST)
    assert (await streams.publish(records("0"))).first_sequence == 1
    await streams.put_consumer("s", "x", X)
    published = await streams.publish(records("1", subject="a.x") + records("2", subject="a.y"))
    await eventually_kept(streams, "1")
    last = streams.stream("s").last_sequence
    assert last == published.first_sequence + published.appended - 1
    assert payloads(await streams.fetch("s", "x")) == ["1"]


async def test_interest_that_ends(engine):
    """Deleting the last consumer that waited for a record lets it go; a new one gets what others still wait for."""
    async with engine.open() as streams:
        await streams.put_stream("s", INTEREST)
        await streams.put_consumer("s", "x", X)
        await streams.put_consumer("s", "all", ConsumerConfig())
        await streams.publish(records("1", "2", subject="a.x") + records("3", subject="a.y"))
        await streams.delete_consumer("s", "all")
        await eventually_kept(streams, "1", "2")
    async with engine.open() as streams:
        await eventually_kept(streams, "1", "2")
        await streams.put_consumer("s", "late", ConsumerConfig())
        assert payloads(await streams.fetch("s", "late", max_records=1)) == ["1"]
        await streams.delete_consumer("s", "x")
        await eventually_kept(streams, "1", "2")
        await streams.delete_consumer("s", "late")
        await eventually_kept(streams)


@pytest.mark.parametrize("retention", [QUEUE, INTEREST])
async def test_a_restart_keeps_what_is_waited_for(engine, retention):
    """Reopened, a stream has what was not acknowledged, and the consumer takes it up."""
    async with engine.open() as streams:
        await streams.put_stream("s", retention)
        await streams.put_consumer("s", "x", X)
        for i in range(10):
            await streams.publish(records(f"{i}0", f"{i}1", subject="a.x"))
        taken = await streams.fetch("s", "x", max_records=15)
        await streams.ack("s", "x", acks(taken[::2]))
    async with engine.open() as streams:
        await eventually_kept(
            streams, *(p for i, p in enumerate(f"{i // 2}{i % 2}" for i in range(20)) if i >= 15 or i % 2)
        )
        assert len(await streams.fetch("s", "x")) == 12


async def test_a_retention_cannot_change(streams):
    """Another retention is refused, and the stream stays as it is."""
    await streams.put_stream("s", QUEUE)
    with pytest.raises(Unsupported):
        await streams.put_stream("s", StreamConfig(subjects=("a.>",), retention="interest"))
    assert streams.stream("s").config == QUEUE


async def test_many_workers_empty_a_queue(streams):
    """Workers that fetch and acknowledge at once get each record once, and nothing is left."""
    await streams.put_stream("s", QUEUE)
    await streams.put_consumer("s", "x", ConsumerConfig())
    done: list[str] = []

    async def work() -> None:
        while taken := await streams.fetch("s", "x", max_records=7, wait=0.2):
            done.extend(payloads(taken))
            await streams.ack("s", "x", acks(taken))

    async with trio.open_nursery() as nursery:
        for i in range(10):
            nursery.start_soon(partial(streams.publish, records(*(f"{i}.{j}" for j in range(20)))))
        for _ in range(3):
            nursery.start_soon(work)
    assert sorted(done) == sorted(f"{i}.{j}" for i in range(10) for j in range(20))
    await eventually_kept(streams)
    assert streams.stream("s").last_sequence == 200


async def test_a_dead_letter_comes_before_the_end(streams):
    """A record that a work queue's consumer gave up goes when its letter is stored, and no earlier."""
    await streams.put_stream("s", QUEUE)
    await streams.put_stream("dead", StreamConfig(subjects=("dead.>",)))
    await streams.put_consumer("s", "x", ConsumerConfig(max_deliver=1, dead_letter_subject="dead.x"))
    await streams.publish(records("1", "2", subject="a.x"))
    await streams.fetch("s", "x")
    await streams.ack("s", "x", [Ack(sequence=1, kind="term", reason="broken"), Ack(sequence=2, kind="nak")])
    await eventually_kept(streams)
    assert payloads(await streams.read("dead")) == ["1", "2"]
