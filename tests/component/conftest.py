"""A component that does a little of everything, and its server, for each test."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio

from platformd.component import Component, Job, Options
from platformd.core.errors import Unavailable
from tests.api.wire import Answer, Client


class Nothing(msgspec.Struct, forbid_unknown_fields=True):
    """No parameters."""


class Text(msgspec.Struct, forbid_unknown_fields=True):
    """A text, so many times."""

    text: str
    times: int = 1


class Threshold(msgspec.Struct, forbid_unknown_fields=True):
    """A configuration."""

    threshold: float = 5.0


class Sample:
    """A component, and what tests look at and decide from outside."""

    def __init__(self) -> None:
        self.component = Component("sample", "1.2.3", config=Threshold())
        self.go = threading.Event()
        """Lets ``hold`` and ``thread`` end."""
        self.cleaned: list[str] = []
        service = self.component.service
        service("Repeat a text.")(self._repeat())
        service("Wait on the loop.", name="wait", runs_until="stopped")(self._wait())
        service("Wait in a thread.", name="thread", runs_until="stopped")(self._thread())
        service("Fail.", name="fail")(self._fail())
        service("Refuse.", name="refuse")(self._refuse())
        service("Give something that is no JSON.", name="strange")(self._strange())
        self.component.gauge("sample_depth", lambda: 7.0)

        @self.component.configured
        def check(config: Threshold) -> None:
            if config.threshold < 0:
                raise ValueError("the threshold is below 0")

    def _repeat(self) -> Callable[..., Awaitable[Any]]:
        async def repeat(job: Job, parameters: Text) -> dict[str, str]:
            job.report(0.5, "half of it")
            await job.checkpoint()
            return {"text": parameters.text * parameters.times}

        return repeat

    def _wait(self) -> Callable[..., Awaitable[Any]]:
        async def wait(job: Job, _: Nothing) -> None:
            try:
                while True:
                    await job.sleep(0.001)
            finally:
                self.cleaned.append(job.id)

        return wait

    def _thread(self) -> Callable[..., Any]:
        def thread(job: Job, _: Nothing) -> str:
            try:
                while not self.go.wait(0.001):
                    job.check()
                return "it was let go"
            finally:
                self.cleaned.append(job.id)

        return thread

    @staticmethod
    def _fail() -> Callable[..., Any]:
        async def fail(job: Job, _: Nothing) -> None:
            raise ZeroDivisionError("a secret of the inside? no: the author's own words")

        return fail

    @staticmethod
    def _refuse() -> Callable[..., Any]:
        def refuse(job: Job, _: Nothing) -> None:
            raise Unavailable("the dome is closed", subject="dome", hint="open it")

        return refuse

    @staticmethod
    def _strange() -> Callable[..., Any]:
        async def strange(job: Job, _: Nothing) -> Any:
            return {1, object()}

        return strange


class Served:
    """A component that answers."""

    def __init__(
        self, sample: Sample, socket: Path, addresses: list[str], stopping: trio.Event, done: trio.Event
    ) -> None:
        self.sample, self.socket, self.addresses = sample, socket, addresses
        self.stopping, self.done = stopping, done

    async def ask(self, method: str, path: str, body: Any = None, **headers: str) -> Answer:
        """One request on a connection of its own."""
        client = await Client.connect(self.socket)
        try:
            return await client.request(method, path, body, {name.replace("_", "-"): v for name, v in headers.items()})
        finally:
            await client.stream.aclose()

    async def submit(self, service: str, parameters: Any = None, **headers: str) -> Any:
        """A new job."""
        answer = await self.ask("POST", "/jobs/", {"service": service, "parameters": parameters or {}}, **headers)
        assert answer.status == 202, answer.body
        return answer.json

    async def until(self, number: str, *states: str) -> Any:
        """The job once it is in one of these states."""
        with trio.fail_after(30):
            while True:
                job = (await self.ask("GET", f"/jobs/{number}")).json
                if job["state"] in states:
                    return job
                await trio.sleep(0.002)


@pytest.fixture
async def start(tmp_path: Path, nursery: trio.Nursery) -> AsyncIterator[Callable[..., Awaitable[Served]]]:
    """Starts the sample: ``await start(**options)``."""
    running: list[Served] = []

    async def run(**options: Any) -> Served:
        sample, stopping, done = Sample(), trio.Event(), trio.Event()
        socket = tmp_path / f"c{len(running)}.sock"

        async def serving(*, task_status: trio.TaskStatus[list[str]]) -> None:
            try:
                await sample.component.serve(
                    Options(socket=str(socket), **options), stopping=stopping, task_status=task_status
                )
            finally:
                done.set()

        running.append(Served(sample, socket, await nursery.start(serving), stopping, done))
        return running[-1]

    yield run
    for served in running:
        served.sample.go.set()
        served.stopping.set()
    with trio.fail_after(30):
        for served in running:
            await served.done.wait()


@pytest.fixture
async def served(start: Callable[..., Awaitable[Served]]) -> Served:
    """The sample, as it is by default."""
    return await start()
