"""Changing a resource in an editor so that nothing is lost: not what others did meanwhile, and not what was written.

What is edited is what a user decides; the status stands below it as a comment. It is written with If-Match. If somebody
changed the resource meanwhile, both changes are merged field by field; fields that both changed come back into the
editor with the other value beside them. What the daemon refuses comes back too, with the reasons on top. Whoever gives
up (by saving the file as it came back) finds what they wrote in a file that is named.
"""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from platformd.cli.documents import read_values
from platformd.cli.editor import run_editor
from platformd.cli.merging import merge
from platformd.cli.options import Session
from platformd.cli.output import as_json, as_yaml, note, safe
from platformd.client import control
from platformd.core.errors import (
    FieldError,
    InvalidInput,
    NotFound,
    PlatformError,
    PreconditionFailed,
    TooLarge,
    Unprocessable,
)
from platformd.model.kind import Kind

EDITED: Final = ("kind", "name", "tenant", "labels", "annotations", "owner", "spec")
"""The members that a user decides, as they stand in the file."""
FIXED: Final = ("kind", "name", "tenant")
"""Of these, what makes it this resource."""

FILE: Final = "the file"
"""How the file is named in errors."""

ADVICE: Final = (
    "Save and leave to apply. Leave it as it is, or empty it, and nothing is done.",
    "Lines that begin with # do not count.",
)


@dataclass
class Edited:
    """What came of it."""

    before: Mapping[str, Any]
    """The resource that was changed in the end."""
    resource: Mapping[str, Any]
    outcome: str


@dataclass
class Edit:
    """One resource that is being edited.

    Raises:
        NotFound: it is not there.
    """

    session: Session
    kind: Kind
    name: str
    tenant: str
    dry_run: bool = False
    send: Any = None
    """Sends a request; the session's client by default."""
    _current: dict[str, Any] = field(default_factory=dict)

    @property
    def subject(self) -> str:
        """How it is named."""
        return f"{self.kind.singular}/{self.name}"

    def run(self) -> Edited | None:
        """Have it edited and applied; ``None`` when nothing was changed.

        Raises:
            InvalidInput | Unprocessable: the user gave up on what is refused; the hint names the file.
            PlatformError: it could not be read, or not written for another reason; the hint names the file.
        """
        self._current = self._read()
        base = edited_part(self._current)
        descriptor, name = tempfile.mkstemp(prefix=f"platformd-{self.kind.singular}-", suffix=".yaml")
        os.close(descriptor)
        path = Path(name)
        wanted: Any = base
        remarks: list[str] = list(ADVICE)
        refused: PlatformError | None = None
        content: Callable[[str], str] = _bare  # of a file, what has to be another for the user to have done something
        while True:
            text = as_text(wanted, self._current, [self.subject, *remarks])
            path.write_text(text)
            run_editor(self.session, path)
            written = path.read_text()
            if refused is not None and content(written) == content(text):
                raise _kept(refused, path)
            if not _bare(written):
                path.unlink()
                return None
            try:
                mine = self._parse(written)
                if mine == edited_part(self._current):
                    path.unlink()
                    return None
                done = self._apply(mine)
            except _Contested as contested:
                base, wanted = edited_part(self._current), contested.merged
                remarks, refused, content = contested.remarks, contested.error, str
            except (InvalidInput, Unprocessable, TooLarge) as error:
                remarks, refused, content = _remarks(error, written), error, _bare
                wanted = written
            except PlatformError as error:
                raise _kept(error, path) from error
            else:
                path.unlink()
                return done

    def _read(self) -> dict[str, Any]:
        document: dict[str, Any] = self._send(control.get(self.kind, self.name, tenant=self.tenant)).check().json()
        return document

    def _send(self, request: Any) -> Any:
        return (self.send or self.session.client.send)(request)

    def _parse(self, text: str) -> dict[str, Any]:
        found = read_values(FILE, text.encode())
        if len(found) != 1 or not isinstance(found[0][0], dict):
            raise InvalidInput("is not one resource: kind, name and spec", subject=self.subject)
        mine: dict[str, Any] = found[0][0]
        base = edited_part(self._current)
        changed = [key for key in FIXED if mine.get(key, base.get(key)) != base.get(key)]
        if changed:
            errors = tuple(FieldError(path=key, message=f"is {base.get(key)} and stays so") for key in changed)
            raise Unprocessable("an edit cannot make it another resource", subject=self.subject, errors=errors)
        return mine

    def _apply(self, mine: dict[str, Any]) -> Edited:
        """Write ``mine``, merged with what others did meanwhile."""
        wanted = mine
        while True:
            before = self._current
            request = control.apply(
                self.kind,
                wanted,
                tenant=self.tenant,
                dry_run=self.dry_run,
                expect_revision=int(before["revision"]),
            )
            try:
                response = self._send(request)
                return Edited(before, response.check().json(), control.read_outcome(response))
            except PreconditionFailed as error:
                base = edited_part(before)
                try:
                    self._current = self._read()
                except NotFound as gone:
                    raise NotFound("it was deleted meanwhile", subject=self.subject) from gone
                if self._current["uid"] != before["uid"]:
                    message = "it was deleted, and made anew, meanwhile"
                    raise PreconditionFailed(message, subject=self.subject) from error
                wanted, conflicts = merge(base, wanted, edited_part(self._current))
                if conflicts:
                    remarks = [
                        "Somebody changed it meanwhile. Theirs is merged with yours, but you both changed:",
                        *(f"  {one.path}: they made it {as_json(one.theirs, indent=0)}" for one in conflicts),
                        "What stands below is yours. Delete these lines to apply it; save it as it is to give up.",
                    ]
                    raise _Contested(error, wanted, remarks) from error
                note(f"{self.subject} was changed by somebody else meanwhile; both changes are merged")


