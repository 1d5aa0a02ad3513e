"""Several resources at once, what a listing promises, owners, and selectors of fields."""

from __future__ import annotations

from typing import Any

import pytest

from platformd.conductor import Conductor
from platformd.conductor.owners import MAX_DEPTH
from platformd.conductor.transactions import Transacted, Transaction, transact
from platformd.conductor.validation import validate
from platformd.core.errors import Conflict, InvalidInput, LimitReached, NotFound, PreconditionFailed, Unprocessable
from platformd.model.resource import AnyResource
from platformd.model.service import ENDPOINT, SERVICE
from platformd.model.stream import STREAM, StreamStatus


async def do(conductor: Conductor, *changes: dict[str, Any], dry_run: bool = False, **more: Any) -> Transacted:
    wanted, errors = validate({"changes": list(changes), **more}, Transaction, "")
    assert errors == []
    return await transact(conductor, wanted, dry_run=dry_run)


def service(name: str, op: str = "apply", **more: Any) -> dict[str, Any]:
    return {"op": op, "kind": "Service", "name": name, "document": {"spec": more.pop("spec", {})}, **more}


async def make(conductor: Conductor, name: str, **more: Any) -> AnyResource:
    document = {"name": name, "spec": {}, **more}
    return await conductor.create(conductor.decode(SERVICE, document))


async def names(conductor: Conductor, **more: Any) -> list[str]:
    return [r.name for r in (await conductor.list(SERVICE, **more)).items]


async def test_everything_or_nothing_at_one_revision(conductor: Conductor) -> None:
    """Creating, changing, patching and deleting in one transaction have one revision; one that fails does nothing."""
    await make(conductor, "old")
    await make(conductor, "there")
    done = await do(
        conductor,
        service("new", "create"),
        service("there", spec={"version": "2"}),
        service("old", "delete"),
    )
    assert [r.outcome for r in done.results] == ["created", "configured", "deleted"]
    assert {r.revision for r in (await conductor.list(SERVICE)).items} == {done.revision}
    assert [c.path for c in done.results[1].changes] == ["spec.version"]
    with pytest.raises(PreconditionFailed):
        await do(conductor, service("another", "create"), service("new", "create"))
    assert await names(conductor) == ["new", "there"]


async def test_a_dry_run_writes_nothing(conductor: Conductor) -> None:
    """It tells what would be done, field by field."""
    await make(conductor, "a")
    done = await do(conductor, service("a", spec={"version": "2"}), service("b"), dry_run=True)
    assert [r.outcome for r in done.results] == ["configured", "created"]
    assert done.results[0].changes[0].path == "spec.version"
    assert done.revision == 0
    assert await names(conductor) == ["a"]
    assert (await conductor.get(SERVICE, "a")).generation == 1


async def test_all_errors_of_all_documents_are_said_at_once(conductor: Conductor) -> None:
    """Each with the path of its change; nothing is written."""
    with pytest.raises(Unprocessable) as refused:
        await do(
            conductor,
            service("a", spec={"versoin": "2"}),
            service("b"),
            {"op": "create", "kind": "Stream", "name": "s", "document": {"spec": {"subjects": ["a..b"]}}},
            service("b", "delete"),
            {"op": "delete", "kind": "Strem", "name": "x"},
        )
    assert [e.path for e in refused.value.errors] == [
        "changes[0].document.spec.versoin",
        "changes[2].document.spec.subjects[0]",
        "changes[3]",
        "changes[4].kind",
    ]
    assert await names(conductor) == []


async def test_expected_revisions_hold(conductor: Conductor) -> None:
    """A change whose revision is another refuses the whole."""
    made = await make(conductor, "a")
    await do(conductor, service("a", spec={"version": "2"}, revision=made.revision))
    with pytest.raises(PreconditionFailed, match="was expected"):
        await do(conductor, service("b"), service("a", "delete", revision=made.revision))
    assert await names(conductor) == ["a"]


async def test_a_listing_that_holds_no_more_refuses(conductor: Conductor) -> None:
    """What came, went or was configured since is found; statuses and other tenants are not in the way."""
    listed = (await conductor.list(SERVICE)).revision
    await do(conductor, service("a"), unchanged=[{"kind": "Service", "since": listed}])
    with pytest.raises(PreconditionFailed, match="changed at revision"):
        await do(conductor, service("b"), unchanged=[{"kind": "Service", "since": listed}])
    listed = (await conductor.list(SERVICE)).revision
    a = await conductor.get(SERVICE, "a")
    await conductor.set_status(a, SERVICE.status(state="available"))
    await conductor.create(conductor.decode(SERVICE, {"name": "x", "spec": {}}, tenant="radio"))
    await do(conductor, service("b"), unchanged=[{"kind": "Service", "since": listed}])
    assert (await do(conductor, service("b", "delete"))).revision > listed
    with pytest.raises(PreconditionFailed):
        await do(
            conductor,
            {"op": "apply", "kind": "Stream", "name": "s", "document": {"spec": {"subjects": ["a"]}}},
            unchanged=[{"kind": "Stream", "since": listed}, {"kind": "Service", "since": listed}],
        )


