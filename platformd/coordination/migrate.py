"""Copying a keyspace from one store into another, of whatever engine.

All keys are read at one revision, page by page, and written in transactions of bounded size. What cannot move along:

- *Revisions.* The other store counts its own: ``create_revision``, ``mod_revision`` and ``version`` of every key are
  new, and all of history stays behind. Whoever kept a revision (a watch to resume, a compare, a fencing token) must
  list anew.
- *Lease ids*, where the other store has a lease of the same id already; else they are kept. Every lease begins its
  time to live again.

It is no transaction: somebody who reads the other store meanwhile sees a part.

A stopped daemon's store is read where it is (``open_offline``). Of a running one an online backup is read
(``open_backup``): its own doors show the users' keys only, and without the resources beside them nothing could go on
from the copy. What that daemon is told after the backup's revision stays behind: a move ends with a stopped daemon.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import msgspec
import trio

from platformd.coordination.contract import KeyValue, Lease, Put, Store
from platformd.coordination.etcd import EtcdSettings, open_etcd
from platformd.coordination.sqlite import open_sqlite
from platformd.coordination.sqlite.schema import STORE_FILE
from platformd.core.clock import SystemClock
from platformd.core.errors import Conflict, Corrupted, NotFound
from platformd.core.settings import StoreSettings
from platformd.core.statedir import hold_state_dir

PAGE_KEYS = 500
"""Keys that are read at once."""

BATCH_KEYS = 100
"""Keys in one transaction: etcd takes 128 operations by default."""

BATCH_BYTES = 1024 * 1024
"""About the most bytes of one transaction; etcd takes requests of 1.5 MiB by default."""


class Migration(msgspec.Struct, frozen=True, kw_only=True):
    """What was copied, or with ``dry_run`` would be."""

    dry_run: bool
    online: bool
    """Of a daemon that goes on working: what it is told after ``source_revision`` is not in the copy."""
    source_engine: str
    source_revision: int
    """The revision that was copied; what is newer stays behind."""
    target_engine: str
    target_revision: int
    """The other store's revision afterwards."""
    keys: int
    bytes: int
    """Of keys and values."""
    history: int
    """Revisions of the past that stay behind."""
    leases: int
    renamed_leases: dict[int, int]
    """Leases that have another id there: old to new."""


Source = contextlib.AbstractAsyncContextManager[Store]
"""A store that is open as long as the block."""

Progress = Callable[[int, int], None]
"""Told how many keys are done, and how many there are."""


@contextlib.asynccontextmanager
async def open_offline(state_dir: Path) -> AsyncIterator[Store]:
    """The store of a state directory that no daemon runs on.

    Raises:
        Conflict: a daemon holds it.
        NotFound: there is no store in it.
    """
    path = state_dir / STORE_FILE
    if not path.is_file():
        raise NotFound("has no store", subject=str(state_dir))
    holder = {"pid": os.getpid(), "socket": "none: platformd store migrate", "since": "now"}
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(hold_state_dir(state_dir, holder))
        except Conflict as error:
            hint = "stop that one; or leave --state-dir out, to copy from it while it runs"
            raise Conflict(error.message, subject=error.subject, hint=hint) from error
        async with open_sqlite(path, StoreSettings(), SystemClock()) as store:
            yield store


@contextlib.asynccontextmanager
async def open_backup(path: Path) -> AsyncIterator[Store]:
    """The store in a backup of our own, which is changed by being opened: leases run on in it.

    Raises:
        Corrupted: it is damaged.
    """
    async with open_sqlite(path, StoreSettings(), SystemClock()) as store:
        yield store


@contextlib.asynccontextmanager
async def open_target(options: dict[str, Any]) -> AsyncIterator[Store]:
    """An etcd, by its settings (``EtcdSettings``).

    Raises:
        InvalidInput: a setting is wrong.
        Unavailable, Unauthorized: it cannot be asked.
    """
    async with open_etcd(msgspec.convert(options, EtcdSettings), StoreSettings()) as store:
        yield store


async def migrate(
    source: Store, target: Store, *, dry_run: bool = False, online: bool = False, progress: Progress
) -> Migration:
    """Copy all keys and leases of ``source`` into ``target``, which must have none, and see that they are there.

    Args:
        source: what is copied, as it is now.
        target: where to.
        dry_run: read everything, write nothing.
        online: ``source`` is the backup of a daemon that goes on; it is only told on.
        progress: told how far it is.

    Raises:
        Conflict: ``target`` has keys already; nothing was done.
        Compacted: the revision was compacted while it was read (history that is too short); a part is there.
        Corrupted: what is there afterwards is not what was copied.
    """
    there = await target.list(b"", None, count_only=True)
    if there.count:
        raise Conflict(
            f"has {there.count} keys already",
            subject="the other store",
            hint="empty it, or copy under another --prefix",
        )
    status = await source.status()
    copier = _Copier(source, target, status.revision, progress, dry_run=dry_run)
    await copier.run()
    if not dry_run:
        await copier.verify()
    after = await target.status()
    return Migration(
        dry_run=dry_run,
        online=online,
        source_engine=status.engine,
        source_revision=status.revision,
        target_engine=after.engine,
        target_revision=after.revision,
        keys=copier.keys,
        bytes=copier.bytes,
        history=status.revision - status.compact_revision,
        leases=len(copier.leases),
        renamed_leases={old: new.id for old, new in copier.leases.items() if new.id != old},
    )


