"""Resources: created, read, changed, deleted and watched, over a real store."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
import trio

from platformd.conductor import Change, Conductor
from platformd.conductor.conductor import key_of
from platformd.coordination.contract import Put, Store
from platformd.core.clock import SystemClock
from platformd.core.errors import (
    Conflict,
    Corrupted,
    FieldError,
    InvalidInput,
    NotFound,
    PreconditionFailed,
    Unprocessable,
)
from platformd.core.ids import uuid7
from platformd.model.kinds import KINDS
from platformd.model.node import NODE
from platformd.model.resource import AnyResource, Owner
from platformd.model.service import SERVICE
from platformd.model.stream import STREAM, StreamStatus


def service(conductor: Conductor, name: str, tenant: str = "default", **spec: Any) -> AnyResource:
    return conductor.decode(SERVICE, {"name": name, "spec": spec}, tenant=tenant)


def stream(conductor: Conductor, name: str = "alerts", subjects: tuple[str, ...] = ("alerts.>",)) -> AnyResource:
    return conductor.decode(STREAM, {"name": name, "spec": {"subjects": list(subjects)}})


async def test_create_then_get(conductor: Conductor) -> None:
    """What was created is read back with everything that the server owns filled in."""
    created = await conductor.create(service(conductor, "a", version="1"))
    assert created == await conductor.get(SERVICE, "a")
    assert created.generation == 1
    assert created.revision > 0
    assert created.uid
    assert created.created_at == created.updated_at is not None


async def test_create_twice_is_a_conflict(conductor: Conductor) -> None:
    """The second creation is refused and changes nothing."""
    first = await conductor.create(service(conductor, "a", version="1"))
    with pytest.raises(Conflict, match="exists already"):
        await conductor.create(service(conductor, "a", version="2"))
    assert await conductor.get(SERVICE, "a") == first


async def test_tenants_have_their_own_names(conductor: Conductor) -> None:
    """The same name in two tenants is two objects."""
    await conductor.create(service(conductor, "a", version="1"))
    await conductor.create(service(conductor, "a", tenant="lab", version="2"))
    assert (await conductor.get(SERVICE, "a", "lab")).spec.version == "2"
    assert [r.tenant for r in (await conductor.list(SERVICE, None)).items] == ["default", "lab"]
    assert [r.tenant for r in (await conductor.list(SERVICE, "lab")).items] == ["lab"]


async def test_apply_says_what_it_did(conductor: Conductor) -> None:
    """Created, unchanged, configured; and only a change of the spec makes a new generation."""
    one, first = await conductor.replace(service(conductor, "a", version="1"))
    same, second = await conductor.replace(service(conductor, "a", version="1"))
    labelled, third = await conductor.patch(SERVICE, "a", "default", {"labels": {"x": "y"}})
    changed, fourth = await conductor.patch(SERVICE, "a", "default", {"spec": {"version": "2"}})
    assert [first, second, third, fourth] == ["created", "unchanged", "configured", "configured"]
    assert [one.generation, same.generation, labelled.generation, changed.generation] == [1, 1, 1, 2]
    assert one.revision == same.revision < labelled.revision < changed.revision
    assert changed.uid == one.uid


async def test_expected_revisions_hold(conductor: Conductor) -> None:
    """A write that assumes an older revision is refused, whichever way it writes."""
    one = await conductor.create(service(conductor, "a"))
    two, _ = await conductor.patch(SERVICE, "a", "default", {"spec": {"version": "2"}}, expect_revision=one.revision)
    with pytest.raises(PreconditionFailed):
        await conductor.patch(SERVICE, "a", "default", {"spec": {"version": "3"}}, expect_revision=one.revision)
    with pytest.raises(PreconditionFailed):
        await conductor.replace(service(conductor, "a"), expect_revision=one.revision)
    with pytest.raises(PreconditionFailed):
        await conductor.delete(SERVICE, "a", expect_revision=one.revision)
    with pytest.raises(PreconditionFailed):
        await conductor.replace(service(conductor, "b"), expect_revision=one.revision)
    assert await conductor.get(SERVICE, "a") == two


async def test_a_dry_run_writes_nothing(conductor: Conductor, store: Store) -> None:
    """Every write says what it would do and leaves the store's revision alone."""
    await conductor.create(service(conductor, "a"))
    before = (await store.status()).revision
    assert (await conductor.create(service(conductor, "b"), dry_run=True)).name == "b"
    assert (await conductor.patch(SERVICE, "a", "default", {"spec": {"version": "9"}}, dry_run=True))[1] == "configured"
    assert (await conductor.delete(SERVICE, "a", dry_run=True))[1]
    assert (await store.status()).revision == before


