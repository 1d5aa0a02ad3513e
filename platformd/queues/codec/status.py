"""What a status code of the engine or of a reply frame means, as an error. The one table of it."""

from __future__ import annotations

from enum import IntEnum

from platformd.core.errors import (
    Conflict,
    Corrupted,
    InvalidInput,
    LimitReached,
    NotFound,
    PlatformError,
    PreconditionFailed,
    StorageFull,
    TooLarge,
    Unavailable,
)


class Status(IntEnum):
    """The status codes; ``native/platformd.cdef`` has the same as ``pd_status``."""

    OK = 0
    INVALID = 1
    NO_STREAM = 2
    NO_CONSUMER = 3
    NOT_CAPTURED = 4
    SPANS_STREAMS = 5
    TOO_LARGE = 6
    SEQUENCE_MISMATCH = 7
    STORAGE_FULL = 8
    IO_ERROR = 9
    STOPPING = 10
    LIMIT_REACHED = 11
    BAD_CHECKSUM = 12
    BAD_VERSION = 13
    CORRUPTED = 14
    EXISTS = 15
    STREAM_FULL = 16
    UNCHECKED = 17


_ERRORS: dict[int, tuple[type[PlatformError], str | None]] = {
    Status.INVALID: (InvalidInput, None),
    Status.NO_STREAM: (NotFound, "list the streams with `platformd get streams`"),
    Status.NO_CONSUMER: (NotFound, "create the consumer first"),
    Status.NOT_CAPTURED: (NotFound, "create a stream that captures the subject"),
    Status.SPANS_STREAMS: (InvalidInput, "publish the records of each stream in a batch of their own"),
    Status.TOO_LARGE: (TooLarge, None),
    Status.SEQUENCE_MISMATCH: (PreconditionFailed, "read what was appended since, then try again"),
    Status.STORAGE_FULL: (StorageFull, "free space, or lower the streams' limits"),
    Status.IO_ERROR: (PlatformError, "look at the daemon's log and at the disk"),
    Status.STOPPING: (Unavailable, "try again when the daemon is back"),
    Status.LIMIT_REACHED: (LimitReached, None),
    Status.BAD_CHECKSUM: (InvalidInput, "the batch was damaged on its way; send it again"),
    Status.BAD_VERSION: (InvalidInput, "client and daemon are of versions that do not fit each other"),
    Status.CORRUPTED: (Corrupted, "restore the file from a backup, or remove it to go on without its records"),
    Status.EXISTS: (Conflict, None),
    Status.STREAM_FULL: (LimitReached, "consume or purge records, or raise the stream's limit"),
    Status.UNCHECKED: (Unavailable, "nothing was stored; simplify the stream's schema, or publish smaller batches"),
}


def detail_of(error: PlatformError) -> str:
    """The sentence of ``error`` as a reply frame carries it: what is wrong, and where."""
    places = "; ".join(f"{e.path}: {e.message}" if e.path else e.message for e in error.errors)
    return f"{error.message}: {places}" if places else error.message


def error_for(status: int, detail: str, *, subject: str | None = None) -> PlatformError:
    """The error that ``status`` stands for.

    Args:
        status: a code other than ``Status.OK``; one that this version does not know becomes ``PlatformError``.
        detail: the engine's sentence.
        subject: what was asked for (``stream/alerts``).
    """
    error_class, hint = _ERRORS.get(status, (PlatformError, "the daemon is newer than this client"))
    name = Status(status).name.lower() if status in _ERRORS else str(status)
    message = detail or f"the engine refused: {name}"
    return error_class(message, subject=subject, hint=hint, details={"queue_status": name})
