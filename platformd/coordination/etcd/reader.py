"""Reads: linearizable, and large ranges in parts that fit into a message."""

from __future__ import annotations

import trio

from platformd.coordination.contract import Compacted, KeyValue, Listing
from platformd.coordination.etcd import messages
from platformd.coordination.etcd.channel import Channel
from platformd.coordination.etcd.errors import AnswerTooLarge, CompactedReply
from platformd.coordination.etcd.keyspace import Bounds, Keyspace
from platformd.coordination.etcd.messages import Range
from platformd.coordination.etcd.stream import Lost, Oversize

PAGE_BYTES = 2 * 1024 * 1024
"""How large a part of a long list is meant to be."""

FIRST_PAGE, MAX_PAGE = 128, 16_384
"""Keys in the first part, when their size is not known yet, and at most."""

_GROWTH = 8
_LIST_ATTEMPTS = 5


class Reader:
    """Reads of a keyspace.

    Args:
        channel: the way to the cluster.
        keyspace: our keys there.
    """

    def __init__(self, channel: Channel, keyspace: Keyspace) -> None:
        self._channel = channel
        self._keyspace = keyspace
        self._anywhere = keyspace.bounds(b"", b"")  # one key, to ask for what does not depend on the key
        self._oldest = 1

    async def get(self, key: bytes, revision: int) -> KeyValue | None:
        """See ``Store.get``."""
        found = await self._range(Bounds(self._keyspace.key(key), b""), revision)
        return found.items[0] if found.items else None

    async def newest(self) -> int:
        """The store's revision now."""
        return (await self._ask(messages.range_request(self._anywhere, count_only=True))).revision

    async def count(self, key: bytes, end: bytes | None) -> tuple[int, int]:
        """How many keys are in [key, end), and the revision at which that is so."""
        bounds = self._keyspace.bounds(key, end)
        found = await self._ask(messages.range_request(bounds, count_only=True))
        return 0 if bounds.empty else found.total, found.revision

    async def list_range(
        self,
        key: bytes,
        end: bytes | None,
        revision: int,
        limit: int,
        *,
        keys_only: bool = False,
        by_revision: bool = False,
    ) -> Listing:
        """See ``Store.list``."""
        bounds = self._keyspace.bounds(key, end)
        if bounds.empty:
            found = await self._range(bounds, revision, count_only=True)
            return Listing(items=(), revision=revision or found.revision)
        read = self._by_revision if by_revision else self._pages
        for _ in range(_LIST_ATTEMPTS - 1):
            try:
                return await read(bounds, revision, limit, keys_only)
            except Compacted:
                if revision:
                    raise  # else its own revision was compacted between two parts: list what is now
        return await read(bounds, revision, limit, keys_only)

    async def _pages(self, bounds: Bounds, revision: int, limit: int, keys_only: bool) -> Listing:
        items: list[KeyValue] = []
        size, more = FIRST_PAGE, True
        start = bounds.key
        while more and not (limit and len(items) >= limit):
            wanted = min(size, limit - len(items)) if limit else size
            part = Bounds(start, bounds.end)
            try:
                found = await self._range(part, revision, limit=wanted, keys_only=keys_only)
            except AnswerTooLarge:
                if wanted == 1:
                    raise
                size = max(1, wanted // 4)
                continue
            items += found.items
            more, revision = found.more, revision or found.revision
            if more:
                start = self._keyspace.key(found.items[-1].key) + b"\x00"
                each = sum(len(kv.key) + len(kv.value) + 32 for kv in found.items) // len(found.items)
                size = max(1, min(size * _GROWTH, PAGE_BYTES // each, MAX_PAGE))
        return Listing(items=tuple(items), revision=revision, more=more)

    async def _by_revision(self, bounds: Bounds, revision: int, limit: int, keys_only: bool) -> Listing:
        """In order of revision. The whole range is sorted for each answer, so etcd is only asked for the first few."""
        if limit:
            try:
                found = await self._range(
                    bounds, revision, limit=limit, keys_only=keys_only, sort=messages.SORT_BY_MOD_REVISION
                )
            except AnswerTooLarge:
                pass  # then here
            else:
                return Listing(items=tuple(found.items), revision=revision or found.revision, more=found.more)
        listed = await self._pages(bounds, revision, 0, keys_only)
        items = sorted(listed.items, key=_mod_revision)
        more = bool(limit) and len(items) > limit
        return Listing(items=tuple(items[: limit or None]), revision=listed.revision, more=more)

    async def _range(
        self,
        bounds: Bounds,
        revision: int,
        *,
        limit: int = 0,
        keys_only: bool = False,
        count_only: bool = False,
        sort: int = messages.SORT_BY_KEY,
    ) -> Range:
        request = messages.range_request(
            bounds, revision=revision, limit=limit, keys_only=keys_only, count_only=count_only, sort=sort
        )
        try:
            return await self._ask(request)
        except CompactedReply as error:
            raise await self.compacted(revision) from error

    async def _ask(self, request: bytes) -> Range:
        return messages.range_response(await self._channel.call(messages.RANGE, request), self._keyspace.cut)

    # --- history ---

    async def readable(self, revision: int) -> None:
        """See that the store can be read as it was at ``revision``.

        Raises:
            Compacted, FutureRevision: it cannot.
        """
        await self._range(self._anywhere, revision, count_only=True)

    async def oldest(self) -> int:
        """The oldest revision that can be read."""
        try:
            await self.readable(self._oldest)
        except Compacted as error:
            self._oldest = max(self._oldest, error.compact_revision)
        return self._oldest

    async def compacted(self, asked: int) -> Compacted:
        """The error for a revision that is compacted. Only a watch is told by etcd what the oldest one is."""
        oldest = max(asked + 1, self._oldest)
        try:
            with trio.move_on_after(self._channel.timeout):
                oldest = max(oldest, await self._compact_revision(asked))
        except (Lost, Oversize):
            pass  # the error is right as it is, only less exact
        return Compacted(asked, oldest)

    async def _compact_revision(self, asked: int) -> int:
        exchange = await self._channel.open(
            messages.WATCH, messages.watch_create(self._anywhere, asked, previous=False)
        )
        try:
            while (message := await exchange.stream.receive()) is not None:
                answer = messages.watch_response(message, self._keyspace.cut)
                if answer.canceled:
                    return answer.compact_revision
        finally:
            exchange.close()
        return 0


def _mod_revision(kv: KeyValue) -> int:
    return kv.mod_revision
