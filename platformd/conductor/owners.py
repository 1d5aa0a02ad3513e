"""Who belongs to whom: a chain of owners is short, and never leads back to where it began."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Final

import msgspec

from platformd.conductor import documents
from platformd.conductor.facts import Dependent
from platformd.conductor.writing import ROOT
from platformd.coordination.contract import Store, prefix_end
from platformd.core.errors import Conflict, LimitReached, NotFound
from platformd.model.kind import Kind, subject_of
from platformd.model.resource import AnyResource, Owner

MAX_DEPTH: Final = 8
"""How many owners may stand above each other."""
MAX_DEPENDENTS: Final = 1000
"""How many dependents are told; all of them go."""

Find = Callable[[str, str], Awaitable[AnyResource | None]]
"""A resource of the same tenant by kind and name."""


def _left_over(owner: Owner, current: AnyResource | None) -> bool:
    """Whether the uid is that of the owner before: a merge patch that names another owner leaves it there."""
    before = None if current is None else current.owner
    return before is not None and owner.uid == before.uid and (owner.kind, owner.name) != (before.kind, before.name)


async def with_owner(find: Find, resource: AnyResource, current: AnyResource | None) -> AnyResource:
    """The resource with its owner's uid filled in, so that a later owner of that name is another.

    Raises:
        NotFound: its owner is not there.
        Conflict: it would own itself, over others.
        LimitReached: too many owners stand above each other.
    """
    owner = resource.owner
    if owner is None or (current is not None and current.owner == owner):
        return resource
    found = await find(owner.kind, owner.name)
    if found is None or (owner.uid and owner.uid != found.uid and not _left_over(owner, current)):
        raise NotFound("its owner is not there", subject=f"{owner.kind.lower()}/{owner.name}")
    above: AnyResource | None = found
    for _ in range(MAX_DEPTH + 1):
        if above is None or (above.kind, above.name) == (resource.kind, resource.name):
            break
        above = await find(above.owner.kind, above.owner.name) if above.owner is not None else None
    else:
        raise LimitReached(f"more than {MAX_DEPTH} owners stand above each other", subject=subject_of(resource))
    if above is not None:
        raise Conflict("would belong to itself", subject=subject_of(resource), hint="choose another owner")
    return msgspec.structs.replace(resource, owner=msgspec.structs.replace(owner, uid=found.uid))


async def owned_by(store: Store, kinds: Sequence[Kind], owner: AnyResource) -> list[tuple[Kind, AnyResource]]:
    """What belongs to ``owner`` directly."""
    return [(kind, r) for kind, r in await _owned(store, kinds, owner.tenant) if _is_of(r, owner)]


async def dependents_of(store: Store, kinds: Sequence[Kind], owner: AnyResource) -> tuple[Dependent, ...]:
    """What belongs to ``owner``, directly or over others, the nearest first; at most ``MAX_DEPENDENTS``."""
    owned = await _owned(store, kinds, owner.tenant)
    found: list[Dependent] = []
    level = [owner]
    for depth in range(1, MAX_DEPTH + 2):
        level = [r for _, r in owned if any(_is_of(r, above) for above in level)]
        found += [Dependent(kind=r.kind, name=r.name, depth=depth) for r in level]
        if not level:
            break
    return tuple(found[:MAX_DEPENDENTS])


def _is_of(resource: AnyResource, owner: AnyResource) -> bool:
    return resource.owner is not None and (resource.owner.kind, resource.owner.uid) == (owner.kind, owner.uid)


async def _owned(store: Store, kinds: Sequence[Kind], tenant: str) -> list[tuple[Kind, AnyResource]]:
    """Everything of a tenant that has an owner."""
    found = []
    for kind in kinds:
        prefix = ROOT + f"{kind.name}/{tenant}/".encode()
        for kv in (await store.list(prefix, prefix_end(prefix))).items if kind.recorded else ():
            resource = documents.from_stored(kind, kv.value, kv.mod_revision)
            if resource.owner is not None:
                found.append((kind, resource))
    return found
