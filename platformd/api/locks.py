"""Locks over REST: named, fair, with a fencing revision, held by a lease.

Who asks with a lease of its own keeps its place in the queue until it gives it up (DELETE) or its lease ends, so a
lost connection or a restart of the daemon costs no place: the same request goes on where it was. Who asks without one
is granted a lease of the lock's ``ttl``, and the place goes when the request does. Either way the holder keeps the
lease alive, ``POST /v1/leases/ID/keepalive``, and has the lock for as long as the lease lives; while a request waits,
the daemon does it.
"""

from __future__ import annotations

from functools import partial
from typing import Annotated, Any, Final

import msgspec
import trio
from quart import Response, request
from quart_trio import QuartTrio

from platformd.api.access import allowed_store, needs, principal
from platformd.api.context import ApiContext
from platformd.api.kv_forms import key_in_path, lease_number, lease_text, put_bytes
from platformd.api.leases import duration, lease_member, members
from platformd.api.openapi import Answer, Body, Parameter, operation
from platformd.api.openapi.parameters import BODY_PROBLEMS, WRITE_PROBLEMS
from platformd.api.openapi.shapes import LockAcquired, LockListing, LockReleased, LockRequest, LockState
from platformd.api.replies import JSON, Query, json_body, reply
from platformd.coordination.contract import KeyValue, Store, prefix_end
from platformd.coordination.recipes import LockHeld, Place, acquire, kept_lease, user_keys
from platformd.coordination.recipes.lease import at_the_end
from platformd.coordination.recipes.lock import LOCKS
from platformd.coordination.recipes.places import give_up_place, place_key, places, queue_name, queue_prefix
from platformd.core.errors import Conflict, InvalidInput, NotFound, PlatformError, Unavailable

TAG: Final = "Locks"
LOCK_NAME: Final = {"name": Annotated[str, msgspec.Meta(min_length=1, description="The name of the lock.")]}

DEFAULT_TTL: Final = 15.0
"""Seconds that a lock outlives a holder that fell silent, when nobody says."""
MAX_WAIT: Final = 600.0
"""The longest that one request waits for a lock, seconds."""
MAX_OWNER: Final = 1024
"""Characters of what a holder says of itself."""
MAX_LISTED: Final = 1000
"""Places of all locks together that a listing reads."""


