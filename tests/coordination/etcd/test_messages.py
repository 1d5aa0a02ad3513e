"""The pure parts: wire format, frames, keyspace, versions, settings and the table of errors."""

from __future__ import annotations

import contextlib
from pathlib import Path

import hpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from platformd.coordination.etcd import errors, frames, messages, versions, wire
from platformd.coordination.etcd.errors import Again, refusal
from platformd.coordination.etcd.keyspace import Bounds, Keyspace
from platformd.coordination.etcd.settings import Endpoint, parse_endpoints, read_password
from platformd.coordination.etcd.wire import INT64_MAX, INT64_MIN, Malformed
from platformd.core.errors import Forbidden, InvalidInput, OutcomeUnknown, StorageFull, TooLarge, Unavailable
from platformd.core.settings_engines import EtcdSettings

INT64 = st.integers(INT64_MIN, INT64_MAX)


# --- wire ------------------------------------------------------------------------------------------


@given(st.lists(st.tuples(st.integers(1, 500), INT64.filter(bool) | st.binary(max_size=300))))
def test_message_is_read_back(content: list[tuple[int, int | bytes]]) -> None:
    """Whatever fields a message has, they are read as they were written, in their order."""
    written = [wire.blob(n, v) if isinstance(v, bytes) else wire.integer(n, v) for n, v in content]
    found = [(n, v if isinstance(v, bytes) else wire.signed(v)) for n, v in wire.fields(b"".join(written))]
    assert found == content


def test_known_encodings() -> None:
    """The examples of the format's own documentation."""
    assert wire.integer(1, 150) == b"\x08\x96\x01"
    assert wire.text(2, b"testing") == b"\x12\x07testing"
    assert wire.integer(1, -1) == b"\x08" + b"\xff" * 9 + b"\x01"
    assert wire.integer(1, 0) == wire.text(1, b"") == b""
    assert wire.chosen_integer(1, 0) == b"\x08\x00"


def test_unknown_fields_are_passed_over() -> None:
    """Fields of fixed size, which etcd does not have today, do not hide what follows them."""
    assert wire.fields(b"\x09" + b"x" * 8 + b"\x15" + b"x" * 4 + b"\x18\x07") == [(3, 7)]


@given(st.binary(max_size=60))
def test_any_bytes_are_read_or_refused(junk: bytes) -> None:
    """What is no message is refused by its name, never with another exception."""
    for read in (
        wire.fields,
        messages.txn_response,
        messages.member_status,
        messages.lease_left,
        messages.lease_ids,
        lambda message: messages.range_response(message, 0),
        lambda message: messages.watch_response(message, 3),
    ):
        with contextlib.suppress(Malformed):
            read(junk)


# --- frames ----------------------------------------------------------------------------------------


@given(st.lists(st.binary(max_size=400), max_size=8), st.integers(1, 50))
def test_frames_are_cut_wherever_the_network_cuts_them(payloads: list[bytes], step: int) -> None:
    """Frames come out whole whatever the pieces are that they arrive in."""
    sent = b"".join(frames.frame(frames.DATA, 0, number, payload) for number, payload in enumerate(payloads))
    reader = frames.FrameReader()
    found = [frame for at in range(0, len(sent), step) for frame in reader.feed(sent[at : at + step])]
    assert [(frame.stream, frame.payload) for frame in found] == list(enumerate(payloads))


@given(st.text(st.characters(codec="ascii", categories=["L", "N"]), max_size=400))
def test_header_block_is_understood_by_another_decoder(token: str) -> None:
    """A block of ours means what was said, also with a token longer than a byte can count."""
    block = frames.header_block("/a/B", "h:1", tls=True, metadata={"token": token})
    decoder = hpack.Decoder()
    assert dict(decoder.decode(block)) == {
        ":method": "POST", ":scheme": "https", ":path": "/a/B", ":authority": "h:1",
        "te": "trailers", "content-type": "application/grpc", "token": token,
    }  # fmt: skip
    assert len(decoder.header_table.dynamic_entries) == 0


def test_headers_that_lean_on_a_table_are_refused() -> None:
    """A peer was told that there is no table; what would come from it is not guessed."""
    with pytest.raises(frames.ProtocolError):
        frames.HeaderReader().decode(b"\xbe")  # the first dynamic entry


