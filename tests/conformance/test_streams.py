"""What every queue engine promises of streams and of publishing."""

from __future__ import annotations

import msgspec
import pytest
import trio

from platformd.core.errors import (
    Conflict,
    InvalidInput,
    LimitReached,
    NotFound,
    PreconditionFailed,
    TooLarge,
    Unavailable,
    Unsupported,
)
from platformd.core.settings import QueueSettings
from platformd.queues.contract import ConsumerConfig, Record, StreamConfig
from tests.conformance.streams_engines import ENGINES, payloads, records

A = StreamConfig(subjects=("a.>",))


@pytest.fixture(params=ENGINES)
def engine(request, tmp_path):
    """Each engine, not open yet."""
    return ENGINES[request.param](tmp_path)


@pytest.fixture
async def streams(engine):
    """The engine, open, with the stream ``s`` that captures ``a.>``."""
    async with engine.open() as opened:
        await opened.put_stream("s", A)
        yield opened


async def test_sequences_have_no_gaps(streams):
    """Batches get consecutive sequences from 1 on, and their acknowledgements say which."""
    for i, first in enumerate((1, 3, 5)):
        published = await streams.publish(records(f"{i}x", f"{i}y"))
        assert (published.stream, published.first_sequence, published.appended) == ("s", first, 2)
    assert [d.sequence for d in await streams.read("s")] == [1, 2, 3, 4, 5, 6]


async def test_records_come_back_as_they_were(streams):
    """Subject, payload, id, headers and the producer's time are stored as they are."""
    record = Record(subject="a.b.c", payload=b"\0\xff" * 40, msg_id="é", headers={"k": "v", "é": ""}, time_ns=12345)
    await streams.publish([record, Record(subject="a.b", payload=b"")])
    first, second = await streams.read("s")
    for field in ("subject", "payload", "msg_id", "headers", "time_ns"):
        assert getattr(first, field) == getattr(record, field)
    assert (second.payload, second.msg_id, second.headers) == (b"", "", {})
    assert second.time_ns > 1_600_000_000_000_000_000
    assert first.append_time_ns >= second.time_ns - 10**9


@pytest.mark.parametrize("durability", ["fsync", "os", "memory"])
async def test_many_producers_at_once(streams, durability):
    """Producers that publish at the same time share the sequences without a gap, each in its order."""

    async def produce(name):
        for i in range(20):
            await streams.publish(records(f"{name}:{i}"), durability=durability)

    async with trio.open_nursery() as nursery:
        for name in "pqrst":
            nursery.start_soon(produce, name)
    await streams.publish(records("end"), durability="fsync")
    deliveries = await streams.read("s", limit=1000)
    assert [d.sequence for d in deliveries] == list(range(1, 102))
    for name in "pqrst":
        mine = [p for p in payloads(deliveries) if p.startswith(name)]
        assert mine == [f"{name}:{i}" for i in range(20)]


async def test_duplicates_are_not_stored_again(streams):
    """A record whose id was stored on its subject is acknowledged by position, and the rest is stored."""
    await streams.publish(records("1", "2", ids=True))
    published = await streams.publish(records("0", "1", "2", "3", ids=True))
    assert (published.first_sequence, published.appended, published.duplicates) == (3, 2, (1, 2))
    assert payloads(await streams.read("s")) == ["1", "2", "0", "3"]


async def test_duplicates_within_a_batch(streams):
    """An id that comes twice in one batch is stored once."""
    published = await streams.publish(records("1", "1", "2", ids=True))
    assert (published.appended, published.duplicates) == (2, (1,))
    assert payloads(await streams.read("s")) == ["1", "2"]


async def test_a_batch_of_nothing_but_duplicates(streams):
    """When everything was there already, nothing is appended and the last sequence is told."""
    await streams.publish(records("1", "2", ids=True))
    published = await streams.publish(records("2", "1", ids=True))
    assert (published.stream, published.first_sequence, published.appended) == ("s", 2, 0)
    assert published.duplicates == (0, 1)


async def test_ids_are_per_subject(streams):
    """The same id on another subject, or no id, is no duplicate."""
    for subject in ("a.x", "a.y"):
        published = await streams.publish([Record(subject=subject, payload=b"", msg_id="1")])
        assert published.appended == 1
    for _ in range(2):
        assert (await streams.publish([Record(subject="a.x", payload=b"")])).appended == 1


async def test_duplicates_are_found_after_a_restart(engine):
    """Ids are remembered across restarts."""
    async with engine.open() as streams:
        await streams.put_stream("s", A)
        await streams.publish(records("1", "2", ids=True))
    async with engine.open() as streams:
        published = await streams.publish(records("2", "3", ids=True))
        assert (published.first_sequence, published.duplicates) == (3, (0,))


async def test_duplicate_window(streams):
    """Ids are forgotten after the window, and never looked at with a window of 0."""
    for name, window in (("none", 0.0), ("short", 0.1)):
        await streams.put_stream(name, StreamConfig(subjects=(name,), duplicate_window=window))
        for i in range(4):
            await streams.publish([Record(subject=name, payload=b"", msg_id=str(i))])
    await trio.sleep(0.25)
    for name in ("none", "short"):
        assert (await streams.publish([Record(subject=name, payload=b"", msg_id="0")])).appended == 1


