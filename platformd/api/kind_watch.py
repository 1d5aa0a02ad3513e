"""Watches of resources: ``added``, ``modified`` and ``deleted``, after the state a ``bookmark`` of its revision."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from platformd.api.places import tenant_or_all
from platformd.api.replies import Query, encode
from platformd.api.watch import CHUNK_BYTES, Followed, Said, Say, start_after
from platformd.conductor import Change, ChangeBatch, Conductor
from platformd.conductor.selector import FieldSelector, Selector, parse_field_selector, parse_selector
from platformd.model.kind import Kind
from platformd.model.resource import AnyResource


def followed_kinds(conductor: Conductor, kinds: Sequence[Kind], tenant: str, query: Query) -> Followed:
    """What follows ``kinds`` as the query says.

    Raises:
        InvalidInput: ``after``, ``Last-Event-ID`` or ``label`` or ``field`` cannot be read.
    """
    labels, fields = query.text("label"), asked_fields(kinds[0], query)
    selection = None
    if labels or fields:
        selection = Selection(parse_selector(labels), parse_field_selector(kinds[0], fields) if fields else None)
    return FollowedKinds(conductor, kinds, tenant_or_all(tenant), start_after(query), selection)


def asked_fields(kind: Kind, query: Query) -> str:
    """The field selector that a query asks for: its own, and the kind's filters."""
    terms = [f"{path}={text}" for name, path in kind.filters.items() if (text := query.text(name))]
    return ",".join([*([query.text("field")] if query.text("field") else []), *terms])


class FollowedKinds(Followed):
    """Resources of some kinds."""

    def __init__(
        self,
        conductor: Conductor,
        kinds: Sequence[Kind],
        tenant: str | None,
        after: int | None,
        selection: Selection | None,
    ) -> None:
        super().__init__(after)
        self._conductor, self._kinds, self._tenant = conductor, kinds, tenant
        self._selected = selection

    async def follow(self, say: Say) -> None:
        """Give out the state and the changes."""
        async with self._conductor.watch(self._kinds, self._tenant, after=self.after) as batches:
            async for batch in batches:
                for said in self._chunks(batch):
                    await say(said)

    def _chunks(self, batch: ChangeBatch) -> Iterator[list[Said]]:
        """The events of ``batch``, in lists of about ``CHUNK_BYTES``."""
        if not batch.changes:
            self.safe = max(self.safe, batch.revision)
            yield [Said("bookmark", self.safe, encode({"revision": batch.revision}))]
            return
        said, size = list[Said](), 0
        last = len(batch.changes) - 1
        for i, change in enumerate(batch.changes):
            # A batch of revision 0 is part of a listing: nothing of it is complete before the bookmark.
            if batch.revision and (i == last or batch.changes[i + 1].revision != change.revision):
                self.safe = change.revision
            name: str | None = change.type if self._selected is None else self._selected.seen_as(change)
            if name is not None:
                said.append(Said(name, self.safe, encode(change.resource)))
                size += len(said[-1].data)
            if size >= CHUNK_BYTES:
                yield said
                said, size = [], 0
        if said:
            yield said


class Selection:
    """A watch through selectors: a resource whose labels or fields change comes into view or goes out of it."""

    def __init__(self, labels: Selector, fields: FieldSelector | None = None) -> None:
        self._labels, self._fields = labels, fields
        self._in_view: dict[str, bool] = {}
        """By uid; what is not in it has not been seen, and may be in the client's view from before."""

    def seen_as(self, change: Change) -> str | None:
        """The type of event that ``change`` is for this watch; ``None`` for none."""
        uid = change.resource.uid
        before = self._in_view.get(uid)
        if change.type == "deleted":
            self._in_view.pop(uid, None)
            return "deleted" if before or (before is None and self._has(change.resource)) else None
        now = self._in_view[uid] = self._has(change.resource)
        if now:
            return "added" if before is False else change.type
        return "deleted" if before or (before is None and change.type == "modified") else None

    def _has(self, resource: AnyResource) -> bool:
        return self._labels(resource.labels) and (self._fields is None or self._fields(resource))
