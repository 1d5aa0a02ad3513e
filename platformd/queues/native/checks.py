"""What the file system refuses, as errors; and, for the engine's other modules, the checks that every engine makes."""

from __future__ import annotations

import errno

from platformd.core.errors import PlatformError, StorageFull
from platformd.queues.checks import (
    check_pattern,
    check_same_retention,
    check_same_start,
    check_subjects,
    check_work_queue,
    named,
    no_consumer,
    no_stream,
)

__all__ = [
    "check_pattern",
    "check_same_retention",
    "check_same_start",
    "check_subjects",
    "check_work_queue",
    "named",
    "no_consumer",
    "no_stream",
    "storage_error",
]


def storage_error(error: OSError) -> PlatformError:
    """The error for what the file system refused."""
    full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    error_class = StorageFull if full else PlatformError
    return error_class(
        f"cannot be used: {error.strerror or error}",
        subject=str(error.filename) if error.filename else "queues",
        hint="free space on the disk" if full else "look at the file and its permissions",
    )
