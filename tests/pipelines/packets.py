"""Packets for tests: containers written in code, and an independent reader of them."""

from __future__ import annotations

import io
import json
from typing import Any

import fastavro

SCHEMA: dict[str, Any] = {
    "type": "record",
    "name": "alert",
    "namespace": "test",
    "fields": [
        {"name": "candid", "type": ["long", "null"]},
        {
            "name": "candidate",
            "type": [
                {
                    "type": "record",
                    "name": "candidate",
                    "fields": [
                        {"name": name, "type": ["double", "null"]}
                        for name in ("rb", "magpsf", "jd", "ra", "dec", "nbad")
                    ]
                    + [{"name": "fid", "type": ["int", "null"]}],
                },
                "null",
            ],
        },
        {"name": "prv_candidates", "type": [{"type": "array", "items": ["candidate", "null"]}, "null"]},
        {
            "name": "stamp",
            "type": [{"type": "record", "name": "cutout", "fields": [{"name": "data", "type": "bytes"}]}, "null"],
        },
        {"name": "second", "type": ["cutout", "null"]},
        {"name": "when", "type": [{"type": "long", "logicalType": "timestamp-micros"}, "null"], "default": None},
    ],
}
"""A small alert: everything nullable, a type that is used twice, a timestamp."""


def alert(candid: int | None = 1, **candidate: Any) -> dict[str, Any]:
    """A packet with these fields of its candidate."""
    blank = dict.fromkeys(("rb", "magpsf", "jd", "ra", "dec", "nbad", "fid"))
    return {
        "candid": candid,
        "candidate": blank | candidate,
        "prv_candidates": None,
        "stamp": {"data": b"\x00" * 64},
        "second": {"data": b"\x01" * 64},
        "when": 1_700_000_000_000_000,
    }


def container(*alerts: dict[str, Any], codec: str = "null", schema: Any = SCHEMA) -> bytes:
    """An object container of packets, as fastavro writes it."""
    out = io.BytesIO()
    fastavro.writer(out, fastavro.parse_schema(json.loads(json.dumps(schema))), alerts, codec=codec)
    return out.getvalue()


def read_all(data: bytes) -> list[dict[str, Any]]:
    """The packets, as fastavro reads them."""
    return list(fastavro.reader(io.BytesIO(data)))
