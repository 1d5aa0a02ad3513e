r"""Avro values in their three framings, and what is wrong with those that are none.

    container      an object container file: "Obj\x01", its writer's schema, blocks of values
    single-object  C3 01 | u64 CRC-64-AVRO of the schema's canonical form, little-endian | the value
    raw            the value

A container brings its own schema; when the stream has one too, the values are resolved to it. For the other two the
stream's schema is what the value was written with.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterable
from typing import Any

import fastavro
import msgspec
from fastavro.read import SchemaResolutionError
from fastavro.schema import SchemaParseException, fingerprint, to_parsing_canonical_form
from fastavro.validation import ValidationError

from platformd.core.errors import InvalidInput
from platformd.model.schema import Framing

CONTAINER_MARK = b"Obj\x01"
SINGLE_OBJECT_MARK = b"\xc3\x01"
CODECS = ("null", "deflate")
"""Of containers: those that need nothing installed."""

_FAILURES = (
    ValueError,  # UnicodeDecodeError and UnknownType are such
    SchemaResolutionError,
    SchemaParseException,
    ValidationError,
    EOFError,
    TypeError,
    KeyError,
    IndexError,
    AttributeError,
    OverflowError,
    ArithmeticError,
    RecursionError,
    MemoryError,
    struct.error,
    StopIteration,
    zlib.error,
)
"""What fastavro raises, depending on where it stumbles over bytes that are not what they should be."""


def parse_schema(text: str) -> Any:
    """The schema, checked.

    Args:
        text: the schema as JSON.

    Raises:
        InvalidInput: it is not an Avro schema.
    """
    try:
        return fastavro.parse_schema(msgspec.json.decode(text))
    except (*_FAILURES, msgspec.DecodeError) as error:
        raise InvalidInput(f"is not an Avro schema: {_said(error)}", subject="schema") from error


def schema_fingerprint(schema: Any) -> bytes:
    """CRC-64-AVRO of the schema's canonical form, as it stands in a single-object payload."""
    return bytes.fromhex(fingerprint(to_parsing_canonical_form(schema), "CRC-64-AVRO"))


class AvroForm:
    """One framing with one schema.

    Args:
        framing: what is around the values.
        schema: parsed; ``None`` only for containers.

    Raises:
        InvalidInput: the framing needs a schema and there is none.
    """

    def __init__(self, framing: Framing, schema: Any) -> None:
        if schema is None and framing != "container":
            raise InvalidInput(f"the framing {framing!r} needs a schema", subject="avro")
        self._framing = framing
        self._schema = schema
        self._mark = b""
        if framing == "single-object":
            self._mark = SINGLE_OBJECT_MARK + schema_fingerprint(schema)

    def decode(self, payload: bytes) -> Any:
        """The value; of a container the list of its values.

        Raises:
            InvalidInput: it is not one; the message says what is wrong and, where it is known, where.
        """
        if self._framing == "container":
            return self._decode_container(payload)
        start = len(self._mark)
        if payload[:start] != self._mark:
            raise InvalidInput(_wrong_mark(payload, self._mark), subject="avro")
        source = io.BytesIO(payload)
        source.seek(start)
        try:
            value = fastavro.schemaless_reader(source, self._schema, None)
        except _FAILURES as error:
            raise InvalidInput(
                f"cannot be read with the schema, near offset {source.tell()}: {_said(error)}", subject="avro"
            ) from error
        if source.tell() != len(payload):
            raise InvalidInput(
                f"has {len(payload) - source.tell()} bytes after the value, from offset {source.tell()}", subject="avro"
            )
        return value

    def _decode_container(self, payload: bytes) -> list[Any]:
        if payload[:4] != CONTAINER_MARK:
            raise InvalidInput(f"begins with {payload[:4]!r} and not with {CONTAINER_MARK!r}", subject="avro")
        source = io.BytesIO(payload)
        try:
            reader = fastavro.reader(source, self._schema)
            if reader.codec not in CODECS:
                raise InvalidInput(f"has the codec {reader.codec!r}; known: {', '.join(CODECS)}", subject="avro")
            return list(reader)
        except _FAILURES as error:
            raise InvalidInput(
                f"cannot be read, near offset {source.tell()}: {_said(error)}", subject="avro"
            ) from error

    def encode(self, value: Any) -> bytes:
        """A value's bytes; for a container a list of values.

        Raises:
            InvalidInput: it does not fit the schema, or a container has no schema to be written with.
        """
        if self._schema is None:
            raise InvalidInput("cannot be written without a schema", subject="avro", hint="give the stream a schema")
        out = io.BytesIO()
        try:
            if self._framing == "container":
                if isinstance(value, dict) or not isinstance(value, Iterable):
                    raise TypeError("a container holds a list of values")
                fastavro.writer(out, self._schema, value, strict=True)
            else:
                out.write(self._mark)
                fastavro.schemaless_writer(out, self._schema, value, strict=True)
        except _FAILURES as error:
            raise InvalidInput(f"does not fit the schema: {_said(error)}", subject="avro") from error
        return out.getvalue()


def _wrong_mark(payload: bytes, mark: bytes) -> str:
    if payload[:2] != SINGLE_OBJECT_MARK:
        return f"begins with {payload[:2]!r} and not with {SINGLE_OBJECT_MARK!r}"
    return f"was written with the schema {payload[2:10].hex()}; the stream's is {mark[2:].hex()}"


def _said(error: BaseException) -> str:
    said = " ".join(str(error).split()) or type(error).__name__
    return said if len(said) <= 300 else said[:300] + "…"
