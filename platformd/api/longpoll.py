"""Long polls: a read that waits until there is something newer than what the client has.

``?after=REV&wait=30s``: answered at once when there was a change after REV, else with the first one, else as it is when
the time is over. It says no more than a read does, so a client reads what it says, and asks again after its revision.
What happened in between is not told; a watch tells everything.
"""

from __future__ import annotations

import contextlib
from typing import Final

import trio

from platformd.api.replies import Query
from platformd.api.watch import MAX_REVISION, Watches
from platformd.conductor import Conductor
from platformd.core.errors import Gone, InvalidInput
from platformd.core.quantities import seconds
from platformd.model.kind import Kind

MAX_WAIT: Final = 600.0
"""The longest that one request waits, seconds."""
PARAMETERS: Final = ("wait", "after")


async def wait_for_change(
    watches: Watches, conductor: Conductor, kind: Kind, tenant: str | None, query: Query, name: str | None = None
) -> None:
    """Wait as the query says, for a change of a resource of ``kind`` or only of the one with ``name``.

    Raises:
        InvalidInput: the wait is none, is too long, or does not say after what.
        LimitReached: there are as many watches as may be.
        FutureRevision: there is no such revision yet.
    """
    patience = seconds(query.text("wait")) if query.text("wait") else None
    if patience is None or not query.text("after"):
        if patience is not None or query.text("after"):
            missing = "after" if patience is not None else "wait"
            raise InvalidInput(f"{missing} is missing", subject=missing, hint="after and wait stand together")
        return
    if patience > MAX_WAIT:
        raise InvalidInput(f"one request waits for at most {MAX_WAIT:g}s", subject="wait", hint="ask again")
    after = query.number("after", 0, 0, MAX_REVISION)
    if after == 0 or patience == 0:
        return  # whoever has nothing is told what there is
    with watches.place():
        async with trio.open_nursery() as nursery:
            nursery.start_soon(watches.end, nursery.cancel_scope)
            nursery.cancel_scope.deadline = trio.current_time() + patience
            with contextlib.suppress(Gone):  # so long ago that something may have changed
                await _until_changed(conductor, kind, tenant, after, name, nursery.cancel_scope)
            nursery.cancel_scope.cancel()


async def _until_changed(
    conductor: Conductor, kind: Kind, tenant: str | None, after: int, name: str | None, waiting: trio.CancelScope
) -> None:
    """Cancel ``waiting``, in which this runs, at the first change: a watch ends cleanly when it is cancelled."""
    async with conductor.watch([kind], tenant, after=after) as batches:
        async for batch in batches:
            if any(name in (None, change.resource.name) for change in batch.changes):
                waiting.cancel()
