"""The live socket as plain nng programs see it: those who keep up, those who do not, and those who mean harm."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pynng
import pytest

from platformd.queues.native._native import ffi, lib
from tests.native import rig as rigging
from tests.native import sp
from tests.native.rig import Rig, publish, request, serving


def following(rig: Rig, *prefixes: bytes) -> pynng.Sub0:
    """A plain program's socket, connected and heard of."""
    before = rig.sockets().live_subscribers
    subscriber = pynng.Sub0(dial=rig.urls["live"], recv_timeout=10_000, recv_buffer_size=8192)
    for prefix in prefixes:
        subscriber.subscribe(prefix)
    rig.wait_until(lambda: rig.sockets().live_subscribers == before + 1)
    return subscriber


def numbered(first: int, count: int, size: int = 0) -> list[rigging.Item]:
    """Records on ``s.a`` that begin with their number."""
    return [("s.a", "", b"%08d" % number + bytes(size)) for number in range(first, first + count)]


def numbers(raw: sp.Raw, last: int) -> Iterator[int]:
    """The numbers of the records that a subscriber gets, until the last one."""
    while (message := raw.message()) is not None:
        assert message[:4] == b"s.a\n"
        yield int(message[4:12])
        if int(message[4:12]) == last:
            return


def test_a_plain_program_follows_a_prefix(directory: Path) -> None:
    """SUB gets the records of its prefix in order, as subject, line feed and payload, whoever published them."""
    with (
        serving(directory) as rig,
        following(rig, b"s.a") as some,
        following(rig, b"") as everything,
        rig.connect("ingest") as ingest,
        pynng.Push0(dial=rig.urls["push"], send_timeout=10_000) as push,
    ):
        rig.ask(ingest, publish("s", [("s.a", "id", b"1"), ("s.b", "", b"2"), ("s.a.c", "", b"")]))
        push.send(b"s.a\n4\n4")
        assert [some.recv() for _ in range(3)] == [b"s.a\n1", b"s.a.c\n", b"s.a\n4\n4"]
        assert [everything.recv() for _ in range(4)] == [b"s.a\n1", b"s.b\n2", b"s.a.c\n", b"s.a\n4\n4"]
        rig.wait_until(lambda: rig.sockets().live_sent == 8)
        assert (rig.sockets().live_records, rig.sockets().live_dropped) == (4, 0)
        assert rigging.mode(directory / "live") == 0o660


def test_live_feeds_push(directory: Path) -> None:
    """What one daemon says live can be pushed to another as it is."""
    with serving(directory) as rig, following(rig, b"s.") as subscriber, rig.connect("ingest") as ingest:
        rig.stream("copy", "copy.>")
        rig.ask(ingest, publish("s", [("s.a", "", b"payload")]))
        with pynng.Push0(dial=rig.urls["push"], send_timeout=10_000) as push:
            subscriber.subscribe(b"copy.")
            push.send(b"copy." + subscriber.recv())
            assert subscriber.recv() == b"copy.s.a\npayload"


@pytest.mark.parametrize("durability", [0, 1, 2])
def test_nothing_is_missing_for_who_keeps_up(directory: Path, durability: int) -> None:
    """Every record from the connection on, once and in order, for each durability, large and small ones."""
    with (
        serving(directory) as rig,
        sp.Raw(rig.urls["live"], sp.hello(sp.SUB)) as raw,
        rig.connect("ingest") as ingest,
    ):
        assert raw.heard == b"\0SP\0\0\x20\0\0"
        heard = 0
        for count, size in ((1, 0), (500, 0), (3, 200_000), (100, 5_000), (1, 0)):
            rig.ask(ingest, publish("s", numbered(heard, count, size), durability))
            assert list(numbers(raw, heard + count - 1)) == list(range(heard, heard + count))
            heard += count
        assert rig.sockets().live_dropped == 0


