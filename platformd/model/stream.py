"""Stream: a durable, ordered log of the records published to its subjects."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from platformd.core.errors import FieldError
from platformd.core.quantities import Duration, Size
from platformd.model.kind import Action, Column, Kind
from platformd.model.resource import Status, Struct
from platformd.model.schema import Encoding, Framing, SchemaDocument, reference, schema_error
from platformd.model.subjects import patterns_overlap, subject_error


class StreamSpec(Struct, frozen=True, kw_only=True):
    """What the stream captures and how long it keeps it."""

    subjects: Annotated[tuple[str, ...], msgspec.Meta(min_length=1, max_length=64)]
    """Patterns of the subjects it captures; no two streams may overlap."""
    description: str = ""
    """What it is, for people."""
    max_age: Duration = "0"
    """Records older than this go, whole log files at a time; ``0`` keeps them."""
    max_bytes: Size = "0"
    """The oldest records go when the log is larger than this (``discard: new``: publishing is refused); ``0`` for no
    limit."""
    max_records: Annotated[int, msgspec.Meta(ge=0, le=1 << 53, examples=[0, 1_000_000])] = 0
    """The same for the number of records that are kept; ``0`` for no limit."""
    max_records_per_subject: Annotated[int, msgspec.Meta(ge=0, le=1 << 31, examples=[0, 1])] = 0
    """The same for the records of each subject; ``1`` keeps the newest of each, as a table of values does; ``0`` for
    no limit."""
    max_record_bytes: Size = "0"
    """Publishing a record whose payload, headers, subject and ``msg_id`` have more bytes is refused; ``0`` for the
    engine's limit."""
    discard: Literal["old", "new"] = "old"
    """What gives way at ``max_bytes``, ``max_records`` and ``max_records_per_subject``: the oldest records, or the
    batch that is published."""
    retention: Literal["limits", "interest", "work_queue"] = "limits"
    """When a record goes before a limit says so. ``limits``: never. ``interest``: when every consumer that matches it
    is done with it, at once when there is none. ``work_queue``: when its one consumer is done with it; filters of
    consumers may not overlap. It cannot change."""
    compression: Literal["none", "zstd"] = "none"
    """How full log files are kept; the newest one is never compressed. It goes on in the background, and nothing but
    the size on the disk changes for whoever reads. Turned on, old files are compressed, too; turned off, what is
    compressed stays so. A file that would hardly become smaller stays as it is. ``max_bytes`` counts what is on the
    disk."""
    duplicate_window: Duration = "24h"
    """A record whose ``msg_id`` was seen on the same subject within this time is acknowledged and not
    stored again; ``0`` never looks."""
    duplicate_limit: Annotated[int, msgspec.Meta(ge=0, le=16_777_216)] = 1_048_576
    """How many ids are remembered at most; the oldest are forgotten first."""

    encoding: Encoding = "bytes"
    """How payloads are written: ``bytes`` is anything."""
    framing: Framing = "container"
    """For ``avro``: what is around the values."""
    schema: Annotated[
        str | SchemaDocument | None,
        msgspec.Meta(
            description="NAME@VERSION of the schema register, or the schema itself: Avro's for `avro`, JSON Schema "
            "2020-12 for `utf-8`, `json`, `msgpack` and `npy`, of which it describes the header as an object of descr, "
            "fortran_order and shape.",
            examples=["survey.alert@2", {"type": "object", "required": ["id"]}],
        ),
    ] = None
    """What a payload may be."""
    validate: bool = False
    """Whether publishing a record that does not fit ``encoding`` and ``schema`` is refused, with everything that is in
    its batch. Dead letters are the engine's own and cannot be checked: such a stream takes none."""


class StreamStatus(Status, frozen=True, kw_only=True):
    """What the engine has. ``state`` is ``pending``, ``active`` or ``error``."""

    messages: int = 0
    """Records that are kept."""
    bytes: int = 0
    """What they take on the disk."""
    compression_ratio: float = 1.0
    """How many times larger they would be without compression."""
    first_sequence: int = 0
    """The sequence of the oldest record that is kept; one more than the last when there is none."""
    last_sequence: int = 0
    """The sequence of the newest record."""
    first_record_at: str | None = None
    """When the oldest record that is kept was appended."""
    last_record_at: str | None = None
    """When the newest record was appended."""
    consumers: int = 0
    """How many consumers it has."""
    messages_per_second: float = 0.0
    """Records appended, over the last status interval."""
    bytes_per_second: float = 0.0
    """By how much it grew, over the last status interval."""


