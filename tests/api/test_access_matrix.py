"""Every route of the API, asked by every role about every tenant's things, against the table."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from werkzeug.routing import Rule

from platformd.api.access import declared
from platformd.api.app import create_app
from platformd.api.kv import Keys
from platformd.coordination.sqlite import open_sqlite
from platformd.core.clock import SystemClock
from platformd.core.settings import StoreSettings
from platformd.model.access import NOBODY, TABLE, Principal, Scope, allowed, scope_of
from tests.api.conftest import Served, Start
from tests.api.peer import Peer, Refused

MINE, THEIRS = "survey", "planets"
WHO = [
    Principal(name="user:root", role="admin", how="peer"),
    Principal(name="token:ops", role="operator", how="token"),
    Principal(name="token:survey", role="tenant", how="token", tenant=MINE),
    Principal(name="token:look", role="reader", how="token"),
    Principal(name="token:guest", role="reader", how="token", tenant=MINE),
    Principal(name="user:nobody", role=None, how="peer"),
    NOBODY,
]
SPACES: dict[str | None, str] = {MINE: f"tenants/{MINE}/k", THEIRS: f"tenants/{THEIRS}/k", None: "k"}
"""A key, or a name of a lock, of each tenant and of nobody."""

VALUES = {"name": "s", "consumer": "c", "job_id": "j", "word": "stream", "file": "LICENSE", "action": "none"}
"""Of variables in paths; a new one is given a value here."""


@dataclass(frozen=True)
class Question:
    """One request, and what it is about."""

    method: str
    path: str
    operation: str
    whose: str | None
    """The tenant whose the thing is."""
    body: Any = None
    websocket: bool = False
    whole: bool = False
    """Whether it is about all leases, which a tenant's principal is not shown."""


@pytest.fixture
async def stored(tmp_path: Path, start: Start) -> AsyncIterator[Served]:
    """A server over a whole store."""
    async with open_sqlite(tmp_path / "store.db", StoreSettings(), SystemClock()) as sqlite:
        served: Served = await start(store=sqlite)
        yield served
        served.stop()
        await served.done.wait()


def _rules(served: Served) -> list[tuple[Rule, str, str]]:
    """All routes, with what is declared of each."""
    app = create_app(served.context)
    found = []
    for rule in app.url_map.iter_rules():
        said = declared(app.view_functions[rule.endpoint])
        assert said is not None, (
            f"{rule.rule} ({rule.endpoint}) does not say what it does: see platformd.api.access.needs"
        )
        found.append((rule, *said))
    return found


async def test_every_route_says_what_it_does(stored: Served) -> None:
    """Each route declares an operation of the table; one that does not is shut to all but admins."""
    rules = _rules(stored)
    assert len(rules) > 40
    assert {operation for _, operation, _ in rules} <= TABLE.keys()
    assert declared(create_app) is None


def _questions(rule: Rule, operation: str, of: str) -> Iterator[Question]:
    methods = ["GET"] if rule.websocket else sorted((rule.methods or set()) - {"HEAD", "OPTIONS"})
    for method in methods:
        if of == "keys":
            yield from _key_questions(rule, method, operation)
            continue
        for tenant in (MINE, THEIRS) if "tenant" in rule.arguments else ("default",):
            for plural in ("services", "nodes", "quotas") if "plural" in rule.arguments else ("",):
                values = VALUES | {"tenant": tenant, "plural": plural}
                path = _path(rule, values)
                given = plural == "quotas" and operation != "resources.read"  # nobody lifts a quota of their own
                whose = None if of == "facility" or plural == "nodes" or given else tenant
                yield Question(method, path, operation, whose, {}, rule.websocket)


def _path(rule: Rule, values: dict[str, str]) -> str:
    """The path of a route; its variables must be known here, or the route is not asked at all."""
    assert rule.arguments <= values.keys(), f"{rule.rule}: give its variables a value here"
    return re.sub(r"<(?:\w+:)?(\w+)>", lambda found: values[found[1]], rule.rule)


