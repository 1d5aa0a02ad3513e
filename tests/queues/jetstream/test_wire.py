"""NATS's protocol, taken apart and put together."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from platformd.queues.jetstream import wire
from platformd.queues.jetstream.wire import Line, Msg, ProtocolError, Reader

STREAM = (
    b'INFO {"a":1}\r\nPING\r\nMSG a.b 1 5\r\nhe\r\nl\r\nMSG a.b 22 r.x 0\r\n\r\n'
    b"HMSG a.b 3 14 15\r\nNATS/1.0 503\r\n!\r\n-ERR 'no'\r\nhmsg a 4 r 12 12\r\nNATS/1.0\r\n\r\n\r\n+OK\r\n"
)
EVENTS = [
    Line(b"INFO", b'{"a":1}'),
    Line(b"PING", b""),
    Msg(b"a.b", b"1", b"", b"", b"he\r\nl"),
    Msg(b"a.b", b"22", b"r.x", b"", b""),
    Msg(b"a.b", b"3", b"", b"NATS/1.0 503\r\n", b"!"),
    Line(b"-ERR", b"'no'"),
    Msg(b"a", b"4", b"r", b"NATS/1.0\r\n\r\n", b""),
    Line(b"+OK", b""),
]


@given(st.lists(st.integers(1, len(STREAM) - 1)))
def test_messages_come_in_any_pieces(cuts):
    """However the bytes are cut, the same comes out."""
    reader, found, at = Reader(1000), [], 0
    for cut in [*sorted(cuts), len(STREAM)]:
        found += reader.feed(STREAM[at:cut])
        at = max(at, cut)
    assert found == EVENTS


@pytest.mark.parametrize(
    "wrong",
    [
        b"MSG a.b 1\r\n",
        b"MSG a.b 1 x\r\n",
        b"MSG a.b 1 r 5 5\r\n",
        b"HMSG a.b 1 5\r\n",
        b"HMSG a.b 1 9 5\r\nabcde\r\n",
        b"MSG a.b 1 1001\r\n",
        b"MSG a.b 1 -1\r\n",
        b"MSG a.b 1 999999999999\r\n",
        b"x" * (wire.MAX_LINE + 1),
    ],
)
def test_what_is_not_the_protocol_is_refused(wrong):
    """Lines that cannot be, and sizes over the limit, end the connection instead of filling memory."""
    with pytest.raises(ProtocolError):
        list(Reader(1000).feed(wrong))


def test_what_is_sent():
    """Messages with and without headers and a place for the answer."""
    assert wire.publish(b"a.b", b"xy") == b"PUB a.b 2\r\nxy\r\n"
    assert wire.publish(b"a.b", b"xy", reply=b"r") == b"PUB a.b r 2\r\nxy\r\n"
    block = wire.encode_headers([("K", "v"), ("L", "é")])
    assert block == "NATS/1.0\r\nK: v\r\nL: é\r\n\r\n".encode()
    assert wire.publish(b"a", b"x", headers=block) == b"HPUB a %d %d\r\n%bx\r\n" % (len(block), len(block) + 1, block)
    assert wire.encode_headers([]) == b""
    assert wire.subscribe(b"a.>", b"7") == b"SUB a.> 7\r\n"


def test_headers_of_answers():
    """Status, description and fields; what is not there is empty."""
    said = wire.decode_headers(b"NATS/1.0 404 No Messages\r\nA: 1\r\nA: 2\r\nB:\r\nC:a:b\r\n\r\n")
    assert said == (404, "No Messages", {"A": "2", "B": "", "C": "a:b"})
    assert wire.decode_headers(b"NATS/1.0 503\r\n\r\n") == (503, "", {})
    assert wire.decode_headers(b"NATS/1.0\r\n\r\n") == (0, "", {})
    assert wire.decode_headers(b"") == (0, "", {})
    assert wire.decode_headers(b"NATS/1.0\r\nK: \xff\r\n\r\n").fields == {"K": "\ufffd"}
