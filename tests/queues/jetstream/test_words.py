"""Our records, names and times as JetStream's."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from platformd.core.errors import InvalidInput
from platformd.queues.contract import Record
from platformd.queues.jetstream import wire
from platformd.queues.jetstream.names import Names
from platformd.queues.jetstream.records import (
    ack_token,
    decode_headers,
    encode_headers,
    nanoseconds,
    rfc3339,
)

TEXT = st.text(st.characters(codec="utf-8"), max_size=20)


def there_and_back(record, *, dedupe=True):
    block = encode_headers(record, "n.a.b", 7, dedupe=dedupe, more=(("Nats-Expected-Last-Sequence", "3"),))
    (message,) = wire.Reader(1 << 20).feed(b"HMSG n.a.b 1 %d %d\r\n%b\r\n" % (len(block), len(block), block))
    return decode_headers(wire.decode_headers(message.headers).fields, "n.a.b")


@given(st.dictionaries(TEXT, TEXT, max_size=5), TEXT, st.booleans())
def test_any_headers_and_id_come_back(headers, msg_id, dedupe):
    """Names and values that a line cannot carry, or that are JetStream's own, go another way and come back too."""
    record = Record(subject="a.b", payload=b"", msg_id=msg_id, headers=headers, time_ns=5)
    assert there_and_back(record, dedupe=dedupe) == (msg_id, headers, 5)


def test_reserved_and_odd_headers_come_back():
    """What would be taken for JetStream's or ours, has line ends, spaces at its ends, or nothing, is as it was."""
    odd = {"Nats-Msg-Id": "x", "Platformd-Time": "1", "a": " x ", "b": "x\r\ny", "c": "", "d e": "f", "": "g", "k": "v"}
    said = there_and_back(Record(subject="a.b", payload=b"", headers=odd))
    assert said == ("", odd, 7)


def test_plain_headers_are_plain():
    """What other NATS programs can read is written so that they can."""
    record = Record(subject="a.b", payload=b"", msg_id="é 1", headers={"k": "a b"}, time_ns=5)
    block = encode_headers(record, "a.b", 7, dedupe=True, more=())
    assert block == b"NATS/1.0\r\nPlatformd-Time: 5\r\nNats-Msg-Id: a.b %C3%A9%201\r\nk: a b\r\n\r\n"


def test_messages_of_other_programs_are_read():
    """Ids that are not of our form are ids; headers that only look like ours do no harm."""
    assert decode_headers({"Nats-Msg-Id": "7", "x": "y"}, "a.b") == ("7", {"x": "y"}, 0)
    said = decode_headers({"Platformd-Headers": "{", "Platformd-Time": "x"}, "a.b")
    assert said == ("", {"Platformd-Headers": "{"}, 0)


def test_names_with_a_prefix_and_back():
    """Dots are replaced, prefixes are told apart, and without one nothing but dots changes."""
    north, bare = Names("north"), Names("")
    assert (north.stream("t..a.b"), bare.stream("t..a.b")) == ("north~t==a=b", "t==a=b")
    assert (north.our_stream("north~t==a=b"), bare.our_stream("t==a=b")) == ("t..a.b", "t..a.b")
    assert north.our_stream("south~x") is north.our_stream("x") is bare.our_stream("north~x") is None
    assert (north.subject("a.>"), bare.subject("a.>"), north.our_subject("north.a")) == ("north.a.>", "a.>", "a")
    assert (north.consumer("a.b"), north.our_consumer("a=b")) == ("a=b", "a.b")
    with pytest.raises(InvalidInput):
        north.subject("x" * 250)


@pytest.mark.parametrize("prefix", ["a.b", "*", "a~b", " ", "x" * 33, "é"])
def test_prefixes_are_one_token(prefix):
    """What is not one token of letters, digits, dashes and underscores is no prefix."""
    with pytest.raises(InvalidInput):
        Names(prefix)


def test_what_a_delivery_says():
    """Both forms of the subject for acknowledgements are understood; others are none."""
    short = b"$JS.ACK.s.c.2.17.5.1795378399779835260.4"
    assert ack_token(short) == (2, 17, 5, 1795378399779835260, 4)
    assert ack_token(b"$JS.ACK._.hash.s.c.2.17.5.1795378399779835260.4.random") == ack_token(short)
    for wrong in (b"", b"_INBOX.a.b.c.d.e.f.g.h", b"$JS.ACK.s.c.x.17.5.1.4"):
        assert ack_token(wrong) is None


def test_times_there_and_back():
    """Nanoseconds keep all their digits; Go's zero time is none."""
    for time_ns in (0, 1, 1795378399779835260, 1795378399000000000, 1795378399100000000):
        assert nanoseconds(rfc3339(time_ns)) == time_ns
    assert nanoseconds("2026-11-22T20:12:08.04361435Z") == nanoseconds("2026-11-22T21:12:08.04361435+01:00")
    assert nanoseconds("0001-01-01T00:00:00Z") == nanoseconds("") == nanoseconds("yesterday") == 0
