"""Watches of keys over server-sent events, as resumable and as bounded as those of resources (``platformd.api.watch``).

Events are ``put``, ``delete`` and ``bookmark``; a watch begins with a bookmark of the revision that it starts from,
which is the newest one when nobody says.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

import trio
from quart import Response

from platformd.api.kv_forms import kv_document
from platformd.api.replies import Query, encode
from platformd.api.watch import CHUNK_BYTES, EventsBody, Watches, event, start_after
from platformd.coordination.contract import Event, EventType, Store, WatchBatch
from platformd.core.errors import InvalidInput

PARAMETERS = ("watch", "after", "previous", "only", "encoding")
"""What a watch of keys may be told."""


def watch_keys(watches: Watches, store: Store, key: bytes, end: bytes | None, query: Query) -> Response:
    """The response that follows [key, end).

    Raises:
        LimitReached: there are as many watches as may be.
        InvalidInput: a parameter cannot be read.
    """
    after = start_after(query)
    only, previous = query.text("only") or None, query.flag("previous")
    if only not in (None, "put", "delete"):
        raise InvalidInput(f"{only!r} is no type of event", subject="only", hint="put or delete")
    wanted = cast("EventType | None", only)
    return watches.answer(lambda: KeysBody(watches, store, key, end, after, previous=previous, only=wanted))


class KeysBody(EventsBody):
    """A watch of keys."""

    def __init__(
        self,
        watches: Watches,
        store: Store,
        key: bytes,
        end: bytes | None,
        after: int | None,
        *,
        previous: bool,
        only: EventType | None,
    ) -> None:
        super().__init__(watches, after)
        self._store, self._key, self._end = store, key, end
        self._previous, self._only = previous, only

    async def write(self, into: trio.MemorySendChannel[bytes]) -> None:
        """Follow the keys."""
        start = 0 if self.after is None else self.after + 1
        async with self._store.watch(
            self._key, self._end, start_revision=start, previous=self._previous, only=self._only
        ) as batches:
            async for batch in batches:
                for chunk in self.chunks(batch):
                    await into.send(chunk)

    def chunks(self, batch: WatchBatch) -> Iterator[bytes]:
        """The events of ``batch``, in pieces of about ``CHUNK_BYTES``."""
        pieces, size = [], 0
        last = len(batch.events) - 1
        for i, change in enumerate(batch.events):
            revision = change.kv.mod_revision
            if i == last or batch.events[i + 1].kv.mod_revision != revision:
                self._safe = revision
            pieces.append(event(change.type.encode(), self._safe, encode(event_document(change))))
            size += len(pieces[-1])
            if size >= CHUNK_BYTES:
                yield b"".join(pieces)
                pieces, size = [], 0
        if batch.revision > self._safe or not batch.events:
            self._safe = batch.revision
            pieces.append(event(b"bookmark", self._safe, encode({"revision": batch.revision})))
        if pieces:
            yield b"".join(pieces)


def event_document(change: Event) -> dict[str, Any]:
    """One change as JSON types."""
    document = kv_document(change.kv, value=change.type == "put")
    if change.previous is not None:
        document["previous"] = kv_document(change.previous)
    return document
