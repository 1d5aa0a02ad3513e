"""Schema: what records may be, in numbered versions that never change, for streams to refer to."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec

from platformd.core.errors import FieldError
from platformd.core.ids import is_name
from platformd.model.kind import Column, Kind
from platformd.model.resource import Status, Struct

Encoding = Literal["bytes", "utf-8", "json", "msgpack", "npy", "avro"]
"""How a payload is written: ``bytes`` anything; ``utf-8`` text; ``json``; ``msgpack``; ``npy`` one NumPy array as
``numpy.save`` writes it; ``avro``."""

Framing = Literal["container", "single-object", "raw"]
"""What is around Avro data: ``container``: an object container file, which brings its schema and any number of values;
``single-object``: one value behind a mark and its schema's fingerprint; ``raw``: one value and nothing else."""

SchemaType = Literal["json", "avro"]
Compatibility = Literal["none", "backward", "forward", "full"]

MAX_SCHEMA_BYTES = 256 << 10
"""Of one schema, written as JSON."""
MAX_SCHEMA_DEPTH = 64
"""How deep objects and arrays may be nested in a schema."""
MAX_VERSION_DIGITS = 9
MAX_VERSIONS = 64
"""Of one subject; take old ones out that no stream uses."""

SchemaDocument = dict[str, Any] | list[Any]
"""A schema as builtin types. Avro's plain names are written as ``{"type": "string"}``."""


def reference(text: str) -> tuple[str, int] | None:
    """Subject and version of ``subject@version``; ``None`` when it is not one."""
    subject, at, version = text.partition("@")
    good = at and is_name(subject) and version.isascii() and version.isdigit() and len(version) <= MAX_VERSION_DIGITS
    return (subject, int(version)) if good and not version.startswith("0") else None


def schema_error(schema: Any) -> str | None:
    """Why ``schema`` is over the bounds of schemas, or ``None``."""
    level = [schema]
    for _ in range(MAX_SCHEMA_DEPTH + 1):
        level = [
            inner
            for value in level
            if isinstance(value, dict | list)
            for inner in (value.values() if isinstance(value, dict) else value)
        ]
        if not level:
            break
    else:
        return f"is nested deeper than {MAX_SCHEMA_DEPTH} levels"
    try:
        size = len(msgspec.json.encode(schema))
    except (msgspec.EncodeError, TypeError, ValueError, RecursionError) as error:
        return f"cannot be written as JSON: {error}"
    return None if size <= MAX_SCHEMA_BYTES else f"has {size} bytes as JSON; the limit is {MAX_SCHEMA_BYTES}"


class SchemaVersion(Struct, frozen=True, kw_only=True):
    """One version; what it says never changes."""

    version: Annotated[int, msgspec.Meta(ge=1, le=999_999_999)]
    """Its number, higher than those before."""
    schema: SchemaDocument
    """JSON Schema 2020-12, or Avro."""


class SchemaSpec(Struct, frozen=True, kw_only=True):
    """All versions of one subject, oldest first.

    A registered version cannot be changed. A new one has a higher number than all before it and must be compatible
    with every version that is kept, whatever order they are compared in:

    - ``backward``: who reads with the new version can read what was written with any kept one.
    - ``forward``: who reads with any kept version can read what is written with the new one.
    - ``full``: both. ``none``: nothing is checked.

    For Avro, "can read" is schema resolution as the Avro specification has it: the reader's record has a default for
    every field that the writer's lacks; enum symbols of the writer are known to the reader, or its enum has a default;
    numbers are promoted (int to long, float, double; long to float, double; float to double; string and bytes to each
    other); names match unqualified, or by the reader's aliases; every branch of the writer's union can be read.
    For JSON Schema, it is containment: every document that fits the writer's schema fits the reader's. A new optional
    property of an object that allows others is therefore not backward compatible: an old document may have anything
    there. Containment that cannot be proved is refused as if it did not hold; ``none`` registers the version all the
    same.

    A version may be taken out when no stream refers to it; the newest only together with the whole subject, so that a
    number never means two schemas."""

    type: SchemaType
    """What the schemas are written in."""
    compatibility: Compatibility = "backward"
    """What a new version must be able to do; see above."""
    description: str = ""
    """What it is, for people."""
    versions: Annotated[tuple[SchemaVersion, ...], msgspec.Meta(min_length=1, max_length=MAX_VERSIONS)]
    """The versions, oldest first."""


class SchemaStatus(Status, frozen=True, kw_only=True):
    """``registered``, and who uses it."""

    latest: int = 0
    """The newest version."""
    versions: int = 0
    """How many versions are kept."""
    streams: tuple[str, ...] = ()
    """Streams that refer to it, as ``NAME@VERSION``."""


def _check_versions(spec: SchemaSpec) -> list[FieldError]:
    """Versions are listed by their numbers, and each schema is within the bounds of size and depth."""
    errors = []
    before = 0
    for i, entry in enumerate(spec.versions):
        if entry.version <= before:
            errors.append(
                FieldError(
                    path=f"spec.versions[{i}].version",
                    message=f"{entry.version} does not come after {before}",
                    hint="list the versions by their numbers, oldest first",
                )
            )
        before = max(before, entry.version)
        wrong = schema_error(entry.schema)
        if wrong:
            errors.append(FieldError(path=f"spec.versions[{i}].schema", message=wrong))
    return errors


SCHEMA = Kind(
    name="Schema",
    plural="schemas",
    summary="What records may be, in versions that never change; streams refer to one as NAME@VERSION.",
    spec=SchemaSpec,
    status=SchemaStatus,
    aliases=("sc",),
    example={
        "type": "json",
        "versions": [{"version": 1, "schema": {"type": "object", "required": ["id"]}}],
    },
    checks=(_check_versions,),
    transitions={"pending": frozenset({"registered"}), "registered": frozenset()},
    columns=(
        Column(title="STATE", path="status.state"),
        Column(title="TYPE", path="spec.type"),
        Column(title="COMPATIBILITY", path="spec.compatibility"),
        Column(title="LATEST", path="status.latest", format="count"),
        Column(title="STREAMS", path="status.streams"),
        Column(title="VERSIONS", path="status.versions", format="count", wide=True),
    ),
)
