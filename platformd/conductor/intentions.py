"""What a write wants, decided anew each time somebody else was quicker: from what is there to what shall be.

Pure but for the look at owners. ``Conductor`` carries the decisions out.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import msgspec

from platformd.conductor import documents
from platformd.conductor.facts import Outcome
from platformd.conductor.history import What
from platformd.conductor.refusals import check_expected, missing
from platformd.conductor.writing import Seen, Step
from platformd.core.errors import Conflict
from platformd.core.ids import NewId
from platformd.model.kind import Kind, subject_of
from platformd.model.resource import AnyResource, Owner

USERS = ("labels", "annotations", "owner", "spec")
"""Members that a user's write sets."""

Decision = tuple[Step | None, AnyResource, Outcome]
"""What to do (``None``: nothing), the resource as it is then, and the word for it."""


class Intention(msgspec.Struct, frozen=True, kw_only=True):
    """A wish about one resource."""

    kind: Kind
    name: str
    tenant: str
    decide: Callable[[Seen], Awaitable[Decision]]
    """Raises to refuse."""

    @property
    def subject(self) -> str:
        """How errors name the resource."""
        return f"{self.kind.singular}/{self.name}"


class Wishes:
    """Makes intentions.

    Args:
        new_id: for uids.
        now: the time, as it stands in resources.
        decode: a resource from a document, completely validated: see ``Conductor.decode``.
        with_owner: a resource with its owner's uid filled in; takes the resource and what is there now.
    """

    def __init__(
        self,
        new_id: NewId,
        now: Callable[[], str],
        decode: Callable[..., AnyResource],
        with_owner: Callable[[AnyResource, AnyResource | None], Awaitable[AnyResource]],
    ) -> None:
        self._new_id, self._now, self._decode, self._with_owner = new_id, now, decode, with_owner

    def put(
        self, kind: Kind, wanted: AnyResource, *, revision: int | None = None, create: bool = True, absent: bool = False
    ) -> Intention:
        """That the users' members become what ``wanted`` says; see ``Conductor.replace``."""

        async def decide(seen: Seen) -> Decision:
            check_expected(subject_of(wanted), seen.resource, revision, absent=absent)
            if seen.resource is None and not create:
                raise missing(kind, wanted.name, wanted.tenant)
            return self._next(kind, seen, await self._with_owner(wanted, seen.resource))

        return Intention(kind=kind, name=wanted.name, tenant=wanted.tenant, decide=decide)

    def patch(
        self, kind: Kind, name: str, tenant: str, patch: Mapping[str, Any], *, revision: int | None = None
    ) -> Intention:
        """That a merge patch is applied; see ``Conductor.patch``."""

        async def decide(seen: Seen) -> Decision:
            if seen.resource is None:
                raise missing(kind, name, tenant)
            merged = documents.merge_patch(documents.to_document(seen.resource), patch)
            wanted = self._decode(kind, merged, name=name, tenant=tenant)
            check_expected(subject_of(wanted), seen.resource, revision)
            return self._next(kind, seen, await self._with_owner(wanted, seen.resource))

        return Intention(kind=kind, name=name, tenant=tenant, decide=decide)

    def delete(self, kind: Kind, name: str, tenant: str, *, revision: int | None = None) -> Intention:
        """That it goes: at once, or when its finalizers are done."""

        async def decide(seen: Seen) -> Decision:
            current = seen.resource
            if current is None:
                raise missing(kind, name, tenant)
            check_expected(subject_of(current), current, revision)
            if not current.finalizers:
                return Step(kind=kind, seen=seen, what="deleted", wanted=None), current, "deleted"
            if current.deleting_at is not None:
                return None, current, "deleting"
            marked = msgspec.structs.replace(current, deleting_at=self._now(), updated_at=self._now())
            return _step(kind, seen, "deleting", marked), marked, "deleting"

        return Intention(kind=kind, name=name, tenant=tenant, decide=decide)

    def disown(self, kind: Kind, name: str, tenant: str, owner: Owner) -> Intention:
        """That it does not belong to ``owner`` any more."""

        async def decide(seen: Seen) -> Decision:
            current = seen.resource
            if current is None or current.owner != owner or current.deleting_at is not None:
                raise Conflict("what belongs to it changed meanwhile", subject=f"{kind.singular}/{name}")
            freed = msgspec.structs.replace(current, owner=None, updated_at=self._now())
            return _step(kind, seen, "configured", freed), freed, "configured"

        return Intention(kind=kind, name=name, tenant=tenant, decide=decide)

    def _next(self, kind: Kind, seen: Seen, wanted: AnyResource) -> Decision:
        now, current = self._now(), seen.resource
        if current is None:
            new = msgspec.structs.replace(
                wanted,
                uid=self._new_id(),
                generation=1,
                revision=0,
                created_at=now,
                updated_at=now,
                deleting_at=None,
                finalizers=(kind.finalizer,) if kind.finalizer else (),
                status=kind.status(),
            )
            return _step(kind, seen, "created", new), new, "created"
        theirs = {member: getattr(wanted, member) for member in USERS}
        if all(getattr(current, member) == value for member, value in theirs.items()):
            return None, current, "unchanged"
        if current.deleting_at is not None:
            raise Conflict(
                "is being deleted", subject=subject_of(current), hint="wait until it is gone, then create it anew"
            )
        generation = current.generation + (current.spec != wanted.spec)
        changed = msgspec.structs.replace(current, **theirs, generation=generation, updated_at=now)
        return _step(kind, seen, "configured", changed), changed, "configured"


def _step(kind: Kind, seen: Seen, what: What, wanted: AnyResource) -> Step:
    return Step(kind=kind, seen=seen, what=what, wanted=wanted)
