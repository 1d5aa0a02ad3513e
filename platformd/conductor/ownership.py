"""Deletes what belongs to something that is gone.

An object with an ``owner`` is deleted when no object of that kind, name and uid is there any more.
"""

from __future__ import annotations

from typing import Never

import trio

from platformd.conductor.conductor import Conductor
from platformd.conductor.facts import Change
from platformd.conductor.reconcile import Controller, Key, key_of_resource, run_controllers
from platformd.core.errors import NotFound
from platformd.model.kind import Kind
from platformd.model.resource import AnyResource


async def run(conductor: Conductor, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> Never:
    """Watch all kinds. Started when all that is there is in the queues."""
    controllers = [_controller(conductor, kind) for kind in conductor.kinds if kind.recorded]
    await run_controllers(conductor, controllers, task_status=task_status)


def _controller(conductor: Conductor, kind: Kind) -> Controller:
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
    return Controller(kind, collect, others, name, concerns=lambda resource: resource.owner is not None)


async def _is_there(conductor: Conductor, kind_name: str, name: str, tenant: str, uid: str) -> bool:
    kind = next((k for k in conductor.kinds if k.name == kind_name), None)
    if kind is None:
        return False
    try:
        owner = await conductor.get(kind, name, tenant)
    except NotFound:
        return False
    return owner.uid == uid and owner.deleting_at is None
