"""The API over the real store, asked by the real client."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio

from platformd.client.blocking import Client as ControlClient
from platformd.client.http import Target
from platformd.coordination.sqlite import open_sqlite
from platformd.core.clock import SystemClock
from platformd.core.errors import Conflict, NotFound, PreconditionFailed, Unprocessable
from platformd.core.settings import StoreSettings
from tests.api.conftest import Served, Start
from tests.api.wire import Client

SERVICE = {"kind": "Service", "name": "s", "spec": {"protocol": "http"}}


@pytest.fixture
async def stored(tmp_path: Path, start: Start) -> AsyncIterator[Served]:
    """A server over a SQLite store."""
    async with open_sqlite(tmp_path / "store.db", StoreSettings(), SystemClock()) as store:
        served: Served = await start(store=store)
        yield served
        served.stop()
        await served.done.wait()


async def test_the_client_and_the_server_speak_the_same(stored: Served) -> None:
    """Create, apply, read, list, patch and delete through the library that other programs use."""

    def ask() -> list[object]:
        seen: list[object] = []
        with ControlClient(Target(unix=str(stored.path))) as client:
            made = client.create("service", SERVICE)
            seen.append((made.name, made.spec.protocol))
            applied = client.apply("service", SERVICE | {"spec": {"protocol": "tcp"}})
            seen += [applied.outcome, client.apply("service", SERVICE | {"spec": {"protocol": "tcp"}}).outcome]
            with pytest.raises(PreconditionFailed):
                client.patch("service", "s", {"labels": {"a": "b"}}, expect_revision=made.revision)
            client.patch("service", "s", {"labels": {"a": "b"}})
            seen.append([s.name for s in client.list("services", selector="a=b").items])
            with pytest.raises(Conflict):
                client.create("service", SERVICE)
            with pytest.raises(Unprocessable) as caught:
                client.create("stream", {"kind": "Stream", "name": "x", "spec": {"subjects": []}})
            seen.append([e.path for e in caught.value.errors])
            with contextlib.closing(client.watch(["service"])) as changes:  # type: ignore[type-var]  # it is a generator
                seen.append([change.type for change in itertools.islice(changes, 2)])
            client.delete("service", "s")
            with pytest.raises(NotFound):
                client.get("service", "s")
            seen.append(client.status()["store"]["engine"])
        return seen

    seen = await trio.to_thread.run_sync(ask)
    assert seen == [("s", "http"), "configured", "unchanged", ["s"], ["spec.subjects"], ["added", "bookmark"], "sqlite"]


async def test_a_watch_over_the_real_store(stored: Served) -> None:
    """State, changes and resuming, with the store's own revisions."""
    writer, watcher, later = [await stored.client() for _ in range(3)]
    await writer.request("POST", "/v1/services", SERVICE)
    events = watcher.events("/v1/services?watch")
    found = [await anext(events) for _ in range(3)][1:]
    assert [(e.event, e.data.get("name")) for e in found] == [("added", "s"), ("bookmark", None)]
    await writer.request("PATCH", "/v1/services/s", {"labels": {"a": "b"}})
    modified = await anext(events)
    await writer.request("DELETE", "/v1/services/s")
    deleted = await anext(events)
    assert [(e.event, e.data["labels"]) for e in (modified, deleted)] == [
        ("modified", {"a": "b"}),
        ("deleted", {"a": "b"}),
    ]
    again = later.events("/v1/services?watch", {"Last-Event-ID": modified.id})
    found = [await anext(again) for _ in range(3)][1:]
    assert [(e.event, e.id) for e in found] == [("bookmark", modified.id), ("deleted", deleted.id)]


async def test_writers_that_race_lose_no_update(stored: Served) -> None:
    """Sixteen connections that add a label each with If-Match and try again: all labels are there."""
    first = await stored.client()
    await first.request("POST", "/v1/services", SERVICE)

    async def add(client: Client, label: str) -> None:
        while True:
            now = await client.request("GET", "/v1/services/s")
            patch = {"labels": {label: "x"}}
            headers = {"If-Match": now.headers["etag"]}
            if (await client.request("PATCH", "/v1/services/s", patch, headers)).status == 200:
                return

    async with trio.open_nursery() as nursery:
        for i in range(16):
            nursery.start_soon(add, await stored.client(), f"l{i}")
    final = (await first.request("GET", "/v1/services/s")).json
    assert set(final["labels"]) == {f"l{i}" for i in range(16)}
