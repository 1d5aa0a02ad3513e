"""The push socket as a plain nng program sees it, and programs that behave badly there."""

from __future__ import annotations

import signal
import struct
import subprocess
import sys
from pathlib import Path

import pynng
import pytest

from platformd.queues.native._native import ffi, lib
from tests.native import rig as rigging
from tests.native import sp
from tests.native.rig import Rig, batch, deliveries, fetch, serving

FLOOD = """
import sys, pynng
with pynng.Push0(dial=sys.argv[1]) as push:
    number = 0
    while True:
        push.send(b"s.flood\\n%d" % number)
        number += 1
        if number == 100:
            print("flowing", flush=True)
"""


def pushing(rig: Rig) -> pynng.Push0:
    """A plain program's socket, connected."""
    return pynng.Push0(dial=rig.urls["push"], send_timeout=10_000)


def stored(rig: Rig, count: int) -> None:
    """Wait until so many records are in the log."""
    rig.wait_until(lambda: rig.sockets().push_records >= count)


def payloads(rig: Rig, stream: bytes = b"s") -> list[bytes]:
    """What the stream has, in its order."""
    found: list[bytes] = []
    after = 0
    while True:
        block, length, records = ffi.new("uint8_t **"), ffi.new("size_t *"), ffi.new("uint32_t *")
        rig.check(
            lib.pd_stream_read(rig.engine, stream, after, b">", 10_000, 1 << 24, block, length, records, rig.error)
        )
        if not records[0]:
            return found
        data = bytes(ffi.buffer(block[0], length[0]))
        lib.pd_block_free(block[0])
        _, at = struct.unpack_from("<II", data)
        for _ in range(records[0]):
            after, _, _, _, size = struct.unpack_from("<QQIII", data, at)
            _, _, id_length, headers, payload, _ = struct.unpack_from("<IHHIIQ", data, at + 24)
            begin = at + 48 + id_length + headers
            found.append(data[begin : begin + payload])
            at += 24 + size


def test_a_plain_program_publishes(directory: Path) -> None:
    """Subject, line feed, payload: that is a record, and a consumer gets it."""
    with serving(directory) as rig, pushing(rig) as push, rig.connect("fetch") as fetching:
        push.send(b"s.a\nhello\nworld")
        push.send(b"s.b\n")
        got = []
        while len(got) < 2:
            got += deliveries(rig.ask(fetching, fetch("s", "c", wait_ms=10_000)).body)
        assert got == [(1, 1), (2, 1)]
        assert payloads(rig) == [b"hello\nworld", b""]
        assert rigging.mode(directory / "push") == 0o660


def test_messages_of_one_program_keep_their_order(directory: Path) -> None:
    """Whatever the subjects, and batches among them: what was sent first is stored first, in each stream."""
    with serving(directory) as rig, pushing(rig) as push:
        rig.stream("t", "t.>")
        for number in range(3000):
            text = b"%d" % number
            if number % 50 == 7:
                push.send(batch([("s.batch", "", text)]))
            else:
                push.send(b"%s.%d\n%s" % (b"t" if number % 11 == 0 else b"s", number % 40, text))
        stored(rig, 3000)
        assert rig.sockets().push_messages == 3000
        for stream in (b"s", b"t"):
            numbers = [int(text) for text in payloads(rig, stream)]
            assert numbers == sorted(numbers)
        assert len(payloads(rig)) + len(payloads(rig, b"t")) == 3000


def test_a_batch_is_stored_as_on_the_ingest_socket(directory: Path) -> None:
    """Records with a msg_id are stored once, however often they are pushed."""
    with serving(directory) as rig, pushing(rig) as push:
        for _ in range(3):
            push.send(batch([("s.a", "one", b"1"), ("s.a", "two", b"2")]))
        push.send(b"s.a\nlast")
        stored(rig, 3)
        assert payloads(rig) == [b"1", b"2", b"last"]
        assert rig.sockets().push_invalid == 0


def test_what_cannot_be_stored_is_counted_by_its_reason(directory: Path) -> None:
    """Each message that is refused adds one to a counter, the last sentence is kept, and good ones go on."""
    damaged = bytearray(batch([("s.a", "", b"x")]))
    damaged[-1] ^= 1
    with serving(directory) as rig, pushing(rig) as push:
        rig.stream("t", "t")
        for message in (b"", b"no line feed", b"a..b\nx", b"\xff\xfe\n", bytes(300), bytes(damaged)):
            push.send(message)
        push.send(batch([("s.a", "", b"x"), ("t", "", b"x")]))
        push.send(b"elsewhere\nx")
        push.send(batch([("elsewhere", "", b"x")] * 3))
        push.send(b"s.a\n" + bytes((1 << 19) + 1))
        push.send(b"s.a\n" + bytes(1 << 19))
        stored(rig, 1)
        counts = rig.sockets()
        assert counts.push_invalid == 6 + 2
        assert counts.push_not_captured == 1 + 3
        assert counts.push_too_large == 1
        assert (counts.push_full, counts.push_failed, counts.push_messages) == (0, 0, 11)
        assert b"the limit is 524288" in ffi.string(counts.push_refusal)


