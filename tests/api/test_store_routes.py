"""The routes of the store itself, asked by the client that the command line has."""

from __future__ import annotations

import base64
import hashlib
import os
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path

import pytest
import trio

from platformd.client.backup import fetch_backup
from platformd.client.http import Target
from platformd.coordination.backup import check_backup
from platformd.coordination.contract import Put
from platformd.coordination.sqlite import open_sqlite
from platformd.core.clock import SystemClock
from platformd.core.errors import Conflict, NotFound, Unavailable
from platformd.core.settings import StoreSettings
from tests.api.conftest import Served, Start
from tests.conformance.store_engines import put


@pytest.fixture
async def stored(tmp_path: Path, start: Start) -> AsyncIterator[Served]:
    """A server over a SQLite store."""
    async with open_sqlite(tmp_path / "store.db", StoreSettings(), SystemClock()) as store:
        served: Served = await start(store=store)
        yield served
        served.stop()
        await served.done.wait()


async def fetch(served: Served, path: Path, *seen: list[tuple[int, int]]) -> object:
    tell = (lambda done, size: seen[0].append((done, size))) if seen else (lambda done, size: None)
    return await trio.to_thread.run_sync(partial(fetch_backup, Target(unix=str(served.path)), path, tell))


async def test_backup_arrives_whole(stored: Served, tmp_path: Path) -> None:
    """What is received is the store at the revision that is said, with the digest that was sent; progress is told."""
    store = stored.context.store
    for start in range(0, 3000, 100):
        await store.txn([], [Put(b"k/%05d" % n, b"v" * 1000) for n in range(start, start + 100)])
    revision = (await store.status()).revision
    seen: list[tuple[int, int]] = []
    backup = await fetch(stored, tmp_path / "backup", seen)
    content = await trio.Path(tmp_path / "backup").read_bytes()
    assert (backup.revision, backup.size_bytes) == (revision, len(content))  # type: ignore[attr-defined]
    assert backup.sha256 == hashlib.sha256(content).hexdigest()  # type: ignore[attr-defined]
    assert (check_backup(tmp_path / "backup").keys, check_backup(tmp_path / "backup").revision) == (3000, revision)
    assert seen[-1] == (len(content), len(content))
    assert len(seen) > 3
    left = [path.name for path in stored.context.settings.state_path.glob("*snapshot*")]
    assert left == []


async def test_backup_does_not_overwrite(stored: Served, tmp_path: Path) -> None:
    """A file that is there stays as it is; one in a directory that is not there is refused by name."""
    (tmp_path / "backup").write_bytes(b"precious")
    with pytest.raises(Conflict):
        await fetch(stored, tmp_path / "backup")
    assert (tmp_path / "backup").read_bytes() == b"precious"
    with pytest.raises(NotFound):
        await fetch(stored, tmp_path / "none" / "backup")


async def test_copies_of_a_killed_daemon_are_removed(stored: Served, tmp_path: Path) -> None:
    """What a daemon left when it died in the middle of a copy goes with the next one."""
    directory = stored.context.settings.state_path
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "snapshot-1.db").write_bytes(b"x")
    await fetch(stored, tmp_path / "backup")
    assert not (directory / "snapshot-1.db").exists()


async def test_head_says_what_it_is(stored: Served) -> None:
    """The revision, the length and the digest are in the head, and no cache keeps it."""
    await put(stored.context.store, b"k")
    client = await stored.client()
    answer = await client.request("POST", "/v1/store/snapshot")
    digest = base64.b64encode(hashlib.sha256(answer.body).digest()).decode()
    assert answer.status == 200
    assert answer.headers["repr-digest"] == f"sha-256=:{digest}:"
    assert answer.headers["content-length"] == str(len(answer.body))
    assert answer.headers["cache-control"] == "no-store"
    assert (await client.request("GET", "/v1/store/snapshot")).status == 405


async def test_compaction_on_request(stored: Served) -> None:
    """To a revision, or to now; what there is not is refused by its own name."""
    store = stored.context.store
    revisions = [await put(store, b"k") for _ in range(5)]
    client = await stored.client()
    answer = await client.request("POST", f"/v1/store/compact?revision={revisions[2]}")
    assert (answer.status, answer.json["compact_revision"]) == (200, revisions[2])
    assert (await client.request("POST", f"/v1/store/compact?revision={revisions[1]}")).status == 410
    assert (await client.request("POST", f"/v1/store/compact?revision={revisions[4] + 1}")).status == 409
    assert (await client.request("POST", "/v1/store/compact")).json["compact_revision"] == revisions[4]
    assert (await client.request("GET", "/v1/store")).json["revision"] == revisions[4]


async def test_copy_that_is_cut_off_leaves_nothing(tmp_path: Path, nursery: trio.Nursery) -> None:
    """A daemon that dies while it sends is an error, and what came is removed."""

    async def half(stream: trio.SocketStream) -> None:
        async with stream:
            await stream.receive_some()
            await stream.send_all(b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\nhalf")

    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    nursery.start_soon(trio.serve_listeners, half, listeners)
    port = listeners[0].socket.getsockname()[1]
    with pytest.raises(Unavailable, match="cut off"):
        await trio.to_thread.run_sync(fetch_backup, Target(host="127.0.0.1", port=port), tmp_path / "backup")
    assert os.listdir(tmp_path) == []  # noqa: PTH208 - hidden ones too
