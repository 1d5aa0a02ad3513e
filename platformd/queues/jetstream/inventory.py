"""Which streams and consumers there are, and in what state: asked for, changed, and looked through."""

from __future__ import annotations

import contextlib
import logging
from typing import Any

import msgspec
import trio

from platformd.core.errors import NotFound, PlatformError
from platformd.core.quantities import seconds
from platformd.core.settings_engines import NatsSettings
from platformd.model.subjects import subject_matches
from platformd.queues.checks import named, no_consumer, no_stream
from platformd.queues.contract import ConsumerConfig, StreamConfig
from platformd.queues.jetstream import errors, limits, wire
from platformd.queues.jetstream.advisories import Advisories
from platformd.queues.jetstream.api import (
    DYING,
    METADATA,
    Answer,
    Api,
    ConsumerAnswer,
    ConsumerPage,
    StreamAnswer,
    StreamPage,
    is_gone,
)
from platformd.queues.jetstream.inbox import Lost
from platformd.queues.jetstream.names import Names
from platformd.queues.jetstream.state import ConsumerState, Dying, StreamState, ack_subject

log = logging.getLogger("platformd.queues")

MAX_DYING = 100_000
"""Bytes of a consumer's metadata for what it has given up; JetStream's limit for all of it is 128 KiB."""
_MAX_CACHED_SUBJECTS = 65_536


