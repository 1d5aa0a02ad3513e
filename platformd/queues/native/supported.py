"""What of the contract the native engine does not do, refused by name."""

from __future__ import annotations

import msgspec

from platformd.core.errors import Unsupported
from platformd.queues.contract import StreamConfig

STREAM_DEFAULTS: tuple[str, ...] = ("compression",)
"""Fields of ``StreamConfig`` that must have their default."""


def check_stream(subject: str, config: StreamConfig) -> None:
    """Refuse a stream that asks for what is not there.

    Raises:
        Unsupported: a field has a value that this engine cannot keep.
    """
    _check_defaults(subject, config, StreamConfig(subjects=()), STREAM_DEFAULTS)


def unsupported(subject: str, what: str, hint: str = "") -> Unsupported:
    """The error for something of the contract that this engine does not do."""
    return Unsupported(f"the native queue engine does not do {what}", subject=subject, hint=hint)


def _check_defaults(subject: str, config: msgspec.Struct, defaults: msgspec.Struct, fields: tuple[str, ...]) -> None:
    for field in fields:
        if getattr(config, field) != getattr(defaults, field):
            raise unsupported(subject, f"{field} {getattr(config, field)!r}", f"leave {field} out")
