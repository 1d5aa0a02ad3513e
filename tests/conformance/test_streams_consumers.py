"""What every queue engine promises of consumers."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from platformd.core.errors import Conflict, InvalidInput, LimitReached, NotFound, Unavailable
from platformd.queues.contract import Ack, ConsumerConfig, Record, StreamConfig
from tests.conformance.streams_engines import ENGINES, acks, payloads, records

A = StreamConfig(subjects=("a.>",))


@pytest.fixture(params=ENGINES)
def engine(request, tmp_path):
    """Each engine, not open yet."""
    return ENGINES[request.param](tmp_path)


@pytest.fixture
async def streams(engine):
    """The engine, open, with the stream ``s``, which has the records 1 to 5, and its consumer ``c``."""
    async with engine.open() as opened:
        await opened.put_stream("s", A)
        await opened.publish(records("1", "2", "3"))
        await opened.publish(records("4", "5"))
        await opened.put_consumer("s", "c", ConsumerConfig())
        yield opened


def info(streams, name="c"):
    return next(c for c in streams.consumers("s") if c.name == name)


async def test_fetch_in_order_and_within_limits(streams):
    """Records come once each, in order, as many as were asked for, across batches."""
    assert payloads(await streams.fetch("s", "c", max_records=2)) == ["1", "2"]
    rest = await streams.fetch("s", "c")
    assert payloads(rest) == ["3", "4", "5"]
    assert [d.sequence for d in rest] == [3, 4, 5]
    assert [d.deliveries for d in rest] == [1, 1, 1]
    assert await streams.fetch("s", "c") == ()


async def test_fetch_counts_bytes(streams):
    """A fetch stops before it is over its bytes, but always gives one record."""
    await streams.publish([Record(subject="a.b", payload=bytes(1000))] * 5)
    await streams.fetch("s", "c", max_records=5)
    assert len(await streams.fetch("s", "c", max_bytes=2500)) == 2
    assert len(await streams.fetch("s", "c", max_bytes=1)) == 1


async def test_acknowledgements_move_the_floor(streams):
    """The floor is where everything before is done, in whatever order it was."""
    one, two, three, four, five = await streams.fetch("s", "c")
    assert await streams.ack("s", "c", acks([two, three])) == 2
    assert (info(streams).ack_floor, info(streams).ack_pending) == (0, 3)
    assert await streams.ack("s", "c", acks([one])) == 1
    assert (info(streams).ack_floor, info(streams).ack_pending) == (3, 2)
    assert await streams.ack("s", "c", acks([five, four])) == 2
    assert (info(streams).ack_floor, info(streams).ack_pending, info(streams).pending) == (5, 0, 0)


async def test_stale_acknowledgements_do_nothing(streams):
    """What is not out cannot be acknowledged: done already, never delivered, never there."""
    one, *_ = await streams.fetch("s", "c", max_records=2)
    assert await streams.ack("s", "c", acks([one])) == 1
    assert await streams.ack("s", "c", [Ack(sequence=s) for s in (0, 1, 4, 10**9)]) == 0
    assert await streams.ack("s", "c", []) == 0
    assert payloads(await streams.fetch("s", "c")) == ["3", "4", "5"]


async def test_nak_delivers_again_at_once(streams):
    """A refused record comes again before new ones, and counts its deliveries."""
    one, two = await streams.fetch("s", "c", max_records=2)
    assert await streams.ack("s", "c", acks([one], "nak") + acks([two])) == 2
    again = await streams.fetch("s", "c", max_records=2)
    assert [(d.payload, d.deliveries) for d in again] == [(b"1", 2), (b"3", 1)]
    assert info(streams).redelivered == 1


async def test_nak_with_a_delay(streams):
    """A delayed refusal comes again after its delay, and a waiting fetch wakes for it."""
    deliveries = await streams.fetch("s", "c")
    await streams.ack("s", "c", acks(deliveries[1:]) + acks(deliveries[:1], "nak", 0.1))
    assert await streams.fetch("s", "c") == ()
    with trio.fail_after(3):
        assert payloads(await streams.fetch("s", "c", wait=30)) == ["1"]


async def test_terminated_records_never_come_again(streams):
    """A terminated record is done, as far as the floor is concerned."""
    deliveries = await streams.fetch("s", "c")
    assert await streams.ack("s", "c", acks(deliveries, "term")) == 5
    assert (info(streams).ack_floor, info(streams).exhausted) == (5, 5)
    assert await streams.fetch("s", "c") == ()


async def test_late_records_come_again(streams):
    """What is not acknowledged within ``ack_wait`` comes again; ``in_progress`` starts that time anew."""
    await streams.put_consumer("s", "d", ConsumerConfig(ack_wait=0.15))
    one, two, *rest = await streams.fetch("s", "d")
    await streams.ack("s", "d", acks(rest))
    await trio.sleep(0.1)
    assert await streams.ack("s", "d", acks([two], "in_progress")) == 1
    with trio.fail_after(3):
        again = await streams.fetch("s", "d", wait=30)
    assert [(d.sequence, d.deliveries) for d in again] == [(one.sequence, 2)]


async def test_max_ack_pending_holds_back_and_is_counted(streams):
    """No more than ``max_ack_pending`` records are out; a fetch held back is counted and goes on after an ack."""
    await streams.put_consumer("s", "d", ConsumerConfig(max_ack_pending=2))
    deliveries = await streams.fetch("s", "d")
    assert payloads(deliveries) == ["1", "2"]
    assert await streams.fetch("s", "d") == ()
    assert info(streams, "d").stalled >= 1
    async with trio.open_nursery() as nursery:

        async def waits():
            with trio.fail_after(3):
                assert payloads(await streams.fetch("s", "d", wait=30)) == ["3"]

        nursery.start_soon(waits)
        await trio.testing.wait_all_tasks_blocked(0.01)
        await streams.ack("s", "d", acks(deliveries[:1]))


async def test_max_deliver_gives_up(streams):
    """After ``max_deliver`` deliveries a record is given up: counted, and below the floor."""
    await streams.put_consumer("s", "d", ConsumerConfig(max_deliver=2, filter_subject="a.b"))
    for times in (1, 2):
        (delivery,) = await streams.fetch("s", "d", max_records=1)
        assert (delivery.payload, delivery.deliveries) == (b"1", times)
        await streams.ack("s", "d", acks([delivery], "nak"))
    assert payloads(await streams.fetch("s", "d")) == ["2", "3", "4", "5"]
    assert (info(streams, "d").exhausted, info(streams, "d").ack_floor) == (1, 1)


async def test_ack_none(streams):
    """Without acknowledgements a delivered record is done."""
    await streams.put_consumer("s", "d", ConsumerConfig(ack_policy="none"))
    assert len(await streams.fetch("s", "d", max_records=4)) == 4
    assert (info(streams, "d").ack_floor, info(streams, "d").ack_pending, info(streams, "d").pending) == (4, 0, 1)


async def test_ack_all(engine):
    """Acknowledging a record acknowledges all that are out before it; a refusal is of the one record."""
    async with engine.open() as streams:
        await streams.put_stream("s", A)
        await streams.publish(records("1", "2", "3", "4", "5", "6"))
        await streams.put_consumer("s", "c", ConsumerConfig(ack_policy="all"))
        out = await streams.fetch("s", "c", max_records=5)
        assert await streams.ack("s", "c", acks(out[1:2], "nak") + acks(out[2:3])) == 2
        assert (info(streams).ack_floor, info(streams).ack_pending) == (3, 2)
        assert await streams.ack("s", "c", acks(out[:3])) == 0
        assert await streams.ack("s", "c", acks(out[3:4], "term")) == 1
        assert (info(streams).ack_floor, info(streams).ack_pending) == (4, 1)
    async with engine.open() as streams:
        deliveries = await streams.fetch("s", "c")
        assert [(d.payload, d.deliveries) for d in deliveries] == [(b"5", 2), (b"6", 1)]
        assert await streams.ack("s", "c", acks(deliveries[1:])) == 1
        assert (info(streams).ack_floor, info(streams).ack_pending) == (6, 0)


async def test_backoff(streams):
    """Each delivery waits as long as its step says, instead of ``ack_wait``, and the last step goes on."""
    await streams.put_consumer("s", "d", ConsumerConfig(backoff=(0.05, 0.3), max_ack_pending=1))
    (first,) = await streams.fetch("s", "d")
    took = []
    for times in (2, 3, 4):
        before = trio.current_time()
        with trio.fail_after(3):
            (again,) = await streams.fetch("s", "d", wait=30)
        assert (again.sequence, again.deliveries) == (first.sequence, times)
        took.append(trio.current_time() - before)
    assert took[0] < 0.25
    assert min(took[1:]) > 0.25


async def test_acknowledgements_cannot_be_switched_off(streams):
    """A consumer with acknowledgements cannot become one without, nor the other way."""
    await streams.put_consumer("s", "d", ConsumerConfig(ack_policy="none"))
    for name, policy in (("c", "none"), ("d", "explicit"), ("d", "all")):
        with pytest.raises(Conflict):
            await streams.put_consumer("s", name, ConsumerConfig(ack_policy=policy))


async def test_a_lower_max_deliver_gives_up_what_waits(streams):
    """What was delivered as often as a new limit allows is given up when the limit comes."""
    one, *_ = await streams.fetch("s", "c")
    await streams.ack("s", "c", acks([one], "nak"))
    await streams.put_consumer("s", "c", ConsumerConfig(max_deliver=1))
    assert (info(streams).exhausted, info(streams).ack_floor, info(streams).ack_pending) == (1, 1, 4)


async def test_filters(streams):
    """A consumer gets only what matches, counts only that as its lag, and its floor passes over the rest."""
    for i in range(6):
        await streams.publish(records(f"e{i}", subject=f"a.{'x' if i % 2 else 'y'}.z"))
    await streams.put_consumer("s", "d", ConsumerConfig(filter_subject="a.x.*"))
    assert info(streams, "d").pending == 3
    deliveries = await streams.fetch("s", "d", max_records=2)
    assert payloads(deliveries) == ["e1", "e3"]
    assert info(streams, "d").pending == 1
    await streams.ack("s", "d", acks(deliveries + await streams.fetch("s", "d")))
    assert info(streams, "d").ack_floor == 11
    await streams.publish(records("no", subject="a.no"))
    assert await streams.fetch("s", "d") == ()
    await streams.publish(records("yes", subject="a.x.yes"))
    assert payloads(await streams.fetch("s", "d")) == ["yes"]


async def test_where_a_consumer_starts(streams):
    """A new consumer starts with everything, with what comes, or with a sequence; and stays there over changes."""
    await streams.put_consumer("s", "new", ConsumerConfig(deliver_policy="new"))
    await streams.put_consumer("s", "from", ConsumerConfig(deliver_policy="by_sequence", start_sequence=4))
    await streams.put_consumer("s", "later", ConsumerConfig(deliver_policy="by_sequence", start_sequence=7))
    await streams.publish(records("6", "7"))
    await streams.put_consumer("s", "new", ConsumerConfig(deliver_policy="new", max_ack_pending=10))
    assert payloads(await streams.fetch("s", "new")) == ["6", "7"]
    assert payloads(await streams.fetch("s", "from")) == ["4", "5", "6", "7"]
    assert payloads(await streams.fetch("s", "later")) == ["7"]


async def test_limits_change_and_cursors_do_not(streams):
    """Limits of a consumer can change; its filter and its start cannot."""
    await streams.fetch("s", "c", max_records=2)
    changed = await streams.put_consumer("s", "c", ConsumerConfig(ack_wait=5.0, max_ack_pending=3))
    assert (changed.config.ack_wait, changed.ack_pending) == (5.0, 2)
    assert len(await streams.fetch("s", "c")) == 1
    for different in ({"filter_subject": "a.x"}, {"deliver_policy": "new"}):
        with pytest.raises(Conflict):
            await streams.put_consumer("s", "c", ConsumerConfig(**different))


async def test_what_is_not_there_is_not_found(streams):
    """Streams and consumers that are not there are not found, by every question."""
    for stream, name in (("s", "nobody"), ("nowhere", "c")):
        with pytest.raises(NotFound):
            await streams.fetch(stream, name)
        with pytest.raises(NotFound):
            await streams.ack(stream, name, [Ack(sequence=1)])
        with pytest.raises(NotFound):
            await streams.delete_consumer(stream, name)
    with pytest.raises(NotFound):
        await streams.put_consumer("nowhere", "c", ConsumerConfig())


@pytest.mark.parametrize(
    "wrong",
    [
        {"filter_subject": "a..b"},
        {"ack_wait": -1.0},
        {"ack_wait": float("nan")},
        {"max_ack_pending": -1},
        {"max_deliver": -1},
        {"deliver_policy": "by_sequence", "start_sequence": -1},
        {"deliver_policy": "by_time", "start_time_ns": -1},
        {"backoff": (1.0,) * 17},
        {"backoff": (1.0, -1.0)},
    ],
)
async def test_wrong_configurations_are_refused(streams, wrong):
    """What a consumer cannot be is refused, and leaves nothing behind."""
    with pytest.raises(InvalidInput):
        await streams.put_consumer("s", "d", ConsumerConfig(**wrong))
    assert [c.name for c in streams.consumers("s")] == ["c"]


async def test_consumers_are_limited(streams):
    """One consumer more than the limit is refused with the limit."""
    for i in range(7):
        await streams.put_consumer("s", f"d{i}", ConsumerConfig())
    with pytest.raises(LimitReached, match="8"):
        await streams.put_consumer("s", "more", ConsumerConfig())
    await streams.delete_consumer("s", "d0")
    await streams.put_consumer("s", "more", ConsumerConfig())
    assert streams.stream("s").consumers == 8


async def test_deleted_consumers_start_afresh(streams):
    """A consumer of a deleted one's name knows nothing of it."""
    await streams.ack("s", "c", acks(await streams.fetch("s", "c")))
    await streams.delete_consumer("s", "c")
    with pytest.raises(NotFound):
        await streams.fetch("s", "c")
    await streams.put_consumer("s", "c", ConsumerConfig())
    assert len(await streams.fetch("s", "c")) == 5


