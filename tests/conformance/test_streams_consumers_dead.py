"""What every queue engine promises of records that are given up, of advisories, and of idle consumers."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from platformd.client.queues import Consumer
from platformd.core.errors import InvalidInput, NotFound
from platformd.queues.contract import (
    DEAD_LETTER_HEADERS,
    MAX_REASON,
    Ack,
    ConsumerConfig,
    Record,
    StreamConfig,
)
from tests.conformance.streams_engines import ENGINES, acks, in_thread, payloads, records

DEAD = ConsumerConfig(dead_letter_subject="dead.s", max_deliver=2)


@pytest.fixture(params=ENGINES)
def engine(request, tmp_path):
    """Each engine, not open yet."""
    return ENGINES[request.param](tmp_path)


@pytest.fixture
async def streams(engine):
    """The engine, open, with three records in ``s``, a stream ``graves`` for dead letters, and consumer ``c``."""
    async with engine.open() as opened:
        await fill(opened)
        yield opened


async def fill(streams):
    await streams.put_stream("s", StreamConfig(subjects=("a.>",)))
    await streams.put_stream("graves", StreamConfig(subjects=("dead.>",)))
    await streams.put_consumer("s", "c", DEAD)
    await streams.publish([
        Record(subject="a.b", payload=b"1", msg_id="one", headers={"k": "v"}, time_ns=7),
        Record(subject="a.c", payload=b"2"),
        Record(subject="a.b", payload=b"3"),
    ])  # fmt: skip


def info(streams, name="c"):
    return next(c for c in streams.consumers("s") if c.name == name)


async def until(holds):
    """Wait until the engine is so far."""
    with trio.fail_after(10):
        while not holds():  # noqa: ASYNC110 (it tells nobody)
            await trio.sleep(0.002)


async def letters(streams, count, stream="graves"):
    """What is in ``graves``, once there are ``count``."""
    with trio.fail_after(10):
        while len(found := await streams.read(stream, limit=10_000)) < count:  # noqa: ASYNC110 (it tells nobody)
            await trio.sleep(0.002)
    return found


async def test_max_deliver_sends_a_dead_letter(streams):
    """A record that was delivered too often is stored where the consumer says, with all that it was."""
    for _ in range(2):
        (delivery,) = await streams.fetch("s", "c", max_records=1)
        await streams.ack("s", "c", acks([delivery], "nak"))
    (letter,) = await letters(streams, 1)
    assert (letter.subject, letter.payload, letter.time_ns) == ("dead.s", b"1", 7)
    wanted = ("max_deliver", "s", "c", "1", "a.b", "2", "one")
    assert letter.headers == {"k": "v"} | dict(zip(DEAD_LETTER_HEADERS, wanted, strict=True))
    await until(lambda: info(streams).ack_floor == 1)
    assert (info(streams).exhausted, info(streams).ack_pending) == (1, 0)


async def test_term_sends_a_dead_letter_with_its_reason(streams):
    """A refused record is stored with what the consumer said of it."""
    one, two, three = await streams.fetch("s", "c")
    said = "ü" * (MAX_REASON // 2)
    await streams.ack("s", "c", [
        Ack(sequence=one.sequence, kind="term", reason="no such filter"),
        Ack(sequence=two.sequence),
        Ack(sequence=three.sequence, kind="term", reason=said),
    ])  # fmt: skip
    first, second = await letters(streams, 2)
    assert [d.headers["Dead-Reason"] for d in (first, second)] == ["term:no such filter", f"term:{said}"]
    assert "Dead-Msg-Id" not in second.headers
    assert [d.headers["Dead-Sequence"] for d in (first, second)] == ["1", "3"]
    await until(lambda: info(streams).ack_floor == 3)
    assert info(streams).exhausted == 2


async def test_reasons_are_bounded(streams):
    """A reason over its limit is refused, and nothing happens to the record."""
    one, *_ = await streams.fetch("s", "c")
    with pytest.raises(InvalidInput, match=str(MAX_REASON)):
        await streams.ack("s", "c", [Ack(sequence=one.sequence, kind="term", reason="x" * (MAX_REASON + 1))])
    assert info(streams).ack_pending == 3


async def test_a_program_says_why(streams):
    """A reason travels over the socket too, with every one of many records."""
    await streams.publish(records(*(str(i) for i in range(300))))
    await streams.put_consumer("s", "p", ConsumerConfig(dead_letter_subject="dead.p", max_ack_pending=6000))

    def refuse():
        with Consumer(streams.addresses["fetch"], "s", "p", timeout=5.0) as consumer:
            known = 0
            while deliveries := consumer.fetch(max_records=303, wait=0.2):
                known += consumer.term(deliveries, "x" * MAX_REASON)
            return known

    assert await in_thread(refuse) == 303
    found = await letters(streams, 303)
    assert {d.headers["Dead-Reason"] for d in found} == {"term:" + "x" * MAX_REASON}


async def test_a_letter_dies_again(streams):
    """A dead letter that is given up in its turn says where it died last."""
    await streams.put_stream("deeper", StreamConfig(subjects=("deep",)))
    await streams.put_consumer("graves", "g", ConsumerConfig(dead_letter_subject="deep"))
    await streams.ack("s", "c", acks(await streams.fetch("s", "c", max_records=1), "term"))
    with trio.fail_after(5):
        (letter,) = await streams.fetch("graves", "g", wait=30)
    await streams.ack("graves", "g", [Ack(sequence=letter.sequence, kind="term", reason="again")])
    (deeper,) = await letters(streams, 1, "deeper")
    assert deeper.headers == letter.headers | {
        "Dead-Reason": "term:again", "Dead-Stream": "graves", "Dead-Consumer": "g", "Dead-Subject": "dead.s",
        "Dead-Deliveries": "1", "Dead-Msg-Id": letter.msg_id,
    }  # fmt: skip
    assert deeper.payload == b"1"


async def test_many_letters(streams):
    """A thousand records that are given up at once become a thousand letters, in their order."""
    await streams.put_consumer("s", "many", ConsumerConfig(dead_letter_subject="dead.many", filter_subject="a.many"))
    await streams.publish(records(*(str(i) for i in range(1000)), subject="a.many"))
    await streams.ack("s", "many", acks(await streams.fetch("s", "many", max_records=1000), "term"))
    await until(lambda: info(streams, "many").ack_floor == 1003)
    assert payloads(await streams.read("graves", limit=2000)) == [str(i) for i in range(1000)]


async def test_what_cannot_be_stored_stays_and_is_told(engine):
    """With nowhere to go a letter stays, over restarts and seeks too, is told of, and goes when it can."""
    async with engine.open() as streams:
        await fill(streams)
        await streams.delete_stream("graves")
        async with streams.advisories() as advisories:
            out = await streams.fetch("s", "c")
            await streams.ack("s", "c", [Ack(sequence=out[0].sequence, kind="term", reason="why"), *acks(out[1:])])
            with trio.fail_after(5):
                told = {}
                while len(told) < 2:
                    advisory = await anext(advisories)
                    told[advisory.kind] = advisory
        assert set(told) == {"exhausted", "dead_letter_failed"}
        assert (told["dead_letter_failed"].stream, told["dead_letter_failed"].consumer) == ("s", "c")
        assert "dead.s" in told["dead_letter_failed"].detail
        assert (info(streams).ack_floor, info(streams).ack_pending, info(streams).exhausted) == (0, 0, 1)
    async with engine.open() as streams:
        assert (info(streams).ack_floor, info(streams).pending) == (0, 0)
        await streams.seek("s", "c", "new")
        await streams.put_stream("graves", StreamConfig(subjects=("dead.>",)))
        (letter,) = await letters(streams, 1)
        assert (letter.payload, letter.headers["Dead-Reason"]) == (b"1", "term:why")
        await until(lambda: info(streams).ack_floor == 3)


async def test_letters_that_wait_hold_the_consumer_back(streams):
    """What waits for its letter counts against ``max_ack_pending``: a missing stream stalls, it does not pile up."""
    await streams.put_consumer("s", "d", ConsumerConfig(dead_letter_subject="dead.d", max_ack_pending=2))
    await streams.delete_stream("graves")
    await streams.ack("s", "d", acks(await streams.fetch("s", "d"), "term"))
    assert await streams.fetch("s", "d") == ()
    await streams.put_consumer("s", "d", ConsumerConfig(max_ack_pending=2))  # no letters any more
    assert payloads(await streams.fetch("s", "d")) == ["3"]


async def test_where_dead_letters_cannot_go(streams):
    """A subject that no stream captures, the consumer's own, or what is no subject is refused."""
    for subject, error in (("nobody.here", NotFound), ("a.dead", InvalidInput), ("a..b", InvalidInput)):
        with pytest.raises(error):
            await streams.put_consumer("s", "d", ConsumerConfig(dead_letter_subject=subject))
    assert [c.name for c in streams.consumers("s")] == ["c"]


