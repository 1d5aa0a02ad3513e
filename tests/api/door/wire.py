"""A client that may say anything: the bytes of the store's door, by hand."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

import trio
import trio.testing

from platformd.coordination.codec import MAGIC, MAX_REPLY, VERSION, FrameBuffer, append_frame, decode_reply, frames
from platformd.coordination.contract import Store
from platformd.coordination.sqlite import open_sqlite
from platformd.core.clock import SystemClock
from platformd.core.settings import StoreSettings
from tests.support.daemon import short_directory
from tests.support.store_door import served

PATIENCE = 20.0
"""Seconds after which a test that waits is broken."""


class Raw:
    """One connection."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self.stream = stream
        self._frames = FrameBuffer(MAX_REPLY)

    async def __aenter__(self) -> Raw:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stream.aclose()

    async def send(self, *messages: tuple[Any, ...]) -> None:
        """Send messages, in one write."""
        out = bytearray()
        for message in messages:
            append_frame(out, message)
        await self.stream.send_all(out)

    async def receive(self) -> Any:
        """The next message; ``None`` at the end of the connection."""
        with trio.fail_after(PATIENCE):
            while (message := self._frames.next()) is None:
                try:
                    data = await self.stream.receive_some(65536)
                except trio.BrokenResourceError:
                    data = b""
                if not data:
                    return None
                self._frames.feed(bytes(data))
        return decode_reply(message)

    async def hello(self) -> Any:
        """Say hello; the answer."""
        await self.send((frames.HELLO, MAGIC, VERSION, "test"))
        return await self.receive()

    async def alive(self, request_id: int = 999_999) -> bool:
        """Whether a ping is answered, whatever comes before the answer."""
        await self.send((frames.PING, request_id))
        while (reply := await self.receive()) is not None:
            if reply.id == request_id:
                return True
        return False


async def connect(address: Path) -> Raw:
    """A new connection to the door beside a control socket."""
    sock = trio.socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    await sock.connect(str(address.with_suffix(".store")))
    return Raw(trio.SocketStream(sock))


@asynccontextmanager
async def door(directory: Path, *, grace: float = 5.0, store: Any = None, **settings: Any) -> AsyncIterator[Path]:
    """A door to an embedded store, or to ``store``; the control socket's address."""
    with short_directory() as short:
        if store is not None:
            async with served(store, short, grace=grace, **settings) as address:
                yield address
            return
        async with (
            open_sqlite(directory / "store.db", StoreSettings(), SystemClock()) as embedded,
            served(embedded, short, grace=grace, **settings) as address,
        ):
            yield address


class Slow:
    """A store whose transactions wait for ``gate``; the rest is another store's."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.gate = trio.Event()
        self.begun = 0
        self._lot = trio.lowlevel.ParkingLot()

    def __getattr__(self, name: str) -> Any:
        if name == "txn_soon":
            raise AttributeError(name)
        return getattr(self._store, name)

    async def txn(self, *arguments: Any) -> Any:
        self.begun += 1
        self._lot.unpark_all()
        await self.gate.wait()
        return await self._store.txn(*arguments)

    async def wait_begun(self, count: int) -> None:
        """Wait until so many transactions wait."""
        with trio.fail_after(PATIENCE):
            while self.begun < count:
                await self._lot.park()


async def watchers(store: Store) -> int:
    """How many watches are open, once everything that was sent has been taken."""
    await trio.testing.wait_all_tasks_blocked(0.02)
    return (await store.status()).watchers
