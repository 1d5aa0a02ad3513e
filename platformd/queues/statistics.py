"""What the sockets for plain nng programs did, in numbers."""

from __future__ import annotations

import msgspec


class SocketStatistics(msgspec.Struct, frozen=True, kw_only=True):
    """What ``push`` and ``live`` did since the engine was opened."""

    push_messages: int
    """Messages received."""
    push_records: int
    """Records of them that were stored."""
    push_invalid: int
    """Messages that could not be read, or whose subject is none; records that do not fit a stream that validates."""
    push_not_captured: int
    """Records on subjects that no stream captures."""
    push_too_large: int
    """Records over ``queues.max_record``."""
    push_full: int
    """Records for which the stream or the disk had no room."""
    push_failed: int
    """Records that were not stored for another reason."""
    push_refusal: str
    """Why the last record was not stored."""
    live_subscribers: int
    """Connections now."""
    live_refused: int
    """Connections that were refused: too many, or not a SUB socket."""
    live_timeouts: int
    """Subscribers that were disconnected, because they took nothing for ``queues.live_timeout``."""
    live_records: int
    """Records that were published."""
    live_sent: int
    """Records that were sent, for each subscriber."""
    live_dropped: int
    """Records that were not sent, because a subscriber was too slow, for each."""
    live_disconnected: int
    """Subscribers that were disconnected, as they had asked, rather than miss a record."""
    live_waiting: int
    """Connections now that wait rather than miss a record: they are fed out of the log."""

    @property
    def push_refused(self) -> int:
        """All that push did not store."""
        return self.push_invalid + self.push_not_captured + self.push_too_large + self.push_full + self.push_failed

    def refusals(self) -> dict[str, int]:
        """The same by reason."""
        reasons = ("invalid", "not_captured", "too_large", "full", "failed")
        return {reason: getattr(self, f"push_{reason}") for reason in reasons}
