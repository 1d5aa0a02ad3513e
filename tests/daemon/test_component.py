"""platformd as a component like any other: the checker of components passes it, and its control stops it."""

from __future__ import annotations

from pathlib import Path

import pytest

from platformd.client.component_check import Wishes, check_component
from platformd.client.components import ComponentClient
from platformd.client.http import Target
from platformd.core.errors import Conflict, Unavailable
from tests.support.daemon import DaemonProcess

PIPELINE = {
    "name": "checked",
    "spec": {
        "source": "alerts.>",
        "dead_letter": "dead.checked",
        "stages": [{"type": "route", "name": "out", "routes": [{"subject": "out.all"}]}],
    },
}


@pytest.fixture
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A short path, for sockets."""
    return tmp_path_factory.mktemp("d")


def test_it_keeps_the_contract(directory: Path) -> None:
    """Every check passes; the daemon does not offer to pause."""
    with DaemonProcess(directory) as daemon:
        wishes = Wishes(service="pipeline", parameters={"spec": PIPELINE["spec"]}, disturb=True)
        verdicts = list(check_component(Target(unix=str(daemon.socket)), wishes))
        assert [v for v in verdicts if v.outcome == "failed"] == []
        assert {v.name for v in verdicts if v.outcome == "skipped"} <= {"pause", "jobs-paging"}
        assert len(verdicts) > 30


def test_its_jobs_are_pipelines(directory: Path) -> None:
    """A job is the resource; settings that need a restart are refused by name; drained it takes no jobs; it stops."""
    with DaemonProcess(directory) as daemon, ComponentClient(f"unix://{daemon.socket}") as client:
        job = client.submit("pipeline", PIPELINE)
        with daemon.client as control:
            assert control.get("Pipeline", "checked").uid == job.id
        with pytest.raises(Conflict):
            client.submit("pipeline", PIPELINE)
        config = client.config()
        with pytest.raises(Conflict) as refused:
            client.configure({**config.config, "http": {**config.config["http"], "max_watchers": 3}})
        assert [error.path for error in refused.value.errors] == ["http.max_watchers"]
        level = {**config.config, "daemon": {**config.config["daemon"], "log_level": "debug"}}
        assert client.configure(level, expected=config.revision).revision == config.revision + 1
        assert client.tell("drain").actions == ["resume", "stop"]
        with pytest.raises(Unavailable):
            client.submit("pipeline", {**PIPELINE, "name": "other"})
        client.dismiss(job.id)
        assert client.wait(job.id, timeout=30).state == "dismissed"
        assert client.tell("stop").state == "stopping"
        assert daemon.process is not None
        assert daemon.process.wait(30) == 0
