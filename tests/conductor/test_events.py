"""What controllers tell of resources: recorded, counted, bounded; and how they stand to each."""

from __future__ import annotations

from functools import partial

import pytest
import trio

from platformd.conductor import Conductor, events
from platformd.conductor.actor import acting_as
from platformd.conductor.events import event_bounds, event_name
from platformd.conductor.reconcile import loads, looks, run_controller
from platformd.conductor.retention import keep_bounded
from platformd.coordination.contract import Store
from platformd.core.clock import SystemClock
from platformd.core.errors import Unavailable
from platformd.core.ids import is_name
from platformd.core.settings import EventSettings
from platformd.model.event import EVENT, About, EventSpec
from platformd.model.resource import AnyResource
from platformd.model.service import SERVICE
from platformd.model.stream import STREAM, StreamStatus


async def service(conductor: Conductor, name: str = "s") -> AnyResource:
    return await conductor.create(conductor.decode(SERVICE, {"name": name, "spec": {}}))


async def told(conductor: Conductor, **more: str) -> list[AnyResource]:
    await conductor.events.write()
    return list((await conductor.list(EVENT, **more)).items)


async def test_the_same_again_is_counted(conductor: Conductor) -> None:
    """One event for what is the same, with when it was first and last, also over several writes."""
    made = await service(conductor)
    with acting_as("controller:domes"):
        for _ in range(3):
            conductor.events.tell(made, "WorkerEnded", "exit code\n 1", warning=True)
    conductor.events.tell(made, "WorkerEnded", "exit code 2", warning=True)
    assert len(await told(conductor)) == 2
    with acting_as("controller:domes"):
        conductor.events.tell(made, "WorkerEnded", "exit code 1", warning=True)
    (event,) = await told(conductor, fields="spec.message=exit code 1")
    spec: EventSpec = event.spec
    assert (spec.about.kind, spec.about.name, spec.about.uid) == ("Service", "s", made.uid)
    assert (spec.type, spec.reason, spec.source) == ("warning", "WorkerEnded", "controller:domes")
    assert event.status.count == 4
    assert event.status.first_at < event.status.last_at
    assert (await conductor.recent(EVENT)).items == ()


async def test_a_new_state_is_an_event(conductor: Conductor) -> None:
    """A state with a reason is a warning; numbers are nothing to tell."""
    made = await conductor.create(conductor.decode(STREAM, {"name": "s", "spec": {"subjects": ["a"]}}))
    await conductor.set_status(made, StreamStatus(state="active"))
    await conductor.set_status(made, StreamStatus(state="active", messages=5))
    await conductor.set_status(made, StreamStatus(state="error", reason="SubjectsTaken", message="by t"))
    found = [(e.spec.type, e.spec.reason, e.spec.message) for e in await told(conductor, sort="spec.type")]
    assert found == [("normal", "Active", "pending → active"), ("warning", "SubjectsTaken", "active → error: by t")]


async def test_events_are_bounded(
    conductor: Conductor, store: Store, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What waits has its bound and is counted beyond; what is written has its own for each object and for all."""
    monkeypatch.setattr(events, "MAX_WAITING", 4)
    one, two = await service(conductor, "one"), await service(conductor, "two")
    for i in range(6):
        conductor.events.tell(one, "Moved", str(i))
    assert conductor.events.dropped == 2
    await conductor.events.write()
    conductor.events.tell(two, "Moved", "0")
    await conductor.events.write()
    bounds = event_bounds(EventSettings(events_per_object=2, events=3, max_age="0"))
    await nursery.start(partial(keep_bounded, store, SystemClock(), bounds))
    found = [(e.spec.about.name, e.spec.message) for e in await told(conductor, sort="status.first_at")]
    assert found == [("one", "2"), ("one", "3"), ("two", "0")]


def test_names_of_events_are_names() -> None:
    """However long the name of what they are about, and never two for one thing."""
    long, short = (EventSpec(about=About(kind="Stream", name=n), reason="Moved") for n in ("a" * 63, "a-b"))
    assert is_name(event_name(long))
    assert is_name(event_name(short))
    assert event_name(short) == event_name(EventSpec(about=About(kind="Stream", name="a-b"), reason="Moved"))


async def test_how_a_controller_stands_to_an_object(conductor: Conductor, nursery: trio.Nursery) -> None:
    """Whether it fails and why, how often, when it looks again; a failure is an event too."""
    fail = trio.Event()
    good = await service(conductor, "good")
    bad = await service(conductor, "bad")

    async def reconcile(resource: AnyResource) -> float | None:
        if resource.name == "bad" and not fail.is_set():
            raise Unavailable("no dome answers", subject="dome")
        return None

    await nursery.start(partial(run_controller, conductor, SERVICE, reconcile, name="domes"))
    with trio.fail_after(30):
        while not (looks(conductor, good)[0].seconds_since_success and looks(conductor, bad)[0].failures):  # noqa: ASYNC110
            await trio.sleep(0.001)
    (found,) = looks(conductor, bad)
    assert (found.controller, found.state, found.seconds_since_success) == ("domes", "failing", None)
    assert "no dome answers" in found.last_error
    assert found.next_try_seconds is not None
    (load,) = loads(conductor)
    assert (load.objects, load.failing) == (2, 1)
    (event,) = await told(conductor, fields="spec.reason=ReconcileFailed")
    assert (event.spec.about.name, event.spec.source) == ("bad", "controller:domes")
    fail.set()
    with trio.fail_after(30):
        while looks(conductor, bad)[0].last_error:  # noqa: ASYNC110
            await trio.sleep(0.001)
    assert looks(conductor, bad)[0].state == "waiting"
    await conductor.delete(SERVICE, "bad")
    with trio.fail_after(30):
        while looks(conductor, bad):  # noqa: ASYNC110
            await trio.sleep(0.001)
