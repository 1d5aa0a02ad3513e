"""How packets travel: records into envelopes, envelopes and dead letters into records."""

from __future__ import annotations

from typing import Any

import msgspec

from platformd.pipelines.avro import PacketReader
from platformd.pipelines.projection import PacketError
from platformd.pipelines.stages import Envelope, Origin
from platformd.queues.contract import Delivery, Record

CONTENT_TYPE = "content-type"
ENVELOPE_TYPE = "application/vnd.platformd.envelope+msgpack"
PUBLISHED = "Platformd-Published"
"""Header: when the packet was published to the source, nanoseconds since the epoch, for latencies."""
REASON = "Platformd-Reason"
PIPELINE = "Platformd-Pipeline"
STAGE = "Platformd-Stage"
ORIGIN = "Platformd-Origin"
"""Header of a dead letter: ``STREAM:SEQUENCE`` of the record that it was."""
ORIGINAL_SIZE = "Platformd-Original-Size"
"""Header of a dead letter that has only the head of its record: how many bytes that had."""

MAX_ENVELOPE = 4 << 20
"""Bytes of an envelope; a packet whose fields make a larger one is a dead letter."""
MAX_DEAD_LETTER = 1 << 20
"""Bytes of a record that its dead letter keeps."""
MAX_REASON = 2000
"""Characters of a dead letter's reason."""

_decoder = msgspec.msgpack.Decoder(Envelope)
_encoder = msgspec.msgpack.Encoder()


def place(stream: str, delivery: Delivery) -> str:
    """How a record is named: ``STREAM:SEQUENCE``."""
    return f"{stream}:{delivery.sequence}"


def open_record(stream: str, delivery: Delivery, reader: PacketReader, id_field: str) -> Envelope:
    """The envelope in a record, or a new one for the packet in it.

    Raises:
        PacketError: it cannot be read, or nothing identifies it.
    """
    if delivery.headers.get(CONTENT_TYPE) == ENVELOPE_TYPE:
        try:
            return _decoder.decode(delivery.payload)
        except msgspec.DecodeError as error:
            raise PacketError(f"is not an envelope: {error}") from error
    packet = reader.read(delivery.payload)
    identity = _lookup(packet, id_field)
    if identity is None or isinstance(identity, (dict, list, bool)):
        raise PacketError(f"has no {id_field}, which would identify it")
    text = identity.hex() if isinstance(identity, bytes) else str(identity)
    if not 0 < len(text.encode()) <= 255:
        raise PacketError(f"has a {id_field} that is empty or over 255 bytes")
    return Envelope(id=text, packet=packet, origin=Origin(stream=stream, sequence=delivery.sequence))


def output(subject: str, envelope: Envelope, delivery: Delivery) -> Record:
    """The record that an envelope travels in.

    Raises:
        PacketError: it is too large.
    """
    try:
        payload = _encoder.encode(envelope)
    except (OverflowError, TypeError, ValueError) as error:
        raise PacketError(f"has a value that cannot travel: {error}") from error
    if len(payload) > MAX_ENVELOPE:
        raise PacketError(f"makes an envelope of {len(payload)} bytes; the limit is {MAX_ENVELOPE}")
    published = delivery.headers.get(PUBLISHED) or str(delivery.time_ns)
    headers = {CONTENT_TYPE: ENVELOPE_TYPE, PUBLISHED: published}
    return Record(subject=subject, payload=payload, msg_id=envelope.id, headers=headers)


def dead_letter(subject: str, reason: str, *, pipeline: str, stage: str, stream: str, delivery: Delivery) -> Record:
    """The record that is kept of what could not be processed: its bytes, and why."""
    headers = {
        REASON: reason[:MAX_REASON],
        PIPELINE: pipeline,
        STAGE: stage,
        ORIGIN: place(stream, delivery),
        PUBLISHED: delivery.headers.get(PUBLISHED) or str(delivery.time_ns),
    }
    if CONTENT_TYPE in delivery.headers:
        headers[CONTENT_TYPE] = delivery.headers[CONTENT_TYPE]
    if len(delivery.payload) > MAX_DEAD_LETTER:
        headers[ORIGINAL_SIZE] = str(len(delivery.payload))
    msg_id = f"{place(stream, delivery)}:{stage}"  # at most 63 + 20 + 63 characters and two colons
    return Record(subject=subject, payload=delivery.payload[:MAX_DEAD_LETTER], msg_id=msg_id, headers=headers)


def read_envelope(payload: bytes) -> Envelope:
    """The envelope in a payload.

    Raises:
        PacketError: there is none.
    """
    try:
        return _decoder.decode(payload)
    except msgspec.DecodeError as error:
        raise PacketError(f"is not an envelope: {error}") from error


def _lookup(packet: dict[str, Any], path: str) -> Any:
    found: Any = packet
    for name in path.split("."):
        found = found.get(name) if isinstance(found, dict) else None
    return found
