"""Several resources changed at once."""

from __future__ import annotations

from quart import Response
from quart_trio import QuartTrio

from platformd.api.access import check_steps, needs, principal
from platformd.api.context import ApiContext
from platformd.api.openapi import Answer, Body, operation
from platformd.api.openapi.parameters import BODY_PROBLEMS, DRY_RUN, WRITE_PROBLEMS
from platformd.api.replies import JSON, Query, json_body, reply
from platformd.conductor.transactions import Transacted, Transaction, transact
from platformd.conductor.validation import validate
from platformd.core.errors import Conflict, NotFound, PreconditionFailed, Unprocessable
from platformd.model.access import check
from platformd.model.resource import DEFAULT_TENANT


class Transactions:
    """``/v1/transactions``."""

    def __init__(self, context: ApiContext) -> None:
        self._conductor = context.conductor

    def add_to(self, app: QuartTrio) -> None:
        """Route requests here."""
        for prefix, whose in (("/v1", ""), ("/v1/tenants/<tenant>", "tenant_")):
            app.add_url_rule(f"{prefix}/transactions", f"{whose}transact", self.transact, methods=["POST"])

    @needs("resources.write")
    @operation(
        "changeResources",
        "Resources",
        parameters=(DRY_RUN,),
        body=Body(
            Transaction,
            example={
                "changes": [{"op": "apply", "kind": "Stream", "name": "a", "document": {"spec": {"subjects": ["a.>"]}}}]
            },
        ),
        answers={200: Answer("All of it was done, at one revision.", Transacted)},
        problems=(NotFound, Conflict, PreconditionFailed, *BODY_PROBLEMS, *WRITE_PROBLEMS),
    )
    async def transact(self, tenant: str = DEFAULT_TENANT) -> Response:
        """POST /v1/transactions: change several resources at once. All of them at one revision, or none."""
        dry_run = Query("dry_run").flag("dry_run")
        wanted, errors = validate(await json_body(JSON), Transaction, "")
        if errors:
            raise Unprocessable("is not a valid transaction", subject="transaction", errors=tuple(errors))
        for i, change in enumerate(wanted.changes):
            kind = self._conductor.kind_named(change.kind)
            operation = "resources.delete" if change.op == "delete" else "resources.write"
            whose = tenant if kind is None else kind.whose(tenant, operation)
            check(principal(), operation, whose, f"changes[{i}]")
        return reply(await transact(self._conductor, wanted, tenant, also=check_steps, dry_run=dry_run))
