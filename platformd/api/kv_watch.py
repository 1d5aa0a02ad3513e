"""Watches of keys, as resumable and as bounded as those of resources (``platformd.api.watch``).

Events are ``put``, ``delete`` and ``bookmark``; a watch begins with a bookmark of the revision that it starts from,
which is the newest one when nobody says.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

from platformd.api.kv_forms import kv_document
from platformd.api.replies import Query, encode
from platformd.api.watch import CHUNK_BYTES, Followed, Said, Say, start_after
from platformd.coordination.contract import Event, EventType, Store, WatchBatch
from platformd.core.errors import InvalidInput

PARAMETERS = ("watch", "after", "previous", "only", "encoding")
"""What a watch of keys may be told."""


def followed_keys(store: Store, key: bytes, end: bytes | None, query: Query) -> Followed:
    """What follows [key, end) as the query says.

    Raises:
        InvalidInput: a parameter cannot be read.
    """
    after = start_after(query)
    only, previous = query.text("only") or None, query.flag("previous")
    if only not in (None, "put", "delete"):
        raise InvalidInput(f"{only!r} is no type of event", subject="only", hint="put or delete")
    wanted = cast("EventType | None", only)
    return FollowedKeys(store, key, end, after, previous=previous, only=wanted)


class FollowedKeys(Followed):
    """Keys of a range."""

    def __init__(
        self,
        store: Store,
        key: bytes,
        end: bytes | None,
        after: int | None,
        *,
        previous: bool,
        only: EventType | None,
    ) -> None:
        super().__init__(after)
        self._store, self._key, self._end = store, key, end
        self._previous, self._only = previous, only

    async def follow(self, say: Say) -> None:
        """Give out the changes."""
        start = 0 if self.after is None else self.after + 1
        async with self._store.watch(
            self._key, self._end, start_revision=start, previous=self._previous, only=self._only
        ) as batches:
            async for batch in batches:
                for said in self._chunks(batch):
                    await say(said)

    def _chunks(self, batch: WatchBatch) -> Iterator[list[Said]]:
        """The events of ``batch``, in lists of about ``CHUNK_BYTES``."""
        said, size = list[Said](), 0
        last = len(batch.events) - 1
        for i, change in enumerate(batch.events):
            revision = change.kv.mod_revision
            if i == last or batch.events[i + 1].kv.mod_revision != revision:
                self.safe = revision
            said.append(Said(change.type, self.safe, encode(event_document(change))))
            size += len(said[-1].data)
            if size >= CHUNK_BYTES:
                yield said
                said, size = [], 0
        if batch.revision > self.safe or not batch.events:
            self.safe = batch.revision
            said.append(Said("bookmark", self.safe, encode({"revision": batch.revision})))
        if said:
            yield said


def event_document(change: Event) -> dict[str, Any]:
    """One change as JSON types."""
    document = kv_document(change.kv, value=change.type == "put")
    if change.previous is not None:
        document["previous"] = kv_document(change.previous)
    return document