def test_a_full_stream_is_counted(directory: Path) -> None:
    """A stream that discards what is new refuses records over its limit; the counter says so."""
    with serving(directory) as rig, pushing(rig) as push:
        subjects = ffi.new("char *[]", [subject := ffi.new("char[]", b"f")])
        config = ffi.new("pd_stream_config *", {"max_records": 2, "discard_new": 1})
        rig.check(lib.pd_stream_open(rig.engine, b"full", subjects, 1, config, rig.error))
        assert ffi.string(subject) == b"f"
        for number in range(2):
            push.send(b"f\n%d" % number)
            stored(rig, number + 1)
        push.send(b"f\nmore")
        rig.wait_until(lambda: rig.sockets().push_full == 1)
        assert payloads(rig, b"full") == [b"0", b"1"]


def test_senders_are_held_back_not_robbed(directory: Path) -> None:
    """With far more on its way than may wait for the disk or in the buffer, everything is stored, later."""
    with (
        serving(directory, max_pending_appends=20_000, push_buffer=5_000, push_durability=2) as rig,
        pushing(rig) as one,
        pushing(rig) as other,
    ):
        for number in range(200):
            one.send(b"s.one\n%05d" % number + bytes(3000))
            other.send(b"s.other\n%05d" % number + bytes(1000))
        stored(rig, 400)
        kept = payloads(rig)
        for size in (3005, 1005):
            assert [int(p[:5]) for p in kept if len(p) == size] == list(range(200))


def test_hostile_connections_harm_nobody(directory: Path) -> None:
    """Wrong handshakes, half frames and impossible lengths cost their connection; a good program notices nothing."""
    huge = b"\1" + struct.pack(">Q", 1 << 60)
    with serving(directory) as rig, pushing(rig) as push:
        for greeting in (b"GET / HTTP/1.1\r\n\r\n", b"\xff" * 64, sp.hello(sp.SUB)):
            with sp.Raw(rig.urls["push"], greeting) as raw:
                assert raw.ended()
        with sp.Raw(rig.urls["push"], sp.hello(sp.PUSH)) as raw:
            raw.socket.sendall(huge)
            assert raw.ended()
        with sp.Raw(rig.urls["push"], sp.hello(sp.PUSH)) as half:
            half.socket.sendall(sp.frame(b"s.half\n" + bytes(100))[:50])
            push.send(b"s.a\ngood")
            stored(rig, 1)
        push.send(b"s.a\nbetter")
        stored(rig, 2)
        assert payloads(rig) == [b"good", b"better"]


def test_a_killed_program_leaves_what_it_sent(directory: Path) -> None:
    """kill -9 in the middle of a flood: whole records without a gap from the first on, and others go on."""
    with serving(directory) as rig, pushing(rig) as push:
        with subprocess.Popen([sys.executable, "-c", FLOOD, rig.urls["push"]], stdout=subprocess.PIPE) as flood:
            assert flood.stdout is not None
            assert flood.stdout.readline() == b"flowing\n"
            stored(rig, 1000)
            flood.send_signal(signal.SIGKILL)
        push.send(b"s.a\nlast")
        rig.wait_until(lambda: rig.sockets().push_messages == rig.sockets().push_records)
        rig.wait_until(lambda: b"last" in payloads(rig))
        numbers = [int(text) for text in payloads(rig) if text != b"last"]
        assert numbers == list(range(len(numbers)))
        assert rig.sockets().push_invalid == 0


@pytest.mark.parametrize("durability", [0, 2])
def test_what_was_received_survives_the_stop(directory: Path, durability: int) -> None:
    """Stopping in a flood: each message that the engine took from its connection is in the log."""
    with serving(directory, push_durability=durability) as rig, pushing(rig) as push:
        for number in range(2000):
            push.send(b"s.a\n%d" % number)
        lib.pd_engine_stop(rig.engine)
        counts = rig.sockets()
        assert counts.push_records == counts.push_messages > 0
        received = counts.push_records
    with serving(directory) as rig:
        assert [int(text) for text in payloads(rig)] == list(range(received))


def test_a_program_outlives_the_daemon(directory: Path) -> None:
    """A PUSH socket that dialled before there was a daemon, and saw one go, reaches the next by itself."""
    url = f"ipc://{directory}/push"
    with pynng.Push0(send_timeout=10_000, reconnect_time_min=1, reconnect_time_max=20) as push:
        push.dial(url, block=False)
        for number in (b"1", b"2"):
            with serving(directory) as rig:
                push.send(b"s.a\n" + number)
                stored(rig, 1)
                assert payloads(rig)[-1] == number
