"""Watches that many share: the trunk's rules against a member that does what a test says."""

from __future__ import annotations

import collections
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from platformd.coordination.contract import Compacted, Event, KeyValue, WatchBatch
from platformd.coordination.etcd import messages, wire
from platformd.coordination.etcd.feeds import Feed, Feeds, Wanted
from platformd.coordination.etcd.keyspace import Bounds
from platformd.coordination.etcd.messages import WatchAnswer
from platformd.coordination.etcd.stream import Lost, Oversize
from platformd.core.errors import Forbidden, PlatformError, TooLarge, Unauthorized

LOGIN = "etcdserver: invalid auth token"
PROGRESS = messages.watch_progress()


def wanted(name: str) -> Wanted:
    return Wanted(Bounds(name.encode(), b""), previous=False, only=None)


def event(revision: int, key: bytes = b"k") -> Event:
    kv = KeyValue(key=key, value=b"v", create_revision=revision, mod_revision=revision, version=1)
    return Event(type="put", kv=kv)


def answer(watch_id: int = 0, revision: int = 0, *events: Event, **more: Any) -> WatchAnswer:
    facts = {"created": False, "canceled": False, "compact_revision": 0, "reason": "", "fragment": False} | more
    return WatchAnswer(watch_id=watch_id, revision=revision, events=list(events), **facts)


class FakeStream:
    """The member's side of one trunk: what was asked, and what it says."""

    def __init__(self, request: bytes) -> None:
        self.sent = [request]
        self.end: Any = None
        self.inbox: collections.deque[WatchAnswer] = collections.deque()
        self.failure: Exception | None = None
        self.more = trio.Event()
        self.closed = False

    def send(self, *requests: bytes) -> None:
        self.sent += requests

    def take(self) -> WatchAnswer | None:
        return self.inbox.popleft() if self.inbox else None

    async def receive(self) -> WatchAnswer | None:
        while not self.inbox:
            if self.failure is not None:
                raise self.failure
            if self.end is not None:
                return None
            self.more = trio.Event()
            await self.more.wait()
        return self.inbox.popleft()

    # --- the test's side ---

    async def says(self, *answers: WatchAnswer) -> None:
        self.inbox += answers
        self.more.set()
        await wait_all_tasks_blocked()

    async def breaks(self, failure: Exception) -> None:
        self.failure = failure
        self.more.set()
        await wait_all_tasks_blocked()

    def creates(self) -> list[tuple[str, int, int]]:
        """Key, start revision and number of each watch that was asked for."""
        found = []
        for request in self.sent:
            ((kind, content),) = wire.fields(request)
            if kind == 1:
                asked = dict(wire.fields(wire.content(content)))
                found.append((wire.content(asked[1]).decode(), asked[3], asked[7]))
        return found  # type: ignore[return-value]

    def cancels(self) -> list[int]:
        """The numbers of the watches that were given up."""
        contents = [content for request in self.sent for kind, content in wire.fields(request) if kind == 2]
        return [number for content in contents for _, number in wire.fields(wire.content(content))]  # type: ignore[misc]


class Fake:
    """The cluster: trunks one after the other, and what its reads say."""

    def __init__(self) -> None:
        self.trunks: list[FakeStream] = []
        self.version = "3.6.0"
        self.newest_revision = 10
        self.oldest = 1
        self.refusals: list[str] = []
        self.connection = SimpleNamespace(usable=True, version=self.version)

    @property
    def trunk(self) -> FakeStream:
        return self.trunks[-1]

    async def open(self, path: str, request: bytes) -> Any:
        assert path == messages.WATCH
        await trio.lowlevel.checkpoint()
        stream = FakeStream(request)
        self.trunks.append(stream)

        def close() -> None:
            stream.closed = True

        self.connection = SimpleNamespace(usable=True, version=self.version)
        return SimpleNamespace(connection=self.connection, stream=stream, token="", close=close)

    def after_refusal(self, refused: Any, _connection: object, _token: str) -> None:
        self.refusals.append(refused.error.message)

    def delay(self, failures: int) -> float:
        return float(failures)

    async def newest(self) -> int:
        await trio.lowlevel.checkpoint()
        return self.newest_revision

    async def watchable(self, revision: int) -> None:
        await trio.lowlevel.checkpoint()
        if revision < self.oldest:
            raise Compacted(revision, self.oldest)

    def was_compacted(self, revision: int) -> int:
        self.oldest = max(self.oldest, revision)
        return self.oldest


