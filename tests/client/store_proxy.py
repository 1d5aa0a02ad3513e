"""A relay in front of the store's door that can be cut, to lose connections at any byte."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import trio

from platformd.coordination.contract import Store
from tests.support.store_door import served


class Relay:
    """Passes bytes on, between a client and the door at ``behind``."""

    def __init__(self, behind: Path) -> None:
        self._behind = behind
        self._open: set[trio.CancelScope] = set()
        self.connections = 0
        """How many there have been."""
        self.hold_answers = False
        """Whether what the server says is dropped."""
        self.cut_after: Callable[[], int | None] = lambda: None
        """How many bytes each new connection passes on before it is cut; ``None`` for any number."""

    def cut(self) -> None:
        """Lose all connections."""
        for scope in self._open:
            scope.cancel()

    async def handle(self, client: trio.SocketStream) -> None:
        """One connection, until either side ends it or it is cut."""
        self.connections += 1
        left = self.cut_after()
        with client.socket, trio.socket.socket(socket.AF_UNIX) as sock, trio.CancelScope() as scope:
            self._open.add(scope)
            try:
                await sock.connect(str(self._behind))
                await self._relay(client, trio.SocketStream(sock), left)
            except OSError:
                return
            finally:
                self._open.discard(scope)

    async def _relay(self, client: trio.SocketStream, server: trio.SocketStream, left: int | None) -> None:
        async with trio.open_nursery() as nursery:

            async def pass_on(source: trio.SocketStream, to: trio.SocketStream) -> None:
                nonlocal left
                with contextlib.suppress(trio.BrokenResourceError):
                    while data := bytes(await source.receive_some(65536)):
                        if source is server and self.hold_answers:
                            continue
                        if left is not None:
                            data, left = data[:left], left - len(data)
                        await to.send_all(data)
                        if left is not None and left <= 0:
                            break
                nursery.cancel_scope.cancel()

            nursery.start_soon(pass_on, client, server)
            nursery.start_soon(pass_on, server, client)


class SwitchedDoor:
    """A door that can be stopped and started again at the same place."""

    def __init__(self, nursery: trio.Nursery, store: Store, directory: Path) -> None:
        self._nursery = nursery
        self._store = store
        self._directory = directory
        self._stop = trio.Event()
        self._stopped = trio.Event()

    async def start(self) -> Path:
        """Serve; the control socket's address."""
        address: Path = await self._nursery.start(self._serve)
        return address

    async def _serve(self, *, task_status: trio.TaskStatus[Path]) -> None:
        self._stop, self._stopped = trio.Event(), trio.Event()
        async with served(self._store, self._directory) as address:
            task_status.started(address)
            await self._stop.wait()
        self._stopped.set()

    async def stop(self) -> None:
        """Stop, with all that belongs to it."""
        self._stop.set()
        await self._stopped.wait()


@contextlib.asynccontextmanager
async def relayed(address: Path) -> AsyncIterator[tuple[Relay, Path]]:
    """A relay to the door beside ``address``; and the address that clients are to be given."""
    relay = Relay(address.with_suffix(".store"))
    front = address.with_name("relay.sock")
    sock = trio.socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    await sock.bind(str(front.with_suffix(".store")))
    sock.listen(16)
    async with trio.open_nursery() as nursery:
        await nursery.start(trio.serve_listeners, relay.handle, [trio.SocketListener(sock)])
        yield relay, front
        nursery.cancel_scope.cancel()
