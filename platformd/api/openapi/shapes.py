"""What goes over the wire where handlers write it by hand. Nothing is encoded or decoded with these types; they are
there to be read, in the OpenAPI document, and the tests of the document hold the handlers to them."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec

from platformd.conductor.differences import FieldChange
from platformd.conductor.facts import Dependent
from platformd.coordination.contract import CompareOperator, CompareTarget, StoreStatus
from platformd.coordination.recipes import Owner
from platformd.model.component import ComponentState, JobCounts
from platformd.queues.contract import ConsumerInfo

Count = Annotated[int, msgspec.Meta(ge=0)]
LeaseId = Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{16}$", description="63 bits, hexadecimal.")]
Absent = msgspec.UnsetType
Base64 = Annotated[str, msgspec.Meta(extra_json_schema={"contentEncoding": "base64"})]


class Shape(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """The base of what is described here: everything that is there is said."""


class ProblemField(Shape, kw_only=True):
    """One thing that is wrong with an input, and where."""

    path: str
    message: str
    hint: str | Absent = msgspec.UNSET


class Problem(msgspec.Struct, kw_only=True):
    """Why it was refused (RFC 9457). Errors of some codes say more, in further members."""

    type: str
    title: str
    status: int
    code: str
    detail: str
    subject: str | Absent = msgspec.UNSET
    hint: str | Absent = msgspec.UNSET
    errors: list[ProblemField] | Absent = msgspec.UNSET
    instance: str | Absent = msgspec.UNSET


# -- the component --------------------------------------------------------------------------------------------------


class Root(Shape, kw_only=True):
    """The name, the version, and where to go from here."""

    name: str
    version: str
    links: dict[str, str]


class QueueCounts(Shape, kw_only=True):
    """What the queues have."""

    streams: Count
    consumers: Count
    sockets: dict[str, str]


class Leadership(Shape, kw_only=True):
    """Which of the daemons that share a store runs the controllers."""

    shared: bool
    leads: bool
    """Whether this one does."""
    leader: Owner | None


class DaemonStatus(Shape, kw_only=True):
    """How the daemon is."""

    name: str
    version: str
    state: ComponentState
    started_at: str
    uptime_seconds: float
    pid: int
    state_dir: str
    node: str
    leadership: Leadership
    jobs: JobCounts
    store: StoreStatus
    store_socket: str
    queues: QueueCounts
    watchers: Count


class KindColumn(Shape, kw_only=True):
    """A column of a kind's table."""

    title: str
    path: str
    format: str
    wide: bool


class KindAction(Shape, kw_only=True):
    """Something that a kind's resources can be told to do."""

    name: str
    summary: str
    destructive: bool
    parameters: dict[str, Any]
    """A JSON Schema."""
    result: dict[str, Any] | None
    """A JSON Schema; ``null``: the resource."""


class KindState(Shape, kw_only=True):
    """A row of a kind's state table."""

    state: str
    initial: bool
    next: list[str]


class KindDescription(msgspec.Struct, kw_only=True):
    """What a kind is."""

    name: str
    plural: str
    singular: str
    summary: str
    aliases: list[str]
    columns: list[KindColumn]
    schema: dict[str, Any]
    example: dict[str, Any]
    actions: list[KindAction]
    states: list[KindState]
    rules: list[str]
    finalizer: str | None


class Kinds(Shape, kw_only=True):
    """All kinds."""

    items: list[KindDescription]


# -- keys -----------------------------------------------------------------------------------------------------------


class KeyFacts(Shape, kw_only=True):
    """A key without its value. What is not text is in base64, under a name that says so."""

    key: str | Absent = msgspec.UNSET
    key_base64: Base64 | Absent = msgspec.UNSET
    create_revision: Count
    mod_revision: Count
    version: Count
    lease: LeaseId | None


class KeyWritten(KeyFacts, kw_only=True):
    """A key that was written."""

    revision: Count


class KeyDocument(KeyFacts, kw_only=True):
    """A key and its value."""

    value: str | Absent = msgspec.UNSET
    value_base64: Base64 | Absent = msgspec.UNSET


class KeyListing(Shape, kw_only=True):
    """A page of keys, all of one revision."""

    items: list[KeyDocument]
    revision: Count
    cursor: str | None
    prefixes: list[str] | Absent = msgspec.UNSET


class KeyCount(Shape, kw_only=True):
    """How many keys there are."""

    count: Count
    revision: Count


KEYS_OR_COUNT: dict[str, Any] = {
    "anyOf": [{"$ref": "#/components/schemas/KeyListing"}, {"$ref": "#/components/schemas/KeyCount"}]
}
"""A page, or the number when that was asked for."""


class KeysDeleted(Shape, kw_only=True):
    """How many keys were removed."""

    deleted: Count
    revision: Count


class _OfKey(Shape, kw_only=True):
    key: str | Absent = msgspec.UNSET
    key_base64: Base64 | Absent = msgspec.UNSET


class TxnCompare(_OfKey, kw_only=True):
    """What must be so."""

    target: CompareTarget
    operator: CompareOperator
    operand: int | str | Absent = msgspec.UNSET
    operand_base64: Base64 | Absent = msgspec.UNSET


