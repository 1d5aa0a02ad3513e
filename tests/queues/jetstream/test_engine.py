"""What the JetStream engine does beside what every engine does: policies, dead letters, sites, and its own refusals."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from platformd.core.errors import (
    Conflict,
    InvalidInput,
    LimitReached,
    NotFound,
    PreconditionFailed,
    TooLarge,
    Unsupported,
)
from platformd.core.settings_engines import NatsSettings
from platformd.queues.contract import DEAD_LETTER_HEADERS, ConsumerConfig, Record, StreamConfig
from platformd.queues.jetstream import reading, wire
from platformd.queues.jetstream.client import Client
from tests.conformance.streams_engines import acks, payloads, records

A = StreamConfig(subjects=("a.>",))


@pytest.fixture
async def streams(engine):
    """The engine, open, with the streams ``s`` and ``dead``."""
    async with engine() as opened:
        await opened.put_stream("s", A)
        await opened.put_stream("dead", StreamConfig(subjects=("dead.>",)))
        yield opened


async def eventually(condition):
    with trio.fail_after(5):
        while not condition():  # noqa: ASYNC110 (counts tell nobody)
            await trio.sleep(0.01)


async def raw(url, subject, body=b"", headers=b""):
    """Ask the server something as another program would."""
    client = Client(NatsSettings(servers=(url,)))
    async with trio.open_nursery() as nursery:
        await nursery.start(client.run, trio.lowlevel.checkpoint)
        with client.inbox() as inbox:
            client.send(wire.publish(subject.encode(), body, reply=inbox.address, headers=headers), inbox)
            answer = await inbox.get(trio.current_time() + 5)
        nursery.cancel_scope.cancel()
    return answer.payload


def info(streams, name="c"):
    return next(c for c in streams.consumers("s") if c.name == name)


async def letters(streams):
    found = await streams.read("dead")
    return [(d.payload.decode(), d.headers["Dead-Reason"], d.headers["Dead-Deliveries"]) for d in found]


DYING = ConsumerConfig(max_deliver=2, ack_wait=0.1, dead_letter_subject="dead.s")


async def test_dead_letters_say_where_they_come_from(streams):
    """A record that is terminated, or refused once too often, is at the dead letter subject before it is done."""
    await streams.put_consumer("s", "c", ConsumerConfig(max_deliver=2, dead_letter_subject="dead.s"))
    await streams.publish([Record(subject="a.b", payload=b"1", msg_id="i", headers={"k": "v"}, time_ns=5)])
    await streams.publish(records("2", "3"))
    one, two, three = await streams.fetch("s", "c")
    assert await streams.ack("s", "c", acks([three])) == 1
    assert await streams.ack("s", "c", [*acks([two], "nak"), acks([one], "term")[0]]) == 2
    (again,) = await streams.fetch("s", "c", wait=5)
    assert await streams.ack("s", "c", acks([again], "nak")) == 1
    assert await letters(streams) == [("1", "term", "1"), ("2", "max_deliver", "2")]
    letter, _ = await streams.read("dead")
    assert (letter.subject, letter.msg_id, letter.time_ns, letter.headers["k"]) == ("dead.s", "s/c/1", 5, "v")
    said = tuple(letter.headers[name] for name in DEAD_LETTER_HEADERS)
    assert said == ("term", "s", "c", "1", "a.b", "1", "i")
    assert (info(streams).exhausted, info(streams).ack_floor, info(streams).ack_pending) == (2, 3, 0)


async def test_late_records_die_too(streams):
    """A record that nobody acknowledges after its last delivery is given up when it is late, whoever asks or not."""
    await streams.put_consumer("s", "c", DYING)
    await streams.publish(records("1"))
    for times in (1, 2):
        (delivery,) = await streams.fetch("s", "c", wait=5)
        assert delivery.deliveries == times
    await eventually(lambda: info(streams).ack_floor == 1)
    assert info(streams).exhausted == 1
    assert await letters(streams) == [("1", "max_deliver", "2")]
    assert await streams.ack("s", "c", acks([delivery])) == 0


async def test_a_record_that_comes_once_too_often_is_not_handed_on(engine):
    """What was out at its last delivery when the daemon ended is given up by the next one, with its letter."""
    async with engine() as streams:
        await streams.put_stream("s", A)
        await streams.put_stream("dead", StreamConfig(subjects=("dead.>",)))
        await streams.put_consumer("s", "c", ConsumerConfig(max_deliver=1, dead_letter_subject="dead.s"))
        await streams.publish(records("1", "2"))
        assert len(await streams.fetch("s", "c", max_records=1)) == 1
    async with engine() as streams:
        assert payloads(await streams.fetch("s", "c")) == ["2"]
        assert await letters(streams) == [("1", "max_deliver", "1")]
        await eventually(lambda: info(streams).ack_pending == 1)


async def test_letters_that_cannot_be_written_are_tried_again(streams):
    """While nobody takes dead letters the record is not done, and somebody is told; then it goes on by itself."""
    await streams.put_consumer("s", "c", ConsumerConfig(dead_letter_subject="dead.s"))
    await streams.publish(records("1"))
    await streams.delete_stream("dead")
    async with streams.advisories() as told:
        await streams.ack("s", "c", acks(await streams.fetch("s", "c"), "term"))
        assert (info(streams).exhausted, info(streams).ack_pending, info(streams).ack_floor) == (1, 0, 0)
        with trio.fail_after(5):
            given_up, failed = await anext(told), await anext(told)
    assert (given_up.kind, given_up.stream, given_up.consumer) == ("exhausted", "s", "c")
    assert (failed.kind, failed.stream, failed.consumer) == ("dead_letter_failed", "s", "c")
    await streams.put_stream("dead", StreamConfig(subjects=("dead.>",)))
    await eventually(lambda: info(streams).ack_floor == 1)
    assert await letters(streams) == [("1", "term", "1")]


async def test_dead_letters_need_a_place(streams):
    """A subject that nobody captures is not found; the consumer's own stream would go round in circles."""
    with pytest.raises(NotFound, match="nowhere"):
        await streams.put_consumer("s", "c", ConsumerConfig(dead_letter_subject="nowhere"))
    with pytest.raises(InvalidInput, match="own stream"):
        await streams.put_consumer("s", "c", ConsumerConfig(dead_letter_subject="a.dead"))


