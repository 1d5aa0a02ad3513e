"""Declaring a component, and running it as a program and over TCP."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import msgspec
import pytest

from platformd.client.components import ComponentClient
from platformd.component import Component, Job, Options
from platformd.core.errors import Conflict, Forbidden, InvalidInput, NotFound, Unauthorized, Unavailable
from tests.component.conftest import Nothing, Served

PROGRAM = """
import msgspec
from platformd.component import Component, Job

class Field(msgspec.Struct, forbid_unknown_fields=True):
    ra: float
    dec: float
    radius: float = 0.1

component = Component("photometry", version="1.0")

@component.service("Measure one field.")
async def measure(job: Job, field: Field) -> dict[str, float]:
    for step in range(10):
        await job.checkpoint()
        job.report(step / 10, "measuring")
    return {"flux": field.radius * 2}

if __name__ == "__main__":
    component.main()
"""


def test_what_cannot_be_declared() -> None:
    """A name that is none, a service twice, and functions whose parameters are not known are refused when declared."""
    with pytest.raises(InvalidInput):
        Component("No Name", "1")
    component = Component("c", "1")

    @component.service("Once.")
    async def once(job: Job, nothing: Nothing) -> None: ...

    with pytest.raises(InvalidInput, match="declared already"):
        component.service("Twice.", name="once")(once)
    with pytest.raises(InvalidInput, match=r"msgspec\.Struct"):
        component.service("Untyped.")(lambda job, parameters: None)
    with pytest.raises(InvalidInput, match=r"msgspec\.Struct"):

        @component.service("A dict.")
        def plain(job: Job, parameters: dict[str, str]) -> None: ...


async def test_there_must_be_somewhere_to_listen() -> None:
    """Without a socket and an address there is an error that names both."""
    with pytest.raises(InvalidInput, match="nowhere to listen"):
        await Component("c", "1").serve(Options())


async def test_over_tcp_a_token_is_needed(start: Callable[..., Awaitable[Served]]) -> None:
    """Over TCP everybody reads; who changes something shows the token; without one nobody does."""
    import trio

    with_token = await start(listen="127.0.0.1:0", token="t0ken")
    without = await start(listen="127.0.0.1:0")

    def use(url: str, token: str) -> str:
        with ComponentClient(url, token=token) as client:
            assert client.status().name == "sample"
            return client.wait(client.submit("repeat", {"text": "x"}).id).state

    url = with_token.addresses[1]
    assert await trio.to_thread.run_sync(use, url, "t0ken") == "successful"
    for token in ("", "other"):
        with pytest.raises(Unauthorized):
            await trio.to_thread.run_sync(use, url, token)
    with pytest.raises(Forbidden):
        await trio.to_thread.run_sync(use, without.addresses[1], "")


async def test_the_client(served: Served) -> None:
    """Each method of the client does what it says."""
    import trio

    def use() -> None:
        with ComponentClient(f"unix://{served.socket}") as client:
            assert {"repeat", "wait"} <= {service.name for service in client.services()}
            job = client.submit("wait")
            assert client.dismiss(job.id).id == job.id
            assert client.wait(job.id).state == "dismissed"
            assert [found.id for found in client.jobs(state="dismissed")] == [job.id]
            with pytest.raises(NotFound):
                client.job("none")
            config = client.config()
            assert client.configure({"threshold": 9.0}, expected=config.revision).config == {"threshold": 9.0}
            assert client.tell("pause").state == client.control().state == "paused"
            with pytest.raises(Conflict):
                client.tell("pause")

    await trio.to_thread.run_sync(use)


def test_a_program_of_twenty_lines(tmp_path: Path) -> None:
    """The example of the documentation runs as a program, does its job, and ends by SIGTERM with 0."""
    documented = __import__("platformd.component", fromlist=["component"]).__doc__
    lines = [line.strip() for line in PROGRAM.splitlines() if line.strip()]
    assert all(line in documented for line in lines if not line.startswith("await"))
    program, socket = tmp_path / "photometry.py", tmp_path / "p.sock"
    program.write_text(PROGRAM)
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    process = subprocess.Popen([sys.executable, str(program), "--socket", str(socket)], env=environ)
    try:
        deadline = time.monotonic() + 30
        while not socket.exists():
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.01)
        with ComponentClient(f"unix://{socket}") as client:
            job = client.submit("measure", {"ra": 10.7, "dec": 41.3})
            assert client.wait(job.id).result == {"flux": 0.2}
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
        assert not socket.exists()
    finally:
        process.kill()
        process.wait()


def test_the_type_of_a_struct_is_its_schema() -> None:
    """What a service takes is told as the JSON Schema of its type."""
    component = Component("c", "1")

    @component.service("Do.")
    def do(job: Job, nothing: Nothing) -> None: ...

    assert component.services["do"].offered().parameters == msgspec.json.schema(Nothing)


async def test_a_taken_address_is_told(served: Served) -> None:
    """A second component on the same socket is told so, and the first goes on."""
    with pytest.raises((Conflict, Unavailable, BaseExceptionGroup)):
        await Component("c", "1").serve(Options(socket=str(served.socket)))
    assert (await served.ask("GET", "/status")).status == 200
