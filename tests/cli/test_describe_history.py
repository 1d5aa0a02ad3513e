"""``describe`` and ``history``."""

from __future__ import annotations

import json
from typing import Any

from platformd.cli.describing import why_not_ready

from ..client.fake_api import FakeApi, Seen
from .conftest import Cli

RECORDS = [
    {
        "revision": 12, "at": "2026-01-31T12:00:05.1Z", "actor": "user:alice", "reason": "a quiet night",
        "what": "configured", "kind": "Stream", "name": "a",
        "changes": [
            {"path": "spec.max_age", "before": "1d", "after": "7d"},
            {"path": "labels.x", "after": "y"},
            {"path": "spec.old", "before": 1},
        ],
        "more": 2,
    },
    {"revision": 11, "at": "2026-01-31T12:00:01Z", "actor": "controller:streams", "what": "status", "kind": "Stream",
     "name": "a", "changes": [{"path": "status.state", "before": "pending", "after": "active"}]},
    {"revision": 10, "at": "2026-01-31T12:00:00Z", "actor": "user:bob", "what": "created", "kind": "Stream",
     "name": "a"},
]  # fmt: skip


def with_history(api: FakeApi, page: int = 2) -> None:
    """The daemon keeps history, in pages."""

    def answer(seen: Seen) -> tuple[int, dict[str, str], bytes] | None:
        if not seen.path.endswith("/history"):
            return None
        start = int(seen.query.get("cursor", 0))
        wanted = [one for one in RECORDS if seen.query.get("actor", one["actor"]) == one["actor"]]
        size = min(page, int(seen.query["limit"]))
        more = str(start + size) if len(wanted) > start + size else None
        body = {"items": wanted[start : start + size], "cursor": more}
        return 200, {"content-type": "application/json"}, json.dumps(body).encode()

    api.answers.append(answer)


def test_who_changed_what_and_why(cli: Cli, api: FakeApi) -> None:
    """The newest first, over pages, with each field before and after."""
    with_history(api)
    ran = cli("history", "stream/a")
    assert ran.out.splitlines() == [
        "2026-01-31 12:00:05 configured by user:alice: a quiet night (revision 12)",
        '    spec.max_age: "1d" → "7d"',
        '    +labels.x: "y"',
        "    -spec.old: 1",
        "    and 2 more",
        "2026-01-31 12:00:01 status by controller:streams (revision 11)",
        '    status.state: "pending" → "active"',
        "2026-01-31 12:00:00 created by user:bob (revision 10)",
    ]
    assert api.seen[-1].path == "/v1/streams/a/history"
    assert len(cli("history", "stream/a", "--limit", "1", "--no-diff").out.splitlines()) == 1
    assert [one["revision"] for one in cli("history", "stream/a", "-o", "json").json()["items"]] == [12, 11, 10]
    assert cli("history", "stream/a", "--actor", "user:bob", "-o", "jsonpath=items[*].revision").out == "10\n"


def test_the_history_of_everything(cli: Cli, api: FakeApi) -> None:
    """Of a kind, of all tenants, of an actor: the daemon chooses; each line names the resource."""
    with_history(api)
    assert cli("history", "streams", "-A", "--actor", "user:bob").out == (
        "2026-01-31 12:00:00 stream/a created by user:bob (revision 10)\n"
    )
    assert (api.seen[-1].path, api.seen[-1].query["kind"]) == ("/v1/tenants/-/history", "streams")
    assert cli("history", "--actor", "nobody").err == "nothing is known to have happened\n"
    assert cli("history", "stream/a", "stream/b").code == 2


def test_everything_about_a_resource(cli: Cli, api: FakeApi) -> None:
    """What it is, why it is not ready, who owns it and what it owns, and what happened last."""
    with_history(api)
    owner = api.put("pipelines", "p")
    reference = {"kind": "Pipeline", "name": "p", "uid": owner["uid"]}
    state = {"state": "error", "reason": "DiskFull", "message": "no room", "observed_generation": 1, "messages": 3}
    api.put("streams", "a", owner=reference, status=state, generation=2, spec={"subjects": ["a"]})
    ran = cli("describe", "stream", "a")
    assert ran.code == 0
    for line in (
        "Ready:     no: its controller has not acted on the newest spec yet (generation 1 of 2)",
        "           and it is error: DiskFull: no room",
        "Owner:     pipeline/p",
        "  - a",
        "  messages: 3",
        "  2026-01-31 12:00:05 configured by user:alice: a quiet night (revision 12)",
    ):
        assert line in ran.out.splitlines()
    facts = cli("describe", "pipeline/p", "-o", "json").json()
    assert facts["owned"] == [{"kind": "Stream", "name": "a", "state": "error"}]
    both = cli("describe", "stream/a", "stream/b")
    assert (both.code, "Name:" in both.out) == (3, True)


