"""Fuzzing what comes from outside, and what lies on the disk: for some seconds, from the corpus that is kept.

For longer: ``PLATFORMD_FUZZ_SECONDS=600``. What the fuzzer then finds that is new goes into ``native/tests/corpus``
with ``PLATFORMD_FUZZ_KEEP=1``, as few files as cover it.
"""

from __future__ import annotations

import os
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.native.fuzz_seeds import write_batch_seeds, write_log_seeds
from tests.native.test_c_units import SOURCES, TESTS, build, require, run

SECONDS = int(os.environ.get("PLATFORMD_FUZZ_SECONDS", "3"))
KEEP = "PLATFORMD_FUZZ_KEEP" in os.environ
CORPUS = TESTS / "corpus"
ENGINE = {
    "batch": ["batch", "base", "crc32c", "plain", "subject", "wire"],
    "log": [
        *("batch", "base", "bitmap", "crc32c", "erasure", "frames", "journal", "log", "packed", "reader", "recover"),
        *("segment", "subject", "zstd_api"),
    ],
}
"""What each fuzz target needs of the engine."""


def unpack(archive: Path, folder: Path) -> None:
    """The corpus of ``archive``, a file for each input."""
    folder.mkdir()
    if archive.exists():
        with zipfile.ZipFile(archive) as packed:
            packed.extractall(folder)


def pack(folder: Path, archive: Path) -> None:
    """As few inputs as cover what was found; the same bytes for the same inputs."""
    archive.parent.mkdir(exist_ok=True)
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as packed:
        for path in sorted(folder.iterdir()):
            packed.writestr(zipfile.ZipInfo(path.name), path.read_bytes(), zipfile.ZIP_DEFLATED)


@pytest.mark.parametrize(("name", "write_seeds"), [("batch", write_batch_seeds), ("log", write_log_seeds)])
def test_fuzzed_input(name: str, write_seeds: Callable[[Path], None], tmp_path: Path) -> None:
    """Mutated inputs find nothing that is read beyond its end, and no log that is another one when opened again."""
    flags = require("clang", "fuzzer,address,undefined")
    sources = [TESTS / f"fuzz_{name}.c", TESTS / "toy.c", *(SOURCES / f"{part}.c" for part in ENGINE[name])]
    program = build(f"fuzz-{name}", "clang", flags, sources)
    seeds, found, kept, merged = (tmp_path / folder for folder in ("seeds", "found", "kept", "merged"))
    for folder in (seeds, found, merged):
        folder.mkdir()
    write_seeds(seeds)
    unpack(CORPUS / f"{name}.zip", kept)
    done = run(
        *(program, f"-max_total_time={SECONDS}", "-max_len=4096", "-seed=1", f"-artifact_prefix={tmp_path}/"),
        *(found, seeds, kept),
        patience=SECONDS + 120,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    if KEEP:
        done = run(program, "-merge=1", "-max_len=4096", merged, kept, seeds, found, patience=SECONDS + 600)
        assert done.returncode == 0, done.stderr[-4000:]
        pack(merged, CORPUS / f"{name}.zip")
