"""Resources of every kind: create, read, change, delete. Nothing here knows one kind from another."""

from __future__ import annotations

import re
from functools import cached_property
from typing import Final, cast, get_args

from quart import Response, current_app, request
from quart_trio import QuartTrio
from werkzeug.exceptions import NotFound as RoutingNotFound
from werkzeug.routing import BaseConverter

from platformd.api import longpoll, problems
from platformd.api.access import check_steps, check_subjects, needs
from platformd.api.asked import asked
from platformd.api.context import ApiContext
from platformd.api.kind_watch import asked_fields, followed_kinds
from platformd.api.openapi import Answer, Body, Of, Parameter, operation
from platformd.api.openapi.parameters import (
    AFTER,
    BODY_PROBLEMS,
    CASCADE,
    CURSOR,
    DRY_RUN,
    EVENT,
    EVENTS,
    FIELD,
    IF_MATCH,
    IF_NONE_MATCH,
    IF_NONE_MATCH_ANY,
    LABEL,
    NOT_MODIFIED,
    REPORT,
    SORT,
    WAIT,
    WATCHING,
    WRITE_PROBLEMS,
    limit,
)
from platformd.api.openapi.shapes import KindDescription, Kinds
from platformd.api.places import find_plural, tenant_or_all
from platformd.api.replies import (
    JSON,
    MERGE_PATCH,
    Query,
    encode,
    etag,
    expected_revision,
    json_body,
    known_revision,
    must_be_absent,
    reply,
)
from platformd.api.watch import Followed, Watches, check_watch
from platformd.api.watch_events import events_response
from platformd.api.watch_socket import serve_socket
from platformd.conductor.conductor import Cascade
from platformd.conductor.facts import Applied
from platformd.conductor.refusals import exists_already
from platformd.coordination.contract import FutureRevision
from platformd.core.errors import Conflict, Gone, InvalidInput, NotFound, PreconditionFailed, Unprocessable, Unsupported
from platformd.model.describing import describe_kind
from platformd.model.kind import Kind
from platformd.model.resource import DEFAULT_TENANT

_KIND_IN_PATH = re.compile(r"^/v1/(?:tenants/[^/]+/)?([^/]+)")

DEFAULT_PAGE = 500
MAX_PAGE = 1000
"""How many resources a page of a listing has: when nobody says, and at most."""
WATCHED: Final = ("watch", "after", "label", "field")
LISTED: Final = ("limit", "cursor", "sort")
"""What a watch of one kind, and what a listing may be told."""


