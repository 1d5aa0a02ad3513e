"""Files that are there whole and durable, or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from platformd.core.errors import Conflict


@contextmanager
def new_file(path: Path, *, mode: int = 0o600) -> Iterator[Path]:
    """A file to be filled in the block under another name beside ``path``, which it gets when the block ends well.

    By then it is durable. Nothing is ever overwritten, and a block that fails leaves nothing.

    Args:
        path: its name in the end.
        mode: its permissions.

    Raises:
        Conflict: there is something at ``path``.
        OSError: the system's own refusals.
    """
    if path.exists():
        raise _taken(path)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    part.unlink(missing_ok=True)
    try:
        os.close(os.open(part, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, mode))
        yield part
        sync(part)
        try:
            os.link(part, path)  # a rename would overwrite
        except FileExistsError:
            raise _taken(path) from None
    finally:
        part.unlink(missing_ok=True)
    sync(path.parent)


def sync(path: Path) -> None:
    """Make a file's content, or a directory's entries, durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _taken(path: Path) -> Conflict:
    return Conflict("is there already, and is not overwritten", subject=str(path), hint="take another name")
