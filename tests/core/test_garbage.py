"""The garbage collector's settings."""

from __future__ import annotations

import subprocess
import sys

from platformd.core.garbage import YOUNG_OBJECTS


def test_what_is_there_is_not_looked_at_again() -> None:
    """Afterwards all that was there is frozen, passes are rarer, and garbage of later is still found."""
    program = """
import gc, weakref
from platformd.core.garbage import settle
before = len(gc.get_objects())
settle()
class Cycle: pass
cycle = Cycle(); cycle.me = cycle; seen = weakref.ref(cycle); del cycle
gc.collect()
print(gc.get_freeze_count() > before * 0.9, gc.get_threshold()[0], gc.isenabled(), seen() is None)
"""
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert ran.stdout.split() == ["True", str(YOUNG_OBJECTS), "True", "True"]
