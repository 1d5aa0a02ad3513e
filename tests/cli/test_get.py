"""``get`` and ``status``: what is there, in every form, once and as it changes."""

from __future__ import annotations

import json

import pytest
import yaml

from platformd.core.errors import Gone, InvalidInput
from tests.client.fake_api import FakeApi, event

from .conftest import Cli


def filled(api: FakeApi) -> None:
    """Two streams and a pipeline."""
    active = {"state": "active", "messages": 2, "bytes": 10, "consumers": 0, "messages_per_second": 0}
    api.put("streams", "alerts", spec={"subjects": ["alerts.>"]}, labels={"team": "x"}, status=active)
    api.put("streams", "logs", spec={"subjects": ["logs.>"]}, status=active)
    api.put("pipelines", "alerts", spec={"source": "alerts.>"}, labels={"team": "x"})
    for document in api.objects.values():
        document["created_at"] = None


def test_a_table_of_a_kind(cli: Cli, api: FakeApi) -> None:
    """One kind is a table of bare names."""
    filled(api)
    ran = cli("get", "streams")
    assert (ran.code, ran.err) == (0, "")
    assert ran.out.splitlines() == [
        "NAME     STATE    SUBJECTS   MESSAGES   BYTES   RATE   CONSUMERS   AGE",
        "alerts   active   alerts.>   2          10B     0/s    0           <none>",
        "logs     active   logs.>     2          10B     0/s    0           <none>",
    ]


def test_wide_has_more_columns(cli: Cli, api: FakeApi) -> None:
    """-o wide adds the columns that are for it."""
    filled(api)
    header = cli("get", "st", "-o", "wide").out.splitlines()[0].split()
    assert header[-5:] == ["FIRST", "LAST", "OLDEST", "NEWEST", "AGE"]


def test_all_kinds_are_tables_with_kinds_in_the_names(cli: Cli, api: FakeApi) -> None:
    """``get all`` leaves out what is empty, and each kind has its own table."""
    filled(api)
    ran = cli("get", "all")
    assert [line.split(" ")[0] for line in ran.out.splitlines()] == [
        "NAME", "stream/alerts", "stream/logs", "", "NAME", "pipeline/alerts",
    ]  # fmt: skip


def test_names_of_one_kind_or_of_several(cli: Cli, api: FakeApi) -> None:
    """``KIND NAME…``, ``KIND/NAME…`` and ``KIND,KIND`` name the same things."""
    filled(api)
    assert cli("get", "stream", "logs", "alerts", "-o", "name").out == "stream/logs\nstream/alerts\n"
    assert cli("get", "pl/alerts", "st/logs", "-o", "name").out == "pipeline/alerts\nstream/logs\n"
    assert cli("get", "pl,streams", "-o", "name").out == "pipeline/alerts\nstream/alerts\nstream/logs\n"


def test_documents_are_what_the_server_sent(cli: Cli, api: FakeApi) -> None:
    """One name is the resource itself, several are a list; members of a newer server stay in."""
    filled(api)
    api.objects["default", "streams", "alerts"]["status"]["brand_new"] = 1
    assert cli("get", "stream", "alerts", "-o", "json").json() == api.objects["default", "streams", "alerts"]
    assert [d["name"] for d in cli("get", "streams", "-o", "json").json()["items"]] == ["alerts", "logs"]
    documents = list(yaml.safe_load_all(cli("get", "all", "-o", "yaml").out))
    assert documents == list(api.objects.values())


def test_nothing_there_is_no_error(cli: Cli, api: FakeApi) -> None:
    """An empty listing says so on standard error, is an empty list as JSON, and exits with 0."""
    ran = cli("get", "streams", "--tenant", "t")
    assert (ran.code, ran.out, ran.err) == (0, "", "no streams in tenant t\n")
    ran = cli("get", "streams", "-o", "json")
    assert (ran.code, ran.json(), ran.err) == (0, {"items": []}, "")
    assert api.seen[0].path == "/v1/tenants/t/streams"


def test_a_missing_name_does_not_hide_the_others(cli: Cli, api: FakeApi) -> None:
    """What is there is shown, what is not is an error with exit code 3."""
    filled(api)
    ran = cli("get", "streams", "alerts", "nope", "logs", "-o", "name")
    assert (ran.code, ran.out) == (3, "stream/alerts\nstream/logs\n")
    assert ran.err == "error: stream/nope: there is no such thing\n"
    ran = cli("get", "stream", "nope", "-o", "json")
    assert (ran.code, ran.out, json.loads(ran.err)["code"]) == (3, "", "not_found")


def test_selectors_are_the_servers(cli: Cli, api: FakeApi) -> None:
    """-l is sent as it is, and cannot stand beside names."""
    filled(api)
    assert cli("get", "streams", "-l", "team=x", "-o", "name").out == "stream/alerts\n"
    assert api.seen[-1].query["label"] == "team=x"
    assert cli("get", "stream", "alerts", "-l", "team=x").code == 2


