"""Dead letters of bridges: the record as it was, as far as it fits, and why it cannot be bridged."""

from __future__ import annotations

from collections.abc import Mapping

from platformd.core.errors import InvalidInput, PlatformError, TooLarge
from platformd.pipelines.messages import MAX_DEAD_LETTER, MAX_REASON, ORIGINAL_SIZE, REASON
from platformd.pipelines.work import Publisher
from platformd.queues.contract import Record

BRIDGE = "Platformd-Bridge"
MAX_HEADERS = 64 << 10
"""Bytes of a record's own headers that its dead letter keeps; with more it keeps none of them."""

REFUSALS = (InvalidInput, TooLarge)
"""What the queues say of a record that they will never take."""


def dead_letter(
    subject: str,
    reason: str,
    *,
    bridge: str,
    payload: bytes,
    headers: Mapping[str, str],
    own: Mapping[str, str],
    msg_id: str,
    time_ns: int,
) -> Record:
    """What is kept of a record.

    Args:
        subject: where it goes.
        reason: why.
        bridge: whose it is.
        payload: the record's.
        headers: the record's.
        own: what says where it was; always kept.
        msg_id: names it, so that it is kept once.
        time_ns: the record's.
    """
    size = sum(len(name) + len(value) for name, value in headers.items())
    kept = dict(headers) if size <= MAX_HEADERS else {}
    kept |= {**own, REASON: reason[:MAX_REASON], BRIDGE: bridge}
    if len(payload) > MAX_DEAD_LETTER:
        kept[ORIGINAL_SIZE] = str(len(payload))
    return Record(subject=subject, payload=payload[:MAX_DEAD_LETTER], headers=kept, msg_id=msg_id, time_ns=time_ns)


def publish_letter(publisher: Publisher, letter: Record) -> bool:
    """Publish a dead letter, without the record's bytes when they are too many for its stream. Whether it is new.

    Raises:
        PlatformError: it cannot be published; it has to be tried again.
    """
    try:
        published = publisher.publish_batch([letter])
    except TooLarge:
        headers = letter.headers | {ORIGINAL_SIZE: letter.headers.get(ORIGINAL_SIZE, str(len(letter.payload)))}
        bare = Record(
            subject=letter.subject, payload=b"", headers=headers, msg_id=letter.msg_id, time_ns=letter.time_ns
        )
        published = publisher.publish_batch([bare])
    return not published.duplicates


def first_line(error: PlatformError) -> str:
    """An error in one line."""
    return str(error).split("\n")[0]
