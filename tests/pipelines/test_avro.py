"""Packets: what is decoded, what is skipped, and that nothing from outside does harm."""

from __future__ import annotations

import contextlib
import io
import json
import time
import zlib
from typing import Any

import fastavro
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from platformd.pipelines import avro
from platformd.pipelines.avro import PacketReader, open_container, split_packets
from platformd.pipelines.projection import MAX_DEPTH, PacketError, needs_of, schemas
from tests.pipelines.packets import SCHEMA, alert, container, read_all

PACKET = container(alert(7, rb=0.9, magpsf=18.0))


@pytest.mark.parametrize("codec", ["null", "deflate"])
def test_a_packet_is_read_as_it_was_written(codec: str) -> None:
    """Without a projection everything is there, with either codec."""
    data = container(alert(7, rb=0.9), codec=codec)
    assert [PacketReader().read(data)] == read_all(data)


def test_only_what_is_wanted_is_decoded() -> None:
    """The stamps are skipped, and of the records only the wanted fields are there."""
    packet = PacketReader({"candid", "candidate.rb", "candidate.nothing"}).read(PACKET)
    assert packet == {"candid": 7, "candidate": {"rb": 0.9}}


def test_a_path_through_an_array_takes_fields_of_its_items() -> None:
    """The history's items have only the wanted fields, also where the item may be null."""
    earlier = dict.fromkeys(("rb", "magpsf", "jd", "ra", "dec", "nbad", "fid")) | {"jd": 1.0}
    data = container(alert() | {"prv_candidates": [earlier, None]})
    packet = PacketReader({"prv_candidates.jd"}).read(data)
    assert packet == {"prv_candidates": [{"jd": 1.0}, None]}


def test_a_type_that_is_used_twice_has_the_fields_of_both_uses() -> None:
    """A named type has one form in a schema, so the wishes of all its uses are united."""
    data = container(alert(rb=0.5) | {"prv_candidates": [alert(jd=1.0)["candidate"]]})
    packet = PacketReader({"candidate.rb", "prv_candidates.jd"}).read(data)
    assert packet["candidate"]["rb"] == 0.5
    assert packet["prv_candidates"][0]["jd"] == 1.0


def test_a_type_whose_definition_is_skipped_is_defined_where_it_is_kept() -> None:
    """The second stamp's type is defined at the first, which is not wanted."""
    assert PacketReader({"second"}).read(PACKET) == {"second": {"data": b"\x01" * 64}}


def test_a_whole_value_wins_over_a_part_of_it() -> None:
    """Wanting a record and one of its fields is wanting the record."""
    assert needs_of({"a", "a.b", "c.d"}) == {"a": None, "c": {"d": None}}
    assert needs_of({"a.b.c", "a.b", "a.x"}) == {"a": {"b": None, "x": None}}


def test_timestamps_are_converted_and_other_logical_types_are_not() -> None:
    """What comes out can be given to CEL and to MessagePack."""
    schema = {
        "type": "record",
        "name": "r",
        "fields": [
            {"name": "t", "type": {"type": "long", "logicalType": "timestamp-millis"}},
            {"name": "d", "type": {"type": "bytes", "logicalType": "decimal", "precision": 4, "scale": 2}},
            {"name": "u", "type": {"type": "string", "logicalType": "uuid"}},
            {"name": "day", "type": {"type": "int", "logicalType": "date"}},
        ],
    }
    plain = json.loads(json.dumps(schema).replace("logicalType", "ignored"))
    out = container({"t": 1000, "d": b"\x04", "u": "x", "day": 3}, schema=plain)
    header = fastavro.reader(io.BytesIO(out)).metadata["avro.schema"].encode()
    # The same bytes under a schema with the logical types.
    logical = json.dumps(schema).encode()
    data = out.replace(avro._long_bytes(len(header)) + header, avro._long_bytes(len(logical)) + logical)
    packet = PacketReader().read(data)
    assert packet["t"].timestamp() == 1.0
    assert (packet["d"], packet["u"], packet["day"]) == (b"\x04", "x", 3)