def test_nobody_listening_costs_nothing(directory: Path) -> None:
    """Without a subscriber nothing is read or published; who comes later hears what is new."""
    with serving(directory) as rig, rig.connect("ingest") as ingest:
        rig.wait_until(lambda: 1 in rigging.switches("pd-live").values())
        before = rigging.switches("pd-live")
        rig.ask(ingest, publish("s", numbered(0, 1000)))
        assert rigging.switches("pd-live") == before
        assert rig.sockets().live_records == 0
        for turn in (1, 2):
            with sp.Raw(rig.urls["live"], sp.hello(sp.SUB)) as raw:
                rig.ask(ingest, publish("s", numbered(turn * 1000, 10)))
                assert list(numbers(raw, turn * 1000 + 9)) == list(range(turn * 1000, turn * 1000 + 10))
            rig.wait_until(lambda: rig.sockets().live_subscribers == 0)
            rig.ask(ingest, publish("s", numbered(0, 100)))
        rig.wait_until(lambda: rig.sockets().live_records == 20)


def test_who_is_slow_loses_the_oldest_and_nobody_else_does(directory: Path) -> None:
    """A subscriber that sleeps misses what does not fit into the ring, each is counted, and it gets the newest."""
    total = 40 * 50
    with (
        serving(directory, live_buffer=1 << 18) as rig,
        sp.Raw(rig.urls["live"], sp.hello(sp.SUB)) as slow,
        sp.Raw(rig.urls["live"], sp.hello(sp.SUB)) as quick,
        rig.connect("ingest") as ingest,
    ):
        for first in range(0, total, 50):
            rig.ask(ingest, publish("s", numbered(first, 50, 2000), durability=1))
            assert list(numbers(quick, first + 49)) == list(range(first, first + 50))
        got = list(numbers(slow, total - 1))
        assert got == sorted(got)
        assert len(got) < total
        rig.wait_until(lambda: rig.sockets().live_sent == total + len(got))
        assert rig.sockets().live_dropped == total - len(got)


def test_who_takes_nothing_is_sent_away(directory: Path) -> None:
    """A subscriber that does not read for live_timeout loses its place; one that reads keeps it."""
    with (
        serving(directory, live_timeout_ms=100) as rig,
        sp.Raw(rig.urls["live"], sp.hello(sp.SUB)) as stuck,
        sp.Raw(rig.urls["live"], sp.hello(sp.SUB)) as quick,
        rig.connect("ingest") as ingest,
    ):
        first = 0
        while rig.sockets().live_timeouts == 0:
            rig.ask(ingest, publish("s", numbered(first, 100, 1000), durability=1))
            assert list(numbers(quick, first + 99)) == list(range(first, first + 100))
            first += 100
        rig.wait_until(lambda: rig.sockets().live_subscribers == 1)
        assert stuck.ended()


def test_who_blocks_misses_nothing_and_holds_nobody_up(directory: Path) -> None:
    """One that waits gets every record of several streams late, in order, large ones too; the quick one all at once."""
    total = 40 * 50
    with (
        serving(directory, live_buffer=1 << 16) as rig,
        sp.Raw(rig.urls["live"], sp.hello(sp.SUB, sp.BLOCK)) as waiting,
        sp.Raw(rig.urls["live"], sp.hello(sp.SUB)) as quick,
        rig.connect("ingest") as ingest,
    ):
        rig.stream("t", "t.>")
        for first in range(0, total, 50):
            rig.ask(ingest, publish("s", numbered(first, 50, 1000), durability=1))
            rig.ask(ingest, publish("t", [("t.a", "", b"%08d" % first + bytes(150_000 if first == 500 else 10))]))
            for _ in range(50 if first == 500 else 51):  # the large one does not fit into the ring
                assert quick.message() is not None
        assert rig.sockets().live_waiting == 1
        heard: dict[bytes, list[int]] = {b"s.a": [], b"t.a": []}
        while len(heard[b"s.a"]) < total or len(heard[b"t.a"]) < total // 50:
            message = waiting.message()
            assert message is not None
            subject, _, payload = message.partition(b"\n")
            heard[subject].append(int(payload[:8]))
        assert heard == {b"s.a": list(range(total)), b"t.a": list(range(0, total, 50))}
        rig.ask(ingest, publish("s", numbered(total, 1)))
        assert list(numbers(waiting, total)) == [total]
        waiting.socket.close()
        rig.wait_until(lambda: rig.sockets().live_waiting == 0)


