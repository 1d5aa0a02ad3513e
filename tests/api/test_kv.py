"""Keys over REST: values as they are, conditions, pages, transactions and leases."""

from __future__ import annotations

import base64
from typing import Any

import pytest

from platformd.api.kv_forms import lease_number
from platformd.core.errors import InvalidInput
from tests.api.conftest import Served, Start
from tests.api.wire import Answer, Client
from tests.support.memory_store import MemoryStore

ACCEPT_JSON = {"Accept": "application/json"}


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


@pytest.fixture
async def served(start: Start, store: MemoryStore) -> Served:
    """A server over a whole store in memory."""
    found: Served = await start(store=store)
    return found


async def put(client: Client, key: str, value: bytes = b"v", query: str = "", **headers: str) -> Answer:
    sent = {name.replace("_", "-"): text for name, text in headers.items()}
    return await client.request("PUT", f"/v1/kv/{key}{query}", value, sent)


async def keys(client: Client, query: str) -> list[Any]:
    return [item.get("key") for item in (await client.request("GET", f"/v1/kv?{query}")).json["items"]]


async def test_a_value_is_what_was_put(client: Client) -> None:
    """Bytes come back as they were put; JSON says all that is known; the ETag is the revision of the last change."""
    value = bytes(range(256))
    made = await put(client, "a/b", value)
    assert (made.status, made.headers["etag"]) == (201, f'"{made.json["mod_revision"]}"')
    raw = await client.request("GET", "/v1/kv/a/b")
    assert (raw.status, raw.body, raw.headers["content-type"]) == (200, value, "application/octet-stream")
    assert raw.headers["platformd-version"] == "1"
    shown = (await client.request("GET", "/v1/kv/a/b", headers=ACCEPT_JSON)).json
    assert base64.b64decode(shown.pop("value_base64")) == value
    revision = made.json["revision"]
    assert shown == {
        "key": "a/b", "create_revision": revision, "mod_revision": revision, "version": 1, "lease": None,
    }  # fmt: skip
    again = await put(client, "a/b", b"text")
    assert (again.status, again.json["version"], again.json["create_revision"]) == (200, 2, revision)
    assert (await client.request("GET", "/v1/kv/a/b", headers=ACCEPT_JSON)).json["value"] == "text"
    before = await client.request("GET", f"/v1/kv/a/b?revision={revision}")
    assert before.body == value
    same = await client.request("GET", "/v1/kv/a/b", headers={"If-None-Match": again.headers["etag"]})
    assert (same.status, same.body) == (304, b"")


@pytest.mark.parametrize(
    ("path", "key"),
    [
        ("a", b"a"),
        ("/a//b/", b"/a//b/"),
        ("a%20b%2Fc%25", b"a b/c%"),
        ("%C3%A4?encoding=utf-8", "ä".encode()),
        ("a+b", b"a+b"),
        ("x/watch", b"x/watch"),
        ("_wD-?encoding=base64", b"\xff\x00\xfe"),
        ("%2FwD%2B?encoding=base64", b"\xff\x00\xfe"),
    ],
)
async def test_any_key_has_a_path(client: Client, store: MemoryStore, path: str, key: bytes) -> None:
    """Keys are percent-escaped UTF-8 or base64; slashes mean nothing, wherever they are."""
    assert (await put(client, path, b"1")).status == 201
    assert list(store.keys) == [b"/kv/" + key]
    assert (await client.request("GET", f"/v1/kv/{path}")).body == b"1"
    assert (await client.request("DELETE", f"/v1/kv/{path}")).json["deleted"] == 1


@pytest.mark.parametrize(
    ("method", "path", "status", "said"),
    [
        ("GET", "missing", 404, "there is no such key"),
        ("DELETE", "missing", 404, "there is no such key"),
        ("GET", "%ff", 400, "not UTF-8"),
        ("GET", "a?encoding=base64", 400, "not base64"),
        ("GET", "a?encoding=hex", 400, "no encoding"),
        ("GET", "/resources/Stream/default/alerts", 403, "not reachable"),
        ("PUT", "/resources/Stream/default/alerts", 403, "not reachable"),
        ("DELETE", "/resources/x", 403, "not reachable"),
        ("GET", "a?revision=9", 409, "revision 9"),
        ("GET", "a?revision=x", 400, "the query is not valid"),
        ("GET", "a?nonsense", 400, "the query is not valid"),
        ("PUT", "a?ttl=soon", 400, "is not a duration"),
        ("PUT", "a?lease=xyz", 400, "is not a lease"),
        ("PUT", "a?lease=1&ttl=3s", 400, "exclude each other"),
        ("PUT", "a?lease=77", 404, "it ended"),
        ("POST", "a", 405, "cannot be asked"),
    ],
)
async def test_what_cannot_be_is_refused(client: Client, method: str, path: str, status: int, said: str) -> None:
    """Each refusal has its status and its words."""
    answer = await client.request(method, f"/v1/kv/{path}", b"" if method == "PUT" else None)
    assert answer.status == status
    assert said in answer.json["detail"]
    assert "/kv/" not in answer.json.get("subject", "").removeprefix("/v1/kv/")


