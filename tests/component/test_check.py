"""The checker of components: it passes those that keep the contract, and names what one does not keep."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Awaitable, Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import trio

from platformd.client.component_check import Verdict, Wishes, check_component
from platformd.client.http import Target
from platformd.core.errors import Unavailable
from tests.component.conftest import Served

ALL = Wishes(service="repeat", parameters={"text": "x"}, disturb=True)


async def examine(target: Target, wishes: Wishes = ALL) -> dict[str, Verdict]:
    """All verdicts, by the check's name."""
    found = await trio.to_thread.run_sync(lambda: list(check_component(target, wishes)))
    return {verdict.name: verdict for verdict in found}


async def test_a_component_of_the_framework_passes(served: Served) -> None:
    """Every check passes, none is left out, when everything may be tried."""
    verdicts = await examine(Target(unix=str(served.socket)))
    assert [v for v in verdicts.values() if v.outcome != "passed"] == []


async def test_without_leave_nothing_is_changed(served: Served) -> None:
    """By default no job is made, nothing is paused, and no configuration is written."""
    verdicts = await examine(Target(unix=str(served.socket)), Wishes())
    assert {v.outcome for v in verdicts.values()} == {"passed", "skipped"}
    assert {"job", "idempotency", "pause", "config-written"} <= {
        n for n, v in verdicts.items() if v.outcome == "skipped"
    }
    status = (await served.ask("GET", "/status")).json
    assert set(status["jobs"].values()) == {0}
    assert (await served.ask("GET", "/control")).json["revision"] == 2
    assert (await served.ask("GET", "/config")).json["revision"] == 1


async def test_nobody_there(tmp_path: Path) -> None:
    """Where nobody answers there is nothing to check: an error, and no verdicts."""
    with pytest.raises(Unavailable):
        await examine(Target(unix=str(tmp_path / "none.sock")))


Change = Callable[[str, str, int, dict[str, str], bytes], tuple[int, dict[str, str], bytes]]
"""(method, path, status, headers, body) → the answer that is sent instead."""


class Liar:
    """Stands between the checker and a good component, and changes what that answers."""

    def __init__(self, socket: Path, change: Change) -> None:
        import http.client

        class Connection(http.client.HTTPConnection):
            def connect(self) -> None:
                import socket as sockets

                self.sock = sockets.socket(sockets.AF_UNIX)
                self.sock.connect(str(socket))

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def answer(self) -> None:
                body = self.rfile.read(int(self.headers.get("content-length") or 0))
                inner = Connection("localhost")
                inner.request(
                    self.command, self.path, body or None, {k: v for k, v in self.headers.items() if k != "Host"}
                )
                got = inner.getresponse()
                given = {k.lower(): v for k, v in got.getheaders()}
                status, headers, payload = change(self.command, self.path, got.status, given, got.read())
                inner.close()
                self.send_response(status)
                for name, value in headers.items():
                    if name not in ("content-length", "transfer-encoding", "date"):
                        self.send_header(name, value)
                self.send_header("content-length", str(len(payload)))
                self.end_headers()
                self.wfile.write(payload)

            do_GET = do_POST = do_PUT = do_DELETE = do_HEAD = answer  # noqa: N815

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.thread = Thread(target=self.server.serve_forever, args=(0.01,))
        self.thread.start()
        self.target = Target(host="127.0.0.1", port=self.server.server_address[1])

    def close(self) -> None:
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()


def member(path: str, **members: Any) -> Change:
    """Answers to GET ``path`` with other members."""

    def change(method: str, asked: str, status: int, headers: dict[str, str], body: bytes) -> Any:
        if asked.partition("?")[0] == path and method == "GET" and status == 200:
            body = json.dumps({**json.loads(body), **members}).encode()
        return status, headers, body

    return change


def answered(method: str, path: str, status: int, *, when: int | None = None) -> Change:
    """Another status for what is asked so (and was answered with ``when``)."""

    def change(asked: str, where: str, given: int, headers: dict[str, str], body: bytes) -> Any:
        fits = asked == method and where.partition("?")[0].startswith(path) and when in (None, given)
        return status if fits else given, headers, body

    return change


def without(header: str, path: str, value: str = "") -> Change:
    """A header that is not there, or has another value."""

    def change(method: str, asked: str, status: int, headers: dict[str, str], body: bytes) -> Any:
        if asked.partition("?")[0] == path:
            headers = {k: v for k, v in headers.items() if k != header} | ({header: value} if value else {})
        return status, headers, body

    return change