@pytest.mark.parametrize(
    "words", ["get streams,nodes a", "get all a", "get st/a b", "get st/", "get /a", "get st/a/b", "get ,"]
)
def test_words_that_name_nothing_are_refused(cli: Cli, words: str) -> None:
    """What cannot be meant is a usage error and nobody is asked."""
    ran = cli(*words.split())
    assert ran.code == 2
    assert ran.err.startswith("error: ")


def listing() -> bytes:
    a = {"kind": "Stream", "name": "a", "spec": {"subjects": ["a"]}, "status": {"state": "active"}}
    b = {"kind": "Stream", "name": "long-name", "spec": {"subjects": ["b"]}, "status": {"state": "pending"}}
    head = event(0, "added", a) + event(0, "added", b) + event(7, "bookmark", {"revision": 7})
    return head + event(8, "modified", b | {"status": {"state": "active"}}) + event(9, "deleted", a)


END = event(0, "error", InvalidInput("that was all").to_problem())
"""Ends a watch for good."""


def test_watching_prints_what_is_there_and_then_each_change(cli: Cli, api: FakeApi) -> None:
    """The columns fit the first listing, and each change is a line."""
    api.watches = [listing(), END]
    ran = cli("get", "streams", "--watch", "-l", "team")
    assert [line.split()[:3] for line in ran.out.splitlines()] == [
        ["NAME", "EVENT", "STATE"], ["a", "added", "active"], ["long-name", "added", "pending"],
        ["long-name", "modified", "active"], ["a", "deleted", "active"],
    ]  # fmt: skip
    lines = ran.out.splitlines()
    assert {lines[0].index("STATE")} == {line.index(" active") + 1 for line in lines if " active" in line}
    assert ran.err.count("the watch was lost (the watch was ended by the daemon); trying until it is back\n") == 1
    assert [s.query for s in api.seen] == [{"watch": "", "label": "team"}, {"watch": "", "label": "team", "after": "9"}]


def test_watching_as_documents(cli: Cli, api: FakeApi) -> None:
    """-o json is a document on each line, -o name a name, -o yaml documents."""
    api.watches = [listing() + END] * 3
    events = [json.loads(line) for line in cli("get", "streams", "-w", "-o", "json").out.splitlines()]
    assert [(e["type"], e["revision"], e["resource"]["name"]) for e in events] == [
        ("added", 0, "a"), ("added", 0, "long-name"), ("modified", 8, "long-name"), ("deleted", 9, "a"),
    ]  # fmt: skip
    assert cli("get", "streams", "-w", "-o", "name").out.splitlines()[-1] == "stream/a"
    assert len(list(yaml.safe_load_all(cli("get", "streams", "-w", "-o", "yaml").out))) == 4


def test_watching_names_and_several_kinds(cli: Cli, api: FakeApi) -> None:
    """Names choose among the changes; several kinds share a table of what all have."""
    node = event(10, "added", {"kind": "Node", "name": "a", "status": {"state": "passing", "message": "fine"}})
    api.watches = [listing() + END, listing() + node + END]
    assert cli("get", "stream/a", "-w", "-o", "name").out == "stream/a\nstream/a\n"
    lines = cli("get", "streams,nodes", "--watch").out.splitlines()
    assert lines[0].split() == ["NAME", "EVENT", "STATE", "MESSAGE", "AGE"]
    assert lines[-1].split() == ["node/a", "added", "passing", "fine", "<none>"]
    assert api.seen[-1].path == "/v1/watch"


def test_a_watch_whose_history_is_gone_begins_anew(cli: Cli, api: FakeApi) -> None:
    """Compaction under a watch is said, and what is there now follows."""
    gone = event(0, "error", Gone("compacted").to_problem())
    api.watches = [listing() + gone, listing() + END]
    ran = cli("get", "streams", "-w", "-o", "name")
    assert len(ran.out.splitlines()) == 8
    assert "compacted" in ran.err
    assert "after" not in api.seen[-1].query


def test_the_daemon_at_a_glance(cli: Cli, api: FakeApi) -> None:
    """``status`` is one line about the daemon and one for each thing that it has."""
    api.status = {
        "name": "platformd", "version": "0.1.0", "state": "running", "uptime_seconds": 125.3, "pid": 7,
        "store": {"revision": 12, "size_bytes": 4096}, "queues": {"streams": 1, "sockets": {"ingest": "ipc:///i"}},
        "node": "here\x1b",
    }  # fmt: skip
    assert cli("status").out.splitlines() == [
        "platformd 0.1.0 is running for 2m5s",
        "  pid     7",
        "  store   revision 12, size 4.0KiB",
        "  queues  streams 1, sockets ingest ipc:///i",
        "  node    here\ufffd",
    ]
    assert cli("status", "-o", "json").json() == api.status
    assert yaml.safe_load(cli("status", "-o", "yaml").out) == api.status
