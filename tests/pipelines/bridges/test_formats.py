"""Payloads on their way: containers looked through, frames of a schema registry made into containers and back."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import fastavro
import pytest

from platformd.model.bridge import BridgeFormat
from platformd.model.schema import MAX_SCHEMA_BYTES
from platformd.pipelines.avro import PacketReader
from platformd.pipelines.bridges.formats import FRAME, Formats, GivenSchemas, SchemaFiles
from platformd.pipelines.bridges.headers import SCHEMA_ID
from platformd.pipelines.projection import PacketError

SCHEMA: dict[str, Any] = {
    "type": "record",
    "name": "alert",
    "fields": [{"name": "diaObjectId", "type": "long"}, {"name": "note", "type": ["null", "string"], "default": None}],
}
OTHER = SCHEMA | {"name": "other"}
ALERT = {"diaObjectId": 12345678901, "note": "bright"}
REGISTRY = BridgeFormat(type="registry", register="lsst.alert")


def encoded(alert: dict[str, Any] = ALERT, schema: dict[str, Any] = SCHEMA) -> bytes:
    out = io.BytesIO()
    fastavro.schemaless_writer(out, fastavro.parse_schema(schema), alert)
    return out.getvalue()


def container(*alerts: dict[str, Any], codec: str = "null") -> bytes:
    out = io.BytesIO()
    fastavro.writer(out, fastavro.parse_schema(SCHEMA), alerts, codec=codec)
    return out.getvalue()


def given(**more: dict[str, Any]) -> GivenSchemas:
    texts = {703: SCHEMA, 1: OTHER} | {int(k[1:]): v for k, v in more.items()}
    return GivenSchemas("lsst.alert", {number: json.dumps(schema) for number, schema in texts.items()})


def test_a_frame_becomes_a_container() -> None:
    """Rubin's framing becomes what pipelines read, with the schema of its id; the same bytes each time."""
    formats, headers = Formats(REGISTRY, given()), {}
    frame = FRAME.pack(0, 703) + encoded()
    made = formats.inbound(frame, headers)
    assert headers == {SCHEMA_ID: "703"}
    assert list(fastavro.reader(io.BytesIO(made))) == [ALERT]
    assert PacketReader(("diaObjectId",)).read(made) == {"diaObjectId": 12345678901}
    assert Formats(REGISTRY, given()).inbound(frame, {}) == made


@pytest.mark.parametrize("codec", ["null", "deflate"])
def test_a_container_becomes_a_frame(codec: str) -> None:
    """The other way, compressed or not, with the highest id whose schema says the same."""
    assert Formats(REGISTRY, given()).outbound(container(ALERT, codec=codec)) == FRAME.pack(0, 703) + encoded()
    reordered = dict(reversed(SCHEMA.items()))
    newer = Formats(REGISTRY, given(v704=fastavro.parse_schema(SCHEMA), v800=reordered))
    written = newer.outbound(container(ALERT))
    assert FRAME.unpack_from(written) in {(0, 704), (0, 800)}
    assert newer.outbound(container(ALERT)) == written


@pytest.mark.parametrize(
    ("frame", "words"),
    [
        (b"", "frame"),
        (b"\1\0\0\0\1", "frame"),
        (b"\0\0\0\0", "frame"),
        (FRAME.pack(0, 99) + encoded(), "has no version 99"),
        (FRAME.pack(0, 703) + encoded()[:-1], "decoded"),
        (FRAME.pack(0, 703) + encoded() + b"x", "after"),
        (FRAME.pack(0, 703), "in 0 bytes"),
    ],
)
def test_frames_that_are_none(frame: bytes, words: str) -> None:
    """A frame that is cut, of an unknown schema, or followed by something is refused with the reason."""
    with pytest.raises(PacketError, match=words):
        Formats(REGISTRY, given()).inbound(frame, {})


def test_containers_that_no_frame_can_hold() -> None:
    """Several packets, none, an unknown schema and garbage are refused with the reason."""
    formats = Formats(REGISTRY, GivenSchemas("lsst.alert", {1: json.dumps(OTHER)}))
    for payload, words in (
        (container(ALERT, ALERT), "2 packets"),
        (container(), "0 packets"),
        (container(ALERT), "none of those"),
        (b"garbage", "container"),
    ):
        with pytest.raises(PacketError, match=words):
            formats.outbound(payload)


def test_frames_that_are_left_as_they_are() -> None:
    """Without schemas the frame is checked, its id told, and nothing changed, both ways."""
    formats, headers = Formats(BridgeFormat(type="registry")), {}
    frame = FRAME.pack(0, 7) + b"whatever"
    assert formats.inbound(frame, headers) == frame
    assert headers == {SCHEMA_ID: "7"}
    assert formats.outbound(frame) == frame
    with pytest.raises(PacketError):
        formats.outbound(b"Obj\1")


def test_containers_are_looked_through() -> None:
    """ZTF's packets pass as they are; one whose data is damaged does not."""
    formats = Formats(BridgeFormat(type="container"))
    good = container(ALERT, ALERT, codec="deflate")
    assert formats.inbound(good, {}) == good
    assert formats.outbound(good) == good
    for bad in (good[:-20], b"", b"{}"):
        with pytest.raises(PacketError):
            formats.inbound(bad, {})
        with pytest.raises(PacketError):
            formats.outbound(bad)


def test_without_the_check_only_what_is_around_is_looked_at() -> None:
    """Packets are not decoded: a damaged one passes where the file around it is sound, and only there."""
    unchecked = Formats(BridgeFormat(type="registry", register="x", check=False), given())
    cut = FRAME.pack(0, 703) + encoded()[:-1]
    assert unchecked.outbound(unchecked.inbound(cut, {})) == cut
    with pytest.raises(PacketError):
        unchecked.inbound(FRAME.pack(0, 99), {})
    with pytest.raises(PacketError):
        Formats(BridgeFormat(type="container", check=False)).inbound(container(ALERT)[:-20], {})


def test_bytes_are_anything() -> None:
    """Nothing is looked into when the format says nothing."""
    assert Formats(BridgeFormat()).inbound(b"\0", {}) == b"\0"
    assert Formats(BridgeFormat()).outbound(b"") == b""


def test_schemas_in_files(tmp_path: Path) -> None:
    """A file that comes later is found when it is wanted; what is no schema's file is left alone."""
    formats = Formats(BridgeFormat(type="registry", directory="x"), SchemaFiles(tmp_path))
    frame = FRAME.pack(0, 703) + encoded()
    with pytest.raises(PacketError, match=r"703\.avsc cannot be read: No such file"):
        formats.inbound(frame, {})
    (tmp_path / "703.avsc").write_text(json.dumps(SCHEMA))
    (tmp_path / "notes.txt").write_text("")
    (tmp_path / "12.avsc").write_bytes(b"{" * (MAX_SCHEMA_BYTES + 1))
    assert formats.outbound(formats.inbound(frame, {})) == frame
    with pytest.raises(PacketError, match="more than"):
        formats.inbound(FRAME.pack(0, 12), {})


def test_a_directory_that_is_not_there(tmp_path: Path) -> None:
    """Nothing is found in it, and that is said of the record."""
    formats = Formats(BridgeFormat(type="registry", directory="x"), SchemaFiles(tmp_path / "none"))
    with pytest.raises(PacketError, match="none of those"):
        formats.outbound(container(ALERT))
