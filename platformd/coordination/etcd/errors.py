"""What etcd and gRPC say, translated once, at the engine's edge.

A refusal says two things: what went wrong, and whether the request may have been done. The second is what
decides if it is tried again (``Again``): etcd's "request timed out" is sent after the request went to the cluster's
log, "no leader" before.

etcd tells its errors apart by their text, not by their code: its own clients compare the text too
(``api/v3rpc/rpctypes/error.go``). The text comes first, then the code.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from typing import NamedTuple

from platformd.coordination.contract import FutureRevision
from platformd.core.errors import (
    Conflict,
    Corrupted,
    DeadlineExceeded,
    Forbidden,
    Gone,
    InvalidInput,
    LimitReached,
    NotFound,
    OutcomeUnknown,
    PlatformError,
    StorageFull,
    TooLarge,
    Unauthorized,
    Unavailable,
    Unsupported,
)


class Again(enum.Enum):
    """Whether a refused request can be sent again."""

    NEVER = enum.auto()
    """It would be refused again. It was not done."""
    SAFE = enum.auto()
    """Yes, to another member rather: it was not done."""
    UNKNOWN = enum.auto()
    """Only what may be done twice: it may have been done."""
    AFTER_LOGIN = enum.auto()
    """Yes, with a new token: it was not done."""


class CompactedReply(Gone):
    """A revision has been compacted; etcd does not say which is the oldest that is left."""


class AnswerTooLarge(TooLarge):
    """The answer to a question is larger than ``max_message``."""


class _Rule(NamedTuple):
    make: Callable[[str], PlatformError]
    again: Again


def _rule(error_class: type[PlatformError], hint: str | None = None, again: Again = Again.NEVER) -> _Rule:
    return _Rule(lambda message: error_class(message, subject="etcd", hint=hint), again)


_TRY_LATER = "see the members' health: etcdctl endpoint status --cluster"
_RIGHTS = "see the user's roles: etcdctl user get USER --detail"
_LOGIN = "set user and password_file to an account of the cluster"
_RAISE_REQUEST = "etcd's own limit; raise the members' --max-request-bytes, or store less in one key or transaction"
_DIFFERENT = "the members are set to less than platformd is; raise their --max-txn-ops"
_FULL = "compact, then etcdctl defrag, then etcdctl alarm disarm; or raise the members' --quota-backend-bytes"

_BY_MESSAGE: dict[str, _Rule] = {
    "key is not provided": _rule(InvalidInput),
    "duplicate key given in txn request": _rule(InvalidInput, "put a key once, and do not delete what you put"),
    "too many operations in txn request": _rule(TooLarge, _DIFFERENT),
    "request is too large": _rule(TooLarge, _RAISE_REQUEST),
    "mvcc: required revision has been compacted": _rule(CompactedReply),
    "mvcc: required revision is a future revision": _rule(
        FutureRevision, "list again and go on from its revision: the store was restored, or is another one"
    ),
    "mvcc: database space exceeded": _rule(StorageFull, _FULL),
    "requested lease not found": _rule(NotFound, "grant a new lease"),
    "lease already exists": _rule(Conflict),
    "too large lease TTL": _rule(InvalidInput),
    "too many requests": _rule(LimitReached, "the cluster is behind with its work", Again.SAFE),
    "permission denied": _rule(Forbidden, _RIGHTS),
    "user name is empty": _rule(Unauthorized, _LOGIN, Again.AFTER_LOGIN),
    "authentication failed, invalid user ID or password": _rule(Unauthorized, _LOGIN),
    "authentication is not enabled": _rule(Unauthorized, "leave user empty, or enable it: etcdctl auth enable"),
    "invalid auth token": _rule(Unauthorized, _LOGIN, Again.AFTER_LOGIN),
    "revision of auth store is old": _rule(Unauthorized, _LOGIN, Again.AFTER_LOGIN),
    "no leader": _rule(Unavailable, _TRY_LATER, Again.SAFE),
    "not leader": _rule(Unavailable, _TRY_LATER, Again.UNKNOWN),
    "not capable": _rule(Unavailable, _TRY_LATER, Again.SAFE),
    "leader changed": _rule(Unavailable, _TRY_LATER, Again.UNKNOWN),
    "server stopped": _rule(Unavailable, _TRY_LATER, Again.UNKNOWN),
    "request timed out": _rule(Unavailable, _TRY_LATER, Again.UNKNOWN),
    "request timed out, possibly due to previous leader failure": _rule(Unavailable, _TRY_LATER, Again.UNKNOWN),
    "request timed out, possibly due to connection lost": _rule(Unavailable, _TRY_LATER, Again.UNKNOWN),
    "request timed out, waiting for the applied index took too long": _rule(Unavailable, _TRY_LATER, Again.UNKNOWN),
    "rpc not supported for learner": _rule(Unavailable, "name only voting members as endpoints", Again.SAFE),
    "unhealthy cluster": _rule(Unavailable, _TRY_LATER, Again.UNKNOWN),
    "corrupt cluster": _rule(Corrupted, "see etcdctl alarm list; restore the member that differs from a backup"),
}
"""By etcd's text, without its ``etcdserver: ``."""

