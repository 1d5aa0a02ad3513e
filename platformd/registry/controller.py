"""The controllers of Services and Endpoints."""

from __future__ import annotations

from typing import Never

import trio

from platformd.conductor.conductor import Conductor
from platformd.conductor.facts import Change
from platformd.conductor.reconcile import Key, key_of_resource, run_controller
from platformd.core.errors import NotFound
from platformd.model.resource import AnyResource
from platformd.model.service import ENDPOINT, SERVICE
from platformd.registry import rules


async def run(conductor: Conductor, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> Never:
    """Keep the statuses of services and endpoints. Started when all are known."""

    async def service(resource: AnyResource) -> float | None:
        await known.wait()  # while the first endpoints come in, a number of them says nothing
        await conductor.set_status(resource, rules.service_status(resource, index.count(resource)))
        return None

    async def endpoint(resource: AnyResource) -> float | None:
        try:
            await conductor.get(SERVICE, resource.spec.service, resource.tenant)
            exists = True
        except NotFound:
            exists = False
        await conductor.set_status(resource, rules.endpoint_status(resource, service_exists=exists))
        return None

    index, known = _Index(), trio.Event()
    async with trio.open_nursery() as nursery:
        await nursery.start(
            lambda task_status: run_controller(
                conductor, SERVICE, service, related={ENDPOINT.name: index.services_of}, task_status=task_status
            )
        )
        known.set()
        await nursery.start(
            lambda task_status: run_controller(
                conductor, ENDPOINT, endpoint, related={SERVICE.name: index.endpoints_of}, task_status=task_status
            )
        )
        task_status.started()
    raise AssertionError("unreachable")


class _Index:
    """Which endpoints belong to which service, as the watch tells it."""

    def __init__(self) -> None:
        self._service_of: dict[Key, Key] = {}
        self._endpoints_of: dict[Key, set[Key]] = {}
        self._deleting: set[Key] = set()
        """Endpoints that are on their way out."""

    def count(self, service: AnyResource) -> int:
        """How many endpoints a service has that stay."""
        return len(self._endpoints_of.get(key_of_resource(service), set()) - self._deleting)

    def services_of(self, change: Change) -> list[Key]:
        """The services that a change of an endpoint concerns: the one it is of and the one it was of."""
        endpoint = key_of_resource(change.resource)
        service = Key(SERVICE.name, change.resource.tenant, change.resource.spec.service)
        before = self._service_of.pop(endpoint, None)
        if before is not None:
            self._endpoints_of[before].discard(endpoint)
            if not self._endpoints_of[before]:
                del self._endpoints_of[before]
        self._deleting.discard(endpoint)
        if change.type != "deleted":
            if change.resource.deleting_at is not None:
                self._deleting.add(endpoint)
            self._service_of[endpoint] = service
            self._endpoints_of.setdefault(service, set()).add(endpoint)
        return [service] if before in (None, service) else [service, before]

    def endpoints_of(self, change: Change) -> list[Key]:
        """The endpoints that a change of a service concerns."""
        return list(self._endpoints_of.get(key_of_resource(change.resource), ()))