async def test_duplicate_limit(engine):
    """Ids over the limit are forgotten, the oldest first; an engine that cannot count them refuses a limit by name."""
    few = StreamConfig(subjects=("few",), duplicate_limit=2)
    async with engine.open() as streams:
        if "duplicate_limit" in engine.refuses:
            with pytest.raises(Unsupported, match="duplicate_limit"):
                await streams.put_stream("few", few)
            return
        await streams.put_stream("few", few)
        for i in range(4):
            await streams.publish([Record(subject="few", payload=b"", msg_id=str(i))])
        assert (await streams.publish([Record(subject="few", payload=b"", msg_id="0")])).appended == 1
        assert (await streams.publish([Record(subject="few", payload=b"", msg_id="3")])).duplicates == (0,)


async def test_subjects_that_no_stream_captures(streams):
    """What nobody captures is not found, by itself or in a named stream."""
    with pytest.raises(NotFound, match=r"b\.c"):
        await streams.publish(records("x", subject="b.c"))
    with pytest.raises(NotFound):
        await streams.publish(records("x", subject="b.c"), stream="s")
    with pytest.raises(NotFound, match="nowhere"):
        await streams.publish(records("x"), stream="nowhere")
    assert streams.stream("s").last_sequence == 0


async def test_a_batch_belongs_to_one_stream(streams):
    """A batch over two streams is refused as a whole."""
    await streams.put_stream("t", StreamConfig(subjects=("b",)))
    with pytest.raises(InvalidInput):
        await streams.publish(records("x") + records("y", subject="b"))
    assert streams.stream("s").last_sequence == streams.stream("t").last_sequence == 0


async def test_expected_sequence(streams):
    """A publish with an expectation is stored only if that is the stream's last sequence."""
    await streams.publish(records("1"), expect_last_sequence=0)
    with pytest.raises(PreconditionFailed):
        await streams.publish(records("2"), expect_last_sequence=0)
    assert (await streams.publish(records("2"), expect_last_sequence=1)).first_sequence == 2
    with pytest.raises(InvalidInput):
        await streams.publish(records("3"), expect_last_sequence=-1)


async def test_limits_of_size_are_named(streams):
    """A record or a batch over its limit is refused with the limit; nothing of it is stored."""
    with pytest.raises(TooLarge, match="65536"):
        await streams.publish([Record(subject="a.b", payload=bytes(65537))])
    with pytest.raises(TooLarge, match="262144"):
        await streams.publish([Record(subject="a.b", payload=bytes(60000))] * 5)
    assert streams.stream("s").messages == 0


async def test_invalid_records_are_refused(streams):
    """No records, and a subject with a wildcard, are invalid input."""
    with pytest.raises(InvalidInput):
        await streams.publish([])
    with pytest.raises(InvalidInput):
        await streams.publish(records("x", subject="a.*"))


async def test_streams_do_not_overlap(streams):
    """A subject that another stream captures is a conflict that names both."""
    for subject in ("a.b", "a.>", "*.x", ">"):
        with pytest.raises(Conflict, match=r"'a\.>'.*'s'"):
            await streams.put_stream("t", StreamConfig(subjects=(subject,)))
    assert [s.name for s in streams.streams()] == ["s"]


@pytest.mark.parametrize("subjects", [(), ("",), ("a..b",), ("x.>.y",), ("x", "x"), ("x.*", "x.y")])
async def test_wrong_subjects_are_refused(streams, subjects):
    """A stream needs at least one valid subject, and none twice."""
    with pytest.raises(InvalidInput):
        await streams.put_stream("t", StreamConfig(subjects=subjects))


@pytest.mark.parametrize("name", ["", "a/b", "..", ".x", "x" * 64])
async def test_wrong_names_are_refused(streams, name):
    """A name that cannot be a folder's is refused."""
    with pytest.raises(InvalidInput):
        await streams.put_stream(name, StreamConfig(subjects=("x",)))


async def test_subjects_can_change(streams):
    """Putting a stream again changes what it captures and keeps its records."""
    await streams.publish(records("1"))
    info = await streams.put_stream("s", StreamConfig(subjects=("c", "a.b")))
    assert (info.config.subjects, info.last_sequence) == (("c", "a.b"), 1)
    assert (await streams.publish(records("2", subject="c"))).first_sequence == 2
    with pytest.raises(NotFound):
        await streams.publish(records("3", subject="a.c"))
    assert streams.stream_for("c") == "s"
    assert streams.stream_for("a.c") is None
    assert streams.stream_for("not a subject") is None


async def test_streams_are_limited(streams):
    """One stream more than the limit is refused with the limit, and leaves nothing behind."""
    for i in range(7):
        await streams.put_stream(f"t{i}", StreamConfig(subjects=(f"t{i}",)))
    with pytest.raises(LimitReached, match="8"):
        await streams.put_stream("more", StreamConfig(subjects=("more",)))
    await streams.delete_stream("t0")
    await streams.put_stream("more", StreamConfig(subjects=("more",)))
    assert streams.stream("more").messages == 0


