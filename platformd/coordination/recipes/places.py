"""Places in a queue: keys below one prefix, each bound to a lease, first come first served.

Who created its key earlier (at the lower ``create_revision``; keys of one revision by their bytes) stands before.
The first one has what the queue is for, and its ``create_revision`` is the fencing revision: every later holder has a
higher one, so a resource that remembers the highest revision it has seen can turn a late holder away. That is needed
because no lease proves anything to a third party: a holder that was paused past its lease does not know it yet.

Everybody waits only for the one right before, so a queue of any length wakes one waiter at a time.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final, TypeVar
from urllib.parse import quote, unquote

import trio

from platformd.coordination.contract import (
    Compare,
    Delete,
    FutureRevision,
    Get,
    GetResult,
    KeyValue,
    Put,
    Store,
    prefix_end,
)
from platformd.coordination.recipes.lease import Lost, at_the_end, out_of_reach
from platformd.core.errors import Gone, InvalidInput, LimitReached, OutcomeUnknown, PlatformError, Unavailable

MAX_NAME: Final = 512
"""Characters of a name."""
FIRST_DELAY: Final = 0.05
"""Seconds before a store that could not be reached is asked again; doubles up to ``MAX_DELAY``."""
MAX_DELAY: Final = 1.0
"""The longest such wait, seconds."""

INTERRUPTIONS: Final = (Gone, FutureRevision, LimitReached, Unavailable, OutcomeUnknown)
"""What a watch may end with, or not begin for, without saying anything about the keys."""

T = TypeVar("T")


def queue_prefix(kind: str, name: str) -> bytes:
    """Where the places of a named queue are: ``KIND/NAME/``, the name escaped so that none lies within another.

    Raises:
        InvalidInput: the name is empty or too long.
    """
    if not 0 < len(name) <= MAX_NAME:
        raise InvalidInput(f"a name has 1 to {MAX_NAME} characters, this one {len(name)}", subject=kind)
    return f"{kind}/{quote(name, safe=' :@,+=')}/".encode()


def queue_name(kind: str, key: bytes) -> str:
    """The name in a key that ``place_key`` made."""
    return unquote(key.removeprefix(f"{kind}/".encode()).partition(b"/")[0].decode())


def place_key(prefix: bytes, lease_id: int) -> bytes:
    """The key of a lease's place: one for each lease, so that asking twice takes one place."""
    return prefix + b"%x" % lease_id


async def places(store: Store, prefix: bytes, *, keys_only: bool = False) -> list[KeyValue]:
    """All places of a queue in their order; the first is the holder's."""
    listing = await store.list(prefix, prefix_end(prefix), keys_only=keys_only)
    return sorted(listing.items, key=order)


def order(kv: KeyValue) -> tuple[int, bytes]:
    """What places are sorted by."""
    return kv.create_revision, kv.key


async def take_place(store: Store, key: bytes, value: bytes, lease_id: int) -> int:
    """Have a place; its ``create_revision``. Asking again changes nothing, so it is asked until it is known.

    Raises:
        NotFound: the lease is not there.
    """

    async def ask() -> int:
        result = await store.txn([Compare(key, "create_revision", "==", 0)], [Put(key, value, lease_id)], [Get(key)])
        found = result.results[0]
        return found.items[0].create_revision if isinstance(found, GetResult) else result.revision

    return await insist(ask)


async def give_up_place(store: Store, key: bytes, revision: int) -> bool:
    """Leave the queue; whether the place was still there."""
    result = await store.txn([Compare(key, "create_revision", "==", revision)], [Delete(key)])
    return result.succeeded


async def leave(store: Store, key: bytes, revision: int) -> None:
    """The same in spite of a cancellation, for the end of a block."""

    async def ask() -> None:
        await give_up_place(store, key, revision)

    await at_the_end(ask)


async def wait_turn(store: Store, prefix: bytes, key: bytes, revision: int) -> None:
    """Wait until the place ``key`` (created at ``revision``) is the first.

    Raises:
        Lost: it is not there any more.
    """

    async def before() -> KeyValue | None:
        earlier = None
        for kv in await places(store, prefix, keys_only=True):
            if kv.key == key and kv.create_revision == revision:
                return earlier
            earlier = kv
        raise Lost("its place in the queue was removed", subject=key.decode(errors="replace"))

    while (earlier := await insist(before)) is not None:
        await gone(store, earlier.key, earlier.create_revision)


async def gone(store: Store, key: bytes, revision: int) -> None:
    """Wait until the life of ``key`` that was created at ``revision`` is over."""
    delay = 0.0
    while True:
        try:
            listing = await store.list(key, key + b"\x00", keys_only=True)
            if not listing.items or listing.items[0].create_revision != revision:
                return
            async with store.watch(key, key + b"\x00", start_revision=listing.revision + 1) as batches:
                async for batch in batches:
                    delay = 0.0
                    if any(event.kv.create_revision != revision for event in batch.events):
                        return  # deleted (then it is 0), or deleted and created again within the batch
        except INTERRUPTIONS:
            pass  # look again
        delay = min(delay * 2, MAX_DELAY) or FIRST_DELAY
        await trio.sleep(delay)


async def insist(ask: Callable[[], Awaitable[T]]) -> T:
    """Ask until there is an answer. Only for what may be asked twice; the caller's scope is what ends it."""
    delay = FIRST_DELAY
    while True:
        try:
            return await ask()
        except PlatformError as error:
            if not out_of_reach(error):
                raise
        await trio.sleep(delay)
        delay = min(delay * 2, MAX_DELAY)
