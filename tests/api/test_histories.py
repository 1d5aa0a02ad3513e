"""History, transactions and reports over HTTP."""

from __future__ import annotations

import os
import pwd

import pytest

from platformd.model.service import SERVICE
from tests.api.conftest import Served
from tests.api.wire import Client


async def apply(client: Client, name: str, query: str = "", **spec: object) -> object:
    return (await client.request("PUT", f"/v1/services/{name}{query}", {"spec": spec})).json


async def test_history_says_who_asked_and_why(client: Client) -> None:
    """The peer of the socket is the actor, and a header gives the reason; what is gone is still told."""
    await client.request("POST", "/v1/services", {"name": "s", "spec": {}}, {"Platformd-Reason": "new dome"})
    await apply(client, "s", version="2")
    await client.request("DELETE", "/v1/services/s")
    records = (await client.request("GET", "/v1/services/s/history")).json["items"]
    me = f"user:{pwd.getpwuid(os.getuid()).pw_name}"
    assert [(r["what"], r["actor"]) for r in records] == [(w, me) for w in ("deleted", "configured", "created")]
    assert records[2]["reason"] == "new dome"
    assert records[1]["changes"] == [{"path": "spec.version", "before": "", "after": "2"}]
    page = (await client.request("GET", "/v1/history?kind=services&limit=1")).json
    older = (await client.request("GET", f"/v1/history?limit=1&cursor={page['cursor']}")).json
    assert [page["items"][0]["what"], older["items"][0]["what"]] == ["deleted", "configured"]
    assert (await client.request("GET", "/v1/history?actor=nobody")).json["items"] == []
    assert (await client.request("GET", "/v1/history?kind=service")).status == 404


async def test_a_report_tells_what_a_write_does(client: Client) -> None:
    """With ``report`` each write answers its outcome, the fields, and what goes with it; a dry run likewise."""
    made = (await client.request("POST", "/v1/services?report", {"name": "s", "spec": {"version": "1"}})).json
    assert (made["outcome"], made["resource"]["name"]) == ("created", "s")
    told = await apply(client, "s", "?report&dry_run", version="2")
    assert told["changes"] == [{"path": "spec.version", "before": "1", "after": "2"}]  # type: ignore[index]
    owner = {"kind": "Service", "name": "s"}
    await client.request("POST", "/v1/services", {"name": "child", "owner": owner, "spec": {}})
    gone = (await client.request("DELETE", "/v1/services/s?report&dry_run")).json
    assert gone["dependents"] == [{"kind": "Service", "name": "child", "depth": 1}]
    assert (await client.request("DELETE", "/v1/services/s?cascade=all")).status == 400
    assert (await client.request("DELETE", "/v1/services/s?cascade=orphan")).status == 200
    assert (await client.request("GET", "/v1/services/child")).json["owner"] is None


async def test_a_transaction_is_all_or_nothing(client: Client) -> None:
    """Several resources change at one revision, or none does and everything that is wrong is said."""
    change = {"op": "create", "kind": "Service", "document": {"spec": {}}}
    done = await client.request("POST", "/v1/transactions", {"changes": [change | {"name": n} for n in ("a", "b")]})
    assert [r["resource"]["revision"] for r in done.json["results"]] == [done.json["revision"]] * 2
    again = {"changes": [change | {"name": "c"}, change | {"name": "a"}]}
    assert (await client.request("POST", "/v1/transactions", again)).status == 412
    wrong = await client.request("POST", "/v1/transactions", {"changes": [{"op": "make"}], "unchanged": [{}]})
    assert {e["path"] for e in wrong.json["errors"]} >= {"changes[0].op", "changes[0].kind", "unchanged[0].since"}
    assert len((await client.request("GET", "/v1/services")).json["items"]) == 2


@pytest.mark.parametrize("query", ["field=spec.version%3D2", "field=spec.version&sort=-spec.version"])
async def test_listings_select_and_sort(client: Client, query: str) -> None:
    """Selectors of fields and sorting are parameters of a listing."""
    await apply(client, "a")
    await apply(client, "b", version="2")
    listed = (await client.request("GET", f"/v1/services?{query}")).json
    assert [item["name"] for item in listed["items"]] == ["b"]
    assert (await client.request("GET", "/v1/services?sort=spec.nothing")).status == 400


async def test_a_dash_stands_for_all_tenants(client: Client) -> None:
    """What reads can ask for everybody's at once; nothing can be made there."""
    await apply(client, "a")
    await client.request("PUT", "/v1/tenants/radio/services/b", {"spec": {}})
    listed = (await client.request("GET", "/v1/tenants/-/services")).json["items"]
    assert [(item["tenant"], item["name"]) for item in listed] == [("default", "a"), ("radio", "b")]
    assert len((await client.request("GET", "/v1/tenants/-/history")).json["items"]) == 2
    assert (await client.request("PUT", "/v1/tenants/-/services/c", {"spec": {}})).status == 422
    assert (await client.request("GET", "/v1/tenants/-/services/a")).status == 404


async def test_events_are_found_by_what_they_are_about(served: Served, client: Client) -> None:
    """``kind`` and ``name`` select them, in listings and in watches, and no other kind has these parameters."""
    conductor = served.context.conductor
    await apply(client, "dome")
    await apply(client, "other")
    for name in ("dome", "other"):
        conductor.events.tell(await conductor.get(SERVICE, name), "Moved", "to the north")
    await conductor.events.write()
    assert (await client.request("GET", "/v1/services?kind=x")).status == 400
    listed = (await client.request("GET", "/v1/events?kind=Service&name=dome")).json["items"]
    assert [(e["spec"]["about"]["name"], e["spec"]["reason"]) for e in listed] == [("dome", "Moved")]
    async for event in client.events("/v1/events?watch&name=other"):
        if event.event == "added":
            assert event.data is not None
            assert event.data["spec"]["about"]["name"] == "other"
            break


async def test_how_controllers_stand_to_a_resource(client: Client) -> None:
    """Nothing looks where no controller runs; what is not there is not found."""
    await apply(client, "dome")
    assert (await client.request("GET", "/v1/services/dome/reconcile")).json == {"items": []}
    assert (await client.request("GET", "/v1/services/none/reconcile")).status == 404
