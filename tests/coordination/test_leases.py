"""What leases write to disk, and what a restart makes of it. (What callers see is in ``conformance``.)"""

from __future__ import annotations

import shutil
import sqlite3
from itertools import count
from pathlib import Path

import pytest
import trio
import trio.testing

from platformd.coordination.contract import Put, Store
from platformd.coordination.sqlite import open_sqlite, work
from platformd.coordination.sqlite.lease import SAVE_INTERVAL
from platformd.core.clock import SystemClock
from platformd.core.errors import InvalidInput, NotFound
from platformd.core.settings import StoreSettings
from tests.conformance.store_engines import put, settled

SETTINGS = StoreSettings()


def on_disk(path: Path) -> dict[int, float | None]:
    """The remaining times that are written."""
    connection = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
    try:
        return dict(connection.execute("SELECT id, remaining FROM leases"))
    finally:
        connection.close()


def crash_copy(path: Path, directory: Path) -> Path:
    """The files as a crash of the process would leave them now."""
    directory.mkdir()
    for suffix in ("", "-wal"):
        shutil.copy(f"{path}{suffix}", directory / f"{path.name}{suffix}")
    return directory / path.name


async def pass_time(store: Store, clock: trio.testing.MockClock, seconds: float) -> None:
    for _ in range(int(seconds // 10)):
        clock.jump(10)
        await trio.testing.wait_all_tasks_blocked()
        await settled(store)


async def test_keep_alive_writes_nothing(tmp_path: Path, mock_clock: trio.testing.MockClock) -> None:
    """Keeping a short lease alive again and again leaves the file as it is."""
    path = tmp_path / "s.db"
    async with open_sqlite(path, SETTINGS, SystemClock()) as store:
        lease = await store.leases.grant(10)
        before = (tmp_path / "s.db-wal").read_bytes()
        for _ in range(30):
            mock_clock.jump(3)
            await store.leases.keep_alive(lease.id)
        await settled(store)
        assert (tmp_path / "s.db-wal").read_bytes() == before
        assert on_disk(path) == {lease.id: None}


async def test_time_of_a_long_lease_is_saved_now_and_then(tmp_path: Path, mock_clock: trio.testing.MockClock) -> None:
    """After a crash a long lease has little more left than it had; a short one has its whole time."""
    path = tmp_path / "s.db"
    async with open_sqlite(path, SETTINGS, SystemClock()) as store:
        long, short = await store.leases.grant(1000), await store.leases.grant(SAVE_INTERVAL)
        for _ in range(20):
            await pass_time(store, mock_clock, 30)
            await store.leases.keep_alive(short.id)
        crashed = crash_copy(path, tmp_path / "crashed")
    async with open_sqlite(crashed, SETTINGS, SystemClock()) as store:
        left = {lease.id: lease.remaining for lease in await store.leases.list()}
    assert 400 <= left[long.id] <= 500
    assert left[short.id] == SAVE_INTERVAL


async def test_crash_after_a_keep_alive_never_ends_it_early(tmp_path: Path, mock_clock: trio.testing.MockClock) -> None:
    """A keep-alive clears the remaining time on disk before it is acknowledged."""
    path = tmp_path / "s.db"
    async with open_sqlite(path, SETTINGS, SystemClock()) as store:
        lease = await store.leases.grant(600)
        await pass_time(store, mock_clock, 500)
        saved = on_disk(path)[lease.id]
        assert saved is not None
        assert 100 <= saved < 300
        await store.leases.keep_alive(lease.id)
        crashed = crash_copy(path, tmp_path / "crashed")
    async with open_sqlite(crashed, SETTINGS, SystemClock()) as store:
        assert [found.remaining for found in await store.leases.list()] == [600]


async def test_lease_of_many_keys_ends_in_steps(
    tmp_path: Path, mock_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Revoking a lease with more keys than one revision may delete takes several, and leaves nothing."""
    monkeypatch.setattr(work, "LEASE_KEYS_PER_REVISION", 100)
    async with open_sqlite(tmp_path / "s.db", SETTINGS, SystemClock()) as store:
        lease = await store.leases.grant(10)
        for start in range(0, 250, 50):
            await store.txn([], [Put(b"%04d" % n, b"", lease.id) for n in range(start, start + 50)])
        before = (await store.status()).revision
        assert await store.leases.revoke(lease.id) == 250
        status = await store.status()
        assert (status.revision, status.keys, status.leases) == (before + 3, 0, 0)


async def test_cancelled_revoke_is_finished_if_it_began(
    tmp_path: Path, mock_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A revoke that is cancelled either did nothing and the lease lives, or it ends all the same."""
    monkeypatch.setattr(work, "LEASE_KEYS_PER_REVISION", 10)
    async with open_sqlite(tmp_path / "s.db", SETTINGS, SystemClock()) as store:
        for passes in range(12):
            lease = await store.leases.grant(1000)
            await store.txn([], [Put(b"%04d" % n, b"", lease.id) for n in range(100)])
            with trio.CancelScope() as scope:
                async with trio.open_nursery() as nursery:

                    async def cancel(scope: trio.CancelScope, passes: int) -> None:
                        for _ in range(passes):
                            await settled(store)
                        scope.cancel()

                    nursery.start_soon(cancel, scope, passes)
                    await store.leases.revoke(lease.id)
            while True:
                left = len((await store.list(b"", None)).items)
                if left in {0, 100}:
                    break
                mock_clock.jump(0.1)
                await trio.testing.wait_all_tasks_blocked()
            if left:
                assert await store.leases.revoke(lease.id) == 100


async def test_ids_are_random_and_unique(tmp_path: Path) -> None:
    """Ids have 63 bits of the randomness that was passed in, and never collide with one that is there."""
    numbers = count()
    # Every id is offered twice; zero, which stands for "no lease", first.
    source = lambda size: (next(numbers) // 2).to_bytes(size, "big")  # noqa: E731 - it reads best in one line
    async with open_sqlite(tmp_path / "s.db", SETTINGS, SystemClock(), random_bytes=source) as store:
        assert [(await store.leases.grant(10)).id for _ in range(3)] == [1, 2, 3]
    async with open_sqlite(tmp_path / "s.db", SETTINGS, SystemClock(), random_bytes=lambda n: b"\xff" * n) as store:
        assert (await store.leases.grant(10)).id == 2**63 - 1


async def test_not_a_number_is_refused(tmp_path: Path) -> None:
    """A time to live that is not a number is no lease."""
    async with open_sqlite(tmp_path / "s.db", SETTINGS, SystemClock()) as store:
        with pytest.raises(InvalidInput, match="not a number"):
            await store.leases.grant(float("nan"))
        with pytest.raises(NotFound):
            await put(store, b"k", b"", 1)
