"""A progress bar on standard error, where there is somebody to see it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import click


@contextmanager
def bar(label: str) -> Iterator[Callable[[int, int], None]]:
    """Gives a function that is told how much is done and how much there is; it shows nothing without a terminal."""
    if not sys.stderr.isatty():
        yield lambda _done, _size: None
        return
    with click.progressbar(length=1, label=label, file=sys.stderr) as shown:

        def tell(done: int, size: int) -> None:
            shown.length = max(size, 1)
            shown.update(done - shown.pos)

        yield tell
