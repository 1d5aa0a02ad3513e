"""One consumer of the native engine against a plain model: deliveries, acknowledgements, time, seeks, restarts."""

from __future__ import annotations

import tempfile
from pathlib import Path

import msgspec
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from platformd.core.clock import SystemClock
from platformd.core.settings import QueueSettings
from platformd.queues.contract import Ack, ConsumerConfig, Record, StreamConfig
from platformd.queues.native.engine import open_native

SUBJECTS = ("a.x", "a.y", "b")
LATE = 3600.0
"""An ``ack_wait`` that does not end by itself."""
SOON = 0.02
"""One that does: waiting for three of it lets everything that is out come back."""


class Model:
    """What a consumer should be. ``todo`` is in the order of delivery; sequences begin at 1."""

    def __init__(self, config):
        self.config = config
        self.subjects = []
        self.todo = []
        self.out = {}
        self.again = {}
        self.letters = []
        self.exhausted = 0
        self.begin = 1

    @property
    def matching(self):
        pattern = self.config.filter_subject
        return [i for i, s in enumerate(self.subjects, 1) if pattern == ">" or s.startswith(pattern[:-1])]

    def publish(self, subject):
        self.subjects.append(subject)
        if len(self.subjects) in self.matching and len(self.subjects) >= self.begin:
            self.todo.append(len(self.subjects))

    def start(self, policy, sequence):
        """Begin anew; what waits for its letter waits on."""
        last = len(self.subjects)
        newest = {self.subjects[i - 1]: i for i in self.matching}
        ahead = sorted(newest.values()) if policy == "last_per_subject" else []
        self.begin = {
            "all": 1, "new": last + 1, "last": max(self.matching, default=last + 1), "last_per_subject": last + 1,
            "by_sequence": max(sequence, 1),
        }[policy]  # fmt: skip
        self.todo = ahead + [i for i in self.matching if i >= self.begin]
        self.out, self.again = {}, {}

    def fetch(self, most):
        """``(sequence, deliveries)`` of what comes."""
        first = sorted(self.again)[:most]
        held = len(self.out) + len(self.again)
        room = most if self.config.ack_policy == "none" else self.config.max_ack_pending - held
        fresh = self.todo[: max(min(most - len(first), room), 0)]
        del self.todo[: len(fresh)]
        got = [(i, self.again.pop(i) + 1) for i in first] + [(i, 1) for i in fresh]
        if self.config.ack_policy != "none":
            self.out.update(got)
        return got

    def give_up(self, sequence):
        self.out.pop(sequence, None)
        self.again.pop(sequence, None)
        self.exhausted += 1
        self.letters.append(sequence)

    def back(self, sequence):
        """It was out and comes back."""
        times = self.out.pop(sequence)
        if self.config.max_deliver and times >= self.config.max_deliver:
            self.out[sequence] = times
            self.give_up(sequence)
        else:
            self.again[sequence] = times

    def ack(self, acks):
        known = 0
        for ack in acks:
            i = ack.sequence
            if i not in self.out and i not in self.again:
                continue
            known += 1
            if ack.kind == "ack":
                gone = [i] if self.config.ack_policy == "explicit" else [j for j in self._held() if j <= i]
                for j in gone:
                    self.out.pop(j, None)
                    self.again.pop(j, None)
            elif ack.kind == "term":
                self.give_up(i)
            elif ack.kind == "nak" and i in self.out:
                self.back(i)
        return known

    def floor(self, delivered):
        """All below what is out or to come is done, as far as was looked, when no letter is on its way."""
        return min([*self._held(), *self.todo, delivered + 1]) - 1

    def _held(self):
        return [*self.out, *self.again]

    def release(self):
        """Whoever held them is gone, or too late."""
        for i in sorted(self.out):
            self.back(i)


STEPS = st.lists(st.tuples(st.integers(0, 9), st.integers(0, 12), st.integers(0, 3)), min_size=1, max_size=12)
CONFIGS = st.builds(
    ConsumerConfig,
    filter_subject=st.sampled_from([">", "a.>"]),
    ack_policy=st.sampled_from(["explicit", "all", "none"]),
    max_deliver=st.integers(0, 3),
    max_ack_pending=st.integers(1, 6),
    ack_wait=st.just(LATE),
    dead_letter_subject=st.just("dead"),
)