def test_who_blocks_too_long_for_retention_misses_what_is_gone(directory: Path) -> None:
    """Records that were removed before a waiting subscriber got them are counted as dropped; it goes on behind them."""
    total = 60 * 50
    with (
        serving(directory) as rig,
        sp.Raw(rig.urls["live"], sp.hello(sp.SUB, sp.BLOCK)) as waiting,
        rig.connect("ingest") as ingest,
    ):
        for first in range(0, total, 50):
            rig.ask(ingest, publish("s", numbered(first, 50, 2000), durability=1))
        removed = ffi.new("uint64_t *")
        rig.check(lib.pd_stream_purge(rig.engine, b"s", b">", total - 99, 0, removed, rig.error))
        got = list(numbers(waiting, total - 1))
        assert got == sorted(got)
        assert got[-100:] == list(range(total - 100, total))
        assert len(got) < total
        rig.wait_until(lambda: rig.sockets().live_dropped == total - len(got))


def test_who_asks_for_it_is_disconnected_rather_than_miss_a_record(directory: Path) -> None:
    """With the policy disconnect what came is without a gap, then the connection ends; it is counted."""
    with (
        serving(directory, live_buffer=1 << 16) as rig,
        sp.Raw(rig.urls["live"], sp.hello(sp.SUB, sp.DISCONNECT)) as strict,
        sp.Raw(rig.urls["live"], sp.hello(sp.SUB, sp.DROP_OLDEST)) as quick,
        rig.connect("ingest") as ingest,
    ):
        first = 0
        while rig.sockets().live_disconnected == 0:
            rig.ask(ingest, publish("s", numbered(first, 10, 2000), durability=1))
            assert list(numbers(quick, first + 9)) == list(range(first, first + 10))
            first += 10
        got = list(numbers(strict, -1))
        assert got == list(range(len(got)))
        assert rig.sockets().live_disconnected == 1
        assert rig.sockets().live_dropped > 0
        rig.wait_until(lambda: rig.sockets().live_subscribers == 1)


def test_a_policy_that_there_is_not_is_refused(directory: Path) -> None:
    """A handshake with a policy that nobody knows ends, and counts as refused; the options' policy is checked, too."""
    with serving(directory) as rig:
        with sp.Raw(rig.urls["live"], sp.hello(sp.SUB, 4)) as unknown:
            assert unknown.ended()
        rig.wait_until(lambda: rig.sockets().live_refused == 1)
    with pytest.raises(AssertionError, match="live_policy"), serving(directory, live_policy=4):
        pass


def test_what_the_options_say_is_for_who_says_nothing(directory: Path) -> None:
    """A plain nng program gets the policy of the options, here block."""
    with (
        serving(directory, live_policy=2) as rig,
        following(rig, b"s."),
        sp.Raw(rig.urls["live"], sp.hello(sp.SUB, sp.DROP_OLDEST)),
    ):
        rig.wait_until(lambda: rig.sockets().live_waiting == 1)
        rig.wait_until(lambda: rig.sockets().live_subscribers == 2)


def test_a_record_larger_than_the_ring_is_counted(directory: Path) -> None:
    """It is in the log, but live leaves it out."""
    with (
        serving(directory, live_buffer=8192) as rig,
        sp.Raw(rig.urls["live"], sp.hello(sp.SUB)) as raw,
        rig.connect("ingest") as ingest,
    ):
        rig.ask(ingest, publish("s", [*numbered(0, 1), *numbered(1, 1, 9000), *numbered(2, 1, 8000)]))
        assert list(numbers(raw, 2))[-1] == 2
        assert rig.sockets().live_dropped >= 1


