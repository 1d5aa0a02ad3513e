"""CRC32C (Castagnoli, RFC 3720 appendix B.4) through the native extension.

There is no fallback in Python: it would be a thousand times slower, and nobody would be told.
"""

from __future__ import annotations

try:
    from platformd.queues.native._native import ffi, lib
except ImportError as _error:
    raise ImportError(
        "platformd's native extension is not built for this Python; build it with `pip install .` "
        "(in a checkout: `pip install -e .`)"
    ) from _error


def crc32c(data: bytes | bytearray | memoryview, crc: int = 0) -> int:
    """The CRC32C of ``data``, going on from ``crc`` (0 to begin)."""
    result: int = lib.pd_crc32c(crc, ffi.from_buffer("uint8_t[]", data), len(data))
    return result
