"""Buffers that come and go: keeping the C library from giving them back to the system each time.

glibc takes a large buffer (at first: 128 KiB) from the system for itself and gives it back when it is freed, and cuts
the heap when twice as much is free at its end. A batch of the queues is such a buffer, several times over, and the
system then makes each page of it anew, zeroed: measured, three quarters of what a producer of batches of 300 KB did.
But glibc learns: the largest such buffer that was freed (up to 32 MiB) is from then on one that comes and goes.
"""

from __future__ import annotations

LARGEST = 8 << 20
"""Bytes of a buffer that comes and goes; twice as much may stay with the process when it is not used."""


def keep_buffers() -> None:
    """Have memory of up to ``LARGEST`` a piece used again. Once in a process is enough; elsewhere than with glibc it
    does nothing."""
    bytearray(LARGEST)  # taken, never touched, and freed: that is what it learns from