async def test_reaching_max_ack_pending_is_told_once(streams):
    """An advisory when fetches begin to wait, and one when they go on."""
    await streams.put_consumer("s", "c", ConsumerConfig(max_ack_pending=2))
    await streams.publish(records("1", "2", "3"))
    async with streams.advisories() as told:
        out = await streams.fetch("s", "c")
        assert await streams.fetch("s", "c") == await streams.fetch("s", "c") == ()
        await streams.ack("s", "c", acks(out))
        with trio.fail_after(5):
            assert [(await anext(told)).kind for _ in range(2)] == ["stalled", "resumed"]
    assert info(streams).stalled == 3


async def test_idle_consumers_are_removed(streams):
    """A consumer that nobody uses for ``inactive_after`` is gone, and somebody is told."""
    async with streams.advisories() as told:
        await streams.put_consumer("s", "c", ConsumerConfig(inactive_after=0.1))
        with trio.fail_after(10):
            removed = await anext(told)
        assert (removed.kind, removed.stream, removed.consumer) == ("consumer_removed", "s", "c")
    assert streams.consumers("s") == ()


async def test_a_work_queue_empties(streams):
    """Acknowledged records are gone; consumers may not overlap, and begin at the beginning."""
    await streams.put_stream("w", StreamConfig(subjects=("w.>",), retention="work_queue"))
    await streams.publish(records("1", "2", "3", subject="w.a"))
    await streams.put_consumer("w", "a", ConsumerConfig(filter_subject="w.a"))
    with pytest.raises(Conflict):
        await streams.put_consumer("w", "all", ConsumerConfig())
    with pytest.raises(Unsupported, match="explicit"):
        await streams.put_consumer("w", "b", ConsumerConfig(filter_subject="w.b", ack_policy="all"))
    await streams.put_consumer("w", "b", ConsumerConfig(filter_subject="w.b"))
    _, two, _ = await streams.fetch("w", "a")
    await streams.ack("w", "a", acks([two]))
    await eventually(lambda: streams.stream("w").messages == 2)
    assert payloads(await streams.read("w")) == ["1", "3"]
    with pytest.raises(Unsupported, match="retention"):
        await streams.put_stream("w", StreamConfig(subjects=("w.>",)))


