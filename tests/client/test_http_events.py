"""Server-sent events: the parser against the standard's rules, cut at every byte."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from platformd.client.events import EventParser, ServerEvent
from platformd.core.errors import TooLarge

STREAM = (
    '\ufeff: heartbeat\nid: 41\nevent: added\ndata: {"a":\ndata: 1}\n\n'
    "data:tight\r\n\r\nevent: lonely\n\nid\ndata\ndata\n\n"
    "retry: 5\nunknown: x\ndata:  two é\n\nid: 43\n\ndata: unfinished\n"
).encode()  # fmt: skip
EVENTS = [
    ServerEvent("41", "added", '{"a":\n1}'),
    ServerEvent("41", "message", "tight"),
    ServerEvent("", "message", "\n"),
    ServerEvent("", "message", " two é"),
]


def parsed(pieces: list[bytes]) -> tuple[list[ServerEvent], str]:
    parser = EventParser()
    return [event for piece in pieces for event in parser.feed(piece)], parser.last_event_id


def test_the_rules_of_the_standard_hold() -> None:
    """Comments, ids that last, empty data, several data lines, a byte order mark and an unfinished event."""
    assert parsed([STREAM]) == (EVENTS, "43")


def test_every_single_cut_reads_the_same() -> None:
    """Cutting the stream in two at any byte changes nothing."""
    for cut in range(len(STREAM) + 1):
        assert parsed([STREAM[:cut], STREAM[cut:]]) == (EVENTS, "43"), cut


def test_byte_by_byte_reads_the_same() -> None:
    """Each byte on its own changes nothing, also between a carriage return and its newline."""
    assert parsed([STREAM[i : i + 1] for i in range(len(STREAM))]) == (EVENTS, "43")


@settings(deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, 9), st.text(st.characters(codec="utf-8", exclude_characters="\r\n"), max_size=6)),
        max_size=6,
    ),
    st.sampled_from(["\n", "\r", "\r\n"]),
    st.lists(st.integers(0, 400), max_size=10),
)
def test_any_stream_with_any_line_ends_cut_anywhere(written: list[tuple[int, str]], end: str, cuts: list[int]) -> None:
    """What was written comes out, whatever ends the lines and wherever the bytes are cut."""
    text = "".join(f"id: {i}{end}event: e{i}{end}data: {data}{end}{end}" for i, data in written)
    stream = text.encode()
    edges = sorted({0, len(stream), *(c for c in cuts if c < len(stream))})
    events, _ = parsed([stream[a:b] for a, b in pairwise(edges)])
    assert events == [ServerEvent(str(i), f"e{i}", data) for i, data in written]


def test_an_id_with_a_nul_is_ignored() -> None:
    """The standard says so, and the id before it stays."""
    assert parsed([b"id: 4\nid: 5\x00\ndata: x\n\n"])[0] == [ServerEvent("4", "message", "x")]


@pytest.mark.parametrize("stream", [b"data: 12345678\n" * 3, b"x" * 30, b"data: 1\n" + b":" * 30])
def test_an_event_without_an_end_is_refused_at_the_limit(stream: bytes) -> None:
    """Neither many lines nor one long one grow the parser over its limit."""
    parser = EventParser(max_event_bytes=20)
    with pytest.raises(TooLarge, match="20 bytes"):
        [parser.feed(stream[i : i + 1]) for i in range(len(stream))]
