"""Pages of resources: selected, sorted, all of one revision."""

from __future__ import annotations

import base64
import binascii
from typing import Any

import msgspec

from platformd.conductor import documents
from platformd.conductor.facts import Page
from platformd.conductor.selector import FieldSelector, Selector, value_at
from platformd.conductor.writing import ROOT
from platformd.coordination.contract import Store, prefix_end
from platformd.core.errors import InvalidInput
from platformd.model.kind import Kind
from platformd.model.resource import AnyResource


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """Which resources a listing has, and in which order."""

    kind: Kind
    tenant: str | None
    labels: Selector
    fields: FieldSelector
    sort: str = ""
    """A field's path, with a minus in front for the other way round; empty: by tenant and name."""

    @property
    def prefix(self) -> bytes:
        """Where they are in the Store."""
        tenant = f"{self.tenant}/".encode() if self.tenant is not None else b""
        return ROOT + f"{self.kind.name}/".encode() + tenant

    def has(self, resource: AnyResource) -> bool:
        """Whether ``resource`` is one of them."""
        return self.labels(resource.labels) and self.fields(resource)


async def list_page(store: Store, wanted: Wanted, limit: int, cursor: str | None) -> Page:
    """See ``Conductor.list``."""
    return await (_sorted if wanted.sort else _by_name)(store, wanted, limit, cursor)


async def _by_name(store: Store, wanted: Wanted, limit: int, cursor: str | None) -> Page:
    prefix = wanted.prefix
    start, revision = _read_cursor(cursor, bytes) if cursor else (prefix, 0)
    if not start.startswith(prefix):
        raise _no_cursor()
    items: list[AnyResource] = []
    while True:
        room = limit - len(items) if limit else 0
        listing = await store.list(start, prefix_end(prefix), revision=revision, limit=room)
        revision = listing.revision
        resources = [documents.from_stored(wanted.kind, kv.value, kv.mod_revision) for kv in listing.items]
        items += [r for r in resources if wanted.has(r)]
        if listing.items:
            start = listing.items[-1].key + b"\x00"
        if not listing.more or len(items) == limit:
            more = _write_cursor(start, revision) if listing.more else None
            return Page(items=tuple(items), revision=revision, cursor=more)


async def _sorted(store: Store, wanted: Wanted, limit: int, cursor: str | None) -> Page:
    """Sorting needs all of them; a later page sorts them again, as they were at the first one's revision."""
    skip, revision = _read_cursor(cursor, int) if cursor else (0, 0)
    listing = await store.list(wanted.prefix, prefix_end(wanted.prefix), revision=revision)
    resources = [documents.from_stored(wanted.kind, kv.value, kv.mod_revision) for kv in listing.items]
    path = wanted.sort.removeprefix("-")
    ordered = sorted((r for r in resources if wanted.has(r)), key=lambda r: _rank(value_at(r, path)))
    if wanted.sort.startswith("-"):
        ordered.reverse()
    end = skip + limit if limit else len(ordered)
    more = _write_cursor(end, listing.revision) if end < len(ordered) else None
    return Page(items=tuple(ordered[skip:end]), revision=listing.revision, cursor=more)


def _rank(value: Any) -> tuple[int, Any]:
    """A key that puts any two values in order: nothing, numbers, text, then everything else by its text."""
    if value is None:
        return 0, 0
    if isinstance(value, bool | int | float):
        return 1, value
    return (2, value) if isinstance(value, str) else (3, str(msgspec.to_builtins(value)))


def _write_cursor(place: bytes | int, revision: int) -> str:
    return base64.urlsafe_b64encode(msgspec.msgpack.encode((place, revision))).decode()


def _read_cursor(cursor: str, place: Any) -> tuple[Any, int]:
    try:
        start, revision = msgspec.msgpack.decode(base64.urlsafe_b64decode(cursor), type=tuple[place, int])
    except (msgspec.DecodeError, binascii.Error, ValueError) as error:
        raise _no_cursor() from error
    if revision < 1 or (place is int and start < 0):
        raise _no_cursor()
    return start, revision


def _no_cursor() -> InvalidInput:
    return InvalidInput("is not a cursor of this listing", subject="cursor")