@pytest.mark.parametrize("path", ["/v1/%6bv/a", "/v1%2Fkv/a", "/v1/%6cocks/a"])
async def test_the_way_to_a_key_is_not_escaped(client: Client, path: str) -> None:
    """An escaped route is refused, not guessed at."""
    assert (await client.request("GET", path)).status in (400, 404)


@pytest.mark.parametrize(
    "target", ["/v1/kv/%", "/v1/kv/%zz", "/v1/kv?prefix=%ff&watch", "/v1/kv?prefix=%&count", "/v1/kv/"]
)
async def test_odd_escapes_are_answered(client: Client, target: str) -> None:
    """Half an escape is taken as it stands or refused, never a fault."""
    assert (await client.request("GET", target)).status in (200, 400, 404)


async def test_conditions_are_compares(client: Client) -> None:
    """If-Match and If-None-Match guard puts and deletes; the refusal tells what is there now."""
    assert (await put(client, "a", If_Match='"1"')).status == 412
    assert (await put(client, "a", If_Match="*")).status == 412
    made = await put(client, "a", If_None_Match="*")
    assert made.status == 201
    refused = await put(client, "a", If_None_Match="*")
    assert (refused.status, refused.json["code"]) == (412, "precondition_failed")
    assert refused.json["current"]["mod_revision"] == made.json["mod_revision"]
    changed = await put(client, "a", b"2", If_Match=made.headers["etag"])
    assert changed.status == 200
    stale = {"If-Match": made.headers["etag"]}
    assert (await client.request("DELETE", "/v1/kv/a", headers=stale)).status == 412
    assert (await client.request("GET", "/v1/kv/a")).body == b"2"
    fresh = {"If-Match": changed.headers["etag"]}
    assert (await client.request("DELETE", "/v1/kv/a", headers=fresh)).status == 200
    assert (await client.request("DELETE", "/v1/kv/a", headers=fresh)).status == 412


async def test_a_key_may_go_by_itself(client: Client, store: MemoryStore) -> None:
    """A ttl grants a lease for the key; a put that is refused leaves no lease behind."""
    made = await put(client, "a", query="?ttl=30s")
    lease = (await client.request("GET", f"/v1/leases/{made.json['lease']}")).json
    assert (lease["ttl"], lease["keys"]) == (30, [{"key": "a"}])
    assert (await client.request("GET", "/v1/kv/a")).headers["platformd-lease"] == lease["id"]
    assert (await put(client, "a", query="?ttl=30s", If_None_Match="*")).status == 412
    assert len(store.leases.deadlines) == 1
    bound = await put(client, "b", query=f"?lease={lease['id']}")
    assert bound.json["lease"] == lease["id"]
    assert (await client.request("DELETE", f"/v1/leases/{lease['id']}")).json == {"deleted": 2}
    assert store.keys == {}


async def test_listing_by_prefix(client: Client) -> None:
    """A listing has the keys with a prefix in their order, with or without values, or just their number."""
    for key in ("a/1", "a/2", "b", "a0"):
        await put(client, key)
    assert await keys(client, "prefix=a/") == ["a/1", "a/2"]
    assert await keys(client, "prefix=") == await keys(client, "") == ["a/1", "a/2", "a0", "b"]
    assert (await client.request("GET", "/v1/kv?prefix=a&count")).json["count"] == 3
    with_values = (await client.request("GET", "/v1/kv?prefix=a/&limit=1")).json
    assert with_values["items"][0]["value"] == "v"
    without = (await client.request("GET", "/v1/kv?prefix=a/&keys_only")).json
    assert "value" not in without["items"][0]
    assert await keys(client, "keys_only&order=-mod_revision&limit=2") == ["a0", "b"]
    assert (await client.request("GET", "/v1/kv?order=up")).status == 400
    assert (await client.request("GET", "/v1/kv?order=-key")).status == 400
    assert await keys(client, "prefix=YS8%3D&encoding=base64") == ["a/1", "a/2"]


async def test_pages_are_of_one_revision(client: Client) -> None:
    """What changes between two pages does not show in them."""
    for i in range(7):
        await put(client, f"k{i}")
    seen, cursor = [], ""
    while True:
        page = (await client.request("GET", f"/v1/kv?prefix=k&limit=3&keys_only&cursor={cursor}")).json
        seen.append([item["key"] for item in page["items"]])
        await client.request("DELETE", "/v1/kv/k6")
        await put(client, "k9")
        cursor = page["cursor"]
        if cursor is None:
            break
    assert seen == [["k0", "k1", "k2"], ["k3", "k4", "k5"], ["k6"]]
    for bad in ("x", "AAAA", "!"):
        assert (await client.request("GET", f"/v1/kv?cursor={bad}")).status == 400
    other = (await client.request("GET", "/v1/kv?prefix=k&limit=1&keys_only")).json["cursor"]
    assert (await client.request("GET", f"/v1/kv?prefix=z&cursor={other}")).status == 400