class TxnPut(_OfKey, kw_only=True):
    """Write a key."""

    op: Literal["put"]
    value: str | Absent = msgspec.UNSET
    value_base64: Base64 | Absent = msgspec.UNSET
    lease: str | Absent | None = msgspec.UNSET


class TxnRange(_OfKey, kw_only=True):
    """Read or remove a key, those with a prefix, or those from a key to an end."""

    op: Literal["get", "delete"]
    prefix: str | Absent = msgspec.UNSET
    prefix_base64: Base64 | Absent = msgspec.UNSET
    end: str | Absent = msgspec.UNSET
    end_base64: Base64 | Absent = msgspec.UNSET


TXN_REQUEST: dict[str, Any] = {
    "type": "object",
    "additionalProperties": False,
    "properties": {
        "compares": {"type": "array", "items": {"$ref": "#/components/schemas/TxnCompare"}},
        **{
            branch: {
                "type": "array",
                "items": {
                    "anyOf": [{"$ref": "#/components/schemas/TxnPut"}, {"$ref": "#/components/schemas/TxnRange"}]
                },
            }
            for branch in ("then", "else")
        },
    },
}
"""A transaction: when all compares hold, ``then`` is done, otherwise ``else`` (a word that Python keeps)."""


class TxnResultItem(Shape, kw_only=True):
    """What one operation gave."""

    op: Literal["put", "delete", "get"]
    items: list[KeyDocument] | Absent = msgspec.UNSET
    deleted: Count | Absent = msgspec.UNSET
    previous: list[KeyDocument] | KeyDocument | Absent | None = msgspec.UNSET


class TxnAnswer(Shape, kw_only=True):
    """What a transaction did."""

    succeeded: bool
    revision: Count
    results: list[TxnResultItem]


# -- leases and locks -----------------------------------------------------------------------------------------------


class LeaseGrant(Shape, kw_only=True):
    """What lease is wanted."""

    ttl: str | Annotated[float, msgspec.Meta(ge=0)]
    id: str | Absent | None = msgspec.UNSET


class LeaseKey(_OfKey, kw_only=True):
    """A key that goes with a lease."""


class LeaseDocument(Shape, kw_only=True):
    """A lease."""

    id: LeaseId
    ttl: float
    remaining: float
    keys: list[LeaseKey] | Absent = msgspec.UNSET


class LeaseListing(Shape, kw_only=True):
    """A page of leases."""

    items: list[LeaseDocument]
    cursor: str | None


class LeaseRevoked(Shape, kw_only=True):
    """How many keys went with the lease."""

    deleted: Count


class LockRequest(Shape, kw_only=True):
    """How a lock is wanted."""

    ttl: str | float | Absent = msgspec.UNSET
    lease: str | Absent | None = msgspec.UNSET
    wait: str | float | Absent = msgspec.UNSET
    owner: Annotated[str, msgspec.Meta(max_length=1024)] | Absent = msgspec.UNSET


class LockAcquired(_OfKey, kw_only=True):
    """A lock that the asker has now."""

    name: str
    lease: LeaseId
    revision: Count
    """The fencing token: it only grows."""
    ttl: float


class LockReleased(Shape, kw_only=True):
    """It was given up."""

    released: Literal[True]


class LockPlace(Shape, kw_only=True):
    """Somebody who has a lock or waits for it."""

    owner: str
    lease: LeaseId | None
    revision: Count


class LockState(Shape, kw_only=True):
    """Who has a lock, and who waits."""

    name: str
    holder: LockPlace | None
    waiters: list[LockPlace]


class LockListing(Shape, kw_only=True):
    """All locks that somebody has."""

    items: list[LockState]
    revision: Count
    complete: bool


# -- records --------------------------------------------------------------------------------------------------------


class RecordPublished(Shape, kw_only=True):
    """Where a record is now; ``null`` when it was there already."""

    stream: str
    sequence: Count | None
    duplicate: bool


class BatchPublished(Shape, kw_only=True):
    """Where the records of a batch are now."""

    stream: str
    appended: Count
    first_sequence: Count | None
    last_sequence: Count | None
    duplicates: list[int]
    """Places in the batch of records that were there already."""


class RecordDocument(Shape, kw_only=True):
    """A record as it is read."""

    sequence: Count
    subject: str
    time: str | None
    append_time: str | None
    deliveries: Count
    msg_id: str
    headers: dict[str, str]
    payload: Base64
    text: str | Absent = msgspec.UNSET


class Records(Shape, kw_only=True):
    """Some records."""

    items: list[RecordDocument]


class RecordsPurged(Shape, kw_only=True):
    """How many records were removed."""

    stream: str
    removed: Count


class ConsumerListing(Shape, kw_only=True):
    """The consumers of a stream."""

    items: list[ConsumerInfo]


class AcksKnown(Shape, kw_only=True):
    """How many acknowledgements were of deliveries that were out."""

    known: Count


REFERRED = (Problem, FieldChange, Dependent, KeyListing, KeyCount, TxnCompare, TxnPut, TxnRange)
"""What the schemas that are written out here refer to."""