# --- keyspace --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("prefix", "key", "end", "expected"),
    [
        (b"", b"", None, Bounds(b"\x00", b"\x00")),
        (b"", b"a", None, Bounds(b"a", b"\x00")),
        (b"", b"a", b"b", Bounds(b"a", b"b")),
        (b"", b"", b"\x00", Bounds(b"\x00", b"", empty=True)),
        (b"", b"b", b"a", Bounds(b"b", b"", empty=True)),
        (b"", b"", b"", Bounds(b"\x00", b"", empty=True)),
        (b"p/", b"", None, Bounds(b"p/", b"p0")),
        (b"p/", b"a", b"b", Bounds(b"p/a", b"p/b")),
        (b"p/", b"", b"b", Bounds(b"p/", b"p/b")),
        (b"\xff", b"", None, Bounds(b"\xff", b"\x00")),
    ],
)
def test_ranges_stay_inside_the_prefix(prefix: bytes, key: bytes, end: bytes | None, expected: Bounds) -> None:
    """A range of ours is one of etcd's, which never reaches beyond the prefix and never means something else."""
    assert Keyspace(prefix).bounds(key, end) == expected


# --- versions, settings ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("version", "progress", "deletions"),
    [
        ("3.4.30", False, False), ("3.4.31", True, False), ("3.4.36", True, True),
        ("3.5.1", False, False), ("3.5.13", True, False), ("3.5.18", True, True),
        ("3.6.0", True, True), ("3.7.1", True, True), ("4.0.0", True, True), ("3.3.27", False, False),
        ("", False, False), ("3.6.0-rc.1", True, True),
    ],
)  # fmt: skip
def test_versions(version: str, progress: bool, deletions: bool) -> None:
    """A fix counts from the patch release of its line on, and in every newer line."""
    assert (versions.answers_progress(version), versions.keeps_deletions(version)) == (progress, deletions)


def test_endpoints_are_read() -> None:
    """With and without scheme and port, and IPv6."""
    given = EtcdSettings(endpoints=("http://a:1", "b", "http://[::1]:2379/"))
    assert parse_endpoints(given) == (Endpoint("a", 1, False), Endpoint("b", 2379, False), Endpoint("::1", 2379, False))
    assert Endpoint("::1", 2379, False).authority == "[::1]:2379"


def test_all_wrong_settings_are_told_at_once() -> None:
    """Each with its place."""
    with pytest.raises(InvalidInput) as refused:
        parse_endpoints(
            EtcdSettings(endpoints=("http://a", "https://b", "ftp://c", "http://d:x"), user="u", key_file="k")
        )
    paths = [error.path for error in refused.value.errors]
    assert paths == ["endpoints[2]", "endpoints[3]", "endpoints", "cert_file", "password_file"]
    with pytest.raises(InvalidInput, match="endpoints: is empty"):
        parse_endpoints(EtcdSettings(endpoints=()))


def test_password_is_the_first_line(tmp_path: Path) -> None:
    """Without the line's end; a file that is not there is named."""
    path = tmp_path / "password"
    path.write_text("secret\n# not this\n")
    assert read_password(EtcdSettings(password_file=str(path))) == "secret"
    with pytest.raises(InvalidInput, match="password: the password cannot be read: No such file"):
        read_password(EtcdSettings(password_file=str(path.with_name("no-password"))))


# --- errors ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "message", "kind", "again"),
    [
        (8, "etcdserver: mvcc: database space exceeded", StorageFull, Again.NEVER),
        (8, "grpc: received message larger than max (3 vs. 2)", TooLarge, Again.NEVER),
        (3, "etcdserver: request is too large", TooLarge, Again.NEVER),
        (7, "etcdserver: permission denied", Forbidden, Again.NEVER),
        (14, "etcdserver: no leader", Unavailable, Again.SAFE),
        (14, "etcdserver: request timed out", Unavailable, Again.UNKNOWN),
        (14, "something new", Unavailable, Again.UNKNOWN),
        (2, "etcdserver: permission denied", Forbidden, Again.NEVER),
        (99, "", Unavailable, Again.UNKNOWN),
    ],
)
def test_refusals(status: int, message: str, kind: type[Exception], again: Again) -> None:
    """The text decides, then the code; what nobody knows may have been done."""
    refused = refusal(status, message)
    assert type(refused.error) is kind
    assert refused.again is again
    assert refused.error.message


def test_outcome_unknown_says_what_to_do() -> None:
    """It is its own error, with a hint."""
    error = errors.outcome_unknown("the connection broke")
    assert isinstance(error, OutcomeUnknown)
    assert "the connection broke" in error.message
    assert error.hint
