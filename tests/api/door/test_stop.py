"""The door's stop: what was received is answered, everybody is told, nobody holds it up."""

from __future__ import annotations

from pathlib import Path

import trio
import trio.testing

from platformd.coordination.codec import frames
from platformd.coordination.codec.replies import Goodbye, OutcomeReply, WatchingReply
from platformd.coordination.sqlite import open_sqlite
from platformd.core.clock import SystemClock
from platformd.core.settings import StoreSettings
from tests.api.door.wire import PATIENCE, Slow, connect, door

WRITE = (frames.TXN, 1, (), ((frames.PUT, b"k", b"v"),))
WATCH = (frames.WATCH, 2, b"k", None, 0, False, None, 1000)


async def test_what_was_received_is_answered_before_goodbye(tmp_path: Path) -> None:
    """A write under way when the stop begins is done and answered; then comes goodbye, then the end."""
    async with open_sqlite(tmp_path / "store.db", StoreSettings(), SystemClock()) as embedded:
        slow = Slow(embedded)
        async with trio.open_nursery() as nursery:
            heard: list[object] = []
            listening = trio.Event()

            async def client(address: Path) -> None:
                async with await connect(address) as raw:
                    await raw.hello()
                    await raw.send(WATCH, WRITE)
                    assert isinstance(await raw.receive(), WatchingReply)
                    listening.set()
                    while (reply := await raw.receive()) is not None:
                        heard.append(reply)

            async with door(tmp_path, store=slow) as address:
                nursery.start_soon(client, address)
                await listening.wait()
                await slow.wait_begun(1)
                nursery.start_soon(_open_later, slow)
            assert not address.with_suffix(".store").exists()
        kinds = [type(reply) for reply in heard]
        assert kinds == [OutcomeReply, Goodbye]


async def _open_later(slow: Slow) -> None:
    await trio.testing.wait_all_tasks_blocked(0.02)
    slow.gate.set()


async def test_hanging_store_does_not_hold_the_stop_up(tmp_path: Path) -> None:
    """A write that never ends is cut off after the grace; its client sees the end without goodbye."""
    async with open_sqlite(tmp_path / "store.db", StoreSettings(), SystemClock()) as embedded:
        slow = Slow(embedded)
        async with trio.open_nursery() as nursery:
            ended = trio.Event()

            async def client(address: Path) -> None:
                async with await connect(address) as raw:
                    await raw.hello()
                    await raw.send(WRITE)
                    assert await raw.receive() is None
                    ended.set()

            with trio.fail_after(PATIENCE):
                async with door(tmp_path, store=slow, grace=0.05) as address:
                    nursery.start_soon(client, address)
                    await slow.wait_begun(1)
                await ended.wait()


async def test_client_that_does_not_read_does_not_hold_the_stop_up(tmp_path: Path) -> None:
    """Answers that nobody takes are dropped after the grace."""
    async with open_sqlite(tmp_path / "store.db", StoreSettings(), SystemClock()) as embedded:
        with trio.fail_after(PATIENCE):
            async with door(tmp_path, store=embedded, grace=0.05) as address:
                raw = await connect(address)
                await raw.hello()
                await raw.send((frames.TXN, 1, (), ((frames.PUT, b"k", bytes(900_000)),)))
                await raw.receive()
                await raw.send(*((frames.GET, i, b"k") for i in range(2, 12)))
        await raw.stream.aclose()
