"""Publishing: batches on their way, in order, each acknowledged with the durability that was asked for.

Every batch that is not answered yet stands in one queue, oldest first. A batch whose answer is lost with
the connection is sent again if that is safe: it was certainly not stored, or all of its records have a
``msg_id``, so that the daemon finds again what it has. What is sent again goes before everything newer,
so the records of a producer keep their order through restarts of the daemon.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType

from platformd.client.endpoints import ClientTls, endpoint
from platformd.client.link import Backoff, Exchange, Link, LinkLost
from platformd.core.errors import InvalidInput, OutcomeUnknown, PlatformError, Unavailable
from platformd.queues.codec import (
    Status,
    decode_duplicates,
    decode_reply,
    encode_batch,
    encode_payloads,
    encode_publish,
    error_for,
)
from platformd.queues.codec.frames import PUBLISH, check_name, durability_code
from platformd.queues.contract import Durability, Published, Record

LAST_ANSWERS = 1.0
"""Seconds that a daemon which said that it stops may take to answer what it had before."""


@dataclass(eq=False, kw_only=True)
class _Batch:
    """A batch on its way."""

    frame: bytes
    count: int
    repeatable: bool
    """Whether every record has a ``msg_id``."""
    deadline: float
    """On ``time.monotonic``."""
    exchange: Exchange | None = None
    """Where its answer will come; ``None`` while it is not with the current connection."""
    perhaps_stored: bool = False
    """Whether a connection was lost that had it."""
    published: Published | None = None
    error: PlatformError | None = None


class Pending:
    """A batch that was submitted; ``wait`` gives its acknowledgement."""

    def __init__(self, batch: _Batch, wait: Callable[[_Batch], Published]) -> None:
        self._batch = batch
        self._wait = wait

    @property
    def done(self) -> bool:
        """Whether its fate is known, as far as the producer has looked."""
        return self._batch.published is not None or self._batch.error is not None

    def wait(self) -> Published:
        """Wait for the acknowledgement; again and again gives the same.

        Raises:
            OutcomeUnknown: the connection was lost after it was sent, and a record has no ``msg_id``, or the
                daemon did not come back in time.
            Unavailable: the daemon did not take it in time; nothing was stored.
            PlatformError: what the daemon refused it for (``NotFound``, ``InvalidInput``, ``TooLarge``,
                ``PreconditionFailed``, ``StorageFull``, ``LimitReached``).
        """
        return self._wait(self._batch)


class Producer:
    """Publishes records. Used by one thread; a context manager, which at its end waits for what is under way.

    Args:
        address: the daemon's ingest address (``ipc:///run/platformd/ingest.sock``, ``tls+tcp://queues.example:7071``).
        tls: the files for an address with TLS; ``None``: none, and the system's authorities.
        stream: the stream that all records are for; empty: the one that captures their subjects.
        durability: what an acknowledgement means.
        timeout: seconds that a batch may take until it is acknowledged, restarts of the daemon included.
        max_in_flight: batches that may be under way; with more, ``submit`` waits for the oldest.

    Raises:
        InvalidInput: an argument is not valid.
    """

    def __init__(
        self,
        address: str,
        *,
        tls: ClientTls | None = None,
        stream: str = "",
        durability: Durability = "fsync",
        timeout: float = 30.0,
        max_in_flight: int = 8,
    ) -> None:
        self._where = endpoint(address, tls)
        if stream:
            check_name("stream", stream)
        durability_code(durability)
        if max_in_flight < 1:
            raise InvalidInput(f"{max_in_flight} is not 1 or more", subject="max_in_flight")
        self._stream = stream
        self._durability: Durability = durability
        self._timeout = timeout
        self._max_in_flight = max_in_flight
        self._link: Link | None = None
        self._in_flight: deque[_Batch] = deque()
        self._backoff = Backoff()
        self._cause = "the daemon was not reached"
        self._unreported: _Batch | None = None

    def __enter__(self) -> Producer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self.flush()
        finally:
            self.close()

    def publish(
        self,
        subject: str,
        payload: bytes,
        *,
        msg_id: str = "",
        headers: Mapping[str, str] | None = None,
        time_ns: int = 0,
        expect_last_sequence: int | None = None,
        expect_last_subject_sequence: int | None = None,
    ) -> Published:
        """Publish one record and wait until it is acknowledged.

        Raises: as ``publish_batch``.
        """
        record = Record(subject=subject, payload=payload, msg_id=msg_id, headers=dict(headers or {}), time_ns=time_ns)
        return self.publish_batch(
            [record],
            expect_last_sequence=expect_last_sequence,
            expect_last_subject_sequence=expect_last_subject_sequence,
        )

    def publish_batch(
        self,
        records: Sequence[Record],
        *,
        expect_last_sequence: int | None = None,
        expect_last_subject_sequence: int | None = None,
    ) -> Published:
        """Publish records, in order, to one stream, and wait until they are acknowledged.

        A lost connection is made again and the batch repeated until ``timeout`` if every record has a
        ``msg_id``; otherwise only while it is certain that nothing was stored.

        Args:
            records: what to publish.
            expect_last_sequence: only if this is the stream's last sequence.
            expect_last_subject_sequence: only if this is the sequence of the newest record that the stream keeps on
                the subject of the first record; 0: there is none.

        Raises:
            InvalidInput: a record cannot be written.
            PlatformError: as ``Pending.wait``.
        """
        return self.submit(
            records,
            expect_last_sequence=expect_last_sequence,
            expect_last_subject_sequence=expect_last_subject_sequence,
        ).wait()

    def submit(
        self,
        records: Sequence[Record],
        *,
        expect_last_sequence: int | None = None,
        expect_last_subject_sequence: int | None = None,
    ) -> Pending:
        """Send records, in order, without waiting for the acknowledgement; the expectations as for ``publish_batch``.

        Raises:
            InvalidInput: a record cannot be written. What happens on the way is raised by ``Pending.wait``.
        """
        frame = encode_publish(
            encode_batch(records, time.time_ns()),
            stream=self._stream,
            durability=self._durability,
            expect_last_sequence=expect_last_sequence,
            expect_last_subject_sequence=expect_last_subject_sequence,
        )
        return self._submit(frame, len(records), repeatable=all(r.msg_id for r in records))

    def submit_payloads(self, subject: str, payloads: Sequence[bytes]) -> Pending:
        """Send records that are nothing but payloads on one subject, in order, without waiting for the acknowledgement.

        The quickest way in: as ``submit``, without an object for each record.

        Args:
            subject: of all of them.
            payloads: at least one; bytes, or what gives bytes in the same way (``bytearray``, a view of bytes).

        Raises:
            InvalidInput: the subject or a payload cannot be written. What happens on the way is raised by
                ``Pending.wait``.
        """
        batch = encode_payloads(subject, payloads, time.time_ns())
        frame = encode_publish(batch, stream=self._stream, durability=self._durability)
        return self._submit(frame, len(payloads), repeatable=False)

    def _submit(self, frame: bytes, count: int, *, repeatable: bool) -> Pending:
        while len(self._in_flight) >= self._max_in_flight:
            self._settle_oldest()
        batch = _Batch(frame=frame, count=count, repeatable=repeatable, deadline=time.monotonic() + self._timeout)
        self._in_flight.append(batch)
        self._send_unsent()
        return Pending(batch, self._wait)

    def flush(self) -> None:
        """Wait for everything that is under way.

        Raises:
            PlatformError: the first failure that no ``Pending.wait`` has raised.
        """
        while self._in_flight:
            self._settle_oldest()
        failed, self._unreported = self._unreported, None
        if failed is not None and failed.error is not None:
            raise failed.error

    def close(self) -> None:
        """Close the connection; what is under way fails with ``OutcomeUnknown``."""
        cause = "the producer was closed before the answer came"
        self._lose_link(cause)
        while self._in_flight:
            self._fail(self._in_flight[0], cause)

    def _wait(self, batch: _Batch) -> Published:
        while batch.published is None and batch.error is None:
            self._settle_oldest()
        if self._unreported is batch:
            self._unreported = None
        if batch.error is not None:
            raise batch.error
        assert batch.published is not None
        return batch.published

    def _settle_oldest(self) -> None:
        """Find out the fate of the oldest batch under way: one attempt."""
        if not self._send_unsent() or not self._in_flight:
            return
        oldest, link = self._in_flight[0], self._link
        assert oldest.exchange is not None
        assert link is not None
        exchange = oldest.exchange
        try:
            frame = exchange.receive(max(oldest.deadline - time.monotonic(), 0.0))
        except LinkLost as lost:
            self._lose_link(str(lost))
            return
        link.release(exchange)
        if not self._answer(oldest, frame):
            self._lose_link("the daemon is stopping", patience=LAST_ANSWERS)

    def _send_unsent(self) -> bool:
        """Send what is not with the current connection, oldest first. Whether all is."""
        if self._link is not None and not self._link.alive:
            self._lose_link("the connection was closed")
        for batch in tuple(self._in_flight):
            if batch.exchange is None and time.monotonic() >= batch.deadline:
                self._fail(batch, f"{self._cause}, for {self._timeout:g} s")
        try:
            for batch in self._in_flight:
                if batch.exchange is None:
                    link = self._connected(batch.deadline)
                    batch.exchange = link.request(batch.frame, timeout=batch.deadline - time.monotonic())
        except LinkLost as lost:
            self._lose_link(str(lost))
            return False
        except PlatformError as error:  # waiting would not mend it
            if batch.perhaps_stored:
                self._fail(batch, error.message)
            else:
                self._done(batch, error)
            return False
        return True

    def _connected(self, deadline: float) -> Link:
        if self._link is None:
            self._backoff.pause(deadline)
            self._link = Link(self._where, timeout=deadline - time.monotonic())
        return self._link

    def _answer(self, batch: _Batch, frame: bytes) -> bool:
        """Take the reply for ``batch``. Whether it settles it; a daemon that stops has not stored it."""
        batch.exchange = None
        try:
            reply = decode_reply(frame, PUBLISH)
            positions = () if reply.status else decode_duplicates(reply.body, batch.count, reply.result3)
        except InvalidInput as error:
            self._done(batch, _not_a_reply(error, self._where.address))
            return True
        if reply.status == Status.STOPPING:
            return False
        if reply.status:
            subject = f"stream/{self._stream}" if self._stream else None
            self._done(batch, error_for(reply.status, reply.detail, subject=subject))
            return True
        self._backoff.reset()
        batch.published = Published(
            stream=reply.detail, first_sequence=reply.result1, appended=reply.result2, duplicates=positions
        )
        self._in_flight.remove(batch)
        return True

    def _lose_link(self, cause: str, patience: float = 0.0) -> None:
        """Close the connection, after taking the answers that came before its end.

        Args:
            cause: why, for the message of those that fail.
            patience: seconds to wait for those answers if the connection still stands.
        """
        self._cause = cause
        until = time.monotonic() + patience
        for batch in tuple(self._in_flight):
            exchange, batch.exchange = batch.exchange, None
            if exchange is None:
                continue
            try:
                self._answer(batch, exchange.receive(max(until - time.monotonic(), 0.0)))
            except LinkLost:
                batch.perhaps_stored = True
                if not batch.repeatable:
                    self._fail(batch, cause)
        if self._link is not None:
            self._link.close()
            self._link = None

    def _fail(self, batch: _Batch, cause: str) -> None:
        """Give up a batch, saying truly whether it may be stored."""
        if batch.perhaps_stored:
            hint = None if batch.repeatable else "give every record a msg_id, so that it can be sent again"
            self._done(batch, OutcomeUnknown(f"{cause}: it may or may not be stored", subject="batch", hint=hint))
        else:
            hint = f"is a daemon there, at {self._where.address}?"
            self._done(batch, Unavailable(f"{cause}: nothing was stored", subject="batch", hint=hint))

    def _done(self, batch: _Batch, error: PlatformError) -> None:
        batch.error = error
        batch.exchange = None
        self._in_flight.remove(batch)
        self._unreported = self._unreported or batch


def _not_a_reply(error: InvalidInput, address: str) -> OutcomeUnknown:
    return OutcomeUnknown(
        f"the answer is not a reply that this version understands: {error.message}",
        subject="batch",
        hint=f"is it a platformd of this version that listens at {address}?",
    )
