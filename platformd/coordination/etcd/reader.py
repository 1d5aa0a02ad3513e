"""Reads: linearizable, and large ranges in parts that fit into a message."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Awaitable, Callable
from typing import NamedTuple

import msgspec
import trio

from platformd.coordination.contract import Compacted, KeyValue, Listing, Order
from platformd.coordination.etcd import messages
from platformd.coordination.etcd.channel import Channel
from platformd.coordination.etcd.errors import AnswerTooLarge, CompactedReply
from platformd.coordination.etcd.keyspace import Bounds, Keyspace
from platformd.coordination.etcd.messages import Range
from platformd.coordination.etcd.stream import Lost, Oversize
from platformd.coordination.etcd.versions import keeps_deletions
from platformd.core.errors import PlatformError

PAGE_BYTES = 2 * 1024 * 1024
"""How large a part of a long list is meant to be."""

FIRST_PAGE, MAX_PAGE = 128, 16_384
"""Keys in the first part, when their size is not known yet, and at most."""

_GROWTH = 8
_LIST_ATTEMPTS = 5


class Query(NamedTuple):
    """What a list is asked for; see ``Store.list``."""

    key: bytes
    end: bytes | None
    revision: int = 0
    limit: int = 0
    keys_only: bool = False
    order: Order = "key"


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
        self._newest = _Shared(self._ask_newest)

    async def get(self, key: bytes, revision: int) -> KeyValue | None:
        """See ``Store.get``."""
        self._check(revision)
        found = await self._range(Bounds(self._keyspace.key(key), b""), revision=revision)
        return found.items[0] if found.items else None

    async def newest(self) -> int:
        """The store's revision now. Those who ask at the same time share a read: thousands of watches may begin, or go
        on after a break."""
        return await self._newest.ask()

    async def _ask_newest(self) -> int:
        return (await self._range(self._anywhere, count_only=True)).revision

    async def count(self, query: Query) -> Listing:
        """How many keys there are; the order and the limit do not matter."""
        self._check(query.revision)
        bounds = self._keyspace.bounds(query.key, query.end)
        found = await self._range(bounds, revision=query.revision, count_only=True)
        return Listing(items=(), revision=query.revision or found.revision, count=0 if bounds.empty else found.total)

    async def list_range(self, query: Query) -> Listing:
        """See ``Store.list``."""
        self._check(query.revision)
        bounds = self._keyspace.bounds(query.key, query.end)
        if bounds.empty:
            return await self.count(query)
        for _ in range(_LIST_ATTEMPTS - 1):
            try:
                return await self._list(bounds, query)
            except Compacted:
                if query.revision:
                    raise  # else its own revision was compacted between two parts: list what is now
        return await self._list(bounds, query)

    async def _list(self, bounds: Bounds, query: Query) -> Listing:
        """Etcd sorts a whole range for each answer, so it is only asked to where that saves us the whole range."""
        if query.order == "key" or (query.order == "-key" and query.limit):
            return await self._pages(bounds, query)
        unlimited = query._replace(limit=0, order="key")
        changed = (0, 0)
        if query.limit:
            first = await self._range(
                bounds, revision=query.revision, limit=query.limit, keys_only=True, order=query.order
            )
            # Where etcd cuts between keys of one revision is any: ask for that revision whole, and cut here.
            last = first.items[-1].mod_revision if first.items else 0
            changed = (0, last) if query.order == "mod_revision" else (last, 0)
            unlimited = unlimited._replace(revision=query.revision or first.revision)
        listed = await self._pages(bounds, unlimited, changed)
        items = list(listed.items)
        if query.order != "-key":
            items.sort(key=_mod_revision)  # stable: by key within a revision
        if query.order.startswith("-"):
            items.reverse()
        del items[query.limit or len(items) :]
        return msgspec.structs.replace(listed, items=tuple(items), more=len(items) < listed.count)

    async def _pages(self, bounds: Bounds, query: Query, changed: tuple[int, int] = (0, 0)) -> Listing:
        """All that is asked for, ordered by key, in parts."""
        items: list[KeyValue] = []
        revision, limit, size = query.revision, query.limit, FIRST_PAGE
        count: int | None = None
        more = True
        while more and not (limit and len(items) >= limit):
            wanted = min(size, limit - len(items)) if limit else size
            try:
                found = await self._range(
                    bounds,
                    revision=revision,
                    limit=wanted,
                    keys_only=query.keys_only,
                    order=query.order,
                    changed=changed,
                )
            except AnswerTooLarge:
                if wanted == 1:
                    raise
                size = max(1, wanted // 4)
                continue
            items += found.items
            more, revision = found.more, revision or found.revision
            count = found.total if count is None else count
            if more:
                last = self._keyspace.key(found.items[-1].key)
                bounds = Bounds(bounds.key, last) if query.order == "-key" else Bounds(last + b"\x00", bounds.end)
                each = sum(len(kv.key) + len(kv.value) + 32 for kv in found.items) // len(found.items)
                size = max(1, min(size * _GROWTH, PAGE_BYTES // each, MAX_PAGE))
        return Listing(items=tuple(items), revision=revision, more=more, count=count or 0)

    async def _range(
        self,
        bounds: Bounds,
        *,
        revision: int = 0,
        limit: int = 0,
        keys_only: bool = False,
        count_only: bool = False,
        order: Order = "key",
        changed: tuple[int, int] = (0, 0),
    ) -> Range:
        request = messages.range_request(
            bounds,
            revision=revision,
            limit=limit,
            keys_only=keys_only,
            count_only=count_only,
            order=order,
            changed=changed,
        )
        try:
            return messages.range_response(await self._channel.call(messages.RANGE, request), self._keyspace.cut)
        except CompactedReply as error:
            raise await self.compacted(revision) from error

    # --- history ---

    async def watchable(self, revision: int) -> None:
        """See that a watch from ``revision`` misses nothing.

        Raises:
            Compacted: history begins later.
        """
        self._check(revision)
        try:
            await self._probe(max(1, revision - self._margin()))
        except Compacted as error:
            raise Compacted(revision, error.compact_revision) from error

    async def oldest(self) -> int:
        """The oldest revision that can be read and watched from."""
        with contextlib.suppress(Compacted):  # which has told it
            await self.watchable(self._oldest)
        return self._oldest

    async def compact(self, revision: int) -> None:
        """See ``Store.compact``."""
        self._check(revision)
        await self._probe(revision)
        if revision > max(self._oldest, self._margin()):
            with contextlib.suppress(CompactedReply):  # by somebody else, or by an earlier attempt of ours
                await self._channel.call(messages.COMPACT, messages.compaction(revision - self._margin()))
            self._oldest = max(self._oldest, revision)

    def _check(self, revision: int) -> None:
        """Refuse what is known to be compacted, also where etcd would still know it."""
        if 0 < revision < self._oldest:
            raise Compacted(revision, self._oldest)

    async def _probe(self, revision: int) -> None:
        """See that etcd can read the store as it was at ``revision``.

        Raises:
            Compacted, FutureRevision: it cannot.
        """
        await self._range(self._anywhere, revision=revision, count_only=True)

    def _margin(self) -> int:
        """How many revisions after etcd's own compaction revision ours is.

        Older versions may drop a deletion at that very revision, so a watch must begin after it. Then ours is one more,
        and compacting to a revision asks etcd for the one before.
        """
        return 0 if keeps_deletions(self._channel.version) else 1

    async def compacted(self, asked: int) -> Compacted:
        """The error for a revision that is compacted. Only a watch is told by etcd what the oldest one is."""
        with contextlib.suppress(Lost, Oversize), trio.move_on_after(self._channel.timeout):
            # Without an answer the error is right as it is, only less exact.
            self.was_compacted(await self._compact_revision(asked))
        return Compacted(asked, max(asked + 1, self._oldest))

    def was_compacted(self, compact_revision: int) -> int:
        """Etcd has told its compaction revision; the oldest one that can be watched from."""
        self._oldest = max(self._oldest, compact_revision + self._margin())
        return self._oldest

    async def _compact_revision(self, asked: int) -> int:
        request = messages.watch_create(self._anywhere, asked, previous=False, only=None)
        exchange = await self._channel.open(messages.WATCH, request)
        try:
            while (message := await exchange.stream.receive()) is not None:
                answer = messages.watch_response(message, self._keyspace.cut)
                if answer.canceled:
                    return answer.compact_revision
        finally:
            exchange.close()
        return 0


class _Shared:
    """A question that many have: who asks gets an answer to a question that was put after that, by whomever.

    Args:
        put: the question.
    """

    def __init__(self, put: Callable[[], Awaitable[int]]) -> None:
        self._put = put
        self._begun = 0
        """Questions that were put, by number; one is under way at a time."""
        self._under_way = False
        self._over = trio.Event()
        self._answered: tuple[int, int | PlatformError] = 0, 0
        """The newest question that was answered, and the answer."""

    async def ask(self) -> int:
        """The answer.

        Raises: what the question raises.
        """
        wanted = self._begun + 1
        while self._answered[0] < wanted:
            if self._under_way:
                await self._over.wait()
            else:
                await self._put_it()
        answer = self._answered[1]
        if isinstance(answer, PlatformError):
            raise copy.copy(answer) from answer  # one exception object must not be raised in several tasks
        return answer

    async def _put_it(self) -> None:
        self._begun += 1
        number, self._under_way = self._begun, True
        try:
            self._answered = number, await self._put()
        except PlatformError as error:
            self._answered = number, error
        finally:  # cancelled, the next one who waits puts it
            self._under_way = False
            over, self._over = self._over, trio.Event()
            over.set()


def _mod_revision(kv: KeyValue) -> int:
    return kv.mod_revision
