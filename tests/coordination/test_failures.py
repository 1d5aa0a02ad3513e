"""What the embedded store does when the disk is full, the file is damaged, or somebody else has it."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlite_utils
import trio

from platformd.coordination.contract import Put, Store
from platformd.coordination.sqlite import lifetime, open_sqlite
from platformd.coordination.sqlite.errors import translate
from platformd.coordination.sqlite.migrations import migrations
from platformd.coordination.sqlite.schema import VERSIONS, open_writer
from platformd.core.clock import SystemClock
from platformd.core.errors import Conflict, Corrupted, OutcomeUnknown, PlatformError, StorageFull, Unavailable
from platformd.core.settings import StoreSettings
from tests.conformance.store_engines import put

SETTINGS = StoreSettings()


class Limited:
    """An opener whose connection takes no more pages than it is told."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.connection: sqlite3.Connection | None = None
        monkeypatch.setattr(lifetime, "open_writer", self.open)

    def open(self, path: Path) -> sqlite3.Connection:
        self.connection = open_writer(path)
        return self.connection

    def limit(self, more_pages: int) -> None:
        assert self.connection is not None
        pages = self.connection.execute("PRAGMA page_count").fetchone()[0]
        self.connection.execute(f"PRAGMA max_page_count={pages + more_pages}")


async def test_full_store_is_readable_and_recovers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When there is no room a write is refused as ``StorageFull``, reads and watches go on, and so do writes later."""
    disk = Limited(monkeypatch)
    async with open_sqlite(tmp_path / "s.db", SETTINGS, SystemClock()) as store:
        start = await put(store, b"k", b"kept")
        disk.limit(4)
        async with store.watch(b"", None) as watch:
            with pytest.raises(StorageFull, match="nothing was done") as refused:
                await put(store, b"big", b"v" * 500_000)
            assert "make room" in (refused.value.hint or "")
            assert str(tmp_path / "s.db") in str(refused.value)
            kv = await store.get(b"k")
            assert kv is not None
            assert kv.value == b"kept"
            assert (await store.status()).revision == start
            assert await put(store, b"small", b"") == start + 1  # what still fits is taken
            disk.limit(10_000)
            assert await put(store, b"big", b"v" * 500_000) == start + 2
            assert (await anext(watch)).events == ()
            assert [e.kv.key for e in (await anext(watch)).events] == [b"small", b"big"]


async def test_only_what_does_not_fit_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of many writes at once on a nearly full disk, the small ones are taken although a large one is not."""
    disk = Limited(monkeypatch)
    async with open_sqlite(tmp_path / "s.db", SETTINGS, SystemClock()) as store:
        await put(store, b"k")
        disk.limit(8)
        refused: list[int] = []

        async def write(number: int) -> None:
            try:
                await put(store, b"n/%d" % number, b"v" * 500_000 if number == 5 else b"v")
            except StorageFull:
                refused.append(number)

        async with trio.open_nursery() as nursery:
            for number in range(20):
                nursery.start_soon(write, number)
        assert refused == [5]
        assert len((await store.list(b"n/", b"n0")).items) == 19


_FILL = """
import resource, sys, trio, pathlib
from platformd.coordination.contract import Put, Store
from platformd.coordination.sqlite import open_sqlite
from platformd.core.clock import SystemClock
from platformd.core.errors import StorageFull
from platformd.core.settings import StoreSettings

async def main():
    async with open_sqlite(pathlib.Path(sys.argv[1]), StoreSettings(), SystemClock()) as store:
        limit = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, limit[1]))
        acknowledged = 0
        try:
            for number in range(1000):
                await store.txn([], [Put(b"%05d" % number, b"v" * 10_000)])
                acknowledged += 1
        except StorageFull as error:
            print("full", acknowledged)
        assert len((await store.list(b"", None)).items) == acknowledged
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
        await store.txn([], [Put(b"after", b"v" * 10_000)])
        print("recovered")
trio.run(main)
"""


async def test_file_size_limit_is_a_full_disk(tmp_path: Path) -> None:
    """A limit or quota that stops the log from growing is ``StorageFull`` too, and passes like one."""
    command = [sys.executable, "-c", _FILL, str(tmp_path / "s.db")]
    run = await trio.run_process(command, capture_stdout=True)
    full, recovered = run.stdout.decode().splitlines()
    assert recovered == "recovered"
    async with open_sqlite(tmp_path / "s.db", SETTINGS, SystemClock()) as store:
        assert len((await store.list(b"", None)).items) == int(full.split()[1]) + 1


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    if os.geteuid() != 0:
        pytest.skip("mounting a small tmpfs needs root")
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(disk)]
    if subprocess.run(mount, check=False, capture_output=True).returncode != 0:
        pytest.skip("this system does not let the test mount a tmpfs")
    try:
        yield disk
    finally:
        subprocess.run(["umount", "--lazy", str(disk)], check=True)


async def fill_up(store: Store, prefix: bytes) -> int:
    """Put keys until the disk is full; how many it took."""
    for number in range(1000):
        try:
            await put(store, b"%b/%05d" % (prefix, number), b"v" * 10_000)
        except StorageFull:
            return number
    raise AssertionError("a disk of 2 MiB took 10 MB")


