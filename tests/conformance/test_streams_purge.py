"""What every queue engine promises of records that are removed: by purging, by limits, also when it is killed."""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path

import pytest
import trio

from platformd.core.errors import InvalidInput, NotFound, Unsupported
from platformd.queues.contract import ConsumerConfig, Record, StreamConfig
from tests.conformance.streams_engines import ENGINES, acks, payloads, records

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


async def sequences(streams) -> list[int]:
    return [d.sequence for d in await streams.read("s", limit=10_000)]


async def test_a_purge_leaves_gaps_and_no_new_numbers(engine):
    """What is purged by subject is gone, the rest keeps its sequences, and new records go on behind; also reopened."""
    async with engine.open() as streams:
        await streams.put_stream("s", A)
        for i in range(4):
            await streams.publish(records(f"x{i}", subject="a.x") + records(f"y{i}", subject="a.y"))
        assert await streams.purge("s", subject="a.x") == 4
        assert await streams.purge("s", subject="a.x") == 0
        assert await sequences(streams) == [2, 4, 6, 8]
        assert (await streams.publish(records("new"))).first_sequence == 9
    async with engine.open() as streams:
        assert payloads(await streams.read("s")) == ["y0", "y1", "y2", "y3", "new"]
        info = streams.stream("s")
        assert (info.messages, info.first_sequence, info.last_sequence) == (5, 2, 9)


async def test_before_and_keep(streams, engine):
    """``before`` spares what is at it or behind, ``keep`` the newest of what would go; not every engine does both."""
    await streams.publish(records(*"abcdefgh"))
    assert await streams.purge("s", before=4) == 3
    if "purge before and keep" in engine.refuses:
        with pytest.raises(Unsupported, match="before and keep"):
            await streams.purge("s", before=7, keep=2)
        await streams.purge("s", before=5)
    else:
        assert await streams.purge("s", before=7, keep=2) == 1
    assert await sequences(streams) == [5, 6, 7, 8]
    await streams.publish(records("x", "y", subject="a.x"))
    assert await streams.purge("s", subject="a.x", keep=1) == 1
    assert await streams.purge("s", keep=9) == 0
    assert await streams.purge("s", keep=2) == 3
    assert await sequences(streams) == [8, 10]


async def test_everything_can_go(engine):
    """An empty stream knows its last sequence, also reopened."""
    async with engine.open() as streams:
        await streams.put_stream("s", A)
        for _ in range(5):
            await streams.publish([Record(subject="a.b", payload=bytes(30_000))] * 8)
        assert await streams.purge("s") == 40
        info = streams.stream("s")
        assert (info.messages, info.bytes, info.first_sequence, info.last_sequence) == (0, 0, 41, 40)
        assert (info.first_time_ns, info.last_time_ns > 0) == (0, True)
    async with engine.open() as streams:
        assert (streams.stream("s").messages, streams.stream("s").last_sequence) == (0, 40)
        assert (await streams.publish(records("1"))).first_sequence == 41


async def test_consumers_pass_over_what_is_gone(streams):
    """What is purged is neither lag nor out, and a consumer takes what is left in order."""
    await streams.put_consumer("s", "c", ConsumerConfig(filter_subject="a.y"))
    await streams.put_consumer("s", "all", ConsumerConfig())
    for i in range(5):
        await streams.publish(records(f"x{i}", subject="a.x") + records(f"y{i}", subject="a.y"))
    taken = await streams.fetch("s", "all", max_records=4)
    assert len(taken) == 4
    await streams.purge("s", before=4)
    await streams.purge("s", subject="a.x", before=8)
    lags = {info.name: (info.pending, info.ack_pending) for info in streams.consumers("s")}
    assert lags == {"c": (4, 0), "all": (4, 1)}
    assert await streams.ack("s", "all", acks(taken)) == 1
    assert payloads(await streams.fetch("s", "all")) == ["y2", "y3", "x4", "y4"]
    assert payloads(await streams.fetch("s", "c")) == ["y1", "y2", "y3", "y4"]


