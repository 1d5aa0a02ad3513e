"""Access over REST: who asks, who may what, what was refused, and the tokens. A token's secret is answered once."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from quart import Response
from quart_trio import QuartTrio

from platformd.access.tokens import Token, document
from platformd.api.access import needs, principal
from platformd.api.context import ApiContext
from platformd.api.openapi import Answer, Body, operation
from platformd.api.openapi.parameters import BODY_PROBLEMS, WRITE_PROBLEMS
from platformd.api.replies import JSON, Query, json_body, reply
from platformd.conductor.validation import validate
from platformd.core.errors import Conflict, LimitReached, NotFound, Unprocessable
from platformd.core.quantities import Duration, seconds
from platformd.model.access import Role, Scope, matrix
from platformd.model.resource import Name

TAG = "Access"
MAX_LIFE: float = 100 * 365 * 86400.0
"""The longest life of a token that has an end, seconds."""


class Shape(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What goes over the wire."""


class TokenRequest(Shape, frozen=True, kw_only=True):
    """What token is wanted."""

    name: Name
    role: Role
    tenant: Name | None = None
    """The only tenant that it may touch. Role ``tenant`` needs one; ``reader`` may have one."""
    expires_in: Duration | None = None
    """After so long it does not count any more; without it, it does until it is revoked."""


class TokenDocument(Shape, frozen=True, kw_only=True):
    """A token, without its secret."""

    id: str
    name: Name
    role: Role
    tenant: Name | None
    state: Literal["active", "revoked", "expired"]
    created_at: str
    created_by: str
    expires_at: str | None
    revoked_at: str | None
    last_used_at: str | None
    """Within ten minutes or so."""


class TokenCreated(TokenDocument, frozen=True, kw_only=True):
    """A new token, with its secret: nobody can be told it again."""

    token: str


class TokenListing(Shape, frozen=True, kw_only=True):
    """All tokens."""

    items: list[TokenDocument]


class Whoami(Shape, frozen=True, kw_only=True):
    """Who asks."""

    name: str
    role: Role | None
    tenant: Name | None
    how: Literal["peer", "token", "certificate", "anonymous"]


class MatrixRow(Shape, frozen=True, kw_only=True):
    """One operation."""

    operation: str
    summary: str
    roles: dict[Role, list[Scope]]
    """In which scopes each role may do it."""


class Matrix(Shape, frozen=True, kw_only=True):
    """Who may do what."""

    items: list[MatrixRow]


class Refusal(Shape, frozen=True, kw_only=True):
    """What was refused, and how often."""

    who: str
    how: str
    role: Role | None
    tenant: Name | None
    operation: str
    subject: str
    address: str
    code: str
    why: str
    first_at: str
    last_at: str
    count: Annotated[int, msgspec.Meta(ge=1)]


class Refusals(Shape, frozen=True, kw_only=True):
    """The newest refusals first; the oldest are forgotten."""

    items: list[Refusal]


class AccessRoutes:
    """The routes of access."""

    def __init__(self, context: ApiContext) -> None:
        self._gate, self._clock = context.gate, context.clock

    def add_to(self, app: QuartTrio) -> None:
        """Route requests here."""
        app.add_url_rule("/v1/access/whoami", "whoami", self.whoami, methods=["GET"])
        app.add_url_rule("/v1/access/matrix", "access_matrix", self.matrix, methods=["GET"])
        app.add_url_rule("/v1/access/audit", "access_audit", self.audit, methods=["GET"])
        app.add_url_rule("/v1/tokens", "tokens", self.list, methods=["GET"])
        app.add_url_rule("/v1/tokens", "create_token", self.create, methods=["POST"])
        app.add_url_rule("/v1/tokens/<word>", "revoke_token", self.revoke, methods=["DELETE"])

    @needs("status.read")
    @operation("getWhoami", TAG, answers={200: Answer("Who asks.", Whoami)})
    async def whoami(self) -> Response:
        """GET /v1/access/whoami: as whom the daemon sees whoever asks."""
        Query()
        who = principal()
        return reply({"name": who.name, "role": who.role, "tenant": who.tenant, "how": who.how})

    @needs("status.read")
    @operation("getAccessMatrix", TAG, answers={200: Answer("The table.", Matrix)})
    async def matrix(self) -> Response:
        """GET /v1/access/matrix: which role may do what, to whose things."""
        Query()
        return reply({"items": matrix()})

    @needs("access.read")
    @operation("listRefusals", TAG, answers={200: Answer("The refusals.", Refusals)})
    async def audit(self) -> Response:
        """GET /v1/access/audit: what was refused lately, to whom and why."""
        Query()
        return reply({"items": list(self._gate.audit.entries())})

    @needs("access.read")
    @operation("listTokens", TAG, answers={200: Answer("The tokens.", TokenListing)})
    async def list(self) -> Response:
        """GET /v1/tokens: all tokens, those that ended lately included, without their secrets."""
        Query()
        return reply({"items": [self._document(token) for token in self._gate.tokens.all()]})

    @needs("access.manage")
    @operation(
        "createToken",
        TAG,
        body=Body(TokenRequest, example={"name": "nightly", "role": "tenant", "tenant": "survey", "expires_in": "90d"}),
        answers={201: Answer("The token, with its secret.", TokenCreated)},
        problems=(Conflict, LimitReached, *BODY_PROBLEMS, *WRITE_PROBLEMS),
        repeatable=False,  # the answer would be kept, and the secret in it
    )
    async def create(self) -> Response:
        """POST /v1/tokens: a new token; its secret is in this answer and nowhere else."""
        Query()
        form, errors = validate(await json_body(JSON), TokenRequest, "")
        if errors:
            raise Unprocessable("the body is not valid", subject="token", errors=tuple(errors))
        expires = None
        if form.expires_in is not None:
            expires = self._clock.time_ns() + int(min(seconds(form.expires_in), MAX_LIFE) * 1e9)
        who = principal()
        token, secret = await self._gate.tokens.create(form.name, form.role, form.tenant, who, expires=expires)
        self._gate.audit.done(who, f"created token {token.name} ({token.id}) of role {token.role}")
        answer = reply(self._document(token) | {"token": secret}, 201)
        answer.headers["Cache-Control"] = "no-store"
        return answer

    @needs("access.manage")
    @operation(
        "revokeToken",
        TAG,
        answers={200: Answer("The token as it is now.", TokenDocument)},
        problems=(NotFound, Conflict, *WRITE_PROBLEMS),
    )
    async def revoke(self, word: str) -> Response:
        """DELETE /v1/tokens/TOKEN: end the token of that name or id now; watches that it began end too."""
        Query()
        token = await self._gate.tokens.revoke(word)
        self._gate.audit.done(principal(), f"revoked token {token.name} ({token.id})")
        return reply(self._document(token))

    def _document(self, token: Token) -> dict[str, object]:
        return document(token, self._clock.time_ns())
