"""The native broker as a program sees it: nng sockets and frames, hostile ones too."""

from __future__ import annotations

import random
import select
from pathlib import Path

import pynng
import pytest

from platformd.queues.native._native import lib
from tests.native import rig as rigging
from tests.native.rig import ack, deliveries, fetch, publish, reply, request, serving

INVALID, NO_STREAM, NO_CONSUMER, STOPPING, LIMIT_REACHED, BAD_CHECKSUM, BAD_VERSION = 1, 2, 3, 10, 11, 12, 13


def items(count: int, prefix: str = "", size: int = 10) -> list[rigging.Item]:
    """Records on ``s.a``; with a prefix they have ids."""
    return [("s.a", f"{prefix}{number}" if prefix else "", bytes(size)) for number in range(count)]


def test_publish_fetch_ack(directory: Path) -> None:
    """A record goes in, comes out, is acknowledged, and the numbers in the replies are right."""
    with serving(directory) as rig, rig.connect("ingest") as ingest, rig.connect("fetch") as fetching:
        stored = rig.ask(ingest, publish("", items(3, "x")))
        assert (stored.status, stored.r1, stored.r2, stored.r3, stored.detail) == (0, 1, 3, 0, "s")
        again = rig.ask(ingest, publish("s", items(4, "x")))
        assert (again.r1, again.r2, again.r3, again.body) == (4, 1, 3, b"\x07")
        got = rig.ask(fetching, fetch("s", "c", records=3))
        assert (got.r1, got.r2, got.r3) == (1, 3, 3)
        assert deliveries(got.body) == [(1, 1), (2, 1), (3, 1)]
        assert rig.ask(fetching, ack("s", "c", [1, 2, 9])).r2 == 2
        assert rig.info("s", "c").ack_floor == 2
        assert rig.ask(fetching, fetch("s", "nobody")).status == NO_CONSUMER
        assert rig.ask(fetching, fetch("nothing", "c")).status == NO_STREAM
        assert rigging.mode(directory / "ingest") == 0o660


def test_garbage_is_answered_and_harms_nobody(directory: Path) -> None:
    """Frames of random bytes, cut and damaged ones get an error status on both sockets, and work goes on."""
    rng = random.Random(1)
    with serving(directory) as rig, rig.connect("ingest") as ingest, rig.connect("fetch") as fetching:
        valid = [publish("s", items(2)), fetch("s", "c"), ack("s", "c", [1])]
        for door in (ingest, fetching):
            assert rig.ask(door, b"").status == INVALID
            for _ in range(100):
                frame = bytearray(rng.choice(valid))
                if rng.random() < 0.3:
                    frame = bytearray(rng.randbytes(rng.randrange(200)))
                elif rng.random() < 0.5:
                    del frame[rng.randrange(len(frame)) :]
                for _ in range(3):
                    if frame:
                        frame[rng.randrange(len(frame))] = rng.randrange(256)
                rig.ask(door, bytes(frame))
        assert rig.ask(ingest, fetch("s", "c")).status == INVALID
        assert rig.ask(fetching, publish("s", items(1))).status == INVALID
        assert rig.ask(fetching, request(3, "s", "c", args=(0, 5, 0), body=bytes(16))).status == INVALID
        damaged = bytearray(publish("s", items(1)))
        damaged[-1] ^= 1
        assert rig.ask(ingest, bytes(damaged)).status == BAD_CHECKSUM
        assert rig.ask(ingest, b"\x07" + publish("s", items(1))[1:]).status == BAD_VERSION
        assert rig.ask(ingest, publish("s", items(1))).status == 0


def test_a_message_over_the_limit_costs_only_its_connection(directory: Path) -> None:
    """More bytes than a batch may have are not even received; other clients notice nothing."""
    with serving(directory) as rig, rig.connect("ingest") as ingest, rig.connect("ingest") as greedy:
        greedy.send(bytes(3 << 20))
        assert rig.ask(ingest, publish("s", items(1))).status == 0
        greedy.recv_timeout = 200
        with pytest.raises((pynng.Timeout, pynng.ConnectionReset)):
            greedy.recv()


def test_requests_of_one_client_keep_their_order(directory: Path) -> None:
    """Pipelined batches of one connection are stored in the order in which they were sent."""
    with serving(directory) as rig, rig.connect("ingest") as ingest:
        contexts = [ingest.new_context() for _ in range(100)]
        for number, context in enumerate(contexts):
            context.send(publish("s", items(1, f"n{number}-"), durability=number % 3))
        first = [reply(context.recv()).r1 for context in contexts]
        assert first == list(range(1, 101))
        for context in contexts:
            context.close()


