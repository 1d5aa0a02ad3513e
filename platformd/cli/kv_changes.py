"""What ``platformd kv`` shares: bounded input, editing under compare-and-swap, and following changes."""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path
from typing import Any, Final

from platformd.cli.editor import run_editor
from platformd.cli.kv_output import TITLES, row, shown, write_raw
from platformd.cli.options import Session
from platformd.cli.output import Table, as_yaml, echo, json_text, note
from platformd.client import kv
from platformd.client.kv_watching import KeyChange
from platformd.core.errors import InvalidInput, NotFound, PlatformError, PreconditionFailed

MAX_INPUT: Final = 64 << 20
"""Bytes that are read of a file at most. What a value may have is the daemon's to say."""


def read_input(name: str) -> bytes:
    """The bytes of a file; ``-`` is standard input.

    Raises:
        InvalidInput: it cannot be read, or is larger than ``MAX_INPUT``.
    """
    try:
        if name == "-":
            data = sys.stdin.buffer.read(MAX_INPUT + 1)
        else:
            with Path(name).open("rb") as file:
                data = file.read(MAX_INPUT + 1)
    except OSError as error:
        raise InvalidInput(f"cannot be read: {error.strerror}", subject=name) from error
    if len(data) > MAX_INPUT:
        raise InvalidInput(f"is larger than {MAX_INPUT} bytes", subject=name)
    return data


def edit(session: Session, key: bytes) -> dict[str, Any] | None:
    """Let the user's editor change a value, and put it if nobody changed it meanwhile; ``None``: nothing changed.

    Raises:
        PreconditionFailed: somebody changed it; the hint names the file that has the edited text.
        InvalidInput: there is no editor, or it failed.
    """
    try:
        before: dict[str, Any] | None = kv.read_document(session.client.send(kv.get(key)))
    except NotFound:
        before = None
    old = kv.bytes_of(before or {}, "value") or b""
    descriptor, name = tempfile.mkstemp(prefix="platformd-", suffix=Path(shown(key)).suffix)
    path = Path(name)
    with os.fdopen(descriptor, "wb") as file:
        file.write(old)
    run_editor(session, path)
    new = path.read_bytes()
    if (new == old) if before is not None else not new:
        path.unlink()
        return None
    try:
        request = kv.put(
            key,
            new,
            lease=(before or {}).get("lease") or "",
            expect_revision=None if before is None else int(before["mod_revision"]),
            create=before is None,
        )
        made = kv.read_document(session.client.send(request))
    except PreconditionFailed as error:
        raise PreconditionFailed(
            error.message, subject=shown(key), hint=f"what you wrote is in {path}", details=error.details
        ) from error
    except PlatformError:
        note(f"what you wrote is in {path}")
        raise
    path.unlink()
    return made


class ChangePrinter:
    """Prints changes of keys as they come."""

    def __init__(self, output: str) -> None:
        self._output = output
        self._table = Table(("EVENT", *TITLES))
        self._begun = False

    def __call__(self, change: KeyChange) -> None:
        """Print one change; bookmarks say nothing to people."""
        if change.type == "bookmark":
            if self._output == "table" and not self._begun:
                self._table.fit([["delete", "", "", "", "", ""]])
                echo(self._table.header())
                self._begun = True
        elif self._output == "table":
            echo(self._table.line([change.type, *row(change.document)]))
        elif self._output == "raw":
            if change.type == "put":
                write_raw(change.value)
        else:
            document = {"type": change.type, "revision": change.revision} | change.document
            echo(json_text(document, indent=0) if self._output == "json" else "---\n" + as_yaml([document]))
        sys.stdout.flush()
