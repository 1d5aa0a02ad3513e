"""Deletes what belongs to something that is gone.

An object with an ``owner`` is deleted when no object of that kind, name and uid is there any more.
"""

from __future__ import annotations

from typing import Never

import trio

from platformd.conductor.conductor import Conductor
from platformd.conductor.facts import Change
from platformd.conductor.reconcile import Key, key_of_resource, run_controller
from platformd.core.errors import NotFound
from platformd.model.kind import Kind
from platformd.model.resource import AnyResource


async def run(conductor: Conductor, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> Never:
    """Watch all kinds. Started when every kind is watched."""
    async with trio.open_nursery() as nursery:
        for kind in [kind for kind in conductor.kinds if kind.recorded]:
            await nursery.start(_run_kind, conductor, kind)
        task_status.started()
    raise AssertionError("unreachable")


async def _run_kind(conductor: Conductor, kind: Kind, *, task_status: trio.TaskStatus[None]) -> Never:
    owned: dict[tuple[str, str, str], set[Key]] = {}

    async def collect(resource: AnyResource) -> float | None:
        owner = resource.owner
        if owner is None or resource.deleting_at is not None:
            return None
        place = (owner.kind, resource.tenant, owner.name)
        owned.setdefault(place, set()).add(key_of_resource(resource))
        if not await _is_there(conductor, owner.kind, owner.name, resource.tenant, owner.uid):
            await conductor.delete(kind, resource.name, resource.tenant)
        return None

    def belongings(change: Change) -> list[Key]:
        owner = change.resource
        place = (owner.kind, owner.tenant, owner.name)
        return list(owned.pop(place, ()) if change.type == "deleted" else owned.get(place, ()))

    others = {other.name: belongings for other in conductor.kinds if other.name != kind.name}
    name = f"owners-of-{kind.plural}"
    await run_controller(conductor, kind, collect, related=others, name=name, task_status=task_status)


async def _is_there(conductor: Conductor, kind_name: str, name: str, tenant: str, uid: str) -> bool:
    kind = next((k for k in conductor.kinds if k.name == kind_name), None)
    if kind is None:
        return False
    try:
        owner = await conductor.get(kind, name, tenant)
    except NotFound:
        return False
    return owner.uid == uid and owner.deleting_at is None
