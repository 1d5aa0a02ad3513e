"""Headers on the way: Kafka has a list of names with bytes, records here have a map of strings.

What a map of strings cannot hold is marked behind a semicolon in the name, so that the other direction finds it:

    name            the first value of that name, as UTF-8
    name;base64     the same when it is not UTF-8
    name;null       the same when there is none
    name;2 …        further values of that name, with the same marks behind (``name;2;base64``)

What a Kafka record is beside its value is told in headers of our own; those are not sent to Kafka again.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable, Mapping

TOPIC = "Kafka-Topic"
PARTITION = "Kafka-Partition"
OFFSET = "Kafka-Offset"
KEY = "Kafka-Key"
NULL = "Kafka-Null"
"""There was no value: a tombstone."""
SCHEMA_ID = "Kafka-Schema-Id"
"""The id in the frame of a schema registry."""

OWN = frozenset({TOPIC, PARTITION, OFFSET, KEY, f"{KEY};base64", NULL, SCHEMA_ID})

KafkaHeaders = list[tuple[str, str | bytes | None]]


def add(headers: dict[str, str], name: str, value: str | bytes | None) -> None:
    """Put one value under its name and mark."""
    if value is None:
        headers[f"{name};null"] = ""
    elif isinstance(value, str):
        headers[name] = value
    else:
        try:
            headers[name] = value.decode()
        except UnicodeDecodeError:
            headers[f"{name};base64"] = base64.b64encode(value).decode()


def from_kafka(headers: Iterable[tuple[str, str | bytes | None]]) -> dict[str, str]:
    """A Kafka record's headers as a map."""
    found: dict[str, str] = {}
    seen: dict[str, int] = {}
    for name, value in headers:
        count = seen[name] = seen.get(name, 0) + 1
        add(found, name if count == 1 else f"{name};{count}", value)
    return found


def to_kafka(headers: Mapping[str, str]) -> KafkaHeaders:
    """A record's headers for Kafka, without our own."""
    found: KafkaHeaders = []
    for marked, text in headers.items():
        if marked in OWN:
            continue
        name, value = read(marked, text)
        base, _, count = name.rpartition(";")
        found.append((base if base and count.isdigit() else name, value))
    return found


def read(marked: str, text: str) -> tuple[str, bytes | None]:
    """Name and value of one header, the mark of its value taken off."""
    if marked.endswith(";null"):
        return marked.removesuffix(";null"), None
    if marked.endswith(";base64"):
        try:
            return marked.removesuffix(";base64"), base64.b64decode(text, validate=True)
        except (binascii.Error, ValueError):
            return marked, text.encode()
    return marked, text.encode()


def value_of(headers: Mapping[str, str], name: str) -> bytes | None:
    """The first value of a header, as it was; ``None`` when there is none."""
    for marked in (name, f"{name};base64"):
        if marked in headers:
            return read(marked, headers[marked])[1]
    return None