async def test_what_the_server_owns_is_ignored_in_documents(conductor: Conductor) -> None:
    """A document as it was read can be sent back, and no client writes a status."""
    created = await conductor.create(service(conductor, "a", version="1"))
    document = msgspec.to_builtins(created)
    document |= {"status": {"state": "invented"}, "uid": "x", "generation": 99, "revision": 12}
    document["spec"]["version"] = "2"
    changed, _ = await conductor.replace(conductor.decode(SERVICE, document))
    assert (changed.uid, changed.generation, changed.status.state) == (created.uid, 2, "pending")


async def test_everything_wrong_is_said_at_once(conductor: Conductor) -> None:
    """Errors of the envelope and of the spec come together."""
    document = {"kind": "Stream", "name": "NO", "labels": {"a": 1}, "colour": "red", "spec": {"protokol": "x"}}
    with pytest.raises(Unprocessable) as caught:
        conductor.decode(SERVICE, document)
    assert {e.path for e in caught.value.errors} == {"kind", "name", "labels.a", "colour", "spec.protokol"}


async def test_a_name_in_the_url_and_in_the_document_must_agree(conductor: Conductor) -> None:
    """A document for another object than the one addressed is refused."""
    with pytest.raises(Unprocessable) as caught:
        conductor.decode(SERVICE, {"name": "a", "tenant": "x"}, name="b", tenant="y")
    assert {e.path for e in caught.value.errors} == {"name", "tenant"}


async def test_admission_rules_of_other_rooms_are_asked(store: Store) -> None:
    """A rule that a room brought refuses documents and resources alike."""

    def refuse(spec: Any) -> list[FieldError]:
        return [FieldError(path="spec.version", message="is forbidden")] if spec.version == "bad" else []

    conductor = Conductor(store, SystemClock(), uuid7(SystemClock()), KINDS, admission={"Service": (refuse,)})
    with pytest.raises(Unprocessable, match="is forbidden"):
        service(conductor, "a", version="bad")
    good = service(conductor, "a", version="good")
    bad = msgspec.structs.replace(good, spec=msgspec.structs.replace(good.spec, version="bad"))
    with pytest.raises(Unprocessable, match="is forbidden"):
        await conductor.create(bad)


async def test_deletion_waits_for_the_finalizer(conductor: Conductor) -> None:
    """An object with a finalizer is only marked, takes no new spec, and goes when the finalizer is done."""
    created = await conductor.create(stream(conductor))
    assert created.finalizers == ("queues",)
    marked, gone = await conductor.delete(STREAM, "alerts")
    assert (marked.deleting_at is not None, gone) == (True, False)
    assert (await conductor.delete(STREAM, "alerts"))[0] == marked
    with pytest.raises(Conflict, match="being deleted"):
        await conductor.replace(stream(conductor, subjects=("other.>",)))
    await conductor.finalize(marked, "queues")
    with pytest.raises(NotFound):
        await conductor.get(STREAM, "alerts")
    await conductor.finalize(marked, "queues")


