"""The loop that every controller is made of.

Level-triggered: a change only says *which* object to look at; what is there is read again before the
controller acts. So changes coalesce, a missed one does no harm, and a restart begins with everything.
One object is never worked on twice at the same time; an object that fails is tried again with
back-off, and holds nobody else up.

    changed ──▶ due ──▶ working ──▶ (done) or ──▶ due again later (failed, or the reconciler asked)
"""

from __future__ import annotations

import heapq
import logging
import math
import random
from collections.abc import Awaitable, Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Literal, NamedTuple, Never

import msgspec
import trio

from platformd.conductor.actor import set_acting
from platformd.conductor.conductor import Conductor
from platformd.conductor.facts import Change
from platformd.core.errors import Gone, NotFound, PlatformError
from platformd.model.kind import Kind
from platformd.model.resource import AnyResource

log = logging.getLogger(__name__)

WORKERS = 8
"""How many objects of a controller are worked on at once."""
BACKOFF_FIRST = 0.2
"""Seconds until an object that failed is tried again; doubles with each failure."""
BACKOFF_MAX = 60.0
"""The longest wait between tries, seconds."""
RESYNC = 300.0
"""Every object is looked at this often, in seconds, even if nothing seems to have changed."""


class Key(NamedTuple):
    """An object to look at."""

    kind: str
    tenant: str
    name: str


Reconcile = Callable[[AnyResource], Awaitable[float | None]]
"""Closes the difference between the spec and what is so. Returns seconds after which it wants to look
again, or ``None``. A ``PlatformError`` means: try again later."""

Related = Callable[[Change], Sequence[Key]]
"""Which objects to look at when one of a related kind changed or went."""


class Controller(NamedTuple):
    """What looks after the objects of a kind."""

    kind: Kind
    """Whose objects these are."""
    reconcile: Reconcile
    related: Mapping[str, Related] = MappingProxyType({})
    """By kind name: changes of other kinds that concern objects of this one."""
    name: str = ""
    """As it stands in history, events and metrics; the kind's plural if none is given."""
    concerns: Callable[[AnyResource], bool] = lambda _: True
    """Whether an object of the kind, as it is now, needs it at all. Those that once did are looked at all the same."""