async def test_a_waiting_fetch_wakes_at_once(streams):
    """A fetch that waits gets a record as soon as it is durable."""
    await streams.fetch("s", "c")
    async with trio.open_nursery() as nursery:

        async def waits():
            with trio.fail_after(3):
                assert payloads(await streams.fetch("s", "c", wait=30)) == ["6"]

        nursery.start_soon(waits)
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert info(streams).waiting == 1
        await streams.publish(records("6"))
    assert info(streams).waiting == 0


async def test_a_fetch_does_not_wait_longer_than_it_may(streams):
    """When the wait is over, the answer is empty."""
    await streams.fetch("s", "c")
    with trio.fail_after(3):
        assert await streams.fetch("s", "c", wait=0.05) == ()


async def test_two_fetches_share_the_records(streams):
    """Fetches of one consumer at the same time get different records."""
    got = []

    async def take():
        got.extend(payloads(await streams.fetch("s", "c", max_records=1, wait=1)))

    async with trio.open_nursery() as nursery:
        for _ in range(5):
            nursery.start_soon(take)
    assert sorted(got) == ["1", "2", "3", "4", "5"]


@pytest.mark.parametrize("what", ["consumer", "stream"])
async def test_deleting_ends_waiting_fetches(streams, what):
    """A fetch that waits for a consumer that is deleted is told so."""
    await streams.fetch("s", "c")
    async with trio.open_nursery() as nursery:

        async def waits():
            with trio.fail_after(3), pytest.raises(NotFound):
                await streams.fetch("s", "c", wait=30)

        nursery.start_soon(waits)
        await trio.testing.wait_all_tasks_blocked(0.01)
        await (streams.delete_consumer("s", "c") if what == "consumer" else streams.delete_stream("s"))


