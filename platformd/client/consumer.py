"""Reading: records of a durable consumer, and what became of them.

What was fetched belongs to this connection until it is acknowledged or ``ack_wait`` is over; when the
connection ends, the daemon gives it to whoever asks next, this consumer included. So a record can come
twice (``Delivery.deliveries`` counts), and never gets lost.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterable
from types import TracebackType

from platformd.client.endpoints import ClientTls, endpoint
from platformd.client.link import Backoff, Link, LinkLost
from platformd.core.errors import InvalidInput, PlatformError, Unavailable
from platformd.queues.codec import (
    Deliveries,
    Reply,
    Status,
    decode_reply,
    encode_ack,
    encode_acks,
    encode_fetch,
    error_for,
)
from platformd.queues.codec.frames import ACK, FETCH, MAX_REASONS, check_name
from platformd.queues.contract import MAX_REASON, Ack, AckKind, Delivery

LONGEST_POLL = 1.0
"""Seconds that one request waits at the daemon; a longer ``fetch`` asks again, so that a signal is seen in time."""
MAX_ACKS = 16384
"""Acknowledgements in one request; more go in several."""


class Consumer:
    """Fetches and acknowledges for one consumer of one stream. Used by one thread; a context manager.

    Args:
        address: the daemon's fetch address (``ipc:///run/platformd/fetch.sock``).
        stream: the stream's name.
        name: the consumer's name; it exists already.
        tls: the files for an address with TLS; ``None``: none, and the system's authorities.
        timeout: seconds that the daemon may be away.

    Raises:
        InvalidInput: the address or a name is not valid.
    """

    def __init__(
        self, address: str, stream: str, name: str, *, tls: ClientTls | None = None, timeout: float = 30.0
    ) -> None:
        self._where = endpoint(address, tls)
        check_name("stream", stream)
        check_name("consumer", name)
        self._stream = stream
        self._name = name
        self._timeout = timeout
        self._link: Link | None = None
        self._backoff = Backoff()
        self.lag = 0
        """Matching records that were not delivered yet, as of the last fetch."""
        self.ack_pending = 0
        """Records out unacknowledged, for all clients of this consumer, as of the last fetch."""

    def __enter__(self) -> Consumer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection: what is not acknowledged is free for others at once."""
        if self._link is not None:
            self._link.close()
            self._link = None

    def fetch(self, *, max_records: int = 256, max_bytes: int = 1 << 20, wait: float = 5.0) -> tuple[Delivery, ...]:
        """Take records, as soon as there are any.

        Args:
            max_records: at most so many.
            max_bytes: at most so many bytes of whole records, except that one record always fits.
            wait: seconds to wait for the first; 0 only looks. Then the answer is empty.

        Raises:
            NotFound: the stream or the consumer is not there.
            Unavailable: the daemon was away for ``timeout`` seconds.
            PlatformError: what answers is not the daemon, or it failed.
        """
        fetched = self.fetch_batch(max_records=max_records, max_bytes=max_bytes, wait=wait)
        try:
            return tuple(fetched)
        except InvalidInput as error:
            raise self._foreign(error) from error

    def fetch_batch(self, *, max_records: int = 4096, max_bytes: int = 1 << 20, wait: float = 5.0) -> Deliveries:
        """Take records as one batch, without an object for each: they are made when they are looked at.

        The quickest way out: ``payloads()`` and ``sequences`` look into what came, and ``ack`` takes the batch.

        Args: as ``fetch``.

        Raises: as ``fetch``. Looking at a record raises ``InvalidInput`` if its msg_id or headers cannot be read.
        """
        until = time.monotonic() + wait
        while True:
            poll = min(max(until - time.monotonic(), 0.0), LONGEST_POLL)
            frame = encode_fetch(self._stream, self._name, wait=poll, max_records=max_records, max_bytes=max_bytes)
            reply = self._request(frame, FETCH, poll)
            self.lag, self.ack_pending = reply.result1, reply.result3
            if reply.result2 or time.monotonic() >= until:
                return self._decode_block(reply)

    def ack(self, deliveries: Iterable[Delivery]) -> int:
        """These are done. How many of them were still this consumer's to acknowledge.

        Raises: as ``fetch``.
        """
        return self._say(deliveries, "ack")

    def nak(self, deliveries: Iterable[Delivery], delay: float = 0.0) -> int:
        """Deliver these again, ``delay`` seconds from now. How many were known.

        Raises: as ``fetch``.
        """
        return self._say(deliveries, "nak", delay)

    def in_progress(self, deliveries: Iterable[Delivery]) -> int:
        """These take longer: their ``ack_wait`` starts anew. How many were known.

        Raises: as ``fetch``.
        """
        return self._say(deliveries, "in_progress")

    def term(self, deliveries: Iterable[Delivery], reason: str = "") -> int:
        """Never deliver these again, though they were not processed. How many were known.

        Args:
            reason: why, for the dead letter; at most ``contract.MAX_REASON`` bytes of UTF-8.

        Raises: as ``fetch``.
        """
        return self._say(deliveries, "term", reason=reason)

    def _say(self, deliveries: Iterable[Delivery], kind: AckKind, delay: float = 0.0, reason: str = "") -> int:
        known = 0
        if isinstance(deliveries, Deliveries) and not reason:
            for start in range(0, len(deliveries), MAX_ACKS):
                sequences = deliveries.sequences[start : start + MAX_ACKS]
                frame = encode_acks(self._stream, self._name, sequences, kind=kind, delay=delay)
                known += self._request(frame, ACK, 0.0).result2
            return known
        acks = iter([Ack(sequence=d.sequence, kind=kind, delay=delay, reason=reason) for d in deliveries])
        at_once = MAX_REASONS // MAX_REASON if reason else MAX_ACKS
        while part := list(itertools.islice(acks, at_once)):
            known += self._request(encode_ack(self._stream, self._name, part), ACK, 0.0).result2
        return known

    def _request(self, frame: bytes, operation: int, poll: float) -> Reply:
        """The daemon's reply; asked again, which is safe for both operations, until it is reached."""
        deadline = time.monotonic() + self._timeout + poll
        while True:
            try:
                answer = self._attempt(frame, deadline)
            except LinkLost as lost:
                self.close()
                cause = str(lost)
            else:
                reply = self._decode(answer, operation)
                if reply.status != Status.STOPPING:
                    break
                self.close()
                cause = reply.detail or "the daemon is stopping"
            if time.monotonic() >= deadline:
                raise Unavailable(
                    f"{cause}, for {self._timeout:g} s",
                    subject=self._subject,
                    hint=f"is a daemon there, at {self._where.address}?",
                )
        if reply.status:
            raise error_for(reply.status, reply.detail, subject=self._subject)
        self._backoff.reset()
        return reply

    def _attempt(self, frame: bytes, deadline: float) -> bytes:
        if self._link is not None and not self._link.alive:
            self.close()
        if self._link is None:
            self._backoff.pause(deadline)
            self._link = Link(self._where, timeout=deadline - time.monotonic())
        exchange = self._link.request(frame, timeout=deadline - time.monotonic())
        answer = exchange.receive(max(deadline - time.monotonic(), 0.0))
        self._link.release(exchange)
        return answer

    @property
    def _subject(self) -> str:
        return f"stream/{self._stream}/consumer/{self._name}"

    def _decode(self, answer: bytes, operation: int) -> Reply:
        try:
            return decode_reply(answer, operation)
        except InvalidInput as error:
            raise self._foreign(error) from error

    def _decode_block(self, reply: Reply) -> Deliveries:
        try:
            return Deliveries(reply.body, reply.result2)
        except InvalidInput as error:
            raise self._foreign(error) from error

    def _foreign(self, error: InvalidInput) -> PlatformError:
        self.close()
        return PlatformError(
            f"the answer is not a reply that this version understands: {error.message}",
            subject=self._subject,
            hint=f"is it a platformd of this version that listens at {self._where.address}?",
        )