def test_an_older_daemon_keeps_no_history(cli: Cli, api: FakeApi) -> None:
    """What it does not know is left out."""
    api.put("streams", "a", status={"state": "active"})
    ran = cli("describe", "stream/a")
    assert ran.code == 0
    assert "Ready:     yes" in ran.out
    assert "Last changes" not in ran.out


def test_what_keeps_a_resource_from_being_ready() -> None:
    """Deletion, a spec that nobody has acted on, a state that is not good; nothing when all is well."""
    well: dict[str, Any] = {"generation": 1, "status": {"state": "running", "observed_generation": 1}}
    assert why_not_ready(well) == []
    going = why_not_ready(well | {"deleting_at": "T", "finalizers": ["streams"]})
    assert going == ["it was deleted at T, and waits for streams to clean up"]
    assert len(why_not_ready(well | {"generation": 2})) == 1
    assert why_not_ready({"status": {"state": "pending"}}) == ["it is pending"]


def about(kind: str, name: str, type_: str, last_at: str, reason: str) -> dict[str, Any]:
    """An event's members."""
    spec = {"about": {"kind": kind, "name": name}, "type": type_, "reason": reason, "message": f"{reason} it"}
    return {"spec": spec, "status": {"state": "recorded", "count": 2, "last_at": last_at}}


def test_what_happened(cli: Cli, api: FakeApi) -> None:
    """The newest last; of everything, of a kind, of one; and as it comes."""
    api.put("events", "e1", **about("Stream", "a", "warning", "2026-01-31T12:00:02Z", "Failed"))
    api.put("events", "e2", **about("Stream", "b", "normal", "2026-01-31T12:00:01Z", "Began"))
    api.put("events", "e3", **about("Node", "a", "normal", "2026-01-31T12:00:03Z", "Came"))
    rows = [line.split()[1:] for line in cli("events").out.splitlines()]
    assert rows == [
        ["TYPE", "OBJECT", "REASON", "COUNT", "MESSAGE"],
        ["normal", "stream/b", "Began", "2", "Began", "it"],
        ["warning", "stream/a", "Failed", "2", "Failed", "it"],
        ["normal", "node/a", "Came", "2", "Came", "it"],
    ]
    assert cli("events", "stream/a", "-o", "name").out == "event/e1\n"
    assert api.seen[-1].query["field"] == "spec.about.kind=Stream,spec.about.name=a"
    assert cli("events", "streams", "--type", "normal", "-o", "jsonpath=items[*].name").out == "e2\n"
    assert cli("events", "--limit", "1", "-o", "name").out == "event/e3\n"
    assert cli("events", "node/b").err == "nothing happened that is still known\n"
    assert cli("events", "-w", "-A").code == 2


def test_controllers_and_events_of_a_resource(cli: Cli, api: FakeApi) -> None:
    """Describing tells whether its controller fails, when it tries again, and what it said."""
    api.put("streams", "a", status={"state": "active"})
    api.put("events", "e1", **about("Stream", "a", "warning", "2026-01-31T12:00:02Z", "Failed"))
    looked = {
        "controller": "streams", "state": "failing", "seconds_since_success": 61.0, "next_try_seconds": 4.0,
        "failures": 3, "last_error": "no room",
    }  # fmt: skip

    def answer(seen: Seen) -> tuple[int, dict[str, str], bytes] | None:
        body = json.dumps({"items": [looked]}).encode()
        return (200, {"content-type": "application/json"}, body) if seen.path.endswith("/reconcile") else None

    api.answers.append(answer)
    out = cli("describe", "stream/a").out
    assert "streams is failing, looked at it with success 1m1s ago, failed 3 times since: no room, tries again" in out
    assert "Failed it" in out