async def test_interest_keeps_what_somebody_waits_for(streams):
    """Without a consumer nothing is kept; with some, until all have acknowledged. There is no way back."""
    await streams.put_stream("i", StreamConfig(subjects=("i.>",), retention="interest"))
    assert (await streams.publish(records("nobody", subject="i.a"))).first_sequence == 1
    assert streams.stream("i").messages == 0
    for name in ("a", "b"):
        await streams.put_consumer("i", name, ConsumerConfig())
    await streams.publish(records("2", subject="i.a"))
    for name, left in (("a", 1), ("b", 0)):
        await streams.ack("i", name, acks(await streams.fetch("i", name)))
        await eventually(lambda left=left: streams.stream("i").messages == left)
    with pytest.raises(Unsupported, match="interest"):
        await streams.seek("i", "a", "all")


async def test_records_are_read_one_by_one_where_many_cannot_be(streams, monkeypatch):
    """As from servers before 2.11, and from the leader in a cluster: payloads, headers and all, whatever bytes."""
    monkeypatch.setattr(reading, "MANY_AT_ONCE", (99, 0))
    everything = bytes(range(256))
    written = Record(subject="a.b", payload=everything, msg_id="1", headers={"k": "v"}, time_ns=7)
    await streams.publish([written, Record(subject="a.c", payload=b""), Record(subject="a.b", payload=b"no base64")])
    first, second = await streams.read("s", subject="a.b")
    assert (first.payload, first.msg_id, first.headers, first.time_ns) == (everything, "1", {"k": "v"}, 7)
    assert (second.payload, second.sequence) == (b"no base64", 3)
    assert len(await streams.read("s")) == 3


async def test_limits_of_a_subject(streams):
    """The oldest of a subject give way, or what is new is refused with the limit."""
    await streams.put_stream("o", StreamConfig(subjects=("o.>",), max_records_per_subject=2))
    await streams.put_stream("n", StreamConfig(subjects=("n.>",), max_records_per_subject=2, discard="new"))
    for name in "on":
        await streams.publish(records("1", "2", subject=f"{name}.a") + records("3", subject=f"{name}.b"))
    await streams.publish(records("4", subject="o.a"))
    assert payloads(await streams.read("o")) == ["2", "3", "4"]
    with pytest.raises(LimitReached, match="max_records_per_subject 2"):
        await streams.publish(records("4", subject="n.b") + records("5", subject="n.a"))
    assert payloads(await streams.read("n")) == ["1", "2", "3"]


async def test_an_expected_subject_sequence(streams):
    """A batch is stored as a whole only if the newest record on its subject is the expected one."""
    await streams.publish(records("1", subject="a.x") + records("2", subject="a.y"))
    with pytest.raises(PreconditionFailed, match="wrong last sequence"):
        await streams.publish(records("3", "4", subject="a.x"), expect_last_subject_sequence=2)
    await streams.publish(records("3", "4", subject="a.x"), expect_last_subject_sequence=1)
    await streams.publish(records("5", subject="a.z"), expect_last_subject_sequence=0)
    assert payloads(await streams.read("s")) == ["1", "2", "3", "4", "5"]


async def test_sites_share_a_server(engine):
    """Two prefixes have the same names and subjects, and nothing of each other."""
    async with engine("n", prefix="north") as north, engine("s", prefix="south") as south, engine("b") as bare:
        for site in (north, south):
            await site.put_stream("tenant..s.t", A)
            await site.put_consumer("tenant..s.t", "c.d", ConsumerConfig(filter_subject="a.*"))
        await north.publish(records("n"))
        assert payloads(await north.fetch("tenant..s.t", "c.d")) == ["n"]
        assert await south.fetch("tenant..s.t", "c.d") == ()
        assert [s.name for s in north.streams()] == ["tenant..s.t"]
        assert [d.subject for d in await north.read("tenant..s.t")] == ["a.b"]
        assert bare.streams() == ()
        await bare.put_stream("s", A)
    async with engine("n", prefix="north") as north:
        assert [s.name for s in north.streams()] == ["tenant..s.t"]
        assert [c.name for c in north.consumers("tenant..s.t")] == ["c.d"]


async def test_other_programs_streams_are_left_alone(engine, server):
    """What has no configuration of ours is not ours: not listed, not changed, and in the way by name."""
    await raw(server.url, "$JS.API.STREAM.CREATE.theirs", b'{"name":"theirs","subjects":["t.>"]}')
    async with engine() as streams:
        assert streams.streams() == ()
        with pytest.raises(Conflict, match="name already in use"):
            await streams.put_stream("theirs", A)
        with pytest.raises(Conflict, match="overlap"):
            await streams.put_stream("s", StreamConfig(subjects=("t.a",)))


