"""The conductor against a model in a dict: whatever is done and wherever it is cut off, its promises hold."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from platformd.conductor import Conductor, quotas
from platformd.conductor.history import told
from platformd.conductor.transactions import ChangeWanted, Transaction, transact
from platformd.coordination.sqlite import open_sqlite
from platformd.core.clock import SystemClock
from platformd.core.errors import Conflict, LimitReached, NotFound, PreconditionFailed
from platformd.core.ids import uuid7
from platformd.core.settings import StoreSettings
from platformd.model.kinds import KINDS
from platformd.model.quota import QUOTA
from platformd.model.resource import AnyResource
from platformd.model.service import SERVICE, ServiceStatus
from platformd.model.stream import STREAM, StreamStatus
from tests.support.memory_store import MemoryStore

NAMES = st.sampled_from(["a", "b", "c"])
KIND = st.sampled_from([SERVICE, STREAM])
COUNT = 2
"""How many streams the quota allows."""
REFUSALS = (Conflict, LimitReached, NotFound, PreconditionFailed)


@dataclass
class Known:
    """What the model has of one object."""

    words: dict[str, str]
    """The labels."""
    spec: str
    """The version or the description."""
    state: str = "pending"
    deleting: bool = False
    finalized: bool = False
    owner: str = ""


@dataclass
class Model:
    """All objects, and what has been recorded of each name."""

    there: dict[tuple[str, str], Known] = field(default_factory=dict)
    recorded: dict[tuple[str, str], list[Any]] = field(default_factory=dict)
    """The states of each name, one after the other, as history must tell them."""
    revision: int = 0


class Loop:
    """A trio loop that is entered again and again: every step is a restart of the daemon.

    Args:
        path: where a real store is, which is closed between; ``None`` for one in memory.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._memory: Any = MemoryStore()

    def run(self, do: Callable[[Conductor], Awaitable[Any]]) -> Any:
        """Open the store, do something, and close it."""

        async def main() -> Any:
            async with AsyncExitStack() as stack:
                clock = SystemClock()
                store = self._memory
                if self._path is not None:
                    store = await stack.enter_async_context(open_sqlite(self._path, StoreSettings(), clock))
                conductor = Conductor(store, clock, uuid7(clock), KINDS)
                quotas.Quotas(conductor).stand_guard()
                return await do(conductor)

        return trio.run(main)


