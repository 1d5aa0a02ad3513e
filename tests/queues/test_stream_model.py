"""A stream beside a small model of what it keeps, under random requests, reopening included."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import msgspec
import trio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from platformd.core.clock import SystemClock
from platformd.core.errors import LimitReached, PreconditionFailed
from platformd.core.settings import QueueSettings
from platformd.model.subjects import subject_matches
from platformd.queues.contract import Ack, ConsumerConfig, Record, StreamConfig, Streams
from platformd.queues.native.engine import open_native

SETTINGS = msgspec.structs.replace(QueueSettings(), segment_size="4KiB", max_batch="16KiB", max_record="1KiB")
SUBJECTS = ("a.x", "a.y", "b")
PATTERNS = (">", "a.*", "a.x", "b")
BASE = StreamConfig(subjects=(">",))

STEPS = st.one_of(
    st.tuples(st.just("publish"), st.lists(st.sampled_from(SUBJECTS), min_size=1, max_size=12)),
    st.tuples(st.just("publish"), st.lists(st.sampled_from(SUBJECTS), min_size=1, max_size=12)),
    st.tuples(st.just("purge"), st.sampled_from(PATTERNS), st.integers(0, 60), st.integers(0, 4)),
    st.tuples(
        st.just("configure"),
        st.fixed_dictionaries(
            {
                "max_records": st.sampled_from([0, 0, 3, 10, 30]),
                "max_records_per_subject": st.sampled_from([0, 0, 1, 2, 5]),
                "discard": st.sampled_from(["old", "new"]),
            }
        ),
    ),
    st.tuples(st.just("expect"), st.sampled_from(SUBJECTS), st.integers(0, 40)),
    st.tuples(st.just("fetch"), st.integers(1, 10), st.booleans()),
    st.tuples(st.just("reopen")),
)


class Model:
    """What a stream and one consumer of everything have."""

    def __init__(self) -> None:
        self.config = BASE
        self.kept: dict[int, str] = {}
        self.last = 0
        self.cursor = 1
        self.out: set[int] = set()

    def publish(self, subjects: list[str]) -> bool:
        if self.config.discard == "new" and not self.fits(subjects):
            return False
        for subject in subjects:
            self.last += 1
            self.kept[self.last] = subject
        self.trim()
        return True

    def fits(self, subjects: list[str]) -> bool:
        limit, each = self.config.max_records, self.config.max_records_per_subject
        many = any(len(self.of(s)) + subjects.count(s) > each for s in subjects)
        return not (limit and len(self.kept) + len(subjects) > limit) and not (each and many)

    def of(self, subject: str) -> list[int]:
        return sorted(s for s in self.kept if self.kept[s] == subject)

    def trim(self) -> None:
        limit, each = self.config.max_records, self.config.max_records_per_subject
        if self.config.discard == "new":
            return
        for subject in SUBJECTS:
            if each:
                self.remove(self.of(subject)[:-each])
        if limit:
            self.remove(sorted(self.kept)[: max(0, len(self.kept) - limit)])

    def remove(self, sequences: list[int]) -> None:
        for sequence in sequences:
            del self.kept[sequence]
            self.out.discard(sequence)

    def purge(self, pattern: str, before: int, keep: int) -> int:
        matching = [
            s for s in sorted(self.kept) if subject_matches(pattern, self.kept[s]) and (s < before or not before)
        ]
        self.remove(matching[: max(0, len(matching) - keep)])
        return max(0, len(matching) - keep)

    def fetch(self, count: int) -> list[int]:
        new = [s for s in sorted(self.kept) if s >= self.cursor][:count]
        self.out |= set(new)
        self.cursor = new[-1] + 1 if new else self.cursor
        return new

    def ahead(self) -> int:
        return sum(s >= self.cursor for s in self.kept)


async def compare(streams: Streams, model: Model) -> None:
    info = streams.stream("s")
    there = {d.sequence: d.subject for d in await streams.read("s", limit=10_000)}
    assert there == model.kept
    assert (info.messages, info.last_sequence) == (len(model.kept), model.last)
    assert info.first_sequence == min(model.kept, default=model.last + 1)
    assert (info.bytes > 0) == bool(model.kept)
    consumer = streams.consumers("s")[0]
    assert (consumer.pending, consumer.ack_pending) == (model.ahead(), len(model.out))


async def publish(streams: Streams, model: Model, subjects: list[str]) -> None:
    batch = [Record(subject=s, payload=bytes(150)) for s in subjects]
    expected = model.last + 1
    try:
        first = (await streams.publish(batch, durability="os")).first_sequence
    except LimitReached:
        assert not model.publish(subjects)
    else:
        assert first == expected
        assert model.publish(subjects)


async def purge(streams: Streams, model: Model, subject: str, before: int, keep: int) -> None:
    assert await streams.purge("s", subject=subject, before=before, keep=keep) == model.purge(subject, before, keep)


async def configure(streams: Streams, model: Model, changes: dict[str, Any]) -> None:
    model.config = msgspec.structs.replace(BASE, **changes)
    await streams.put_stream("s", model.config)
    model.trim()


async def expect(streams: Streams, model: Model, subject: str, wanted: int) -> None:
    """Publish if the newest record of the subject is as wanted, and then if it is as it is."""
    newest = max(model.of(subject), default=0)
    for expected in dict.fromkeys([wanted, newest]):
        try:
            await streams.publish([Record(subject=subject, payload=b"")], expect_last_subject_sequence=expected)
        except PreconditionFailed:
            assert expected != newest
        except LimitReached:
            assert expected == newest
            assert not model.publish([subject])
        else:
            assert expected == newest
            assert model.publish([subject])
            newest = model.last


async def fetch(streams: Streams, model: Model, count: int, acknowledge: bool) -> None:
    taken = [d.sequence for d in await streams.fetch("s", "c", max_records=count)]
    assert taken == model.fetch(count)
    if acknowledge:
        await streams.ack("s", "c", [Ack(sequence=s) for s in taken])
        model.out -= set(taken)


ACTIONS = {"publish": publish, "purge": purge, "configure": configure, "expect": expect, "fetch": fetch}


async def follow(steps: list[tuple[Any, ...]]) -> None:
    model = Model()
    with tempfile.TemporaryDirectory(prefix="pdm") as name:
        for begin in [-1, *(i for i, step in enumerate(steps) if step[0] == "reopen")]:
            run = steps[begin + 1 :]
            async with open_native(Path(name, "d"), Path(name), SETTINGS, SystemClock()) as streams:
                if begin < 0:
                    await streams.put_stream("s", BASE)
                    await streams.put_consumer("s", "c", ConsumerConfig(ack_wait=3600))
                elif model.out:  # who held them is gone
                    again = [d.sequence for d in await streams.fetch("s", "c", max_records=len(model.out))]
                    assert again == sorted(model.out)
                await compare(streams, model)
                for step in run:
                    if step[0] == "reopen":
                        break
                    await ACTIONS[step[0]](streams, model, *step[1:])
                    await compare(streams, model)


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(STEPS, max_size=30))
def test_a_stream_keeps_what_its_model_keeps(steps: list[tuple[Any, ...]]) -> None:
    """Publishing, purging, limits that change, consuming and reopening leave exactly the records that they should."""
    trio.run(follow, steps)
