"""What the client says: decoded straight into subclasses of the contract's own types, encoded from tuples."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import msgspec

from platformd.coordination.codec import frames
from platformd.coordination.contract import (
    Compare,
    CompareOperator,
    CompareTarget,
    Delete,
    EventType,
    Get,
    Operation,
    Order,
    Put,
)
from platformd.core.errors import InvalidInput

_Int = Annotated[int, msgspec.Meta(ge=-frames.MAX_INT - 1, le=frames.MAX_INT)]
_Id = Annotated[int, msgspec.Meta(ge=1, le=frames.MAX_INT)]


class WirePut(Put, frozen=True, array_like=True, tag=frames.PUT, gc=False):
    """``Put`` as it travels."""

    lease: _Int = 0


class WireDelete(Delete, frozen=True, array_like=True, tag=frames.DELETE, gc=False):
    """``Delete`` as it travels."""


class WireGet(Get, frozen=True, array_like=True, tag=frames.READ, gc=False):
    """``Get`` as it travels."""


class WireCompare(Compare, frozen=True, array_like=True, gc=False):
    """``Compare`` as it travels."""

    key: bytes
    target: CompareTarget
    operator: CompareOperator
    operand: bytes | _Int


class _Message(msgspec.Struct, frozen=True, array_like=True, gc=False):
    pass


class Hello(_Message, frozen=True, tag=frames.HELLO):
    """The client's first message."""

    magic: str
    version: int
    name: str = ""
    token: str = ""
    """Who asks; without it, the peer of the socket."""


class GetRequest(_Message, frozen=True, tag=frames.GET):
    """See ``Store.get``."""

    id: _Id
    key: bytes
    revision: _Int = 0


class ListRequest(_Message, frozen=True, tag=frames.LIST):
    """See ``Store.list``."""

    id: _Id
    key: bytes
    end: bytes | None
    revision: _Int = 0
    limit: _Int = 0
    keys_only: bool = False
    count_only: bool = False
    order: Order = "key"


class TxnRequest(_Message, frozen=True, tag=frames.TXN):
    """See ``Store.txn``."""

    id: _Id
    compares: tuple[WireCompare, ...]
    then: tuple[WirePut | WireDelete | WireGet, ...]
    otherwise: tuple[WirePut | WireDelete | WireGet, ...] = ()


class WatchRequest(_Message, frozen=True, tag=frames.WATCH):
    """See ``Store.watch``."""

    id: _Id
    key: bytes
    end: bytes | None
    start_revision: _Int
    previous: bool
    only: EventType | None
    credit: _Int


class CreditRequest(_Message, frozen=True, tag=frames.CREDIT):
    """More credit for a watch, bytes."""

    id: _Id
    credit: _Int


class CancelRequest(_Message, frozen=True, tag=frames.CANCEL):
    """The end of a watch."""

    id: _Id


class GrantRequest(_Message, frozen=True, tag=frames.GRANT):
    """See ``Leases.grant``."""

    id: _Id
    ttl: float
    lease_id: _Int = 0


class KeepAliveRequest(_Message, frozen=True, tag=frames.KEEP_ALIVE):
    """See ``Leases.keep_alive``."""

    id: _Id
    lease_id: _Int


class RevokeRequest(_Message, frozen=True, tag=frames.REVOKE):
    """See ``Leases.revoke``."""

    id: _Id
    lease_id: _Int


class LeaseRequest(_Message, frozen=True, tag=frames.LEASE):
    """See ``Leases.get``."""

    id: _Id
    lease_id: _Int


class LeasesRequest(_Message, frozen=True, tag=frames.LEASES):
    """See ``Leases.list``."""

    id: _Id


class CompactRequest(_Message, frozen=True, tag=frames.COMPACT):
    """See ``Store.compact``."""

    id: _Id
    revision: _Int


class StatusRequest(_Message, frozen=True, tag=frames.STATUS):
    """See ``Store.status``."""

    id: _Id


class PingRequest(_Message, frozen=True, tag=frames.PING):
    """Asks for nothing but an answer."""

    id: _Id


Request = (
    Hello
    | GetRequest
    | ListRequest
    | TxnRequest
    | WatchRequest
    | CreditRequest
    | CancelRequest
    | GrantRequest
    | KeepAliveRequest
    | RevokeRequest
    | LeaseRequest
    | LeasesRequest
    | CompactRequest
    | StatusRequest
    | PingRequest
)

_REQUESTS: msgspec.msgpack.Decoder[Request] = msgspec.msgpack.Decoder(Request)


class _AnyRequest(_Message, frozen=True):
    kind: int
    id: _Id


_IDS = msgspec.msgpack.Decoder(_AnyRequest)


def decode_request(frame: bytes | bytearray) -> Request:
    """What a client's message says.

    Raises:
        Malformed: it is not a message of a client.
    """
    try:
        return _REQUESTS.decode(frame)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Malformed(str(error), _id_of(frame)) from error


class Malformed(InvalidInput):
    """A message that cannot be understood.

    Args:
        reason: what is wrong with it.
        request_id: the id that it carries all the same, so that it can be refused alone; 0 if it has none.
    """

    def __init__(self, reason: str, request_id: int = 0) -> None:
        super().__init__(f"the message cannot be understood: {reason}", subject="store door")
        self.request_id = request_id


def _id_of(frame: bytes | bytearray) -> int:
    try:
        return _IDS.decode(frame).id
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return 0


def wire_compare(compare: Compare) -> tuple[Any, ...]:
    """A compare as it travels."""
    return (compare.key, compare.target, compare.operator, compare.operand)


def wire_operation(operation: Operation) -> tuple[Any, ...]:
    """An operation as it travels."""
    if isinstance(operation, Put):
        return (frames.PUT, operation.key, operation.value, operation.lease)
    return (frames.DELETE if isinstance(operation, Delete) else frames.READ, operation.key, operation.end)


def wire_txn(compares: Sequence[Compare], then: Sequence[Operation], otherwise: Sequence[Operation]) -> tuple[Any, ...]:
    """What of a transaction comes after its id."""
    return (
        [wire_compare(compare) for compare in compares],
        [wire_operation(operation) for operation in then],
        [wire_operation(operation) for operation in otherwise],
    )
