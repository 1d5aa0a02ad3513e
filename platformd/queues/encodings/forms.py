"""A stream's format, ready to use: values to payloads and back, and what is wrong with a payload."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import msgspec

from platformd.core.errors import FieldError, InvalidInput
from platformd.model.schema import SchemaDocument
from platformd.queues.contract import RecordFormat
from platformd.queues.encodings import npy

if TYPE_CHECKING:
    from platformd.queues.encodings.avro import AvroForm

MAX_DEPTH = 128
"""How deep objects and arrays of a checked JSON or MessagePack document may be nested."""


def schema_text(schema: SchemaDocument) -> str:
    """A schema as a ``RecordFormat`` has it."""
    return msgspec.json.encode(schema).decode()


class Codec:
    """Writes and reads the payloads of one stream.

    ``bytes`` takes and gives bytes, ``utf-8`` text, ``json`` and ``msgpack`` builtin types, ``npy`` arrays (the extra
    ``numpy``), ``avro`` the builtin types of the schema; in the framing ``container`` a list of values.

    Args:
        form: the stream's format.

    Raises:
        InvalidInput: its schema is not one.
    """

    def __init__(self, form: RecordFormat) -> None:
        self.form = form
        self._avro: AvroForm | None = None
        if form.encoding == "avro":
            from platformd.queues.encodings.avro import AvroForm, parse_schema  # fastavro is slow to import

            self._avro = AvroForm(form.framing, parse_schema(form.schema) if form.schema else None)

    def encode(self, value: Any) -> bytes:
        """``value`` as a payload. A schema other than Avro's is not looked at; the daemon does, if it shall.

        Raises:
            InvalidInput: the encoding cannot hold it, or it does not fit the Avro schema.
            Unsupported: it is an array, and NumPy is not installed.
        """
        encoding = self.form.encoding
        if self._avro is not None:
            return self._avro.encode(value)
        if encoding == "npy":
            return npy.encode_array(value)
        try:
            if encoding == "bytes":
                return bytes(memoryview(value))
            if encoding == "utf-8":
                return str.encode(value)
            return msgspec.json.encode(value) if encoding == "json" else msgspec.msgpack.encode(value)
        except (TypeError, ValueError, msgspec.EncodeError, OverflowError, RecursionError) as error:
            raise InvalidInput(f"cannot be written: {error}", subject=encoding) from error

    def decode(self, payload: bytes) -> Any:
        """The value of a payload.

        Raises:
            InvalidInput: it is not one; the message says where.
            Unsupported: it is an array, and NumPy is not installed.
        """
        encoding = self.form.encoding
        if self._avro is not None:
            return self._avro.decode(payload)
        if encoding == "npy":
            return npy.decode_array(payload)
        if encoding == "bytes":
            return payload
        try:
            if encoding == "utf-8":
                return payload.decode()
            return msgspec.json.decode(payload) if encoding == "json" else msgspec.msgpack.decode(payload)
        except UnicodeDecodeError as error:
            raise InvalidInput(f"is not UTF-8: {error.reason}, at offset {error.start}", subject=encoding) from error
        except RecursionError as error:
            raise InvalidInput("is nested too deep", subject=encoding) from error
        except (msgspec.DecodeError, ValueError, TypeError, OverflowError, MemoryError) as error:
            raise InvalidInput(f"cannot be read: {error}", subject=encoding) from error


class _Judge(Protocol):
    def errors(self, document: Any, most: int) -> list[FieldError]: ...


class Check:
    """Judges payloads of one stream.

    Args:
        form: the stream's format.

    Raises:
        InvalidInput: its schema is not one.
    """

    def __init__(self, form: RecordFormat) -> None:
        self._codec = Codec(form)
        self._encoding = form.encoding
        self._judge: _Judge | None = None
        if form.schema and form.encoding != "avro":
            from platformd.queues.encodings.json_schema import JsonSchema  # only where there is something to judge

            self._judge = JsonSchema(form.schema)

    def errors(self, payload: bytes, most: int) -> list[FieldError]:
        """What is wrong with a payload, at most ``most`` things, each with its path in the document."""
        try:
            document = npy.read_header(payload).document() if self._encoding == "npy" else self._codec.decode(payload)
        except InvalidInput as error:
            return [FieldError(path="", message=f"as {self._encoding}, {error.message}")]
        if self._encoding in ("json", "msgpack") and _too_deep(document):
            return [FieldError(path="", message=f"is nested deeper than {MAX_DEPTH} levels")]
        return [] if self._judge is None else self._judge.errors(document, most)


def _too_deep(document: Any) -> bool:
    level = [document]
    for _ in range(MAX_DEPTH + 1):
        level = [
            inner
            for value in level
            if isinstance(value, dict | list)
            for inner in (value.values() if isinstance(value, dict) else value)
        ]
        if not level:
            return False
    return True
