"""The control client for trio: the sockets around ``http``, ``control`` and ``watching``, which hold the rules.

A client may be used by many tasks at once: each request has a connection of its own meanwhile, and ``max_idle`` of them
are kept for the next ones. Cancellation is safe at every await: a connection with half an answer on it is dropped.
"""

from __future__ import annotations

import os
import ssl
from collections import deque
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Any, Final

import trio

from platformd.client import control
from platformd.client.blocking import FIRST_DELAY, MAX_DELAY, SILENCE_TIMEOUT, Applied, Listing
from platformd.client.contexts import find_target
from platformd.client.http import (
    HINT_NOT_RUNNING,
    Collector,
    Head,
    HttpConnection,
    Part,
    Request,
    Response,
    Target,
    make_request,
)
from platformd.client.reading import as_kind, read_resource
from platformd.client.retrying import NEVER, Attempts, Retry
from platformd.client.watching import Change, WatchState
from platformd.core.errors import DeadlineExceeded, Forbidden, PlatformError, Unavailable
from platformd.model.kind import Kind
from platformd.model.resource import DEFAULT_TENANT, AnyResource

CONNECT_TIMEOUT: Final = 5.0
"""Seconds that a connection may take to come about."""
RECEIVE_BYTES: Final = 64 << 10
"""The most bytes that are read at once."""


class _Connection:
    """A socket and the HTTP that is spoken on it."""

    def __init__(self, target: Target, stream: trio.abc.Stream) -> None:
        self.http = HttpConnection(target)
        self._stream = stream

    @classmethod
    async def open(cls, target: Target) -> _Connection:
        """A new connection to ``target``.

        Raises:
            Unavailable: nobody answers there.
            Forbidden: this user may not open the socket.
            InvalidInput | Unauthorized: TLS did not come about.
        """
        try:
            with trio.fail_after(CONNECT_TIMEOUT):
                return cls(target, await _connect(target))
        except trio.TooSlowError as error:
            message = f"no connection came about within {CONNECT_TIMEOUT:g}s"
            raise Unavailable(message, subject=str(target), hint=HINT_NOT_RUNNING) from error
        except PermissionError as error:
            hint = "its group may: join it, or use sudo"
            raise Forbidden("you may not open this socket", subject=str(target), hint=hint) from error
        except (OSError, trio.BrokenResourceError) as error:
            cause = error.__cause__ if isinstance(error, trio.BrokenResourceError) else error
            if isinstance(cause, ssl.SSLError):
                from platformd.client.sealing import refused

                raise refused(target, cause) from error
            said = getattr(cause, "strerror", None) or str(cause or error)
            raise Unavailable(f"cannot be reached: {said}", subject=str(target), hint=HINT_NOT_RUNNING) from error

    async def exchange(self, request: Request) -> Response:
        """The answer to ``request``.

        Raises:
            Unavailable | OutcomeUnknown: the connection was lost.
        """
        await self.send(request)
        collector = Collector()
        while True:
            for part in await self.receive():
                response = collector.add(part)
                if response is not None:
                    return response

    async def send(self, request: Request) -> None:
        """Send ``request``. That the peer has closed shows when its answer is read: it may have said why."""
        try:
            await self._stream.send_all(self.http.send(request))
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            return

    async def receive(self) -> list[Part]:
        """The parts that the next read completes; there may be none."""
        try:
            data = await self._stream.receive_some(RECEIVE_BYTES)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            data = b""
        return self.http.receive(bytes(data))

    async def close(self) -> None:
        """Drop it at once."""
        await trio.aclose_forcefully(self._stream)


async def _connect(target: Target) -> trio.abc.Stream:
    if target.unix is not None:
        return await trio.open_unix_socket(target.unix)
    plain = await trio.open_tcp_stream(target.host, target.port)
    if not target.tls:
        return plain
    from platformd.client.sealing import context_for

    sealed = trio.SSLStream(plain, context_for(target), server_hostname=target.host, https_compatible=True)
    try:
        await sealed.do_handshake()
    except BaseException:
        await trio.aclose_forcefully(sealed)
        raise
    return sealed