def test_the_work_for_a_schema_is_done_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Preparing a schema takes longer than decoding a packet, so it is kept, for a bounded number of schemas."""
    calls = []
    real = schemas
    monkeypatch.setattr(avro, "schemas", lambda text, needs: calls.append(text) or real(text, needs))
    reader = PacketReader({"candid"})
    for _ in range(3):
        reader.read(PACKET)
    assert len(calls) == 1
    for i in range(avro.MAX_SCHEMAS + 5):
        named = SCHEMA | {"name": f"alert{i}"}
        reader.read(container(alert(), schema=named))
    assert len(reader._schemas) == avro.MAX_SCHEMAS


# -- several packets in a container --------------------------------------------------------------------


@pytest.mark.parametrize("codec", ["null", "deflate"])
def test_a_container_of_many_is_split_without_loss(codec: str) -> None:
    """Each packet becomes a container with the same schema, and reads the same."""
    alerts = [alert(i, rb=i / 10) for i in range(5)]
    data = container(*alerts, codec=codec)
    parts = split_packets(data)
    assert [p for part in parts for p in read_all(part)] == read_all(data)
    assert len(parts) == 5
    assert {open_container(p).schema for p in parts} == {open_container(data).schema}


@pytest.mark.parametrize("data", [PACKET, container()])
def test_a_container_of_one_or_none_stays_as_it_is(data: bytes) -> None:
    """What needs no splitting goes through untouched."""
    assert split_packets(data) == [data]


@pytest.mark.parametrize("alerts", [[], [alert(), alert()]])
def test_a_record_holds_one_packet(alerts: list[Any]) -> None:
    """A stage takes one packet a record, and says how many there were."""
    with pytest.raises(PacketError, match=f"has {len(alerts)} packets"):
        PacketReader().read(container(*alerts))


# -- what comes from outside -----------------------------------------------------------------------------

HEADER = open_container(PACKET).header
SYNC = open_container(PACKET).sync


def block(count: int, body: bytes, sync: bytes = SYNC) -> bytes:
    return avro._long_bytes(count) + avro._long_bytes(len(body)) + body + sync


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "not an Avro object container"),
        (b"garbage", "not an Avro object container"),
        (b"Obj\x02" + PACKET[4:], "not an Avro object container"),
        (PACKET[:-20], "ends after"),
        (PACKET[: len(HEADER)], "has 0 packets"),
        (PACKET[: len(HEADER) - 3], "ends inside its header"),
        (PACKET + b"x", "ends in the middle of a number"),
        (PACKET + b"\x02\x02xy" + SYNC, "sync marker"),
        (HEADER + block(1, b""), "1 packets in 0 bytes"),
        (HEADER + block(2**62, b"abc"), "packets in 3 bytes"),
        (HEADER + block(1, b"\x00" * 3, b"?" * 16), "sync marker"),
        (HEADER + avro._long_bytes(1) + avro._long_bytes(2**62) + b"x", "ends after"),
        (HEADER + b"\xff" * 11, "more than 64 bits"),
        (HEADER + b"\x01\x02", "ends after"),
        (HEADER + block(1, b"\x00\x02" * 40), "after the packet's end"),
        (HEADER + block(1, b"\x7f"), "cannot be decoded"),
    ],
)
def test_damage_is_named(data: bytes, reason: str) -> None:
    """Garbage, truncation, trailing bytes and counts that lie are refused with what is wrong."""
    with pytest.raises(PacketError, match=reason):
        PacketReader().read(data)


def with_schema(schema: Any, body: bytes, codec: bytes = b"null", count: int = 1) -> bytes:
    text = schema if isinstance(schema, bytes) else json.dumps(schema).encode()
    entries = b"".join(avro._long_bytes(len(part)) + part for part in (b"avro.schema", text, b"avro.codec", codec))
    return avro.MAGIC + avro._long_bytes(2) + entries + b"\x00" + b"S" * 16 + block(count, body, b"S" * 16)


def record(*types: Any) -> dict[str, Any]:
    return {"type": "record", "name": "top", "fields": [{"name": f"f{i}", "type": t} for i, t in enumerate(types)]}


def doubling(levels: int) -> dict[str, Any]:
    """Records in records, twice each: 2 ** levels of them, in no bytes at all."""
    inner: Any = "null"
    for level in range(levels):
        inner = {
            "type": "record",
            "name": f"r{level}",
            "fields": [{"name": "a", "type": inner}, {"name": "b", "type": f"r{level - 1}" if level else "null"}],
        }
    return record("int", inner)


def nested(levels: int) -> Any:
    schema: Any = "int"
    for _ in range(levels):
        schema = {"type": "array", "items": schema}
    return record(schema)


@pytest.mark.parametrize(
    ("schema", "body", "reason"),
    [
        ("string", b"\x02a", "not that of a record"),
        ({"type": "record"}, b"\x00", "schema cannot be read"),
        (b"{not json", b"\x00", "schema cannot be read"),
        (b"[" * 100_000, b"\x00", "schema cannot be read"),
        (record("unheard-of"), b"\x00", "schema cannot be read"),
        (record({"type": "array", "items": "null"}), avro._long_bytes(2**60) + b"\x00", "many values in few bytes"),
        (record({"type": "array", "items": record("null", "null")}), b"\x00", "schema cannot be read|many values"),
        (record({"type": "map", "values": doubling(6)["fields"][1]["type"]}), b"\x00", "many values in few bytes"),
        (record("int", ["null", "top"]), b"\x00\x00", "contains itself"),
        (doubling(40), b"\x00", "few bytes|nested deeper"),
        (nested(MAX_DEPTH + 1), b"\x00", "nested deeper"),
        (nested(500), b"\x00", "nested deeper"),
    ],
)
def test_schemas_without_bounds_are_refused(schema: Any, body: bytes, reason: str) -> None:
    """A schema cannot make much out of few bytes, nest without end, or break the parser."""
    started = time.monotonic()
    with pytest.raises(PacketError, match=reason):
        PacketReader().read(with_schema(schema, body))
    assert time.monotonic() - started < 2.0


def test_a_deflate_bomb_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A block that inflates beyond its limit is not inflated further."""
    monkeypatch.setattr(avro, "MAX_BLOCK", 1 << 20)
    deflater = zlib.compressobj(wbits=-15)
    bomb = deflater.compress(b"\x00" * (8 << 20)) + deflater.flush()
    with pytest.raises(PacketError, match="inflates to more than"):
        PacketReader().read(with_schema(record("bytes"), bomb, b"deflate"))


