"""The two sockets: requests in their order, replies as they are ready.

nng keeps the order of one connection's requests only while there is one receive at a time; so one task receives for
each socket, on a context that then belongs to that request, and batches are submitted to the engine by that task
itself. Everything else is done beside it. What bounds it: batches by the engine's ``max_pending_appends`` (the task
waits, and with it all producers), fetches by its ``max_waiting_fetches``, a frame by ``max_batch``.
"""

from __future__ import annotations

import contextlib
import logging
from collections import deque
from pathlib import Path
from typing import Any

import pynng
import trio
from pynng import ffi, lib

from platformd.core.errors import InvalidInput, PlatformError, Unsupported
from platformd.core.quantities import size_bytes
from platformd.core.settings import QueueSettings
from platformd.queues.checks import named
from platformd.queues.codec import AckRequest, FetchRequest, PublishRequest, Reply, decode_request, encode_reply
from platformd.queues.codec.frames import MAX_REASONS
from platformd.queues.contract import Ack
from platformd.queues.gateway.answering import (
    Backend,
    HangUp,
    answer_ack,
    answer_fetch,
    begin_publish,
    end_publish,
    misplaced,
    refusal,
    unreadable,
)
from platformd.queues.gateway.holding import Holding
from platformd.queues.native import sockets
from platformd.queues.native.checks import storage_error

log = logging.getLogger("platformd.queues")

ROLES = ("ingest", "fetch")
_FRAME = 1 << 20
"""What a frame may have beside a batch, or beside the reasons of acknowledgements."""


