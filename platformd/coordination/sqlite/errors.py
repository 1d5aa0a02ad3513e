"""What SQLite and the file system say, translated once, at the engine's edge.

Whether a failed *commit* was done is the one question that matters to a caller:

- a frame of the write-ahead log that could not be written (``SQLITE_FULL``, ``SQLITE_IOERR_WRITE``) means that the
  frame with the commit mark is not there: nothing was done;
- a failure after that (the sync, the shared index) leaves a complete commit in the file, which a
  recovery after a crash may find: the outcome is unknown.
"""

from __future__ import annotations

import errno
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from platformd.core.errors import (
    Conflict,
    Corrupted,
    LimitReached,
    OutcomeUnknown,
    PlatformError,
    StorageFull,
    TooLarge,
    Unavailable,
)

_MakeError = Callable[[str, str], PlatformError]


def _full(path: str, reason: str) -> PlatformError:
    return StorageFull(
        f"the disk takes no more ({reason}); nothing was done",
        subject=path,
        hint="make room on that file system (or raise its quota); the store goes on by itself",
    )


def _corrupted(path: str, reason: str) -> PlatformError:
    return Corrupted(
        f"the store's file is damaged ({reason})",
        subject=path,
        hint=f"stop the daemon, restore a backup, or save what is readable with: sqlite3 {path} .recover",
    )


def _locked(path: str, reason: str) -> PlatformError:
    return Conflict(
        f"another process holds the store's file ({reason})",
        subject=path,
        hint=f"find it with: fuser {path}; only the daemon may write there",
    )


def _refused(path: str, reason: str) -> PlatformError:
    return Unavailable(
        f"the store's file cannot be used ({reason}); nothing was done",
        subject=path,
        hint="see that the file and its directory belong to the daemon's user and that the disk is well",
    )


def _unknown(path: str, reason: str) -> PlatformError:
    return OutcomeUnknown(
        f"the disk failed while the commit was made durable ({reason})",
        subject=path,
        hint="see the kernel's log for the disk; read the key again before you repeat the write",
    )


def _large(path: str, reason: str) -> PlatformError:
    return TooLarge(f"over one of SQLite's own limits ({reason})", subject=path)


def _memory(path: str, reason: str) -> PlatformError:
    return LimitReached(f"no memory is left ({reason}); nothing was done", subject=path)


_EXTENDED: dict[int, _MakeError] = {
    sqlite3.SQLITE_IOERR_WRITE: _full,  # a quota and a file size limit come as this one, not as SQLITE_FULL
    sqlite3.SQLITE_IOERR_NOMEM: _memory,
}
"""By extended result code, where it says more than the primary one."""

_PRIMARY: dict[int, _MakeError] = {
    sqlite3.SQLITE_FULL: _full,
    sqlite3.SQLITE_CORRUPT: _corrupted,
    sqlite3.SQLITE_NOTADB: _corrupted,
    sqlite3.SQLITE_BUSY: _locked,
    sqlite3.SQLITE_LOCKED: _locked,
    sqlite3.SQLITE_READONLY: _refused,
    sqlite3.SQLITE_CANTOPEN: _refused,
    sqlite3.SQLITE_PERM: _refused,
    sqlite3.SQLITE_IOERR: _refused,
    sqlite3.SQLITE_TOOBIG: _large,
    sqlite3.SQLITE_NOMEM: _memory,
}
"""By primary result code (the low byte)."""

_ERRNO: dict[int, _MakeError] = {
    errno.ENOSPC: _full,
    errno.EDQUOT: _full,
    errno.EFBIG: _full,
}
"""By the operating system's number, for what is not done through SQLite."""


def translate(error: sqlite3.Error | OSError, path: Path, *, committing: bool = False) -> PlatformError | None:
    """The platform's error for a foreign one; ``None`` if it is none of the expected ones (then it is a bug).

    Args:
        error: what was raised.
        path: the store's file, for the message.
        committing: it came out of COMMIT, so that an I/O error may have left a complete commit behind.
    """
    if isinstance(error, OSError):
        return _ERRNO.get(error.errno or 0, _refused)(str(path), error.strerror or str(error))
    code = getattr(error, "sqlite_errorcode", None)
    if code is None:  # the module's own complaints (misuse, wrong types) carry no code
        return None
    make = _EXTENDED.get(code) or _PRIMARY.get(code & 0xFF)
    if make is _refused and committing:
        make = _unknown
    return make(str(path), f"{error.sqlite_errorname}: {error}") if make is not None else None


@contextmanager
def translated(path: Path) -> Iterator[None]:
    """Everything expected that SQLite or the system raises in the block comes out as a ``PlatformError``."""
    try:
        yield
    except (sqlite3.Error, OSError) as error:
        known = translate(error, path)
        if known is None:
            raise
        raise known from error
