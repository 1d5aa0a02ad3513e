"""Leases over REST: keys that go by themselves when nobody keeps them alive."""

from __future__ import annotations

from bisect import bisect_right
from typing import Any

from quart import Response
from quart_trio import QuartTrio

from platformd.api.access import allowed_store, needs
from platformd.api.context import ApiContext
from platformd.api.kv_forms import lease_document, lease_number, lease_text
from platformd.api.openapi import Answer, Body, operation
from platformd.api.openapi.parameters import BODY_PROBLEMS, CURSOR, WRITE_PROBLEMS, limit
from platformd.api.openapi.shapes import LeaseDocument, LeaseGrant, LeaseListing, LeaseRevoked
from platformd.api.replies import JSON, Query, json_body, reply
from platformd.coordination.contract import Leases as StoredLeases
from platformd.coordination.recipes import user_keys
from platformd.core.errors import Conflict, InvalidInput, NotFound
from platformd.core.quantities import seconds

TAG = "Leases"

DEFAULT_PAGE = 500
MAX_PAGE = 1000
"""How many leases a page has: when nobody says, and at most."""


class Leases:
    """The routes of leases."""

    def __init__(self, context: ApiContext) -> None:
        self._all_keys = user_keys(context.store)

    @property
    def _leases(self) -> StoredLeases:
        return allowed_store(self._all_keys).leases

    def add_to(self, app: QuartTrio) -> None:
        """Route requests here."""
        one = "/v1/leases/<lease_id>"
        app.add_url_rule("/v1/leases", "leases", self.list, methods=["GET"])
        app.add_url_rule("/v1/leases", "grant_lease", self.grant, methods=["POST"])
        app.add_url_rule(one, "lease", self.get, methods=["GET"])
        app.add_url_rule(one, "revoke_lease", self.revoke, methods=["DELETE"])
        app.add_url_rule(f"{one}/keepalive", "keep_lease", self.keep_alive, methods=["POST"])

    @needs("leases.write")
    @operation(
        "grantLease",
        TAG,
        body=Body(LeaseGrant, example={"ttl": "30s"}),
        answers={201: Answer("The lease.", LeaseDocument, headers=("Location",))},
        problems=(*BODY_PROBLEMS, *WRITE_PROBLEMS, Conflict),
    )
    async def grant(self) -> Response:
        """POST /v1/leases ``{"ttl": "30s", "id"?}``: a new lease; the ttl is moved into the configured range."""
        Query()
        document = members(await json_body(JSON), "ttl", "id")
        wanted = lease_member(document, "id")
        lease = await self._leases.grant(duration(document.get("ttl"), "ttl"), lease_id=wanted)
        return reply(lease_document(lease), 201, Location=f"/v1/leases/{lease_text(lease.id)}")

    @needs("leases.read")
    @operation(
        "listLeases",
        TAG,
        parameters=(limit(DEFAULT_PAGE, MAX_PAGE), CURSOR),
        answers={200: Answer("The page.", LeaseListing)},
    )
    async def list(self) -> Response:
        """GET /v1/leases: a page of the leases, by id, without their keys."""
        query = Query("limit", "cursor")
        most = query.number("limit", DEFAULT_PAGE, 1, MAX_PAGE)
        found = await self._leases.list()
        after = lease_number(query.text("cursor"), "cursor") if query.text("cursor") else 0
        first = bisect_right(found, after, key=lambda lease: lease.id)
        page = found[first : first + most]
        more = first + most < len(found)
        items = [lease_document(lease) for lease in page]
        return reply({"items": items, "cursor": lease_text(page[-1].id) if more else None})

    @needs("leases.read")
    @operation("getLease", TAG, answers={200: Answer("The lease.", LeaseDocument)}, problems=(NotFound,))
    async def get(self, lease_id: str) -> Response:
        """GET /v1/leases/ID: how long it has left, and what is bound to it."""
        Query()
        return reply(lease_document(await self._leases.get(lease_number(lease_id)), keys=True))

    @needs("leases.write")
    @operation(
        "keepLeaseAlive", TAG, answers={200: Answer("The lease.", LeaseDocument)}, problems=(NotFound, *WRITE_PROBLEMS)
    )
    async def keep_alive(self, lease_id: str) -> Response:
        """POST /v1/leases/ID/keepalive: its time begins again."""
        Query()
        return reply(lease_document(await self._leases.keep_alive(lease_number(lease_id))))

    @needs("leases.write")
    @operation(
        "revokeLease",
        TAG,
        answers={200: Answer("What went with it.", LeaseRevoked)},
        problems=(NotFound, *WRITE_PROBLEMS),
    )
    async def revoke(self, lease_id: str) -> Response:
        """DELETE /v1/leases/ID: end it now, with everything that is bound to it."""
        Query()
        return reply({"deleted": await self._leases.revoke(lease_number(lease_id))})


def members(document: Any, *known: str) -> dict[str, Any]:
    """``document``, if it is an object with no other members than ``known``.

    Raises:
        InvalidInput: it is not.
    """
    if not isinstance(document, dict) or not document.keys() <= set(known):
        raise InvalidInput("the body is not what is wanted here", hint=f"an object with {', '.join(known)}")
    return document


def lease_member(document: dict[str, Any], name: str) -> int:
    """The lease that the member ``name`` says; 0 when it is not there.

    Raises:
        InvalidInput: it is no id of a lease.
    """
    value = document.get(name)
    if value is None:
        return 0
    if not isinstance(value, str):
        raise InvalidInput("is not a lease", subject=name, hint="write its id as it was told, in hex")
    return lease_number(value, name)


def duration(value: Any, name: str) -> float:
    """Seconds, from a duration (``30s``) or from a number of seconds.

    Raises:
        InvalidInput: it is neither, or negative.
    """
    if isinstance(value, str):
        return seconds(value)
    if isinstance(value, bool) or not isinstance(value, int | float) or value < 0:
        raise InvalidInput("is not a duration", subject=name, hint="write 30s, or a number of seconds")
    return float(value)