async def test_other_programs_records_are_read(streams, server):
    """What a plain NATS client publishes comes with its headers, and with the time of its storing as its own."""
    headers = wire.encode_headers([("Nats-Msg-Id", "7"), ("x", "y")])
    assert b'"seq":1' in await raw(server.url, "a.b", b"plain", headers)
    await eventually(lambda: streams.stream("s").last_sequence == 1)
    (record,) = await streams.read("s")
    assert (record.payload, record.msg_id, record.headers) == (b"plain", "7", {"x": "y"})
    assert record.time_ns == record.append_time_ns > 0


async def test_fsync_is_only_said_where_it_is_so(engine):
    """Where the servers are not known to sync, an acknowledgement never claims it; the others are what they say."""
    async with engine(sync="interval") as streams:
        await streams.put_stream("s", A)
        with pytest.raises(Unsupported, match="sync_interval: always") as refused:
            await streams.publish(records("x"))
        assert "durability os" in str(refused.value)
        for durability in ("os", "memory"):
            assert (await streams.publish(records("x"), durability=durability)).appended == 1
        assert streams.stream("s").messages == 2


@pytest.mark.parametrize(
    "wrong",
    [
        {"duplicate_window": 0.05},
        {"max_age": 0.05, "duplicate_window": 0.0},
        {"max_age": 60.0, "duplicate_window": 61.0},
        {"duplicate_limit": 10},
        {"compression": "zstd"},
    ],
)
async def test_streams_that_jetstream_cannot_keep(streams, wrong):
    """Each is refused by its name, with what can be, and nothing is made."""
    with pytest.raises(Unsupported, match=next(iter(wrong))):
        await streams.put_stream("x", StreamConfig(subjects=("x",), **wrong))
    assert [s.name for s in streams.streams()] == ["dead", "s"]


async def test_records_that_jetstream_cannot_keep(streams):
    """The server's own limit is named, also for headers; nothing of the batch is stored."""
    for record in (
        Record(subject="a.b", payload=bytes(1 << 20)),
        Record(subject="a.b", payload=b"", headers={"k": "x" * 70_000}),
    ):
        with pytest.raises(TooLarge, match=r"1048576|65535"):
            await streams.publish([*records("1"), record])
    assert streams.stream("s").messages == 0


async def test_a_seek_wakes_who_waits(streams):
    """A fetch that waits at the end gets what a seek goes back to."""
    await streams.put_consumer("s", "c", ConsumerConfig())
    await streams.publish(records("1"))
    await streams.ack("s", "c", acks(await streams.fetch("s", "c")))
    async with trio.open_nursery() as nursery:

        async def wait():
            with trio.fail_after(5):
                assert payloads(await streams.fetch("s", "c", wait=30)) == ["1"]

        nursery.start_soon(wait)
        await trio.testing.wait_all_tasks_blocked(0.02)
        await streams.seek("s", "c", "all")


async def keep(streams):
    """Fetch and refuse at once, if there is time for it: what was handed over belongs to who got it."""
    deliveries = await streams.fetch("s", "c", wait=30)
    with trio.CancelScope(shield=True):
        await streams.ack("s", "c", acks(deliveries, "nak"))


async def test_a_cancelled_fetch_takes_nothing_with_it(streams):
    """What comes for a fetch that was cancelled is there for the next one."""
    await streams.put_consumer("s", "c", ConsumerConfig())
    for i in range(20):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(keep, streams)
            await trio.sleep(0.002)
            await streams.publish(records(str(i)))
            nursery.cancel_scope.cancel()
    got = []
    with trio.fail_after(10):
        while len(got) < 20:
            deliveries = await streams.fetch("s", "c", wait=1)
            await streams.ack("s", "c", acks(deliveries))
            got += payloads(deliveries)
    assert sorted(got, key=int) == [str(i) for i in range(20)]


async def test_a_slow_listener_loses_the_oldest(streams, monkeypatch):
    """One who does not listen is told how many advisories were lost."""
    monkeypatch.setattr("platformd.queues.jetstream.advisories.MAX_ADVISORIES", 2)
    await streams.put_consumer("s", "c", ConsumerConfig())
    await streams.publish(records("1", "2", "3"))
    async with streams.advisories() as told:
        for delivery in await streams.fetch("s", "c"):
            await streams.ack("s", "c", acks([delivery], "term"))
        with trio.fail_after(5):
            first, second = await anext(told), await anext(told)
    assert "record 2" in first.detail
    assert "1 advisories before this one were lost" in first.detail
    assert "lost" not in second.detail
