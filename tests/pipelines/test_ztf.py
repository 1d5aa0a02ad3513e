"""Synthetic packets: a layout that reads as the survey's, values that are plausible, all from a seed."""

from __future__ import annotations

import gzip
import struct

from platformd.pipelines import ztf
from platformd.pipelines.avro import PacketReader
from platformd.pipelines.expressions import Expression
from tests.pipelines.packets import read_all

PACKETS = list(ztf.packets(60, seed=5))


def test_the_same_seed_makes_the_same_bytes() -> None:
    """A demonstration can be repeated."""
    first = [ztf.encoded(p) for p in ztf.packets(3, seed=1)]
    assert first == [ztf.encoded(p) for p in ztf.packets(3, seed=1)]
    assert first != [ztf.encoded(p) for p in ztf.packets(3, seed=2)]


def test_what_is_encoded_reads_back() -> None:
    """fastavro, which knows nothing of the generator, reads all fields."""
    (packet,) = read_all(ztf.encoded(PACKETS[0]))
    assert packet["candid"] == PACKETS[0]["candid"]
    assert packet["schemavsn"] == "3.3"
    assert len(packet["candidate"]) == 103
    assert set(packet) >= {
        "objectId",
        "prv_candidates",
        "fp_hists",
        "cutoutScience",
        "cutoutTemplate",
        "cutoutDifference",
    }
    assert PacketReader().read(ztf.encoded(PACKETS[0])) == packet


def test_candids_are_unique() -> None:
    """They are what the outputs are told apart by."""
    assert len({p["candid"] for p in ztf.packets(300)}) == 300


def test_values_are_plausible() -> None:
    """Positions are in the survey's sky, scores in their range, and some pass the usual filter and some do not."""
    for p in PACKETS:
        c = p["candidate"]
        assert 0 <= c["ra"] < 360
        assert -28.01 <= c["dec"] <= 90
        assert 0 <= c["rb"] <= 1
        assert 0 <= c["drb"] <= 1
        assert c["magpsf"] < c["diffmaglim"]
        assert c["fid"] in ztf.BANDS
        assert all(q["jd"] < c["jd"] for q in p["prv_candidates"] or ())
    wanted = Expression("candidate.rb >= 0.55 && candidate.nbad == 0 && candidate.magpsf < 19.5")
    assert 0.1 < sum(wanted(p, {}) for p in PACKETS) / len(PACKETS) < 0.6


def test_histories_have_detections_and_limits() -> None:
    """An upper limit has no magnitude, and some packets have no history at all."""
    earlier = [q for p in PACKETS for q in p["prv_candidates"] or ()]
    assert {q["magpsf"] is None for q in earlier} == {True, False}
    assert all((q["magpsf"] is None) == (q["candid"] is None) for q in earlier)
    assert max(len(p["prv_candidates"] or ()) for p in PACKETS) <= 30
    assert any(p["prv_candidates"] is None for p in ztf.packets(100, seed=5))


def test_stamps_are_fits_images() -> None:
    """A stamp is a gzipped FITS file: cards of 80 characters, blocks of 2880 bytes, big-endian floats."""
    data = gzip.decompress(PACKETS[0]["cutoutScience"]["stampData"])
    assert len(data) % 2880 == 0
    cards = [data[i : i + 80].decode("ascii") for i in range(0, 480, 80)]
    assert [c[:8].strip() for c in cards] == ["SIMPLE", "BITPIX", "NAXIS", "NAXIS1", "NAXIS2", "END"]
    assert [c[10:30].strip() for c in cards[:5]] == ["T", "-32", "2", "63", "63"]
    pixels = struct.unpack(">3969f", data[2880 : 2880 + 4 * 3969])
    assert abs(pixels.index(max(pixels)) - (31 * 63 + 31)) in {0, 1, 62, 63, 64}  # the star is in the middle