_BY_CODE: dict[int, _Rule] = {
    1: _rule(Unavailable, None, Again.UNKNOWN),  # cancelled
    2: _rule(Unavailable, None, Again.UNKNOWN),  # unknown: whatever a handler did not name
    3: _rule(InvalidInput),
    4: _rule(DeadlineExceeded, _TRY_LATER, Again.UNKNOWN),
    5: _rule(NotFound),
    6: _rule(Conflict),
    7: _rule(Forbidden, _RIGHTS),
    8: _rule(TooLarge, _RAISE_REQUEST),  # resource exhausted: gRPC's own word for a message that is too large
    9: _rule(Conflict),
    10: _rule(Conflict),
    11: _rule(InvalidInput),
    12: _rule(Unsupported, "see that the endpoints are those of etcd 3.4 or newer"),
    13: _rule(Unavailable, None, Again.UNKNOWN),
    14: _rule(Unavailable, _TRY_LATER, Again.UNKNOWN),
    15: _rule(Corrupted, "see etcdctl alarm list; restore the member that differs from a backup"),
    16: _rule(Unauthorized, _LOGIN, Again.AFTER_LOGIN),
}
"""By gRPC's code: https://grpc.io/docs/guides/status-codes."""


class Refusal(NamedTuple):
    """An answer that is an error."""

    error: PlatformError
    again: Again


def refusal(status: int, message: str) -> Refusal:
    """What a gRPC status other than 0, or a watch's reason for its end (status 2), means to us."""
    short = message.removeprefix("etcdserver: ")
    rule = _BY_MESSAGE.get(short) or _BY_CODE.get(status) or _BY_CODE[2]
    return Refusal(rule.make(short or f"gRPC status {status}"), rule.again)


def outcome_unknown(reason: str) -> OutcomeUnknown:
    """A change was sent and never answered."""
    return OutcomeUnknown(
        f"the change was sent, but not answered ({reason})",
        subject="etcd",
        hint="read the key again before you repeat it",
    )


def unavailable(failures: dict[str, str], waited: float) -> Unavailable:
    """No member could be asked within the time; with what each of them did."""
    told = "; ".join(f"{member}: {reason}" for member, reason in failures.items())
    return Unavailable(
        f"no member of the cluster could be asked within {waited:g} s ({told or 'none was tried'}); nothing was done",
        subject="etcd",
        hint="see that the members run and that the endpoints are their client URLs",
    )


def no_answer(reason: str, waited: float) -> DeadlineExceeded:
    """A question was not answered in time."""
    return DeadlineExceeded(f"no answer within {waited:g} s ({reason})", subject="etcd", hint=_TRY_LATER)
