"""Each request's way through the store and back, except for the quick way of small transactions."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final

from platformd.coordination.codec import frames
from platformd.coordination.codec.replies import wire_kv, wire_lease, wire_listing, wire_outcome
from platformd.coordination.codec.requests import (
    CompactRequest,
    GetRequest,
    GrantRequest,
    KeepAliveRequest,
    LeaseRequest,
    LeasesRequest,
    ListRequest,
    PingRequest,
    RevokeRequest,
    StatusRequest,
    TxnRequest,
)
from platformd.coordination.contract import KeyValue, Store
from platformd.core.errors import TooLarge

PAGE_BYTES: Final = 4 << 20
"""A list is answered in part when about so many bytes are together; the client asks for the rest."""

FIRST_KEYS: Final = 255
"""Keys that are asked of the store at first; how large they are says how many fit the page."""

MAX_LISTING: Final = 64 << 20
"""The most bytes of a list that cannot be answered in part, since it is not ordered by key."""

Answer = Callable[[Store, Any], Awaitable[tuple[Any, ...]]]


async def _get(store: Store, request: GetRequest) -> tuple[Any, ...]:
    return (frames.KEY_VALUE, request.id, wire_kv(await store.get(request.key, revision=request.revision)))


async def _list(store: Store, request: ListRequest) -> tuple[Any, ...]:
    if request.order != "key" or request.count_only:
        return await _whole_list(store, request)
    wanted = request.limit if request.limit > 0 else frames.MAX_INT
    page = await store.list(
        request.key,
        request.end,
        revision=request.revision,
        limit=min(wanted, FIRST_KEYS),
        keys_only=request.keys_only,
    )
    items, more = page.items, page.more
    size = _size(items)
    if more and wanted > len(items) and size < PAGE_BYTES:
        rest = await store.list(
            items[-1].key + b"\x00",
            request.end,
            revision=page.revision,
            limit=min(wanted - len(items), (PAGE_BYTES - size) // max(1, size // len(items)) + 1),
            keys_only=request.keys_only,
        )
        items, more = items + rest.items, rest.more
    return wire_listing(request.id, items, page.revision, page.count, more=more)


async def _whole_list(store: Store, request: ListRequest) -> tuple[Any, ...]:
    listing = await store.list(
        request.key,
        request.end,
        revision=request.revision,
        limit=request.limit,
        keys_only=request.keys_only,
        count_only=request.count_only,
        order=request.order,
    )
    size = _size(listing.items)
    if size > MAX_LISTING:
        raise TooLarge(
            f"the list has {size} bytes; one that is ordered by {request.order} may have {MAX_LISTING}",
            subject="list",
            hint="give a limit, ask for keys only, or list by key",
        )
    return wire_listing(request.id, listing.items, listing.revision, listing.count, more=listing.more)


_FRAMING = 48


def _size(items: tuple[KeyValue, ...]) -> int:
    return sum([len(kv.key) + len(kv.value) + _FRAMING for kv in items])


async def _txn(store: Store, request: TxnRequest) -> tuple[Any, ...]:
    return wire_outcome(request.id, await store.txn(request.compares, request.then, request.otherwise))


async def _grant(store: Store, request: GrantRequest) -> tuple[Any, ...]:
    lease = await store.leases.grant(request.ttl, lease_id=request.lease_id)
    return (frames.LEASE, request.id, wire_lease(lease))


async def _keep_alive(store: Store, request: KeepAliveRequest) -> tuple[Any, ...]:
    return (frames.LEASE, request.id, wire_lease(await store.leases.keep_alive(request.lease_id)))


async def _revoke(store: Store, request: RevokeRequest) -> tuple[Any, ...]:
    return (frames.COUNT, request.id, await store.leases.revoke(request.lease_id))


async def _lease(store: Store, request: LeaseRequest) -> tuple[Any, ...]:
    return (frames.LEASE, request.id, wire_lease(await store.leases.get(request.lease_id)))


async def _leases(store: Store, request: LeasesRequest) -> tuple[Any, ...]:
    return (frames.LEASES, request.id, [wire_lease(lease) for lease in await store.leases.list()])


async def _compact(store: Store, request: CompactRequest) -> tuple[Any, ...]:
    await store.compact(request.revision)
    return (frames.DONE, request.id)


async def _status(store: Store, request: StatusRequest) -> tuple[Any, ...]:
    return (frames.STATUS, request.id, await store.status())


async def _ping(_: Store, request: PingRequest) -> tuple[Any, ...]:
    return (frames.DONE, request.id)


READS: Final[dict[type, Answer]] = {
    GetRequest: _get,
    ListRequest: _list,
    LeaseRequest: _lease,
    LeasesRequest: _leases,
    StatusRequest: _status,
    PingRequest: _ping,
}
"""What only looks; what it may look at, the guarded store says."""

WRITES: Final[dict[type, Answer]] = {
    TxnRequest: _txn,
    GrantRequest: _grant,
    KeepAliveRequest: _keep_alive,
    RevokeRequest: _revoke,
    CompactRequest: _compact,
}
"""What may change things, and what has small answers."""
