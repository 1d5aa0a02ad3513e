"""Records as JetStream's messages.

A record's payload is the message's. Its headers are the message's where NATS can carry them as they are; the others
are in ``Platformd-Headers`` as JSON. ``Platformd-Time`` is the producer's clock. ``Nats-Msg-Id`` is the subject, a
space and the percent-encoded msg_id, since JetStream compares ids within a stream and we within a subject; in a stream
that looks for no duplicates the id is in ``Platformd-Msg-Id``. What other programs publish is read as far as it says
such things.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import NamedTuple
from urllib.parse import quote, unquote

import msgspec

from platformd.queues.contract import Delivery, Record
from platformd.queues.jetstream import wire
from platformd.queues.jetstream.wire import Msg

TIME = "Platformd-Time"
MORE = "Platformd-Headers"
PLAIN_ID = "Platformd-Msg-Id"
JETSTREAM_ID = "Nats-Msg-Id"
MAX_HEADERS = 0xFFFF
"""Bytes of a message's header block that JetStream stores."""

_RESERVED = ("nats-", "platformd-")
_NAME = re.compile(r"[!-9;-~]+")
_VALUE = re.compile(r"[^\x00-\x1f\x7f\s]([^\x00-\x1f\x7f]*[^\x00-\x1f\x7f\s])?")
_encode_json = msgspec.json.Encoder().encode
_decode_json = msgspec.json.Decoder(dict[str, str]).decode
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


class AckToken(NamedTuple):
    """What the reply subject of a delivery says; ADR-15."""

    deliveries: int
    sequence: int
    consumer_sequence: int
    append_time_ns: int
    pending: int
    """Matching records behind it that were never delivered."""


class Said(NamedTuple):
    """What a message's headers say."""

    msg_id: str
    headers: dict[str, str]
    time_ns: int
    """0: nothing."""


def encode_headers(
    record: Record, subject: str, now_ns: int, *, dedupe: bool, more: tuple[tuple[str, str], ...]
) -> bytes:
    """The header block for ``record``.

    Args:
        record: ours.
        subject: as it is called there.
        now_ns: the time of one that has none.
        dedupe: whether its stream looks for duplicates.
        more: further fields, JetStream's own.
    """
    fields = [(TIME, str(record.time_ns or now_ns)), *more]
    if record.msg_id:
        quoted = quote(record.msg_id, safe="")
        fields.append((JETSTREAM_ID, f"{subject} {quoted}") if dedupe else (PLAIN_ID, quoted))
    odd = {}
    for name, value in record.headers.items():
        if _NAME.fullmatch(name) and _VALUE.fullmatch(value) and not name.lower().startswith(_RESERVED):
            fields.append((name, value))
        else:
            odd[name] = value
    if odd:
        fields.append((MORE, _encode_json(odd).decode()))
    return wire.encode_headers(fields)


def decode_headers(fields: dict[str, str], subject: str) -> Said:
    """What ``encode_headers`` wrote, or another program; ``subject`` as it is called there."""
    headers = {n: v for n, v in fields.items() if not n.lower().startswith(_RESERVED)}
    if MORE in fields:
        try:
            headers |= _decode_json(fields[MORE])
        except msgspec.MsgspecError:
            headers[MORE] = fields[MORE]
    given = fields.get(JETSTREAM_ID, "")
    if given.startswith(f"{subject} "):
        msg_id = unquote(given[len(subject) + 1 :])
    else:
        msg_id = given or unquote(fields.get(PLAIN_ID, ""))
    time = fields.get(TIME, "")
    return Said(msg_id, headers, int(time) if time.isdigit() and len(time) < 20 else 0)


def stored_size(subject: bytes, headers: bytes, payload: bytes) -> int:
    """Bytes that a message takes in JetStream's file store: ``fileStoreMsgSizeRaw`` of its filestore.go."""
    return 30 + len(subject) + len(payload) + (4 + len(headers) if headers else 0)


def ack_token(reply: bytes) -> AckToken | None:
    """What ``reply`` says, in its shorter or its longer form; ``None`` when it is not of a delivery."""
    parts = reply.split(b".")
    if len(parts) < 9 or parts[:2] != [b"$JS", b"ACK"]:
        return None
    at = 4 if len(parts) == 9 else 6
    try:
        return AckToken(*(int(part) for part in parts[at : at + 5]))
    except (ValueError, TypeError):
        return None


def delivery(message: Msg, token: AckToken, our_subject: str) -> Delivery:
    """A message that was delivered, as ours."""
    said = decode_headers(
        wire.decode_headers(message.headers).fields if message.headers else {}, message.subject.decode()
    )
    return Delivery(
        sequence=token.sequence,
        subject=our_subject,
        payload=message.payload,
        msg_id=said.msg_id,
        headers=said.headers,
        time_ns=said.time_ns or token.append_time_ns,
        append_time_ns=token.append_time_ns,
        deliveries=token.deliveries,
    )


def nanoseconds(text: str) -> int:
    """An RFC 3339 time as nanoseconds since 1970; 0 for the zero time of Go and for what is not a time."""
    whole, _, rest = text.partition(".")
    digits = re.match(r"\d*", rest)
    fraction = digits.group() if digits else ""
    zone = rest[len(fraction) :] or "Z" if rest else ""
    try:
        moment = datetime.fromisoformat(whole + zone)
    except ValueError:
        return 0
    if moment.year < 1970:
        return 0
    return int(moment.timestamp()) * 10**9 + int(fraction.ljust(9, "0")[:9] or 0)


def rfc3339(time_ns: int) -> str:
    """Nanoseconds since 1970 as an RFC 3339 time in UTC."""
    moment = datetime.fromtimestamp(time_ns // 10**9, tz=UTC)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{time_ns % 10**9:09d}Z"


def without_control(text: str) -> str:
    """``text`` with a space for each character that a line of the protocol cannot carry."""
    return _CONTROL.sub(" ", text)
