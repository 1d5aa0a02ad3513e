"""What the conductor refuses, in words, and the checks that do."""

from __future__ import annotations

from typing import Final

from platformd.core.errors import Conflict, NotFound, PreconditionFailed
from platformd.model.kind import Kind, subject_of
from platformd.model.resource import DEFAULT_TENANT, AnyResource, Status

MAX_CONTENTION: Final = 64
"""How often a write is tried again when others change the object in between."""


def missing(kind: Kind, name: str, tenant: str) -> NotFound:
    """It is not there."""
    where = "" if tenant == DEFAULT_TENANT else f" in tenant {tenant!r}"
    return NotFound(f"is not there{where}", subject=f"{kind.singular}/{name}")


def exists_already(resource: AnyResource) -> Conflict:
    """It was to be created, and is there."""
    hint = "change it with apply, or choose another name"
    return Conflict("exists already", subject=subject_of(resource), hint=hint)


def contended(subject: str) -> Conflict:
    """Others were quicker every time."""
    message = f"others changed it {MAX_CONTENTION} times while this write was tried"
    return Conflict(message, subject=subject, hint="try again")


def check_transition(kind: Kind, current: AnyResource, status: Status) -> None:
    """See that the state table allows what ``status`` says.

    Raises:
        Conflict: it does not; the hint names the legal states.
    """
    before, after = current.status.state, status.state
    if before == after or not kind.transitions:
        return
    legal = kind.transitions.get(before, frozenset())
    if after not in legal:
        raise Conflict(
            f"cannot go from {before!r} to {after!r}",
            subject=subject_of(current),
            hint=f"from {before!r} it may go to: {', '.join(sorted(legal)) or 'nothing'}",
        )


def check_expected(subject: str, current: AnyResource | None, revision: int | None, *, absent: bool = False) -> None:
    """See that what was expected holds.

    Args:
        subject: the resource, for the error.
        current: what is there.
        revision: the revision that it must have; ``None`` for any.
        absent: whether nothing may be there.

    Raises:
        PreconditionFailed: it does not.
    """
    if absent and current is not None:
        raise PreconditionFailed("is there already", subject=subject)
    if revision is not None and (current is None or current.revision != revision):
        found = "is not there" if current is None else f"has revision {current.revision}"
        raise PreconditionFailed(
            f"revision {revision} was expected, but it {found}",
            subject=subject,
            hint="read it again, make your change, and send it with the new revision",
        )
