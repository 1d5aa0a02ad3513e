"""What every queue engine promises of a stream's limits and of what it says of itself."""

from __future__ import annotations

import time

import pytest
import trio

from platformd.core.errors import LimitReached, PreconditionFailed, TooLarge
from platformd.queues.contract import Record, StreamConfig
from tests.conformance.streams_engines import ENGINES, payloads, records


@pytest.fixture(params=ENGINES)
def engine(request, tmp_path):
    """Each engine, not open yet."""
    return ENGINES[request.param](tmp_path)


@pytest.fixture
async def streams(engine):
    """The engine, open, with no stream."""
    async with engine.open() as opened:
        yield opened


async def test_a_record_over_its_limit_is_refused_with_its_batch(streams):
    """Payload, headers, subject and id count towards ``max_record_bytes``; nothing of the batch is appended."""
    await streams.put_stream("s", StreamConfig(subjects=("a.>",), max_record_bytes=40))
    fits = Record(subject="a.b", msg_id="1234567", payload=bytes(30))
    await streams.publish([fits])
    with pytest.raises(TooLarge, match="41"):
        await streams.publish([*records("small"), Record(subject="a.b", msg_id="12345678", payload=bytes(30))])
    with pytest.raises(TooLarge):
        await streams.publish([Record(subject="a.b", payload=bytes(30), headers={"key": "value"})])
    assert streams.stream("s").last_sequence == 1


async def test_a_full_stream_that_discards_new_refuses_the_whole_batch(streams):
    """With ``discard: new`` what does not fit is refused, duplicates do not count, and what is kept stays."""
    await streams.put_stream("s", StreamConfig(subjects=("a.>",), max_records=4, discard="new"))
    await streams.publish(records("1", "2", "3", ids=True))
    with pytest.raises(LimitReached, match="4"):
        await streams.publish(records("4", "5", ids=True))
    assert (await streams.publish(records("2", "4", ids=True))).appended == 1
    with pytest.raises(LimitReached):
        await streams.publish(records("5"))
    assert payloads(await streams.read("s")) == ["1", "2", "3", "4"]
    await streams.put_stream("s", StreamConfig(subjects=("a.>",), max_records=5, discard="new"))
    assert (await streams.publish(records("5"))).first_sequence == 5


async def test_a_limit_in_bytes_that_discards_new(streams):
    """With ``discard: new`` the bytes of a stream never exceed ``max_bytes``."""
    await streams.put_stream("s", StreamConfig(subjects=("a.>",), max_bytes=4000, discard="new"))
    for _ in range(5):
        await streams.publish([Record(subject="a.b", payload=bytes(300))])
    with pytest.raises(LimitReached):
        await streams.publish([Record(subject="a.b", payload=bytes(300))] * 8)
    await streams.publish([Record(subject="a.b", payload=bytes(300))])
    info = streams.stream("s")
    assert info.messages == info.last_sequence == 6
    assert info.bytes <= 4000


async def test_times_of_the_oldest_and_the_newest_record(engine):
    """A stream says when its oldest and its newest record were appended, also after a restart."""
    before = time.time_ns()
    async with engine.open() as streams:
        await streams.put_stream("s", StreamConfig(subjects=("a.>",)))
        info = streams.stream("s")
        assert (info.first_time_ns, info.last_time_ns) == (0, 0)
        await streams.publish(records("1"))
        await streams.publish(records("2"))
        first, last = await streams.read("s")
        info = streams.stream("s")
        assert (info.first_time_ns, info.last_time_ns) == (first.append_time_ns, last.append_time_ns)
        assert before <= info.first_time_ns <= info.last_time_ns <= time.time_ns()
    async with engine.open() as streams:
        info = streams.stream("s")
        assert (info.first_time_ns, info.last_time_ns) == (first.append_time_ns, last.append_time_ns)


async def test_what_is_published_has_a_rate(streams):
    """Publishing shows in the rates of records and bytes."""
    await streams.put_stream("s", StreamConfig(subjects=("a.>",)))
    assert (streams.stream("s").publish_rate, streams.stream("s").publish_bytes_rate) == (0.0, 0.0)
    await streams.publish([Record(subject="a.b", payload=bytes(100))] * 100)
    with trio.fail_after(5):
        while not streams.stream("s").publish_rate:  # noqa: ASYNC110 - the end of a tenth of a second wakes nobody
            await trio.sleep(0.02)
    info = streams.stream("s")
    assert 1.0 < info.publish_rate <= 100.0
    assert info.publish_bytes_rate >= 100 * info.publish_rate


async def test_the_newest_records_of_each_subject(engine):
    """Over ``max_records_per_subject`` the oldest of the subject go, in a batch too, and stay gone when reopened."""
    async with engine.open() as streams:
        await streams.put_stream("s", StreamConfig(subjects=("a.>",), max_records_per_subject=2))
        for i in range(3):
            await streams.publish(records(f"x{i}", subject="a.x") + records(f"y{i}", f"z{i}", subject="a.y"))
        assert payloads(await streams.read("s")) == ["x1", "x2", "y2", "z2"]
        await streams.put_stream("s", StreamConfig(subjects=("a.>",), max_records_per_subject=1))
        assert payloads(await streams.read("s")) == ["x2", "z2"]
    async with engine.open() as streams:
        await streams.publish(records("x3", subject="a.x"))
        assert [(d.sequence, d.payload) for d in await streams.read("s")] == [(9, b"z2"), (10, b"x3")]


async def test_a_full_subject_that_discards_new(streams):
    """With ``discard: new`` a batch that has one record too many of a subject is refused whole."""
    await streams.put_stream("s", StreamConfig(subjects=("a.>",), max_records_per_subject=2, discard="new"))
    await streams.publish(records("1", "2", subject="a.x"))
    with pytest.raises(LimitReached, match=r"per subject|on a\.x"):
        await streams.publish(records("y", subject="a.y") + records("3", subject="a.x"))
    assert (await streams.publish(records("y", subject="a.y"))).first_sequence == 3


async def test_the_last_sequence_of_a_subject_can_be_expected(engine):
    """A publish is made only if the newest kept record of its subject is the one that was expected; 0 is none."""
    async with engine.open() as streams:
        await streams.put_stream("s", StreamConfig(subjects=("a.>",)))
        await streams.publish(records("1", subject="a.x"), expect_last_subject_sequence=0)
        with pytest.raises(PreconditionFailed, match="last sequence"):
            await streams.publish(records("2", subject="a.x"), expect_last_subject_sequence=0)
        await streams.publish(records("y", subject="a.y"), expect_last_subject_sequence=0)
        await streams.publish(records("2", subject="a.x"), expect_last_subject_sequence=1)
    async with engine.open() as streams:
        await streams.publish(records("3", subject="a.x"), expect_last_subject_sequence=3)
        await streams.purge("s", subject="a.x")
        await streams.publish(records("4", subject="a.x"), expect_last_subject_sequence=0)
        assert payloads(await streams.read("s")) == ["y", "4"]
