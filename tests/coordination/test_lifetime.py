"""Opening and leaving the embedded store."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from pathlib import Path

import pytest
import trio
import trio.testing

from platformd.coordination.contract import Put, Store
from platformd.coordination.sqlite import open_sqlite
from platformd.coordination.sqlite.writer import Writer
from platformd.core.clock import SystemClock
from platformd.core.errors import Conflict, DeadlineExceeded, OutcomeUnknown, Unavailable
from platformd.core.settings import StoreSettings
from tests.conformance.store_engines import eventually, put

SETTINGS = StoreSettings()


async def test_error_in_the_block_comes_out_as_it_is(tmp_path: Path) -> None:
    """An exception of the body, a group too, is not wrapped; the store is closed and can be opened again."""
    for error in (ValueError("mine"), ExceptionGroup("mine", [ValueError("a"), KeyError("b")])):

        async def leave_with(error: Exception) -> None:
            async with open_sqlite(tmp_path / "s.db", SETTINGS, SystemClock()) as store:
                await put(store, b"k")
                raise error

        with pytest.raises(type(error), match="mine"):
            await leave_with(error)
    async with open_sqlite(tmp_path / "s.db", SETTINGS, SystemClock()) as store:
        assert await store.get(b"k") is not None


async def test_cancelled_block_writes_what_was_handed_in(tmp_path: Path) -> None:
    """Cancelling everything around a busy store loses nothing that was acknowledged, and leaves a clean file."""
    acknowledged: list[bytes] = []
    with trio.CancelScope() as scope:
        async with open_sqlite(tmp_path / "s.db", SETTINGS, SystemClock()) as store, trio.open_nursery() as nursery:

            async def write(task: int) -> None:
                for number in range(1000):
                    key = b"%d/%d" % (task, number)
                    await put(store, key)
                    acknowledged.append(key)
                    if len(acknowledged) == 50:
                        scope.cancel()

            for task in range(8):
                nursery.start_soon(write, task)
    assert len(acknowledged) >= 50
    assert not (tmp_path / "s.db-wal").exists()
    async with open_sqlite(tmp_path / "s.db", SETTINGS, SystemClock()) as store:
        there = {kv.key for kv in (await store.list(b"", None)).items}
    assert there >= set(acknowledged)


async def test_closed_store_refuses(tmp_path: Path) -> None:
    """After the block every method says that the store is stopping, and a watch ends with that."""
    async with trio.open_nursery() as nursery:
        async with open_sqlite(tmp_path / "s.db", SETTINGS, SystemClock()) as store:

            async def follow(*, task_status: trio.TaskStatus[None]) -> None:
                async with store.watch(b"", None) as watch:
                    await anext(watch)
                    task_status.started()
                    with pytest.raises(Unavailable, match="stopping"):
                        await anext(watch)

            await nursery.start(follow)
    for request in (
        store.get(b"k"),
        store.list(b"", None),
        store.txn([], []),
        store.leases.grant(1),
        store.leases.keep_alive(1),
        store.leases.revoke(1),
        store.leases.get(1),
        store.leases.list(),
        store.compact(1),
        store.snapshot(tmp_path / "copy.db"),
        store.status(),
    ):
        with pytest.raises(Unavailable, match="stopping"):
            await request
    with pytest.raises(Unavailable, match="stopping"):
        async with store.watch(b"", None):
            pass


async def test_second_opener_is_told_who_holds_it(tmp_path: Path) -> None:
    """One store has the file, also within a process; the other one learns the process id."""
    async with open_sqlite(tmp_path / "s.db", SETTINGS, SystemClock()):
        with pytest.raises(Conflict, match=str(os.getpid())) as refused:
            async with open_sqlite(tmp_path / "s.db", SETTINGS, SystemClock()):
                pass
        assert "s.db" in str(refused.value)
        script = (
            "import sys, trio, pathlib\n"
            "from platformd.coordination.sqlite import open_sqlite\n"
            "from platformd.core.clock import SystemClock\n"
            "from platformd.core.settings import StoreSettings\n"
            "async def main():\n"
            "    async with open_sqlite(pathlib.Path(sys.argv[1]), StoreSettings(), SystemClock()): pass\n"
            "trio.run(main)\n"
        )
        command = [sys.executable, "-c", script, str(tmp_path / "s.db")]
        run = await trio.run_process(command, check=False, capture_stderr=True)
        assert run.returncode != 0
        assert f"process {os.getpid()} holds the store" in run.stderr.decode()
    assert (await trio.run_process(command)).returncode == 0


async def test_stuck_disk_does_not_hold_the_stop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When a commit does not come back, leaving ends at its deadline and everyone is told what is known."""
    stuck, released = threading.Event(), threading.Event()
    original = Writer._store

    def store_slowly(self: Writer, overlay: object) -> None:
        stuck.set()
        released.wait()
        original(self, overlay)  # type: ignore[arg-type]

    path = tmp_path / "s.db"
    monkeypatch.setattr(Writer, "_store", store_slowly)
    try:
        async with trio.open_nursery() as nursery:

            async def write(store: Store) -> None:
                with pytest.raises(OutcomeUnknown):
                    await put(store, b"k")

            async def open_and_leave() -> None:
                async with open_sqlite(path, SETTINGS, SystemClock(), stop_deadline=0.05) as store:
                    nursery.start_soon(write, store)
                    await trio.to_thread.run_sync(stuck.wait)

            with pytest.raises(DeadlineExceeded, match=r"within 0\.05 s"):
                await open_and_leave()
        with pytest.raises(Conflict):  # the thread that was left behind still has the file
            async with open_sqlite(path, SETTINGS, SystemClock()):
                pass
    finally:
        released.set()

    async def can_be_opened() -> bool:
        try:
            async with open_sqlite(path, SETTINGS, SystemClock()) as store:
                return await store.get(b"k") is not None
        except Conflict:
            return False

    await eventually(can_be_opened)


async def test_failed_writer_brings_the_store_down(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A bug in the writer is not hidden: who waits is told, the block is cancelled, the bug comes out."""

    def fail(self: Writer, overlay: object) -> None:
        raise ZeroDivisionError("a bug")

    told: list[type[BaseException]] = []

    async def write_and_wait() -> None:
        async with open_sqlite(tmp_path / "s.db", SETTINGS, SystemClock()) as store:
            monkeypatch.setattr(Writer, "_store", fail)
            try:
                await put(store, b"k")
            except OutcomeUnknown as error:
                told.append(type(error))
            await trio.sleep_forever()

    with pytest.raises(BaseExceptionGroup) as raised:
        await write_and_wait()
    assert told == [OutcomeUnknown]
    assert raised.group_contains(ZeroDivisionError, match="a bug")


async def test_files_are_private(tmp_path: Path) -> None:
    """Nobody but the daemon's user can read the store's files."""
    with contextlib.ExitStack() as stack:
        stack.callback(os.umask, os.umask(0))
        async with open_sqlite(tmp_path / "sub" / "s.db", SETTINGS, SystemClock()) as store:
            await store.txn([], [Put(b"secret", b"s")])
            modes = {file.name: file.stat().st_mode & 0o777 for file in (tmp_path / "sub").iterdir()}
    assert modes == dict.fromkeys(("s.db", "s.db-wal", "s.db-shm", "s.db.lock"), 0o600)
