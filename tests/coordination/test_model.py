"""The whole engine beside a small model of what a store is, under random requests, restarts included."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Sequence
from pathlib import Path
from unittest import mock

import trio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from platformd.coordination.checks import check
from platformd.coordination.contract import Delete, Event, EventType, Get, KeyValue, Operation, Put, Store
from platformd.coordination.sqlite import open_sqlite, past
from platformd.coordination.sqlite.txn import Overlay
from platformd.core.clock import SystemClock
from platformd.core.errors import PlatformError
from platformd.core.settings import StoreSettings
from tests.coordination.test_txn import LIMITS, TXNS, Memory, Txn

SETTINGS = StoreSettings(watch_buffer=3, max_key="16B", max_value="64B", max_txn_operations=8)


class Model:
    """Every state that the store was in, by revision, and what came between."""

    def __init__(self) -> None:
        self.now = Memory()
        self.revision = 1
        self.states: dict[int, dict[bytes, KeyValue]] = {1: {}}
        self.events: list[Event] = []

    def run(self, request: Txn) -> object:
        overlay = Overlay(self.now, self.revision, set())
        try:
            check(*request, LIMITS)
            result = overlay.run(*request)
        except PlatformError as error:
            return type(error)
        self.now, self.revision = self.now.store(overlay), overlay.revision
        for revision, changes in overlay.history:
            self.states[revision] = dict(self.now.kvs)
            for key, kv, previous in changes:
                gone = KeyValue(key=key, value=b"", create_revision=0, mod_revision=revision, version=0)
                kind: EventType = "delete" if kv is None else "put"
                self.events.append(Event(type=kind, kv=kv or gone, previous=previous))
        return result


async def ask(store: Store, request: Txn) -> object:
    try:
        return await store.txn(*request)
    except PlatformError as error:
        return type(error)


async def compare(path: Path, steps: Sequence[Txn | None]) -> None:
    """Do each step on both (``None`` is a restart), then look at all of the past."""
    model = Model()
    live: list[Event] = []
    for session in split(steps):
        async with open_sqlite(path, SETTINGS, SystemClock()) as store:
            async with store.watch(b"", None, previous=True) as watch:
                for request in session:
                    assert await ask(store, request) == model.run(request)
                    assert (await store.list(b"", None)).items == tuple(kv for _, kv in sorted(model.now.kvs.items()))
                while (batch := await anext(watch)).revision < model.revision:
                    live += batch.events
                live += batch.events
            assert live == model.events
            assert (await store.status()).keys == len(model.now.kvs)
    for recent in (0, past.RECENT_REVISIONS):  # both ways into the past
        with mock.patch.object(past, "RECENT_REVISIONS", recent):
            await look_back(path, model)


async def look_back(path: Path, model: Model) -> None:
    """Every state that the store was in can be read, and what came after it be watched."""
    async with open_sqlite(path, SETTINGS, SystemClock()) as store:
        for revision, state in model.states.items():
            listed = await store.list(b"", None, revision=revision)
            assert {kv.key: kv for kv in listed.items} == state
            short = await store.list(b"a/", b"c", revision=revision, limit=1)
            inside = sorted(key for key in state if b"a/" <= key < b"c")
            assert ([kv.key for kv in short.items], short.more) == (inside[:1], len(inside) > 1)
            for key in (b"a", b"a/1", b"c"):
                assert await store.get(key, revision=revision) == state.get(key)
            async with store.watch(b"a", b"b", start_revision=revision, previous=True) as watch:
                events: list[Event] = []
                while (batch := await anext(watch)).revision < model.revision:
                    events += batch.events
                events += batch.events
            assert events == [e for e in model.events if e.kv.mod_revision >= revision and e.kv.key < b"b"]


def split(steps: Sequence[Txn | None]) -> list[list[Txn]]:
    sessions: list[list[Txn]] = [[]]
    for step in steps:
        if step is None:
            sessions.append([])
        else:
            sessions[-1].append(step)
    return sessions


FREE: st.SearchStrategy[Operation] = st.one_of(
    st.builds(Put, st.sampled_from([b"a", b"a/1", b"b", b"c"]), st.binary(max_size=3)),
    st.builds(Delete, st.sampled_from([b"a", b"b"]), st.sampled_from([None, b"c"])),
    st.builds(Get, st.just(b""), st.just(b"z")),
)
SIMPLE = st.tuples(st.just(()), st.lists(FREE, min_size=1, max_size=2), st.just(()))


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.one_of(SIMPLE, SIMPLE, TXNS, st.none()), max_size=25))
def test_engine_does_what_the_model_does(steps: list[Txn | None]) -> None:
    """Answers, states at every revision, live events and history are the model's, across restarts."""
    with contextlib.ExitStack() as stack:
        directory = stack.enter_context(tempfile.TemporaryDirectory(prefix="pd"))
        trio.run(compare, Path(directory) / "s.db", steps)
