"""Records that are given up, after ``max_deliver`` deliveries or by ``term``, and their dead letters.

JetStream could count deliveries itself, but it then only tells of what it gave up, once, to whoever listens at that
moment. So its own limit stays off and the count is kept here: a record that comes once more than it may is not handed
on, one that nobody acknowledged after its last delivery is given up when it is late.

Its letter is stored first, and only then JetStream is told that it is done. Until then it is out there, and counts
against ``max_ack_pending``. What ends in between brings it here again, and its letter's id keeps that from being
stored twice. A letter that cannot be written stands, with its reason, in the consumer's metadata, which survives the
daemon and a seek, and is tried again.
"""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any

import trio

from platformd.core.errors import PlatformError
from platformd.queues.contract import Delivery, Record
from platformd.queues.jetstream import wire
from platformd.queues.jetstream.advisories import Advisories
from platformd.queues.jetstream.client import Client
from platformd.queues.jetstream.inbox import Lost
from platformd.queues.jetstream.records import without_control
from platformd.queues.jetstream.state import ConsumerState, Dying, Held

LOOK_EVERY = 0.25
"""Seconds between looks at what is late after its last delivery, and at letters that could not be written."""
LETTERS_AT_ONCE = 256
"""Letters in one batch, at most; with more, whoever gives up waits for the first batch, and the others follow."""
LETTER_BYTES = 256 * 1024
"""Of the payloads in one batch, at most, but for one that is larger."""

Frame = tuple[bytes, bytes]
"""Where JetStream is told something, and what."""


class GivingUp:
    """Gives up.

    Args:
        client: tells JetStream.
        find: records of a consumer's stream by their sequences; those that are not there any more are left out.
        publish: stores dead letters.
        remember: keeps a consumer's ``dying`` in its metadata.
        advisories: who is told.
    """

    def __init__(
        self,
        client: Client,
        find: Callable[[ConsumerState, Sequence[int]], Awaitable[Sequence[Delivery]]],
        publish: Callable[[Sequence[Record]], Awaitable[Any]],
        remember: Callable[[ConsumerState], Awaitable[None]],
        advisories: Advisories,
    ) -> None:
        self._client = client
        self._find = find
        self._publish = publish
        self._remember = remember
        self._advisories = advisories
        self._more = trio.Event()

    async def give_up(self, consumer: ConsumerState, items: Sequence[tuple[int, Held, str]]) -> list[Frame]:
        """Write the letters of records: sequence, delivery and reason of each.

        Returns:
            What JetStream is to be told; nothing of those whose letters could not be written.

        Raises:
            PlatformError: a letter could be neither written nor kept for later.
        """
        if not items:
            return []
        for sequence, held, reason in items:
            consumer.held.pop(sequence, None)
            consumer.refused.pop(sequence, None)
            consumer.dying[sequence] = Dying(held.ack, held.deliveries, reason)
        consumer.generation += 1
        consumer.exhausted += len(items)
        first, _, reason = items[0]
        detail = f"record {first} was given up ({reason})"
        if len(items) > 1:
            detail = f"{len(items)} records were given up, from {first} on ({reason})"
        self._advisories.tell("exhausted", consumer.stream.name, consumer.name, detail)
        sequences = sorted(sequence for sequence, _, _ in items)
        at_once = LETTERS_AT_ONCE if consumer.config.dead_letter_subject else len(sequences)
        frames = await self.settle(consumer, sequences[:at_once])
        if any(sequence in consumer.dying for sequence in sequences[:at_once]):
            await self._remember(consumer)
        self._more.set()
        return frames

    async def settle(self, consumer: ConsumerState, sequences: Iterable[int]) -> list[Frame]:
        """Write the letters of what is in ``dying``, as far as that goes now; returns as ``give_up``."""
        mine = sorted(s for s in sequences if s in consumer.dying and s not in consumer.burying)
        consumer.burying.update(mine)
        frames = []
        try:
            for start in range(0, len(mine), LETTERS_AT_ONCE):
                part = mine[start : start + LETTERS_AT_ONCE]
                if consumer.config.dead_letter_subject and not await self._write(consumer, part):
                    break
                for sequence in part:
                    dead = consumer.dying.pop(sequence)
                    frames.append((dead.ack, _terminated(dead.reason)))
                consumer.generation += 1
        finally:
            consumer.burying.difference_update(mine)
        return frames

    async def run(self, consumers: Callable[[], Iterable[ConsumerState]]) -> None:
        """Look after what is late, and after letters, for ever."""
        while True:
            with trio.move_on_after(LOOK_EVERY):
                await self._more.wait()
            self._more = trio.Event()
            now = trio.current_time()
            for consumer in consumers():
                most = consumer.config.max_deliver
                late = [
                    (sequence, held, "max_deliver")
                    for sequence, held in consumer.held.items()
                    if most and held.deliveries >= most and held.deadline <= now
                ]
                with contextlib.suppress(PlatformError):  # it comes again, and is given up again
                    self.tell(await self.give_up(consumer, late))
                    if consumer.dying or consumer.remembered:
                        self.tell(await self.settle(consumer, list(consumer.dying)))
                        if consumer.remembered and not consumer.dying:
                            await self._remember(consumer)

    def tell(self, frames: Sequence[Frame]) -> None:
        """Tell JetStream, without waiting; what it does not hear comes again and is given up again."""
        if frames:
            with contextlib.suppress(Lost):
                self._client.send(b"".join(wire.publish(to, what) for to, what in frames))

    async def _write(self, consumer: ConsumerState, sequences: Sequence[int]) -> bool:
        """Store letters, in order; whether they are."""
        subject = consumer.config.dead_letter_subject
        try:
            found = await self._find(consumer, sequences)  # what its stream has dropped has no letter
            batch: list[Record] = []
            size = 0
            for record in found:
                letter = _letter(consumer, record, consumer.dying[record.sequence])
                if batch and size + len(letter.payload) > LETTER_BYTES:
                    await self._publish(batch)
                    batch, size = [], 0
                batch.append(letter)
                size += len(letter.payload)
            if batch:
                await self._publish(batch)
        except PlatformError as error:
            if not consumer.letters_fail:
                consumer.letters_fail = True
                detail = f"dead letters to {subject} cannot be written, and are tried again: {error.message}"
                self._advisories.tell("dead_letter_failed", consumer.stream.name, consumer.name, detail)
            return False
        consumer.letters_fail = False
        return True


def _letter(consumer: ConsumerState, record: Delivery, dead: Dying) -> Record:
    where = {
        "Dead-Reason": dead.reason,
        "Dead-Stream": consumer.stream.name,
        "Dead-Consumer": consumer.name,
        "Dead-Sequence": str(record.sequence),
        "Dead-Subject": record.subject,
        "Dead-Deliveries": str(dead.deliveries),
    }
    headers = {name: value for name, value in record.headers.items() if name != "Dead-Msg-Id"} | where
    if record.msg_id:
        headers["Dead-Msg-Id"] = record.msg_id
    return Record(
        subject=consumer.config.dead_letter_subject,
        payload=record.payload,
        msg_id=f"{consumer.stream.name}/{consumer.name}/{record.sequence}",
        headers=headers,
        time_ns=record.time_ns,
    )


def _terminated(reason: str) -> bytes:
    """What ends a delivery for good."""
    return b"+TERM " + without_control(reason).encode()