async def serve_gateway(
    backend: Backend,
    directory: Path,
    settings: QueueSettings,
    *,
    task_status: trio.TaskStatus[dict[str, str]] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve ``ingest.sock`` and ``fetch.sock``, and their TCP addresses, until cancelled; started with the addresses.

    Raises:
        InvalidInput: a socket's path is too long, or a setting is not valid.
        Unsupported: the settings name addresses of sockets that this engine has not.
        Conflict: somebody listens there already.
        PlatformError: the sockets cannot be made.
    """
    paths = {role: path for role, path in sockets.socket_paths(directory).items() if role in ROLES}
    listens = _listens(settings)
    tls = sockets.tls_config(settings)
    addresses = {role: f"ipc://{path}" for role, path in paths.items()}
    try:
        sockets.prepare(paths)
    except OSError as error:
        raise storage_error(error) from error
    largest = max(size_bytes(settings.max_batch), MAX_REASONS) + _FRAME
    with contextlib.ExitStack() as stack:  # outside: the tasks that use the sockets end before them
        async with trio.open_nursery() as nursery:
            gateways = []
            for role in ROLES:
                socket = stack.enter_context(pynng.Rep0(recv_max_size=largest))
                if tls is not None:
                    socket.tls_config = tls
                gateway = stack.enter_context(contextlib.closing(_Gateway(backend, role, socket, nursery)))
                _listen(socket, addresses[role])
                mine = [listen for listen in listens if listen.role == role]
                ports = [_listen(socket, listen.url) for listen in mine]
                addresses |= sockets.tcp_addresses(mine, ports)
                gateways.append(gateway)
            sockets.share(paths)
            for gateway in gateways:
                nursery.start_soon(gateway.run)
                nursery.start_soon(gateway.give_back)
            task_status.started(addresses)


def _listens(settings: QueueSettings) -> list[sockets.Listen]:
    listens = sockets.tcp_listens(settings)
    for listen in listens:
        if listen.role not in ROLES:
            raise Unsupported(
                f"this engine has no {listen.role} socket: NATS's own clients follow and feed its subjects",
                subject=f"queues.listen_{listen.role}",
                hint="leave it out",
            )
    return list(listens)


def _listen(socket: Any, url: str) -> int:
    """Listen; the TCP port, or 0."""
    try:
        listener = socket.listen(url)
    except pynng.NNGException as error:
        raise PlatformError(f"cannot be served: {error}", subject=url) from error
    port = ffi.new("int *")
    lib.nng_listener_get_int(listener.listener, b"tcp-bound-port", port)
    return int(port[0])


class _Gateway:
    """One socket."""

    def __init__(self, backend: Backend, role: str, socket: Any, nursery: trio.Nursery) -> None:
        self._backend = backend
        self._role = role
        self._socket = socket
        self._nursery = nursery
        self._holding = Holding()
        self._free: list[Any] = []
        self._contexts: set[Any] = set()
        self._scopes: dict[int, set[trio.CancelScope]] = {}
        self._freed: deque[tuple[tuple[str, str], list[int]]] = deque()
        self._some_freed = trio.Event()
        self._token = trio.lowlevel.current_trio_token()
        socket.add_pre_pipe_connect_cb(lambda pipe: self._tell(self._holding.came, pipe.id))
        socket.add_post_pipe_remove_cb(lambda pipe: self._tell(self._went, pipe.id))

    def _tell(self, function: Any, connection: int) -> None:
        """From a thread of nng's."""
        with contextlib.suppress(trio.RunFinishedError):
            self._token.run_sync_soon(function, connection)

    def _went(self, connection: int) -> None:
        for scope in self._scopes.pop(connection, ()):
            scope.cancel()
        self._freed.extend(self._holding.went(connection).items())
        self._some_freed.set()

    async def give_back(self) -> None:
        """Return what ended connections had, for ever."""
        while True:
            self._some_freed = trio.Event()
            while self._freed:
                await self._refuse_all(*self._freed.popleft())
            await self._some_freed.wait()

    async def _refuse_all(self, place: tuple[str, str], sequences: list[int]) -> None:
        stream, consumer = place
        try:
            await self._backend.ack(stream, consumer, [Ack(sequence=s, kind="nak") for s in sequences])
        except PlatformError as error:
            log.info("%s: %d deliveries come again late: %s", named(stream, consumer), len(sequences), error)

    async def run(self) -> None:
        """Take requests, for ever."""
        while True:
            context = self._free.pop() if self._free else self._new_context()
            message = await context.arecv_msg()
            pipe = lib.nng_msg_get_pipe(message._nng_msg)  # noqa: SLF001 (pynng does not name it for contexts)
            await self._take(context, message.bytes, pipe, lib.nng_pipe_id(pipe))

    def _new_context(self) -> Any:
        context = self._socket.new_context()
        self._contexts.add(context)
        return context

    def _drop(self, context: Any) -> None:
        self._contexts.discard(context)
        context.close()

    def close(self) -> None:
        """Close the contexts, before their socket."""
        while self._contexts:
            self._contexts.pop().close()

    async def _take(self, context: Any, frame: bytes, pipe: Any, connection: int) -> None:
        try:
            request = decode_request(frame)
            error = misplaced(request, self._role)
            if error is not None:
                raise error
        except InvalidInput as wrong:
            self._nursery.start_soon(self._reply, context, unreadable(frame, wrong))
            return
        if not isinstance(request, PublishRequest):
            self._nursery.start_soon(self._answer, context, pipe, connection, request)
            return
        try:
            submission, count = await begin_publish(self._backend, request)
        except PlatformError as wrong:
            self._nursery.start_soon(self._refuse, context, pipe, wrong, frame[1])
        else:
            self._nursery.start_soon(self._finish, context, pipe, submission, count)

    async def _finish(self, context: Any, pipe: Any, submission: Any, count: int) -> None:
        try:
            reply = await end_publish(self._backend, submission, count)
        except PlatformError as error:
            await self._refuse(context, pipe, error, 1)
        else:
            await self._reply(context, reply)

    async def _answer(self, context: Any, pipe: Any, connection: int, request: FetchRequest | AckRequest) -> None:
        operation = 2 if isinstance(request, FetchRequest) else 3
        try:
            if isinstance(request, AckRequest):
                reply = await answer_ack(self._backend, self._holding, request)
            else:
                with trio.CancelScope() as scope:
                    scopes = self._scopes.setdefault(connection, set())
                    scopes.add(scope)
                    try:
                        reply = await answer_fetch(self._backend, self._holding, connection, request)
                    finally:
                        scopes.discard(scope)
                        if not scopes:
                            self._scopes.pop(connection, None)
                if scope.cancelled_caught:
                    raise HangUp
        except PlatformError as error:
            await self._refuse(context, pipe, error, operation)
        except HangUp:
            self._hang_up(context, pipe)
        else:
            await self._reply(context, reply)

    async def _refuse(self, context: Any, pipe: Any, error: PlatformError, operation: int) -> None:
        try:
            reply = refusal(error, operation)
        except HangUp:
            log.warning("%s: a client is left to ask again: %s", self._role, error)
            self._hang_up(context, pipe)
        else:
            await self._reply(context, reply)

    def _hang_up(self, context: Any, pipe: Any) -> None:
        lib.nng_pipe_close(pipe)
        self._drop(context)

    async def _reply(self, context: Any, reply: Reply) -> None:
        try:
            await context.asend(encode_reply(reply))
        except pynng.NNGException:  # the client is gone
            self._drop(context)
        else:
            self._free.append(context)