class _Contested(Exception):
    def __init__(self, error: PlatformError, merged: Any, remarks: Sequence[str]) -> None:
        super().__init__()
        self.error, self.merged, self.remarks = error, merged, list(remarks)


def edited_part(document: Mapping[str, Any]) -> dict[str, Any]:
    """What of a resource is edited."""
    part = {key: document[key] for key in EDITED if document.get(key) is not None}
    return {key: value for key, value in part.items() if value != {} or key == "spec"}


def as_text(wanted: Any, document: Mapping[str, Any], remarks: Sequence[str]) -> str:
    """The file for the editor: the remarks, what is edited, and the status, which is not."""
    head = "".join(f"# {safe(line)}\n" for line in remarks)
    if isinstance(wanted, str):  # as it was written, with its own comments
        return head + "".join(line for line in wanted.splitlines(keepends=True) if not line.startswith("# "))
    status = document.get("status") or {}
    tail = "".join(f"#  {line}\n" for line in as_yaml([{"status": status}]).splitlines()) if status else ""
    return head + as_yaml([wanted]) + "\n" + ("#\n" + tail if tail else "")


def _bare(text: str) -> str:
    """What counts of a file."""
    return "\n".join(line.rstrip() for line in text.splitlines() if not line.lstrip().startswith("#")).strip()


def _remarks(error: PlatformError, written: str) -> list[str]:
    remarks = ["It was refused:", *(f"  {line}" for line in str(error).splitlines())]
    place = re.match(rf"{FILE}:(\d+)", error.subject or "")
    if place is not None:  # lines have other numbers now
        remarks += [f"  > {line}" for line in written.splitlines()[int(place[1]) - 1 : int(place[1])]]
    return [*remarks, "Save it as it is to give up."]


def _kept(error: PlatformError, path: Path) -> PlatformError:
    kept = f"what you wrote is in {path}"
    error.hint = f"{error.hint}; {kept}" if error.hint else kept
    return error