class _Copier:
    def __init__(self, source: Store, target: Store, revision: int, progress: Progress, *, dry_run: bool) -> None:
        self.keys = 0
        self.bytes = 0
        self.leases: dict[int, Lease] = {}
        """By their id in the source, as they are in the target."""
        self._kept: dict[int, float] = {}
        self._source = source
        self._target = target
        self._revision = revision
        self._progress = progress
        self._dry_run = dry_run
        self._digest = hashlib.sha256()

    async def run(self) -> None:
        for lease in await self._source.leases.list():
            self.leases[lease.id] = lease if self._dry_run else await self._grant(lease)
        async for items, count in _pages(self._source, self._revision):
            for kv in items:
                self.bytes += len(kv.key) + len(kv.value)
                _take_in(self._digest, kv)
            if not self._dry_run:
                for batch in _batches(items):
                    await self._write(batch)
            self.keys += len(items)
            self._progress(self.keys, self.keys - len(items) + count)

    async def _grant(self, lease: Lease) -> Lease:
        try:
            granted = await self._target.leases.grant(lease.ttl, lease_id=lease.id)
        except Conflict:
            granted = await self._target.leases.grant(lease.ttl)
        self._kept[lease.id] = trio.current_time()
        return granted

    async def _write(self, batch: list[KeyValue]) -> None:
        for lease_id in {kv.lease for kv in batch if kv.lease}:
            await self._keep(lease_id)
        await self._target.txn([], [Put(kv.key, kv.value, self.leases[kv.lease].id if kv.lease else 0) for kv in batch])

    async def _keep(self, lease_id: int) -> None:
        """A lease must not end while its keys are still being copied, however short it is."""
        if lease_id not in self.leases:  # granted after the list and before the revision was read, or ended since
            ttl = await self._ttl(lease_id)
            self.leases[lease_id] = await self._grant(Lease(id=lease_id, ttl=ttl, remaining=ttl))
            return
        lease = self.leases[lease_id]
        if trio.current_time() - self._kept[lease_id] > lease.ttl / 3:
            try:
                await self._target.leases.keep_alive(lease.id)
                self._kept[lease_id] = trio.current_time()
            except NotFound:
                self.leases[lease_id] = await self._grant(lease)

    async def _ttl(self, lease_id: int) -> float:
        try:
            return (await self._source.leases.get(lease_id)).ttl
        except NotFound:
            return 0.0  # its keys go with it, as they would have: the shortest time that is granted

    async def verify(self) -> None:
        """See that the target has the same keys and values.

        Raises:
            Corrupted: it has not.
        """
        digest = hashlib.sha256()
        found = 0
        revision = (await self._target.list(b"", None, count_only=True)).revision
        async for items, _ in _pages(self._target, revision):
            found += len(items)
            for kv in items:
                _take_in(digest, kv)
        if digest.digest() != self._digest.digest():
            raise Corrupted(
                f"the copy is not what was copied ({found} keys there, {self.keys} here)",
                subject="the other store",
                hint="does somebody write there, or did leases end meanwhile? empty it and copy again",
            )


async def _pages(store: Store, revision: int) -> AsyncIterator[tuple[tuple[KeyValue, ...], int]]:
    """All keys of one revision, page by page, with how many there are from each page on."""
    start = b""
    while True:
        page = await store.list(start, None, revision=revision, limit=PAGE_KEYS)
        if page.items:
            yield page.items, page.count
        if not page.more:
            return
        start = page.items[-1].key + b"\x00"


def _batches(items: tuple[KeyValue, ...]) -> list[list[KeyValue]]:
    """Items in order, in parts that one transaction takes."""
    batches: list[list[KeyValue]] = []
    size = 0
    for kv in items:
        own = len(kv.key) + len(kv.value)
        if not batches or len(batches[-1]) >= BATCH_KEYS or size + own > BATCH_BYTES:
            batches.append([])
            size = 0
        batches[-1].append(kv)
        size += own
    return batches


def _take_in(digest: Any, kv: KeyValue) -> None:
    digest.update(b"%d:%b%d:%b" % (len(kv.key), kv.key, len(kv.value), kv.value))