@pytest.mark.parametrize(
    ("codec", "reason"), [(b"snappy", "compressed with 'snappy'"), (b"deflate", "inflated|has no end")]
)
def test_codecs(codec: bytes, reason: str) -> None:
    """Another codec, or data that is not what the codec says, is named."""
    with pytest.raises(PacketError, match=reason):
        PacketReader().read(with_schema(record("int"), b"\x02\xff", codec))


READERS = [PacketReader(), PacketReader({"candid", "candidate.rb", "prv_candidates.jd"})]


@settings(max_examples=200)
@given(st.integers(0, len(PACKET) - 1))
def test_no_truncation_does_harm(length: int) -> None:
    """A packet that ends anywhere is an error of ours, and never a packet."""
    for reader in READERS:
        with pytest.raises(PacketError):
            reader.read(PACKET[:length])


@settings(max_examples=300)
@given(st.lists(st.tuples(st.integers(0, len(PACKET) - 1), st.integers(0, 255)), min_size=1, max_size=8))
def test_no_damage_does_harm(changes: list[tuple[int, int]]) -> None:
    """A packet with other bytes anywhere is read or is an error of ours."""
    damaged = bytearray(PACKET)
    for position, value in changes:
        damaged[position] = value
    for reader in READERS:
        with contextlib.suppress(PacketError):
            assert isinstance(reader.read(bytes(damaged)), dict)


@given(st.binary(max_size=200))
def test_no_garbage_does_harm(body: bytes) -> None:
    """Any bytes after a good header are read or are an error of ours."""
    for data in (HEADER + body, HEADER + block(1, body), body):
        for reader in READERS:
            with contextlib.suppress(PacketError):
                assert isinstance(reader.read(data), dict)
