"""How setuptools builds platformd, the native queue engine above all.

It runs this through ``[tool.setuptools.cmdclass]``; a C compiler is all that a plain checkout needs. cffi
turns ``platformd.cdef`` into an extension module over ``src/*.c``. The engine's own files are compiled
strictly; the file that cffi writes is compiled as it is.
"""

from __future__ import annotations

from pathlib import Path

from cffi import FFI
from setuptools import Extension, find_packages
from setuptools.command.build_ext import build_ext
from setuptools.command.build_py import build_py

NATIVE = Path("native")
SOURCES = NATIVE / "src"
BOUNDARY = NATIVE / "platformd.cdef"
STRICT = ["-std=c11", "-O2", "-g", "-Wall", "-Wextra", "-Werror", "-pthread", "-fvisibility=hidden"]
"""For the engine's own files."""


class BuildPy(build_py):  # type: ignore[misc,unused-ignore]
    """``build_py`` that also finds the packages of the TUI, whose folder ``tui`` is called ``platformd_tui``."""

    def initialize_options(self) -> None:
        """Add them to the distribution's."""
        super().initialize_options()
        found = ["platformd_tui", *(f"platformd_tui.{name}" for name in find_packages("tui"))]
        self.distribution.packages = sorted({*(self.distribution.packages or []), *found})


class BuildExt(build_ext):  # type: ignore[misc,unused-ignore]
    """``build_ext`` that knows how the engine is made."""

    def get_source_files(self) -> list[str]:
        """Everything that a source distribution needs to build the engine."""
        kept = (path for pattern in ("*.cdef", "*.py", "src/*.[ch]") for path in NATIVE.glob(pattern))
        return sorted(str(path) for path in kept)

    def build_extension(self, ext: Extension) -> None:
        """Compile the engine, then the boundary that cffi writes, and link both."""
        generated = self._write_boundary(ext.name)
        objects = self.compiler.compile(
            sorted(str(path) for path in SOURCES.glob("*.c")),
            output_dir=self.build_temp,
            macros=[("_GNU_SOURCE", None)],
            extra_postargs=STRICT,
            depends=sorted(str(path) for path in [BOUNDARY, *SOURCES.glob("*.h")]),
        )
        ext.sources = [str(generated)]
        ext.depends = self.get_source_files()  # or an extension that was linked before would be taken as it is
        ext.include_dirs = [str(SOURCES)]
        ext.extra_objects = list(objects)
        ext.extra_compile_args = ["-pthread"]
        ext.extra_link_args = ["-pthread"]
        super().build_extension(ext)

    def _write_boundary(self, name: str) -> Path:
        """The C file of the extension module ``name``."""
        ffi = FFI()
        ffi.cdef(BOUNDARY.read_text(encoding="utf-8"))
        ffi.set_source(name, '#include "platformd.h"')
        generated = Path(self.build_temp) / "_native.c"
        generated.parent.mkdir(parents=True, exist_ok=True)
        ffi.emit_c_code(str(generated))
        return generated