class Listener:
    """A watcher."""

    def __init__(self, seen: int = 10) -> None:
        self.seen = seen
        self.got: list[int] = []
        self.bookmarks: list[int] = []
        self.room = True
        self.off = False

    def take(self, batch: WatchBatch, size: int) -> bool:
        assert size > 0
        if self.room:
            self.got += [one.kv.mod_revision for one in batch.events]
            self.seen = batch.revision
        return self.room

    def advance(self, revision: int) -> None:
        self.bookmarks.append(revision)

    def put_off(self) -> None:
        self.off = True


class Scene:
    """Feeds at a fake cluster."""

    def __init__(self) -> None:
        self.cluster = Fake()
        self.feeds = Feeds(self.cluster, self.cluster, lambda message: message, 5.0)  # type: ignore[arg-type,return-value]

    async def join(self, name: str = "a", seen: int = 10) -> tuple[Listener, Feed]:
        """A listener on a feed, which is asked for."""
        listener = Listener(seen)
        feed = self.feeds.join(listener, wanted(name), begin=True)
        assert feed is not None
        await wait_all_tasks_blocked()
        return listener, feed

    async def joined(self, name: str = "a", seen: int = 10) -> tuple[Listener, Feed]:
        """The same, and it is there."""
        listener, feed = await self.join(name, seen)
        await self.cluster.trunk.says(answer(feed.id, created=True))
        return listener, feed


@pytest.fixture
async def scene(nursery: trio.Nursery) -> AsyncIterator[Scene]:
    """Feeds that run."""
    found = Scene()
    nursery.start_soon(found.feeds.run)
    return found


async def test_one_watch_for_all_who_want_the_same(scene: Scene) -> None:
    """Two of three listeners share a watch, all share a stream; each event comes once and goes to whom it is for."""
    one, feed = await scene.joined()
    other, same = await scene.join()
    third, another = await scene.joined("b")
    assert same is feed is not another
    trunk = scene.cluster.trunk
    assert trunk.creates() == [("a", 11, feed.id), ("b", 11, another.id)]
    await trunk.says(answer(feed.id, 11, event(11)), answer(another.id, 12, event(12)), answer(feed.id, 13, event(13)))
    assert (one.got, other.got, third.got) == ([11, 13], [11, 13], [12])
    assert len(scene.cluster.trunks) == 1


async def test_joining_without_a_gap(scene: Scene) -> None:
    """Who has seen the last event may join, who has not may not; what one has seen already is not promised again."""
    _, feed = await scene.joined()
    await scene.cluster.trunk.says(answer(feed.id, 20, event(20)), answer(feed.id, 30))
    assert scene.feeds.settled(wanted("a")) == 20
    assert scene.feeds.join(Listener(19), wanted("a"), begin=True) is None
    late, ahead = Listener(20), Listener(40)
    assert scene.feeds.join(late, wanted("a"), begin=False) is feed
    assert scene.feeds.join(ahead, wanted("a"), begin=False) is feed
    assert (late.seen, ahead.seen) == (30, 40)
    assert scene.feeds.join(Listener(50), wanted("b"), begin=False) is None
    await scene.cluster.trunk.says(answer(feed.id, 50, event(20), event(30), event(50)))
    assert late.got == [50]


async def test_fragments_of_feeds_may_be_mixed(scene: Scene) -> None:
    """A revision that comes in parts is handed on whole, whatever comes for others in between."""
    one, first = await scene.joined()
    other, second = await scene.joined("b")
    trunk = scene.cluster.trunk
    await trunk.says(answer(first.id, 12, event(11), event(12, b"x"), fragment=True))
    assert one.got == [11]
    await trunk.says(answer(second.id, 12, event(12)), answer(second.id, 99), answer(first.id, 99))
    assert (one.got, one.bookmarks) == ([11], [])
    await trunk.says(answer(first.id, 12, event(12, b"y")))
    assert (one.got, other.got, other.bookmarks) == ([11, 12, 12], [12], [99])


async def test_a_refusal_without_a_number_is_told_whose_it_is(scene: Scene) -> None:
    """Requests are answered in their order, so an answer with the number -1 is for the first that has none."""
    one, _ = await scene.joined()
    scene.feeds.join(second := Listener(), wanted("b"), begin=True)
    scene.feeds.join(third := Listener(), wanted("c"), begin=True)
    refused, feed = (scene.feeds._feeds[wanted(name)] for name in "bc")
    denied = answer(-1, created=True, canceled=True, reason="etcdserver: permission denied")
    await scene.cluster.trunk.says(denied, answer(feed.id, created=True), answer(feed.id, 11, event(11)))
    assert isinstance(refused.error, Forbidden)
    assert refused.ready.is_set()
    assert (one.off, second.off, third.off, third.got) == (False, True, False, [11])


