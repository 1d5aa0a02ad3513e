"""The Streams contract on JetStream: the face, and what is known of streams and consumers.

Each operation has a module of its own (``publishing``, ``reading``, ``taking``, ``acking``); here they are given the
streams and consumers they are about. What is there is read when the engine opens, changed when we change it, and looked
through every ``status_interval`` for what changed without us.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any

import trio

from platformd.core.clock import Clock
from platformd.core.errors import Conflict, InvalidInput, LimitReached, NotFound, PlatformError, Unavailable
from platformd.core.settings import QueueSettings
from platformd.core.settings_engines import NatsSettings
from platformd.model.subjects import patterns_overlap, subject_error
from platformd.queues.checks import (
    check_pattern,
    check_same_start,
    check_subjects,
    named,
    no_consumer,
    no_stream,
    whole,
)
from platformd.queues.codec import encode_batch
from platformd.queues.codec.frames import check_name
from platformd.queues.contract import (
    Ack,
    Advisory,
    ConsumerConfig,
    ConsumerInfo,
    DeliverPolicy,
    Delivery,
    Durability,
    Published,
    Record,
    StreamConfig,
    StreamInfo,
)
from platformd.queues.encodings.checkers import Checkers
from platformd.queues.jetstream import limits
from platformd.queues.jetstream.acking import Acker
from platformd.queues.jetstream.advisories import Advisories
from platformd.queues.jetstream.api import Api, Purged
from platformd.queues.jetstream.client import Client
from platformd.queues.jetstream.giving_up import GivingUp
from platformd.queues.jetstream.inventory import Inventory
from platformd.queues.jetstream.names import Names
from platformd.queues.jetstream.publishing import ATOMIC_SINCE, Publisher, Submission, route
from platformd.queues.jetstream.reading import Looker
from platformd.queues.jetstream.state import ConsumerState, StreamState
from platformd.queues.jetstream.taking import Taker

STOP_DEADLINE = 5.0
"""Seconds for what was published to be acknowledged when the engine stops."""

log = logging.getLogger("platformd.queues")


class JetStreamStreams:
    """``contract.Streams``; made by ``open_jetstream``."""

    def __init__(self, client: Client, settings: NatsSettings, queues: QueueSettings, clock: Clock) -> None:
        self._names = Names(settings.prefix)
        self._settings = settings
        self._queues = queues
        self._api = api = Api(client, settings)
        self._advisories = advisories = Advisories(clock)
        self._inventory = Inventory(api, self._names, settings, advisories)
        self._checkers = Checkers()
        self._publisher = Publisher(api, self._names, queues, settings, clock, advisories)
        self._looker = Looker(api, self._names, settings.replicas)
        giving_up = self._giving_up = GivingUp(client, self._find, self._bury, self._inventory.remember, advisories)
        refresh = self._inventory.refresh_consumer
        self._taker = Taker(api, self._names, giving_up, advisories, queues.max_waiting_fetches, refresh)
        self._acker = Acker(api, giving_up, advisories, refresh)
        self._changing = trio.Lock()
        self._stopping = False
        self._under_way = 0
        self._idle = trio.Event()
        self.addresses: dict[str, str] = {}
        """The nng addresses that the gateway serves."""

    # Life, which is open_jetstream's

    async def load(self) -> None:
        """Read what is there, before anybody is served, and give back what an earlier process held."""
        await self._inventory.look()
        await self.give_back()

    async def give_back(self) -> None:
        """After a new connection: what was on its way to us is due at once, and what is forgotten there is so here."""
        life = self._api.client.lives
        for consumer in self._inventory.consumers():
            try:
                await self._acker.give_back(consumer)
            except PlatformError as error:
                log.warning("consumer %s/%s: what was out comes late: %s", consumer.stream.name, consumer.name, error)
        self._acker.settle(life)

    async def keep(self) -> None:
        """Look through what is there, for ever."""
        await self._inventory.run()

    async def give_up(self) -> None:
        """Give up what is late after its last delivery, for ever."""
        await self._giving_up.run(self._inventory.consumers)

    async def stop(self) -> None:
        """Take nothing more, wait for what JetStream has, and tell whoever waits."""
        self._stopping = True
        with trio.move_on_after(STOP_DEADLINE, shield=True):
            while self._under_way:
                self._idle = trio.Event()
                await self._idle.wait()
            await self._checkers.stop()
        for state in self._inventory.streams.values():
            state.wake()
        self._api.client.stop()

    # Streams

    async def put_stream(self, name: str, config: StreamConfig) -> StreamInfo:
        """As ``contract.Streams.put_stream``."""
        self._check_open()
        check_name("stream", name)
        async with self._changing:
            streams = self._inventory.streams
            check_subjects(name, config, {n: s.config for n, s in streams.items()})
            limits.check_stream(name, config)
            if name not in streams and len(streams) >= self._queues.max_streams:
                raise LimitReached(f"there are {len(streams)} streams, which is the limit", subject=named(name))
            atomic = self._api.client.info.release >= ATOMIC_SINCE
            there = self._names.stream(name)
            body = limits.stream_body(there, config, self._names, self._settings, atomic=atomic)
            state = await self._inventory.put_stream(name, config, body)
        return state.info()

    async def delete_stream(self, name: str) -> None:
        """As ``contract.Streams.delete_stream``."""
        async with self._changing:
            await self._inventory.delete_stream(self._state(name))
            self._checkers.forget(name)

    def streams(self) -> tuple[StreamInfo, ...]:
        """As ``contract.Streams.streams``."""
        self._check_open()
        return tuple(state.info() for _, state in sorted(self._inventory.streams.items()))

    def stream(self, name: str) -> StreamInfo:
        """As ``contract.Streams.stream``."""
        return self._state(name).info()

    def stream_for(self, subject: str) -> str | None:
        """As ``contract.Streams.stream_for``."""
        self._check_open()
        return None if subject_error(subject, pattern=False) else self._inventory.captures(subject)

    # Records

    async def publish(
        self,
        records: Sequence[Record],
        *,
        stream: str = "",
        durability: Durability = "fsync",
        expect_last_sequence: int | None = None,
        expect_last_subject_sequence: int | None = None,
    ) -> Published:
        """As ``contract.Streams.publish``. Not all or nothing: see ``publishing``.

        Raises:
            OutcomeUnknown: the connection was lost after it was sent.
            Unavailable: no server can be reached; nothing was stored.
            Unsupported: ``fsync`` without ``sync = "always"``.
        """
        submission = await self.submit(
            records,
            stream=stream,
            durability=durability,
            expect_last_sequence=expect_last_sequence,
            expect_last_subject_sequence=expect_last_subject_sequence,
        )
        return await self.result(submission)

    async def submit(
        self,
        records: Sequence[Record],
        *,
        stream: str = "",
        durability: Durability = "fsync",
        expect_last_sequence: int | None = None,
        expect_last_subject_sequence: int | None = None,
        size: int = 0,
    ) -> Submission:
        """The first half of ``publish``: when it returns, the batch has its place before all that come later."""
        self._check_open()
        await trio.lowlevel.checkpoint_if_cancelled()
        if not records:
            raise InvalidInput("there is no record to publish", subject="batch")
        name = stream or self.stream_for(records[0].subject)
        state = self._state(name) if name else None
        # What is wrong with the records themselves is told before where they belong.
        batch = self._publisher.check(
            state or _NOWHERE, records, durability, expect_last_sequence, expect_last_subject_sequence, size=size
        )
        captured = route(records, [self._inventory.captures(r.subject) for r in records])
        if state is None or captured != state.name:
            raise NotFound(f"stream {stream!r} does not capture {records[0].subject!r}", subject=named(stream))
        form = state.config.format
        if form.validate:  # the gateway's other producers wait meanwhile, at most as long as a check may take
            await self._checkers.check(state.name, form, encode_batch(records, 0))
        submission = await self._publisher.begin(batch)
        self._under_way += 1
        return submission

    async def result(self, submission: Submission) -> Published:
        """The second half of ``publish``."""
        state = submission.batch.state
        try:
            try:
                return await submission.result()
            finally:
                self._under_way -= 1
                self._idle.set()
        except Unavailable:
            if not self._stopping and self._api.client.connected:
                await self._inventory.refresh_stream(state)  # who did not answer may be gone: then it says so
            raise
        finally:
            if state.limited and self._api.client.connected and not self._stopping:
                await self._inventory.refresh_limited(state)

    async def read(self, stream: str, *, after: int = 0, limit: int = 100, subject: str = ">") -> tuple[Delivery, ...]:
        """As ``contract.Streams.read``; fewer than ``limit`` also when they are over ``READ_BYTES`` together."""
        state = self._state(stream)
        check_pattern(subject)
        whole("limit", limit, 0xFFFF_FFFF, 1)
        found = await self._looker.read(state, whole("after", after), limit, subject)
        if found:
            state.saw(found)
        return found

    async def wait(self, stream: str, after: int) -> int:
        """As ``contract.Streams.wait``; what others publish shows within ``nats.status_interval``."""
        state = self._state(stream)
        await trio.lowlevel.checkpoint()
        while state.counts.last_seq <= after:
            await state.grown.wait()
            self._check_open()
            if state.gone:
                raise no_stream(stream)
        return state.counts.last_seq

    async def purge(self, stream: str, *, subject: str = ">", before: int = 0, keep: int = 0) -> int:
        """As ``contract.Streams.purge``; ``before`` and ``keep`` together are not JetStream's."""
        state = self._state(stream)
        check_pattern(subject)
        if whole("before", before) and whole("keep", keep):
            raise limits.unsupported(named(stream), "a purge with both before and keep", "give one of them")
        ask: dict[str, Any] = {"filter": self._names.subject(subject)}
        ask |= {"seq": before} if before else {}
        ask |= {"keep": whole("keep", keep)} if keep else {}
        purged = await self._api.ask(f"STREAM.PURGE.{state.there}", ask, Purged, subject=named(stream), safe=False)
        if not keep:
            for consumer in state.consumers.values():
                consumer.purged(subject, before or state.counts.last_seq + 1)
        await self._inventory.refresh_stream(state, consumers=True)
        return purged.purged

    # Consumers

    async def put_consumer(self, stream: str, name: str, config: ConsumerConfig) -> ConsumerInfo:
        """As ``contract.Streams.put_consumer``."""
        check_name("consumer", name)
        limits.check_consumer(stream, name, config)
        async with self._changing:
            state = self._state(stream)
            known = state.consumers.get(name)
            if known is not None:
                check_same_start(stream, name, known.config, config)
            elif sum(len(s.consumers) for s in self._inventory.streams.values()) >= self._queues.max_consumers:
                limit = self._queues.max_consumers
                raise LimitReached(f"there are {limit} consumers, which is the limit", subject=named(stream, name))
            if state.config.retention == "work_queue":
                _check_alone(state, name, config)
            if config.dead_letter_subject:
                self._check_letters(state, name, config.dead_letter_subject)
            consumer = await self._inventory.put_consumer(state, name, config)
            await self._acker.enforce(consumer)
        return consumer.info()

    def _check_letters(self, state: StreamState, name: str, subject: str) -> None:
        target = self.stream_for(subject)
        if target is None:
            raise NotFound(
                f"no stream captures {subject!r}, the dead_letter_subject",
                subject=named(state.name, name),
                hint="create a stream for it first",
            )
        if target == state.name:
            raise InvalidInput(
                f"dead_letter_subject {subject!r} is captured by the consumer's own stream",
                subject=named(state.name, name),
                hint="choose a subject of another stream",
            )

    async def delete_consumer(self, stream: str, name: str) -> None:
        """As ``contract.Streams.delete_consumer``."""
        async with self._changing:
            await self._inventory.delete_consumer(self._consumer(stream, name))

    async def seek(
        self, stream: str, consumer: str, policy: DeliverPolicy, *, sequence: int = 1, time_ns: int = 0
    ) -> ConsumerInfo:
        """As ``contract.Streams.seek``. JetStream has none: the consumer is deleted and made anew under its name.

        Raises:
            Unsupported: its stream's retention is ``interest``, where what nobody else waits for would go with it.
        """
        async with self._changing:
            found = self._consumer(stream, consumer)
            limits.check_start(policy, sequence, time_ns)
            if found.stream.config.retention == "interest":
                raise limits.unsupported(named(stream, consumer), "seek on a stream with retention 'interest'")
            await self._inventory.move_consumer(found, limits.start(policy, sequence, time_ns))
        return found.info()

    def consumers(self, stream: str) -> tuple[ConsumerInfo, ...]:
        """As ``contract.Streams.consumers``."""
        return tuple(c.info() for _, c in sorted(self._state(stream).consumers.items()))

    async def fetch(
        self, stream: str, consumer: str, *, max_records: int = 256, max_bytes: int = 1 << 20, wait: float = 0.0
    ) -> tuple[Delivery, ...]:
        """As ``contract.Streams.fetch``. A record whose bytes are over ``max_bytes`` with its headers comes alone."""
        found = self._consumer(stream, consumer)
        whole("max_records", max_records, 0xFFFF_FFFF, 1)
        whole("max_bytes", max_bytes, 0xFFFF_FFFF, 1)
        await trio.lowlevel.checkpoint_if_cancelled()
        found.used = trio.current_time()
        try:
            return await self._taker.fetch(found, max_records, max_bytes, wait)
        finally:
            found.used = trio.current_time()

    async def ack(self, stream: str, consumer: str, acks: Sequence[Ack]) -> int:
        """As ``contract.Streams.ack``."""
        found = self._consumer(stream, consumer)
        if not acks:
            return 0
        found.used = trio.current_time()
        known = await self._acker.ack(found, acks)
        if known and found.stream.config.retention != "limits":
            await self._inventory.refresh_stream(found.stream)
        return known

    def consumer(self, stream: str, name: str) -> ConsumerInfo:
        """One consumer.

        Raises:
            NotFound: it is not there.
        """
        return self._consumer(stream, name).info()

    def advisories(self) -> AbstractAsyncContextManager[AsyncIterator[Advisory]]:
        """As ``contract.Streams.advisories``."""
        self._check_open()
        return self._advisories.listen()

    # Inside

    def stray(self, reply: bytes) -> None:
        """A delivery that came for nobody goes back."""
        self._inventory.return_stray(reply)

    async def _find(self, consumer: ConsumerState, sequences: Sequence[int]) -> Sequence[Delivery]:
        return await self._looker.some(consumer.stream, sequences)

    async def _bury(self, letters: Sequence[Record]) -> Published:
        durability: Durability = "fsync" if self._settings.sync == "always" else "os"
        return await self.publish(letters, durability=durability)

    def _check_open(self) -> None:
        if self._stopping:
            raise Unavailable("the queues are stopping", subject="queues", hint="try again when the daemon is back")

    def _state(self, name: str) -> StreamState:
        self._check_open()
        state = self._inventory.streams.get(name)
        if state is None:
            raise no_stream(name)
        return state

    def _consumer(self, stream: str, name: str) -> ConsumerState:
        found = self._state(stream).consumers.get(name)
        if found is None:
            raise no_consumer(stream, name)
        return found


def _check_alone(state: StreamState, name: str, config: ConsumerConfig) -> None:
    for other in state.consumers.values():
        theirs = other.config.filter_subject
        if other.name != name and patterns_overlap(config.filter_subject, theirs):
            raise Conflict(
                f"its filter {config.filter_subject!r} overlaps {theirs!r} of consumer {other.name!r}",
                subject=named(state.name, name),
                hint="each record of a work queue is one consumer's: choose another filter",
            )


_NOWHERE = StreamState(name="", there="", config=StreamConfig(subjects=()))
"""Stands for the stream of records that none captures, while the records are checked."""