async def test_deletion_without_finalizer_is_at_once(conductor: Conductor) -> None:
    """An object that nobody cleans up after is gone when delete returns."""
    await conductor.create(service(conductor, "a"))
    assert (await conductor.delete(SERVICE, "a"))[1]
    with pytest.raises(NotFound, match="service/a"):
        await conductor.delete(SERVICE, "a")


async def test_status_is_written_only_when_it_differs(conductor: Conductor) -> None:
    """The same status again writes nothing; ``since`` moves with the state only."""
    created = await conductor.create(stream(conductor))
    first = await conductor.set_status(created, StreamStatus(state="active", messages=1))
    again = await conductor.set_status(created, StreamStatus(state="active", messages=1))
    grown = await conductor.set_status(created, StreamStatus(state="active", messages=2))
    assert first.revision == again.revision < grown.revision
    assert first.status.since == grown.status.since is not None
    assert grown.generation == created.generation


async def test_illegal_transitions_name_the_legal_ones(conductor: Conductor) -> None:
    """The state table decides, and the refusal says what it allows."""
    created = await conductor.create(stream(conductor))
    await conductor.set_status(created, StreamStatus(state="active"))
    with pytest.raises(Conflict, match="it may go to: error"):
        await conductor.set_status(created, StreamStatus(state="pending"))


async def test_status_of_a_namesake_is_not_written(conductor: Conductor) -> None:
    """A controller that still holds the old object cannot write into its successor of the same name."""
    old = await conductor.create(service(conductor, "a"))
    await conductor.delete(SERVICE, "a")
    await conductor.create(service(conductor, "a"))
    with pytest.raises(NotFound):
        await conductor.set_status(old, SERVICE.status(state="available"))


async def test_concurrent_changes_all_arrive(conductor: Conductor) -> None:
    """Many writers of different labels at once lose nothing: each write is a compare and set."""
    await conductor.create(service(conductor, "a"))
    async with trio.open_nursery() as nursery:
        for i in range(12):
            nursery.start_soon(conductor.patch, SERVICE, "a", "default", {"labels": {f"l{i}": "x"}})
    assert len((await conductor.get(SERVICE, "a")).labels) == 12


async def test_pages_of_a_listing_are_of_one_revision(conductor: Conductor) -> None:
    """Objects that come and go between pages do not disturb the listing."""
    for i in range(7):
        await conductor.create(service(conductor, f"s{i}"))
    page = await conductor.list(SERVICE, limit=3)
    await conductor.create(service(conductor, "s99"))
    await conductor.delete(SERVICE, "s5")
    names = [r.name for r in page.items]
    while page.cursor is not None:
        page = await conductor.list(SERVICE, limit=3, cursor=page.cursor)
        names += [r.name for r in page.items]
    assert names == [f"s{i}" for i in range(7)]


async def test_selected_listings_fill_their_pages(conductor: Conductor) -> None:
    """A page has as many matching objects as it may, wherever in the range they are."""
    for i in range(9):
        await conductor.create(service(conductor, f"s{i}"))
        if i % 3 == 0:
            await conductor.patch(SERVICE, f"s{i}", "default", {"labels": {"third": "yes"}})
    page = await conductor.list(SERVICE, selector="third", limit=2)
    rest = await conductor.list(SERVICE, selector="third", limit=2, cursor=page.cursor)
    assert [r.name for r in (*page.items, *rest.items)] == ["s0", "s3", "s6"]


@pytest.mark.parametrize("cursor", ["x", "!!!", "kgE="])
async def test_wrong_cursors_are_refused(conductor: Conductor, cursor: str) -> None:
    """A cursor that no listing gave is an error and not a listing of something else."""
    with pytest.raises(InvalidInput, match="cursor"):
        await conductor.list(SERVICE, cursor=cursor)


async def test_a_damaged_object_is_named(conductor: Conductor, store: Store) -> None:
    """What cannot be decoded is an error with a cure, not a traceback."""
    await store.txn([], [Put(key_of("Service", "default", "bad"), b'{"kind":"Service"')])
    with pytest.raises(Corrupted, match="stored Service"):
        await conductor.get(SERVICE, "bad")