class Inventory:
    """What there is."""

    def __init__(self, api: Api, names: Names, settings: NatsSettings, advisories: Advisories) -> None:
        self.streams: dict[str, StreamState] = {}
        self._api = api
        self._names = names
        self._interval = seconds(settings.status_interval)
        self._advisories = advisories
        self._captures: dict[str, str | None] = {}
        self._refreshing: dict[StreamState, trio.Event] = {}

    def consumers(self) -> list[ConsumerState]:
        """Of all streams."""
        return [c for s in self.streams.values() for c in s.consumers.values()]

    def captures(self, subject: str) -> str | None:
        """The stream that captures a subject."""
        if subject not in self._captures:
            if len(self._captures) >= _MAX_CACHED_SUBJECTS:
                self._captures.clear()
            found = (n for n, s in self.streams.items() if any(subject_matches(p, subject) for p in s.config.subjects))
            self._captures[subject] = next(found, None)
        return self._captures[subject]

    def return_stray(self, reply: bytes) -> None:
        """A delivery that nobody waits for any more is due again."""
        with contextlib.suppress(Lost):  # with the connection it goes back anyhow
            if reply.startswith(b"$JS.ACK."):
                self._api.client.send(wire.publish(reply, b"-NAK"))

    # Streams

    async def put_stream(self, name: str, config: StreamConfig, body: dict[str, Any]) -> StreamState:
        """Create it, or change it."""
        state = self.streams.get(name)
        verb = "CREATE" if state is None else "UPDATE"
        there = body["name"]
        answer = await self._api.ask(f"STREAM.{verb}.{there}", body, StreamAnswer, subject=named(name))
        if answer.config.ours is None or answer.config.metadata != body["metadata"] | _added(answer):
            raise errors.refused(
                errors.ApiError(err_code=10058, description="the stream is another program's"), named(name)
            )
        if state is None:
            state = StreamState(name=name, there=there, config=config)
            self.streams[name] = state
        state.config = config
        state.take(answer.state)
        self._captures.clear()
        return state

    async def delete_stream(self, state: StreamState) -> None:
        """Delete it with all it has."""
        try:
            await self._api.ask(f"STREAM.DELETE.{state.there}", None, Answer, subject=named(state.name))
        except NotFound:
            if state.gone:
                raise
        self._forget_stream(state)

    def _forget_stream(self, state: StreamState) -> None:
        state.gone = True
        state.wake()
        self._captures.clear()
        if self.streams.get(state.name) is state:
            del self.streams[state.name]
        for consumer in state.consumers.values():
            consumer.end(no_stream(state.name))

    async def refresh_stream(self, state: StreamState, *, consumers: bool = False) -> None:
        """Ask for a stream's state, and its consumers'.

        Raises:
            NotFound: it is gone.
        """
        try:
            answer = await self._api.ask(f"STREAM.INFO.{state.there}", None, StreamAnswer, subject=named(state.name))
        except NotFound as error:
            self._forget_stream(state)
            raise no_stream(state.name) from error
        state.take(answer.state)
        if consumers:
            for consumer in list(state.consumers.values()):
                await self.refresh_consumer(consumer)

    async def refresh_limited(self, state: StreamState) -> None:
        """Ask for a stream's state; those who come while somebody asks share the next answer."""
        with contextlib.suppress(PlatformError):
            while (running := self._refreshing.get(state)) is not None:
                await running.wait()
            done = self._refreshing[state] = trio.Event()
            try:
                await self.refresh_stream(state)
            finally:
                del self._refreshing[state]
                done.set()

    # Consumers

    async def put_consumer(self, state: StreamState, name: str, config: ConsumerConfig) -> ConsumerState:
        """Create it, or change it."""
        known = state.consumers.get(name)
        begin = limits.start(config.deliver_policy, config.start_sequence, config.start_time_ns)
        if known is not None:
            begin = known.begin
        answer = await self._create(state, name, config, begin)
        if known is None:
            known = ConsumerState(stream=state, name=name, there=self._names.consumer(name), config=config)
            state.consumers[name] = known
        known.config, known.begin = config, begin
        known.take(answer)
        return known

    async def _create(
        self, state: StreamState, name: str, config: ConsumerConfig, begin: dict[str, Any]
    ) -> ConsumerAnswer:
        there = self._names.consumer(name)
        known = state.consumers.get(name)
        dying = _encode_dying(known) if known is not None else ""
        body = {
            "stream_name": state.there,
            "config": limits.consumer_body(there, config, self._names, begin, dying=dying),
        }
        path = f"CONSUMER.CREATE.{state.there}.{there}"
        return await self._api.ask(path, body, ConsumerAnswer, subject=named(state.name, name))

    async def remember(self, consumer: ConsumerState) -> None:
        """Keep what it has given up in its metadata."""
        if not consumer.gone:
            await self._create(consumer.stream, consumer.name, consumer.config, consumer.begin)
            consumer.remembered = bool(consumer.dying)

    async def move_consumer(self, consumer: ConsumerState, begin: dict[str, Any]) -> None:
        """Delete it, and make it anew at another place."""
        state = consumer.stream
        consumer.moving = True
        try:
            with contextlib.suppress(NotFound):
                await self._delete(consumer)
            with trio.CancelScope(shield=True):  # between the two there is no consumer: bounded by request_timeout
                answer = await self._create(state, consumer.name, consumer.config, begin)
        except PlatformError:
            await self._look_again(consumer)
            raise
        finally:
            consumer.moving = False
        consumer.begin = begin
        consumer.held.clear()
        consumer.refused.clear()
        consumer.generation += 1
        consumer.take(answer)

    async def _look_again(self, consumer: ConsumerState) -> None:
        with contextlib.suppress(PlatformError):
            await self.refresh_consumer(consumer)

    async def delete_consumer(self, consumer: ConsumerState) -> None:
        """Delete it."""
        with contextlib.suppress(NotFound):
            await self._delete(consumer)
        self._forget_consumer(consumer)

    async def _delete(self, consumer: ConsumerState) -> None:
        path = f"CONSUMER.DELETE.{consumer.stream.there}.{consumer.there}"
        await self._api.ask(path, None, Answer, subject=named(consumer.stream.name, consumer.name))

    def _forget_consumer(self, consumer: ConsumerState) -> None:
        consumers = consumer.stream.consumers
        if consumers.get(consumer.name) is consumer:
            del consumers[consumer.name]
        consumer.end(no_consumer(consumer.stream.name, consumer.name))

    async def refresh_consumer(self, consumer: ConsumerState) -> None:
        """Ask for a consumer's state.

        Raises:
            NotFound: it is gone.
        """
        path = f"CONSUMER.INFO.{consumer.stream.there}.{consumer.there}"
        generation = consumer.generation
        try:
            answer = await self._api.ask(
                path, None, ConsumerAnswer, subject=named(consumer.stream.name, consumer.name)
            )  # fmt: skip
        except NotFound as error:
            if not consumer.moving:
                self._forget_consumer(consumer)
            if is_gone(error, errors.STREAM_GONE):
                self._forget_stream(consumer.stream)
                raise no_stream(consumer.stream.name) from error
            raise no_consumer(consumer.stream.name, consumer.name) from error
        if consumer.generation == generation:
            consumer.take(answer)

    # Looking through

    async def run(self) -> None:
        """Look through everything, for ever."""
        while True:
            await trio.sleep(self._interval)
            try:
                await self.look()
            except PlatformError as error:
                log.debug("the state of the streams cannot be asked for: %s", error)

    async def look(self) -> None:
        """All streams and consumers, as they are now."""
        before = dict(self.streams)
        found = await self._list()
        for name, state in before.items():
            if name not in found and self.streams.get(name) is state:
                await self._confirm_gone(state)
        for name, answer in found.items():
            if name not in self.streams and name not in before:
                config = _decode(answer.config.ours, StreamConfig)
                if config is not None:
                    self.streams[name] = StreamState(name=name, there=answer.config.name, config=config)
                    self._captures.clear()
            known = self.streams.get(name)
            if known is not None:
                known.take(answer.state)
                if known.consumers or answer.state.consumer_count:
                    await self._look_at_consumers(known)
                    await self._remove_idle(known)

    async def _list(self) -> dict[str, StreamAnswer]:
        found: dict[str, StreamAnswer] = {}
        offset, more = 0, True
        while more:
            page = await self._api.ask("STREAM.LIST", {"offset": offset}, StreamPage, subject="queues")
            for answer in page.streams or ():
                name = self._names.our_stream(answer.config.name)
                if name is not None and answer.config.ours is not None:
                    found[name] = answer
            offset += len(page.streams or ())
            more = bool(page.streams) and offset < page.total
        return found

    async def _confirm_gone(self, state: StreamState) -> None:
        """A list may leave out what its server cannot reach; only a straight answer counts."""
        with contextlib.suppress(PlatformError):
            await self.refresh_stream(state)

    async def _look_at_consumers(self, state: StreamState) -> None:
        before = dict(state.consumers)
        generations = {c: c.generation for c in before.values()}
        found: dict[str, ConsumerAnswer] = {}
        offset, more = 0, True
        while more:
            path = f"CONSUMER.LIST.{state.there}"
            page = await self._api.ask(path, {"offset": offset}, ConsumerPage, subject=named(state.name))
            found |= {self._names.our_consumer(a.name): a for a in page.consumers or () if a.config.ours is not None}
            offset += len(page.consumers or ())
            more = bool(page.consumers) and offset < page.total
        for name, consumer in before.items():
            if name not in found and not consumer.moving and state.consumers.get(name) is consumer:
                await self._confirm_removed(consumer)
        for name, answer in found.items():
            known = state.consumers.get(name)
            if known is None and name not in before:
                config = _decode(answer.config.ours, ConsumerConfig)
                if config is None:
                    continue
                known = ConsumerState(stream=state, name=name, there=answer.name, config=config)
                known.begin = limits.start(config.deliver_policy, config.start_sequence, config.start_time_ns)
                state.consumers[name] = known
                known.take(answer)
                _decode_dying(known, (answer.config.metadata or {}).get(DYING, ""))
            elif known is not None and known.generation == generations.get(known):
                known.take(answer)

    async def _remove_idle(self, state: StreamState) -> None:
        """JetStream keeps an idle consumer while something of it is out; we do not."""
        now = trio.current_time()
        for consumer in list(state.consumers.values()):
            patience = consumer.config.inactive_after
            if patience and not consumer.waiting and not consumer.moving and now - consumer.used > patience:
                with contextlib.suppress(NotFound):
                    await self._delete(consumer)
                self._forget_consumer(consumer)
                self._tell_removed(consumer)

    def _tell_removed(self, consumer: ConsumerState) -> None:
        detail = f"nobody fetched or acknowledged for {consumer.config.inactive_after:g} s: it was removed"
        self._advisories.tell("consumer_removed", consumer.stream.name, consumer.name, detail)

    async def _confirm_removed(self, consumer: ConsumerState) -> None:
        try:
            await self.refresh_consumer(consumer)
        except NotFound:
            if consumer.config.inactive_after and not consumer.stream.gone:
                self._tell_removed(consumer)
        except PlatformError:
            return


