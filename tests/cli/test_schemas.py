"""Schemas and validating streams through a daemon: the command line, HTTP, programs, and a restart."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from platformd.client.encodings import read_header, stream_codec
from platformd.client.http import make_request
from platformd.client.queues import Consumer, Producer
from platformd.core.errors import InvalidInput
from tests.support.daemon import DaemonProcess, short_directory

EXAMPLE = Path(__file__).parents[2] / "config" / "examples" / "schemas.yaml"


@pytest.fixture(scope="module")
def daemon() -> Iterator[DaemonProcess]:
    """A daemon with the schemas and streams of the example."""
    with short_directory() as directory, DaemonProcess(directory) as process:
        done = process.command("apply", "-f", str(EXAMPLE))
        assert done.returncode == 0, done.stderr.decode()
        wait_for_streams(process)
        yield process


def wait_for_streams(daemon: DaemonProcess) -> None:
    with daemon.client as client:
        for event in client.watch(["streams"]):
            listed = {r.name: r.status.state for r in client.list("streams").items}
            if {"notes", "images"} <= listed.keys() and set(listed.values()) == {"active"}:
                return
            assert event is not None


def test_publish_refuses_what_does_not_fit(daemon: DaemonProcess) -> None:
    """The command says which record, where in it and what is wrong, and fails with the code of a wrong input."""
    assert daemon.command("publish", "notes.a", '{"id": 1, "text": "x"}').returncode == 0
    refused = daemon.command("publish", "notes.a", '{"id": "one"}')
    assert refused.returncode == 2
    assert 'records[0].id: "one" is not of type "integer"' in refused.stderr.decode()
    lines = daemon.command("publish", "notes.a", "--lines", stdin=b'{"id": 1}\n{"id": 2}\n{"id": 3, "y": 1}\n')
    assert lines.returncode == 2
    assert "records[2]" in lines.stderr.decode()
    with daemon.client as client:
        assert len(client.send(make_request("GET", "/v1/streams/notes/messages")).json()["items"]) == 1


def test_http_refuses_the_same(daemon: DaemonProcess) -> None:
    """A POST of a message that does not fit is a problem document with the place of each fault."""
    with daemon.client as client:
        request = make_request("POST", "/v1/streams/notes/messages", query={"subject": "notes.a"}, body=b'{"id": 1.5}')
        answer = client.send(request)
        assert answer.status == 400
        problem = answer.json()
        assert problem["code"] == "invalid_input"
        assert [e["path"] for e in problem["errors"]] == ["records[0].id"]


def test_programs_move_values(daemon: DaemonProcess) -> None:
    """A program asks for a stream's codec once, sends arrays and documents, and gets them back; what does not fit the
    stream is refused by the daemon."""
    with daemon.client as client:
        images, notes = stream_codec(client, "images"), stream_codec(client, "notes")
        sockets = client.status()["queues"]["sockets"]
        assert notes.form.schema.count('"text"') == 1
        client.send(make_request("PUT", "/v1/streams/images/consumers/c", body=b"{}")).check()
    array = np.arange(6, dtype="<f4").reshape(2, 3)
    with Producer(sockets["ingest"]) as producer, Consumer(sockets["fetch"], "images", "c") as consumer:
        producer.publish("images.raw", images.encode(array))
        with pytest.raises(InvalidInput, match=r"records\[0\].descr"):
            producer.publish("images.raw", images.encode(array.astype("<f8")))
        producer.publish("notes.p", notes.encode({"id": 7}))
        [delivery] = consumer.fetch()
        assert np.array_equal(images.decode(delivery.payload), array)
        assert read_header(delivery.payload).shape == (2, 3)


def test_a_schema_in_use_stays(daemon: DaemonProcess) -> None:
    """Deleting it is a conflict that names the stream; a changed version is refused with its line in the file."""
    refused = daemon.command("delete", "schema", "site.note")
    assert refused.returncode == 5
    assert "notes@2" in refused.stderr.decode()
    changed = EXAMPLE.read_text().replace("maxLength: 1000", "maxLength: 999")
    refused = daemon.command("apply", "-f", "-", stdin=changed.encode())
    assert refused.returncode == 2
    assert "version 2 is registered and cannot change" in refused.stderr.decode()


def test_schemas_are_listed(daemon: DaemonProcess) -> None:
    """The table has type, newest version and who uses it."""
    shown = daemon.command("get", "schemas").stdout.decode()
    assert "site.note" in shown
    assert "notes@2" in shown


def test_zz_validation_survives_a_kill(daemon: DaemonProcess) -> None:
    """After a kill -9 and a start the stream still refuses what does not fit."""
    daemon.kill()
    daemon.start()
    assert daemon.command("publish", "notes.a", '{"id": "one"}').returncode == 2
    assert daemon.command("publish", "notes.a", '{"id": 2}').returncode == 0
