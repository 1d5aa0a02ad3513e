"""A Kafka message as the facts of a record: its place, its name, its time, its key as a token."""

from __future__ import annotations

import hashlib

from confluent_kafka import Message

from platformd.pipelines.bridges import headers

MAX_ID = 255
"""Bytes of a ``msg_id``."""

Place = tuple[str, int]
"""Topic and partition."""


def token(key: object) -> str:
    """A key as one token of a subject: what may not be in one is written as ``%XX``, no key as ``-``."""
    data = key.encode() if isinstance(key, str) else bytes(key) if isinstance(key, bytes) else b""
    return "".join(chr(b) if 0x21 <= b <= 0x7E and chr(b) not in ".*>%" else f"%{b:02X}" for b in data) or "-"


def size_of(message: Message) -> int:
    """Bytes of its value."""
    return len(message.value() or b"")


def place_of(message: Message) -> Place:
    """Its topic and partition."""
    topic, partition = message.topic(), message.partition()
    assert topic is not None
    assert partition is not None
    return topic, partition


def own_headers(message: Message) -> dict[str, str]:
    """What it is beside its value and its headers, as headers of our own."""
    topic, partition = place_of(message)
    own = {headers.TOPIC: topic, headers.PARTITION: str(partition), headers.OFFSET: str(message.offset())}
    key = message.key()
    if key is not None:
        headers.add(own, headers.KEY, key)
    if message.value() is None:
        own[headers.NULL] = "1"
    return own


def time_of(message: Message) -> int:
    """Its time, nanoseconds; 0 when it has none."""
    kind, milliseconds = message.timestamp()
    return milliseconds * 1_000_000 if kind and milliseconds > 0 else 0


def msg_id_of(message: Message) -> str:
    """What names it for ever: see the head of ``source``."""
    topic, partition = place_of(message)
    stamp = message.timestamp()[1] if message.timestamp()[0] else -1
    name = f"{topic}/{partition}/{message.offset()}@{stamp}"
    if len(name) <= MAX_ID:
        return name
    return f"{hashlib.sha256(topic.encode()).hexdigest()}/{partition}/{message.offset()}@{stamp}"