async def test_what_nobody_wants_any_more_is_given_up(scene: Scene) -> None:
    """A watch is given up with its last listener: at once, or if it was still on its way, as soon as it is there; what
    comes for it nevertheless is passed over, and the trunk is closed with its last feed."""
    one, first = await scene.joined()
    other, second = await scene.join("b")
    third, last = await scene.join("c")
    trunk = scene.cluster.trunk
    scene.feeds.leave(first, one)
    scene.feeds.leave(second, other)
    assert trunk.cancels() == [first.id]
    await trunk.says(answer(second.id, created=True), answer(last.id, created=True))
    assert trunk.cancels() == [first.id, second.id]
    await trunk.says(answer(second.id, 11, event(11)), answer(first.id, canceled=True), answer(last.id, 12, event(12)))
    assert (one.got, other.got, third.got) == ([], [], [12])
    scene.feeds.leave(last, third)
    await wait_all_tasks_blocked()
    assert trunk.closed
    again, feed = await scene.join()
    assert scene.cluster.trunk.creates() == [("a", 11, feed.id)]
    assert not again.off


async def test_progress_counts_for_those_who_were_there(scene: Scene, autojump_clock: MockClock) -> None:
    """An answer for the whole trunk moves the feeds that were there when it was asked, and no others."""
    old, _ = await scene.joined()
    trunk = scene.cluster.trunk
    await trio.sleep(5.5)
    assert trunk.sent.count(PROGRESS) == 1
    new, _ = await scene.joined("b")
    await trio.sleep(5)  # asked again, but the answer may be to the first time
    assert trunk.sent.count(PROGRESS) == 2
    await trunk.says(answer(-1, 40))
    assert (old.bookmarks, new.bookmarks) == ([40], [])
    await trunk.says(answer(-1, 50))  # which nobody asked for
    assert (old.bookmarks, new.bookmarks) == ([40], [])
    await trio.sleep(5)
    await trunk.says(answer(-1, 60))
    assert (old.bookmarks, new.bookmarks) == ([40, 60], [60])


async def test_progress_is_not_asked_of_old_versions(scene: Scene, autojump_clock: MockClock) -> None:
    """Where the answer may lie, nobody asks; what a member says of one watch by itself counts."""
    scene.cluster.version = "3.5.1"
    one, feed = await scene.joined()
    await trio.sleep(20)
    assert PROGRESS not in scene.cluster.trunk.sent
    await scene.cluster.trunk.says(answer(feed.id, 40))
    assert one.bookmarks == [40]


async def test_a_trunk_that_breaks_is_begun_again(scene: Scene) -> None:
    """Each feed goes on after what it handed on; what had come in part comes again, whole; nothing comes twice."""
    one, first = await scene.joined()
    other, second = await scene.joined("b")
    old = scene.cluster.trunk
    await old.says(answer(first.id, 12, event(11), event(12), fragment=True), answer(second.id, 13, event(13)))
    scene.cluster.newest_revision = 13
    await old.breaks(Lost("gone", sent=True))
    trunk = scene.cluster.trunk
    assert old.closed
    assert trunk is not old
    assert [(key, start) for key, start, _ in trunk.creates()] == [("a", 12), ("b", 14)]
    await trunk.says(answer(first.id, created=True), answer(second.id, created=True))
    await trunk.says(answer(first.id, 12, event(11), event(12, b"x"), event(12, b"y")))
    assert (one.got, other.got, one.off) == ([11, 12, 12], [13], False)


async def test_who_joins_while_the_member_goes_away_is_served_elsewhere(scene: Scene) -> None:
    """A connection that takes nothing new is left as soon as somebody wants something new of it."""
    one, _ = await scene.joined()
    scene.cluster.connection.usable = False
    await scene.join("b")
    assert len(scene.cluster.trunks) == 2
    assert {key for key, _, _ in scene.cluster.trunk.creates()} == {"a", "b"}
    assert not one.off