def test_producers_are_held_back_not_refused(directory: Path) -> None:
    """With more bytes on their way than may wait for the disk, every publish succeeds, later."""
    with serving(directory, max_pending_appends=50_000) as rig, rig.connect("ingest") as ingest:
        contexts = [ingest.new_context() for _ in range(60)]
        for context in contexts:
            context.send(publish("s", items(1, size=10_000)))
        assert [reply(context.recv()).status for context in contexts] == [0] * 60
        for context in contexts:
            context.close()


def test_long_polls(directory: Path) -> None:
    """A fetch waits for records or for its time, and too many that wait are refused."""
    with serving(directory) as rig, rig.connect("ingest") as ingest, rig.connect("fetch") as fetching:
        assert rig.ask(fetching, fetch("s", "c", wait_ms=30)).r2 == 0
        first, second = fetching.new_context(), fetching.new_context()
        for number, context in enumerate((first, second), 1):
            context.send(fetch("s", "c", wait_ms=60_000, records=2))
            rig.wait_until_parked("s", "c", number)
        refused = rig.ask(fetching, fetch("s", "c", wait_ms=60_000))
        assert refused.status == LIMIT_REACHED
        assert "2" in refused.detail
        rig.ask(ingest, publish("s", items(3)))
        assert deliveries(reply(first.recv()).body) == [(1, 1), (2, 1)]
        assert deliveries(reply(second.recv()).body) == [(3, 1)]
        first.send(fetch("s", "c", wait_ms=60_000))
        rig.wait_until_parked("s", "c", 1)
        assert lib.pd_consumer_delete(rig.engine, b"s", b"c", rig.error) == 0
        assert reply(first.recv()).status == NO_CONSUMER
        first.close()
        second.close()


def test_what_a_client_held_is_free_when_it_is_gone(directory: Path) -> None:
    """Deliveries of a closed connection go to the next client at once, though ack_wait is an hour."""
    with serving(directory) as rig, rig.connect("ingest") as ingest, rig.connect("fetch") as other:
        rig.ask(ingest, publish("s", items(3)))
        with rig.connect("fetch") as gone:
            assert rig.ask(gone, fetch("s", "c")).r2 == 3
            assert rig.ask(other, fetch("s", "c")).r2 == 0
        got = rig.ask(other, fetch("s", "c", wait_ms=10_000))
        assert deliveries(got.body) == [(1, 2), (2, 2), (3, 2)]


def test_a_poll_of_a_client_that_is_gone_takes_nothing(directory: Path) -> None:
    """Records that come after a waiting client went away go to another, for the first time."""
    with serving(directory) as rig, rig.connect("ingest") as ingest, rig.connect("fetch") as other:
        with rig.connect("fetch") as gone:
            gone.send(fetch("s", "c", wait_ms=60_000))
            rig.wait_until_parked("s", "c", 1)
        rig.wait_until_parked("s", "c", 0)
        rig.ask(ingest, publish("s", items(1)))
        assert deliveries(rig.ask(other, fetch("s", "c", wait_ms=10_000)).body) == [(1, 1)]


def test_stopping_answers_everybody(directory: Path) -> None:
    """Who waits when the engine stops is told so, and what was accepted is there when it opens again."""
    with serving(directory) as rig, rig.connect("ingest") as ingest, rig.connect("fetch") as fetching:
        waiting = fetching.new_context()
        waiting.send(fetch("s", "c", wait_ms=600_000))
        rig.wait_until_parked("s", "c", 1)
        contexts = [ingest.new_context() for _ in range(50)]
        for context in contexts:
            context.send(publish("s", items(10)))
        stored = [reply(contexts[0].recv())]
        lib.pd_engine_stop(rig.engine)
        for context in contexts[1:]:
            try:
                stored.append(reply(context.recv()))
            except pynng.NNGException:
                break
        told = reply(waiting.recv())
        assert told.status == STOPPING or deliveries(told.body)
        for context in [*contexts, waiting]:
            context.close()
    last = max(answer.r1 + answer.r2 - 1 for answer in stored if answer.status == 0)
    assert all(answer.status in (0, STOPPING) for answer in stored)
    with serving(directory) as rig, rig.connect("ingest") as ingest:
        assert rig.ask(ingest, publish("s", items(1))).r1 > last


def test_an_idle_engine_sleeps(directory: Path) -> None:
    """With clients connected and a long poll waiting, none of the engine's threads wakes up for nothing."""
    with serving(directory) as rig, rig.connect("ingest") as ingest, rig.connect("fetch") as fetching:
        rig.ask(ingest, publish("s", items(1)))
        rig.ask(fetching, fetch("s", "c"))
        fetching.send(fetch("s", "c", wait_ms=600_000))
        rig.wait_until_parked("s", "c", 1)
        select.select([], [], [], 0.05)
        before = rigging.switches("pd-")
        select.select([], [], [], 0.2)
        assert len(before) == 7
        assert rigging.switches("pd-") == before
