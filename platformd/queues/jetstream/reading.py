"""Looking at records without a consumer.

A stream of one replica answers directly, many records to a question where the server is 2.11 or newer. With several
replicas any of them would answer, also one that is behind; so the leader is asked, for one record after another.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
import trio

from platformd.core.errors import NotFound
from platformd.queues.checks import named, no_stream
from platformd.queues.contract import Delivery
from platformd.queues.jetstream import errors, wire
from platformd.queues.jetstream.api import NO_RESPONDERS, Api, StoredAnswer
from platformd.queues.jetstream.inbox import Denied, Lost, TimedOut
from platformd.queues.jetstream.names import Names
from platformd.queues.jetstream.records import AckToken, delivery, nanoseconds
from platformd.queues.jetstream.state import StreamState

READ_BYTES = 16 << 20
"""The most that one ``read`` gives, in bytes of records; it gives at least one record."""
MANY_AT_ONCE = (2, 11)
_BATCH = 1000
"""Records asked for with one question; JetStream's own bound."""


class Looker:
    """Reads."""

    def __init__(self, api: Api, names: Names, replicas: int) -> None:
        self._api = api
        self._names = names
        self._replicas = replicas

    async def read(self, stream: StreamState, after: int, limit: int, pattern: str) -> tuple[Delivery, ...]:
        """As ``contract.Streams.read``; fewer than ``limit`` also when they are over ``READ_BYTES`` together."""
        found: list[Delivery] = []
        size = 0
        many = self._replicas == 1 and self._api.client.info.release >= MANY_AT_ONCE
        while len(found) < limit and size < READ_BYTES:
            ask: dict[str, Any] = {"seq": after + 1, "next_by_subj": self._names.subject(pattern)}
            if many:
                wanted = min(limit - len(found), _BATCH)
                page = await self._many(stream, ask | {"batch": wanted, "max_bytes": READ_BYTES})
            else:
                page = await self._one(stream, ask)
            if not page:
                break
            found += page
            size += sum(len(d.payload) for d in page)
            after = found[-1].sequence
        return tuple(found)

    async def some(self, stream: StreamState, sequences: Sequence[int]) -> list[Delivery]:
        """The records of these sequences, which rise; those that are not there are left out."""
        found: list[Delivery] = []
        start = 0
        while start < len(sequences):
            end = start + 1
            while end < len(sequences) and sequences[end] == sequences[end - 1] + 1:
                end += 1
            wanted, after = set(sequences[start:end]), sequences[start] - 1
            while page := await self.read(stream, after, sequences[end - 1] - after, ">"):
                found += [record for record in page if record.sequence in wanted]
                after = page[-1].sequence
                if after >= sequences[end - 1]:
                    break
            start = end
        return found

    async def _many(self, stream: StreamState, ask: dict[str, Any]) -> list[Delivery]:
        """Records of one direct answer; those that came before a connection was lost are records too."""
        deadline = trio.current_time() + self._api.timeout
        to = f"{self._api.root}DIRECT.GET.{stream.there}".encode()
        while True:
            await self._api.client.ready(deadline)
            found: list[Delivery] = []
            try:
                with self._api.client.inbox() as inbox:
                    inbox.asked = to
                    self._api.client.send(wire.publish(to, msgspec.json.encode(ask), reply=inbox.address), inbox)
                    while True:
                        message = await inbox.get(deadline)
                        said = wire.decode_headers(message.headers)
                        if said.status == NO_RESPONDERS:
                            raise errors.no_leader(named(stream.name))
                        if said.status:
                            return found
                        found.append(self._direct(message, said))
            except Lost:
                if found:
                    return found
            except TimedOut as late:
                raise errors.unknown(f"no answer within {self._api.timeout:g} s", named(stream.name)) from late
            except Denied as refusal:
                raise errors.denied(str(refusal), named(stream.name)) from refusal
            if stream.gone:
                raise no_stream(stream.name)

    def _direct(self, message: wire.Msg, said: wire.Headers) -> Delivery:
        fields = said.fields
        subject = fields.get("Nats-Subject", "")
        token = AckToken(0, int(fields.get("Nats-Sequence", "0")), 0, nanoseconds(fields.get("Nats-Time-Stamp", "")), 0)
        return delivery(message._replace(subject=subject.encode()), token, self._names.our_subject(subject))

    async def _one(self, stream: StreamState, ask: dict[str, Any]) -> list[Delivery]:
        path = f"STREAM.MSG.GET.{stream.there}"
        try:
            answer = await self._api.ask(path, ask, StoredAnswer, subject=named(stream.name))
        except NotFound as error:
            if stream.gone or error.details.get("err_code") in errors.STREAM_GONE:
                raise
            return []
        stored = answer.message
        if stored is None:
            return []
        message = wire.Msg(stored.subject.encode(), b"", b"", stored.hdrs, stored.data)
        token = AckToken(0, stored.seq, 0, nanoseconds(stored.time), 0)
        return [delivery(message, token, self._names.our_subject(stored.subject))]