class Client:
    """Talks to one daemon; an ``async with``.

    Args:
        target: where it is; ``None`` for what the environment and the contexts say (``find_target``).
        timeout: seconds that an answer may take.
        retry: how long what may be sent again is; by default one attempt is made.
        reason: why changes are made; it stands in their history.
        max_idle: connections that are kept for later requests.

    Every method raises ``Unavailable`` when the daemon cannot be reached, ``Forbidden`` when its socket may not be
    opened, ``DeadlineExceeded`` when it does not answer in time, ``OutcomeUnknown`` when the answer to a change was
    lost, and the error that the daemon answers with.
    """

    def __init__(
        self,
        target: Target | None = None,
        *,
        timeout: float = 30.0,
        retry: Retry = NEVER,
        reason: str = "",
        max_idle: int = 8,
    ) -> None:
        self.target = target if target is not None else find_target(os.environ)
        self._timeout, self._retry, self._reason = timeout, retry, reason
        self._idle: deque[_Connection] = deque()
        self._max_idle = max_idle

    async def __aenter__(self) -> Client:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the idle connections; a later request opens new ones."""
        while self._idle:
            await self._idle.popleft().close()

    async def send(self, request: Request) -> Response:
        """The answer to ``request``, whatever its status; sent again as ``retry`` says."""
        attempts = Attempts(request.because(self._reason), self._retry, trio.current_time)
        while True:
            try:
                response = await self._once(attempts.request)
            except PlatformError as error:
                wait = attempts.after_error(error)
                if wait is None:
                    raise
            else:
                wait = attempts.after_answer(response)
                if wait is None:
                    return response
            await trio.sleep(wait)

    async def _once(self, request: Request) -> Response:
        with trio.move_on_after(self._timeout):
            while self._idle:
                kept = self._idle.pop()
                try:
                    return await self._on(kept, request)
                except PlatformError:
                    if kept.http.answered or not request.repeatable:
                        raise
            return await self._on(await _Connection.open(self.target), request)
        hint = "the daemon may be overloaded" if request.safe else "it may or may not have been done"
        message = f"no answer within {self._timeout:g}s"
        raise DeadlineExceeded(message, subject=f"{request.method} {request.path}", hint=hint)

    async def _on(self, connection: _Connection, request: Request) -> Response:
        whole = False
        try:
            response = await connection.exchange(request)
            whole = connection.http.reusable and len(self._idle) < self._max_idle
            return response
        finally:
            if whole:
                self._idle.append(connection)
            else:
                with trio.CancelScope(shield=True):  # does not wait: it is closed by force
                    await connection.close()

    async def request(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        json: Any = None,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Response:
        """Send any request; the answer is a success. See ``platformd.client.http.make_request``."""
        return (await self.send(make_request(method, path, query=query, json=json, body=body, headers=headers))).check()

    async def status(self) -> dict[str, Any]:
        """What the daemon is and does: ``GET /status``."""
        document: dict[str, Any] = (await self.send(control.status())).check().json()
        return document

    async def get(self, kind: Kind | str, name: str, *, tenant: str = DEFAULT_TENANT) -> AnyResource:
        """One resource.

        Raises:
            NotFound: it is not there.
        """
        kind = as_kind(kind)
        return read_resource(kind, (await self.send(control.get(kind, name, tenant=tenant))).check().json())

    async def list(
        self, kind: Kind | str, *, tenant: str = DEFAULT_TENANT, selector: str = "", fields: str = ""
    ) -> Listing:
        """All resources of a kind whose labels match ``selector`` (``a=b,c!=d,e``), and whose fields ``fields``."""
        kind = as_kind(kind)
        items: list[AnyResource] = []
        revision, cursor = 0, None
        while True:
            request = control.list_page(kind, tenant=tenant, selector=selector, fields=fields, cursor=cursor)
            page = control.read_page(await self.send(request))
            revision = revision or page.revision
            items += [read_resource(kind, document) for document in page.items]
            cursor = page.cursor
            if cursor is None:
                return Listing(tuple(items), revision)

    async def create(
        self,
        kind: Kind | str,
        resource: AnyResource | Mapping[str, Any],
        *,
        tenant: str = DEFAULT_TENANT,
        dry_run: bool = False,
    ) -> AnyResource:
        """Create a resource from a resource or a document (name, labels, annotations, spec).

        Raises:
            Conflict: it is there.
            Unprocessable: the document is not valid; ``errors`` has everything that is wrong.
        """
        kind = as_kind(kind)
        response = await self.send(control.create(kind, resource, tenant=tenant, dry_run=dry_run))
        return read_resource(kind, response.check().json())

    async def apply(
        self,
        kind: Kind | str,
        resource: AnyResource | Mapping[str, Any],
        *,
        tenant: str = DEFAULT_TENANT,
        dry_run: bool = False,
        expect_revision: int | None = None,
    ) -> Applied:
        """Make a resource what the document says, creating it when it is not there.

        Raises:
            PreconditionFailed: its revision is not ``expect_revision``.
            Unprocessable: the document is not valid; ``errors`` has everything that is wrong.
        """
        kind = as_kind(kind)
        request = control.apply(kind, resource, tenant=tenant, dry_run=dry_run, expect_revision=expect_revision)
        response = await self.send(request)
        return Applied(read_resource(kind, response.check().json()), control.read_outcome(response))

    async def patch(
        self,
        kind: Kind | str,
        name: str,
        changes: Mapping[str, Any],
        *,
        tenant: str = DEFAULT_TENANT,
        dry_run: bool = False,
        expect_revision: int | None = None,
    ) -> AnyResource:
        """Change members of a resource (RFC 7396: ``None`` removes one).

        Raises:
            NotFound: it is not there.
            PreconditionFailed: its revision is not ``expect_revision``.
            Unprocessable: the result would not be valid.
        """
        kind = as_kind(kind)
        request = control.patch(kind, name, changes, tenant=tenant, dry_run=dry_run, expect_revision=expect_revision)
        return read_resource(kind, (await self.send(request)).check().json())

    async def delete(
        self,
        kind: Kind | str,
        name: str,
        *,
        tenant: str = DEFAULT_TENANT,
        dry_run: bool = False,
        expect_revision: int | None = None,
    ) -> bool:
        """Delete a resource. Returns whether it is gone already; if not, its controller is cleaning up.

        Raises:
            NotFound: it is not there.
            PreconditionFailed: its revision is not ``expect_revision``.
        """
        kind = as_kind(kind)
        request = control.delete(kind, name, tenant=tenant, dry_run=dry_run, expect_revision=expect_revision)
        return (await self.send(request)).check().status != 202

    @asynccontextmanager
    async def watch(
        self,
        kinds: Sequence[Kind | str],
        *,
        tenant: str = DEFAULT_TENANT,
        after: int | None = None,
        selector: str = "",
    ) -> AsyncIterator[Watch]:
        """Follow resources: iterate over what this gives; see ``platformd.client.watching`` for what is promised."""
        watch = Watch(self.target, WatchState(kinds, tenant=tenant, after=after, selector=selector))
        try:
            yield watch
        finally:
            with trio.CancelScope(shield=True):  # does not wait: it is closed by force
                await watch.aclose()


class Watch:
    """A watch that goes on over lost connections, without a gap: an iterator over ``Change``."""

    def __init__(self, target: Target, state: WatchState) -> None:
        self._target, self._state = target, state
        self._connection: _Connection | None = None
        self._changes: deque[Change] = deque()
        self._delay = FIRST_DELAY
        self._stood = False

    def __aiter__(self) -> Watch:
        return self

    async def __anext__(self) -> Change:
        """The next change.

        Raises:
            Gone: the revision to go on from has been compacted away; begin a new watch.
            Unavailable: the daemon cannot be reached, and never could be.
            PlatformError: the daemon refuses, or ended it with another error.
        """
        while not self._changes:
            try:
                await self._more()
            except (Unavailable, DeadlineExceeded):
                await self.aclose()
                if not self._stood:
                    raise
                await trio.sleep(self._delay)
                self._delay = min(self._delay * 2, MAX_DELAY)
        return self._changes.popleft()

    async def aclose(self) -> None:
        """Close the connection."""
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.close()

    async def _more(self) -> None:
        self._state.raise_if_failed()
        if self._connection is None:
            self._connection = await _Connection.open(self._target)
            await self._connection.send(self._state.request())
        with trio.move_on_after(SILENCE_TIMEOUT) as scope:
            parts = await self._connection.receive()
        if scope.cancelled_caught:
            raise DeadlineExceeded(f"the daemon was silent for {SILENCE_TIMEOUT:g}s", subject=str(self._target))
        for i, part in enumerate(parts):
            if isinstance(part, Head):
                if part.status >= 300:
                    await self._refused(parts[i:])
                self._state.check(part)
                self._stood = True
            elif isinstance(part, bytes):
                found = self._state.feed(part)
                if found:
                    self._delay = FIRST_DELAY
                self._changes.extend(found)
            elif not self._changes:
                self._state.raise_if_failed()
                raise Unavailable("the watch was ended by the daemon", subject=str(self._target))
            else:
                await self.aclose()  # what came with the end is delivered first

    async def _refused(self, parts: Sequence[Part]) -> None:
        assert self._connection is not None
        collector = Collector()
        while True:
            for part in parts:
                response = collector.add(part)
                if response is not None:
                    response.check()
                    return
            parts = await self._connection.receive()