def _added(answer: StreamAnswer) -> dict[str, str]:
    """What the server adds to metadata by itself."""
    return {k: v for k, v in (answer.config.metadata or {}).items() if k != METADATA}


def _encode_dying(consumer: ConsumerState) -> str:
    """As many of the newest as JetStream keeps; the others come again after a restart, without their reasons."""
    kept: dict[int, tuple[int, str]] = {}
    size = 0
    for sequence, dead in sorted(consumer.dying.items(), reverse=True):
        size += 32 + 6 * len(dead.reason)  # what JSON makes of the worst of characters
        if size > MAX_DYING:
            break
        kept[sequence] = (dead.deliveries, dead.reason)
    return msgspec.json.encode(kept).decode() if kept else ""


def _decode_dying(consumer: ConsumerState, text: str) -> None:
    if text:
        for sequence, (deliveries, reason) in (_decode(text, dict[int, tuple[int, str]]) or {}).items():
            place = ack_subject(consumer, sequence, consumer.delivered_consumer_sequence)
            consumer.dying[sequence] = Dying(place, deliveries, reason)
        consumer.remembered = True


def _decode(text: str | None, kind: Any) -> Any:
    try:
        return msgspec.json.decode(text or "", type=kind)
    except msgspec.MsgspecError as error:
        log.error("a configuration at JetStream cannot be read, and is left alone: %s", error)
        return None