def _key_questions(rule: Rule, method: str, operation: str) -> Iterator[Question]:
    for tenant, key in SPACES.items():
        watch = "?watch" if rule.websocket else ""
        if rule.arguments & {"key", "name"}:
            name = key.replace("/", "%2F") if "name" in rule.arguments else key
            body: Any = {"wait": 0} if operation == "locks.write" else b"v"
            path = _path(rule, {"key": name, "name": name})
            if method == "DELETE" and operation == "locks.write":
                path += "?lease=ff"
            yield Question(method, path + watch, operation, tenant, body, rule.websocket)
        elif rule.rule == "/v1/kv":
            amp = "&watch" if rule.websocket else ""
            yield Question(method, f"/v1/kv?prefix={key}{amp}", operation, tenant, None, rule.websocket)
        elif rule.rule == "/v1/txn":
            for op, needed in (("get", "kv.read"), ("put", "kv.write"), ("delete", "kv.write")):
                then = {"op": op, "key": key} | ({"value": "v"} if op == "put" else {})
                yield Question(method, rule.rule, needed, tenant, {"then": [then]})
                yield Question(method, rule.rule, needed, tenant, {"then": [], "else": [then]})
    if "lease_id" in rule.arguments:
        yield Question(method, _path(rule, {"lease_id": "ff"}), operation, "*")
    elif rule.rule in ("/v1/leases", "/v1/locks"):
        yield Question(
            method, rule.rule, operation, "*", {"ttl": "30s"}, whole=rule.rule == "/v1/leases" and method == "GET"
        )
    else:
        assert rule.arguments & {"key", "name"} or rule.rule in ("/v1/kv", "/v1/txn"), f"{rule.rule}: ask it here"


def _expected(who: Principal, question: Question) -> bool:
    if question.whose == "*":  # whoever may, of whatever is its own
        scope: Scope = "own" if who.tenant is not None else "global"
        return allowed(who, question.operation, scope) and not (question.whole and who.tenant is not None)
    return allowed(who, question.operation, scope_of(who, question.whose))


async def _ask(served: Served, question: Question) -> int:
    """The status of the answer; nothing more is read."""
    client = await served.client()
    try:
        if question.websocket:
            await Peer.open(client.stream, question.path)
            return 101
        return (await client.begin(question.method, question.path, question.body)).status_code
    except Refused as error:
        return error.answer.status
    finally:
        served.clients.remove(client)
        await client.aclose()


@pytest.mark.parametrize("who", WHO, ids=lambda who: f"{who.name}:{who.role}@{who.tenant}")
async def test_nobody_gets_more_or_less_than_the_table_says(stored: Served, who: Principal) -> None:
    """Each route lets in exactly whom the table lets do its operation, whosever the thing is."""
    stored.context.gate.peer = lambda _: who  # type: ignore[method-assign]
    asked = 0
    for rule, operation, of in _rules(stored):
        for question in _questions(rule, operation, of):
            status = await _ask(stored, question)
            may = _expected(who, question)
            assert (status not in (401, 403)) is may, (question, status)
            if not may:
                assert status == (401 if who.how == "anonymous" else 403), question
            asked += 1
    assert asked > 100


async def test_what_there_is_not_is_told_to_those_only_who_may_know_anything(stored: Served) -> None:
    """Unknown paths and methods are 404 and 405 to a reader, and 401 to who is nobody."""
    client = await stored.client()
    stored.context.gate.peer = lambda _: WHO[3]  # type: ignore[method-assign]
    assert (await client.request("GET", "/v2")).status == 404
    assert (await client.request("BREW", "/status")).status == 405
    stored.context.gate.peer = lambda _: NOBODY  # type: ignore[method-assign]
    for method, path in (("GET", "/v2"), ("BREW", "/status"), ("OPTIONS", "/status"), ("HEAD", "/status")):
        answer = await client.request(method, path) if method != "HEAD" else await client.request("GET", path)
        assert answer.status == 401, (method, path)
        assert answer.headers["www-authenticate"].startswith("Bearer")


