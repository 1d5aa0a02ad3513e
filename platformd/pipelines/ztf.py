"""Synthetic alert packets in the public layout of ZTF 3.3, for demonstrations and tests.

The layout is written from the survey's published list of fields (names and types); the values are made up,
with plausible distributions, and follow from a seed alone. What matters for a pipeline is there: good and
bad candidates, histories with detections and upper limits, and image stamps that are most of a packet.
"""

from __future__ import annotations

import gzip
import io
import math
import random
import struct
from collections.abc import Iterator
from functools import cache
from typing import Any

import fastavro

SCHEMA_VERSION = "3.3"
STAMP_PIXELS = 63
STAMPS = 16
"""How many different stamps of a kind there are: making one takes longer than all the rest of a packet."""
FIRST_JD = 2460200.5
"""The synthetic night's midnight, Julian date."""
FIRST_NIGHT = 2465
"""Its number since the survey's first night."""
BANDS = {1: "g", 2: "r", 3: "i"}

_CANDIDATE = """
jd:double fid:int pid:long diffmaglim:float? pdiffimfilename:string? programpi:string? programid:int candid:long
isdiffpos:string tblid:long? nid:int? rcid:int? field:int? xpos:float? ypos:float? ra:double dec:double magpsf:float
sigmapsf:float chipsf:float? magap:float? sigmagap:float? distnr:float? magnr:float? sigmagnr:float? chinr:float?
sharpnr:float? sky:float? magdiff:float? fwhm:float? classtar:float? mindtoedge:float? magfromlim:float?
seeratio:float? aimage:float? bimage:float? aimagerat:float? bimagerat:float? elong:float? nneg:int? nbad:int?
rb:float? ssdistnr:float? ssmagnr:float? ssnamenr:string? sumrat:float? magapbig:float? sigmagapbig:float?
ranr:double decnr:double sgmag1:float? srmag1:float? simag1:float? szmag1:float? sgscore1:float? distpsnr1:float?
ndethist:int ncovhist:int jdstarthist:double? jdendhist:double? scorr:double? tooflag:int? objectidps1:long?
objectidps2:long? sgmag2:float? srmag2:float? simag2:float? szmag2:float? sgscore2:float? distpsnr2:float?
objectidps3:long? sgmag3:float? srmag3:float? simag3:float? szmag3:float? sgscore3:float? distpsnr3:float?
nmtchps:int rfid:long jdstartref:double jdendref:double nframesref:int rbversion:string dsnrms:float? ssnrms:float?
dsdiff:float? magzpsci:float? magzpsciunc:float? magzpscirms:float? nmatches:int clrcoeff:float? clrcounc:float?
zpclrcov:float? zpmed:float? clrmed:float? clrrms:float? neargaia:float? neargaiabright:float? maggaia:float?
maggaiabright:float? exptime:float? drb:float? drbversion:string
"""
"""Fields of a candidate, in order: name and type, ``?`` where it may be null."""

_PREVIOUS = """
jd:double fid:int pid:long diffmaglim:float? pdiffimfilename:string? programpi:string? programid:int candid:long?
isdiffpos:string? tblid:long? nid:int? rcid:int? field:int? xpos:float? ypos:float? ra:double? dec:double?
magpsf:float? sigmapsf:float? chipsf:float? magap:float? sigmagap:float? distnr:float? magnr:float? sigmagnr:float?
chinr:float? sharpnr:float? sky:float? magdiff:float? fwhm:float? classtar:float? mindtoedge:float? magfromlim:float?
seeratio:float? aimage:float? bimage:float? aimagerat:float? bimagerat:float? elong:float? nneg:int? nbad:int?
rb:float? ssdistnr:float? ssmagnr:float? ssnamenr:string? sumrat:float? magapbig:float? sigmagapbig:float?
ranr:double? decnr:double? scorr:double? magzpsci:float? magzpsciunc:float? magzpscirms:float? clrcoeff:float?
clrcounc:float? rbversion:string
"""

_FORCED = """
field:int? rcid:int? fid:int pid:long rfid:long sciinpseeing:float? scibckgnd:float? scisigpix:float? magzpsci:float?
magzpsciunc:float? magzpscirms:float? clrcoeff:float? clrcounc:float? exptime:float? adpctdif1:float? adpctdif2:float?
diffmaglim:float? programid:int jd:double forcediffimflux:float? forcediffimfluxunc:float? procstatus:string?
distnr:float ranr:double decnr:double magnr:float? sigmagnr:float? chinr:float? sharpnr:float?
"""

