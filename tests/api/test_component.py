"""The component control API, and streams over HTTP."""

from __future__ import annotations

import base64
import os

import pytest
from prometheus_client.parser import text_string_to_metric_families

from platformd.queues.contract import StreamConfig
from tests.api.conftest import Served
from tests.api.wire import Client


async def test_the_root_links_to_what_answers(client: Client) -> None:
    """Every link of / can be followed."""
    root = (await client.request("GET", "/")).json
    assert root["name"] == "platformd"
    for path in root["links"].values():
        if path != "/v1/watch":
            assert (await client.request("GET", path)).status == 200, path


async def test_status_says_how_the_daemon_is(served: Served, client: Client) -> None:
    """Version, state, uptime, store, queues and jobs in one document."""
    await served.context.streams.put_stream("s", StreamConfig(subjects=("s",)))
    status = (await client.request("GET", "/status")).json
    assert status["state"] == "running"
    assert status["pid"] == os.getpid()
    assert status["node"] == "here"
    assert 0 <= status["uptime_seconds"] < 60
    assert status["store"]["engine"] == "memory"
    sockets = {"ingest": "ipc:///ingest", "fetch": "ipc:///fetch"}
    assert status["queues"] == {"streams": 1, "consumers": 0, "sockets": sockets}
    assert set(status["jobs"].values()) == {0}


async def test_services_have_a_schema_for_their_parameters(client: Client) -> None:
    """What is offered says how it is to be asked."""
    (service,) = (await client.request("GET", "/services")).json["items"]
    assert service["name"] == "pipeline"
    assert "PipelineSpec" in service["parameters"]["$defs"]


async def test_metrics_are_prometheus_text(served: Served, client: Client) -> None:
    """Prometheus' own parser reads them, and they count requests by the rule that matched."""
    streams = served.context.streams
    await streams.put_stream("s", StreamConfig(subjects=("s",)))
    await client.request("POST", "/v1/nodes", {"name": "n1", "spec": {}})
    await client.request("PUT", "/v1/streams/s/consumers/c", {})
    await client.request("POST", "/v1/streams/s/messages?subject=s", b"12345")
    for name in "abc":
        await client.request("GET", f"/v1/services/{name}")
    await client.request("GET", "/nowhere/at/all")
    await client.request("BREW", "/status")
    answer = await client.request("GET", "/metrics")
    assert answer.headers["content-type"].startswith("text/plain")
    samples = {
        (s.name, tuple(sorted(s.labels.values()))): s.value
        for family in text_string_to_metric_families(answer.body.decode())
        for s in family.samples
    }
    assert samples["platformd_stream_messages", ("s",)] == 1
    assert samples["platformd_stream_bytes", ("s",)] == 5
    assert samples["platformd_consumer_lag", ("c", "s")] == 1
    assert samples["platformd_store_revision", ()] == 1
    assert samples["platformd_node_memory_used_bytes", ("n1",)] == 0
    assert samples["platformd_http_requests_total", ("/v1/<kind:plural>/<name>", "404", "GET")] == 3
    assert samples["platformd_http_requests_total", ("404", "GET", "unmatched")] == 1
    assert samples["platformd_http_requests_total", ("405", "other", "unmatched")] == 1
    assert samples["platformd_http_request_seconds_count", ("/v1/<kind:plural>/<name>", "GET")] == 3
    assert 0 <= samples["platformd_loop_lag_seconds", ()] < 5


async def test_messages_are_published_and_looked_at(served: Served, client: Client) -> None:
    """What curl posts is there, with its text when it is text; a second time it is a duplicate."""
    await served.context.streams.put_stream("alerts", StreamConfig(subjects=("alerts.>",)))
    path = "/v1/streams/alerts/messages"
    first = await client.request("POST", f"{path}?subject=alerts.a&msg_id=1", "grün".encode())
    assert (first.status, first.json) == (201, {"stream": "alerts", "sequence": 1, "duplicate": False})
    again = await client.request("POST", f"{path}?subject=alerts.a&msg_id=1", b"other")
    assert (again.status, again.json["duplicate"]) == (200, True)
    await client.request("POST", f"{path}?subject=alerts.b&durability=memory", b"\xff\x00")
    items = (await client.request("GET", path)).json["items"]
    assert [(i["sequence"], i["subject"], i.get("text")) for i in items] == [
        (1, "alerts.a", "grün"),
        (2, "alerts.b", None),
    ]
    assert base64.b64decode(items[1]["payload"]) == b"\xff\x00"
    later = (await client.request("GET", f"{path}?after=1&limit=5")).json["items"]
    assert [i["sequence"] for i in later] == [2]
    only = (await client.request("GET", f"{path}?subject=*.a")).json["items"]
    assert [i["sequence"] for i in only] == [1]


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v1/streams/none/messages", 404),
        ("GET", "/v1/streams/none/info", 404),
        ("GET", "/v1/streams/none/consumers", 404),
        ("GET", "/v1/streams/s/messages?limit=101", 400),
        ("GET", "/v1/streams/s/messages?subject=a..b", 400),
        ("POST", "/v1/streams/s/messages", 400),
        ("POST", "/v1/streams/s/messages?subject=a.*", 400),
        ("POST", "/v1/streams/s/messages?subject=a&durability=hope", 400),
        ("POST", "/v1/streams/none/messages?subject=a", 404),
        ("DELETE", "/v1/streams/s/consumers/none", 404),
    ],
)
async def test_what_streams_refuse(served: Served, client: Client, method: str, path: str, status: int) -> None:
    """Unknown streams and consumers, and parameters that make no sense."""
    await served.context.streams.put_stream("s", StreamConfig(subjects=("s",)))
    body = b"x" if method == "POST" else None
    assert (await client.request(method, path, body)).status == status


async def test_consumers_are_made_changed_and_forgotten(served: Served, client: Client) -> None:
    """PUT creates and changes, GET shows, DELETE forgets; what cannot change is a conflict."""
    await served.context.streams.put_stream("s", StreamConfig(subjects=("s",)))
    path = "/v1/streams/s/consumers"
    made = await client.request("PUT", f"{path}/c", {"ack_wait": 5.0})
    assert (made.status, made.json["config"]["ack_wait"]) == (200, 5.0)
    assert [c["name"] for c in (await client.request("GET", path)).json["items"]] == ["c"]
    assert (await client.request("PUT", f"{path}/c", {"filter_subject": "s.x"})).status == 409
    wrong = await client.request("PUT", f"{path}/c", {"ack_wait": "long", "filter": "s"})
    assert (wrong.status, [e["path"] for e in wrong.json["errors"]]) == (422, ["ack_wait", "filter"])
    assert (await client.request("GET", f"{path}/c")).json["config"]["ack_wait"] == 5.0
    assert (await client.request("GET", f"{path}/none")).status == 404
    assert (await client.request("GET", "/v1/streams/s/info")).json["consumers"] == 1
    assert (await client.request("DELETE", f"{path}/c")).status == 204
    assert (await client.request("GET", path)).json["items"] == []
