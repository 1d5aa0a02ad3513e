"""The zstd that the engine compresses with: the one inside of the wheel of ``zstandard``.

Its module ``_cffi`` holds the whole library, and cffi gives the addresses of its functions; the engine calls them from
threads of its own, as it does with pynng's nng. So there is nothing to build or to link.
"""

from __future__ import annotations

import importlib
from typing import Any

from platformd.core.errors import Unsupported
from platformd.queues.native._native import ffi, lib

WANTED = "zstandard==0.25.0"


def functions() -> Any:
    """The addresses of the zstd functions that the engine asks for, in its order, NULL-terminated.

    Raises:
        Unsupported: the installed ``zstandard`` lacks one.
    """
    names = lib.pd_zstd_names()
    addresses: list[Any] = []
    while names[len(addresses)] != ffi.NULL:
        addresses.append(_address(ffi.string(names[len(addresses)]).decode()))
    return ffi.new("void *[]", [*addresses, ffi.NULL])


def _address(name: str) -> Any:
    try:
        zstd = importlib.import_module("zstandard._cffi")
    except ImportError as error:
        raise _missing("its module _cffi") from error
    try:
        pointer = zstd.ffi.addressof(zstd.lib, name)
    except AttributeError as error:
        raise _missing(name) from error
    return ffi.cast("void *", int(zstd.ffi.cast("uintptr_t", pointer)))


def _missing(what: str) -> Unsupported:
    return Unsupported(
        f"the package zstandard does not offer {what}, which the queue engine compresses with",
        subject="zstandard",
        hint=f"install the version that platformd asks for, as a wheel: pip install {WANTED}",
    )