async def test_consumers_begin_at_what_is_left(streams):
    """``last`` and ``last_per_subject`` mean records that are kept; one that goes before it was delivered is no lag."""
    for i in range(4):
        await streams.publish(records(f"x{i}", subject="a.x") + records(f"y{i}", subject="a.y"))
    await streams.purge("s", subject="a.y")
    await streams.publish(records("z", subject="a.z"))
    await streams.put_consumer("s", "last", ConsumerConfig(deliver_policy="last", filter_subject="a.*"))
    await streams.put_consumer("s", "each", ConsumerConfig(deliver_policy="last_per_subject"))
    assert payloads(await streams.fetch("s", "each", max_records=1)) == ["x3"]
    await streams.purge("s", subject="a.z")
    await streams.put_consumer("s", "later", ConsumerConfig(deliver_policy="last"))
    assert [(c.name, c.pending) for c in streams.consumers("s")] == [("each", 0), ("last", 0), ("later", 1)]
    assert payloads(await streams.fetch("s", "later")) == ["x3"]
    assert await streams.fetch("s", "last") == ()
    assert await streams.fetch("s", "each") == ()


async def test_purging_what_is_not_there(streams):
    """A stream that is not there and a subject that is none are refused."""
    with pytest.raises(NotFound):
        await streams.purge("t")
    with pytest.raises(InvalidInput):
        await streams.purge("s", subject="a..b")


async def test_the_oldest_records_give_way(engine):
    """Over ``max_records`` the oldest go, exactly, and stay gone when the limit is lifted and after a restart."""
    limited = StreamConfig(subjects=("a.>",), max_records=5)
    async with engine.open() as streams:
        await streams.put_stream("s", limited)
        await streams.put_consumer("s", "c", ConsumerConfig())
        for i in range(4):
            await streams.publish(records(*(f"{i}{j}" for j in range(3))))
        assert payloads(await streams.read("s")) == ["21", "22", "30", "31", "32"][-5:]
        assert streams.consumers("s")[0].pending == 5
        await streams.put_stream("s", StreamConfig(subjects=("a.>",), max_records=2))
        await streams.put_stream("s", A)
    async with engine.open() as streams:
        assert payloads(await streams.read("s")) == ["31", "32"]
        assert payloads(await streams.fetch("s", "c")) == ["31", "32"]


def kill_while_erasing(engine, how: str, lines: int) -> list[str]:
    """What a process that publishes and removes said until it was killed after so many ``lines``."""
    module = "tests.conformance.streams_eraser"
    command = [sys.executable, "-m", module, engine.name, str(engine.directory.parent), how]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2]) as process:
        assert process.stdout is not None
        said = [process.stdout.readline() for _ in range(lines)]
        process.kill()
        said += process.stdout.readlines()
    return [line.strip() for line in said if line.endswith("\n")]


def follow(said: list[str], kept: dict[int, str]) -> set[int]:
    """Do to ``kept`` what was said; of which sequences it is not known whether they were removed."""
    doubtful: set[int] = set()
    for line, following in zip(said, [*said[1:], ""], strict=True):
        word, *arguments = line.split()
        gone: set[int] = set()
        if word == "published":
            first, count = map(int, arguments)
            kept.update({s: "xy"[s % 2] for s in range(first, first + count)})
        elif word == "purging":
            gone = {s for s, subject in kept.items() if s < int(arguments[1]) and arguments[0] in (subject, ">")}
        elif word == "acking":
            gone = {int(s) for s in arguments}
        if not following:
            doubtful = gone
        for sequence in gone:
            kept.pop(sequence, None)
    return doubtful


async def check_after_kill(engine, said: list[str], kept: dict[int, str]) -> None:
    """Follow what it ``said`` in ``kept``, and compare with what is there, but for what was under way."""
    doubtful = follow(said, kept)
    async with engine.open() as streams:
        there = {d.sequence: d.subject.removeprefix("a.") for d in await streams.read("s", limit=16_384)}
        info = streams.stream("s")
        consumer = streams.consumers("s")[0]
    last = max(kept.keys() | doubtful, default=0)
    assert {s for s in there if s <= last} - doubtful == {s for s in kept if s <= last}
    assert all(there[s] == subject for s, subject in kept.items())
    assert (info.messages, consumer.pending + consumer.ack_pending) == (len(there), len(there))
    kept.clear()
    kept.update(there)


@pytest.mark.parametrize("how", ["purge", "queue"])
@pytest.mark.parametrize("rounds", [4, pytest.param(100, marks=pytest.mark.slow)])
async def test_kill_9_brings_nothing_back_and_loses_nothing(engine, rounds, how):
    """Killed at any moment: no record is lost, none that was purged or acknowledged is back, none is renumbered."""
    generator = random.Random(rounds)
    kept: dict[int, str] = {}
    for _ in range(rounds):
        said = await trio.to_thread.run_sync(kill_while_erasing, engine, how, generator.randrange(20, 300))
        await check_after_kill(engine, said, kept)
    assert kept
