"""The producer against a broker that loses requests, replies and itself."""

from __future__ import annotations

import time

import pytest

from platformd.client.producer import Producer
from platformd.core.errors import (
    InvalidInput,
    LimitReached,
    NotFound,
    OutcomeUnknown,
    PlatformError,
    PreconditionFailed,
    StorageFull,
    TooLarge,
    Unavailable,
)
from platformd.queues.codec import Status
from platformd.queues.contract import Record
from tests.client.queue_broker import FakeBroker


@pytest.fixture
def broker(tmp_path):
    with FakeBroker(tmp_path) as running:
        yield running


@pytest.fixture
def producer(broker):
    with Producer(broker.address, timeout=5.0) as connected:
        yield connected


def batch(*ids, subject="a.b"):
    return [Record(subject=subject, payload=i.encode(), msg_id=i, time_ns=1) for i in ids]


def ids(broker):
    return [r.msg_id for r in broker.stored]


def test_publish_one_record(broker, producer):
    """A record arrives as it was given, and its acknowledgement says where it is."""
    published = producer.publish("a.b", b"payload", msg_id="1", headers={"k": "v"}, time_ns=5)
    assert (published.stream, published.first_sequence, published.appended) == ("found", 1, 1)
    assert broker.stored == [Record(subject="a.b", payload=b"payload", msg_id="1", headers={"k": "v"}, time_ns=5)]


def test_publish_payloads(broker, producer):
    """Payloads arrive in order as records of one subject; they have no id, so a lost answer to them is unknown."""
    assert producer.submit_payloads("a.b", [b"1", b"2"]).wait().appended == 2
    assert [(r.subject, r.payload) for r in broker.stored] == [("a.b", b"1"), ("a.b", b"2")]
    broker.script += ["lose_reply"]
    with pytest.raises(OutcomeUnknown):
        producer.submit_payloads("a.b", [b"3"]).wait()


def test_duplicates_are_told(broker, producer):
    """The positions of records that were there already come back."""
    producer.publish_batch(batch("1", "3"))
    published = producer.publish_batch(batch("1", "2", "3", "4"))
    assert (published.duplicates, published.appended, published.first_sequence) == ((0, 2), 2, 3)


@pytest.mark.parametrize("word", ["lose_request", "lose_reply", Status.STOPPING])
def test_lost_batch_with_ids_is_stored_once(broker, producer, word):
    """Whether the request or only its reply is lost, a batch with ids is stored exactly once."""
    broker.script += [word, word]
    producer.publish_batch(batch("1", "2"))
    assert ids(broker) == ["1", "2"]
    assert broker.requests == 3


@pytest.mark.parametrize("word", ["lose_request", "lose_reply"])
def test_lost_batch_without_ids_is_unknown(broker, producer, word):
    """Without ids a lost batch is not repeated, and the error says that nobody knows."""
    broker.script.append(word)
    with pytest.raises(OutcomeUnknown, match="may or may not"):
        producer.publish("a.b", b"x")
    assert broker.requests == 1
    assert producer.publish("a.b", b"y").appended == 1


def test_stopping_daemon_stored_nothing_so_it_is_repeated(broker, producer):
    """A daemon that says it is stopping has stored nothing: even a batch without ids is sent again."""
    broker.script.append(Status.STOPPING)
    assert producer.publish("a.b", b"x").first_sequence == 1
    assert broker.requests == 2


def test_order_survives_lost_batches(broker, producer):
    """Batches that were lost go before those that were submitted after them."""
    broker.script += ["answer", "lose_request"]
    pending = [producer.submit(batch(str(i))) for i in range(8)]
    for p in pending:
        p.wait()
    assert ids(broker) == [str(i) for i in range(8)]


def test_order_survives_restarts(broker, producer):
    """Records of a producer keep their order and are stored once while the broker restarts again and again."""
    broker.script += ["lose_reply", "answer", "lose_request", "answer", Status.STOPPING]
    for i in range(30):
        producer.submit(batch(f"{i}a", f"{i}b"))
        if i % 10 == 9:
            broker.restart()
    producer.flush()
    assert ids(broker) == [f"{i}{x}" for i in range(30) for x in "ab"]


def test_idle_producer_outlives_the_broker(broker, producer):
    """A broker that was restarted while nothing was under way is not noticed, even without ids."""
    producer.publish("a.b", b"1")
    broker.restart()
    until = time.monotonic() + 30
    while producer._link.alive:  # what is sent before nng has noticed may be lost with the connection
        assert time.monotonic() < until
        time.sleep(0.001)
    assert producer.publish("a.b", b"2").first_sequence == 2


