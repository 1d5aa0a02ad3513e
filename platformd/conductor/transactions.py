"""Several changes at once: all of them at one revision, or none."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

import msgspec

from platformd.conductor.conductor import MAX_STEPS, Conductor, Rule
from platformd.conductor.facts import Applied
from platformd.conductor.intentions import Intention
from platformd.conductor.writing import Step
from platformd.coordination.contract import Compare
from platformd.core.errors import FieldError, PreconditionFailed, Unprocessable
from platformd.model.kind import Kind
from platformd.model.resource import DEFAULT_TENANT, Name, Struct

MAX_UNCHANGED = 16
"""Collections that a transaction may rest on."""


class ChangeWanted(Struct, frozen=True, kw_only=True):
    """One change of one resource."""

    op: Literal["create", "apply", "patch", "delete"]
    """``create`` only what is not there; ``apply`` whether it is or not; ``patch`` by a merge patch."""
    kind: str
    """The resource's kind: ``Stream``."""
    name: Name
    """The resource's name."""
    document: dict[str, Any] = {}
    """For ``create`` and ``apply`` the resource as a client sends it, for ``patch`` the patch."""
    revision: int | None = None
    """Only if this is its revision."""


class Unchanged(Struct, frozen=True, kw_only=True):
    """That a listing still holds: nothing of a kind came, went or was configured."""

    kind: str
    """The kind: ``Stream``."""
    since: Annotated[int, msgspec.Meta(ge=0)]
    """The revision of the listing."""


class Transaction(Struct, frozen=True, kw_only=True):
    """Changes that belong together, and what they rest on."""

    changes: Annotated[tuple[ChangeWanted, ...], msgspec.Meta(min_length=1, max_length=MAX_STEPS)]
    """What is to be done, each to another resource."""
    unchanged: Annotated[tuple[Unchanged, ...], msgspec.Meta(max_length=MAX_UNCHANGED)] = ()
    """Listings that must still hold, so that nothing is decided on what is no more so."""


class Transacted(Struct, frozen=True, kw_only=True):
    """What a transaction did."""

    results: tuple[Applied, ...]
    """In the order of the changes."""
    revision: int
    """The one revision of everything that was written; 0 when nothing was."""


async def transact(
    conductor: Conductor,
    wanted: Transaction,
    tenant: str = DEFAULT_TENANT,
    *,
    also: Rule | None = None,
    dry_run: bool = False,
) -> Transacted:
    """Do all changes at one revision, or none.

    Args:
        conductor: where.
        wanted: the changes.
        tenant: whose resources they are.
        also: a further rule over what is written.
        dry_run: decide and tell, but write nothing.

    Raises:
        Unprocessable: ``errors`` has everything that is wrong with any of the documents, each with its path.
        PreconditionFailed: a revision is another, or a listing does not hold any more.
        NotFound, Conflict, LimitReached: as for one change.
    """
    wishes = _wishes(conductor, wanted, tenant)
    kinds = [_kind(conductor, one.kind, f"unchanged[{i}].kind") for i, one in enumerate(wanted.unchanged)]

    async def still(steps: Sequence[Step]) -> Sequence[Compare]:
        if also is not None:
            await also(steps)
        compares = await conductor.writer.marks((kind.name, tenant) for kind in kinds)
        changed = {c.key: int(c.operand) for c in compares}
        for i, (compare, one) in enumerate(zip(compares, wanted.unchanged, strict=True)):
            if changed[compare.key] > one.since:
                raise PreconditionFailed(
                    f"{one.kind} resources changed at revision {compare.operand!r}, after {one.since}",
                    subject=f"unchanged[{i}]",
                    hint="list them again, decide anew, and send the listing's revision",
                )
        return compares

    done = await conductor.carry_out(
        wishes, still=still if wanted.unchanged or also is not None else None, dry_run=dry_run
    )
    return Transacted(results=tuple(done), revision=max(one.revision for one in done))


def _wishes(conductor: Conductor, wanted: Transaction, tenant: str) -> list[Intention]:
    wishes: list[Intention] = []
    errors: list[FieldError] = []
    places: dict[tuple[str, str], int] = {}
    for i, change in enumerate(wanted.changes):
        first = places.setdefault((change.kind, change.name), i)
        if first != i:
            message = f"is {change.kind}/{change.name} of changes[{first}] again"
            errors.append(FieldError(path=f"changes[{i}]", message=message, hint="say it in one change"))
        try:
            wishes.append(_wish(conductor, change, tenant))
        except Unprocessable as error:
            found = error.errors or (FieldError(path="", message=error.message, hint=error.hint),)
            errors += [_below(f"changes[{i}]", one) for one in found]
    for i, one in enumerate(wanted.unchanged):
        if one.kind in [before.kind for before in wanted.unchanged[:i]]:
            errors.append(FieldError(path=f"unchanged[{i}].kind", message=f"is {one.kind} again"))
    if errors:
        raise Unprocessable("is not a valid transaction", subject="transaction", errors=tuple(errors))
    return wishes


def _wish(conductor: Conductor, change: ChangeWanted, tenant: str) -> Intention:
    kind = _kind(conductor, change.kind, "kind")
    if change.op == "delete":
        return conductor.deleting(kind, change.name, tenant, change.revision)
    if change.op == "patch":
        return conductor.patching(kind, change.name, tenant, change.document, change.revision)
    try:
        resource = conductor.decode(kind, change.document, name=change.name, tenant=tenant)
    except Unprocessable as error:
        errors = tuple(_below("document", one) for one in error.errors)
        raise Unprocessable(error.message, subject=error.subject, errors=errors) from error
    return conductor.putting(resource, change.revision, expect_absent=change.op == "create")


def _kind(conductor: Conductor, name: str, path: str) -> Kind:
    kind = conductor.kind_named(name)
    if kind is None:
        known = ", ".join(kind.name for kind in conductor.kinds)
        error = FieldError(path=path, message=f"{name!r} is no kind", hint=f"one of: {known}")
        raise Unprocessable("there is no such kind", subject="transaction", errors=(error,))
    return kind


def _below(path: str, error: FieldError) -> FieldError:
    inner = error.path if not error.path or error.path.startswith("[") else f".{error.path}"
    return FieldError(path=f"{path}{inner}", message=error.message, hint=error.hint)
