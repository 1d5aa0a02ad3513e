"""The engine's own tests in C, under the address, undefined-behaviour and thread sanitizers."""

from __future__ import annotations

import fcntl
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

NATIVE = Path(__file__).parents[2] / "native"
SOURCES = NATIVE / "src"
TESTS = NATIVE / "tests"
BUILD = NATIVE / "build" / "tests"
FLAGS = ["-std=c11", "-D_GNU_SOURCE", "-O1", "-g", "-Wall", "-Wextra", "-Werror", "-pthread", f"-I{SOURCES}"]
GROUPS = [
    *("crc32c", "batch", "subject", "dedup", "rate", "bitmap", "log", "recovery", "erasure", "full", "journal"),
    *("start", "letters", "dead", "consumer", "limits", "gate", "retention", "wire", "plain", "live", "engine"),
    *("columns", "packed", "packing"),
]


def run(*command: str | Path, patience: float = 300) -> subprocess.CompletedProcess[str]:
    """Run a command, with its output."""
    return subprocess.run(
        [str(part) for part in command], capture_output=True, text=True, check=False, timeout=patience
    )


def require(compiler: str, sanitizers: str) -> list[str]:
    """The flags for ``sanitizers``, or skip when the compiler cannot link them."""
    if shutil.which(compiler) is None:
        pytest.skip(f"{compiler} is not installed")
    flags = [f"-fsanitize={sanitizers}", "-fno-sanitize-recover=all"]
    BUILD.mkdir(parents=True, exist_ok=True)
    probe = BUILD / f"probe-{compiler}.c"
    probe.write_text(
        "#include <stddef.h>\nint LLVMFuzzerTestOneInput(const char *d, size_t n);\n"
        "int LLVMFuzzerTestOneInput(const char *d, size_t n) { return n > 9 && d[0]; }\n"
        + ("" if "fuzzer" in sanitizers else "int main(void) { return 0; }\n")
    )
    done = run(compiler, *flags, probe, "-o", probe.with_suffix(""))
    if done.returncode != 0:
        pytest.skip(f"{compiler} lacks -fsanitize={sanitizers}: {done.stderr.strip()[:200]}")
    return flags


def compile_one(compiler: str, flags: list[str], source: Path, folder: Path) -> Path:
    """The object of ``source``, compiled unless it is newer than it and every header."""
    target = folder / f"{source.stem}.o"
    inputs = [source, NATIVE / "platformd.cdef", *SOURCES.glob("*.h"), *TESTS.glob("*.h")]
    if target.exists() and target.stat().st_mtime > max(path.stat().st_mtime for path in inputs):
        return target
    done = run(compiler, *FLAGS, *flags, "-c", source, "-o", target)
    assert done.returncode == 0, done.stderr
    return target


def build(name: str, compiler: str, flags: list[str], sources: list[Path]) -> Path:
    """The program made of ``sources``; kept for the next run, and for one builder at a time."""
    folder = BUILD / name
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with ThreadPoolExecutor(2) as pool:
            objects = list(pool.map(lambda source: compile_one(compiler, flags, source, folder), sources))
        done = run(compiler, *flags, "-pthread", *objects, "-o", folder / "program")
        assert done.returncode == 0, done.stderr
    return folder / "program"


def unit_sources() -> list[Path]:
    """The engine and its tests."""
    tests = [path for path in sorted(TESTS.glob("*.c")) if not path.name.startswith("fuzz_")]
    return [*sorted(SOURCES.glob("*.c")), *tests]


@pytest.fixture(scope="module")
def memory_checked() -> Path:
    """The tests' program under the address and undefined-behaviour sanitizers."""
    return build("asan", "gcc", require("gcc", "address,undefined"), unit_sources())


@pytest.fixture(scope="module")
def thread_checked() -> Path:
    """The tests' program under the thread sanitizer."""
    return build("tsan", "gcc", require("gcc", "thread"), unit_sources())


def check(program: Path, group: str) -> None:
    """Run a group; it must succeed and say nothing."""
    done = run(program, group)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


@pytest.mark.parametrize("group", [*GROUPS, "threads"])
def test_units(memory_checked: Path, group: str) -> None:
    """The group holds, and touches no memory that is not its own and leaks none."""
    check(memory_checked, group)


@pytest.mark.parametrize("group", ["engine", "threads", "dead", "gate", "packing"])
def test_races(thread_checked: Path, group: str) -> None:
    """The engine's threads share nothing without a lock."""
    check(thread_checked, group)