async def test_an_owner_must_be_there(conductor: Conductor) -> None:
    """The owner's uid is filled in, so that a later namesake is not taken for it; a missing one is refused."""
    owner = await conductor.create(service(conductor, "a"))
    document = {"name": "b", "owner": {"kind": "Service", "name": "a"}}
    owned = await conductor.create(conductor.decode(SERVICE, document))
    assert owned.owner == Owner(kind="Service", name="a", uid=owner.uid)
    with pytest.raises(NotFound, match="owner"):
        await conductor.create(
            conductor.decode(SERVICE, document | {"name": "c", "owner": {"kind": "Node", "name": "x"}})
        )


async def test_a_patch_gives_another_owner(conductor: Conductor) -> None:
    """Naming another owner is enough, whatever uid the one before had; a uid that is said must be the owner's."""
    for name in ("a", "b"):
        await conductor.create(service(conductor, name))
    await conductor.create(conductor.decode(SERVICE, {"name": "c", "owner": {"kind": "Service", "name": "a"}}))
    patched, _ = await conductor.patch(SERVICE, "c", "default", {"owner": {"kind": "Service", "name": "b"}})
    assert patched.owner == Owner(kind="Service", name="b", uid=(await conductor.get(SERVICE, "b")).uid)
    with pytest.raises(NotFound, match="owner"):
        await conductor.patch(SERVICE, "c", "default", {"owner": {"name": "a", "uid": "another"}})


async def collect(conductor: Conductor, wanted: int, **options: Any) -> list[Change]:
    """The first ``wanted`` changes of a watch of services and nodes."""
    changes: list[Change] = []
    with trio.fail_after(5):
        async with conductor.watch([SERVICE, NODE], **options) as batches:
            async for batch in batches:
                changes += batch.changes
                if len(changes) >= wanted:
                    return changes
    raise AssertionError


async def test_a_watch_begins_with_what_is_there(conductor: Conductor) -> None:
    """First everything as added, then a bookmark, then changes of the kinds that were asked for."""
    await conductor.create(service(conductor, "a"))
    await conductor.create(stream(conductor))
    seen: list[tuple[str, str]] = []
    with trio.fail_after(5):
        async with conductor.watch([SERVICE], None) as batches:
            async for batch in batches:
                seen += [(c.type, c.resource.name) for c in batch.changes] or [("bookmark", "")]
                if seen[-1] == ("bookmark", "") and len(seen) == 2:
                    await conductor.create(service(conductor, "b"))
                    await conductor.patch(SERVICE, "b", "default", {"spec": {"version": "2"}})
                    await conductor.delete(SERVICE, "b")
                if ("deleted", "b") in seen:
                    break
    assert [s for s in seen if s[0] != "bookmark"] == [
        ("added", "a"),
        ("added", "b"),
        ("modified", "b"),
        ("deleted", "b"),
    ]
    assert seen[1] == ("bookmark", "")


async def test_a_watch_resumes(conductor: Conductor) -> None:
    """``after`` a change comes exactly what followed it, deletions with the last state."""
    await conductor.create(service(conductor, "a"))
    (first,) = await collect(conductor, 1)
    await conductor.create(service(conductor, "b", version="7"))
    await conductor.delete(SERVICE, "b")
    changes = await collect(conductor, 2, after=first.revision)
    assert [(c.type, c.resource.name) for c in changes] == [("added", "b"), ("deleted", "b")]
    assert changes[1].resource.spec.version == "7"


async def test_a_watch_of_a_tenant_sees_only_it(conductor: Conductor) -> None:
    """Changes of other tenants do not appear."""
    await conductor.create(service(conductor, "a", tenant="lab"))
    await conductor.create(service(conductor, "b"))
    changes = await collect(conductor, 1, tenant="default")
    assert [c.resource.name for c in changes] == ["b"]
