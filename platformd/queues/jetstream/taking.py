"""Fetching: what is there at once, then the wait for the first.

Each request to JetStream has a subscription of its own, so that a fetch that is cancelled withdraws its request. First
``no_wait`` takes what is there; if that is nothing, one record is waited for, in pieces, and what came with it is
taken.

JetStream does not say when a request has got all that ``max_ack_pending`` allows. So no more is asked for than that
leaves room for, and when there is no room, a short wait stands for no wait: records that are due again come
nevertheless.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import trio

from platformd.core.errors import LimitReached, PlatformError
from platformd.queues.checks import named, no_consumer
from platformd.queues.contract import Delivery
from platformd.queues.jetstream import errors, wire
from platformd.queues.jetstream.advisories import Advisories
from platformd.queues.jetstream.api import NO_RESPONDERS, Api
from platformd.queues.jetstream.giving_up import GivingUp
from platformd.queues.jetstream.inbox import Denied, Inbox, Lost, TimedOut
from platformd.queues.jetstream.names import Names
from platformd.queues.jetstream.records import ack_token, delivery
from platformd.queues.jetstream.state import ConsumerState, Held

WAIT_PIECE = 5.0
"""Seconds that one request waits at JetStream; a longer fetch asks again."""
NO_ROOM_WAIT = 0.02
"""Seconds that stand for none when ``max_ack_pending`` leaves no room."""
COUNTED_WITHIN = 0.25
"""Seconds that JetStream is given to offer a record that it has acknowledged to its publisher."""
SILENCE = 0.25
"""Seconds without a word after which a request that should not wait is taken to have got all that it will get."""
_TOO_LARGE = "Message Size Exceeds MaxBytes"
_NONE = "No Messages"
_GONE = ("Consumer Deleted", "Consumer is push based", "Stream Deleted")


class Again(Exception):
    """The consumer was moved, or the connection was lost: ask again."""


class Taker:
    """Fetches.

    Args:
        refresh: asks for a consumer's state; raises ``NotFound`` when it is gone.
    """

    def __init__(
        self,
        api: Api,
        names: Names,
        giving_up: GivingUp,
        advisories: Advisories,
        max_waiting: int,
        refresh: Callable[[ConsumerState], Any],
    ) -> None:
        self._api = api
        self._names = names
        self._giving_up = giving_up
        self._advisories = advisories
        self._max_waiting = max_waiting
        self._refresh = refresh
        self._waiting = 0

    async def fetch(
        self, consumer: ConsumerState, max_records: int, max_bytes: int, wait: float
    ) -> tuple[Delivery, ...]:
        """As ``contract.Streams.fetch``."""
        until = trio.current_time() + wait
        if wait <= 0:
            return await self._patiently(consumer, max_records, max_bytes, until)
        if self._waiting >= self._max_waiting:
            raise LimitReached(
                f"{self._waiting} fetches wait already; the limit is {self._max_waiting}",
                subject=named(consumer.stream.name, consumer.name),
            )
        self._waiting += 1
        consumer.waiting += 1
        try:
            return await self._patiently(consumer, max_records, max_bytes, until)
        finally:
            self._waiting -= 1
            consumer.waiting -= 1

    async def _patiently(
        self, consumer: ConsumerState, max_records: int, max_bytes: int, until: float
    ) -> tuple[Delivery, ...]:
        patience = trio.current_time() + self._api.timeout
        while True:
            if consumer.gone:
                raise no_consumer(consumer.stream.name, consumer.name)
            try:
                await self._api.client.ready(max(until, patience))
                found = await self._at_once(consumer, max_records, max_bytes)
                remaining = until - trio.current_time()
                if found or remaining <= 0:
                    return found
                found = await self._first(consumer, min(remaining, WAIT_PIECE))
                if found and max_records > 1:
                    found += await self._more(consumer, max_records - 1, max_bytes, found)
            except (Lost, Again):
                await trio.lowlevel.checkpoint()
                continue
            patience = trio.current_time() + self._api.timeout
            if found or trio.current_time() >= until:
                return found

    async def _more(
        self, consumer: ConsumerState, max_records: int, max_bytes: int, found: tuple[Delivery, ...]
    ) -> tuple[Delivery, ...]:
        """What came with the first; when that cannot be had, the first is enough."""
        left = max_bytes - sum(len(d.payload) for d in found)
        try:
            return await self._at_once(consumer, max_records, left, must=False) if left > 0 else ()
        except (Lost, Again, PlatformError):
            return ()
        except BaseException:
            for record in found:  # nobody gets them: they go back at once
                held = consumer.held.pop(record.sequence, None)
                if held is not None:
                    self._api.client.on_stray(held.ack)
            raise

    async def _at_once(
        self, consumer: ConsumerState, max_records: int, max_bytes: int, *, must: bool = True
    ) -> tuple[Delivery, ...]:
        """What is there; ``must``: one record even if it is over ``max_bytes``."""
        room = consumer.config.max_ack_pending - consumer.ack_pending
        ask: dict[str, Any] = {"batch": max_records, "max_bytes": max_bytes, "no_wait": True}
        limited = consumer.config.ack_policy != "none" and room < max_records
        if limited:
            ask["batch"] = max(room, 1)
            if room <= 0:
                self._note_stall(consumer)
                ask["expires"] = round(NO_ROOM_WAIT * 1e9)
        found, status = await self._request(consumer, ask, SILENCE)
        if not found and status == _TOO_LARGE and must:
            found, _ = await self._request(consumer, ask | {"batch": 1, "max_bytes": 0}, SILENCE)
        if not found and status == _NONE and consumer.pending and room > 0:
            # A record that was just acknowledged to its publisher may not be counted yet.
            found, _ = await self._request(consumer, ask | {"expires": round(COUNTED_WITHIN * 1e9)}, 2 * COUNTED_WITHIN)
            if not found:
                await self._refresh(consumer)
        if limited and room > 0 and len(found) == room and room < max_records and consumer.pending:
            self._note_stall(consumer)
        return await self._keep(consumer, found)

    async def _first(self, consumer: ConsumerState, wait: float) -> tuple[Delivery, ...]:
        ask = {"batch": 1, "expires": max(round(wait * 1e9), 1_000_000)}
        found, _ = await self._request(consumer, ask, wait + 1.0)
        return await self._keep(consumer, found)

    async def _request(
        self, consumer: ConsumerState, ask: dict[str, Any], silence: float
    ) -> tuple[list[wire.Msg], str]:
        """The messages that one request brings, and the status that ended it."""
        to = f"{self._api.root}CONSUMER.MSG.NEXT.{consumer.stream.there}.{consumer.there}".encode()
        found: list[wire.Msg] = []
        status = ""
        with self._api.client.subscription() as inbox:
            inbox.asked = to
            consumer.listening.add(inbox)
            try:
                self._api.client.send(wire.publish(to, msgspec.json.encode(ask), reply=inbox.address), inbox)
                while len(found) < ask["batch"]:
                    message = await self._next(consumer, inbox, silence)
                    if message is None:
                        break
                    if message.reply:
                        found.append(message)
                        continue
                    status = await self._status(consumer, message)
                    break
            except Lost:
                if not found:
                    raise
            except BaseException:
                for message in found:  # nobody gets them: they go back at once
                    self._api.client.on_stray(message.reply)
                raise
            finally:
                consumer.listening.discard(inbox)
        return found, status

    async def _next(self, consumer: ConsumerState, inbox: Inbox, silence: float) -> wire.Msg | None:
        try:
            return await inbox.get(trio.current_time() + silence)
        except TimedOut:
            await self._refresh(consumer)
            return None
        except Denied as refusal:
            raise errors.denied(str(refusal), named(consumer.stream.name, consumer.name)) from refusal

    async def _status(self, consumer: ConsumerState, message: wire.Msg) -> str:
        """What a message without a record says of the request."""
        said = wire.decode_headers(message.headers)
        if said.status == NO_RESPONDERS or said.description in _GONE:
            if consumer.gone:
                raise no_consumer(consumer.stream.name, consumer.name)
            if consumer.moving:
                await trio.sleep(NO_ROOM_WAIT)
                raise Again
            await self._refresh(consumer)
            if said.status == NO_RESPONDERS:
                raise errors.no_leader(named(consumer.stream.name, consumer.name))
            raise Again
        return said.description

    async def _keep(self, consumer: ConsumerState, found: list[wire.Msg]) -> tuple[Delivery, ...]:
        """Note who has what, and give up what was delivered too often."""
        kept = []
        lost: list[tuple[int, Held, str]] = []
        acknowledged = consumer.config.ack_policy != "none"
        for message in found:
            token = ack_token(message.reply)
            if token is None:
                continue
            consumer.generation += 1
            consumer.pending = token.pending
            consumer.delivered_sequence = max(consumer.delivered_sequence, token.sequence)
            consumer.delivered_consumer_sequence = max(consumer.delivered_consumer_sequence, token.consumer_sequence)
            consumer.refused.pop(token.sequence, None)
            consumer.redelivered += token.deliveries > 1
            late = trio.current_time() + consumer.late_after(token.deliveries)
            subject = self._names.our_subject(message.subject.decode())
            held = Held(message.reply, token.deliveries, late, subject)
            if not acknowledged:
                consumer.ack_floor = consumer.delivered_sequence
            else:
                consumer.ack_pending += token.deliveries == 1
                most = consumer.config.max_deliver
                if token.sequence in consumer.dying:
                    continue
                if most and token.deliveries > most:
                    held.deliveries = most
                    lost.append((token.sequence, held, "max_deliver"))
                    continue
                consumer.held[token.sequence] = held
            kept.append(delivery(message, token, subject))
        self._giving_up.tell(await self._giving_up.give_up(consumer, lost))
        return tuple(kept)

    def _note_stall(self, consumer: ConsumerState) -> None:
        consumer.stalled += 1
        if not consumer.is_stalled:
            consumer.is_stalled = True
            limit = consumer.config.max_ack_pending
            detail = f"{limit} records are out unacknowledged, which is max_ack_pending: fetches wait"
            self._advisories.tell("stalled", consumer.stream.name, consumer.name, detail)
