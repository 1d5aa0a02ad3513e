"""What the terminal may know."""

from __future__ import annotations

import ast
from pathlib import Path

import tui

ALLOWED = ("platformd.client", "platformd.core", "platformd.model")
PURE = {"document", "events", "facts", "format", "history", "layout", "machine", "overview", "state", "table"}


def imports(path: Path) -> set[str]:
    """The modules that a file imports by absolute name."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            found.add(node.module)
    return found


FILES = sorted(Path(tui.__file__).parent.rglob("*.py"))


def test_the_terminal_knows_only_what_a_user_program_may() -> None:
    """No file of the terminal imports more of platformd than client, core and model."""
    assert len(FILES) > 20
    foreign = {
        (path.name, name)
        for path in FILES
        for name in imports(path)
        if name.split(".")[0] == "platformd" and name != "platformd" and not name.startswith(ALLOWED)
    }
    assert foreign == set()


def test_state_and_text_know_no_toolkit() -> None:
    """The pure files import neither Textual nor asyncio."""
    impure = {
        (path.name, name)
        for path in FILES
        if path.stem in PURE and path.parent.name == "tui"
        for name in imports(path)
        if name.split(".")[0] in {"textual", "asyncio", "socket", "time"}
    }
    assert impure == set()