async def test_compaction_while_the_trunk_is_broken(scene: Scene) -> None:
    """Those whose next revision is gone are put off, to find out by themselves; the others go on."""
    old, first = await scene.joined()
    new, second = await scene.joined("b")
    trunk = scene.cluster.trunk
    await trunk.says(answer(second.id, 30, event(30)))
    scene.cluster.newest_revision, scene.cluster.oldest = 40, 25
    await trunk.breaks(Lost("gone", sent=True))
    assert (old.off, new.off) == (True, False)
    assert [(key, start) for key, start, _ in scene.cluster.trunk.creates()] == [("b", 31)]
    assert first.error is None


async def test_compaction_that_the_member_tells(scene: Scene) -> None:
    """A watch that is ended for a compaction puts its listeners off, with the revision remembered."""
    one, feed = await scene.joined()
    other, _ = await scene.joined("b")
    await scene.cluster.trunk.says(answer(feed.id, 11, event(11)), answer(feed.id, canceled=True, compact_revision=77))
    assert (one.got, one.off, other.off, scene.cluster.oldest) == ([11], True, False, 77)
    assert scene.cluster.trunk.cancels() == []


async def test_a_store_that_went_back(scene: Scene) -> None:
    """Feeds that have seen what is not there any more are over."""
    one, feed = await scene.joined()
    other, _ = await scene.joined("b")
    await scene.cluster.trunk.says(answer(feed.id, 30, event(30)))
    scene.cluster.newest_revision = 20
    await scene.cluster.trunk.breaks(Lost("gone", sent=True))
    assert (one.off, other.off) == (True, False)


async def test_a_refusal_for_a_while(scene: Scene, autojump_clock: MockClock) -> None:
    """A feed that needs a new login begins the trunk again, a few times; then it is put off and the others go on."""
    one, _ = await scene.joined()
    other, feed = await scene.join("b")
    for _ in range(4):
        trunk = scene.cluster.trunk
        assert not other.off
        for key, _, number in trunk.creates():
            if key == "a":
                await trunk.says(answer(number, created=True))
            else:
                await trunk.says(answer(number, created=True, canceled=True, reason=LOGIN))
        await trio.sleep(10)
    assert isinstance(feed.error, Unauthorized)
    assert (one.off, other.off, len(scene.cluster.refusals)) == (False, True, 4)
    assert [key for key, _, _ in scene.cluster.trunk.creates()] == ["a"]


@pytest.mark.parametrize(
    ("failure", "error"),
    [(Oversize(9, 8), TooLarge), (wire.Malformed("a joke"), wire.Malformed), (Forbidden("no"), Forbidden)],
)
async def test_what_is_nobodys_puts_all_off(scene: Scene, failure: Exception, error: type[PlatformError]) -> None:
    """A message that is too large or nonsense, or a refusal of the trunk, is for each to find out about by itself."""
    (one, first), (other, second) = await scene.joined(), await scene.join("b")
    await scene.cluster.trunk.breaks(failure)
    assert (one.off, other.off) == (True, True)
    assert isinstance(first.error, error)
    assert isinstance(second.error, error)


async def test_the_member_ends_the_trunk(scene: Scene, autojump_clock: MockClock) -> None:
    """An end that may be temporary begins it again, after a moment."""
    one, _ = await scene.joined()
    trunk = scene.cluster.trunk
    trunk.end = SimpleNamespace(status=14, message="etcdserver: no leader")
    trunk.more.set()
    await wait_all_tasks_blocked()
    await trio.sleep(2)
    assert scene.cluster.refusals == ["no leader"]
    assert len(scene.cluster.trunks) == 2
    assert not one.off


async def test_who_has_no_room_is_put_off(scene: Scene) -> None:
    """A listener that does not keep up goes by itself; the others are told; with the last one the feed goes."""
    slow, feed = await scene.joined()
    quick_one, _ = await scene.join()
    slow.room = False
    trunk = scene.cluster.trunk
    await trunk.says(answer(feed.id, 11, event(11)))
    assert (slow.off, slow.got, quick_one.got) == (True, [], [11])
    quick_one.room = False
    await trunk.says(answer(feed.id, 12, event(12)))
    assert quick_one.off
    assert trunk.cancels() == [feed.id]
    assert scene.feeds.settled(wanted("a")) == 0


async def test_the_end_of_the_store() -> None:
    """When they stop running all are put off, and nobody can join."""
    scene = Scene()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(scene.feeds.run)
        one, feed = await scene.join()
        nursery.cancel_scope.cancel()
    assert one.off
    assert feed.ready.is_set()
    assert scene.feeds.join(Listener(), wanted("a"), begin=True) is None
