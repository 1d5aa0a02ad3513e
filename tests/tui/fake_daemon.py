"""A daemon of asyncio for the terminal's tests: the parts of the control API that the terminal uses, and
the ways in which a daemon goes away."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

KINDS = {"nodes": "Node", "streams": "Stream", "pipelines": "Pipeline"}


class FakeDaemon:
    """Serves ``/status`` and ``/v1/watch`` on a Unix socket."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.objects: dict[tuple[str, str], dict[str, Any]] = {}
        self.revision = 0
        self.history: list[tuple[int, str, dict[str, Any]]] = []
        self.compacted = 0
        """Revisions up to here can no longer be asked for."""
        self.status: dict[str, Any] = {
            "name": "platformd",
            "version": "0.1.0",
            "state": "running",
            "started_at": "2026-01-31T12:00:00.000000Z",
            "uptime_seconds": 11520.0,
            "pid": 4711,
            "state_dir": "/var/lib/platformd",
            "jobs": {"today": 0, "queued": 0, "running": 0},
            "node": "alpha",
        }
        self.requests: list[str] = []
        """The target of every request."""
        self.hung = False
        """Whether requests are taken and not answered."""
        self.refuse: dict[str, Any] | None = None
        """The problem that every watch ends with."""
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.StreamWriter] = set()
        self._news = asyncio.Condition()

    @property
    def serving(self) -> bool:
        """Whether it can be reached."""
        return self._server is not None

    async def start(self) -> None:
        """Listen."""
        self._server = await asyncio.start_unix_server(self._serve, self.path)

    async def stop(self) -> None:
        """Go away as a killed daemon does: connections break off, the socket's file is gone."""
        assert self._server is not None
        self._server.close()
        self._server = None
        self.path.unlink(missing_ok=True)
        while self._connections:
            self.drop_connections()
            async with self._news:
                self._news.notify_all()
            await asyncio.sleep(0)

    async def restart(self, **status: Any) -> None:
        """Come back as another process."""
        self.status |= {"started_at": "2026-01-31T15:30:00.000000Z", "pid": 5000, "uptime_seconds": 1.0} | status
        await self.start()

    def drop_connections(self) -> None:
        """Break off every connection and go on serving."""
        for writer in list(self._connections):
            writer.transport.abort()

    async def put(self, kind: str, name: str, *, spec: dict[str, Any] | None = None, **status: Any) -> None:
        """Create or change an object."""
        key = (kind, name)
        before = self.objects.get(key)
        self.revision += 1
        self.objects[key] = {
            "kind": kind,
            "name": name,
            "tenant": "default",
            "labels": {},
            "annotations": {},
            "uid": f"uid-{kind}-{name}",
            "generation": 1,
            "revision": self.revision,
            "created_at": "2026-01-31T12:00:01.000000Z",
            "spec": spec if spec is not None else (before or {}).get("spec", {}),
            "status": (before or {}).get("status", {}) | status,
        }
        await self._tell("modified" if before else "added", self.objects[key])

    async def delete(self, kind: str, name: str) -> None:
        """Remove an object."""
        self.revision += 1
        await self._tell("deleted", self.objects.pop((kind, name)) | {"revision": self.revision})

    async def _tell(self, change: str, document: dict[str, Any]) -> None:
        async with self._news:
            self.history.append((self.revision, change, document))
            self._news.notify_all()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._connections.add(writer)
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                target = head.split(b" ", 2)[1].decode()
                self.requests.append(target)
                await self._answer(target, writer)
        except (asyncio.IncompleteReadError, asyncio.CancelledError, ConnectionError):
            pass  # the peer or the test has ended
        finally:
            self._connections.discard(writer)
            writer.close()

    async def _answer(self, target: str, writer: asyncio.StreamWriter) -> None:
        if self.hung:
            return
        url = urlsplit(target)
        if url.path == "/v1/watch":
            await self._watch(parse_qs(url.query), writer)
            return
        body = json.dumps(self.status).encode()
        head = f"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
        writer.write(head.encode() + body)
        await writer.drain()

    async def _watch(self, query: dict[str, list[str]], writer: asyncio.StreamWriter) -> None:
        kinds = {KINDS[k] for k in query["kinds"][0].split(",")}
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")
        after = int(query["after"][0]) if "after" in query else None
        problem = self.refuse
        if after is not None and after < self.compacted:
            problem = {"code": "gone", "status": 410, "detail": f"revisions up to {self.compacted} are compacted"}
        if problem is not None:
            await _send(writer, "error", self.revision, problem)
            raise ConnectionError
        if after is None:
            after = self.revision
            for document in self.objects.values():
                if document["kind"] in kinds:
                    await _send(writer, "added", 0, document)
        await _send(writer, "bookmark", after, {"revision": after})
        while True:
            for revision, change, document in self.history:
                if revision > after and document["kind"] in kinds:
                    await _send(writer, change, revision, document)
            after = self.revision
            async with self._news:
                await self._news.wait_for(lambda seen=after: self.revision > seen or writer.is_closing())
            if writer.is_closing():
                raise ConnectionError


async def _send(writer: asyncio.StreamWriter, event: str, revision: int, document: dict[str, Any]) -> None:
    if writer.is_closing():
        raise ConnectionError
    text = f"id: {revision}\nevent: {event}\ndata: {json.dumps(document)}\n\n".encode()
    writer.write(b"%x\r\n%b\r\n" % (len(text), text))
    await writer.drain()