class ConductorModel(RuleBasedStateMachine):
    """Random writes, status reports, deletions and transactions, each after a restart."""

    durable = False
    """Whether the store is a real one."""

    def __init__(self) -> None:
        super().__init__()
        self.directory = Path(tempfile.mkdtemp())
        self.loop = Loop(self.directory / "store.db" if self.durable else None)
        self.model = Model()
        limits = {"name": "q", "spec": {"limits": [{"kind": "Stream", "count": COUNT}]}}
        self.do(lambda c: c.create(c.decode(QUOTA, limits)))

    def teardown(self) -> None:
        """Take the store's files away."""
        shutil.rmtree(self.directory)

    def do(self, what: Callable[[Conductor], Awaitable[Any]]) -> Any:
        """What ``what`` gives, or the refusal that it raised."""
        try:
            return self.loop.run(what)
        except REFUSALS as error:
            return error

    def note(self, *names: tuple[str, str]) -> None:
        """Take down what is there now, as the next state of these names."""

        async def look(conductor: Conductor) -> list[AnyResource | None]:
            found: list[AnyResource | None] = []
            for kind, name in names:
                known = conductor.kind_named(kind)
                assert known is not None
                try:
                    found.append(await conductor.get(known, name))
                except NotFound:
                    found.append(None)
            return found

        for name, resource in zip(names, self.loop.run(look), strict=True):
            self.model.recorded.setdefault(name, []).append(told(resource))

    @staticmethod
    def document(kind: Any, name: str, word: str) -> dict[str, Any]:
        spec = {"version": word} if kind is SERVICE else {"subjects": [name], "description": word}
        return {"name": name, "spec": spec, "labels": {"word": word}}

    def room(self, kind: Any, name: str) -> bool:
        streams = {n for k, n in self.model.there if k == "Stream"}
        return kind is not STREAM or name in streams or len(streams) < COUNT

    @rule(kind=KIND, name=NAMES, word=st.sampled_from(["x", "y"]))
    def apply(self, kind: Any, name: str, word: str) -> None:
        """Create or change: refused by the quota, or while it is being deleted."""
        key = (kind.name, name)
        before = self.model.there.get(key)
        done = self.do(lambda c: c.replace(c.decode(kind, self.document(kind, name, word))))
        words = {"word": word}
        if before is None:
            assert isinstance(done, LimitReached) != self.room(kind, name), done
            if self.room(kind, name):
                assert done[1] == "created"
                self.model.there[key] = Known(words=words, spec=word)
                self.note(key)
        elif before.words == words and before.spec == word and not before.owner:
            assert done[1] == "unchanged"
        elif before.deleting:
            assert isinstance(done, Conflict)
        else:
            assert done[1] == "configured", done
            before.words, before.spec, before.owner = words, word, ""
            self.note(key)

    @rule(name=NAMES, owner=NAMES)
    def own(self, name: str, owner: str) -> None:
        """Make a service belong to another: refused when that is not there, or would lead in a circle."""
        mine = self.model.there.get(("Service", name))
        patch = {"owner": {"kind": "Service", "name": owner}}
        done = self.do(lambda c: c.patch(SERVICE, name, "default", patch))
        chain, above = [name], owner
        while above and above not in chain:
            chain.append(above)
            known = self.model.there.get(("Service", above))
            above = known.owner if known is not None else ""
        if mine is None or ("Service", owner) not in self.model.there:
            assert isinstance(done, NotFound), done
        elif above == name:
            assert isinstance(done, Conflict), done
        elif mine.owner == owner:
            assert done[1] == "unchanged", done
        else:
            assert done[1] == "configured", done
            mine.owner = owner
            self.note(("Service", name))

    @rule(kind=KIND, name=NAMES, number=st.integers(0, 3), bad=st.booleans())
    def report(self, kind: Any, name: str, number: int, bad: bool) -> None:
        """A status: recorded when the state is another one, never touching what the user said."""
        known = self.model.there.get((kind.name, name))
        state = ("error" if bad else "active") if kind is STREAM else "available"

        async def set_status(conductor: Conductor) -> AnyResource:
            resource = await conductor.get(kind, name)
            status = StreamStatus(state=state, messages=number) if kind is STREAM else ServiceStatus(state=state)
            return await conductor.set_status(resource, status)

        done = self.do(set_status)
        if known is None:
            assert isinstance(done, NotFound)
            return
        assert done.labels == known.words
        if known.state != state:
            known.state = state
            self.note((kind.name, name))

    @rule(kind=KIND, name=NAMES)
    def delete(self, kind: Any, name: str) -> None:
        """What has no finalizer goes at once; a stream is marked until its controller is done."""
        key = (kind.name, name)
        known = self.model.there.get(key)
        done = self.do(lambda c: c.delete(kind, name))
        if known is None:
            assert isinstance(done, NotFound)
        elif kind is SERVICE or known.finalized:
            assert done[1]
            del self.model.there[key]
            for other in self.model.there.values():
                if kind is SERVICE and other.owner == name:
                    other.owner = f"{name} that is gone"
            self.note(key)
        elif not known.deleting:
            known.deleting = True
            self.note(key)

    @rule(name=NAMES)
    def finalize(self, name: str) -> None:
        """The controller of a stream is done with it: if it was to go, it goes."""
        known = self.model.there.get(("Stream", name))

        async def finalize(conductor: Conductor) -> None:
            await conductor.finalize(await conductor.get(STREAM, name), "queues")

        done = self.do(finalize)
        if known is None:
            assert isinstance(done, NotFound)
        elif not known.finalized:
            known.finalized = True
            if known.deleting:
                del self.model.there["Stream", name]
            self.note(("Stream", name))

    @precondition(lambda self: len(self.model.there) >= 1)
    @rule(data=st.data(), word=st.sampled_from(["x", "y", "z"]))
    def transact(self, data: st.DataObject, word: str) -> None:
        """Two labels changed at one revision, or nothing at all."""
        keys = sorted(self.model.there)
        chosen = data.draw(st.lists(st.sampled_from(keys), min_size=1, max_size=2, unique=True))
        changes = tuple(
            ChangeWanted(op="patch", kind=kind, name=name, document={"labels": {"word": word}}) for kind, name in chosen
        )
        done = self.do(lambda c: transact(c, Transaction(changes=changes)))
        changed = [key for key in chosen if self.model.there[key].words != {"word": word}]
        if any(self.model.there[key].deleting for key in changed):
            assert isinstance(done, Conflict), done
            return
        assert {r.revision for r in done.results if r.outcome == "configured"} <= {done.revision}
        for key in changed:
            self.model.there[key].words = {"word": word}
            self.note(key)

    @rule(name=NAMES, word=st.sampled_from(["x", "y", "z"]), steps=st.integers(0, 12))
    def cut_off(self, name: str, word: str, steps: int) -> None:
        """A write that is cancelled anywhere was done whole, record and all, or not at all."""
        key = ("Service", name)

        async def cut(conductor: Conductor) -> AnyResource | None:
            async with trio.open_nursery() as nursery:
                wanted = conductor.decode(SERVICE, self.document(SERVICE, name, word))
                nursery.start_soon(conductor.replace, wanted)
                for _ in range(steps):
                    await trio.lowlevel.checkpoint()
                nursery.cancel_scope.cancel()
            return None

        self.do(cut)
        found = self.do(lambda c: c.get(SERVICE, name))
        known = self.model.there.get(key)
        if isinstance(found, NotFound):
            assert known is None
        elif known is None or (found.labels, found.spec.version, found.owner is None) != (
            known.words,
            known.spec,
            not known.owner,
        ):
            state = known.state if known is not None else "pending"
            self.model.there[key] = Known(words={"word": word}, spec=word, state=state)
            self.note(key)

    @invariant()
    def promises_hold(self) -> None:
        """What is there, history, quotas, owners and revisions are as they must be."""

        async def look(conductor: Conductor) -> None:
            there = {}
            revision = 0
            for kind in (SERVICE, STREAM):
                page = await conductor.list(kind)
                revision = page.revision
                there |= {(kind.name, r.name): r for r in page.items}
            assert there.keys() == self.model.there.keys()
            assert sum(kind == "Stream" for kind, _ in there) <= COUNT
            for key, known in self.model.there.items():
                found = there[key]
                assert (found.labels, found.status.state) == (known.words, known.state)
                assert (found.spec.version if key[0] == "Service" else found.spec.description) == known.spec
                assert (found.deleting_at is not None) == known.deleting
                assert found.owner is None or found.owner.uid
            assert revision >= self.model.revision
            self.model.revision = revision
            for (kind_name, name), states in self.model.recorded.items():
                known_kind = conductor.kind_named(kind_name)
                assert known_kind is not None
                await self.check_history(conductor, known_kind, name, states)

        self.loop.run(look)

    async def check_history(self, conductor: Conductor, kind: Any, name: str, states: list[Any]) -> None:
        """History tells each state once, in order, and its changes lead from each to the next."""
        records = (await conductor.history(kind, name, limit=1000)).items[::-1]
        assert len(records) == len(states), (kind.name, name)
        assert [r.revision for r in records] == sorted({r.revision for r in records})
        before: Any = {}
        for record, state in zip(records, states, strict=True):
            after = {} if state is msgspec.UNSET else state
            paths = {change.path.split(".")[0].split("[")[0] for change in record.changes}
            assert paths == {m for m in {*before, *after} if before.get(m) != after.get(m)}, record
            before = after


class DurableConductorModel(ConductorModel):
    """The same over a store on the disk."""

    durable = True


@pytest.fixture
def quick() -> settings:
    return settings(
        max_examples=8,
        stateful_step_count=20,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        database=None,
        derandomize=True,
    )


def test_the_conductor_keeps_its_promises(quick: settings) -> None:
    """Over some random lives."""
    run_state_machine_as_test(ConductorModel, settings=quick)


@pytest.mark.slow
@pytest.mark.parametrize(("machine", "lives"), [(ConductorModel, 200), (DurableConductorModel, 5)])
def test_the_conductor_keeps_its_promises_for_long(quick: settings, machine: Any, lives: int) -> None:
    """Over many long ones, and over some with a real store."""
    run_state_machine_as_test(
        machine, settings=settings(quick, max_examples=lives, stateful_step_count=40, derandomize=False)
    )
