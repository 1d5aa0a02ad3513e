"""Packets: Avro object containers that carry their schema (Avro 1.11 specification, "Object Container Files").

    "Obj" 1 | map of metadata (avro.schema, avro.codec) | 16-byte sync marker
    then blocks: count of objects, size in bytes, the objects (maybe deflated), the sync marker

The container is taken apart here, so that every length is checked against what is there before it is
believed, and fastavro only gets the bytes of one packet. The writer's schema is the only one that counts;
what was worked out for it is kept, since a survey writes millions of packets with the same one.
"""

from __future__ import annotations

import hashlib
import io
import zlib
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import fastavro

from platformd.pipelines.projection import FOREIGN_ERRORS, Needs, PacketError, needs_of, schemas

MAGIC = b"Obj\x01"
MAX_HEADER = 1 << 20
"""Bytes of a container's metadata, its schema included."""
MAX_BLOCK = 32 << 20
"""Bytes of a block when it is inflated."""
MAX_PACKETS = 1_000_000
"""Packets in one container."""
MAX_SCHEMAS = 32
"""Schemas whose preparation is kept; the one that was used least recently goes first."""

_SYNC = 16


@dataclass(frozen=True)
class Block:
    """Some packets of a container."""

    count: int
    data: bytes
    """The encoded packets, one after the other, inflated."""


@dataclass(frozen=True)
class Container:
    """A container taken apart."""

    header: bytes
    """Everything before the first block, as it was."""
    schema: bytes
    codec: str
    sync: bytes
    blocks: tuple[Block, ...]

    @property
    def count(self) -> int:
        """How many packets it has."""
        return sum(block.count for block in self.blocks)


class PacketReader:
    """Reads packets, decoding only what is wanted.

    Args:
        fields: dotted paths of the fields that are wanted; ``None`` for all.
    """

    def __init__(self, fields: Iterable[str] | None = None) -> None:
        self._needs: Needs = needs_of(fields)
        self._schemas: OrderedDict[bytes, tuple[Any, Any | None]] = OrderedDict()

    def read(self, data: bytes) -> dict[str, Any]:
        """The one packet of a container.

        Raises:
            PacketError: it is no container, or is damaged, or has none or several packets.
        """
        container = open_container(data)
        if container.count != 1:
            raise PacketError(f"has {container.count} packets; a record holds one")
        block = next(b for b in container.blocks if b.count)
        packet, end = self._decode(container.schema, block.data, 0)
        if end != len(block.data):
            raise PacketError(f"has {len(block.data) - end} bytes after the packet's end")
        return packet

    def read_all(self, container: Container) -> list[tuple[dict[str, Any], bytes]]:
        """Each packet of a container with its encoded bytes.

        Raises:
            PacketError: a packet is damaged.
        """
        packets = []
        for block in container.blocks:
            start = 0
            for _ in range(block.count):
                packet, end = self._decode(container.schema, block.data, start)
                packets.append((packet, block.data[start:end]))
                start = end
            if start != len(block.data):
                raise PacketError(f"has {len(block.data) - start} bytes after the packets of a block")
        return packets

    def _decode(self, schema: bytes, data: bytes, start: int) -> tuple[dict[str, Any], int]:
        writer, reader = self._prepared(schema)
        source = io.BytesIO(data)
        source.seek(start)
        try:
            packet = fastavro.schemaless_reader(source, writer, reader)
        except FOREIGN_ERRORS as error:
            raise PacketError(f"cannot be decoded: {_cause(error)}") from error
        if not isinstance(packet, dict) or source.tell() <= start < len(data):
            raise PacketError("cannot be decoded: the packet takes no bytes")
        return packet, source.tell()

    def _prepared(self, schema: bytes) -> tuple[Any, Any | None]:
        found = self._schemas.get(schema)
        if found is not None:
            self._schemas.move_to_end(schema)
            return found
        found = self._schemas[schema] = schemas(schema, self._needs)
        if len(self._schemas) > MAX_SCHEMAS:
            self._schemas.popitem(last=False)
        return found


def open_container(data: bytes) -> Container:
    """Take a container apart.

    Raises:
        PacketError: it is no container, or is damaged.
    """
    if data[:4] != MAGIC:
        raise PacketError("is not an Avro object container: it does not start with 'Obj' and 1")
    metadata, at = _metadata(data, 4)
    sync = data[at : at + _SYNC]
    if len(sync) != _SYNC:
        raise PacketError("ends inside its header")
    if "avro.schema" not in metadata:
        raise PacketError("has no schema in its header")
    codec = metadata.get("avro.codec", b"null").decode("ascii", "replace")
    if codec not in ("null", "deflate"):
        raise PacketError(f"is compressed with {codec!r}; null and deflate are supported")
    header, at = data[: at + _SYNC], at + _SYNC
    blocks: list[Block] = []
    total = 0
    while at < len(data):
        block, at = _block(data, at, codec, sync)
        blocks.append(block)
        total += block.count
        if total > MAX_PACKETS:
            raise PacketError(f"has more than {MAX_PACKETS} packets")
    return Container(header, metadata["avro.schema"], codec, sync, tuple(blocks))


