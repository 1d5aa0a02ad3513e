"""How the screen's height is shared; pure."""

from __future__ import annotations

LEAST_LOG = 3
"""Lines of the log: heading and two entries."""


SPACES = 3
"""Empty lines between the parts, when there is room for them."""
ROOMY_LOG = 6
"""Lines of the log above which empty lines are a better use of the height."""


def roomy(available: int, streams: int, pipelines: int) -> bool:
    """Whether there is height to spare for empty lines between the parts; arguments as of ``share_heights``."""
    return available - streams - pipelines - SPACES >= ROOMY_LOG


def share_heights(available: int, streams: int, pipelines: int) -> tuple[int, int, int]:
    """Lines for the streams, the pipelines and the log, which together fill ``available``.

    Args:
        available: lines that there are.
        streams: lines that all streams with their heading need.
        pipelines: the same for the pipelines.

    The tables get what they need and the log the rest. When that is too little, the log keeps its least and
    the tables share: one that needs less than half gives what it can spare to the other.
    """
    room = max(0, available - LEAST_LOG)
    first, second = streams, pipelines
    if first + second > room:
        half = room // 2
        if first <= half:
            second = room - first
        elif second <= room - half:
            first = room - second
        else:
            first, second = half, room - half
    return first, second, max(0, available - first - second)
