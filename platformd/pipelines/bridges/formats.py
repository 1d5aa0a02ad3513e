"""What becomes of a payload on the way; what it cannot become is a ``PacketError``, and the record a dead letter.

The frame of a schema registry (Confluent's wire format), which Rubin's alerts have:

    0   u8   0
    1   u32  the schema's id, big endian
    5   one value, in Avro's binary encoding
"""

from __future__ import annotations

import json
import struct
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

from platformd.model.bridge import BridgeFormat
from platformd.model.schema import MAX_SCHEMA_BYTES
from platformd.pipelines.avro import PacketReader, make_container, open_container
from platformd.pipelines.bridges.headers import SCHEMA_ID
from platformd.pipelines.projection import PacketError

FRAME = struct.Struct(">BI")
MAX_KNOWN = 64
"""Schemas that are remembered; the one that was used least recently goes first."""
MAX_FILES = 4096
"""Files of a directory that are looked through for a schema."""


class Schemas(Protocol):
    """Schemas by the ids that a registry gave them."""

    def by_id(self, number: int) -> bytes:
        """The schema, as JSON. Raises PacketError when there is none."""
        ...

    def ids(self) -> Iterator[tuple[int, bytes]]:
        """All of them, those with the highest ids first."""
        ...


class GivenSchemas:
    """Schemas that the daemon read from its register.

    Args:
        name: what the Schema is called, for errors.
        texts: the schemas as JSON, by their versions.
    """

    def __init__(self, name: str, texts: Mapping[int, str]) -> None:
        self._name = name
        self._texts = {number: text.encode() for number, text in texts.items()}

    def by_id(self, number: int) -> bytes:
        """The schema, as JSON."""
        if number not in self._texts:
            raise PacketError(f"is of schema {number}, and schema/{self._name} has no version {number}")
        return self._texts[number]

    def ids(self) -> Iterator[tuple[int, bytes]]:
        """All of them, those with the highest ids first."""
        return iter(sorted(self._texts.items(), reverse=True))


class SchemaFiles:
    """Schemas in files called ``ID.avsc``; a file that comes later is found when it is wanted."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._known: OrderedDict[int, bytes] = OrderedDict()

    def by_id(self, number: int) -> bytes:
        """The schema, as JSON."""
        if number in self._known:
            self._known.move_to_end(number)
            return self._known[number]
        path = self._directory / f"{number}.avsc"
        try:
            with path.open("rb") as file:
                text = file.read(MAX_SCHEMA_BYTES + 1)
        except OSError as error:
            raise PacketError(f"is of schema {number}, and {path} cannot be read: {error.strerror}") from error
        if len(text) > MAX_SCHEMA_BYTES:
            raise PacketError(f"is of schema {number}, and {path} has more than {MAX_SCHEMA_BYTES} bytes")
        self._known[number] = text
        if len(self._known) > MAX_KNOWN:
            self._known.popitem(last=False)
        return text

    def ids(self) -> Iterator[tuple[int, bytes]]:
        """All of them, those with the highest ids first."""
        found: list[int] = []
        try:
            for path in self._directory.iterdir():
                if path.suffix == ".avsc" and path.stem.isascii() and path.stem.isdigit() and len(found) < MAX_FILES:
                    found.append(int(path.stem))
        except OSError:
            return
        for number in sorted(found, reverse=True):
            try:
                yield number, self.by_id(number)
            except PacketError:
                continue


class Formats:
    """Payloads from Kafka and to Kafka.

    Args:
        form: what is inside records.
        schemas: for ``registry`` where frames and containers are made of each other; ``None``: they are not.
    """

    def __init__(self, form: BridgeFormat, schemas: Schemas | None = None) -> None:
        self._type = form.type
        self._schemas = schemas
        self._check = form.check
        self._checker = PacketReader()  # of all fields: what is skipped is not seen to be cut
        self._numbers: OrderedDict[bytes, int] = OrderedDict()

    def inbound(self, payload: bytes, headers: dict[str, str]) -> bytes:
        """A Kafka value as a payload; may add to its headers.

        Raises:
            PacketError: it is not what it should be.
        """
        if self._type == "bytes":
            return payload
        if self._type == "container":
            self._look_through(payload)
            return payload
        number = _frame(payload)
        headers[SCHEMA_ID] = str(number)
        if self._schemas is None:
            return payload
        made = make_container(self._schemas.by_id(number), payload[FRAME.size :])
        self._look_through(made)
        return made

    def outbound(self, payload: bytes) -> bytes:
        """A payload as a Kafka value.

        Raises:
            PacketError: it is not what it should be.
        """
        if self._type == "container":
            self._look_through(payload)
        elif self._type == "registry" and self._schemas is None:
            _frame(payload)
        elif self._type == "registry" and self._schemas is not None:
            container = open_container(payload)
            if container.count != 1:
                raise PacketError(f"has {container.count} packets; a frame holds one")
            number = self._number(container.schema, self._schemas)
            return FRAME.pack(0, number) + next(b.data for b in container.blocks if b.count)
        return payload

    def _look_through(self, payload: bytes) -> None:
        container = open_container(payload)
        if self._check:
            self._checker.read_all(container)

    def _number(self, schema: bytes, schemas: Schemas) -> int:
        """The id of a schema: the highest whose schema says the same."""
        found = self._numbers.get(schema)
        if found is not None:
            self._numbers.move_to_end(schema)
            return found
        wanted = _document(schema)
        for number, text in schemas.ids():
            if _document(text) == wanted:
                self._numbers[schema] = number
                if len(self._numbers) > MAX_KNOWN:
                    self._numbers.popitem(last=False)
                return number
        raise PacketError("has a schema that is none of those with an id")


def _frame(payload: bytes) -> int:
    if len(payload) < FRAME.size or payload[0] != 0:
        raise PacketError("is not in a schema registry's frame: a zero byte and the four of an id")
    return int(FRAME.unpack_from(payload)[1])


def _document(schema: bytes) -> Any:
    try:
        return json.loads(schema)
    except (ValueError, RecursionError) as error:
        raise PacketError(f"its schema cannot be read: {error}") from error