_DOCS = {
    "jd": "start of the exposure, Julian date",
    "fid": "filter: 1 g, 2 r, 3 i",
    "candid": "identifies the candidate",
    "ra": "right ascension, J2000, degrees",
    "dec": "declination, J2000, degrees",
    "magpsf": "magnitude of the point source fitted to the difference image",
    "sigmapsf": "standard error of magpsf",
    "diffmaglim": "5-sigma limit of the difference image, magnitudes",
    "rb": "how real it looks, 0 to 1",
    "drb": "how real it looks to the deep-learning classifier, 0 to 1",
    "nbad": "bad pixels near the centre",
    "isdiffpos": "t: brighter than the reference image; f: fainter",
    "forcediffimflux": "flux forced at the position in the difference image",
}
"""What the fields mean that pipelines use most."""

_STAMPS = {"Science": 400.0, "Template": 60.0, "Difference": 340.0}
"""The kinds of stamps, with the brightest pixel of each."""

_NOTHING: dict[str, Any] = {"float": -999.0, "double": 0.0, "int": 0, "long": 0, "string": "null"}
"""What a field has that nothing here computes: the survey's own marks for "no value"."""


@cache
def schema() -> Any:
    """The parsed Avro schema of a packet."""
    stamp = {
        "type": "record",
        "name": "ztf.alert.cutout",
        "fields": [_field("fileName", "string"), {"name": "stampData", "type": "bytes", "doc": "gzipped FITS"}],
    }

    def history(record: str, table: str) -> Any:
        items = {"type": "record", "name": f"ztf.alert.{record}", "fields": _fields(table)}
        return [{"type": "array", "items": items}, "null"]

    candidate = {"type": "record", "name": "ztf.alert.candidate", "fields": _fields(_CANDIDATE)}
    return fastavro.parse_schema(
        {
            "type": "record",
            "name": "ztf.alert",
            "doc": "a synthetic packet in the layout of the public ZTF alerts",
            "version": SCHEMA_VERSION,
            "fields": [
                *(_field(name, "string") for name in ("schemavsn", "publisher", "objectId")),
                _field("candid", "long"),
                {"name": "candidate", "type": candidate},
                {"name": "prv_candidates", "type": history("prv_candidate", _PREVIOUS), "default": None},
                {"name": "fp_hists", "type": history("fp_hist", _FORCED), "default": None},
                {"name": "cutoutScience", "type": [stamp, "null"], "default": None},
                {"name": "cutoutTemplate", "type": ["ztf.alert.cutout", "null"], "default": None},
                {"name": "cutoutDifference", "type": ["ztf.alert.cutout", "null"], "default": None},
            ],
        }
    )


def packets(count: int, seed: int = 0) -> Iterator[dict[str, Any]]:
    """``count`` packets of one synthetic night, the same for the same seed."""
    rng = random.Random(seed)
    stamps = {kind: [_stamp(rng, peak) for _ in range(STAMPS)] for kind, peak in _STAMPS.items()}
    for number in range(count):
        yield _packet(rng, number, stamps)


def encoded(packet: dict[str, Any]) -> bytes:
    """A packet as an object container, as the survey sends it."""
    out = io.BytesIO()
    # The marker is random by default; here the same packet makes the same bytes.
    marker = struct.pack(">QQ", packet["candid"], 0x5A5446)
    fastavro.writer(out, schema(), [packet], codec="null", sync_marker=marker)
    return out.getvalue()


