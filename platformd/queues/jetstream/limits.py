"""What a stream or a consumer may ask of JetStream: our configurations, checked and as JetStream's."""

from __future__ import annotations

from typing import Any, get_args

import msgspec

from platformd.core.errors import InvalidInput, Unsupported
from platformd.core.settings_engines import NatsSettings
from platformd.queues.checks import check_pattern, named, nanoseconds, whole
from platformd.queues.contract import (
    MAX_BACKOFF_STEPS,
    ConsumerConfig,
    DeliverPolicy,
    StreamConfig,
)
from platformd.queues.jetstream.api import DYING, METADATA
from platformd.queues.jetstream.names import Names
from platformd.queues.jetstream.records import rfc3339

MAX_ACK_PENDING = 1_000_000
MAX_WAITING = 4096
"""Fetches that may wait at JetStream for one consumer; the engine's own bound is ``max_waiting_fetches``."""
SHORTEST = 0.1
"""Seconds: JetStream's shortest ``max_age`` and ``duplicate_window``."""

_RETENTION = {"limits": "limits", "interest": "interest", "work_queue": "workqueue"}
_POLICY = {"by_sequence": "by_start_sequence", "by_time": "by_start_time"}
_U64 = 0xFFFF_FFFF_FFFF_FFFF


def unsupported(subject: str, what: str, hint: str = "") -> Unsupported:
    """The error for something of the contract that this engine does not do."""
    return Unsupported(f"the jetstream queue engine does not do {what}", subject=subject, hint=hint or None)


def check_stream(name: str, config: StreamConfig) -> None:
    """Refuse a stream that cannot be, or that JetStream cannot keep.

    Raises:
        InvalidInput: a number is out of its bounds.
        Unsupported: JetStream does not do it.
    """
    subject = named(name)
    for field in ("max_bytes", "max_records", "max_records_per_subject", "max_record_bytes", "duplicate_limit"):
        whole(field, getattr(config, field))
    for field in ("max_age", "duplicate_window"):
        value = getattr(config, field)
        if nanoseconds(field, value) and value < SHORTEST:
            raise unsupported(subject, f"a {field} under {SHORTEST:g} s", f"set {field} to {SHORTEST:g} s or more")
    if 0 < config.max_age < config.duplicate_window:
        raise unsupported(
            subject,
            f"a duplicate_window ({config.duplicate_window:g} s) that is longer than max_age ({config.max_age:g} s)",
            f"set duplicate_window to at most {config.max_age:g} s",
        )
    if config.duplicate_limit != StreamConfig(subjects=()).duplicate_limit:
        raise unsupported(
            subject, f"duplicate_limit {config.duplicate_limit}", "leave it out: its ids have only a window"
        )
    if config.compression != "none":
        raise unsupported(subject, f"compression {config.compression!r}", "leave compression out")


def stream_body(
    there: str, config: StreamConfig, names: Names, settings: NatsSettings, *, atomic: bool
) -> dict[str, Any]:
    """The configuration of a stream as JetStream has it."""
    per_subject = config.max_records_per_subject
    return {
        "name": there,
        "subjects": [names.subject(subject) for subject in config.subjects],
        "retention": _RETENTION[config.retention],
        "storage": "file",
        "num_replicas": settings.replicas,
        "max_consumers": -1,
        "max_msgs": config.max_records or -1,
        "max_msgs_per_subject": per_subject or -1,
        "max_bytes": config.max_bytes or -1,
        "max_age": nanoseconds("max_age", config.max_age),
        "max_msg_size": -1,
        "discard": config.discard,
        "discard_new_per_subject": bool(config.discard == "new" and per_subject),
        # A window of 0 would become JetStream's default; we send no ids instead.
        "duplicate_window": nanoseconds("duplicate_window", config.duplicate_window or SHORTEST),
        "allow_direct": True,
        **({"allow_atomic": True} if atomic else {}),
        "metadata": {METADATA: msgspec.json.encode(config).decode()},
    }


def check_consumer(stream: str, name: str, config: ConsumerConfig) -> None:
    """Refuse a consumer that cannot be.

    Raises:
        InvalidInput: a pattern or a number is not valid.
    """
    check_pattern(config.filter_subject)
    if config.dead_letter_subject:
        check_pattern(config.dead_letter_subject)
    if len(config.backoff) > MAX_BACKOFF_STEPS:
        message = f"backoff has {len(config.backoff)} steps; the limit is {MAX_BACKOFF_STEPS}"
        raise InvalidInput(message, subject=named(stream, name))
    for step in config.backoff:
        _positive("backoff", step)
    _positive("ack_wait", config.ack_wait)
    nanoseconds("inactive_after", config.inactive_after)
    whole("max_deliver", config.max_deliver, 0xFFFF_FFFF)
    whole("max_ack_pending", config.max_ack_pending, MAX_ACK_PENDING, 1)
    check_start(config.deliver_policy, config.start_sequence, config.start_time_ns)


def check_start(policy: DeliverPolicy, sequence: int, time_ns: int) -> None:
    """Refuse a place that cannot be one.

    Raises:
        InvalidInput: it is not a policy, or a number is out of its bounds.
    """
    if policy not in get_args(DeliverPolicy):
        raise InvalidInput(
            f"{policy!r} is not a place", subject="deliver_policy", hint=", ".join(get_args(DeliverPolicy))
        )
    if policy == "by_sequence":
        whole("start_sequence", sequence, _U64)
    if policy == "by_time":
        whole("start_time_ns", time_ns)


def _positive(name: str, seconds: float) -> None:
    if not nanoseconds(name, seconds):
        raise InvalidInput(f"{seconds} is not more than 0 seconds", subject=name)


def start(policy: DeliverPolicy, sequence: int, time_ns: int) -> dict[str, Any]:
    """Where a consumer begins, as JetStream says it."""
    body: dict[str, Any] = {"deliver_policy": _POLICY.get(policy, policy)}
    if policy == "by_sequence":
        body["opt_start_seq"] = max(sequence, 1)
    if policy == "by_time":
        body["opt_start_time"] = rfc3339(time_ns)
    return body


def consumer_body(
    there: str, config: ConsumerConfig, names: Names, begin: dict[str, Any], *, dying: str = ""
) -> dict[str, Any]:
    """The configuration of a consumer as JetStream has it. ``max_deliver`` is ours to keep: see ``giving_up``."""
    return {
        "name": there,
        "durable_name": there,
        **begin,
        "ack_policy": config.ack_policy,
        "ack_wait": nanoseconds("ack_wait", config.backoff[0] if config.backoff else config.ack_wait),
        "max_deliver": -1,
        "backoff": [nanoseconds("backoff", step) for step in config.backoff] or None,
        "filter_subject": names.subject(config.filter_subject),
        "replay_policy": "instant",
        "max_ack_pending": config.max_ack_pending,
        "max_waiting": MAX_WAITING,
        "inactive_threshold": nanoseconds("inactive_after", config.inactive_after),
        "metadata": {METADATA: msgspec.json.encode(config).decode(), **({DYING: dying} if dying else {})},
    }
