"""What happened to resources: who changed what, when and why; and what controllers make of them."""

from __future__ import annotations

from typing import Final

import msgspec
from quart import Response
from quart_trio import QuartTrio

from platformd.api.access import needs
from platformd.api.context import ApiContext
from platformd.api.openapi import Answer, Parameter, operation
from platformd.api.openapi.parameters import CURSOR, limit
from platformd.api.places import find_plural, tenant_or_all
from platformd.api.replies import Query, reply
from platformd.conductor.history import Records
from platformd.conductor.reconcile import Looked, looks
from platformd.core.errors import NotFound
from platformd.model.resource import DEFAULT_TENANT

DEFAULT_PAGE: Final = 100
MAX_PAGE: Final = 1000
"""How many records a page has: when nobody says, and at most."""
LIMIT: Final = limit(DEFAULT_PAGE, MAX_PAGE)


class Reconciliation(msgspec.Struct, frozen=True, kw_only=True):
    """How the controllers stand to a resource."""

    items: tuple[Looked, ...]
    """One for each controller that knows it; none on a daemon that does not lead."""


class Histories:
    """The routes that end in ``history``."""

    def __init__(self, context: ApiContext) -> None:
        self._conductor = context.conductor

    def add_to(self, app: QuartTrio) -> None:
        """Route requests here."""
        for prefix, whose in (("/v1", ""), ("/v1/tenants/<tenant>", "tenant_")):
            app.add_url_rule(f"{prefix}/history", f"{whose}recent", self.recent, methods=["GET"])
            one = f"{prefix}/<kind:plural>/<name>/history"
            app.add_url_rule(one, f"{whose}history", self.history, methods=["GET"])
            looks = f"{prefix}/<kind:plural>/<name>/reconcile"
            app.add_url_rule(looks, f"{whose}reconcile", self.reconcile, methods=["GET"])

    @needs("resources.read")
    @operation(
        "listHistory",
        "Resources",
        parameters=(
            Parameter(name="kind", description="Only changes of this kind: its plural name."),
            Parameter(name="actor", description="Only changes by this actor: `user:alice`, `controller:streams`."),
            LIMIT,
            CURSOR,
        ),
        answers={200: Answer("A page of changes, newest first.", Records)},
        problems=(NotFound,),
    )
    async def recent(self, tenant: str = DEFAULT_TENANT) -> Response:
        """GET /v1/history: what happened to all resources, newest first."""
        query = Query("kind", "actor", "limit", "cursor")
        word = query.text("kind")
        kind = find_plural(self._conductor.kinds, word) if word else None
        page = await self._conductor.recent(
            kind,
            tenant_or_all(tenant),
            actor=query.text("actor"),
            limit=query.number("limit", DEFAULT_PAGE, 1, MAX_PAGE),
            cursor=query.text("cursor") or None,
        )
        return reply(page)

    @needs("resources.read")
    @operation(
        "list{Kind}History",
        "{Kinds}",
        path={"name": str},  # of what never was there is no history
        parameters=(LIMIT, CURSOR),
        answers={200: Answer("A page of changes, newest first.", Records)},
        problems=(NotFound,),
    )
    async def history(self, plural: str, name: str, tenant: str = DEFAULT_TENANT) -> Response:
        """GET /v1/PLURAL/NAME/history: what happened to one resource, also when it is gone. Newest first."""
        query = Query("limit", "cursor")
        page = await self._conductor.history(
            find_plural(self._conductor.kinds, plural),
            name,
            tenant,
            limit=query.number("limit", DEFAULT_PAGE, 1, MAX_PAGE),
            cursor=query.text("cursor") or None,
        )
        return reply(page)

    @needs("resources.read")
    @operation(
        "get{Kind}Reconciliation",
        "{Kinds}",
        answers={200: Answer("How each controller stands to it.", Reconciliation)},
        problems=(NotFound,),
    )
    async def reconcile(self, plural: str, name: str, tenant: str = DEFAULT_TENANT) -> Response:
        """GET /v1/PLURAL/NAME/reconcile: which controllers look at it, whether they fail, and when they look again."""
        Query()
        found = await self._conductor.get(find_plural(self._conductor.kinds, plural), name, tenant)
        return reply(Reconciliation(items=looks(self._conductor, found)))
