"""Backups: what a snapshot holds while others write, and how a store goes on from one."""

from __future__ import annotations

import contextlib
import os
import sqlite3
from pathlib import Path

import pytest
import sqlite_utils
import trio
import trio.testing

from platformd.coordination import backup as backups
from platformd.coordination.backup import REVISION_GAP, check_backup, restore
from platformd.coordination.contract import Compacted, Delete, FutureRevision, Put, Snapshot
from platformd.coordination.sqlite import open_sqlite
from platformd.coordination.sqlite.migrations import migrations
from platformd.coordination.sqlite.schema import VERSIONS
from platformd.core.clock import SystemClock
from platformd.core.errors import Conflict, Corrupted, NotFound, StorageFull
from platformd.core.settings import StoreSettings
from platformd.core.statedir import hold_state_dir
from tests.conformance.store_engines import events_until, put

SETTINGS = StoreSettings()


async def fill(path: Path) -> Path:
    """A store with keys, a past and a lease, and a backup of it."""
    async with open_sqlite(path / "store.db", SETTINGS, SystemClock()) as store:
        lease = await store.leases.grant(100, lease_id=7)
        await put(store, b"bound", b"b", lease.id)
        await put(store, b"k", b"1")
        await put(store, b"k", b"2")
        await put(store, b"gone")
        await store.txn([], [Delete(b"gone")])
        await store.snapshot(path / "backup")
    return path / "backup"


async def test_snapshot_under_load_is_a_state_that_was(tmp_path: Path) -> None:
    """Snapshots taken while eight tasks write are each exactly the store at their revision, history included."""
    async with open_sqlite(tmp_path / "store.db", SETTINGS, SystemClock()) as store:
        snapshots: list[Snapshot] = []
        written = trio.lowlevel.ParkingLot()

        async def write(task: int) -> None:
            number = 0
            while len(snapshots) < 4:  # the two keys always change together
                number += 1
                value = b"%d" % number
                await store.txn([], [Put(b"left/%d" % task, value * 50), Put(b"right/%d" % task, value * 50)])
                written.unpark_all()

        async with trio.open_nursery() as nursery:
            for task in range(8):
                nursery.start_soon(write, task)
            for number in range(4):
                await written.park()  # something was written since the last one
                snapshots.append(await store.snapshot(tmp_path / f"backup{number}"))
        wanted = {taken.revision: await store.list(b"", None, revision=taken.revision) for taken in snapshots}
        assert len(wanted) == 4  # writing went on meanwhile
    for taken in snapshots:
        facts = check_backup(taken.path)
        assert (facts.revision, facts.size_bytes) == (taken.revision, taken.size_bytes)
        async with open_sqlite(taken.path, SETTINGS, SystemClock()) as copy:
            assert await copy.list(b"", None) == wanted[taken.revision]
            assert (await copy.status()).revision == taken.revision


async def test_snapshot_is_private_and_one_file(tmp_path: Path) -> None:
    """Only its owner can read a backup, and nothing is beside it."""
    await fill(tmp_path / "a")
    found = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert found == ["backup", "store.db", "store.db.lock"]
    assert (tmp_path / "a" / "backup").stat().st_mode & 0o777 == 0o600