def fits_image(pixels: list[float], side: int) -> bytes:
    """A minimal FITS file with one square image of 32-bit floats (FITS Standard 4.0, sections 3 and 4).

    The header is 80-character cards, the data big-endian; both are padded to blocks of 2880 bytes.
    """
    cards = [("SIMPLE", "T"), ("BITPIX", "-32"), ("NAXIS", "2"), ("NAXIS1", str(side)), ("NAXIS2", str(side))]
    header = "".join(f"{name:<8}= {value:>20}".ljust(80) for name, value in cards) + "END".ljust(80)
    data = struct.pack(f">{side * side}f", *pixels)
    return header.ljust(-(-len(header) // 2880) * 2880).encode() + data.ljust(-(-len(data) // 2880) * 2880, b"\0")


def _fields(table: str) -> list[dict[str, Any]]:
    return [_field(*entry.split(":")) for entry in table.split()]


def _field(name: str, kind: str) -> dict[str, Any]:
    field: dict[str, Any] = {"name": name, "type": kind}
    if kind.endswith("?"):
        field |= {"type": [kind[:-1], "null"], "default": None}
    return field | ({"doc": _DOCS[name]} if name in _DOCS else {})


@cache
def _blank(table: str) -> dict[str, Any]:
    """A record with nothing in it."""
    return {name: _NOTHING[kind.rstrip("?")] for name, kind in (e.split(":") for e in table.split())}


def _packet(rng: random.Random, number: int, images: dict[str, list[bytes]]) -> dict[str, Any]:
    pid = FIRST_NIGHT * 10**9 + rng.randrange(10**6) * 1000 + 15
    candid = pid * 1_000_000 + number
    candidate = _candidate(rng, candid, pid)
    history = _history(rng, candidate)
    detections = [p for p in history if p["magpsf"] is not None]
    candidate |= {"ndethist": len(detections) + 1, "ncovhist": len(history) * 3 + 1}
    candidate |= {"jdstarthist": min((p["jd"] for p in detections), default=candidate["jd"])}
    name = "ZTF23" + "".join(rng.choice("abcdefghijklmnopqrstuvwxyz") for _ in range(7))
    stamps = {
        f"cutout{kind}": {
            "fileName": f"candid{candid}_pid{pid}_target{kind[:3].lower()}.fits.gz",
            "stampData": images[kind][number % STAMPS],
        }
        for kind in _STAMPS
    }
    return {
        "schemavsn": SCHEMA_VERSION,
        "publisher": "platformd (synthetic)",
        "objectId": name,
        "candid": candid,
        "candidate": candidate,
        "prv_candidates": history or None,
        "fp_hists": _forced(rng, candidate) or None,
        **stamps,
    }


def _candidate(rng: random.Random, candid: int, pid: int) -> dict[str, Any]:
    # Uniform over the sky north of -28 degrees: uniform in the sine of the declination.
    low = math.sin(math.radians(-28.0))
    dec = math.degrees(math.asin(low + (1.0 - low) * rng.random()))
    ra, band = rng.uniform(0.0, 360.0), rng.choices((1, 2, 3), (45, 50, 5))[0]
    limit = rng.gauss(20.3, 0.4)
    # Counts grow with magnitude up to the limit; half of what is found is not real.
    magnitude = min(limit - 0.05, 20.6 - rng.expovariate(0.55))
    real = rng.random() < 0.55
    score = rng.betavariate(6, 2) if real else rng.betavariate(2, 5)
    error = max(0.01, 0.2 * 10 ** (0.4 * (magnitude - limit)))
    x, y = rng.uniform(5, 3067), rng.uniform(5, 3075)
    return _blank(_CANDIDATE) | {
        "jd": round(FIRST_JD + rng.uniform(0.1, 0.5), 7),
        "fid": band,
        "pid": pid,
        "diffmaglim": limit,
        "pdiffimfilename": f"synthetic_z{BANDS[band]}_scimrefdiffimg.fits",
        "programpi": "none",
        "programid": 1,
        "candid": candid,
        "isdiffpos": "t" if rng.random() < 0.7 else "f",
        "tblid": rng.randrange(1, 200),
        "nid": FIRST_NIGHT,
        "rcid": rng.randrange(64),
        "field": rng.randrange(245, 880),
        "xpos": x,
        "ypos": y,
        "ra": ra,
        "dec": dec,
        "magpsf": magnitude,
        "sigmapsf": error,
        "chipsf": rng.lognormvariate(0.3, 0.5),
        "magap": magnitude + rng.gauss(0.0, 0.1),
        "sigmagap": error * 1.3,
        "distnr": rng.expovariate(0.3),
        "magnr": rng.gauss(19.0, 2.0),
        "fwhm": rng.gauss(2.2, 0.4),
        "classtar": rng.random(),
        "mindtoedge": min(x, y, 3072 - x, 3080 - y),
        "elong": 1.0 + rng.expovariate(6.0),
        "nneg": rng.randrange(0, 8),
        "nbad": 0 if rng.random() < (0.95 if real else 0.6) else rng.randrange(1, 6),
        "rb": score,
        "drb": min(1.0, max(0.0, score + rng.gauss(0.05, 0.08))),
        "rbversion": "synthetic",
        "drbversion": "synthetic",
        "ranr": ra + rng.gauss(0, 1e-4),
        "decnr": max(-90.0, min(90.0, dec + rng.gauss(0, 1e-4))),
        "jdendhist": FIRST_JD,
        "scorr": rng.uniform(5.0, 40.0),
        "exptime": 30.0,
        "magzpsci": rng.gauss(26.2, 0.1),
        "jdstartref": FIRST_JD - 900.0,
        "jdendref": FIRST_JD - 600.0,
        "nframesref": 40,
    }


def _history(rng: random.Random, candidate: dict[str, Any]) -> list[dict[str, Any]]:
    """The last 30 days at the position: detections, and limits where nothing was found."""
    times = sorted(candidate["jd"] - rng.uniform(0.5, 30.0) for _ in range(rng.randrange(0, 31)))
    history = []
    for jd in times:
        band = rng.choice((1, 2))
        night = FIRST_NIGHT - math.ceil(candidate["jd"] - jd)
        pid = night * 10**9 + rng.randrange(10**9)
        previous: dict[str, Any] = dict.fromkeys(_blank(_PREVIOUS)) | {
            "jd": round(jd, 7),
            "fid": band,
            "pid": pid,
            "diffmaglim": rng.gauss(20.3, 0.4),
            "programid": 1,
            "programpi": "none",
            "nid": night,
            "rcid": candidate["rcid"],
            "field": candidate["field"],
            "rbversion": "synthetic",
        }
        if rng.random() < 0.4:
            magnitude = candidate["magpsf"] + rng.gauss(0.3, 0.5)
            previous |= {
                "candid": pid * 1_000_000 + rng.randrange(10**6),
                "isdiffpos": candidate["isdiffpos"],
                "ra": candidate["ra"] + rng.gauss(0, 3e-5),
                "dec": max(-90.0, min(90.0, candidate["dec"] + rng.gauss(0, 3e-5))),
                "magpsf": magnitude,
                "sigmapsf": 0.1,
                "rb": candidate["rb"],
                "nbad": 0,
            }
        history.append(previous)
    return history


def _forced(rng: random.Random, candidate: dict[str, Any]) -> list[dict[str, Any]]:
    """Photometry forced at the position on a few earlier nights."""
    blank = _blank(_FORCED)
    history = []
    for nights in range(rng.randrange(0, 13), 0, -1):
        history.append(
            blank
            | {
                "fid": rng.choice((1, 2)),
                "pid": (FIRST_NIGHT - 2 * nights) * 10**9 + rng.randrange(10**9),
                "jd": round(candidate["jd"] - 2 * nights - rng.random(), 7),
                "programid": 1,
                "forcediffimflux": rng.gauss(20.0, 60.0),
                "forcediffimfluxunc": abs(rng.gauss(25.0, 5.0)),
                "procstatus": "0",
                "diffmaglim": rng.gauss(20.3, 0.4),
                "ranr": candidate["ranr"],
                "decnr": candidate["decnr"],
                "exptime": 30.0,
            }
        )
    return history


def _stamp(rng: random.Random, peak: float) -> bytes:
    """A star of some 2 pixels' width on noise, quantised as a detector's counts are, gzipped."""
    side, centre = STAMP_PIXELS, STAMP_PIXELS // 2
    noise = [float(round(rng.gauss(0.0, 4.0))) for _ in range(512)]
    shift = rng.randrange(512)
    pixels = [noise[(i * 7 + (i // side) * 13 + shift) % 512] for i in range(side * side)]
    for y in range(centre - 6, centre + 7):
        for x in range(centre - 6, centre + 7):
            distance = (x - centre) ** 2 + (y - centre) ** 2
            pixels[y * side + x] += round(peak * math.exp(-distance / 8.0))
    # mtime=0: gzip's header would otherwise carry the time of day.
    return gzip.compress(fits_image(pixels, side), compresslevel=6, mtime=0)
