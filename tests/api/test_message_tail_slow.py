"""Readers of a tail that are too slow: what waits for them is bounded, and every drop is counted and told."""

from __future__ import annotations

from typing import Any

import pytest
import trio
from trio.testing import MockClock

from platformd.api import message_tail
from platformd.api.message_tail import FollowedRecords, Waiting
from platformd.api.watch import Said
from platformd.core.errors import LimitReached
from platformd.queues.contract import Record, StreamConfig
from tests.api.fake_streams import MemoryStreams


@pytest.fixture
def clock() -> MockClock:
    """Nothing here waits for another process."""
    return MockClock(autojump_threshold=0)


async def put(streams: MemoryStreams, *payloads: str) -> None:
    await streams.publish([Record(subject="a.b", payload=p.encode()) for p in payloads], stream="s")


class Reader:
    """Somebody who takes what a tail says only when told to."""

    def __init__(self, policy: Any, limit: int) -> None:
        self.streams = MemoryStreams()
        self.said: list[Said] = []
        self.dropped: list[tuple[str, int]] = []
        self._may = trio.Semaphore(0)
        self._policy, self._limit = policy, limit

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        await self.streams.put_stream("s", StreamConfig(subjects=("a.>",)))
        waiting = Waiting(self._policy, self._limit)
        count = lambda reason, records: self.dropped.append((reason, records))  # noqa: E731
        followed = FollowedRecords(self.streams, "s", ">", 0, waiting, count)  # type: ignore[arg-type]
        task_status.started()
        await followed.follow(self._take)

    async def _take(self, said: list[Said]) -> None:
        await self._may.acquire()
        self.said += said

    def take(self, times: int = 1) -> None:
        for _ in range(times):
            self._may.release()

    def names(self) -> list[tuple[str, int]]:
        return [(one.name, one.id) for one in self.said]


async def test_a_reader_that_is_behind_reads_from_the_log(nursery: trio.Nursery, clock: MockClock) -> None:
    """Before it has seen the end nothing is dropped, however slow it is: the log is the buffer."""
    reader = Reader("drop_oldest", 2)
    await nursery.start(reader.run)
    await put(reader.streams, *"abcdefgh")
    for _ in range(30):
        await trio.sleep(1)
        reader.take()
    assert reader.names() == [("bookmark", 0), *(("record", i) for i in range(1, 9))]
    assert reader.dropped == []


async def test_drop_oldest_keeps_the_newest_and_counts(nursery: trio.Nursery, clock: MockClock) -> None:
    """A live reader that does not keep up loses the oldest that wait, is told how many, and goes on after them."""
    reader = Reader("drop_oldest", 3)
    await nursery.start(reader.run)
    reader.take(2)
    await put(reader.streams, "1")
    await trio.sleep(1)
    for i in range(2, 12):  # the second is taken and waits to be said; of the rest three are kept
        await put(reader.streams, str(i))
        await trio.sleep(1)
    reader.take(5)
    await trio.sleep(1)
    assert reader.names() == [
        ("bookmark", 0), ("record", 1), ("record", 2), ("dropped", 8), ("record", 9), ("record", 10), ("record", 11),
    ]  # fmt: skip
    assert reader.dropped == [("slow", 6)]


async def test_disconnect_ends_the_tail_of_a_slow_reader(clock: MockClock) -> None:
    """The error names the limit; the id of the last event is where to go on."""
    reader = Reader("disconnect", 3)

    async def let_wait() -> None:
        async with trio.open_nursery() as nursery:
            await nursery.start(reader.run)
            reader.take()
            await trio.sleep(1)
            for i in range(5):
                await put(reader.streams, str(i))
                await trio.sleep(1)

    with pytest.raises(ExceptionGroup) as caught:
        await let_wait()
    found: BaseException = caught.value
    while isinstance(found, BaseExceptionGroup):
        (found,) = found.exceptions
    assert isinstance(found, LimitReached)
    assert "3 records wait" in found.message


async def test_block_holds_up_only_the_reader(nursery: trio.Nursery, clock: MockClock) -> None:
    """Nothing is dropped and no more than the limit is read ahead; a stream that removes what waits is told."""
    reader = Reader("block", 2)
    await nursery.start(reader.run)
    reader.take()
    await trio.sleep(1)
    for i in range(8):
        await put(reader.streams, str(i))
        await trio.sleep(1)
    await reader.streams.purge("s", before=8)
    reader.take(20)
    await trio.sleep(10)
    names = reader.names()
    assert names[-1] == ("record", 8)
    kept = [i for name, i in names if name == "record"]
    assert sum(records for _, records in reader.dropped) + len(kept) == 8
    assert len(kept) >= 3


async def test_what_waits_is_bounded_in_bytes(
    nursery: trio.Nursery, clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Few large records fill the room as many small ones do; one that is larger than the room passes."""
    monkeypatch.setattr(message_tail, "WAITING_BYTES", 100)
    reader = Reader("drop_oldest", 1000)
    await nursery.start(reader.run)
    reader.take()
    await trio.sleep(1)
    for size in (10, 60, 60, 60, 500):
        await put(reader.streams, "x" * size)
        await trio.sleep(1)
    reader.take(10)
    await trio.sleep(1)
    assert reader.names() == [("bookmark", 0), ("record", 1), ("dropped", 4), ("record", 5)]