async def test_a_page_is_bounded_in_bytes(client: Client) -> None:
    """Large values make a page end early; all of them are there in the end."""
    for i in range(30):
        await put(client, f"k{i:02}", b"x" * 500_000)
    seen, cursor, pages = 0, "", 0
    while cursor is not None:
        answer = await client.request("GET", f"/v1/kv?prefix=k&limit=1000&cursor={cursor}")
        assert len(answer.body) < 13_000_000
        seen, pages, cursor = seen + len(answer.json["items"]), pages + 1, answer.json["cursor"]
    assert (seen, pages > 1) == (30, True)


async def test_directories_are_folded(client: Client) -> None:
    """With a delimiter, keys further down are one entry, however many they are, over pages too."""
    for key in (*(f"d/{i:03}" for i in range(250)), "a", "c", "d", "e/f/g", "e/h", "z"):
        await put(client, key)
    page = (await client.request("GET", "/v1/kv?prefix=&delimiter=/")).json
    assert ([item["key"] for item in page["items"]], page["prefixes"]) == (["a", "c", "d", "z"], ["d/", "e/"])
    assert page["cursor"] is None
    found, cursor = [], ""
    while cursor is not None:
        page = (await client.request("GET", f"/v1/kv?delimiter=/&limit=2&cursor={cursor}")).json
        found += [*(item["key"] for item in page["items"]), *page["prefixes"]]
        cursor = page["cursor"]
    assert sorted(found) == ["a", "c", "d", "d/", "e/", "z"]
    inner = (await client.request("GET", "/v1/kv?prefix=e/&delimiter=/")).json
    assert ([item["key"] for item in inner["items"]], inner["prefixes"]) == (["e/h"], ["e/f/"])


async def test_deleting_a_prefix(client: Client) -> None:
    """All keys with a prefix go in one revision; without a prefix nothing does."""
    for key in ("a/1", "a/2", "b"):
        await put(client, key)
    answer = await client.request("DELETE", "/v1/kv?prefix=a/")
    assert answer.json["deleted"] == 2
    assert await keys(client, "") == ["b"]
    for path in ("/v1/kv", "/v1/kv?prefix="):
        assert (await client.request("DELETE", path)).status == 400
    assert await keys(client, "") == ["b"]


async def test_users_do_not_see_resources(client: Client, store: MemoryStore) -> None:
    """What the daemon keeps is in no listing, and what users keep is under their own prefix."""
    await client.request("POST", "/v1/services", {"kind": "Service", "name": "s", "spec": {}})
    await put(client, "mine")
    assert await keys(client, "") == ["mine"]
    assert {key.split(b"/")[1] for key in store.keys} == {b"resources", b"collections", b"history", b"kv"}


async def txn(client: Client, query: str = "", **document: Any) -> Answer:
    if "otherwise" in document:
        document["else"] = document.pop("otherwise")
    return await client.request("POST", f"/v1/txn{query}", document)


async def test_a_transaction_does_one_branch(client: Client) -> None:
    """Compares of every kind decide; the answer has a result for each operation, with what was before on request."""
    puts = [{"op": "put", "key": "a", "value": "1"}, {"op": "put", "key": "b", "value_base64": "/wA="}]
    absent = [{"key": "a", "target": "create_revision", "operator": "==", "operand": 0}]
    first = (await txn(client, compares=absent, then=puts)).json
    assert (first["succeeded"], first["results"]) == (True, [{"op": "put"}, {"op": "put"}])
    again = (await txn(client, compares=absent, then=puts, otherwise=[{"op": "get", "key": "a"}])).json
    assert (again["succeeded"], again["revision"]) == (False, first["revision"])
    assert again["results"][0]["items"][0]["value"] == "1"
    compares = [
        {"key": "a", "target": "value", "operator": "==", "operand": "1"},
        {"key": "b", "target": "value", "operator": ">", "operand_base64": "/g=="},
        {"key": "a", "target": "version", "operator": "<", "operand": 2},
        {"key": "a", "target": "mod_revision", "operator": "==", "operand": first["revision"]},
        {"key": "a", "target": "lease", "operator": "==", "operand": 0},
        {"key": "a", "target": "lease", "operator": "!=", "operand": "00ff"},
    ]
    then = [
        {"op": "put", "key": "a", "value": "2"},
        {"op": "get", "key": "a"},
        {"op": "get", "prefix": "a"},
        {"op": "delete", "key": "b", "end": "c"},
    ]
    done = (await txn(client, "?previous", compares=compares, then=then)).json
    assert done["succeeded"] is True
    put_, get, get_prefix, delete = done["results"]
    assert (put_["previous"]["value"], get["items"][0]["value"]) == ("1", "2")
    assert (get_prefix["items"], delete["deleted"]) == (get["items"], 1)
    assert delete["previous"][0]["value_base64"] == "/wA="


