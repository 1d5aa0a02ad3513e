"""Keeps this machine's Node there and its status measured."""

from __future__ import annotations

from typing import Never

import msgspec
import trio

from platformd.conductor.conductor import Conductor
from platformd.core.errors import NotFound
from platformd.health.host import HostCollector
from platformd.model.node import NODE, NodeSpec, NodeStatus
from platformd.model.resource import AnyResource, Resource


async def run(
    conductor: Conductor,
    collector: HostCollector,
    node_name: str,
    interval: float,
    *,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> Never:
    """Measure every ``interval`` seconds. Started when the Node has its first measurement."""
    while True:
        node = await _ensure_node(conductor, node_name)
        # In a thread: a mount that hangs must not hold the loop.
        status = await trio.to_thread.run_sync(collector.measure)
        status = msgspec.structs.replace(status, observed_generation=node.generation)
        try:
            await conductor.set_status(node, status)
        except NotFound:
            continue  # deleted in between: it is this machine's, so it comes back
        task_status.started()
        task_status = trio.TASK_STATUS_IGNORED
        await trio.sleep(interval)


async def _ensure_node(conductor: Conductor, name: str) -> AnyResource:
    try:
        return await conductor.get(NODE, name)
    except NotFound:
        node: AnyResource = Resource(kind=NODE.name, name=name, spec=NodeSpec(), status=NodeStatus())
        return await conductor.create(node)