@settings(max_examples=25, deadline=None)
@given(config=CONFIGS, lives=st.lists(STEPS, min_size=1, max_size=4))
def test_a_consumer_is_as_its_model(config, lives):
    """Whatever is done to a consumer, over several lives of the daemon, it delivers and says what its model does."""
    with tempfile.TemporaryDirectory(prefix="pm") as directory:
        trio.run(_lives, Path(directory), config, lives)


async def _lives(directory, config, lives):
    queues = QueueSettings(segment_size="64KiB", max_batch="64KiB", max_record="16KiB")
    model = Model(config)
    for number, steps in enumerate(lives):
        async with open_native(directory / "s", directory / "q", queues, SystemClock()) as streams:
            if number == 0:
                await streams.put_stream("s", StreamConfig(subjects=("a.*", "b")))
                await streams.put_stream("graves", StreamConfig(subjects=("dead",)))
                await streams.put_consumer("s", "c", config)
            await _compare(streams, model)
            for step in steps:
                await _step(streams, model, *step)
                await _compare(streams, model)
        model.release()


async def _step(streams, model, what, number, kind):
    if what < 2:
        subjects = [SUBJECTS[(number + i) % 3] for i in range(number % 4 + 1)]
        await streams.publish([Record(subject=s, payload=b"x") for s in subjects])
        for subject in subjects:
            model.publish(subject)
    elif what < 5:
        await _fetch(streams, model, number % 5 + 1)
    elif what < 8:
        held = sorted([*model.out, *model.again])
        named = [*held[number % 3 :: number % 2 + 1][:3], number]
        acks = [Ack(sequence=s, kind=("ack", "nak", "in_progress", "term")[kind]) for s in dict.fromkeys(named)]
        assert await streams.ack("s", "c", acks) == model.ack(acks)
    elif what == 8:
        policy = ("all", "new", "last", "last_per_subject", "by_sequence")[number % 5]
        await streams.seek("s", "c", policy, sequence=number)
        model.start(policy, number)
    elif not model.todo and model.config.ack_policy != "none":
        await _be_late(streams, model)


async def _fetch(streams, model, most):
    got = await streams.fetch("s", "c", max_records=most)
    assert [(d.sequence, d.deliveries) for d in got] == model.fetch(most)
    assert [d.subject for d in got] == [model.subjects[d.sequence - 1] for d in got]
    return got


async def _be_late(streams, model):
    """What goes out now comes back when its time is over, or is given up. Nothing else is there to come."""
    await streams.put_consumer("s", "c", msgspec.structs.replace(model.config, ack_wait=SOON))
    got = await _fetch(streams, model, 20)
    await streams.put_consumer("s", "c", model.config)
    for delivery in got:
        model.back(delivery.sequence)
    wanted, again = sorted(model.fetch(20)), []
    with trio.fail_after(5):
        while len(again) < len(wanted):
            again += [(d.sequence, d.deliveries) for d in await streams.fetch("s", "c", wait=5)]
        while streams.consumers("s")[0].exhausted < model.exhausted:  # noqa: ASYNC110 (the engine tells nobody)
            await trio.sleep(0.001)
    assert sorted(again) == wanted


async def _compare(streams, model):
    with trio.fail_after(5):  # letters hold the floor and take room until they are stored
        while len(found := await streams.read("graves", limit=1000)) < len(model.letters):  # noqa: ASYNC110
            await trio.sleep(0.001)
        while (info := streams.consumers("s")[0]).ack_floor < model.floor(info.delivered_sequence):  # noqa: ASYNC110
            await trio.sleep(0.001)
    assert sorted(int(d.headers["Dead-Sequence"]) for d in found) == sorted(model.letters)
    assert info.ack_pending == len(model.out) + len(model.again)
    assert (info.pending, info.exhausted) == (len(model.todo), model.exhausted)