def test_hostile_subscribers_harm_nobody(directory: Path) -> None:
    """Wrong handshakes and words out of turn end their connection, dead ones are forgotten, and the rest follows."""
    with (
        serving(directory) as rig,
        sp.Raw(rig.urls["live"], sp.hello(sp.SUB)) as good,
        rig.connect("ingest") as ingest,
    ):
        for greeting in (b"GET / HTTP/1.1\r\n\r\n", b"\xff" * 64, sp.hello(sp.PUSH), b"\0SP\0\0"):
            with sp.Raw(rig.urls["live"], greeting) as raw:
                assert greeting == b"\0SP\0\0" or raw.ended()
        with sp.Raw(rig.urls["live"], sp.hello(sp.SUB)) as raw:
            raw.socket.sendall(sp.frame(b"s.a\nI talk, too"))
            assert raw.ended()
        for _ in range(100):
            with suppress(ConnectionError), sp.Raw(rig.urls["live"], sp.hello(sp.SUB)):
                pass
        rig.wait_until(lambda: rig.sockets().live_subscribers == 1)
        rig.ask(ingest, publish("s", numbered(0, 5)))
        assert list(numbers(good, 4)) == [0, 1, 2, 3, 4]
        assert rig.sockets().live_refused >= 4


def test_too_many_subscribers_are_refused(directory: Path) -> None:
    """Over the limit a connection is closed at once and counted; when one goes, there is a place again."""
    with serving(directory, live_subscribers=2) as rig:
        with sp.Raw(rig.urls["live"], sp.hello(sp.SUB)), sp.Raw(rig.urls["live"], sp.hello(sp.SUB)):
            with sp.Raw(rig.urls["live"], b"") as third:
                assert third.ended()
            assert rig.sockets().live_refused == 1
        rig.wait_until(lambda: rig.sockets().live_subscribers == 0)
        with sp.Raw(rig.urls["live"], sp.hello(sp.SUB)) as again:
            assert again.heard


def test_the_last_records_leave_before_the_end(directory: Path) -> None:
    """What was acknowledged right before the stop still reaches who listens; one that is stuck does not hold it up."""
    with (
        serving(directory) as rig,
        sp.Raw(rig.urls["live"], sp.hello(sp.SUB)) as raw,
        sp.Raw(rig.urls["live"], sp.hello(sp.SUB)),
        rig.connect("ingest") as ingest,
        ThreadPoolExecutor(1) as pool,
    ):
        heard = pool.submit(lambda: list(numbers(raw, -1)))
        for first in range(0, 500, 50):
            rig.ask(ingest, publish("s", numbered(first, 50, 1000)))
        begin = time.monotonic()
        lib.pd_engine_stop(rig.engine)
        assert time.monotonic() - begin < 5
        assert heard.result() == list(range(500))


def test_streams_that_go_are_left_out(directory: Path) -> None:
    """A stream is deleted while it is followed: others are still heard, and a new one of its name, too."""
    with serving(directory) as rig, rig.connect("ingest") as ingest:
        with sp.Raw(rig.urls["live"], sp.hello(sp.SUB)) as raw:
            rig.ask(ingest, publish("s", numbered(0, 3)))
            rig.check(lib.pd_stream_delete(rig.engine, b"s", rig.error))
            rig.stream("s", "s.>")
            rig.ask(ingest, publish("s", numbered(3, 3)))
            assert list(numbers(raw, 5))[-3:] == [3, 4, 5]
        assert rig.ask(ingest, request(1, "s", args=(0, 0, 0))).status != 0


def test_a_follower_outlives_the_daemon(directory: Path) -> None:
    """A SUB socket that dialled before there was a daemon, and saw one go, hears the next by itself."""
    url = f"ipc://{directory}/live"
    with pynng.Sub0(topics=b"s.", recv_timeout=10_000, reconnect_time_min=1, reconnect_time_max=20) as subscriber:
        subscriber.dial(url, block=False)
        for number in (1, 2):
            with serving(directory) as rig, rig.connect("ingest") as ingest:
                rig.wait_until(lambda rig=rig: rig.sockets().live_subscribers == 1)
                rig.ask(ingest, publish("s", numbered(number, 1)))
                assert subscriber.recv() == b"s.a\n%08d" % number