async def test_owners_never_lead_in_a_circle(conductor: Conductor) -> None:
    """Nothing belongs to itself, over however many others, and a chain is not too long."""
    await make(conductor, "s0")
    for i in range(1, MAX_DEPTH + 1):
        await make(conductor, f"s{i}", owner={"kind": "Service", "name": f"s{i - 1}"})
    with pytest.raises(LimitReached, match=f"more than {MAX_DEPTH}"):
        await make(conductor, "deep", owner={"kind": "Service", "name": f"s{MAX_DEPTH}"})
    with pytest.raises(Conflict, match="itself"):
        await conductor.patch(SERVICE, "s0", "default", {"owner": {"kind": "Service", "name": "s2"}})


async def test_what_goes_with_it_is_told_before(conductor: Conductor) -> None:
    """A dry run of a deletion lists what belongs to it, the nearest first; orphans stay and belong to nobody."""
    await make(conductor, "s")
    await make(conductor, "child", owner={"kind": "Service", "name": "s"})
    spec = {"service": "s", "address": "::1"}
    owner = {"kind": "Service", "name": "child"}
    await conductor.create(conductor.decode(ENDPOINT, {"name": "e", "spec": spec, "owner": owner}))
    told = await conductor.remove(SERVICE, "s", dry_run=True)
    assert [(d.kind, d.name, d.depth) for d in told.dependents] == [("Service", "child", 1), ("Endpoint", "e", 2)]
    assert await names(conductor) == ["child", "s"]
    gone = await conductor.remove(SERVICE, "s", cascade="orphan")
    assert (gone.outcome, gone.dependents) == ("deleted", ())
    assert (await conductor.get(SERVICE, "child")).owner is None
    with pytest.raises(NotFound):
        await conductor.get(SERVICE, "s")


async def test_fields_select_and_sort(conductor: Conductor) -> None:
    """Terms over any field, labels included; numbers sort as numbers, and pages of a sorted listing join on."""
    for i, version in enumerate(["b", "a", "", "c"]):
        await make(conductor, f"s{i}", spec={"version": version, "tags": [str(i), "x"]}, labels={"n/o": str(i)})
    assert await names(conductor, fields="spec.version=a") == ["s1"]
    assert await names(conductor, fields="spec.version,spec.version!=b") == ["s1", "s3"]
    assert await names(conductor, fields="!spec.version") == ["s2"]
    assert await names(conductor, fields="spec.tags=3") == ["s3"]
    assert await names(conductor, fields="labels.n/o=2,status.state=pending") == ["s2"]
    assert await names(conductor, fields="status.endpoints=0", selector="n/o!=0") == ["s1", "s2", "s3"]
    assert await names(conductor, sort="spec.version") == ["s2", "s1", "s0", "s3"]
    assert await names(conductor, sort="-spec.version", limit=2) == ["s3", "s0"]
    first = await conductor.list(SERVICE, sort="name", limit=3)
    await make(conductor, "s")
    rest = await conductor.list(SERVICE, sort="name", limit=3, cursor=first.cursor)
    assert [r.name for r in (*first.items, *rest.items)] == ["s0", "s1", "s2", "s3"]
    with pytest.raises(InvalidInput, match="did you mean version"):
        await names(conductor, fields="spec.verson=a")
    with pytest.raises(InvalidInput, match="no field"):
        await names(conductor, sort="name.deeper")
    with pytest.raises(InvalidInput, match="cursor"):
        await names(conductor, cursor=first.cursor)


async def test_numbers_sort_as_numbers(conductor: Conductor) -> None:
    """10 comes after 9."""
    for name, count in (("a", 10), ("b", 9)):
        made = await conductor.create(conductor.decode(STREAM, {"name": name, "spec": {"subjects": [name]}}))
        await conductor.set_status(made, StreamStatus(state="active", messages=count))
    assert [r.name for r in (await conductor.list(STREAM, sort="status.messages")).items] == ["b", "a"]