async def run_controller(
    conductor: Conductor,
    kind: Kind,
    reconcile: Reconcile,
    *,
    related: Mapping[str, Related] | None = None,
    jitter: Callable[[], float] = random.random,
    name: str = "",
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> Never:
    """Keep ``reconcile`` called for every object of ``kind`` that may need it.

    Args:
        conductor: where the objects are.
        kind: whose objects these are.
        reconcile: see ``Reconcile``.
        related: by kind name: changes of other kinds that concern objects of this one.
        jitter: a number in [0, 1), so that failures do not come back all at once.
        name: the controller's, as it stands in history, events and metrics; the kind's plural if none is given.
        task_status: started when the first listing is in the queue.
    """
    controller = Controller(kind, reconcile, related or {}, name)
    await run_controllers(conductor, [controller], jitter=jitter, task_status=task_status)


async def run_controllers(
    conductor: Conductor,
    controllers: Sequence[Controller],
    *,
    jitter: Callable[[], float] = random.random,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> Never:
    """``run_controller`` for several that look at the same kinds: they share one watch, so that what is there and
    what changes is read once for all. Each has its own queue and workers.
    """
    queues = [(controller, _Queue(jitter)) for controller in controllers]
    related = {name for controller in controllers for name in controller.related}
    kinds = [controller.kind for controller in controllers] + [kind for kind in conductor.kinds if kind.name in related]
    watched = list({kind.name: kind for kind in kinds}.values())
    news = _News()
    async with trio.open_nursery() as nursery:
        for controller, queue in queues:
            name = controller.name or controller.kind.plural
            conductor.controllers[name] = queue
            set_acting(f"controller:{name}")
            for _ in range(WORKERS):
                nursery.start_soon(_work, conductor, controller.kind, controller.reconcile, queue)
        while True:
            try:
                async with conductor.watch(watched, None) as batches:
                    async for batch in batches:
                        for change in filter(news.is_news, batch.changes):
                            for controller, queue in queues:
                                for key in _keys(controller, queue, change):
                                    queue.add(key)
                        if not batch.changes:
                            task_status.started()
                            task_status = trio.TASK_STATUS_IGNORED
            except Gone as error:
                names_told = ", ".join(controller.kind.plural for controller in controllers)
                log.warning("the %s controller lists again: %s", names_told, error)
    raise AssertionError("unreachable")


def key_of_resource(resource: AnyResource) -> Key:
    """The key of ``resource`` in a controller's queue."""
    return Key(resource.kind, resource.tenant, resource.name)


def _keys(controller: Controller, queue: _Queue, change: Change) -> Sequence[Key]:
    if change.resource.kind == controller.kind.name:
        key = key_of_resource(change.resource)
        return [key] if controller.concerns(change.resource) or queue.knows(key) else []
    related = controller.related.get(change.resource.kind)
    return related(change) if related is not None else ()


def looks(conductor: Conductor, resource: AnyResource) -> tuple[Looked, ...]:
    """How each controller stands to ``resource``."""
    key = key_of_resource(resource)
    found = [queue.looked(name, key) for name, queue in conductor.controllers.items()]
    return tuple(looked for looked in found if looked is not None)


def loads(conductor: Conductor) -> tuple[Load, ...]:
    """How each controller is."""
    return tuple(queue.load(name) for name, queue in conductor.controllers.items())


class _News:
    """Tells changes that may need work from those that a controller's own reports make.

    A status that is measured every second would otherwise wake its writer every second, and everybody who
    looks at that kind. What counts is what is wanted, whether it is to go, and the word for how it is.
    """

    def __init__(self) -> None:
        self._seen: dict[Key, tuple[object, ...]] = {}

    def is_news(self, change: Change) -> bool:
        """Whether somebody should look."""
        resource = change.resource
        key = key_of_resource(resource)
        if change.type == "deleted":
            self._seen.pop(key, None)
            return True
        signature = (resource.uid, resource.generation, resource.deleting_at, resource.owner, resource.status.state)
        news = self._seen.get(key) != signature
        self._seen[key] = signature
        return news


async def _work(conductor: Conductor, kind: Kind, reconcile: Reconcile, queue: _Queue) -> None:
    while True:
        key = await queue.take()
        resource: AnyResource | None = None
        try:
            resource = await conductor.get(kind, key.name, key.tenant)
            again = await reconcile(resource)
            queue.succeeded(key, RESYNC if again is None else min(again, RESYNC))
        except NotFound as error:
            # Gone between the change and now; anything else that is missing is worth another try.
            if error.subject == f"{kind.singular}/{key.name}":
                queue.forget(key)
            else:
                queue.failed(key, error)
        except PlatformError as error:
            queue.failed(key, error)
            if resource is not None:
                conductor.events.tell(resource, "ReconcileFailed", str(error), warning=True)


class Looked(msgspec.Struct, frozen=True, kw_only=True):
    """How a controller stands to one object."""

    controller: str
    """Its name."""
    state: Literal["waiting", "working", "failing"]
    """Whether it looks at it now, or the last look failed."""
    seconds_since_success: float | None = None
    """How long ago a look succeeded; ``null`` when none has since the daemon started."""
    next_try_seconds: float | None = None
    """When it is looked at again, if nothing changes before; ``null`` while it is worked on."""
    failures: int = 0
    """Looks that failed since the last one that succeeded."""
    last_error: str = ""
    """What the last one that failed said."""


class Load(msgspec.Struct, frozen=True, kw_only=True):
    """How a controller is."""

    controller: str
    """Its name."""
    objects: int
    """How many it knows."""
    due: int
    """How many wait to be looked at now."""
    working: int
    """How many are looked at."""
    failing: int
    """How many failed at the last look."""
    oldest_success_seconds: float = 0.0
    """How long ago the one was looked at with success that waits longest for it."""


class _Queue:
    """Which objects are due, and when."""

    def __init__(self, jitter: Callable[[], float]) -> None:
        self._jitter = jitter
        self._due: dict[Key, float] = {}
        """When each object is due. What the heap says otherwise is out of date."""
        self._heap: list[tuple[float, Key]] = []
        self._working: set[Key] = set()
        self._dirty: set[Key] = set()
        self._failures: dict[Key, int] = {}
        self._succeeded: dict[Key, float] = {}
        """When each object was last looked at with success."""
        self._errors: dict[Key, str] = {}
        self._idle = trio.lowlevel.ParkingLot()

    def looked(self, name: str, key: Key) -> Looked | None:
        """How it stands to an object; ``None`` if it knows none of that key."""
        if not self.knows(key):
            return None
        now = trio.current_time()
        failures, succeeded, due = self._failures.get(key, 0), self._succeeded.get(key), self._due.get(key)
        return Looked(
            controller=name,
            state="working" if key in self._working else "failing" if failures else "waiting",
            seconds_since_success=None if succeeded is None else round(now - succeeded, 3),
            next_try_seconds=None if due is None else round(max(0.0, due - now), 3),
            failures=failures,
            last_error=self._errors.get(key, ""),
        )

    def knows(self, key: Key) -> bool:
        """Whether it is looked at, now or later."""
        return key in self._due or key in self._working

    def load(self, name: str) -> Load:
        """How it is."""
        now = trio.current_time()
        return Load(
            controller=name,
            objects=len(self._due.keys() | self._working),
            due=sum(when <= now for when in self._due.values()),
            working=len(self._working),
            failing=len(self._failures),
            oldest_success_seconds=round(now - min(self._succeeded.values(), default=now), 3),
        )

    def add(self, key: Key, delay: float = 0.0) -> None:
        """Look at ``key`` after ``delay`` seconds; sooner wins. While it is worked on: right after."""
        if key in self._working:
            self._dirty.add(key)
            return
        when = trio.current_time() + delay
        if when < self._due.get(key, math.inf):
            self._due[key] = when
            heapq.heappush(self._heap, (when, key))
            if len(self._heap) > 2 * len(self._due) + 64:
                self._heap = [(due, waiting) for waiting, due in self._due.items()]
                heapq.heapify(self._heap)
            if self._heap[0] == (when, key):
                self._idle.unpark()

    async def take(self) -> Key:
        """Wait for the next object that is due; it is the caller's until one of the verdicts below."""
        while True:
            when = self._next_time()
            if when <= trio.current_time():
                key = heapq.heappop(self._heap)[1]
                del self._due[key]
                self._working.add(key)
                self._idle.unpark()  # somebody else sees to what comes next
                await trio.lowlevel.checkpoint()
                return key
            with trio.move_on_at(when):
                await self._idle.park()

    def _next_time(self) -> float:
        """When the next object is due."""
        while self._heap and self._due.get(self._heap[0][1]) != self._heap[0][0]:
            heapq.heappop(self._heap)
        return self._heap[0][0] if self._heap else math.inf

    def succeeded(self, key: Key, again: float) -> None:
        """Done for now; look again after ``again`` seconds."""
        self._failures.pop(key, None)
        self._errors.pop(key, None)
        self._succeeded[key] = trio.current_time()
        self._release(key, again)

    def failed(self, key: Key, error: PlatformError) -> None:
        """Not done; back off."""
        count = self._failures[key] = self._failures.get(key, 0) + 1
        delay = min(BACKOFF_MAX, BACKOFF_FIRST * 2 ** min(count - 1, 16)) * (1 + 0.2 * self._jitter())
        self._errors[key] = str(error)
        log.warning("%s/%s: try %d failed, next in %.1f s: %s", key.kind.lower(), key.name, count, delay, error)
        self._release(key, delay, dirty_counts=False)

    def forget(self, key: Key) -> None:
        """The object is gone."""
        for facts in (self._failures, self._errors, self._succeeded):
            facts.pop(key, None)
        self._working.discard(key)
        if key in self._dirty:
            self._dirty.discard(key)
            self.add(key)

    def _release(self, key: Key, delay: float, *, dirty_counts: bool = True) -> None:
        self._working.discard(key)
        dirty = key in self._dirty
        self._dirty.discard(key)
        self.add(key, 0.0 if dirty and dirty_counts else delay)
