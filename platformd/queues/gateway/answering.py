"""What is asked over the sockets, done with the engine, and the reply."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from platformd.core.errors import (
    Conflict,
    Corrupted,
    DeadlineExceeded,
    InvalidInput,
    LimitReached,
    NotFound,
    OutcomeUnknown,
    PlatformError,
    PreconditionFailed,
    StorageFull,
    TooLarge,
    Unavailable,
    Unsupported,
)
from platformd.queues.codec import (
    AckRequest,
    FetchRequest,
    PublishRequest,
    Reply,
    Request,
    Status,
    decode_batch,
    encode_block,
    encode_duplicates,
)
from platformd.queues.codec.frames import ACK, FETCH, PUBLISH, VERSION
from platformd.queues.codec.status import detail_of
from platformd.queues.contract import Ack, ConsumerInfo, Delivery, Durability, Published, Record
from platformd.queues.gateway.holding import Holding


class Backend(Protocol):
    """What the gateway asks of an engine: parts of ``contract.Streams``, with publishing in two halves."""

    async def submit(
        self,
        records: Sequence[Record],
        *,
        stream: str = ...,
        durability: Durability = ...,
        expect_last_sequence: int | None = ...,
        expect_last_subject_sequence: int | None = ...,
        size: int = ...,
    ) -> Any:
        """Give a batch its place before all that come later."""
        ...

    async def result(self, submission: Any) -> Published:
        """Wait until it is acknowledged."""
        ...

    async def fetch(
        self, stream: str, consumer: str, *, max_records: int = ..., max_bytes: int = ..., wait: float = ...
    ) -> tuple[Delivery, ...]:
        """As ``contract.Streams.fetch``."""
        ...

    async def ack(self, stream: str, consumer: str, acks: Sequence[Ack]) -> int:
        """As ``contract.Streams.ack``."""
        ...

    def consumer(self, stream: str, name: str) -> ConsumerInfo:
        """One consumer."""
        ...


class HangUp(Exception):
    """What became of a request is not known: the client decides, as with any lost connection."""


_STATUS: tuple[tuple[type[PlatformError], Status], ...] = (
    (TooLarge, Status.TOO_LARGE),
    (PreconditionFailed, Status.SEQUENCE_MISMATCH),
    (StorageFull, Status.STORAGE_FULL),
    (LimitReached, Status.LIMIT_REACHED),
    (Conflict, Status.EXISTS),
    (Corrupted, Status.CORRUPTED),
    (Unavailable, Status.STOPPING),
    (InvalidInput, Status.INVALID),
    (Unsupported, Status.INVALID),
)


def refusal(error: PlatformError, operation: int) -> Reply:
    """The reply that says ``error``.

    Raises:
        HangUp: it says that nobody knows.
    """
    if isinstance(error, OutcomeUnknown | DeadlineExceeded):
        raise HangUp from error
    if isinstance(error, NotFound):
        place = error.subject or ""
        status = Status.NOT_CAPTURED
        if place.startswith("stream/"):
            status = Status.NO_CONSUMER if "/consumer/" in place else Status.NO_STREAM
    else:
        full = isinstance(error, LimitReached) and error.details.get("err_code")
        status = (
            Status.STREAM_FULL if full else next((s for kind, s in _STATUS if isinstance(error, kind)), Status.IO_ERROR)
        )
    said = detail_of(error)
    detail = f"{error.subject}: {said}" if error.subject else said
    if isinstance(error, Unsupported) and error.hint:
        detail += f" ({error.hint})"
    return Reply(operation=operation, status=status, detail=detail)


def unreadable(frame: bytes, error: PlatformError) -> Reply:
    """The reply to what is no request."""
    operation = frame[1] if len(frame) > 1 and frame[1] in {PUBLISH, FETCH, ACK} else 0
    wrong_version = len(frame) > 1 and frame[0] != VERSION
    status = Status.BAD_VERSION if wrong_version else Status.INVALID
    return Reply(operation=operation, status=status, detail=error.message)


def misplaced(request: Request, role: str) -> InvalidInput | None:
    """The error for a request that is for the other socket."""
    if isinstance(request, PublishRequest) == (role == "ingest"):
        return None
    return InvalidInput(f"the {role} socket does not take this operation", subject="request")


async def begin_publish(backend: Backend, request: PublishRequest) -> tuple[Any, int]:
    """Take a batch; the submission and the number of its records."""
    header, records = decode_batch(request.batch)
    submission = await backend.submit(
        records,
        stream=request.stream,
        durability=request.durability,
        expect_last_sequence=request.expect_last_sequence,
        expect_last_subject_sequence=request.expect_last_subject_sequence,
        size=header.length,
    )
    return submission, len(records)


async def end_publish(backend: Backend, submission: Any, count: int) -> Reply:
    """The reply to a batch that was taken."""
    published = await backend.result(submission)
    duplicates = published.duplicates
    return Reply(
        operation=PUBLISH,
        detail=published.stream,
        result1=published.first_sequence,
        result2=published.appended,
        result3=len(duplicates),
        body=encode_duplicates(duplicates, count) if duplicates else b"",
    )


async def answer_fetch(backend: Backend, holding: Holding, connection: int, request: FetchRequest) -> Reply:
    """Records, which belong to the connection then; to nobody if it is gone meanwhile."""
    stream, consumer = request.stream, request.consumer
    if not request.max_records or not request.max_bytes:
        raise InvalidInput("a fetch is for one record or more, and one byte or more", subject="fetch")
    deliveries = await backend.fetch(
        stream,
        consumer,
        max_records=request.max_records,
        max_bytes=request.max_bytes,
        wait=request.wait_ms / 1000,
    )
    info = backend.consumer(stream, consumer)
    if deliveries and info.config.ack_policy != "none":
        if not holding.alive(connection):
            await backend.ack(stream, consumer, [Ack(sequence=d.sequence, kind="nak") for d in deliveries])
            raise HangUp
        holding.took(connection, (stream, consumer), (d.sequence for d in deliveries))
    return Reply(
        operation=FETCH,
        result1=info.pending,
        result2=len(deliveries),
        result3=info.ack_pending,
        body=encode_block(deliveries),
    )


async def answer_ack(backend: Backend, holding: Holding, request: AckRequest) -> Reply:
    """How many were known."""
    known = await backend.ack(request.stream, request.consumer, request.acks)
    done = (a.sequence for a in request.acks if a.kind != "in_progress")
    holding.done((request.stream, request.consumer), done)
    return Reply(operation=ACK, result2=known)
