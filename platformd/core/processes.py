"""Starting our own modules as processes, so that they are the same code as ours.

``python -m`` puts the working directory first on the path: started in a checkout, or anywhere with a
folder called ``platformd``, the child would be another program. ``-P`` keeps the directory out, and
PYTHONPATH names the place that this process's own code came from.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path

_HOME = str(Path(__file__).resolve().parents[2])


def own_module(module: str, *arguments: str) -> list[str]:
    """The command that runs ``module`` with this interpreter; its environment must be ``own_environment``."""
    return [sys.executable, "-P", "-m", module, *arguments]


def own_environment(environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """``environ`` with the place of our own code first on the path."""
    others = [p for p in environ.get("PYTHONPATH", "").split(os.pathsep) if p and p != _HOME]
    return {**environ, "PYTHONPATH": os.pathsep.join([_HOME, *others])}
