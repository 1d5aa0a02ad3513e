"""Backups over the control API: the daemon makes a copy of its store, which is received into a file."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, Final

import msgspec

from platformd.client.blocking_link import Link
from platformd.client.http import Collector, End, Head, Target, make_request
from platformd.core.errors import Forbidden, NotFound, PlatformError, StorageFull, Unavailable
from platformd.core.files import new_file

TIMEOUT: Final = 600.0
"""Seconds that the daemon may take before it answers: it makes the whole copy first."""


class Backup(msgspec.Struct, frozen=True, kw_only=True):
    """What a backup is."""

    path: str
    revision: int
    """The store's revision that it is the copy of."""
    size_bytes: int
    sha256: str
    """Its SHA-256, hexadecimal."""


def fetch_backup(target: Target, path: Path, progress: Callable[[int, int], None] = lambda done, size: None) -> Backup:
    """Have the daemon make a copy of its store, and receive it into a new file.

    The file is there whole, checked and durable, or not at all.

    Args:
        target: where the daemon is.
        path: the file; there must be nothing.
        progress: told the bytes that have come, and all that will.

    Raises:
        Conflict: there is something at ``path``.
        Unavailable: the daemon does not answer, or the copy was cut off.
        Unsupported: the daemon's store has no such file: use the tools of its engine.
        StorageFull: there is no room for it.
    """
    try:
        with new_file(path) as part, part.open("wb") as file:
            return _receive(target, path, file, progress)
    except OSError as error:
        raise _translated(path, error) from error


def _translated(path: Path, error: OSError) -> PlatformError:
    if isinstance(error, PermissionError):
        return Forbidden("may not be written", subject=str(path), hint="take another place, or run as its owner")
    if isinstance(error, FileNotFoundError):
        return NotFound("its directory is not there", subject=str(path))
    return StorageFull(f"cannot be written: {error.strerror}; nothing is left of it", subject=str(path))


def _receive(target: Target, path: Path, file: IO[bytes], progress: Callable[[int, int], None]) -> Backup:
    link = Link(target, TIMEOUT)
    failure = Collector()
    digest = hashlib.sha256()
    head: Head | None = None
    received = 0
    try:
        link.send(make_request("POST", "/v1/store/snapshot"))
        while True:
            for part in link.http.receive(link.receive()):
                if isinstance(part, Head):
                    head = part
                if head is None or head.status >= 300:
                    response = failure.add(part)
                    if response is not None:
                        response.check()
                elif isinstance(part, bytes):
                    file.write(part)
                    digest.update(part)
                    received += len(part)
                    progress(received, _length(head))
                elif isinstance(part, End):
                    _check(head, digest.digest(), target)
                    file.flush()
                    revision = int(head.headers.get("platformd-revision", "0"))
                    return Backup(path=str(path), revision=revision, size_bytes=received, sha256=digest.hexdigest())
    except PlatformError as error:
        if head is not None and head.status < 300 and received < _length(head):
            raise Unavailable("the copy was cut off; nothing is left of it", subject=str(target)) from error
        raise
    finally:
        link.close()


def _length(head: Head) -> int:
    return int(head.headers.get("content-length", "0"))


def _check(head: Any, digest: bytes, target: Target) -> None:
    said = head.headers.get("repr-digest", "")
    if said != f"sha-256=:{base64.b64encode(digest).decode()}:":
        raise Unavailable("the copy did not come as it was sent; nothing is left of it", subject=str(target))
