"""What the fuzzers begin with beside the corpus that is kept: valid inputs, by the heads of the C files."""

from __future__ import annotations

import struct
from pathlib import Path

from tests.native import rig

FRAME = 256 << 10
SEGMENT, PACKED, LEFT, ERASED = range(4)
FIXED = 4
"""Added to a kind: its checksums are made right."""
JOURNAL_MAGIC = 0x31524F534E4F4344


def write_batch_seeds(folder: Path) -> None:
    """For ``fuzz_batch.c``."""
    valid = rig.batch([("alerts.ztf", "id", b"payload"), ("b", "", b"")])
    (folder / "raw").write_bytes(b"\0" + valid)
    (folder / "sealed").write_bytes(b"\1" + valid)
    (folder / "request").write_bytes(b"\2" + rig.publish("alerts", [("alerts.ztf", "id", b"payload")]))
    (folder / "plain").write_bytes(b"\3alerts.ztf\npayload\0a\n\0alerts.ztf\nmore")


def write_log_seeds(folder: Path) -> None:
    """For ``fuzz_log.c``."""
    one, two, three = (segment(base) for base in (1, 5, 9))
    erased = journal((1, 0, JOURNAL_MAGIC), (32, 2, 2), (33, 0, 5), (35, 0, 8), (36, 0, 7))
    logs = {
        "one": [piece(SEGMENT, 1, one)],
        "torn": [piece(SEGMENT, 1, one), piece(SEGMENT, 5, two[:-40])],
        "three": [piece(SEGMENT, 1, one), piece(SEGMENT, 5, two), piece(SEGMENT, 9, three)],
        "packed": [piece(PACKED, 1, packed(1, one)), piece(SEGMENT, 5, two)],
        "only packed": [piece(PACKED, 1, packed(1, one)), piece(PACKED, 5, packed(5, two))],
        "crashed": [
            *(piece(SEGMENT, 1, one), piece(PACKED, 1, packed(1, one)), piece(LEFT, 5, two)),
            *(piece(SEGMENT, 5, two), piece(SEGMENT, 9, three)),
        ],
        "erased": [piece(SEGMENT, 1, one), piece(SEGMENT, 9, three), piece(ERASED, 0, erased)],
        "packed and erased": [piece(PACKED, 1, packed(1, one)), piece(SEGMENT, 9, three), piece(ERASED, 0, erased)],
    }
    for name, pieces in logs.items():
        (folder / name).write_bytes(b"".join(pieces))


def piece(kind: int, base: int, content: bytes) -> bytes:
    """One file of a log."""
    return struct.pack("<BBH", kind + FIXED, base, len(content)) + content


def segment(base: int) -> bytes:
    """Two batches of two records."""
    batches = b""
    for sequence in (base, base + 2):
        batch = bytearray(rig.batch([("a", "id", b"payload"), ("b", "", bytes(100))]))
        struct.pack_into("<QQII", batch, 8, sequence, sequence, 1, 0)
        batches += bytes(batch)
    return batches


def packed(base: int, content: bytes) -> bytes:
    """A segment of four records as ``toy.c`` compresses it: here, not at all."""
    pieces = [content[at : at + 128] for at in range(0, len(content), 128)]
    frame = b"".join(bytes([len(part) - 1]) + part for part in pieces)
    index = struct.pack("<QIIIIQ", 80, len(frame), 0, 0, 0, base)
    stored = 80 + len(frame) + len(index)
    header = struct.pack("<4sIQQQQQQIIQII", b"PDZ1", FRAME, base, 3, len(content), stored, 1, 3, 1, 1, 1, 0, 0)
    return header + frame + index


def journal(*entries: tuple[int, int, int]) -> bytes:
    """Records of kind, number and sequence."""
    return b"".join(struct.pack("<IBBHQ", 0, kind, 0, number, sequence) for kind, number, sequence in entries)