def fresh_ids(method: str, path: str, status: int, headers: dict[str, str], body: bytes) -> Any:
    """Forgets what was asked with the same key: each job has an id of its own."""
    fresh_ids.count = getattr(fresh_ids, "count", 0) + 1  # type: ignore[attr-defined]
    if (method, path, status) == ("POST", "/jobs/", 202):
        job = json.loads(body)
        number = f"{job['id']}-{fresh_ids.count}"  # type: ignore[attr-defined]
        return status, headers | {"location": f"/jobs/{number}"}, json.dumps(job | {"id": number}).encode()
    if method == "DELETE" and path.startswith("/jobs/01") and status == 404:
        job = {"id": "x", "service": "s", "state": "dismissed", "parameters": {}, "created_at": "2026-01-01T00:00:00Z"}
        return 200, {"content-type": "application/json"}, json.dumps(job | {"ended_at": job["created_at"]}).encode()
    return status, headers, body


JOB = {"id": "1", "service": "s", "parameters": {}, "created_at": "2026-01-01T00:00:00Z"}
FAULTS: dict[str, tuple[str, Change]] = {
    "no state": ("status", member("/status", state="flying")),
    "a start that is no time": ("status", member("/status", started_at="yesterday")),
    "an empty name": ("status", member("/status", name="")),
    "a time before its start": ("uptime", member("/status", uptime_seconds=-1)),
    "services of one name": (
        "services",
        member("/services", items=[{"name": "a", "description": "d", "parameters": {}}] * 2),
    ),
    "a schema that is none": (
        "schemas",
        member("/services", items=[{"name": "a", "description": "d", "parameters": {"type": "flower"}}]),
    ),
    "an ended job without an end": ("jobs-listing", member("/jobs/", items=[{**JOB, "state": "successful"}])),
    "progress of 150 %": ("jobs-listing", member("/jobs/", items=[{**JOB, "state": "running", "progress": 1.5}])),
    "a filter that does not": (
        "jobs-filter",
        member("/jobs/", items=[{**JOB, "state": "queued"}]),
    ),
    "any job is there": ("unknown-job", answered("GET", "/jobs/0000", 200)),
    "any service": ("unknown-service", answered("POST", "/jobs/", 202, when=422)),
    "problems that are not": ("unknown-path", without("content-type", "/no-such-path-of-any-component", "text/html")),
    "any body": ("wrong-type", answered("POST", "/jobs/", 422, when=415)),
    "no location": ("job", without("location", "/jobs/")),
    "created, not accepted": ("job", answered("POST", "/jobs/", 201, when=202)),
    "two jobs of one key": ("idempotency", fresh_ids),
    "no entity tag": ("config", without("etag", "/config")),
    "a configuration against its schema": ("config-schema", member("/config", config={"threshold": "high"})),
    "conditions that do not hold": ("config-conditional", answered("PUT", "/config", 200, when=412)),
    "actions that are not legal": ("control", member("/control", actions=["resume"])),
    "any action": ("control-unknown", answered("POST", "/control", 200, when=422)),
    "no refusal": ("control-illegal", answered("POST", "/control", 200, when=409)),
    "it never pauses": ("pause", member("/control", state="running", actions=["pause"])),
    "metrics as JSON": ("metrics", without("content-type", "/metrics", "application/json")),
    "an old document": ("openapi", member("/openapi.json", openapi="3.0.3")),
    "no Allow": ("method", without("allow", "/status")),
}


@pytest.fixture
def liar(served: Served) -> Iterator[Callable[[Change], Liar]]:
    """Puts a liar before the sample."""
    made: list[Liar] = []

    def make(change: Change) -> Liar:
        made.append(Liar(served.socket, change))
        return made[-1]

    yield make
    for each in made:
        each.close()


@pytest.mark.parametrize("fault", FAULTS)
async def test_each_fault_is_found(
    liar: Callable[[Change], Liar], start: Callable[..., Awaitable[Served]], fault: str
) -> None:
    """A component with one fault fails the check of that promise, which says why."""
    name, change = FAULTS[fault]
    wishes = dataclasses.replace(ALL, only=(name,))
    (verdict,) = (await examine(liar(change).target, wishes)).values()
    assert verdict.outcome == "failed"
    assert verdict.why