async def test_a_hundred_puts_are_one_request(client: Client) -> None:
    """A transaction holds a hundred puts, in one revision."""
    puts = [{"op": "put", "key": f"k{i}", "value": "x"} for i in range(100)]
    answer = (await txn(client, then=puts)).json
    assert len(answer["results"]) == 100
    assert (await client.request("GET", "/v1/kv?prefix=k&count")).json == {
        "count": 100,
        "revision": answer["revision"],
    }


async def test_everything_that_is_wrong_with_a_transaction_is_said_at_once(client: Client, store: MemoryStore) -> None:
    """Each mistake has its place, and nothing is done."""
    answer = await txn(
        client,
        compares=[
            {"key": "a", "target": "size", "operator": "==", "operand": 1},
            {"key": "a", "target": "value", "operator": "==", "operand": 1},
            {"key": "a", "target": "version", "operator": "==", "operand": "1"},
            {"key": "a", "target": "value", "operator": "=="},
        ],
        then=[
            {"op": "put", "key": "a", "value": "1", "ttl": "3s"},
            {"op": "put", "key": "a"},
            {"op": "put", "key": "/resources/x", "value": ""},
            {"op": "delete", "prefix": ""},
            {"op": "get", "prefix": "a", "end": "b"},
            {"op": "get"},
            {"op": "put", "key": "a", "key_base64": "YQ==", "value": ""},
            {"op": "move", "key": "a"},
            "nonsense",
        ],
        otherwise={"op": "get"},
        when=[],
    )
    assert answer.status == 400
    wrong = {error["path"]: error["message"] for error in answer.json["errors"]}
    assert set(wrong) == {
        "when", "else", "compares[0].target", *(f"compares[{i}]" for i in (1, 2, 3)),
        *(f"then[{i}]" for i in (0, 1, 2, 3, 4, 5, 6, 8)), "then[7].op",
    }  # fmt: skip
    assert store.keys == {}
    assert (await client.request("POST", "/v1/txn", [])).status == 400
    assert (await client.request("POST", "/v1/txn", b"{", {"Content-Type": "application/json"})).status == 400


async def test_leases(client: Client, store: MemoryStore) -> None:
    """Granted, seen, kept alive, listed page by page, ended."""
    made = await client.request("POST", "/v1/leases", {"ttl": "30s"})
    assert (made.status, made.json["ttl"]) == (201, 30)
    assert made.headers["location"] == f"/v1/leases/{made.json['id']}"
    named = await client.request("POST", "/v1/leases", {"ttl": 60, "id": "ff"})
    assert named.json["id"] == "00000000000000ff"
    assert (await client.request("POST", "/v1/leases", {"ttl": 60, "id": "ff"})).status == 409
    kept = await client.request("POST", "/v1/leases/ff/keepalive")
    assert kept.json["remaining"] == pytest.approx(60, abs=1)
    for _ in range(3):
        await client.request("POST", "/v1/leases", {"ttl": 5})
    seen, cursor = [], ""
    while cursor is not None:
        page = (await client.request("GET", f"/v1/leases?limit=2&cursor={cursor}")).json
        seen += [lease["id"] for lease in page["items"]]
        cursor = page["cursor"]
    assert seen == sorted(f"{lease_id:016x}" for lease_id in store.leases.deadlines)
    assert (await client.request("DELETE", "/v1/leases/ff")).json == {"deleted": 0}
    for method, path in (("GET", "ff"), ("DELETE", "ff"), ("POST", "ff/keepalive")):
        assert (await client.request(method, f"/v1/leases/{path}")).status == 404


@pytest.mark.parametrize(
    "body", [{}, {"ttl": "soon"}, {"ttl": True}, {"ttl": -1}, {"ttl": 1, "more": 2}, [], {"ttl": 1, "id": "x"}]
)
async def test_a_lease_needs_a_time(client: Client, body: Any) -> None:
    """What is no duration, or has members that mean nothing, is refused."""
    assert (await client.request("POST", "/v1/leases", body)).status == 400


@pytest.mark.parametrize("text", ["", "0", "x", "1" * 17, "8000000000000000", "-1", "0x1"])
def test_what_is_no_lease(text: str) -> None:
    """An id of a lease is 1 to 16 hexadecimal digits below 2**63, and not 0."""
    with pytest.raises(InvalidInput):
        lease_number(text)
