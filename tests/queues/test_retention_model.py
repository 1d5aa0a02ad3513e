"""Work queues and streams by interest beside a small model of who still needs what, under random requests."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import msgspec
import trio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from platformd.core.clock import SystemClock
from platformd.core.settings import QueueSettings
from platformd.model.subjects import subject_matches
from platformd.queues.contract import Ack, ConsumerConfig, Record, Retention, StreamConfig, Streams
from platformd.queues.native.engine import open_native

SETTINGS = msgspec.structs.replace(QueueSettings(), segment_size="4KiB", max_batch="16KiB", max_record="1KiB")
SUBJECTS = ("a.x", "a.y", "b")
FILTERS: dict[Retention, dict[str, str]] = {
    "interest": {"c": "a.*", "d": "a.x", "e": ">"},
    "work_queue": {"c": "a.*", "d": "b"},
}

NAMES = st.sampled_from(["c", "d", "e"])
STEPS = st.one_of(
    st.tuples(st.just("publish"), st.lists(st.sampled_from(SUBJECTS), min_size=1, max_size=12)),
    st.tuples(st.just("publish"), st.lists(st.sampled_from(SUBJECTS), min_size=1, max_size=12)),
    st.tuples(st.just("create"), NAMES),
    st.tuples(st.just("create"), NAMES),
    st.tuples(st.just("delete"), NAMES),
    st.tuples(st.just("fetch"), NAMES, st.integers(1, 10)),
    st.tuples(st.just("ack"), NAMES, st.integers(0, 30), st.sampled_from(["ack", "term"])),
    st.tuples(st.just("ack"), NAMES, st.integers(0, 30), st.just("ack")),
    st.tuples(st.just("purge"), st.sampled_from(SUBJECTS)),
    st.tuples(st.just("reopen")),
)


class Cursor(msgspec.Struct):
    """A consumer."""

    pattern: str
    next: int = 1
    out: list[int] = []

    def done(self, sequence: int) -> bool:
        return sequence < self.next and sequence not in self.out


class Model:
    """A stream, its consumers, and who needs what."""

    def __init__(self, retention: Retention) -> None:
        self.retention = retention
        self.kept: dict[int, str] = {}
        self.last = 0
        self.cursors: dict[str, Cursor] = {}

    def needed(self, sequence: int, subject: str) -> bool:
        matching = [c for c in self.cursors.values() if subject_matches(c.pattern, subject)]
        if self.retention == "work_queue" and not matching:
            return True
        return any(not c.done(sequence) for c in matching)

    def settle(self) -> None:
        self.kept = {s: subject for s, subject in self.kept.items() if self.needed(s, subject)}

    def ahead(self, cursor: Cursor) -> list[int]:
        return [s for s in sorted(self.kept) if s >= cursor.next and subject_matches(cursor.pattern, self.kept[s])]


async def compare(streams: Streams, model: Model) -> None:
    there: dict[int, str] = {}
    with trio.move_on_after(2):
        while True:  # what concerns many records at once goes a moment later
            there = {d.sequence: d.subject for d in await streams.read("s", limit=10_000)}
            if there == model.kept:
                break
            await trio.sleep(0.001)
    assert there == model.kept
    info = streams.stream("s")
    assert (info.messages, info.last_sequence) == (len(model.kept), model.last)
    states = {c.name: (c.pending, c.ack_pending) for c in streams.consumers("s")}
    assert states == {name: (len(model.ahead(c)), len(c.out)) for name, c in model.cursors.items()}


async def publish(streams: Streams, model: Model, subjects: list[str]) -> None:
    await streams.publish([Record(subject=s, payload=bytes(150)) for s in subjects], durability="os")
    for subject in subjects:
        model.last += 1
        model.kept[model.last] = subject


async def create(streams: Streams, model: Model, name: str) -> None:
    pattern = FILTERS[model.retention].get(name)
    if pattern is not None:
        await streams.put_consumer("s", name, ConsumerConfig(filter_subject=pattern, ack_wait=3600))
        model.cursors.setdefault(name, Cursor(pattern))


async def delete(streams: Streams, model: Model, name: str) -> None:
    if model.cursors.pop(name, None) is not None:
        await streams.delete_consumer("s", name)


async def fetch(streams: Streams, model: Model, name: str, count: int) -> None:
    cursor = model.cursors.get(name)
    if cursor is not None:
        taken = [d.sequence for d in await streams.fetch("s", name, max_records=count)]
        assert taken == model.ahead(cursor)[:count]
        cursor.out += taken
        cursor.next = taken[-1] + 1 if taken else cursor.next


async def ack(streams: Streams, model: Model, name: str, which: int, kind: Any) -> None:
    cursor = model.cursors.get(name)
    if cursor is not None:
        chosen = cursor.out[which % 3 :: 1 + which % 4]
        assert await streams.ack("s", name, [Ack(sequence=s, kind=kind) for s in chosen]) == len(chosen)
        cursor.out = [s for s in cursor.out if s not in chosen]


async def purge(streams: Streams, model: Model, subject: str) -> None:
    gone = {s for s in model.kept if model.kept[s] == subject}
    assert await streams.purge("s", subject=subject) == len(gone)
    model.kept = {s: kept for s, kept in model.kept.items() if s not in gone}
    for cursor in model.cursors.values():
        cursor.out = [s for s in cursor.out if s not in gone]


ACTIONS = {"publish": publish, "create": create, "delete": delete, "fetch": fetch, "ack": ack, "purge": purge}


async def take_back(streams: Streams, model: Model) -> None:
    """What was out when the engine was closed is delivered again."""
    for name, cursor in model.cursors.items():
        if cursor.out:
            again = await streams.fetch("s", name, max_records=len(cursor.out))
            assert [d.sequence for d in again] == cursor.out


async def follow(retention: Retention, steps: list[tuple[Any, ...]]) -> None:
    model = Model(retention)
    with tempfile.TemporaryDirectory(prefix="pdm") as name:
        for begin in [-1, *(i for i, step in enumerate(steps) if step[0] == "reopen")]:
            async with open_native(Path(name, "d"), Path(name), SETTINGS, SystemClock()) as streams:
                if begin < 0:
                    await streams.put_stream("s", StreamConfig(subjects=(">",), retention=retention))
                await take_back(streams, model)
                for step in steps[begin + 1 :]:
                    if step[0] == "reopen":
                        break
                    await ACTIONS[step[0]](streams, model, *step[1:])
                    model.settle()
                    await compare(streams, model)


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.sampled_from(["interest", "work_queue"]), st.lists(STEPS, max_size=30))
def test_a_record_stays_as_long_as_somebody_needs_it(retention: Retention, steps: list[tuple[Any, ...]]) -> None:
    """Consumers that come, go, fetch and acknowledge, purges and reopening leave exactly what is still needed."""
    trio.run(follow, retention, steps)
