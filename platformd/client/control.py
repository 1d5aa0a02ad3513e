"""The operations of the control API as requests, and what their answers mean; no I/O.

Each function makes the ``Request`` of one operation. A shell sends it, ``check``s the ``Response`` and reads
it with ``read_page``, ``read_outcome`` or ``platformd.client.reading.read_resource``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, cast

import msgspec

from platformd.client.http import Request, Response, make_request, path_of
from platformd.core.errors import PlatformError
from platformd.model.kind import Kind
from platformd.model.resource import DEFAULT_TENANT, AnyResource

MERGE_PATCH = "application/merge-patch+json"
"""RFC 7396."""

PAGE_LIMIT = 500
"""How many resources one page of a listing has."""

ALL_TENANTS = "-"
"""In place of a tenant, where resources are listed: all of them."""

Outcome = Literal["created", "configured", "unchanged"]
"""What applying a document did."""


@dataclass(frozen=True)
class DocumentPage:
    """One page of a listing."""

    items: list[dict[str, Any]]
    """The resources, as they were sent (decoded JSON)."""
    revision: int
    """The revision at which they were so; a watch goes on from it."""
    cursor: str | None
    """Where the next page begins; ``None`` when this was the last."""


def get(kind: Kind, name: str, *, tenant: str = DEFAULT_TENANT) -> Request:
    """Read one resource."""
    return make_request("GET", path_of(kind.plural, name, tenant=tenant))


def list_page(
    kind: Kind,
    *,
    tenant: str = DEFAULT_TENANT,
    selector: str = "",
    fields: str = "",
    limit: int = PAGE_LIMIT,
    cursor: str | None = None,
) -> Request:
    """Read one page of a kind, in the order of names; ``tenant`` may be ``ALL_TENANTS``."""
    query = {"limit": str(limit)}
    if selector:
        query["label"] = selector
    if fields:
        query["field"] = fields
    if cursor is not None:
        query["cursor"] = cursor
    return make_request("GET", path_of(kind.plural, tenant=tenant), query=query)


def create(
    kind: Kind, resource: AnyResource | Mapping[str, Any], *, tenant: str = DEFAULT_TENANT, dry_run: bool = False
) -> Request:
    """Create a resource; refused when it is there."""
    document = document_of(resource)
    return make_request("POST", path_of(kind.plural, tenant=tenant), query=_query(dry_run=dry_run), json=document)


def apply(
    kind: Kind,
    resource: AnyResource | Mapping[str, Any],
    *,
    tenant: str = DEFAULT_TENANT,
    dry_run: bool = False,
    expect_revision: int | None = None,
    report: bool = False,
) -> Request:
    """Make the resource what the document says: create it, or replace its spec, labels and annotations.

    With ``report`` the answer tells what was done: see ``read_report``.
    """
    document = document_of(resource)
    path = path_of(kind.plural, str(document.get("name", "")), tenant=tenant)
    query = _query(apply=True, dry_run=dry_run, report=report)
    return make_request("PUT", path, query=query, json=document, headers=_if_match(expect_revision))


def patch(
    kind: Kind,
    name: str,
    changes: Mapping[str, Any],
    *,
    tenant: str = DEFAULT_TENANT,
    dry_run: bool = False,
    expect_revision: int | None = None,
) -> Request:
    """Change members of a resource (RFC 7396: ``null`` removes one)."""
    return make_request(
        "PATCH",
        path_of(kind.plural, name, tenant=tenant),
        query=_query(dry_run=dry_run),
        json=dict(changes),
        content_type=MERGE_PATCH,
        headers=_if_match(expect_revision),
    )


def delete(
    kind: Kind,
    name: str,
    *,
    tenant: str = DEFAULT_TENANT,
    dry_run: bool = False,
    expect_revision: int | None = None,
    report: bool = False,
) -> Request:
    """Delete a resource. Answered 200 when it is gone, 202 when its controller has to clean up first."""
    path = path_of(kind.plural, name, tenant=tenant)
    return make_request(
        "DELETE", path, query=_query(dry_run=dry_run, report=report), headers=_if_match(expect_revision)
    )


def put_consumer(stream: str, name: str, config: Mapping[str, Any], *, tenant: str = DEFAULT_TENANT) -> Request:
    """Create a stream's consumer, or change its limits. ``config`` has the fields of ``ConsumerConfig``."""
    return make_request("PUT", path_of("streams", stream, "consumers", name, tenant=tenant), json=dict(config))


def list_consumers(stream: str, *, tenant: str = DEFAULT_TENANT) -> Request:
    """Read where a stream's consumers are; the items are ``ConsumerInfo``."""
    return make_request("GET", path_of("streams", stream, "consumers", tenant=tenant))


def delete_consumer(stream: str, name: str, *, tenant: str = DEFAULT_TENANT) -> Request:
    """Remove a stream's consumer; records are not touched."""
    return make_request("DELETE", path_of("streams", stream, "consumers", name, tenant=tenant))


def status() -> Request:
    """What the daemon is and does."""
    return make_request("GET", "/status")


def read_page(response: Response) -> DocumentPage:
    """The page in an answer to ``list_page``.

    Raises:
        PlatformError: the answer is a failure, or is not a page.
    """
    document = response.check().json()
    items = document.get("items") if isinstance(document, dict) else None
    if not isinstance(items, list):
        raise PlatformError("the server's answer is not a listing", hint="is this platformd's address?")
    return DocumentPage(items, int(document.get("revision") or 0), document.get("cursor"))


def read_outcome(response: Response) -> Outcome:
    """What an answer to ``apply`` says was done.

    Raises:
        PlatformError: the answer is a failure.
    """
    said = response.check().headers.get("platformd-outcome")
    if said in ("created", "configured", "unchanged"):
        return cast("Outcome", said)
    return "created" if response.status == 201 else "configured"


def read_report(response: Response) -> dict[str, Any]:
    """What an answer to a request with ``report`` says: outcome, resource, changes, more, dependents.

    A daemon that reports nothing answers with the resource, of which only the outcome is known.

    Raises:
        PlatformError: the answer is a failure.
    """
    document = response.check().json()
    if isinstance(document, dict) and "outcome" in document and "resource" in document:
        return document
    return {"outcome": read_outcome(response), "resource": document, "changes": [], "more": 0, "dependents": []}


def document_of(resource: AnyResource | Mapping[str, Any]) -> dict[str, Any]:
    """The document (JSON types) to send for ``resource``; what the server owns in it is ignored there."""
    if isinstance(resource, msgspec.Struct):
        return cast("dict[str, Any]", msgspec.to_builtins(resource))
    return dict(resource)


def _query(*, apply: bool = False, dry_run: bool = False, report: bool = False) -> dict[str, str]:
    given = {"apply": apply, "dry_run": dry_run, "report": report}
    return {name: "true" for name, value in given.items() if value}


def _if_match(expect_revision: int | None) -> dict[str, str]:
    return {} if expect_revision is None else {"if-match": f'"{expect_revision}"'}
