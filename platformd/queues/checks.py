"""What every engine refuses before it does anything, and how errors name things."""

from __future__ import annotations

import math
from collections.abc import Mapping

from platformd.core.errors import Conflict, InvalidInput, NotFound, Unsupported
from platformd.model.subjects import patterns_overlap, subject_error
from platformd.queues.contract import ConsumerConfig, StreamConfig

_START_FIELDS = {"by_sequence": ("start_sequence",), "by_time": ("start_time_ns",)}

I64 = 0x7FFF_FFFF_FFFF_FFFF
"""The highest number that every engine and every JSON reader of ours can hold."""
MAX_SECONDS = 3.0e9
"""The longest time that is taken, about 95 years: in nanoseconds it fits 64 bits with room to add to."""


def named(stream: str, consumer: str | None = None) -> str:
    """A stream or a consumer as errors name it."""
    return f"stream/{stream}" if consumer is None else f"stream/{stream}/consumer/{consumer}"


def no_stream(name: str) -> NotFound:
    """The error for a stream that is not there."""
    return NotFound("there is no such stream", subject=named(name), hint="list them with `platformd get streams`")


def no_consumer(stream: str, name: str) -> NotFound:
    """The error for a consumer that is not there."""
    return NotFound("there is no such consumer", subject=named(stream, name), hint="create the consumer first")


def check_pattern(subject: str) -> None:
    """Refuse what is not a pattern of subjects.

    Raises:
        InvalidInput: it is not one.
    """
    wrong = subject_error(subject, pattern=True)
    if wrong:
        raise InvalidInput(f"{subject!r} {wrong}", subject="subject")


def check_subjects(name: str, config: StreamConfig, streams: Mapping[str, StreamConfig]) -> None:
    """Refuse what stream ``name`` cannot capture beside the other ``streams``.

    Raises:
        InvalidInput: a pattern is not valid, there is none, or two of them overlap.
        Conflict: one overlaps another stream's.
    """
    if not config.subjects:
        raise InvalidInput("a stream captures at least one subject", subject=named(name))
    for i, subject in enumerate(config.subjects):
        check_pattern(subject)
        for before in config.subjects[:i]:
            if patterns_overlap(subject, before):
                raise InvalidInput(f"{before!r} and {subject!r} overlap", subject=named(name))
        for other, theirs in streams.items():
            captured = next((s for s in theirs.subjects if patterns_overlap(subject, s)), None)
            if captured is not None and other != name:
                raise Conflict(
                    f"{subject!r} overlaps {captured!r}, which stream {other!r} captures", subject=named(name)
                )


def check_same_start(stream: str, name: str, old: ConsumerConfig, new: ConsumerConfig) -> None:
    """Refuse to change what a consumer's cursor rests on.

    Raises:
        Conflict: the filter or the start differs, or one has acknowledgements and the other has not.
    """
    fixed = ["filter_subject", "deliver_policy", *_START_FIELDS.get(new.deliver_policy, ())]
    if "none" in (old.ack_policy, new.ack_policy):
        fixed.append("ack_policy")
    for field in fixed:
        was, wanted = getattr(old, field), getattr(new, field)
        if was != wanted:
            raise Conflict(
                f"its {field} is {was!r} and cannot become {wanted!r}",
                subject=named(stream, name),
                hint="delete the consumer, or choose another name",
            )


def check_same_retention(name: str, old: StreamConfig, new: StreamConfig) -> None:
    """Refuse to change what removes a stream's records.

    Raises:
        Unsupported: the retention differs.
    """
    if old.retention != new.retention:
        raise Unsupported(
            f"its retention is {old.retention!r} and cannot become {new.retention!r}",
            subject=named(name),
            hint="delete the stream, or choose another name",
        )


def check_work_queue(stream: str, name: str, config: ConsumerConfig, others: Mapping[str, ConsumerConfig]) -> None:
    """Refuse a new consumer ``name`` of a work queue that has the consumers ``others``.

    Raises:
        Conflict: its filter overlaps another's, or it does not begin with all records.
    """
    if config.deliver_policy != "all":
        raise Conflict(
            f"the stream is a work queue: its consumers have deliver_policy 'all', not {config.deliver_policy!r}",
            subject=named(stream, name),
        )
    for other, theirs in others.items():
        if other != name and patterns_overlap(config.filter_subject, theirs.filter_subject):
            raise Conflict(
                f"the stream is a work queue, and the filter {config.filter_subject!r} overlaps "
                f"{theirs.filter_subject!r} of its consumer {other!r}",
                subject=named(stream, name),
                hint="choose filters of which at most one matches each record",
            )


def whole(name: str, value: int, highest: int = I64, lowest: int = 0) -> int:
    """``value`` if it is in its bounds.

    Raises:
        InvalidInput: it is not.
    """
    if not lowest <= value <= highest:
        raise InvalidInput(f"{value} is not between {lowest} and {highest}", subject=name)
    return value


def nanoseconds(name: str, seconds: float) -> int:
    """``seconds`` as whole nanoseconds.

    Raises:
        InvalidInput: it is negative, not a number, or beyond reason.
    """
    if not math.isfinite(seconds) or not 0 <= seconds <= MAX_SECONDS:
        raise InvalidInput(f"{seconds} is not between 0 and {MAX_SECONDS:.0f} seconds", subject=name)
    return round(seconds * 1e9)
