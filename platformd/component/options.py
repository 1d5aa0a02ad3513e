"""Where a component answers, and its bounds."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Options:
    """What whoever runs a component decides.

    On the Unix socket everybody may do everything whom its mode lets in. Over TCP whoever changes something shows
    ``token``; without a token TCP only reads, and only on loopback names.
    """

    socket: str = ""
    """The path of its Unix socket. Empty: none; then ``listen`` is needed."""
    socket_mode: str = "0660"
    """Permissions of the socket, octal."""
    listen: str = ""
    """HOST:PORT, loopback. Empty: the socket only."""
    token: str = ""
    """The bearer token of those who change things over TCP."""
    max_running: int = 4
    """Jobs that run at once. Over it: they wait."""
    max_queued: int = 100
    """Jobs that wait. Over it: 429."""
    max_ended: int = 1000
    """Jobs that are kept after they ended, with their results; then the oldest is forgotten."""
    max_keys: int = 1000
    """Idempotency keys that are remembered; then the oldest is forgotten."""
    max_result: str = "1MiB"
    """The largest result of a job, as JSON. Over it: the job fails."""
    stop_deadline: str = "10s"
    """How long jobs may take to end when the component stops; then they are left behind."""