def split_packets(data: bytes) -> list[bytes]:
    """One container for each packet in a container, with the same header; one with a single or no packet as it is.

    Raises:
        PacketError: it is no container, or is damaged.
    """
    container = open_container(data)
    if container.count <= 1:
        return [data]
    # Without any field: what is needed is where a packet ends.
    packets = PacketReader(()).read_all(container)
    return [container.header + _framed(encoded, container) for _, encoded in packets]


def make_container(schema: bytes, encoded: bytes) -> bytes:
    """A container of one packet that is encoded already. The same bytes each time: its sync marker is made of the
    schema, so that a packet that is bridged twice is the same record twice.
    """
    sync = hashlib.sha256(schema).digest()[:_SYNC]
    metadata = b"".join(_long_bytes(len(part)) + part for part in (b"avro.codec", b"null", b"avro.schema", schema))
    header = MAGIC + _long_bytes(2) + metadata + _long_bytes(0) + sync
    return header + _long_bytes(1) + _long_bytes(len(encoded)) + encoded + sync


def _framed(encoded: bytes, container: Container) -> bytes:
    if container.codec == "deflate":
        deflater = zlib.compressobj(wbits=-15)
        encoded = deflater.compress(encoded) + deflater.flush()
    return _long_bytes(1) + _long_bytes(len(encoded)) + encoded + container.sync


def _block(data: bytes, at: int, codec: str, sync: bytes) -> tuple[Block, int]:
    count, start = _long(data, at)
    size, start = _long(data, start)
    end = start + size
    if count < 0 or size < 0 or end + _SYNC > len(data):
        raise PacketError(f"has a block of {count} packets in {size} bytes, but ends after {len(data) - start}")
    if data[end : end + _SYNC] != sync:
        raise PacketError("has a block that does not end in the sync marker")
    body = data[start:end]
    if codec == "deflate":
        body = _inflated(body)
    # Every packet takes a byte or more: a count beyond that is a lie.
    if count > len(body):
        raise PacketError(f"has a block of {count} packets in {len(body)} bytes")
    return Block(count, body), end + _SYNC


def _inflated(body: bytes) -> bytes:
    inflater = zlib.decompressobj(wbits=-15)
    try:
        plain = inflater.decompress(body, MAX_BLOCK + 1)
    except zlib.error as error:
        raise PacketError(f"has a block that cannot be inflated: {error}") from error
    if len(plain) > MAX_BLOCK:
        raise PacketError(f"has a block that inflates to more than {MAX_BLOCK} bytes")
    if not inflater.eof:  # what follows its end is let be: fastavro leaves a part of zlib's checksum there
        raise PacketError("has a block whose deflated data has no end")
    return plain


def _metadata(data: bytes, at: int) -> tuple[dict[str, bytes], int]:
    found: dict[str, bytes] = {}
    while True:
        count, at = _long(data, at)
        if count == 0:
            return found, at
        if count < 0:  # a negative count is followed by the size, for skipping
            _, at = _long(data, at)
        for _ in range(abs(count)):
            key, at = _bytes(data, at)
            value, at = _bytes(data, at)
            found[key.decode("utf-8", "replace")] = value
            if at > MAX_HEADER:
                raise PacketError(f"has a header of more than {MAX_HEADER} bytes")


def _bytes(data: bytes, at: int) -> tuple[bytes, int]:
    size, at = _long(data, at)
    if size < 0 or at + size > len(data):
        raise PacketError("ends inside its header, or the header is damaged")
    return data[at : at + size], at + size


def _long(data: bytes, at: int) -> tuple[int, int]:
    """A zig-zag variable-length integer, and where it ends."""
    value = 0
    for i in range(10):
        if at + i >= len(data):
            raise PacketError("ends in the middle of a number")
        byte = data[at + i]
        value |= (byte & 0x7F) << 7 * i
        if byte < 0x80:
            return (value >> 1) ^ -(value & 1), at + i + 1
    raise PacketError("has a number of more than 64 bits")


def _long_bytes(value: int) -> bytes:
    number = value << 1  # zig-zag of a value that is not negative
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes((*out, number))


def _cause(error: BaseException) -> str:
    if isinstance(error, (EOFError, IndexError)):
        return "it ends too early, or is damaged"
    text = str(error).split("\n")[0][:200]
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
