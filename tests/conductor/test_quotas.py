"""What a tenant may have, held when it is written."""

from __future__ import annotations

from typing import Any

import pytest
import trio

from platformd.conductor import Conductor, quotas
from platformd.conductor.transactions import ChangeWanted, Transaction, transact
from platformd.coordination.contract import Store
from platformd.core.clock import SystemClock
from platformd.core.errors import LimitReached, Unprocessable
from platformd.core.ids import uuid7
from platformd.model.kind import Kind
from platformd.model.kinds import KINDS
from platformd.model.quota import QUOTA
from platformd.model.resource import AnyResource
from platformd.model.service import SERVICE
from platformd.model.stream import STREAM


@pytest.fixture
def conductor(store: Store) -> Conductor:
    admission = {QUOTA.name: (quotas.check_kinds(KINDS),)}
    made = Conductor(store, SystemClock(), uuid7(SystemClock()), KINDS, admission=admission)
    quotas.Quotas(made).stand_guard()
    return made


async def put(conductor: Conductor, kind: Kind, name: str, tenant: str = "default", **spec: Any) -> AnyResource:
    return (await conductor.replace(conductor.decode(kind, {"name": name, "spec": spec}, tenant=tenant)))[0]


async def quota(conductor: Conductor, kind: str = "Service", **limit: Any) -> AnyResource:
    return await put(conductor, QUOTA, "q", limits=[{"kind": kind, **limit}])


async def test_a_count_is_held(conductor: Conductor) -> None:
    """One more than the limit is refused with the limit; changing, deleting and other tenants are free."""
    await quota(conductor, count=2)
    await put(conductor, SERVICE, "a")
    await put(conductor, SERVICE, "b")
    with pytest.raises(LimitReached, match="limit is 2") as refused:
        await put(conductor, SERVICE, "c")
    assert refused.value.details == {
        "quota": "q", "kind": "Service", "field": "count", "limit": 2, "used": 2, "asked": 3,
    }  # fmt: skip
    await put(conductor, SERVICE, "b", version="2")
    await put(conductor, SERVICE, "c", tenant="radio")
    await conductor.delete(SERVICE, "a")
    await put(conductor, SERVICE, "c")


async def test_a_sum_is_held(conductor: Conductor) -> None:
    """Sizes are summed in bytes; what has no limit of its own is refused; less is always allowed."""
    await put(conductor, STREAM, "before", subjects=["b"])
    await quota(conductor, "Stream", sums={"spec.max_bytes": "10MiB"})
    await put(conductor, STREAM, "one", subjects=["1"], max_bytes="6MiB")
    with pytest.raises(LimitReached, match="max_bytes"):
        await put(conductor, STREAM, "two", subjects=["2"], max_bytes="5MiB")
    with pytest.raises(LimitReached, match="limit of its own"):
        await put(conductor, STREAM, "two", subjects=["2"])
    await put(conductor, STREAM, "two", subjects=["2"], max_bytes="4MiB")
    with pytest.raises(LimitReached):
        await put(conductor, STREAM, "one", subjects=["1"], max_bytes="7MiB")
    await quota(conductor, "Stream", sums={"spec.max_bytes": "1MiB"})
    await put(conductor, STREAM, "one", subjects=["1"], max_bytes="5MiB")


async def test_a_transaction_is_summed_as_a_whole(conductor: Conductor) -> None:
    """What goes makes room for what comes."""
    await quota(conductor, count=1)
    await put(conductor, SERVICE, "a")
    swap = (
        ChangeWanted(op="create", kind="Service", name="b", document={"spec": {}}),
        ChangeWanted(op="delete", kind="Service", name="a"),
    )
    await transact(conductor, Transaction(changes=swap))
    two = tuple(ChangeWanted(op="apply", kind="Service", name=n, document={"spec": {}}) for n in ("c", "d"))
    with pytest.raises(LimitReached):
        await transact(conductor, Transaction(changes=two))


async def test_the_last_place_is_taken_once(conductor: Conductor) -> None:
    """However many want it at the same time."""
    await quota(conductor, count=3)
    refused: list[str] = []

    async def try_one(name: str) -> None:
        try:
            await put(conductor, SERVICE, name)
        except LimitReached:
            refused.append(name)

    async with trio.open_nursery() as nursery:
        for i in range(12):
            nursery.start_soon(try_one, f"s{i}")
    assert len((await conductor.list(SERVICE)).items) == 3
    assert len(refused) == 9


async def test_a_quota_names_what_there_is(conductor: Conductor) -> None:
    """Kinds and fields are checked, and each kind is limited once."""
    with pytest.raises(Unprocessable) as refused:
        await put(
            conductor,
            QUOTA,
            "q",
            limits=[
                {"kind": "Strem", "count": 1},
                {"kind": "Stream", "sums": {"spec.max_byte": 1}},
                {"kind": "Stream"},
            ],
        )
    assert [e.path for e in refused.value.errors] == [
        "spec.limits[2].kind", "spec.limits[2]", "spec.limits[0].kind", "spec.limits[1].sums",
    ]  # fmt: skip


async def test_the_status_says_what_is_used(conductor: Conductor, nursery: trio.Nursery) -> None:
    """It follows what comes and goes, and says when there is more than may be."""
    await nursery.start(quotas.run, conductor)
    await put(conductor, SERVICE, "a")
    await put(conductor, SERVICE, "b")
    await quota(conductor, count=1)

    async def until(state: str, count: int) -> None:
        with trio.fail_after(30):
            while True:
                status = (await conductor.get(QUOTA, "q")).status
                if status.state == state and status.used[0].count == count:
                    return
                await trio.sleep(0.005)

    await until("exceeded", 2)
    await conductor.delete(SERVICE, "a")
    await until("within", 1)
