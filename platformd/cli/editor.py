"""Having the user's editor change a file."""

from __future__ import annotations

import shlex
import subprocess
from pathlib import Path

from platformd.cli.options import Session
from platformd.core.errors import InvalidInput


def run_editor(session: Session, path: Path) -> None:
    """Run ``$VISUAL`` or ``$EDITOR`` on ``path``.

    Raises:
        InvalidInput: it cannot be started, or it failed; then the file is left as it is.
    """
    editor = session.environ.get("VISUAL") or session.environ.get("EDITOR") or "vi"
    try:
        done = subprocess.run([*shlex.split(editor), str(path)], check=False)
    except (OSError, ValueError) as error:
        path.unlink()
        raise InvalidInput(f"the editor cannot be started: {error}", subject=editor, hint="set EDITOR") from error
    if done.returncode:
        raise InvalidInput(f"it ended with {done.returncode}; nothing was done", subject=editor, hint=f"see {path}")
