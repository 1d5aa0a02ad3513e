"""What can be computed for a packet: named annotators, each with the fields it reads and the values it gives.

An input that is null or missing gives a null annotation and no failure: "unknown" is then the true answer,
and whoever needs the value says so in an expression (``annotations.delta_mag != null && …``).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

Annotation = float | None


@dataclass(frozen=True, kw_only=True)
class Annotator:
    """One of them."""

    name: str
    summary: str
    reads: frozenset[str]
    """Dotted paths of the packet's fields."""
    gives: tuple[str, ...]
    """The names of its values under ``annotations``."""
    compute: Callable[[Mapping[str, Any]], dict[str, Annotation]]
    """The values for a packet; never fails on a packet whose fields are null, missing or of another type."""


_TO_GALACTIC = (
    (-0.0548755604, -0.8734370902, -0.4838350155),
    (+0.4941094279, -0.4448296300, +0.7469822445),
    (-0.8676661490, -0.1980763734, +0.4559837762),
)
"""Equatorial (ICRS, J2000) to galactic unit vectors: the transpose of A_G in ESA, The Hipparcos and Tycho
Catalogues (SP-1200, 1997), vol. 1, equation 1.5.11, which fixes the system of the IAU of 1958 by the north
galactic pole at 192.85948, +27.12825 and the ascending node of the plane at galactic longitude 32.93192
degrees (equations 1.5.9 and 1.5.10). The ICRS and the mean equator of J2000 differ by some 0.02 arcsec."""


def galactic(ra: float, dec: float) -> tuple[float, float]:
    """Galactic longitude (0 to 360) and latitude (-90 to 90) of a position, all in degrees.

    Args:
        ra: right ascension, J2000.
        dec: declination, J2000.
    """
    alpha, delta = math.radians(ra), math.radians(dec)
    x, y, z = math.cos(delta) * math.cos(alpha), math.cos(delta) * math.sin(alpha), math.sin(delta)
    u, v, w = (row[0] * x + row[1] * y + row[2] * z for row in _TO_GALACTIC)
    # atan2 keeps its precision at the poles, where asin(w) loses half of the digits.
    return math.degrees(math.atan2(v, u)) % 360.0, math.degrees(math.atan2(w, math.hypot(u, v)))


def _galactic(packet: Mapping[str, Any]) -> dict[str, Annotation]:
    ra, dec = _number(_at(packet, "candidate", "ra")), _number(_at(packet, "candidate", "dec"))
    if ra is None or dec is None or not -90.0 <= dec <= 90.0:
        return {"galactic_longitude": None, "galactic_latitude": None}
    longitude, latitude = galactic(ra, dec)
    return {"galactic_longitude": longitude, "galactic_latitude": latitude}


def _delta_mag(packet: Mapping[str, Any]) -> dict[str, Annotation]:
    """Against the latest earlier detection in the same band. An upper limit, which has no ``magpsf``, is no
    detection."""
    nothing: dict[str, Annotation] = {"delta_mag": None, "delta_days": None}
    magnitude, jd = _number(_at(packet, "candidate", "magpsf")), _number(_at(packet, "candidate", "jd"))
    band, history = _at(packet, "candidate", "fid"), packet.get("prv_candidates")
    if magnitude is None or jd is None or band is None or not isinstance(history, list):
        return nothing
    latest: tuple[float, float] | None = None
    for earlier in history:
        if not isinstance(earlier, Mapping) or earlier.get("fid") != band:
            continue
        then, was = _number(earlier.get("jd")), _number(earlier.get("magpsf"))
        if then is not None and was is not None and then < jd and (latest is None or then > latest[0]):
            latest = then, was
    return nothing if latest is None else {"delta_mag": magnitude - latest[1], "delta_days": jd - latest[0]}


def _at(packet: Mapping[str, Any], record: str, name: str) -> Any:
    found = packet.get(record)
    return found.get(name) if isinstance(found, Mapping) else None


def _number(value: Any) -> float | None:
    if isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value):
        return float(value)
    return None


ANNOTATORS: dict[str, Annotator] = {
    a.name: a
    for a in (
        Annotator(
            name="galactic",
            summary="galactic longitude and latitude of candidate.ra, candidate.dec, degrees",
            reads=frozenset({"candidate.ra", "candidate.dec"}),
            gives=("galactic_longitude", "galactic_latitude"),
            compute=_galactic,
        ),
        Annotator(
            name="delta_mag",
            summary="candidate.magpsf minus that of the latest earlier detection in its band, and the days between",
            reads=frozenset(
                f"{record}.{name}" for record in ("candidate", "prv_candidates") for name in ("jd", "fid", "magpsf")
            ),
            gives=("delta_mag", "delta_days"),
            compute=_delta_mag,
        ),
    )
}
"""Every annotator by its name."""