async def test_a_stall_is_told_once_and_its_end_too(streams):
    """Reaching ``max_ack_pending`` is told when it begins and when it ends, not at every fetch."""
    await streams.put_consumer("s", "d", ConsumerConfig(max_ack_pending=2))
    async with streams.advisories() as advisories:
        out = await streams.fetch("s", "d")
        for _ in range(20):
            assert await streams.fetch("s", "d") == ()
        await streams.ack("s", "d", acks(out))
        await streams.ack("s", "c", acks(await streams.fetch("s", "c"), "term"))
        with trio.fail_after(5):
            told = [await anext(advisories) for _ in range(3)]
    assert [(a.kind, a.consumer) for a in told] == [("stalled", "d"), ("resumed", "d"), ("exhausted", "c")]
    assert "2" in told[0].detail
    assert "3" in told[2].detail


async def test_an_idle_consumer_is_removed(engine):
    """A consumer that nobody uses for ``inactive_after`` is gone for good, and that is told."""
    config = ConsumerConfig(inactive_after=0.2)
    async with engine.open() as streams:
        await fill(streams)
        async with streams.advisories() as advisories:
            await streams.put_consumer("s", "idle", config)
            with trio.fail_after(5):
                advisory = await anext(advisories)
        assert (advisory.kind, advisory.stream, advisory.consumer) == ("consumer_removed", "s", "idle")
        assert [c.name for c in streams.consumers("s")] == ["c"]
        with pytest.raises(NotFound):
            await streams.fetch("s", "idle")
        await streams.publish(records("4"))
        await streams.put_consumer("s", "idle", ConsumerConfig(deliver_policy="last", inactive_after=0.2))
        assert payloads(await streams.fetch("s", "idle")) == ["4"]
        await until(lambda: len(streams.consumers("s")) == 1)
    async with engine.open() as streams:
        assert [c.name for c in streams.consumers("s")] == ["c"]


async def test_a_used_consumer_stays(streams):
    """Fetching, waiting for records and acknowledging all count as use."""
    await streams.put_consumer("s", "d", ConsumerConfig(inactive_after=0.3, filter_subject="a.c"))
    (one,) = await streams.fetch("s", "d")
    assert await streams.fetch("s", "d", wait=0.7) == ()
    await trio.sleep(0.2)
    assert await streams.ack("s", "d", acks([one])) == 1
    await trio.sleep(0.2)
    assert await streams.fetch("s", "d") == ()
    await until(lambda: len(streams.consumers("s")) == 1)
