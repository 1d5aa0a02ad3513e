"""Advisories out of C: a bounded ring there, taken whenever the engine's eventfd says so."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from platformd.queues.advisories import with_lost
from platformd.queues.contract import Advisory, AdvisoryKind
from platformd.queues.native._native import ffi, lib

KINDS: tuple[AdvisoryKind, ...] = (
    "stalled",
    "resumed",
    "exhausted",
    "dead_letter_failed",
    "storage_full",
    "consumer_removed",
    "compression_failed",
)
"""As ``pd_advisory.kind`` numbers them."""
DRAIN = 32
"""Advisories that are taken at once."""


class AdvisoryRing:
    """The ring of one engine, a ``pd_engine``."""

    def __init__(self, engine: Any) -> None:
        self._engine = engine
        self._buffer = ffi.new("pd_advisory[]", DRAIN)

    def take(self) -> Iterator[tuple[Advisory, int]]:
        """All that are there, and how many were lost before each."""
        while taken := lib.pd_advisories_take(self._engine, self._buffer, DRAIN):
            for i in range(taken):
                raw = self._buffer[i]
                advisory = Advisory(
                    kind=KINDS[raw.kind],
                    stream=ffi.string(raw.stream).decode(),
                    consumer=ffi.string(raw.consumer).decode(),
                    time_ns=raw.time_ns,
                    detail=ffi.string(raw.detail).decode(errors="replace"),
                )
                yield with_lost(advisory, raw.lost), raw.lost
