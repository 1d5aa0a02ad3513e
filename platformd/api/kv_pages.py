"""Listings of keys, page by page, each page of a bounded number of bytes and all of one revision."""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass, field
from typing import Final

import msgspec

from platformd.coordination.contract import KeyValue, Store, prefix_end
from platformd.core.errors import InvalidInput

DEFAULT_PAGE: Final = 500
MAX_PAGE: Final = 1000
"""How many entries a page has: when nobody says, and at most."""
PAGE_BYTES: Final = 4 << 20
"""A page ends early when its values have so many bytes together."""
FIRST_STEP: Final = 16
"""Keys that are read at first; how large they are says how many may be read next."""
FOLD_STEP: Final = 100
"""Keys that are read at once when most of them fold into a few directories."""


@dataclass
class KeyPage:
    """One page."""

    items: list[KeyValue] = field(default_factory=list)
    prefixes: list[bytes] = field(default_factory=list)
    """With a delimiter: what further keys begin with."""
    revision: int = 0
    cursor: str | None = None
    """Where the next page begins; ``None`` when this was the last."""


class _Cursor(msgspec.Struct, array_like=True, frozen=True):
    revision: int
    start: bytes


def _write_cursor(revision: int, start: bytes) -> str:
    return base64.urlsafe_b64encode(msgspec.msgpack.encode(_Cursor(revision, start))).decode("ascii").rstrip("=")


def read_cursor(text: str, prefix: bytes) -> tuple[int, bytes]:
    """The revision and the first key of the page that ``text`` stands for.

    Raises:
        InvalidInput: it is no cursor of a listing of ``prefix``.
    """
    try:
        raw = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
        cursor = msgspec.msgpack.decode(raw, type=_Cursor)
    except (binascii.Error, ValueError, msgspec.DecodeError) as error:
        raise InvalidInput("is not a cursor of a listing", subject="cursor") from error
    if cursor.revision < 1 or not cursor.start.startswith(prefix):
        raise InvalidInput("is a cursor of another listing", subject="cursor")
    return cursor.revision, cursor.start


async def page_of_keys(
    store: Store, prefix: bytes, *, revision: int, start: bytes, limit: int, keys_only: bool
) -> KeyPage:
    """The keys with ``prefix`` from ``start`` on, as they were at ``revision`` (0: now)."""
    page, size, step = KeyPage(revision=revision), 0, limit if keys_only else min(FIRST_STEP, limit)
    end = prefix_end(prefix)
    while True:
        found = await store.list(start, end, revision=page.revision, limit=step, keys_only=keys_only)
        page.revision = found.revision
        page.items += found.items
        if not found.more:
            return page
        start = found.items[-1].key + b"\x00"
        size += sum(len(kv.key) + len(kv.value) for kv in found.items)
        if len(page.items) >= limit or size >= PAGE_BYTES:
            page.cursor = _write_cursor(page.revision, start)
            return page
        fitting = (PAGE_BYTES - size) // max(1, size // len(page.items)) + 1
        step = max(1, min(limit - len(page.items), fitting))


async def page_of_directory(
    store: Store, prefix: bytes, delimiter: bytes, *, revision: int, start: bytes, limit: int
) -> KeyPage:
    """The keys with ``prefix``, without their values, those with a ``delimiter`` further on folded into what they
    have in common up to it; what lies in a folded one is jumped over, not read."""
    page, end = KeyPage(revision=revision), prefix_end(prefix)
    while True:
        found = await store.list(start, end, revision=page.revision, limit=FOLD_STEP, keys_only=True)
        page.revision = found.revision
        for kv in found.items:
            if page.prefixes and kv.key.startswith(page.prefixes[-1]):
                continue
            if len(page.items) + len(page.prefixes) >= limit:
                page.cursor = _write_cursor(page.revision, kv.key)
                return page
            name, cut, _ = kv.key[len(prefix) :].partition(delimiter)
            if cut:
                page.prefixes.append(prefix + name + cut)
            else:
                page.items.append(kv)
        if not found.more:
            return page
        last = found.items[-1].key
        inside = page.prefixes and last.startswith(page.prefixes[-1])
        after = prefix_end(page.prefixes[-1]) if inside else last + b"\x00"
        if after is None:  # only a prefix of nothing but 0xff has no end, and a delimiter is text
            return page
        start = after
