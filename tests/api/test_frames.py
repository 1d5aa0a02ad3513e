"""What comes in over a WebSocket, without any input or output: messages, limits, and all that breaks the rules."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from platformd.api.server.frames import Ending, Frames, Message, Ping
from tests.api.peer import announced, frame

LIMIT = 1000


def received(*segments: bytes, limit: int = LIMIT) -> list[Message | Ping | Ending]:
    frames = Frames(limit)
    return [found for segment in segments for found in frames.receive(segment)]


def test_messages_come_whole() -> None:
    """Fragments of both types are put together, with what is answered in between."""
    data = (
        frame("grü".encode()[:3], fin=False)
        + frame(b"1", opcode=9)
        + frame("grü".encode()[3:], opcode=0, fin=False)
        + frame(b"", opcode=0)
        + frame(b"\x00", opcode=2, fin=False)
        + frame(b"\xff", opcode=0)
        + frame(b"", opcode=1)
    )
    assert received(data) == [Ping(b"\x8a\x011"), Message("grü"), Message(b"\x00\xff"), Message("")]


BROKEN: dict[str, tuple[bytes, int]] = {
    "an unmasked frame": (frame(masked=False), 1002),
    "a reserved bit": (frame(rsv=2), 1002),
    "a compressed frame, which nobody agreed on": (frame(rsv=4), 1002),
    "an unknown type": (frame(opcode=3), 1002),
    "an unknown control frame": (frame(opcode=11), 1002),
    "a ping in pieces": (frame(opcode=9, fin=False), 1002),
    "a ping of 126 bytes": (frame(b"x" * 126, opcode=9), 1002),
    "a continuation of nothing": (frame(opcode=0), 1002),
    "a new message within another": (frame(fin=False) + frame(), 1002),
    "a length of 64 bits for what fits into 7": (b"\x81\xff" + bytes(7) + b"\x05\x01\x02\x03\x04hello", 1002),
    "a length with the highest bit": (announced(1 << 63), 1002),
    "text that is not UTF-8": (frame(b"\xff\xfe"), 1007),
    "text that ends within a character": (frame("ü".encode()[:1]), 1007),
    "text that stops being UTF-8 in a later piece": (frame(b"\xc3", fin=False) + frame(b"(", opcode=0), 1007),
    "a surrogate": (frame(b"\xed\xa0\x80"), 1007),
    "a close of one byte": (frame(b"\x03", opcode=8), 1002),
    "a close with a code that nobody may send": (frame(b"\x03\xee", opcode=8), 1002),
    "a close with a code that does not exist": (frame(b"\x00\x01", opcode=8), 1002),
    "a close with a reason that is not UTF-8": (frame(b"\x03\xe8\xff", opcode=8), 1007),
    "a message over the limit": (frame(b"x" * (LIMIT + 1)), 1009),
    "characters that are more bytes than the limit": (frame("ü".encode() * (LIMIT // 2 + 1)), 1009),
    "pieces that are over the limit together": (frame(b"x" * 600, fin=False) + frame(b"x" * 600, opcode=0), 1009),
    "the beginning of what is announced too long": (announced(1 << 62) + b"x" * (LIMIT + 1), 1009),
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_breaks_the_rules_ends_it(name: str) -> None:
    """Each violation has its code; what was whole before it is kept, and nothing after it is looked at."""
    data, code = BROKEN[name]
    frames = Frames(LIMIT)
    found = list(frames.receive(frame(b"before") + data + frame(b"after")))
    assert found[0] == Message("before")
    assert isinstance(found[-1], Ending)
    assert (len(found), found[-1].code, frames.deaf) == (2, code, True)
    assert list(frames.receive(frame(b"later"))) == []


def test_a_message_of_the_limit_is_taken() -> None:
    """The limit itself is allowed, in one piece or in many."""
    assert received(frame(b"x" * LIMIT)) == [Message("x" * LIMIT)]
    middle = frame(b"x", opcode=0, fin=False) * (LIMIT - 2)
    assert received(frame(b"x", fin=False) + middle + frame(b"x", opcode=0)) == [Message("x" * LIMIT)]


def test_pieces_without_end_take_no_memory() -> None:
    """Empty fragments leave nothing behind but the fact that a message has begun."""
    frames = Frames(LIMIT)
    assert list(frames.receive(frame(b"", fin=False) + frame(b"", opcode=0, fin=False) * 10_000)) == []
    assert frames.unfinished
    assert frames._pieces == []


def test_our_close_is_said_once() -> None:
    """A close has its code and as much of its reason as fits; after it there are no more frames of ours."""
    frames = Frames(LIMIT)
    closing = frames.close(1008, "ü" * 100)
    assert closing[:4] == b"\x88\x7c\x03\xf0"
    assert len(closing) <= 2 + 125
    assert closing[4:].decode() == "ü" * 61
    assert (frames.close(1000, ""), frames.message("x"), frames.ping()) == (b"", b"", b"")


@pytest.mark.parametrize("body", [b"\x0f\xa0bye", b"\x03\xe8", b""])
def test_a_close_is_echoed(body: bytes) -> None:
    """The peer's close ends it, and is answered with the same code and reason, or with none."""
    frames = Frames(LIMIT)
    (ending,) = frames.receive(frame(body, opcode=8) + frame())
    assert isinstance(ending, Ending)
    assert frames.close(ending.code, ending.reason) == frame(body, opcode=8, masked=False)


SENT = st.lists(
    st.builds(frame, st.binary(max_size=300), opcode=st.sampled_from([0, 1, 2, 8, 9, 10, 3]), fin=st.booleans())
    | st.binary(max_size=20),
    max_size=8,
).map(b"".join)


@given(SENT, st.lists(st.integers(1, 40), min_size=1, max_size=5))
def test_segments_do_not_matter(data: bytes, sizes: list[int]) -> None:
    """However the bytes are cut, and whatever they are, the same comes of them and nothing is raised."""
    at, number, segments = 0, 0, [frame()]
    while at < len(data):
        size = sizes[number % len(sizes)]
        segments.append(data[at : at + size])
        at, number = at + size, number + 1
    *found, last = received(*segments, limit=10_000)
    *expected, last_expected = received(frame() + data, limit=10_000)
    assert found == expected
    if isinstance(last, Ending) and isinstance(last_expected, Ending):
        assert last.code == last_expected.code  # its reason may say at which byte of a piece
    else:
        assert last == last_expected
