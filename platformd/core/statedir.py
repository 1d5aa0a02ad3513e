"""The state directory, and the promise that one daemon at a time has it."""

from __future__ import annotations

import errno
import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from platformd.core.errors import Conflict, Forbidden, PlatformError, StorageFull


@contextmanager
def hold_state_dir(path: Path, holder: dict[str, object]) -> Iterator[Path]:
    """Create ``path`` if needed and hold it alone until the block is left.

    Args:
        path: the directory.
        holder: who holds it, for the message that a second daemon gets (pid, socket, since).

    Raises:
        Conflict: another process holds it; the message says who.
        Forbidden: it cannot be made or written.
    """
    try:
        path.mkdir(mode=0o750, parents=True, exist_ok=True)
        descriptor = os.open(path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
    except OSError as error:
        raise _translated(path, error) from error
    try:
        try:
            # The lock is on the open file, so it goes with the process, however that ends.
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise _held(path, descriptor) from error
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, json.dumps(holder).encode(), 0)
        yield path
        os.ftruncate(descriptor, 0)
    finally:
        os.close(descriptor)


def _held(path: Path, descriptor: int) -> Conflict:
    try:
        holder = json.loads(os.pread(descriptor, 4096, 0))
        who = f"process {holder['pid']} (socket {holder['socket']}, since {holder['since']})"
    except (ValueError, KeyError, TypeError):
        who = "another process"
    return Conflict(
        f"is held by {who}",
        subject=f"state directory {path}",
        hint="one daemon for each state directory: stop that one, or start this one with another --state-dir",
    )


def _translated(path: Path, error: OSError) -> PlatformError:
    subject = f"state directory {path}"
    if isinstance(error, PermissionError):
        hint = "choose another with --state-dir, or run as its owner"
        return Forbidden("may not be written", subject=subject, hint=hint)
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return StorageFull("there is no room", subject=subject)
    return PlatformError(f"cannot be used: {error.strerror}", subject=subject)
