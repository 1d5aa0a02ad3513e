"""What JetStream says, translated once, at the engine's edge. Codes: nats-server's ``server/errors.json``."""

from __future__ import annotations

from typing import NamedTuple

import msgspec

from platformd.core.errors import (
    Conflict,
    Forbidden,
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


class ApiError(msgspec.Struct, frozen=True, kw_only=True):
    """The ``error`` member of an answer."""

    code: int = 500
    err_code: int = 0
    description: str = ""


class _Rule(NamedTuple):
    error: type[PlatformError]
    hint: str | None = None


_TRY_LATER = "see the servers' health: nats server report jetstream"
_FULL = "free space at the servers, or raise max_file_store or the account's limits"
_CAPACITY = "the account's or the servers' limit; raise it there"

CONSUMER_GONE = frozenset({10014, 10090})
STREAM_GONE = frozenset({10059})

_BY_CODE: dict[int, _Rule] = {
    10002: _Rule(StorageFull, _FULL),  # resource limits exceeded for account
    10008: _Rule(Unavailable, _TRY_LATER),  # system temporarily unavailable
    10009: _Rule(Unavailable, _TRY_LATER),
    10014: _Rule(NotFound, "create the consumer first"),
    10023: _Rule(StorageFull, _FULL),  # insufficient resources
    10026: _Rule(LimitReached, _CAPACITY),  # maximum consumers limit
    10027: _Rule(LimitReached, _CAPACITY),  # maximum streams
    10028: _Rule(StorageFull, _FULL),
    10037: _Rule(NotFound),  # no message found
    10039: _Rule(Unsupported, "enable JetStream for the account"),
    10047: _Rule(StorageFull, _FULL),  # storage resources exceeded
    10053: _Rule(InvalidInput),
    10054: _Rule(TooLarge),  # message size exceeds maximum allowed
    10058: _Rule(Conflict, "another program made it; choose another name, or set a prefix"),
    10059: _Rule(NotFound, "list them with `platformd get streams`"),
    10065: _Rule(Conflict, "another program's stream captures them; choose other subjects, or set a prefix"),
    10070: _Rule(PreconditionFailed),
    10071: _Rule(PreconditionFailed, "read what was appended since, then try again"),
    10074: _Rule(Unsupported, "a stream's replicas need as many servers"),
    10076: _Rule(Unsupported, "start the server with -js"),
    10077: _Rule(LimitReached, "the stream is full and discards what is new"),  # store failed; see _STORE
    10090: _Rule(NotFound, "create the consumer first"),
    10097: _Rule(TooLarge),  # header size
    10098: _Rule(Unsupported, "ack_policy explicit"),
    10099: _Rule(Conflict, "the filters of consumers of a work queue may not overlap"),
    10100: _Rule(Conflict, "the filters of consumers of a work queue may not overlap"),
    10101: _Rule(Unsupported, "deliver_policy all"),
    10148: _Rule(Conflict),  # consumer already exists
    10164: _Rule(PreconditionFailed, "read what was appended since, then try again"),
}
_STORE_FULL = ("no space left", "insufficient", "disk quota", "resource limits")
_CANNOT_CHANGE = ("can not change", "can not be updated", "cannot be updated", "can not update")


def refused(error: ApiError, subject: str) -> PlatformError:
    """The error for an answer that is one.

    Args:
        error: the server's.
        subject: what was asked for, as our users name it.
    """
    text = error.description
    rule = _BY_CODE.get(error.err_code)
    if error.err_code == 10077 and any(word in text for word in _STORE_FULL):
        rule = _Rule(StorageFull, _FULL)
    elif rule is None and any(word in text for word in _CANNOT_CHANGE):
        rule = _Rule(Unsupported, "JetStream cannot change it; delete it and make it anew")
    elif rule is None:
        rule = _Rule(Unavailable, _TRY_LATER) if error.code == 503 else _Rule(InvalidInput)
    return rule.error(
        f"JetStream refuses: {text}", subject=subject, hint=rule.hint, details={"err_code": error.err_code}
    )


def denied(text: str, subject: str) -> Forbidden:
    """The account may not do it."""
    return Forbidden(f"NATS refuses: {text}", subject=subject, hint="give the user the permissions for $JS.API.>")


def unknown(reason: str, subject: str) -> OutcomeUnknown:
    """A change was sent and never answered."""
    return OutcomeUnknown(
        f"it was sent to NATS, but not answered ({reason})",
        subject=subject,
        hint="publish records with a msg_id again: what is stored already is not stored twice",
    )


def no_leader(subject: str) -> Unavailable:
    """Nobody answers for it, though the servers are there."""
    return Unavailable("no NATS server answers for it now; nothing was done", subject=subject, hint=_TRY_LATER)
