"""The control client for asyncio: the sockets around ``http`` and ``watching``, which hold the rules.

``Client.request`` and ``send`` ask; the client keeps one idle connection and may be called by many tasks at once.
``Client.watch`` is one connection's worth of a watch: its loss is raised, since what to do about it (wait,
tell a person, give up) is the caller's to decide. Entering again with the same ``WatchState`` goes on without
a gap and without repetition.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Any, Final, Self

from platformd.client import control
from platformd.client.http import (
    HINT_NOT_RUNNING,
    Collector,
    End,
    Head,
    HttpConnection,
    Part,
    Request,
    Response,
    Target,
    make_request,
)
from platformd.client.watching import Change, WatchState
from platformd.core.errors import DeadlineExceeded, Forbidden, PlatformError, Unavailable

READ_BYTES: Final = 64 << 10
"""The most that one read takes."""

CONNECT_TIMEOUT: Final = 5.0
"""Seconds to wait for a connection."""

ANSWER_TIMEOUT: Final = 30.0
"""Seconds to wait for a whole answer, or for the head of a watch."""


class _Connection:
    """A socket and the HTTP that is spoken on it."""

    def __init__(self, http: HttpConnection, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.http = http
        self._reader, self._writer = reader, writer

    @classmethod
    async def open(cls, target: Target, within: float) -> _Connection:
        """A new connection to ``target``, within that many seconds.

        Raises:
            Unavailable: nobody answers there.
            Forbidden: this user may not open the socket.
        """
        try:
            async with asyncio.timeout(within):
                if target.unix is not None:
                    reader, writer = await asyncio.open_unix_connection(target.unix)
                elif target.tls:
                    from platformd.client.sealing import context_for

                    reader, writer = await asyncio.open_connection(
                        target.host, target.port, ssl=context_for(target), server_hostname=target.host
                    )
                else:
                    reader, writer = await asyncio.open_connection(target.host, target.port)
        except TimeoutError as error:
            raise Unavailable(
                f"no connection within {within:g} s", subject=str(target), hint=HINT_NOT_RUNNING
            ) from error
        except PermissionError as error:
            raise Forbidden(
                "this user may not open the socket", subject=str(target), hint="join the daemon's group, or use sudo"
            ) from error
        except ssl.SSLError as error:
            from platformd.client.sealing import refused

            raise refused(target, error) from error
        except OSError as error:
            raise Unavailable(_reason(error), subject=str(target), hint=HINT_NOT_RUNNING) from error
        return cls(HttpConnection(target), reader, writer)

    async def send(self, request: Request) -> None:
        """Send ``request``.

        Raises:
            Unavailable | OutcomeUnknown: the connection is gone.
        """
        self._writer.write(self.http.send(request))
        try:
            await self._writer.drain()
        except OSError as error:
            raise self.http.lost(_reason(error)) from error

    async def receive(self) -> list[Part]:
        """The parts that the next read completes; there may be none.

        Raises:
            Unavailable | OutcomeUnknown: the connection is gone before the answer's end.
        """
        try:
            data = await self._reader.read(READ_BYTES)
        except OSError as error:
            raise self.http.lost(_reason(error)) from error
        return self.http.receive(data)

    async def rest(self, collector: Collector) -> Response:
        """The response, when its head or nothing of it has been given to ``collector``."""
        while True:
            for part in await self.receive():
                response = collector.add(part)
                if response is not None:
                    return response

    def close(self) -> None:
        """Drop the connection; what was not sent is lost."""
        self._writer.transport.abort()


class Watch:
    """An open watch: iterate over the changes, those that came together in one list (never empty)."""

    def __init__(self, connection: _Connection, state: WatchState, first: list[Part]) -> None:
        self._connection, self._state = connection, state
        self._parts = first

    def __aiter__(self) -> AsyncIterator[list[Change]]:
        return self

    async def __anext__(self) -> list[Change]:
        """The next changes.

        Raises:
            Unavailable: the connection was lost or the server ended the watch.
            Gone: the revision to go on from is compacted away; begin with a new ``WatchState``.
            PlatformError: the server ended the watch with another error.
        """
        while True:
            self._state.feed(b"")  # an error that came after the last changes is raised now
            parts, self._parts = self._parts, []
            changes = [c for part in parts if isinstance(part, bytes) for c in self._state.feed(part)]
            if not changes:
                self._state.raise_if_failed()
            if any(isinstance(part, End) for part in parts):
                # What came before the end is delivered first; the next call finds the end again.
                self._parts = [End()]
                if not changes:
                    raise self._connection.http.lost("it ended the watch")
            if changes:
                return changes
            self._parts = await self._connection.receive()


class Client:
    """The control API of one daemon. Connections are opened when they are needed."""

    def __init__(
        self, target: Target, *, connect_timeout: float = CONNECT_TIMEOUT, timeout: float = ANSWER_TIMEOUT
    ) -> None:
        self.target = target
        self._connect_timeout, self._timeout = connect_timeout, timeout
        self._idle: _Connection | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Drop the idle connection. The client can still be used."""
        if self._idle is not None:
            self._idle.close()
            self._idle = None

    async def request(
        self, method: str, path: str, *, query: Mapping[str, str] | None = None, json: Any = None
    ) -> Response:
        """The answer to one request, when it reports success.

        Raises:
            PlatformError: what the daemon answered, or that it did not (``Unavailable``,
                ``OutcomeUnknown``, ``DeadlineExceeded``).
        """
        return (await self.send(make_request(method, path, query=query, json=json))).check()

    async def send(self, request: Request) -> Response:
        """The answer to ``request``, whatever it says.

        A connection that went stale while it was idle is replaced once, when repeating is harmless.

        Raises:
            PlatformError: there was no answer.
        """
        used, self._idle = self._idle, None
        try:
            async with asyncio.timeout(self._timeout):
                if used is not None:
                    try:
                        return await self._ask_on(used, request)
                    except PlatformError:
                        if used.http.answered or not request.repeatable:
                            raise
                return await self._ask_on(await self._open(), request)
        except TimeoutError as error:
            raise DeadlineExceeded(
                f"no answer within {self._timeout:g} s",
                subject=f"{request.method} {request.path}",
                hint="the daemon may be overloaded or hung" if request.safe else "it may or may not have been done",
            ) from error

    async def status(self) -> dict[str, Any]:
        """The answer to ``GET /status``.

        Raises:
            PlatformError: there was none, or it is not a JSON object.
        """
        status = (await self.send(control.status())).check().json()
        if not isinstance(status, dict):
            raise PlatformError("GET /status did not answer with an object", subject=str(self.target))
        return status

    @asynccontextmanager
    async def watch(self, state: WatchState) -> AsyncIterator[Watch]:
        """One connection's worth of a watch, from where ``state`` stands.

        Raises:
            PlatformError: the daemon does not answer, or refuses.
        """
        connection = await self._open()
        try:
            try:
                async with asyncio.timeout(self._timeout):
                    rest = await self._begin(connection, state)
            except TimeoutError as error:
                raise DeadlineExceeded(
                    f"the watch did not begin within {self._timeout:g} s", subject=str(self.target)
                ) from error
            yield Watch(connection, state, rest)
        finally:
            connection.close()

    async def _open(self) -> _Connection:
        return await _Connection.open(self.target, self._connect_timeout)

    async def _ask_on(self, connection: _Connection, request: Request) -> Response:
        response = None
        try:
            await connection.send(request)
            response = await connection.rest(Collector())
        finally:
            # Also on cancellation: a connection with half an answer on it can serve nobody.
            if response is None or not connection.http.reusable or self._idle is not None:
                connection.close()
            else:
                self._idle = connection
        return response

    async def _begin(self, connection: _Connection, state: WatchState) -> list[Part]:
        """Ask for the watch; the parts of its body that came with the head."""
        await connection.send(state.request())
        parts: list[Part] = []
        while not parts:
            parts = await connection.receive()
        head, *rest = parts
        if not isinstance(head, Head):
            raise connection.http.lost("its answer has no head")
        if head.status >= 300:
            collector = Collector()
            for part in parts:
                response = collector.add(part)
                if response is not None:
                    response.check()
            (await connection.rest(collector)).check()
        state.check(head)
        return rest


def _reason(error: OSError) -> str:
    """Why the system refused, for a person."""
    match error:
        case FileNotFoundError():
            return "there is no such socket"
        case ConnectionRefusedError():
            return "nobody answers"
        case _:
            return error.strerror or str(error) or type(error).__name__
