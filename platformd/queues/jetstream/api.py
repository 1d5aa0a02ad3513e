"""JetStream's API: questions and answers in JSON, one at a time."""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec
import trio

from platformd.core.errors import PlatformError, Unavailable
from platformd.core.quantities import seconds
from platformd.core.settings_engines import NatsSettings
from platformd.queues.jetstream import errors, wire
from platformd.queues.jetstream.client import Client
from platformd.queues.jetstream.errors import ApiError
from platformd.queues.jetstream.inbox import Denied, Lost, TimedOut

T = TypeVar("T", bound="Answer")
NO_RESPONDERS = 503
NO_LEADER_WAIT = 0.05
"""Seconds until a question is asked again that nobody was there to answer."""
METADATA = "platformd"
"""Where our configuration stands in a stream's or a consumer's metadata, as JSON; what has none is not ours."""


DYING = "platformd-given-up"
"""Where, in a consumer's, the records stand that were given up and have no dead letter yet."""


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """What all answers may have."""

    error: ApiError | None = None


class Config(msgspec.Struct, frozen=True, kw_only=True):
    """Of a stream's or a consumer's configuration, what we read back."""

    name: str = ""
    durable_name: str = ""
    metadata: dict[str, str] | None = None

    @property
    def ours(self) -> str | None:
        """Our configuration, if it is ours."""
        return (self.metadata or {}).get(METADATA)


class StreamCounts(msgspec.Struct, frozen=True, kw_only=True):
    """A stream's ``state``."""

    messages: int = 0
    bytes: int = 0
    first_seq: int = 0
    first_ts: str = ""
    last_seq: int = 0
    last_ts: str = ""
    consumer_count: int = 0


class StreamAnswer(Answer, frozen=True, kw_only=True):
    """Of STREAM.INFO, CREATE and UPDATE."""

    config: Config = msgspec.field(default_factory=Config)
    state: StreamCounts = msgspec.field(default_factory=StreamCounts)


class Place(msgspec.Struct, frozen=True, kw_only=True):
    """A pair of sequences."""

    consumer_seq: int = 0
    stream_seq: int = 0


class ConsumerAnswer(Answer, frozen=True, kw_only=True):
    """Of CONSUMER.INFO and CREATE."""

    name: str = ""
    config: Config = msgspec.field(default_factory=Config)
    delivered: Place = msgspec.field(default_factory=Place)
    ack_floor: Place = msgspec.field(default_factory=Place)
    num_ack_pending: int = 0
    num_pending: int = 0


class StreamPage(Answer, frozen=True, kw_only=True):
    """Of STREAM.LIST."""

    total: int = 0
    streams: tuple[StreamAnswer, ...] | None = None


class ConsumerPage(Answer, frozen=True, kw_only=True):
    """Of CONSUMER.LIST."""

    total: int = 0
    consumers: tuple[ConsumerAnswer, ...] | None = None


class Purged(Answer, frozen=True, kw_only=True):
    """Of STREAM.PURGE."""

    purged: int = 0


class Stored(msgspec.Struct, frozen=True, kw_only=True):
    """The ``message`` of STREAM.MSG.GET; data and headers are base64."""

    subject: str = ""
    seq: int = 0
    data: bytes = b""
    hdrs: bytes = b""
    time: str = ""


class StoredAnswer(Answer, frozen=True, kw_only=True):
    """Of STREAM.MSG.GET."""

    message: Stored | None = None


class Api:
    """Asks JetStream."""

    def __init__(self, client: Client, settings: NatsSettings) -> None:
        self.client = client
        self.root = f"$JS.{settings.domain}.API." if settings.domain else "$JS.API."
        self.timeout = seconds(settings.request_timeout)

    async def ask(
        self, path: str, body: dict[str, Any] | None, answer: type[T], *, subject: str, safe: bool = True
    ) -> T:
        """One question.

        Args:
            path: behind ``$JS.API.``.
            body: its JSON.
            answer: what comes back.
            subject: what it is about, for errors.
            safe: it may be asked again when a connection is lost with it.

        Raises:
            PlatformError: as ``errors`` translates it, or ``Unavailable``, ``OutcomeUnknown``, ``Forbidden``.
        """
        message = await self.request(
            self.root + path, b"" if body is None else msgspec.json.encode(body), subject, safe=safe
        )
        found = msgspec.json.decode(message.payload, type=answer)
        if found.error is not None:
            raise errors.refused(found.error, subject)
        return found

    async def request(self, to: str, body: bytes, subject: str, *, safe: bool = True) -> wire.Msg:
        """One message there, one back; raises as ``ask``, but for refusals in the answer."""
        deadline = trio.current_time() + self.timeout
        while True:
            await self.client.ready(deadline)
            try:
                with self.client.inbox() as inbox:
                    inbox.asked = to.encode()
                    self.client.send(wire.publish(inbox.asked, body, reply=inbox.address), inbox)
                    message = await inbox.get(deadline)
            except Lost as lost:
                if lost.sent and not safe:
                    raise errors.unknown(lost.reason, subject) from lost
                continue
            except TimedOut as late:
                reason = f"no answer within {self.timeout:g} s"
                raise (Unavailable(reason, subject=subject) if safe else errors.unknown(reason, subject)) from late
            except Denied as refusal:
                raise errors.denied(str(refusal), subject) from refusal
            if not message.headers or wire.decode_headers(message.headers).status != NO_RESPONDERS:
                return message
            if not safe or trio.current_time() + NO_LEADER_WAIT > deadline:
                raise errors.no_leader(subject)
            await trio.sleep(NO_LEADER_WAIT)


def is_gone(error: PlatformError, codes: frozenset[int]) -> bool:
    """Whether an error says that the stream or the consumer is not there."""
    return error.details.get("err_code") in codes