class Resources:
    """The routes under ``/v1``."""

    def __init__(self, context: ApiContext, watches: Watches) -> None:
        self._conductor = context.conductor
        self._watches = watches
        self._kinds = {kind.plural: kind for kind in context.conductor.kinds}

    def add_to(self, app: QuartTrio) -> None:
        """Route requests here."""
        # Only what is a kind: else /v1/kv/KEY would seem to take all that a resource takes.
        app.url_map.converters["kind"] = type("Plural", (BaseConverter,), {"regex": "|".join(self._kinds)})
        app.register_error_handler(RoutingNotFound, self._no_such_path)
        app.add_url_rule("/v1/kinds", "kinds", self.kinds, methods=["GET"])
        app.add_url_rule("/v1/kinds/<word>", "kind", self.kind, methods=["GET"])
        for prefix, whose in (("/v1", ""), ("/v1/tenants/<tenant>", "tenant_")):
            app.add_url_rule(f"{prefix}/watch", f"{whose}watch", self.watch, methods=["GET"])
            app.add_websocket(f"{prefix}/watch", f"{whose}watch_socket", self.follow_many)
            many, one = f"{prefix}/<kind:plural>", f"{prefix}/<kind:plural>/<name>"
            app.add_url_rule(many, f"{whose}list", self.list, methods=["GET"])
            app.add_websocket(many, f"{whose}list_socket", self.follow)
            app.add_url_rule(many, f"{whose}create", self.create, methods=["POST"])
            app.add_url_rule(one, f"{whose}get", self.get, methods=["GET"])
            app.add_url_rule(one, f"{whose}replace", self.replace, methods=["PUT"])
            app.add_url_rule(one, f"{whose}patch", self.patch, methods=["PATCH"])
            app.add_url_rule(one, f"{whose}delete", self.delete, methods=["DELETE"])
            app.add_url_rule(f"{one}/actions/<action>", f"{whose}act", self.act, methods=["POST"])

    @needs("status.read")
    @operation("listKinds", "Resources", answers={200: Answer("The kinds.", Kinds)})
    async def kinds(self) -> Response:
        """GET /v1/kinds: what there is, with the schema and the columns of each."""
        Query()
        return Response(self._kinds_body, content_type=JSON)

    @needs("status.read")
    @operation("getKind", "Resources", answers={200: Answer("The kind.", KindDescription)}, problems=(NotFound,))
    async def kind(self, word: str) -> Response:
        """GET /v1/kinds/KIND: one of them, by its name, its plural or an alias."""
        Query()
        for kind in self._kinds.values():
            if word.lower() in (kind.singular, kind.plural, *kind.aliases):
                return reply(describe_kind(kind))
        return reply(describe_kind(self._kind(word)))

    @needs("resources.read")
    @operation(
        "watchResources",
        "Resources",
        parameters=(
            Parameter(name="kinds", description="Plural names of kinds, with commas between; without it, all."),
            LABEL,
            *WATCHING,
        ),
        answers={200: Answer("The changes.", EVENT, ("text/event-stream",))},
        problems=(NotFound, Gone),
    )
    async def watch(self, tenant: str = DEFAULT_TENANT) -> Response:
        """GET /v1/watch?kinds=a,b: the changes of several kinds on one connection; without kinds, of all."""
        return events_response(self._watches, self._followed_many(tenant))

    @needs("resources.read")
    async def follow_many(self, tenant: str = DEFAULT_TENANT) -> None:
        """WebSocket /v1/watch?kinds=a,b: the same."""
        await serve_socket(self._watches, self._followed_many(tenant))

    @needs("resources.read")
    async def follow(self, plural: str, tenant: str = DEFAULT_TENANT) -> None:
        """WebSocket /v1/PLURAL?watch: the changes of one kind."""
        kind = self._kind(plural)
        await serve_socket(self._watches, self._followed(kind, tenant, check_watch(Query(*WATCHED, *kind.filters))))

    def _followed(self, kind: Kind, tenant: str, query: Query) -> Followed:
        return followed_kinds(self._conductor, [kind], tenant, query)

    def _followed_many(self, tenant: str) -> Followed:
        query = Query("kinds", "after", "label", "watch")
        words = [word.strip() for word in query.text("kinds").split(",") if word.strip()]
        kinds = [self._kind(word) for word in words] or list(self._kinds.values())
        return followed_kinds(self._conductor, kinds, tenant, query)

    @needs("resources.read")
    @operation(
        "list{Kinds}",
        "{Kinds}",
        parameters=(limit(DEFAULT_PAGE, MAX_PAGE), CURSOR, SORT, LABEL, FIELD, *WATCHING, WAIT),
        answers={200: Answer("The page.", Of.PAGE, also=EVENTS)},
        problems=(Gone, FutureRevision),
    )
    async def list(self, plural: str, tenant: str = DEFAULT_TENANT) -> Response:
        """GET /v1/PLURAL: a page of the resources, or with ``?watch`` their changes."""
        kind = self._kind(plural)
        if "watch" in request.args and Query(*WATCHED, *LISTED, *kind.filters).flag("watch"):
            query = Query(*WATCHED, *kind.filters)
            return events_response(self._watches, self._followed(kind, tenant, query))
        query = Query("label", "field", "watch", *longpoll.PARAMETERS, *LISTED, *kind.filters)
        await longpoll.wait_for_change(self._watches, self._conductor, kind, tenant_or_all(tenant), query)
        page = await self._conductor.list(
            kind,
            tenant_or_all(tenant),
            selector=query.text("label"),
            fields=asked_fields(kind, query),
            sort=query.text("sort"),
            limit=query.number("limit", DEFAULT_PAGE, 1, MAX_PAGE),
            cursor=query.text("cursor") or None,
        )
        return reply(page)

    @needs("resources.write")
    @operation(
        "create{Kind}",
        "{Kinds}",
        parameters=(DRY_RUN, REPORT),
        body=Body(Of.NEW),
        answers={201: Answer("It was made.", Of.WRITTEN, headers=("ETag", "Location", "Platformd-Outcome"))},
        problems=(NotFound, Conflict, *BODY_PROBLEMS, *WRITE_PROBLEMS),
    )
    async def create(self, plural: str, tenant: str = DEFAULT_TENANT) -> Response:
        """POST /v1/PLURAL: a new resource."""
        kind, query = self._kind(plural), Query("dry_run", "report")
        wanted = self._conductor.decode(kind, await json_body(JSON), tenant=tenant)
        how = How(query)
        try:
            done = await self._conductor.carry_out(
                [self._conductor.putting(wanted, expect_absent=True)], still=check_steps, dry_run=how.dry_run
            )
        except PreconditionFailed as error:
            raise exists_already(wanted) from error
        return _written(kind, done[0], how)

    @needs("resources.read")
    @operation(
        "get{Kind}",
        "{Kinds}",
        parameters=(AFTER, WAIT, IF_NONE_MATCH),
        answers={200: Answer("The resource.", Of.RESOURCE, headers=("ETag",)), 304: NOT_MODIFIED},
        problems=(NotFound, FutureRevision),
    )
    async def get(self, plural: str, name: str, tenant: str = DEFAULT_TENANT) -> Response:
        """GET /v1/PLURAL/NAME: one resource."""
        kind, query = self._kind(plural), Query(*longpoll.PARAMETERS)
        if query.text("wait") or query.text("after"):
            await self._conductor.get(kind, name, tenant)  # what is not there is not waited for
            await longpoll.wait_for_change(self._watches, self._conductor, kind, tenant, query, name)
        found = await self._conductor.get(kind, name, tenant)
        if known_revision() == found.revision:
            return Response(b"", 304, {"ETag": etag(found.revision)})
        return reply(found, ETag=etag(found.revision))

    @needs("resources.write")
    @operation(
        "apply{Kind}",
        "{Kinds}",
        parameters=(
            DRY_RUN,
            REPORT,
            Parameter(name="apply", description="Says who asks; changes nothing.", schema=bool, flag=True),
            IF_MATCH,
            IF_NONE_MATCH_ANY,
        ),
        body=Body(Of.WANTED),
        answers={
            200: Answer("It is as wanted.", Of.WRITTEN, headers=("ETag", "Platformd-Outcome")),
            201: Answer("It was made.", Of.WRITTEN, headers=("ETag", "Location", "Platformd-Outcome")),
        },
        problems=(NotFound, Conflict, PreconditionFailed, *BODY_PROBLEMS, *WRITE_PROBLEMS),
    )
    async def replace(self, plural: str, name: str, tenant: str = DEFAULT_TENANT) -> Response:
        """PUT /v1/PLURAL/NAME: what a user decides becomes what the body says; created if it is not there."""
        kind, query = self._kind(plural), Query("dry_run", "apply", "report")
        query.flag("apply")  # says who asks; every PUT is answered as apply wants it
        how = How(query)
        revision, must_exist = expected_revision()
        absent = must_be_absent()
        wanted = self._conductor.decode(kind, await json_body(JSON), name=name, tenant=tenant)
        check_subjects(kind, wanted)
        try:
            done = await self._conductor.apply(
                wanted, expect_revision=revision, create=not must_exist, expect_absent=absent, dry_run=how.dry_run
            )
        except NotFound as error:
            if not must_exist:
                raise
            raise PreconditionFailed("it is not there", subject=error.subject, hint="leave out If-Match") from error
        return _written(kind, done, how)

    @needs("resources.write")
    @operation(
        "patch{Kind}",
        "{Kinds}",
        parameters=(DRY_RUN, REPORT, IF_MATCH),
        body=Body(Of.PATCH, (MERGE_PATCH, JSON), example={"labels": {"site": "north"}}),
        answers={200: Answer("It is as wanted.", Of.WRITTEN, headers=("ETag", "Platformd-Outcome"))},
        problems=(NotFound, Conflict, PreconditionFailed, *BODY_PROBLEMS, *WRITE_PROBLEMS),
    )
    async def patch(self, plural: str, name: str, tenant: str = DEFAULT_TENANT) -> Response:
        """PATCH /v1/PLURAL/NAME: change parts of one by a merge patch (RFC 7396)."""
        kind, how = self._kind(plural), How(Query("dry_run", "report"))
        revision, _ = expected_revision()
        document = await json_body(MERGE_PATCH, JSON)
        if not isinstance(document, dict):
            raise Unprocessable("a merge patch of a resource is an object", subject=f"{kind.singular}/{name}")
        wish = self._conductor.patching(kind, name, tenant, document, revision)
        done = (await self._conductor.carry_out([wish], still=check_steps, dry_run=how.dry_run))[0]
        return _written(kind, done, how)

    @needs("resources.delete")
    @operation(
        "delete{Kind}",
        "{Kinds}",
        parameters=(DRY_RUN, REPORT, CASCADE, IF_MATCH),
        answers={
            200: Answer("It is gone; what it was.", Of.WRITTEN),
            202: Answer("It goes when its controller has cleaned up.", Of.WRITTEN),
        },
        problems=(NotFound, Conflict, PreconditionFailed, *WRITE_PROBLEMS),
    )
    async def delete(self, plural: str, name: str, tenant: str = DEFAULT_TENANT) -> Response:
        """DELETE /v1/PLURAL/NAME: remove one; 200 when it is gone, 202 when a controller must clean up first."""
        kind, query = self._kind(plural), Query("dry_run", "report", "cascade")
        how = How(query)
        cascade = query.text("cascade", "background")
        if cascade not in get_args(Cascade):
            raise InvalidInput(f"{cascade!r} is neither background nor orphan", subject="cascade")
        revision, _ = expected_revision()
        done = await self._conductor.remove(
            kind,
            name,
            tenant,
            expect_revision=revision,
            dry_run=how.dry_run,
            cascade=cast("Cascade", cascade),
            tell=how.report,
        )
        return reply(done if how.report else done.resource, 200 if done.outcome == "deleted" else 202)

    @needs("resources.act")
    @operation(
        "actOn{Kind}",
        "{Kinds}",
        body=Body({"type": "object", "description": "The action's parameters; the kind says which."}, required=False),
        answers={200: Answer("What the action answers, or the resource as it is then.", {"type": "object"})},
        problems=(NotFound, Conflict, Unsupported, *BODY_PROBLEMS, *WRITE_PROBLEMS),
    )
    async def act(self, plural: str, name: str, action: str, tenant: str = DEFAULT_TENANT) -> Response:
        """POST /v1/PLURAL/NAME/actions/ACTION: do one of the kind's actions; the body has its parameters, if any."""
        kind, _ = self._kind(plural), Query()
        parameters = await json_body(JSON) if request.mimetype or request.content_length else {}
        return reply(await self._conductor.actions.perform(kind, name, tenant, action, parameters))

    async def _no_such_path(self, error: RoutingNotFound) -> Response:
        """404: where a kind would stand, with the kinds."""
        match = _KIND_IN_PATH.match(asked.path)
        others = {rule.rule.split("/")[2] for rule in current_app.url_map.iter_rules() if rule.rule.startswith("/v1/")}
        if match is None or match[1] in self._kinds or match[1] in others:
            return await problems.on_http_error(error)
        try:
            self._kind(match[1])
        except NotFound as unknown:
            return problems.problem(unknown)
        raise AssertionError(match[1])

    def _kind(self, plural: str) -> Kind:
        return find_plural(self._kinds.values(), plural)

    @cached_property
    def _kinds_body(self) -> bytes:
        return encode({"items": [describe_kind(kind) for kind in self._kinds.values()]})


class How:
    """What a query says of a write."""

    def __init__(self, query: Query) -> None:
        self.dry_run = query.flag("dry_run")
        self.report = query.flag("report")


def _written(kind: Kind, done: Applied, how: How) -> Response:
    resource = done.resource
    headers: dict[str, str] = {"Platformd-Outcome": done.outcome}
    if not how.dry_run:
        headers["ETag"] = etag(resource.revision)
        if done.outcome == "created":
            whose = "" if resource.tenant == DEFAULT_TENANT else f"/tenants/{resource.tenant}"
            headers["Location"] = f"/v1{whose}/{kind.plural}/{resource.name}"
    body = encode(done if how.report else resource)
    return Response(body, 201 if done.outcome == "created" else 200, headers, content_type=JSON)