@pytest.mark.system
async def test_full_disk(small_disk: Path) -> None:
    """On a disk that is really full: refused, readable, recovering by itself, and it can be opened when full."""
    ballast = small_disk / "ballast"
    async with open_sqlite(small_disk / "s.db", SETTINGS, SystemClock()) as store:
        await put(store, b"first", b"kept")
        ballast.write_bytes(b"x" * 500_000)
        written = await fill_up(store, b"before")
        assert written > 0
        assert len((await store.list(b"", None)).items) == written + 1
        ballast.unlink()
        await put(store, b"after", b"v" * 10_000)
        written += await fill_up(store, b"after")
    async with open_sqlite(small_disk / "s.db", SETTINGS, SystemClock()) as store:
        assert len((await store.list(b"", None)).items) == written + 2


async def fill(path: Path) -> None:
    async with open_sqlite(path, SETTINGS, SystemClock()) as store:
        for start in range(0, 2000, 100):
            await store.txn([], [Put(b"%05d" % n, b"v" * 100) for n in range(start, start + 100)])


async def read_everything(path: Path) -> int:
    async with open_sqlite(path, SETTINGS, SystemClock()) as store:
        found = len((await store.list(b"", None)).items)
        async with store.watch(b"", None, start_revision=1) as watch:
            last = (await store.status()).revision
            while (await anext(watch)).revision < last:
                pass
        return found


async def test_damaged_page_is_named(tmp_path: Path) -> None:
    """Damage in the file comes up as ``Corrupted`` with the file and a cure, never as wrong data."""
    path = tmp_path / "s.db"
    await fill(path)
    assert await read_everything(path) == 2000
    whole = path.read_bytes()
    noticed: list[Corrupted] = []
    for page in range(5, len(whole) // 4096, 25):
        damaged = bytearray(whole)
        damaged[page * 4096 : (page + 1) * 4096] = b"\xa5" * 4096
        path.write_bytes(damaged)
        try:
            assert await read_everything(path) == 2000  # a page of an index that is not needed for this
        except Corrupted as error:
            noticed.append(error)
    assert noticed
    assert {error.subject for error in noticed} == {str(path)}
    assert all("recover" in (error.hint or "") for error in noticed)


async def test_file_that_is_no_store_is_refused(tmp_path: Path) -> None:
    """Text where the database should be is ``Corrupted``, and is left as it was."""
    path = tmp_path / "s.db"
    path.write_text("this is not a database\n" * 500)
    with pytest.raises(Corrupted, match=r"s\.db"):
        async with open_sqlite(path, SETTINGS, SystemClock()):
            pass
    assert path.read_text() == "this is not a database\n" * 500


async def test_newer_schema_is_refused(tmp_path: Path) -> None:
    """A file that a newer version has changed is refused by name, and not touched."""
    path = tmp_path / "s.db"
    await fill(path)
    db = sqlite_utils.Database(path)
    db.table("_sqlite_migrations").insert(
        {"migration_set": "coordination", "name": "9999_from_the_future", "applied_at": "2099-01-01"}
    )
    db.close()
    with pytest.raises(Conflict, match=r"newer platformd .*9999_from_the_future") as refused:
        async with open_sqlite(path, SETTINGS, SystemClock()):
            pass
    assert refused.value.subject == str(path)


def test_versions_are_the_migrations() -> None:
    """Every migration is among the known versions, in order."""
    db = sqlite_utils.Database(memory=True)
    try:
        assert tuple(migration.name for migration in migrations.pending(db)) == VERSIONS
    finally:
        db.close()


async def test_foreign_writer_is_a_conflict(tmp_path: Path) -> None:
    """While another program holds a write lock, a write is refused as ``Conflict``; reads go on; later it works."""
    path = tmp_path / "s.db"
    async with open_sqlite(path, SETTINGS, SystemClock()) as store:
        await put(store, b"k")
        other = sqlite3.connect(path, isolation_level=None)
        try:
            other.execute("BEGIN IMMEDIATE")
            with pytest.raises(Conflict, match="another process"):
                await put(store, b"k")
            assert await store.get(b"k") is not None
            other.execute("ROLLBACK")
        finally:
            other.close()
        await put(store, b"k")


async def test_directory_in_place_of_the_file(tmp_path: Path) -> None:
    """What cannot be opened is ``Unavailable`` with the path and the reason."""
    (tmp_path / "s.db").mkdir()
    with pytest.raises(Unavailable, match=r"s\.db"):
        async with open_sqlite(tmp_path / "s.db", SETTINGS, SystemClock()):
            pass


@pytest.mark.parametrize(
    ("code", "committing", "expected"),
    [
        ("SQLITE_FULL", True, StorageFull),
        ("SQLITE_IOERR_WRITE", True, StorageFull),
        ("SQLITE_IOERR_FSYNC", True, OutcomeUnknown),
        ("SQLITE_IOERR_SHMSIZE", True, OutcomeUnknown),
        ("SQLITE_IOERR_READ", False, Unavailable),
        ("SQLITE_CORRUPT_INDEX", False, Corrupted),
        ("SQLITE_NOTADB", False, Corrupted),
        ("SQLITE_BUSY_SNAPSHOT", False, Conflict),
        ("SQLITE_READONLY", False, Unavailable),
    ],
)
def test_translation(code: str, committing: bool, expected: type[PlatformError]) -> None:
    """Each code of SQLite becomes the error that says what it means for the caller."""
    error = sqlite3.OperationalError("as SQLite says it")
    error.sqlite_errorcode = getattr(sqlite3, code)
    error.sqlite_errorname = code
    translated = translate(error, Path("x.db"), committing=committing)
    assert type(translated) is expected
    assert code in str(translated)


def test_misuse_is_not_translated() -> None:
    """What can only be a bug of ours stays what it is."""
    assert translate(sqlite3.ProgrammingError("wrong number of bindings"), Path("x.db")) is None
