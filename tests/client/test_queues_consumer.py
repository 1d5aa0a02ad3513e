"""The consumer against a broker that loses requests, replies and itself."""

from __future__ import annotations

import subprocess
import sys
import threading
import time

import pytest

from platformd.client.consumer import Consumer
from platformd.core.errors import NotFound, PlatformError, Unavailable
from platformd.queues.codec import Reply, Status, encode_reply
from platformd.queues.contract import Record
from tests.client.queue_broker import FakeBroker


@pytest.fixture
def broker(tmp_path):
    with FakeBroker(tmp_path) as running:
        running.stored = [Record(subject="a.b", payload=bytes([i]), msg_id=str(i), time_ns=1) for i in range(5)]
        yield running


@pytest.fixture
def consumer(broker):
    with Consumer(broker.address, "alerts", "archive", timeout=5.0) as connected:
        yield connected


def test_fetch_gives_records(broker, consumer):
    """Records come as they were published, with where they are and what is left."""
    deliveries = consumer.fetch(max_records=3, wait=0)
    assert [(d.sequence, d.payload, d.deliveries) for d in deliveries] == [(1, b"\0", 1), (2, b"\1", 1), (3, b"\2", 1)]
    assert (consumer.lag, consumer.ack_pending) == (2, 7)
    request = broker.fetches[0]
    assert (request.stream, request.consumer, request.max_records) == ("alerts", "archive", 3)


def test_fetch_of_nothing_is_empty(broker, consumer):
    """When the wait is over, the answer is empty."""
    broker.stored = []
    assert consumer.fetch(wait=0.05) == ()


def test_long_waits_are_asked_in_pieces(broker, consumer):
    """A long wait never blocks in one request for more than a second, so that a signal is seen."""
    broker.stored = []
    threading.Timer(0.02, lambda: setattr(broker, "stored", [Record(subject="a", payload=b"")])).start()
    assert len(consumer.fetch(wait=3600)) == 1
    assert all(f.wait_ms <= 1000 for f in broker.fetches)


def test_batches_go_through_as_they_are(broker, consumer, monkeypatch):
    """A batch is looked into without records, and acknowledged whole, in as many requests as it needs."""
    monkeypatch.setattr("platformd.client.consumer.MAX_ACKS", 2)
    batch = consumer.fetch_batch(wait=0)
    assert [bytes(payload) for payload in batch.payloads()] == [bytes([i]) for i in range(5)]
    assert consumer.nak(batch, delay=0.5) == 5
    assert consumer.term(batch[:1], reason="bad") == 1
    said = [(ack.sequence, ack.kind, ack.delay, ack.reason) for ack in broker.acks]
    assert said == [(i, "nak", 0.5, "") for i in range(1, 6)] + [(1, "term", 0.0, "bad")]
    assert consumer.ack(batch) == 5


def test_acknowledgements_arrive(broker, consumer):
    """Each verb sends its kind for the sequences of the deliveries."""
    one, two, three, four, _ = consumer.fetch(wait=0)
    assert consumer.ack([one]) == 1
    assert consumer.nak([two], delay=0.5) == 1
    assert consumer.in_progress([three]) == 1
    assert consumer.term([four]) == 1
    assert consumer.ack([]) == 0
    assert [(a.sequence, a.kind, a.delay) for a in broker.acks] == [
        (1, "ack", 0.0),
        (2, "nak", 0.5),
        (3, "in_progress", 0.0),
        (4, "term", 0.0),
    ]


@pytest.mark.parametrize("word", ["lose_request", "lose_reply", Status.STOPPING])
def test_losses_are_survived(broker, consumer, word):
    """Lost requests, lost replies and a daemon that stops are followed by another attempt."""
    broker.script += [word, "answer", word, "answer"]
    deliveries = consumer.fetch(wait=0)
    assert len(deliveries) == 5
    assert consumer.ack(deliveries) == 5


def test_restart_is_survived(broker, consumer):
    """A consumer goes on after the broker was restarted."""
    consumer.fetch(wait=0)
    broker.restart()
    assert len(consumer.fetch(wait=0)) == 5


def test_a_broker_that_comes_late_is_waited_for(tmp_path):
    """A consumer that is started first waits for the daemon."""
    broker = FakeBroker(tmp_path)
    threading.Timer(0.05, broker.start).start()
    with Consumer(broker.address, "s", "c", timeout=5.0) as consumer:
        assert consumer.fetch(wait=0) == ()
    broker.stop()


@pytest.mark.parametrize("listening", [True, False])
def test_away_for_too_long_is_unavailable(tmp_path, listening):
    """A daemon that is away or silent for the whole timeout gives an error that says where it was sought."""
    broker = FakeBroker(tmp_path)
    if listening:
        broker.start()
        broker.script += ["silence"] * 100
    with Consumer(broker.address, "s", "c", timeout=0.1) as consumer:
        begin = time.monotonic()
        with pytest.raises(Unavailable, match=r"for 0\.1 s") as caught:
            consumer.fetch(wait=0)
        assert time.monotonic() - begin >= 0.1
        assert broker.address in caught.value.hint
    if listening:
        broker.stop()


def test_missing_consumer_is_not_found(broker, consumer):
    """A refusal becomes its error and names the consumer."""
    broker.script.append(Status.NO_CONSUMER)
    with pytest.raises(NotFound, match="says NO_CONSUMER") as caught:
        consumer.fetch(wait=0)
    assert caught.value.subject == "stream/alerts/consumer/archive"


@pytest.mark.parametrize(
    "garbage",
    [
        b"",
        b"hello",
        bytes(24),
        encode_reply(Reply(operation=2, result2=3, body=b"\xff" * 40)),
        encode_reply(Reply(operation=2, result2=1)),
    ],
)
def test_garbage_is_an_error_and_not_the_end(broker, consumer, garbage):
    """What is not a reply is refused with the place that is wrong; the next fetch starts afresh."""
    broker.script.append(garbage)
    with pytest.raises(PlatformError, match="offset"):
        consumer.fetch(wait=0)
    assert len(consumer.fetch(wait=0)) == 5


def test_import_is_light():
    """A program that publishes imports neither an event loop nor the engine."""
    code = (
        "import sys, platformd.client.queues; "
        "print([m for m in ('trio', 'asyncio', 'platformd.queues.native.engine') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "trio" not in done.stdout
    assert "engine" not in done.stdout