async def test_a_route_that_says_nothing_is_shut(start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a declaration only admins get in."""
    monkeypatch.delattr(Keys.txn, "platformd_access")
    served: Served = await start()
    served.context.gate.peer = lambda _: WHO[1]  # type: ignore[method-assign]
    assert (await (await served.client()).request("POST", "/v1/txn", {})).status == 403


async def test_a_tenant_names_only_its_own_subjects(stored: Served) -> None:
    """Streams and pipelines of a tenant's principal capture, read and publish below its name, by PATCH too."""
    client = await stored.client()
    stored.context.gate.peer = lambda _: WHO[2]  # type: ignore[method-assign]
    path = f"/v1/tenants/{MINE}/streams"
    stolen = await client.request("POST", path, {"name": "a", "spec": {"subjects": ["survey.x", "alerts.>"]}})
    assert (stolen.status, [e["path"] for e in stolen.json["errors"]]) == (422, ["spec.subjects[1]"])
    assert (await client.request("POST", path, {"name": "a", "spec": {"subjects": ["survey.x"]}})).status == 201
    patch = {"Content-Type": "application/merge-patch+json"}
    body = b'{"spec": {"subjects": [">"]}}'
    assert (await client.request("PATCH", f"{path}/a", body, patch)).status == 422
    assert (await client.request("PATCH", f"{path}/a", b'{"labels": {"a": "b"}}', patch)).status == 200
    assert (await client.request("PUT", f"{path}/a", {"spec": {"subjects": [">"]}})).status == 422


async def test_a_streams_name_does_not_lead_to_another_tenants(stored: Served) -> None:
    """The engine's own name of a tenant's stream opens nothing in a path of another tenant."""
    client = await stored.client()
    stored.context.gate.peer = lambda _: Principal(name="t", role="tenant", how="token", tenant="default")  # type: ignore[method-assign]
    assert (await client.request("GET", "/v1/streams/planets..x/messages")).status == 403


async def test_a_lease_that_holds_others_keys_is_not_there(stored: Served) -> None:
    """A tenant neither sees nor ends nor keeps alive a lease of others, nor binds a key to it; its own it does."""
    client, gate = await stored.client(), stored.context.gate
    admin = gate.peer
    granted = [(await client.request("POST", "/v1/leases", {"ttl": "60s"})).json["id"] for _ in range(2)]
    for lease, key in zip(granted, (f"tenants/{THEIRS}/k", f"tenants/{MINE}/k"), strict=True):
        assert (await client.request("PUT", f"/v1/kv/{key}?lease={lease}", b"v")).status == 201
    gate.peer = lambda _: WHO[2]  # type: ignore[method-assign]
    theirs, mine = granted
    for method, path in (
        ("GET", f"/v1/leases/{theirs}"),
        ("POST", f"/v1/leases/{theirs}/keepalive"),
        ("DELETE", f"/v1/leases/{theirs}"),
        ("PUT", f"/v1/kv/tenants/{MINE}/other?lease={theirs}"),
    ):
        assert (await client.request(method, path, b"v" if method == "PUT" else None)).status == 404, path
    assert (await client.request("GET", f"/v1/leases/{mine}")).json["keys"]
    assert (await client.request("DELETE", f"/v1/leases/{mine}")).json["deleted"] == 1
    gate.peer = admin  # type: ignore[method-assign]
    assert (await client.request("GET", f"/v1/kv/tenants/{THEIRS}/k")).status == 200


async def test_a_transaction_asks_for_each_of_its_changes(stored: Served) -> None:
    """A tenant changes its own resources at once, and neither lifts its quota nor touches nodes on the way."""
    client = await stored.client()
    stored.context.gate.peer = lambda _: WHO[2]  # type: ignore[method-assign]
    path = f"/v1/tenants/{MINE}/transactions"
    own = {"op": "apply", "kind": "Service", "name": "s", "document": {"spec": {}}}
    limits = {"spec": {"limits": [{"kind": "Stream", "count": 1000}]}}
    for change in (
        {"op": "apply", "kind": "Quota", "name": "q", "document": limits},
        {"op": "delete", "kind": "Quota", "name": "q"},
        {"op": "apply", "kind": "Node", "name": "n", "document": {"spec": {}}},
        {"op": "delete", "kind": "Event", "name": "e"},
    ):
        assert (await client.request("POST", path, {"changes": [own, change]})).status == 403, change
    stolen = {"op": "apply", "kind": "Stream", "name": "x", "document": {"spec": {"subjects": ["alerts.>"]}}}
    assert (await client.request("POST", path, {"changes": [own, stolen]})).status == 422
    assert (await client.request("GET", f"/v1/tenants/{MINE}/services/s")).status == 404
    assert (await client.request("POST", path, {"changes": [own]})).status == 200