def test_no_daemon_is_unavailable(tmp_path):
    """Where nobody listens the error says that nothing was stored, and where it looked."""
    with Producer(f"ipc://{tmp_path}/none.sock", timeout=0.1) as producer:
        with pytest.raises(Unavailable, match="nothing was stored") as caught:
            producer.publish("a.b", b"x")
        assert "none.sock" in caught.value.hint


@pytest.mark.parametrize("msg_id", ["", "1"])
def test_silence_is_unknown(broker, msg_id):
    """A daemon that does not answer in time may have stored the batch."""
    broker.script.append("silence")
    with Producer(broker.address, timeout=0.15) as producer:
        with pytest.raises(OutcomeUnknown):
            producer.publish("a.b", b"x", msg_id=msg_id)


@pytest.mark.parametrize("garbage", [b"", b"hello", b"\x01\x01" + b"\xff" * 30, bytes(24), b"\x01\x02" + bytes(22)])
def test_garbage_for_a_reply_is_unknown(broker, producer, garbage):
    """What is not a reply to a publish says nothing of the batch's fate."""
    broker.script.append(garbage)
    with pytest.raises(OutcomeUnknown, match="not a reply that this version understands"):
        producer.publish("a.b", b"x", msg_id="1")


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (Status.INVALID, InvalidInput),
        (Status.NO_STREAM, NotFound),
        (Status.NOT_CAPTURED, NotFound),
        (Status.SPANS_STREAMS, InvalidInput),
        (Status.TOO_LARGE, TooLarge),
        (Status.SEQUENCE_MISMATCH, PreconditionFailed),
        (Status.STORAGE_FULL, StorageFull),
        (Status.IO_ERROR, PlatformError),
        (Status.LIMIT_REACHED, LimitReached),
        (Status.BAD_CHECKSUM, InvalidInput),
        (Status.BAD_VERSION, InvalidInput),
    ],
)
def test_refusals_are_raised_and_not_repeated(broker, producer, status, error):
    """A refusal becomes its error, with the daemon's sentence, and the batch is not sent again."""
    broker.script.append(status)
    with pytest.raises(error, match=f"says {status.name}") as caught:
        producer.publish("a.b", b"x", msg_id="1")
    assert type(caught.value) is error
    assert broker.requests == 1


def test_one_refusal_does_not_touch_its_neighbours(broker, producer):
    """Of several batches under way, only the refused one fails."""
    broker.script += ["answer", Status.TOO_LARGE, "answer"]
    first, second, third = (producer.submit(batch(i)) for i in "123")
    assert third.wait().first_sequence == 2
    assert first.done
    with pytest.raises(TooLarge):
        second.wait()
    assert first.wait().first_sequence == 1


def test_flush_raises_what_nobody_waited_for(broker):
    """Leaving the block reports a failure of a batch that was only submitted."""
    broker.script.append(Status.STORAGE_FULL)

    def publish_both():
        with Producer(broker.address) as producer:
            producer.submit(batch("1"))
            producer.submit(batch("2"))

    with pytest.raises(StorageFull):
        publish_both()
    assert ids(broker) == ["2"]


def test_at_most_so_many_are_under_way(broker):
    """A producer waits for the oldest batch before it has more than ``max_in_flight`` under way."""
    with Producer(broker.address, max_in_flight=2) as producer:
        pending = [producer.submit(batch(str(i))) for i in range(5)]
        assert [p.done for p in pending[:3]] == [True] * 3
    assert all(p.done for p in pending)


def test_closing_fails_what_is_under_way(broker):
    """A batch whose answer had not come when the producer was closed has an unknown outcome."""
    broker.script.append("silence")
    producer = Producer(broker.address)
    pending = producer.submit(batch("1"))
    producer.close()
    with pytest.raises(OutcomeUnknown, match="closed"):
        pending.wait()


def test_wrong_arguments_are_refused(tmp_path):
    """Names, durabilities, counts and addresses are checked before anything is sent."""
    address = f"ipc://{tmp_path}/b.sock"
    for arguments in ({"stream": "a/b"}, {"durability": "disk"}, {"max_in_flight": 0}):
        with pytest.raises(InvalidInput):
            Producer(address, **arguments)
    for wrong in ("nonsense", "ipc://", "file:///tmp"):
        with pytest.raises(InvalidInput, match="not an address"):
            Producer(wrong)
    with Producer("ipc:///" + "x" * 200, timeout=0.1) as producer, pytest.raises(InvalidInput, match="not an address"):
        producer.publish("a", b"")