async def test_closing_ends_waiting_fetches(engine):
    """A fetch that waits when the engine is closed is told that it is unavailable."""
    async with trio.open_nursery() as nursery:
        async with engine.open() as streams:
            await streams.put_stream("s", A)
            await streams.put_consumer("s", "c", ConsumerConfig())

            async def waits():
                with trio.fail_after(5), pytest.raises(Unavailable):
                    await streams.fetch("s", "c", wait=30)

            nursery.start_soon(waits)
            await trio.testing.wait_all_tasks_blocked(0.01)


async def test_waiting_fetches_are_limited(streams):
    """One waiting fetch more than the limit is refused with the limit."""
    await streams.fetch("s", "c")
    async with trio.open_nursery() as nursery:
        for _ in range(8):
            nursery.start_soon(lambda: streams.fetch("s", "c", wait=30))
        await trio.testing.wait_all_tasks_blocked(0.01)
        with pytest.raises(LimitReached, match="8"):
            await streams.fetch("s", "c", wait=30)
        nursery.cancel_scope.cancel()


async def test_restart_resumes_at_the_floor(engine):
    """After a restart what was acknowledged stays done, and what was out comes again with its count."""
    async with engine.open() as streams:
        await streams.put_stream("s", A)
        await streams.publish(records("1", "2", "3", "4"))
        await streams.put_consumer("s", "c", ConsumerConfig(filter_subject="a.*", max_ack_pending=3))
        one, _, three = await streams.fetch("s", "c")
        await streams.ack("s", "c", acks([one, three]))
    async with engine.open() as streams:
        again = info(streams)
        assert (again.config.filter_subject, again.config.max_ack_pending) == ("a.*", 3)
        assert (again.ack_floor, again.pending) == (1, 1)
        deliveries = await streams.fetch("s", "c")
        assert [(d.payload, d.deliveries) for d in deliveries] == [(b"2", 2), (b"4", 1)]
        assert await streams.ack("s", "c", acks(deliveries)) == 2
        assert info(streams).ack_floor == 4


async def test_a_new_consumer_keeps_its_start_over_a_restart(engine):
    """``new`` means new since the consumer was made, not since the daemon started."""
    async with engine.open() as streams:
        await streams.put_stream("s", A)
        await streams.publish(records("1"))
        await streams.put_consumer("s", "c", ConsumerConfig(deliver_policy="new"))
        await streams.publish(records("2"))
    async with engine.open() as streams:
        assert payloads(await streams.fetch("s", "c")) == ["2"]