async def test_deleted_streams_are_gone(engine):
    """A deleted stream is gone with its records and consumers, also after a restart, and its name is free."""
    async with engine.open() as streams:
        await streams.put_stream("s", A)
        await streams.publish(records("1", ids=True))
        await streams.put_consumer("s", "c", ConsumerConfig())
        await streams.delete_stream("s")
        for ask in (streams.stream, streams.consumers):
            with pytest.raises(NotFound):
                ask("s")
        with pytest.raises(NotFound):
            await streams.delete_stream("s")
        assert streams.stream_for("a.b") is None
    async with engine.open() as streams:
        assert streams.streams() == ()
        info = await streams.put_stream("s", A)
        assert (info.messages, info.last_sequence, info.consumers) == (0, 0, 0)
        assert (await streams.publish(records("1", ids=True))).first_sequence == 1


async def test_streams_survive_restarts(engine):
    """Configuration, records and counts are there after a restart; sequences go on."""
    config = StreamConfig(subjects=("a.*", "b"), max_age=3600.0, duplicate_window=600.0)
    async with engine.open() as streams:
        await streams.put_stream("s", config)
        await streams.publish(records("1", "2"), durability="memory")
        before = streams.stream("s")
    async with engine.open() as streams:
        after = streams.stream("s")
        assert after.config == config
        assert (after.messages, after.first_sequence, after.last_sequence) == (2, 1, 2)
        assert after.bytes == before.bytes > 0
        assert payloads(await streams.read("s")) == ["1", "2"]
        assert (await streams.publish(records("3"))).first_sequence == 3


async def test_read_pages_and_filters(streams):
    """Reading goes on after a sequence, stops at a limit and takes only what matches."""
    for i in range(10):
        await streams.publish(records(str(i), subject=f"a.{'even' if i % 2 == 0 else 'odd'}.x"))
    assert payloads(await streams.read("s", after=3, limit=2)) == ["3", "4"]
    assert payloads(await streams.read("s", subject="a.odd.*", limit=3)) == ["1", "3", "5"]
    assert payloads(await streams.read("s", subject="a.odd.>", after=6)) == ["7", "9"]
    assert await streams.read("s", after=10) == ()
    assert await streams.read("s", after=10**12) == ()
    with pytest.raises(NotFound):
        await streams.read("t")
    with pytest.raises(InvalidInput):
        await streams.read("s", limit=0)


async def test_old_records_go_when_the_log_is_too_large(streams):
    """Over its bytes a stream drops its oldest records; sequences go on, and a reader begins with what is left."""
    await streams.put_stream("s", msgspec.structs.replace(A, max_bytes=2 << 20))
    for _ in range(30):
        await streams.publish([Record(subject="a.b", payload=bytes(50_000))] * 4, durability="os")
    with trio.fail_after(3):
        while streams.stream("s").bytes > 2 << 20:  # noqa: ASYNC110 (whole files, a moment later; nobody is told)
            await trio.sleep(0.001)
    info = streams.stream("s")
    assert info.last_sequence == 120
    assert info.first_sequence > 1
    assert info.messages == 120 - info.first_sequence + 1
    assert (await streams.read("s", limit=1))[0].sequence == info.first_sequence


async def test_a_publish_waits_for_room(engine):
    """More appends than the engine keeps in memory are not refused: they wait."""
    small = msgspec.structs.replace(QueueSettings(), max_pending_appends="256KiB", max_batch="128KiB")
    async with engine.open(small) as streams:
        await streams.put_stream("s", A)
        with trio.fail_after(10):
            async with trio.open_nursery() as nursery:
                for _ in range(20):
                    nursery.start_soon(streams.publish, [Record(subject="a.b", payload=bytes(100_000))])
        assert streams.stream("s").last_sequence == 20


async def test_stopping_answers_everybody(engine):
    """A publish under way when the engine is closed is stored or refused, never left without an answer."""
    outcomes = []
    several = trio.Event()
    async with trio.open_nursery() as nursery:

        async def produce(streams):
            try:
                while True:
                    outcomes.append((await streams.publish(records("x"))).first_sequence)
                    if len(outcomes) == 20:
                        several.set()
            except Unavailable:
                outcomes.append("refused")

        async with engine.open() as streams:
            await streams.put_stream("s", A)
            for _ in range(4):
                nursery.start_soon(produce, streams)
            await several.wait()
    stored = sorted(o for o in outcomes if o != "refused")
    assert outcomes.count("refused") == 4
    async with engine.open() as streams:
        kept = [d.sequence for d in await streams.read("s", limit=100_000)]
    assert kept == list(range(1, len(kept) + 1))
    assert set(stored) <= set(kept)


async def test_cancelled_close_still_stores(engine):
    """What was acknowledged is there although the engine's block was cancelled."""
    with trio.CancelScope() as scope:
        async with engine.open() as streams:
            await streams.put_stream("s", A)
            await streams.publish(records("1"), durability="memory")
            scope.cancel()
            await trio.sleep_forever()
    async with engine.open() as streams:
        assert payloads(await streams.read("s")) == ["1"]