async def test_snapshot_that_does_not_fit_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk refuses the snapshot and nothing else; what was written of it is gone."""
    from platformd.coordination.sqlite import snapshot

    def full(_path: Path) -> None:
        raise OSError(28, os.strerror(28))

    async with open_sqlite(tmp_path / "store.db", SETTINGS, SystemClock()) as store:
        await put(store, b"k")
        monkeypatch.setattr(snapshot, "_copy", lambda _store, part: full(part))
        with pytest.raises(StorageFull):
            await store.snapshot(tmp_path / "backup")
        await put(store, b"k")
    assert not {name for name in os.listdir(tmp_path) if "backup" in name}  # noqa: PTH208 - hidden ones too


async def test_restored_store_is_the_backup_and_goes_on(tmp_path: Path) -> None:
    """Keys are as they were with their revisions; the next write is beyond everything that anybody knew."""
    backup = await fill(tmp_path / "a")
    done = restore(backup, tmp_path / "b")
    assert done.revision == done.backup.revision + REVISION_GAP
    async with (
        open_sqlite(tmp_path / "a" / "store.db", SETTINGS, SystemClock()) as before,
        open_sqlite(tmp_path / "b" / "store.db", SETTINGS, SystemClock()) as store,
    ):
        listed = await store.list(b"", None)
        assert listed.items == (await before.list(b"", None)).items
        assert listed.revision == done.revision
        status = await store.status()
        assert (status.revision, status.compact_revision, status.keys) == (done.revision, done.revision, 2)
        assert (await store.list(b"", None, revision=done.revision)).items == listed.items
        assert await put(store, b"k", b"3") == done.revision + 1
        assert (await store.list(b"", None, revision=done.revision)).items == listed.items
        kv = await store.get(b"k")
        assert kv is not None
        assert (kv.version, kv.create_revision < done.backup.revision) == (3, True)


async def test_nobody_sees_time_run_backwards(tmp_path: Path) -> None:
    """Watches and reads from before a restore are refused with ``Compacted``; listing anew goes on without a gap."""
    backup = await fill(tmp_path / "a")
    async with open_sqlite(tmp_path / "a" / "store.db", SETTINGS, SystemClock()) as store:
        for _ in range(20):
            later = await put(store, b"k", b"never restored")  # given out after the backup was made
    restored = restore(backup, tmp_path / "b").revision
    async with open_sqlite(tmp_path / "b" / "store.db", SETTINGS, SystemClock()) as store:
        for known in (1, later - 20, later, later + 1, restored - 1):
            with pytest.raises(Compacted) as refused:
                async with store.watch(b"", None, start_revision=known):
                    pass
            assert refused.value.compact_revision == restored
            with pytest.raises(Compacted):
                await store.get(b"k", revision=known)
        with pytest.raises(FutureRevision):
            async with store.watch(b"", None, start_revision=restored + 2):
                pass
        listed = await store.list(b"", None)
        async with store.watch(b"", None, start_revision=listed.revision + 1) as watch:
            revision = await put(store, b"k", b"after")
            assert [e.kv.value for e in await events_until(watch, revision)] == [b"after"]


async def test_revision_survives_restarts_without_a_write(tmp_path: Path) -> None:
    """A restored store that nobody wrote to keeps its place over restarts and compactions."""
    backup = await fill(tmp_path / "a")
    restored = restore(backup, tmp_path / "b").revision
    for _ in range(2):
        async with open_sqlite(tmp_path / "b" / "store.db", SETTINGS, SystemClock()) as store:
            await store.compact(restored)
            assert (await store.status()).revision == restored


async def test_leases_begin_their_time_again(tmp_path: Path, mock_clock: trio.testing.MockClock) -> None:
    """A lease keeps its id and its keys and has its whole time, however little was left in the backup."""
    async with open_sqlite(tmp_path / "store.db", SETTINGS, SystemClock()) as store:
        await store.leases.grant(1000, lease_id=7)
        await put(store, b"bound", b"", 7)
        for _ in range(9):
            mock_clock.jump(100)
            await trio.testing.wait_all_tasks_blocked()
            await store.txn([], [])
        await store.snapshot(tmp_path / "backup")
    with contextlib.closing(sqlite3.connect(tmp_path / "backup")) as connection:
        (left,) = connection.execute("SELECT remaining FROM leases").fetchone()
    assert left is not None
    assert left < 500
    restore(tmp_path / "backup", tmp_path / "b")
    async with open_sqlite(tmp_path / "b" / "store.db", SETTINGS, SystemClock()) as store:
        lease = await store.leases.get(7)
        assert (lease.ttl, lease.keys) == (1000, (b"bound",))
        assert lease.remaining == pytest.approx(1000, abs=1)


async def test_daemon_is_in_the_way(tmp_path: Path) -> None:
    """While a process holds the state directory nothing is restored into it."""
    backup = await fill(tmp_path / "a")
    with hold_state_dir(tmp_path / "b", {"pid": 4711, "socket": "s", "since": "now"}):
        with pytest.raises(Conflict, match="4711"):
            restore(backup, tmp_path / "b", force=True)
    assert not (tmp_path / "b" / "store.db").exists()


async def test_store_that_is_there_is_replaced_by_force_only(tmp_path: Path) -> None:
    """Without force it stays; with force it is kept beside, log and all, and the revision is beyond its own too."""
    backup = await fill(tmp_path / "a")
    for _ in range(2):  # what was replaced before is replaced in turn
        async with open_sqlite(tmp_path / "b" / "store.db", SETTINGS, SystemClock()) as store:
            for _ in range(30):
                newest = await put(store, b"other")
        with pytest.raises(Conflict, match="has a store already") as refused:
            restore(backup, tmp_path / "b")
        assert "--force" in (refused.value.hint or "")
        done = restore(backup, tmp_path / "b", force=True)
        assert done.revision == newest + REVISION_GAP
        async with open_sqlite(tmp_path / "b" / "store.db", SETTINGS, SystemClock()) as store:
            assert [kv.key for kv in (await store.list(b"", None)).items] == [b"bound", b"k"]
    assert done.replaced is not None
    async with open_sqlite(Path(done.replaced), SETTINGS, SystemClock()) as store:
        assert (await store.status()).revision == newest


async def test_log_of_a_killed_store_does_not_get_into_the_restored_one(tmp_path: Path) -> None:
    """What a crashed daemon left in its log goes aside with its store, and is still there."""
    backup = await fill(tmp_path / "a")
    (tmp_path / "b").mkdir()
    async with open_sqlite(tmp_path / "b" / "running.db", SETTINGS, SystemClock()) as store:
        revision = await put(store, b"in the log", b"v" * 1000)
        for suffix in ("", "-wal"):
            content = await trio.Path(tmp_path / "b" / f"running.db{suffix}").read_bytes()
            await trio.Path(tmp_path / "b" / f"store.db{suffix}").write_bytes(content)
    done = restore(backup, tmp_path / "b", force=True)
    assert done.replaced is not None
    async with open_sqlite(tmp_path / "b" / "store.db", SETTINGS, SystemClock()) as store:
        assert [kv.key for kv in (await store.list(b"", None)).items] == [b"bound", b"k"]
    async with open_sqlite(Path(done.replaced), SETTINGS, SystemClock()) as store:
        assert (await store.status()).revision == revision


async def test_damaged_backup_is_refused_and_nothing_changes(tmp_path: Path) -> None:
    """A flipped page, half a file, another database, text and nothing at all are each named for what they are."""
    backup = await fill(tmp_path / "a")
    whole = backup.read_bytes()
    for name, content in (
        ("flipped", whole[:8192] + os.urandom(4096) + whole[12288:]),
        ("half", whole[: len(whole) // 2]),
        ("text", b"no database at all" * 500),
    ):
        path = tmp_path / name
        path.write_bytes(content)
        with pytest.raises(Corrupted):
            restore(path, tmp_path / "b")
    other = sqlite_utils.Database(tmp_path / "other")
    other.table("t").insert({"a": 1})
    other.close()
    with pytest.raises(Corrupted, match="no backup of a store"):
        restore(tmp_path / "other", tmp_path / "b")
    with pytest.raises(NotFound):
        restore(tmp_path / "none", tmp_path / "b")
    assert not (tmp_path / "b" / "store.db").exists()


async def test_backup_of_a_newer_version_is_refused(tmp_path: Path) -> None:
    """It is not read by guessing: the version that made it is named."""
    backup = await fill(tmp_path / "a")
    database = sqlite_utils.Database(backup)
    database.table("_sqlite_migrations").insert(
        {"id": 99, "migration_set": "coordination", "name": "0099_later", "applied_at": "2099"}, alter=True
    )
    database.close()
    with pytest.raises(Conflict, match="0099_later"):
        restore(backup, tmp_path / "b")


async def test_backup_of_the_first_schema_is_brought_up(tmp_path: Path) -> None:
    """A backup from before the tables changed is restored all the same."""
    database = sqlite_utils.Database(tmp_path / "backup")
    migrations.apply(database, stop_before=VERSIONS[1])
    database.execute("INSERT INTO current VALUES (x'6b', 5, 5, 1, 0, x'76')")
    database.execute("INSERT INTO history VALUES (5, x'6b', 5, 1, 0, 0, 0, 0, 0, x'76', NULL)")
    database.conn.commit()
    database.close()
    assert check_backup(tmp_path / "backup").revision == 5
    restored = restore(tmp_path / "backup", tmp_path / "b").revision
    async with open_sqlite(tmp_path / "b" / "store.db", SETTINGS, SystemClock()) as store:
        kv = await store.get(b"k")
        assert kv is not None
        assert kv.mod_revision == 5
        assert await put(store, b"k") == restored + 1


async def test_failure_half_way_leaves_the_old_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the new store cannot be made ready, the one that was there is as it was, and nothing lies about."""
    backup = await fill(tmp_path / "a")
    async with open_sqlite(tmp_path / "b" / "store.db", SETTINGS, SystemClock()) as store:
        revision = await put(store, b"mine")

    def fail(path: Path) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(backups, "sync", fail)
    with pytest.raises(StorageFull):
        restore(backup, tmp_path / "b", force=True)
    assert not [path.name for path in (tmp_path / "b").glob("store.db.re*")]
    async with open_sqlite(tmp_path / "b" / "store.db", SETTINGS, SystemClock()) as store:
        assert (await store.status()).revision == revision
