"""Records that are given up, after ``max_deliver`` deliveries or by ``term``, and their dead letters.

JetStream could count deliveries itself, but it then only tells of what it gave up, once, to whoever listens at that
moment. So its own limit stays off and the count is kept here: a record that comes once more than it may is not handed
on, one that nobody acknowledged after its last delivery is given up when it is late. Its dead letter is stored first,
and only then JetStream is told that it is done; whatever ends in between, it comes again and is given up again. The
letter of a record with a msg_id is found to be there then; one without may be there twice.
"""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

import trio

from platformd.core.errors import PlatformError
from platformd.queues.contract import Delivery, Record
from platformd.queues.jetstream import wire
from platformd.queues.jetstream.advisories import Advisories
from platformd.queues.jetstream.client import Client
from platformd.queues.jetstream.inbox import Lost
from platformd.queues.jetstream.records import has_control
from platformd.queues.jetstream.state import ConsumerState, Held

LOOK_EVERY = 0.25
"""Seconds between looks at what is late after its last delivery, and at letters that could not be written."""


class GivingUp:
    """Gives up.

    Args:
        client: tells JetStream.
        find: a record of a stream by its sequence; ``None`` when it is not there any more.
        publish: stores a dead letter.
        advisories: who is told.
    """

    def __init__(
        self,
        client: Client,
        find: Callable[[ConsumerState, int], Awaitable[Delivery | None]],
        publish: Callable[[Record], Awaitable[Any]],
        advisories: Advisories,
    ) -> None:
        self._client = client
        self._find = find
        self._publish = publish
        self._advisories = advisories
        self._busy: set[tuple[ConsumerState, int]] = set()

    async def give_up(self, consumer: ConsumerState, sequence: int, held: Held, reason: str) -> bytes | None:
        """Write the letter of a record.

        Returns:
            What JetStream is to be told at ``held.ack``; ``None`` when the letter cannot be written now: it is tried
            again.
        """
        consumer.held.pop(sequence, None)
        consumer.refused.pop(sequence, None)
        consumer.dying[sequence] = (held, reason)
        consumer.generation += 1
        return await self._bury(consumer, sequence)

    async def run(self, consumers: Callable[[], Iterable[ConsumerState]]) -> None:
        """Look after what is late, for ever."""
        while True:
            await trio.sleep(LOOK_EVERY)
            now = trio.current_time()
            for consumer in consumers():
                most = consumer.config.max_deliver
                late = [s for s, h in consumer.held.items() if most and h.deliveries >= most and h.deadline <= now]
                for sequence in late:
                    if sequence in consumer.held:
                        consumer.dying[sequence] = (consumer.held.pop(sequence), "max_deliver")
                for sequence in list(consumer.dying):
                    await self.end(consumer, sequence)

    async def end(self, consumer: ConsumerState, sequence: int) -> None:
        """Write the letter of a record that is in ``dying``, and tell JetStream."""
        found = consumer.dying.get(sequence)
        told = await self._bury(consumer, sequence)
        if found is not None and told is not None:
            with contextlib.suppress(Lost):  # it comes again then, and is given up again
                self._client.send(wire.publish(found[0].ack, told))

    async def _bury(self, consumer: ConsumerState, sequence: int) -> bytes | None:
        found = consumer.dying.get(sequence)
        if found is None or consumer.gone or (consumer, sequence) in self._busy:
            return None
        held, reason = found
        if consumer.config.dead_letter_subject:
            busy = (consumer, sequence)
            self._busy.add(busy)
            try:
                await self._write_letter(consumer, sequence, held, reason)
            except PlatformError as error:
                detail = f"the dead letter of record {sequence} cannot be written, and is tried again: {error.message}"
                self._advisories.tell("dead_letter_failed", consumer.stream.name, consumer.name, detail)
                return None
            finally:
                self._busy.discard(busy)
        consumer.dying.pop(sequence, None)
        consumer.exhausted += 1
        consumer.ack_pending = max(consumer.ack_pending - 1, 0)
        detail = f"record {sequence} was given up ({reason})"
        self._advisories.tell("exhausted", consumer.stream.name, consumer.name, detail)
        return _terminated(reason)

    async def _write_letter(self, consumer: ConsumerState, sequence: int, held: Held, reason: str) -> None:
        record = await self._find(consumer, sequence)
        if record is None:
            return  # its stream has dropped it: there is nothing left to keep
        where = {
            "Dead-Reason": reason,
            "Dead-Stream": consumer.stream.name,
            "Dead-Consumer": consumer.name,
            "Dead-Sequence": str(sequence),
            "Dead-Subject": record.subject,
            "Dead-Deliveries": str(held.deliveries),
        }
        letter = Record(
            subject=consumer.config.dead_letter_subject,
            payload=record.payload,
            msg_id=record.msg_id,
            headers=record.headers | where,
            time_ns=record.time_ns,
        )
        await self._publish(letter)


def _terminated(reason: str) -> bytes:
    """What ends a delivery for good."""
    plain = "".join(" " if has_control(c) else c for c in reason)
    return b"+TERM " + plain.encode()