class PurgeParameters(Struct, frozen=True, kw_only=True):
    """Which records to remove; ``{}`` for all."""

    subject: str = ">"
    """Only those whose subject matches this pattern."""
    before: Annotated[int, msgspec.Meta(ge=0, le=(1 << 63) - 1)] = 0
    """Only those before this sequence; 0 for all."""
    keep: Annotated[int, msgspec.Meta(ge=0, le=(1 << 63) - 1)] = 0
    """Leave so many of the newest that match."""


class Purged(Struct, frozen=True, kw_only=True):
    """What a purge did."""

    removed: int
    """How many records are gone."""


def _check_subjects(spec: StreamSpec) -> list[FieldError]:
    """Subjects are valid patterns of which no two overlap."""
    errors = []
    for i, subject in enumerate(spec.subjects):
        wrong = subject_error(subject, pattern=True)
        if wrong:
            errors.append(FieldError(path=f"spec.subjects[{i}]", message=f"{subject!r} {wrong}"))
    if not errors:
        for i, first in enumerate(spec.subjects):
            for second in spec.subjects[i + 1 :]:
                if patterns_overlap(first, second):
                    errors.append(FieldError(path="spec.subjects", message=f"{first!r} and {second!r} overlap"))
    return errors


def _check_format(spec: StreamSpec) -> list[FieldError]:
    """``framing`` and ``schema`` fit ``encoding``."""
    errors = []
    if spec.encoding == "bytes" and (spec.schema is not None or spec.validate):
        what = "validate" if spec.schema is None else "schema"
        message = "says nothing about encoding bytes, which is anything"
        errors.append(FieldError(path=f"spec.{what}", message=message, hint="name another encoding"))
    if spec.framing != "container" and spec.encoding != "avro":
        errors.append(FieldError(path="spec.framing", message=f"{spec.framing!r} is for encoding avro"))
    if spec.encoding == "avro" and spec.framing != "container" and spec.schema is None:
        errors.append(FieldError(path="spec.schema", message=f"framing {spec.framing!r} cannot be read without one"))
    if isinstance(spec.schema, str):
        if reference(spec.schema) is None:
            message = f"{spec.schema[:100]!r} is not a reference"
            hint = "refer to the register as NAME@VERSION, or write the schema here"
            errors.append(FieldError(path="spec.schema", message=message, hint=hint))
    elif spec.schema is not None:
        wrong = schema_error(spec.schema)
        errors += [FieldError(path="spec.schema", message=wrong)] if wrong else []
    return errors


STREAM = Kind(
    name="Stream",
    plural="streams",
    summary="A durable, ordered log of the records published to its subjects.",
    spec=StreamSpec,
    status=StreamStatus,
    aliases=("st",),
    example={"subjects": ["alerts.>"], "max_age": "7d", "max_bytes": "10GiB"},
    actions=(
        Action(
            name="purge",
            summary="Remove records for good; the parameters say which.",
            parameters=PurgeParameters,
            result=Purged,
            destructive=True,
        ),
    ),
    finalizer="queues",
    subjects=lambda spec: [(f"spec.subjects[{i}]", subject) for i, subject in enumerate(spec.subjects)],
    checks=(
        _check_subjects,
        _check_format,
    ),
    transitions={
        "pending": frozenset({"active", "error"}),
        "active": frozenset({"error"}),
        "error": frozenset({"active"}),
    },
    columns=(
        Column(title="STATE", path="status.state"),
        Column(title="SUBJECTS", path="spec.subjects"),
        Column(title="MESSAGES", path="status.messages", format="count"),
        Column(title="BYTES", path="status.bytes", format="bytes"),
        Column(title="RATE", path="status.messages_per_second", format="rate"),
        Column(title="CONSUMERS", path="status.consumers", format="count"),
        Column(title="ENCODING", path="spec.encoding", wide=True),
        Column(title="COMPRESSION", path="spec.compression", wide=True),
        Column(title="RATIO", path="status.compression_ratio", wide=True),
        Column(title="FIRST", path="status.first_sequence", format="count", wide=True),
        Column(title="LAST", path="status.last_sequence", format="count", wide=True),
        Column(title="OLDEST", path="status.first_record_at", format="age", wide=True),
        Column(title="NEWEST", path="status.last_record_at", format="age", wide=True),
    ),
)
