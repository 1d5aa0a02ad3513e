"""Who changed what, when and why: recorded with the change, kept when the object is gone, bounded."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import trio

from platformd.conductor import Conductor
from platformd.conductor.actor import acting_as
from platformd.conductor.differences import MAX_FIELDS, MAX_VALUE, FieldChange, differences
from platformd.conductor.history import HISTORY, history_bounds
from platformd.conductor.retention import Ages, Bounds, keep_bounded
from platformd.coordination.contract import Store, prefix_end
from platformd.core.clock import SystemClock
from platformd.core.errors import InvalidInput
from platformd.core.settings import HistorySettings
from platformd.model.resource import AnyResource
from platformd.model.service import SERVICE
from platformd.model.stream import STREAM, StreamStatus


async def put(conductor: Conductor, name: str = "s", **spec: Any) -> AnyResource:
    return (await conductor.replace(conductor.decode(SERVICE, {"name": name, "spec": spec})))[0]


async def test_each_change_says_who_when_why_and_what(conductor: Conductor) -> None:
    """Creating, changing and deleting leave a record each, with the fields that changed."""
    with acting_as("user:ada", "first\n light"):
        created = await put(conductor, version="1", tags=["a"])
    with acting_as("token:nightly"):
        changed = await put(conductor, version="2", tags=["a", "b"])
    await conductor.delete(SERVICE, "s")
    gone, second, first = (await conductor.history(SERVICE, "s")).items
    assert (first.actor, first.reason, first.what) == ("user:ada", "first light", "created")
    assert (first.revision, first.uid) == (created.revision, created.uid)
    assert created.created_at is not None
    assert first.at >= created.created_at
    assert (second.actor, second.reason, second.what) == ("token:nightly", "", "configured")
    assert (second.revision, second.generation) == (changed.revision, 2)
    assert second.changes == (
        FieldChange(path="spec.version", before="1", after="2"),
        FieldChange(path="spec.tags[1]", after="b"),
    )
    assert (gone.actor, gone.what) == ("daemon", "deleted")
    assert FieldChange(path="spec.version", before="2") in gone.changes


async def test_a_name_keeps_its_history_over_several_objects(conductor: Conductor) -> None:
    """Records of an object that was created anew follow those of the one before, and pages join on."""
    for _ in range(3):
        await put(conductor)
        await conductor.delete(SERVICE, "s")
    whole = (await conductor.history(SERVICE, "s")).items
    assert [record.what for record in whole] == ["deleted", "created"] * 3
    assert [record.revision for record in whole] == sorted((record.revision for record in whole), reverse=True)
    first = await conductor.history(SERVICE, "s", limit=4)
    rest = await conductor.history(SERVICE, "s", limit=4, cursor=first.cursor)
    assert (*first.items, *rest.items) == whole
    assert rest.cursor is None
    with pytest.raises(InvalidInput):
        await conductor.history(SERVICE, "other", cursor=first.cursor)


async def test_measurements_are_no_changes(conductor: Conductor) -> None:
    """A status that stays in its state is not recorded; one that enters another is, with the words and no numbers."""
    made = await conductor.create(conductor.decode(STREAM, {"name": "s", "spec": {"subjects": ["a"]}}))
    await conductor.set_status(made, StreamStatus(state="active", messages=1))
    for count in range(5):
        await conductor.set_status(made, StreamStatus(state="active", messages=count))
    status, created = (await conductor.history(STREAM, "s")).items
    assert (created.what, status.what) == ("created", "status")
    assert status.changes == (FieldChange(path="status.state", before="pending", after="active"),)


async def test_what_happened_lately_is_listed_over_all_objects(conductor: Conductor) -> None:
    """Newest first, by kind, tenant and actor; a page never splits a revision."""
    for i in range(5):
        with acting_as(f"user:{i % 2}"):
            await put(conductor, f"s{i}")
    await conductor.create(conductor.decode(STREAM, {"name": "t", "spec": {"subjects": ["a"]}}, tenant="radio"))
    assert [r.name for r in (await conductor.recent()).items] == ["s4", "s3", "s2", "s1", "s0"]
    assert (await conductor.recent(tenant=None)).items[0].name == "t"
    assert [r.name for r in (await conductor.recent(STREAM, "radio")).items] == ["t"]
    assert [r.name for r in (await conductor.recent(actor="user:1")).items] == ["s3", "s1"]
    first = await conductor.recent(limit=2)
    rest = await conductor.recent(limit=9, cursor=first.cursor)
    assert [r.name for r in (*first.items, *rest.items)] == ["s4", "s3", "s2", "s1", "s0"]
    with pytest.raises(InvalidInput):
        await conductor.recent(cursor="x")


async def test_history_is_bounded(conductor: Conductor, store: Store, nursery: trio.Nursery) -> None:
    """Beyond the bounds of one object and of all together, the oldest records go, also those from before a start."""
    for i in range(6):
        await put(conductor, "busy", version=str(i))
    for i in range(4):
        await put(conductor, f"s{i}")
    bounds = history_bounds(HistorySettings(records=5, records_per_object=2, max_age="0"))
    await nursery.start(partial(keep_bounded, store, SystemClock(), bounds))
    assert [r.changes[0].after for r in (await conductor.history(SERVICE, "busy")).items] == ["5"]
    assert len((await conductor.recent()).items) == 5


async def test_bounds_hold_while_changes_come(conductor: Conductor, store: Store, nursery: trio.Nursery) -> None:
    """What comes after the start is bounded at the next sweep."""
    bounds = history_bounds(HistorySettings(records=100, records_per_object=3, max_age="0"))
    await nursery.start(partial(keep_bounded, store, SystemClock(), bounds, interval=0.01))
    for i in range(9):
        await put(conductor, version=str(i))
    with trio.fail_after(30):
        while (await store.list(HISTORY, prefix_end(HISTORY), count_only=True)).count > 3:  # noqa: ASYNC110
            await trio.sleep(0.01)
    assert [r.changes[0].after for r in (await conductor.history(SERVICE, "s")).items] == ["8", "7", "6"]


def test_the_oldest_goes_first() -> None:
    """By age, by object, and over all; a key that is written again is young again."""
    ages = Ages(Bounds(prefix=b"/h/", object_of=lambda key: key[:4], per_object=3, overall=4, max_age=10.0))
    for i, key in enumerate([b"/h/a/1", b"/h/a/2", b"/h/b/1", b"/h/c/1"]):
        ages.put(key, i, float(i))
    assert ages.due(4.0) == []
    assert ages.due(11.5) == [(b"/h/a/1", 0), (b"/h/a/2", 1)]
    ages.put(b"/h/a/1", 9, 9.0)
    assert ages.due(11.5) == [(b"/h/a/2", 1)]
    for i in range(3):
        ages.put(b"/h/b/%d" % (i + 2), 20 + i, 9.0)
    assert ages.due(9.0) == [(b"/h/b/1", 2), (b"/h/a/2", 1), (b"/h/c/1", 3)]
    ages.drop(b"/h/c/1")
    ages.drop(b"/h/c/1")
    assert len(ages) == 6


def test_differences_are_short() -> None:
    """Nested fields have paths, types count, long values are cut, and what is too much is counted."""
    before = {"a": {"b": [1, {"c": 2}], "d": 1}, "e": None, "same": [1, 2]}
    after = {"a": {"b": [1, {"c": 3}, 4], "d": 1.0}, "f": {}, "same": [1, 2]}
    found, more = differences(before, after)
    assert more == 0
    assert found == (
        FieldChange(path="a.b[1].c", before=2, after=3),
        FieldChange(path="a.b[2]", after=4),
        FieldChange(path="a.d", before=1, after=1.0),
        FieldChange(path="e", before=None),
        FieldChange(path="f", after={}),
    )
    (long,), _ = differences({"x": "y"}, {"x": "z" * 9999})
    assert long.cut
    assert len(str(long.after)) == MAX_VALUE
    many, more = differences({}, {str(i): i for i in range(MAX_FIELDS + 5)})
    assert (len(many), more) == (MAX_FIELDS, 5)
