"""The tail is bounded: lengths of files and functions, a sentence for each test, layers, top level.

Ugliness never sits in the median, so only the tail is policed.
"""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

MAX_FILE_LINES = 500
MAX_FUNCTION_LINES = 70
TOP_LEVEL = {
    "pyproject.toml", "platformd", "native", "tui", "config", "tests", "packaging", "README.md", "LICENSE",
    ".gitignore", ".ci", ".clang-format",
}  # fmt: skip


def tracked(*patterns: str) -> list[Path]:
    """Files of the project: what git tracks, or in an unpacked archive what is there."""
    found = subprocess.run(["git", "ls-files", "--", *patterns], cwd=ROOT, capture_output=True, text=True, check=False)
    if found.returncode == 0 and found.stdout:
        return [ROOT / line for line in found.stdout.splitlines() if (ROOT / line).is_file()]
    return [path for pattern in patterns for path in ROOT.glob(f"**/{pattern}")]


PYTHON = tracked("*.py")
C = tracked("*.c", "*.h")


def functions(path: Path) -> list[ast.FunctionDef | ast.AsyncFunctionDef]:
    tree = ast.parse(path.read_text(encoding="utf-8"), str(path))
    return [n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)]


def code_lines(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines of a function without its docstring: a contract may be as long as it needs to be."""
    length = (function.end_lineno or function.lineno) - function.lineno + 1
    first = function.body[0]
    if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str):
        length -= (first.end_lineno or first.lineno) - first.lineno + 1
    return length


def test_files_are_short() -> None:
    """No source file has more than 500 lines."""
    assert PYTHON
    long = {str(p.relative_to(ROOT)): n for p in PYTHON + C if (n := len(p.read_bytes().splitlines())) > MAX_FILE_LINES}
    assert not long


def test_python_functions_are_short() -> None:
    """No Python function has more than 70 lines, its docstring not counted."""
    long = {
        f"{p.relative_to(ROOT)}:{f.name}": code_lines(f)
        for p in PYTHON
        for f in functions(p)
        if code_lines(f) > MAX_FUNCTION_LINES
    }
    assert not long


def test_c_functions_are_short() -> None:
    """No C function has more than 70 lines between its braces."""
    long = {}
    for path in C:
        opened = None
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            if line.startswith("{") or (re.match(r"^[a-z].*\)\s*\{$", line) and not line.startswith("struct")):
                opened = number
            elif line.startswith("}") and opened is not None:
                if number - opened > MAX_FUNCTION_LINES:
                    long[f"{path.relative_to(ROOT)}:{opened}"] = number - opened
                opened = None
    assert not long


def test_each_test_says_what_it_shows() -> None:
    """Each test has a docstring of at least three words."""
    silent = [
        f"{p.relative_to(ROOT)}:{f.name}"
        for p in PYTHON
        if p.is_relative_to(ROOT / "tests") and p.name.startswith("test_")
        for f in functions(p)
        if f.name.startswith("test_") and len((ast.get_docstring(f) or "").split()) < 3
    ]
    assert not silent


def test_top_level_is_the_agreed_one() -> None:
    """Nothing lies at the top level that the design does not name."""
    assert {p.relative_to(ROOT).parts[0] for p in tracked("*", ".*")} <= TOP_LEVEL


@pytest.mark.parametrize("word", ["TODO", "FIXME", "XXX", "HACK"])
def test_nothing_is_left_for_later(word: str) -> None:
    """No source file has a note to do something later."""
    here = Path(__file__).resolve()
    marked = [
        f"{p.relative_to(ROOT)}" for p in PYTHON + C
        if p.resolve() != here and re.search(rf"\b{word}\b", p.read_text(encoding="utf-8"))
    ]  # fmt: skip
    assert not marked


def run_tool(*command: str) -> None:
    """Run a tool of the workshop and show what it found if it found something."""
    done = subprocess.run([sys.executable, "-m", *command], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_ruff() -> None:
    """The linter finds nothing in any Python file."""
    run_tool("ruff", "check", "--no-cache", ".")


def test_mypy() -> None:
    """The type checker finds nothing in strict mode."""
    run_tool("mypy", "--cache-dir", ".mypy_cache")


def test_layers() -> None:
    """Imports go downwards only, as the contracts in pyproject.toml say."""
    done = subprocess.run(
        [sys.executable, "-c", "from importlinter.cli import lint_imports_command as c; c()", "--no-cache"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.system
def test_c_is_formatted() -> None:
    """Every C file is as .clang-format says."""
    tool = shutil.which("clang-format")
    if tool is None:
        pytest.skip("clang-format is not installed (Debian: clang-format)")
    done = subprocess.run(
        [tool, "--dry-run", "-Werror", *map(str, C)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
