"""The kinds of work that the writer does, each worked out on the batch's overlay."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from platformd.coordination.contract import Compare, Operation, TxnResult
from platformd.coordination.sqlite.txn import Overlay
from platformd.core.errors import NotFound

LEASE_KEYS_PER_REVISION = 16_384
"""The most keys that the end of a lease deletes in one revision; the rest follows in the next ones."""


@dataclass(frozen=True)
class Transaction:
    """A caller's transaction, already checked."""

    compares: Sequence[Compare]
    then: Sequence[Operation]
    otherwise: Sequence[Operation]
    size: int

    def apply(self, overlay: Overlay) -> TxnResult:
        """Run it."""
        return overlay.run(self.compares, self.then, self.otherwise)


@dataclass(frozen=True)
class GrantLease:
    """A new lease."""

    lease_id: int
    ttl: float
    size: int = 64

    def apply(self, overlay: Overlay) -> bool:
        """Grant it; false if the id is taken."""
        if self.lease_id in overlay.ended or overlay.has_lease(self.lease_id):
            return False
        overlay.granted[self.lease_id] = self.ttl
        return True


class Ended(NamedTuple):
    """What came of a step of ``EndLease``."""

    deleted: int
    more: bool
    """Keys are left: do it again, with ``resume``."""


@dataclass(frozen=True)
class EndLease:
    """The end of a lease and of its keys, or a step of it."""

    lease_id: int
    resume: bool = False
    size: int = 64

    def apply(self, overlay: Overlay) -> Ended:
        """End it.

        Raises:
            NotFound: it is not there.
        """
        if not self.resume and not overlay.has_lease(self.lease_id):
            raise NotFound("it ended or was never granted", subject=f"lease {self.lease_id}")
        return Ended(*overlay.end_lease(self.lease_id, LEASE_KEYS_PER_REVISION))


@dataclass(frozen=True)
class SaveLeases:
    """Remaining times for after a restart; ``None`` for the whole time to live."""

    remaining: dict[int, float | None]
    size: int = 64

    def apply(self, overlay: Overlay) -> None:
        """Note them (the last word of a batch on a lease holds)."""
        overlay.saved.update(self.remaining)


@dataclass(frozen=True)
class MarkTime:
    """The newest revision is this old now; and marks that lie in the future are not."""

    revision: int
    time_ns: int
    size: int = 64

    def apply(self, overlay: Overlay) -> None:
        """Note it."""
        overlay.marks.append((self.revision, self.time_ns))


@dataclass(frozen=True)
class Compact:
    """A step of compaction: history before ``target`` goes, at most ``max_rows`` rows of it and a little over."""

    target: int
    max_rows: int
    size: int = 64

    def apply(self, overlay: Overlay) -> None:
        """Note it; the writer carries it out."""
        overlay.compact = (self.target, self.max_rows)


@dataclass(frozen=True)
class Shrink:
    """A step of giving free pages back to the file system."""

    pages: int
    size: int = 64

    def apply(self, overlay: Overlay) -> None:
        """Note it; the writer carries it out."""
        overlay.shrink = self.pages
