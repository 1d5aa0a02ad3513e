"""What became of deliveries.

Each delivery has its own place where its acknowledgement goes, which only the process that got it knows; so what is out
is kept here, and an acknowledgement of anything else is stale. The last one of a call is asked to be confirmed, which
confirms all, since JetStream takes a consumer's in their order.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import trio

from platformd.queues.checks import named
from platformd.queues.codec.frames import pack_acks
from platformd.queues.contract import Ack
from platformd.queues.jetstream import errors, wire
from platformd.queues.jetstream.advisories import Advisories
from platformd.queues.jetstream.api import NO_LEADER_WAIT, NO_RESPONDERS, Api
from platformd.queues.jetstream.giving_up import GivingUp
from platformd.queues.jetstream.inbox import Denied, Lost, TimedOut
from platformd.queues.jetstream.state import ConsumerState, Held, ack_subject

CONFIRMED_WITHIN = 2.0
"""Seconds after which an acknowledgement that is not confirmed is taken to be of something that is not known."""
RESYNC_LIMIT = 65_536
"""Sequences between floor and cursor that are given back at a new connection; over it they wait for ``ack_wait``."""


class Acker:
    """Acknowledges.

    Args:
        refresh: asks for a consumer's state.
    """

    def __init__(
        self, api: Api, giving_up: GivingUp, advisories: Advisories, refresh: Callable[[ConsumerState], Any]
    ) -> None:
        self._api = api
        self._giving_up = giving_up
        self._advisories = advisories
        self._refresh = refresh
        self.settled_life = 0
        self._settled = trio.lowlevel.ParkingLot()

    async def ack(self, consumer: ConsumerState, acks: Sequence[Ack]) -> int:
        """As ``contract.Streams.ack``."""
        pack_acks(acks)  # refuses what cannot be
        frames: list[tuple[bytes, bytes]] = []
        lost: list[tuple[int, Held, str]] = []
        known = 0
        most = consumer.config.max_deliver
        for ack in acks:
            held = consumer.held.get(ack.sequence)
            if held is None:
                continue
            known += 1
            if ack.kind == "term":
                lost.append(
                    (ack.sequence, consumer.held.pop(ack.sequence), f"term:{ack.reason}" if ack.reason else "term")
                )
            elif ack.kind == "nak" and most and held.deliveries >= most:
                lost.append((ack.sequence, consumer.held.pop(ack.sequence), "max_deliver"))
            else:
                frames.append((held.ack, _said(ack)))
                self._note(consumer, ack)
        frames += await self._giving_up.give_up(consumer, lost)
        confirmed = await self._send(consumer, frames) if frames else True
        if known:
            await self._refresh(consumer)
            self._note_room(consumer)
        return known if confirmed else 0

    def _note(self, consumer: ConsumerState, ack: Ack) -> None:
        consumer.generation += 1
        if ack.kind == "in_progress":
            held = consumer.held[ack.sequence]
            held.deadline = trio.current_time() + consumer.late_after(held.deliveries)
        elif ack.kind == "ack" and consumer.config.ack_policy == "all":
            for records in (consumer.held, consumer.refused):
                for sequence in [s for s in records if s <= ack.sequence]:
                    del records[sequence]
        else:
            held = consumer.held.pop(ack.sequence)
            if ack.kind == "nak":
                consumer.refused[ack.sequence] = held

    def _note_room(self, consumer: ConsumerState) -> None:
        if consumer.is_stalled and consumer.ack_pending < consumer.config.max_ack_pending:
            consumer.is_stalled = False
            self._advisories.tell("resumed", consumer.stream.name, consumer.name, "fetches go on")

    async def _send(self, consumer: ConsumerState, frames: list[tuple[bytes, bytes]], *, settled: bool = True) -> bool:
        """All of them, until confirmed; saying it twice does no harm.

        Args:
            settled: wait first until what the servers still know is known.

        Returns:
            False: the servers do not know the last one, which was delivered before they were lost.
        """
        subject = named(consumer.stream.name, consumer.name)
        deadline = trio.current_time() + self._api.timeout
        client = self._api.client
        while True:
            await client.ready(deadline)
            if settled:
                await self._wait_settled(deadline)
            try:
                with client.inbox() as inbox:
                    inbox.asked = frames[-1][0]
                    data = [wire.publish(to, what) for to, what in frames[:-1]]
                    data.append(wire.publish(frames[-1][0], frames[-1][1], reply=inbox.address))
                    client.send(b"".join(data), inbox)
                    answer = await inbox.get(trio.current_time() + min(CONFIRMED_WITHIN, self._api.timeout))
            except Lost:
                continue
            except TimedOut:
                await self._refresh(consumer)  # which answers, or says what is wrong
                return False
            except Denied as refusal:
                raise errors.denied(str(refusal), subject) from refusal
            if not answer.headers or wire.decode_headers(answer.headers).status != NO_RESPONDERS:
                return True
            await self._refresh(consumer)
            if trio.current_time() + NO_LEADER_WAIT > deadline:
                raise errors.no_leader(subject)
            await trio.sleep(NO_LEADER_WAIT)

    async def _wait_settled(self, deadline: float) -> None:
        with trio.move_on_at(deadline):
            while self.settled_life != self._api.client.lives and self._api.client.connected:
                await self._settled.park()

    def settle(self, life: int) -> None:
        """What the servers know of deliveries is known, for the connection of this number."""
        self.settled_life = life
        self._settled.unpark_all()

    async def enforce(self, consumer: ConsumerState) -> None:
        """After a change: give up what waits and was delivered as often as it now may be, and try the letters again."""
        most = consumer.config.max_deliver
        over = [(s, h, "max_deliver") for s, h in consumer.refused.items() if most and h.deliveries >= most]
        frames = await self._giving_up.give_up(consumer, over)
        frames += await self._giving_up.settle(consumer, list(consumer.dying))
        if frames:
            await self._send(consumer, frames)
            await self._refresh(consumer)

    async def give_back(self, consumer: ConsumerState) -> None:
        """What was delivered and is with nobody, since a process or a connection ended, is due at once.

        JetStream does not tell which these are: everything between floor and cursor that we do not have is named, and
        what is not out is not touched by that.
        """
        await self._refresh(consumer)
        for records in (consumer.held, consumer.refused):
            for sequence in [s for s in records if s > consumer.delivered_sequence]:
                del records[sequence]  # a server that was killed may have forgotten that it delivered them
        have = consumer.held.keys() | consumer.dying.keys()
        if consumer.config.ack_policy == "none" or consumer.ack_pending <= len(have):
            return
        first, last = consumer.ack_floor + 1, consumer.delivered_sequence
        if last - first >= RESYNC_LIMIT:
            return
        number = consumer.delivered_consumer_sequence
        frames = [(ack_subject(consumer, s, number), b"-NAK") for s in range(first, last + 1) if s not in have]
        if frames:
            await self._send(consumer, frames, settled=False)
            await self._refresh(consumer)


def _said(ack: Ack) -> bytes:
    if ack.kind == "ack":
        return b"+ACK"
    if ack.kind == "in_progress":
        return b"+WPI"
    return b'-NAK {"delay": %d}' % round(ack.delay * 1e9) if ack.delay else b"-NAK"