class Locks:
    """The routes of locks."""

    def __init__(self, context: ApiContext) -> None:
        self._all_keys = user_keys(context.store)
        self._stopping = context.stopping

    @property
    def _store(self) -> Store:
        return allowed_store(self._all_keys, "locks")

    def add_to(self, app: QuartTrio) -> None:
        """Route requests here."""
        app.add_url_rule("/v1/locks", "locks", self.list, methods=["GET"])
        one = "/v1/locks/<anything:name>"
        app.add_url_rule(one, "lock", self.get, methods=["GET"])
        app.add_url_rule(one, "acquire_lock", self.acquire, methods=["POST"])
        app.add_url_rule(one, "release_lock", self.release, methods=["DELETE"])

    @needs("locks.write")
    @operation(
        "acquireLock",
        TAG,
        path=LOCK_NAME,
        body=Body(LockRequest, example={"ttl": "15s", "wait": "10s", "owner": "backup@host"}),
        answers={201: Answer("The asker has it.", LockAcquired, headers=("Location",))},
        problems=(*BODY_PROBLEMS, *WRITE_PROBLEMS, NotFound, Conflict, LockHeld),
    )
    async def acquire(self, name: str) -> Response:
        """POST /v1/locks/NAME ``{"ttl"?, "lease"?, "wait"?, "owner"?}``: have the lock, or 409 with who has it."""
        Query()
        name = _name()
        document = members(await json_body(JSON), "ttl", "lease", "wait", "owner")
        wait = duration(document.get("wait", 0), "wait")
        if wait > MAX_WAIT:
            raise InvalidInput(
                f"one request waits for at most {MAX_WAIT:g}s",
                subject="wait",
                hint="ask again with the same lease: the place in the queue stays",
            )
        owner = document.get("owner", "")
        if not isinstance(owner, str) or len(owner) > MAX_OWNER:
            raise InvalidInput(f"is not a text of at most {MAX_OWNER} characters", subject="owner")
        lease_id = lease_member(document, "lease")
        if lease_id:
            place = await self._with_lease(name, lease_id, wait, owner)
            ttl = (await self._store.leases.get(place.lease_id)).ttl
        else:
            place, ttl = await self._granting(name, duration(document.get("ttl", DEFAULT_TTL), "ttl"), wait, owner)
        return reply(_place(place) | {"ttl": ttl}, 201, Location=request.scope["raw_path"].decode())

    async def _with_lease(self, name: str, lease_id: int, wait: float, owner: str) -> Place:
        async with kept_lease(self._store, lease_id=lease_id) as lease:
            with lease.guard():
                return await self._wait(name, lease_id, wait, owner, stay=True)

    async def _granting(self, name: str, ttl: float, wait: float, owner: str) -> tuple[Place, float]:
        lease = await self._store.leases.grant(ttl)
        try:
            async with kept_lease(self._store, lease_id=lease.id) as kept:
                with kept.guard():
                    return await self._wait(name, lease.id, wait, owner, stay=False), lease.ttl
        except BaseException:
            await at_the_end(partial(self._store.leases.revoke, lease.id))
            raise

    async def _wait(self, name: str, lease_id: int, wait: float, owner: str, *, stay: bool) -> Place:
        """Wait for the turn, or for the daemon's stop."""
        place: Place | None = None
        failure: PlatformError | None = None
        async with trio.open_nursery() as nursery:

            async def stop() -> None:
                await self._stopping.wait()
                nursery.cancel_scope.cancel()

            nursery.start_soon(stop)
            try:
                place = await acquire(self._store, name, lease_id, wait=wait, value=owner.encode(), stay=stay)
            except PlatformError as error:
                failure = error
            nursery.cancel_scope.cancel()
        if failure is not None:
            raise failure
        if place is None:
            raise Unavailable("the daemon is stopping", subject=name, hint="ask again; a place by your own lease stays")
        return place

    @needs("locks.write")
    @operation(
        "releaseLock",
        TAG,
        path=LOCK_NAME,
        parameters=(
            Parameter(name="lease", description="Whose place: the id of the lease.", required=True),
            Parameter(name="revoke", description="End the lease as well.", schema=bool, flag=True),
        ),
        answers={200: Answer("It is given up.", LockReleased)},
        problems=(NotFound, *WRITE_PROBLEMS),
    )
    async def release(self, name: str) -> Response:
        """DELETE /v1/locks/NAME?lease=ID: give up the lock, or the place in its queue; ``&revoke``: and the lease."""
        query = Query("lease", "revoke")
        name = _name()
        if not query.text("lease"):
            raise InvalidInput(
                "whose place? the lease is missing",
                subject="lease",
                hint="?lease=ID; to take a lock from its holder revoke the holder's lease: DELETE /v1/leases/ID",
            )
        lease_id = lease_number(query.text("lease"))
        key = place_key(queue_prefix(LOCKS, name), lease_id)
        kv = await self._store.get(key)
        if kv is None or not await give_up_place(self._store, key, kv.create_revision):
            raise NotFound("this lease has no place there", subject=f"lock {name}")
        if query.flag("revoke"):
            await self._store.leases.revoke(lease_id)
        return reply({"released": True})

    @needs("locks.read")
    @operation("getLock", TAG, path=LOCK_NAME, answers={200: Answer("The lock.", LockState)})
    async def get(self, name: str) -> Response:
        """GET /v1/locks/NAME: who has it, and who waits."""
        Query()
        name = _name()
        found = await places(self._store, queue_prefix(LOCKS, name))
        return reply(_state(name, found))

    @needs("locks.read")
    @operation("listLocks", TAG, answers={200: Answer("The locks.", LockListing)})
    async def list(self) -> Response:
        """GET /v1/locks: all locks that somebody has."""
        Query()
        tenant = principal().tenant
        prefix = f"{LOCKS}/".encode() if tenant is None else f"{LOCKS}/tenants%2F{tenant}%2F".encode()
        listing = await self._store.list(prefix, prefix_end(prefix), limit=MAX_LISTED)
        by_name: dict[str, list[KeyValue]] = {}
        for kv in sorted(listing.items, key=lambda kv: (kv.create_revision, kv.key)):
            by_name.setdefault(queue_name(LOCKS, kv.key), []).append(kv)
        items = [_state(name, by_name[name]) for name in sorted(by_name)]
        return reply({"items": items, "revision": listing.revision, "complete": not listing.more})


def _name() -> str:
    return key_in_path("/v1/locks/", "utf-8").decode()


def _state(name: str, found: list[KeyValue]) -> dict[str, Any]:
    shown = [
        {"owner": kv.value.decode(errors="replace"), "lease": lease_text(kv.lease), "revision": kv.create_revision}
        for kv in found
    ]
    return {"name": name, "holder": shown[0] if shown else None, "waiters": shown[1:]}


def _place(place: Place) -> dict[str, Any]:
    document: dict[str, Any] = {"name": place.name}
    put_bytes(document, "key", place.key)
    return document | {"lease": lease_text(place.lease_id), "revision": place.revision}
