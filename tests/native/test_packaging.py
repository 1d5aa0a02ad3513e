"""What pip installs: every package, its data, and nothing else."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
from setuptools import Distribution, find_packages

from native.build_ext import BuildExt, BuildPy

ROOT = Path(__file__).parents[2]


def packages(folder: str, name: str) -> set[str]:
    """Dotted names of the packages under ``folder``, which is called ``name``."""
    inits = (ROOT / folder).rglob("__init__.py")
    return {".".join([name, *path.parent.relative_to(ROOT / folder).parts]) for path in inits}


def test_every_package_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each folder with an __init__.py under platformd and tui is installed, and no other."""
    monkeypatch.chdir(ROOT)
    search = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]["find"]
    distribution = Distribution({"packages": find_packages(include=search["include"])})
    BuildPy(distribution)
    assert set(distribution.packages) == packages("platformd", "platformd") | packages("tui", "platformd_tui")


def test_a_source_distribution_can_build_the_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    """The files that the engine is made of are among those that build_ext names for an sdist."""
    monkeypatch.chdir(ROOT)
    named = set(BuildExt(Distribution()).get_source_files())
    sources = {str(path.relative_to(ROOT)) for path in (ROOT / "native" / "src").iterdir()}
    assert sources | {"native/platformd.cdef", "native/build_ext.py"} <= named
