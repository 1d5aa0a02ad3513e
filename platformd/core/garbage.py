"""Python's garbage collector in a daemon: fewer passes, and none over what was there at the start.

A pass over everything stops the loop for as long as there are objects (measured: 40 ms with a thousand watches open,
which was the 99th percentile of their delivery). What the imports and the start made stays until the end, so looking at
it again finds nothing: it is frozen. And by default a pass begins after 700 new objects, which one event for a
thousand watchers makes several times over; after ``YOUNG_OBJECTS`` there is as little garbage to keep meanwhile, for
a cycle of ours is small.

While the daemon starts there are no passes at all: what it reads then stays, and with 10,000 resources a third of its
time went into looking at it (measured: 1.3 of 4.2 s).
"""

from __future__ import annotations

import gc

YOUNG_OBJECTS = 10_000
"""New objects after which the youngest are looked at (``gc.set_threshold``): some megabytes at most."""


def rest() -> None:
    """Call it when the start begins."""
    gc.disable()


def settle() -> None:
    """Call it when all is started that stays."""
    gc.collect()
    gc.freeze()
    gc.enable()
    gc.set_threshold(YOUNG_OBJECTS, *gc.get_threshold()[1:])
