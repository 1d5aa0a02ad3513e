"""A real daemon is asked everything that its OpenAPI document says can be asked: right, wrong, and one thing after
another. It never fails (5xx), never answers what the document does not say, and serves on afterwards."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from platformd.client.blocking import Client
from platformd.core.errors import NotFound
from tests.api import asking_hooks
from tests.support.daemon import READY_WITHIN, DaemonProcess, short_directory

ASK = "import schemathesis.cli; schemathesis.cli.schemathesis()"
SAME = "|.*InTenant|(create|get|list|apply|patch|delete)(Node|Service|Schema|Pipeline)s?"
"""The same handlers as others: the routes of another tenant, and those of most kinds."""
SOME = "grantLease|acquireLock|applyStream|deleteKeys|putKey"
"""Operations of which every edge is asked each time; of the others by the slow test."""
ENDLESS = "watchResources.*|control"
"""What does not end, and what ends the daemon."""
NOT_SAID = "positive_data_acceptance"
"""A JSON Schema cannot say all that makes a document valid (subjects that overlap, another name in the path)."""


@pytest.fixture(scope="module")
def asked() -> Iterator[DaemonProcess]:
    """A daemon with a stream that has a record and a consumer; pipelines that were made up get one process at most."""
    with short_directory() as directory:
        few = {"PLATFORMD_PIPELINES_MAX_WORKERS": "1", "PLATFORMD_ACCESS_LOOPBACK": "admin"}
        with DaemonProcess(directory, "--http", "127.0.0.1:0", environ=few) as daemon:
            with daemon.client as client:
                prepare(client)
            yield daemon


def prepare(client: Client) -> None:
    """Make what the hooks ask for."""
    stream = f"/v1/streams/{asking_hooks.STREAM}"
    client.request("PUT", stream, json={"spec": {"subjects": ["alerts.>"]}})
    deadline = time.monotonic() + READY_WITHIN
    while True:
        try:
            client.request("PUT", f"{stream}/consumers/{asking_hooks.CONSUMER}", json={})
            break
        except NotFound:  # the engine has not made it yet
            assert time.monotonic() < deadline
            time.sleep(0.02)
    client.request("POST", f"{stream}/messages", query={"subject": asking_hooks.SUBJECT}, json=1)


def without(operations: str) -> tuple[str, str]:
    return "--exclude-operation-id-regex", f"^({operations})$"


def serves_on(daemon: DaemonProcess) -> None:
    with daemon.client as client:
        assert client.status()["state"] == "running"


def ask(daemon: DaemonProcess, *arguments: str) -> subprocess.CompletedProcess[str]:
    """What schemathesis finds."""
    found = re.search(r"http://127\.0\.0\.1:\d+", daemon.log.read_text())
    assert found is not None, daemon.log.read_text()
    hooks = {"SCHEMATHESIS_HOOKS": asking_hooks.__name__, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [sys.executable, "-c", ASK, "run", f"{found[0]}/v1/openapi.json", *arguments]
    command += ["--request-timeout", "60", "--exclude-checks", NOT_SAID, "--no-color", "--warnings", "off"]
    if os.environ.get("CI") == "true":
        command += ["--seed", "20261122"]
    here = daemon.log.parent  # where it leaves its own notes
    return subprocess.run(command, cwd=here, env=os.environ | hooks, capture_output=True, text=True, check=False)


def test_everything_that_can_be_asked_is_answered_as_described(asked: DaemonProcess) -> None:
    """Examples, random requests and sequences of them, for every operation."""
    found = ask(asked, "--phases", "examples,fuzzing,stateful", "--max-examples", "3", *without(ENDLESS + SAME))
    assert found.returncode == 0, found.stdout + found.stderr
    serves_on(asked)


def test_every_edge_of_some_operations(asked: DaemonProcess) -> None:
    """Each parameter and member at, below and above each of its bounds, of another type, twice, and not at all."""
    found = ask(asked, "--phases", "coverage", "--include-operation-id-regex", f"^({SOME})$")
    assert found.returncode == 0, found.stdout + found.stderr
    serves_on(asked)


@pytest.mark.slow
def test_everything_for_longer(asked: DaemonProcess) -> None:
    """The same for two minutes, with the routes of other tenants."""
    found = ask(asked, "--max-time", "120", *without(ENDLESS))
    assert found.returncode == 0, found.stdout + found.stderr
    serves_on(asked)
