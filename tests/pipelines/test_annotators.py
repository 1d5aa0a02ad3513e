"""Annotators: positions against published ones, and magnitudes against the right earlier detection."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from platformd.pipelines.annotators import ANNOTATORS, galactic

PUBLISHED = [
    # SIMBAD, J2000: right ascension, declination, galactic longitude and latitude, degrees.
    ("M 31", 10.684708, 41.268750, 121.174322, -21.573309),
    ("Crab", 83.633083, 22.014500, 184.557456, -5.784358),
    ("Vega", 279.234735, 38.783689, 67.448206, 19.237236),
    ("M 87", 187.705931, 12.391123, 283.777798, 74.491137),
    ("Sgr A*", 266.416817, -29.007825, 359.944235, -0.046157),
    ("LMC", 80.894167, -69.756111, 280.465190, -32.888433),
]


@pytest.mark.parametrize(
    ("ra", "dec", "longitude", "latitude"), [p[1:] for p in PUBLISHED], ids=[p[0] for p in PUBLISHED]
)
def test_known_objects(ra: float, dec: float, longitude: float, latitude: float) -> None:
    """Well-known objects are where the catalogues have them, to a few arcseconds."""
    assert galactic(ra, dec) == pytest.approx((longitude, latitude), abs=2e-3)


def test_the_axes() -> None:
    """The pole, the centre and the celestial pole are where the Hipparcos catalogue defines them."""
    assert galactic(192.85948, 27.12825)[1] == pytest.approx(90.0, abs=1e-6)
    assert galactic(12.85948, -27.12825)[1] == pytest.approx(-90.0, abs=1e-6)
    longitude, latitude = galactic(266.40510, -28.93617)
    assert (math.remainder(longitude, 360.0), latitude) == pytest.approx((0.0, 0.0), abs=1e-4)
    assert galactic(0.0, 90.0) == pytest.approx((122.93192, 27.12825), abs=1e-6)


def separation(first: tuple[float, float], second: tuple[float, float]) -> float:
    (a, b), (c, d) = [tuple(map(math.radians, p)) for p in (first, second)]
    return 2 * math.asin(math.sqrt(math.sin((d - b) / 2) ** 2 + math.cos(b) * math.cos(d) * math.sin((c - a) / 2) ** 2))


POSITIONS = st.tuples(st.floats(0, 360), st.floats(-89, 89))


@given(POSITIONS, POSITIONS)
def test_it_is_a_rotation(first: tuple[float, float], second: tuple[float, float]) -> None:
    """Distances on the sky do not depend on the system."""
    assert separation(galactic(*first), galactic(*second)) == pytest.approx(separation(first, second), abs=1e-6)


@given(st.floats(0, 360), st.floats(-90, 90))
def test_ranges(ra: float, dec: float) -> None:
    """Longitudes are in [0, 360], latitudes in [-90, 90]."""
    longitude, latitude = galactic(ra, dec)
    assert 0 <= longitude <= 360
    assert -90 <= latitude <= 90


@pytest.mark.parametrize(
    "packet",
    [
        {},
        {"candidate": None},
        {"candidate": {"ra": None, "dec": 1.0}},
        {"candidate": {"ra": 1.0}},
        {"candidate": {"ra": float("nan"), "dec": 0.0}},
        {"candidate": {"ra": "1", "dec": "2"}},
        {"candidate": {"ra": 1.0, "dec": 91.0}},
    ],
)
def test_no_position_gives_null(packet: dict[str, Any]) -> None:
    """Where the position is not known, the annotation is null and the packet goes on."""
    assert ANNOTATORS["galactic"].compute(packet) == {"galactic_longitude": None, "galactic_latitude": None}


def packet(*history: tuple[float | None, int | None, float | None], magpsf: float | None = 18.0) -> dict[str, Any]:
    previous = [{"jd": jd, "fid": fid, "magpsf": magnitude} for jd, fid, magnitude in history]
    return {"candidate": {"jd": 100.0, "fid": 2, "magpsf": magpsf}, "prv_candidates": previous}


@pytest.mark.parametrize(
    ("history", "delta", "days"),
    [
        ([(90.0, 2, 19.0), (95.0, 2, 18.5)], -0.5, 5.0),
        ([(95.0, 2, 18.5), (90.0, 2, 19.0)], -0.5, 5.0),  # in any order
        ([(90.0, 2, 19.0), (95.0, 1, 18.5)], -1.0, 10.0),  # the other band does not count
        ([(90.0, 2, 19.0), (95.0, 2, None)], -1.0, 10.0),  # an upper limit is no detection
        ([(90.0, 2, 19.0), (100.0, 2, 17.0), (101.0, 2, 17.0)], -1.0, 10.0),  # earlier means earlier
        ([(90.0, 2, 19.0), (None, 2, 17.0), (95.0, None, 17.0)], -1.0, 10.0),
    ],
)
def test_the_latest_earlier_detection_in_the_band(history: list[Any], delta: float, days: float) -> None:
    """The difference is against the latest earlier detection in the same band."""
    found = ANNOTATORS["delta_mag"].compute(packet(*history))
    assert found == pytest.approx({"delta_mag": delta, "delta_days": days})


@pytest.mark.parametrize(
    "alert",
    [
        packet(),
        packet((95.0, 1, 18.0)),
        packet((95.0, 2, 18.0), magpsf=None),
        {"candidate": None, "prv_candidates": None},
        {"candidate": {"jd": 1.0, "fid": 1, "magpsf": 18.0}, "prv_candidates": None},
        {"candidate": {"jd": 1.0, "fid": 1, "magpsf": 18.0}, "prv_candidates": [None, 3]},
        {},
    ],
)
def test_nothing_to_compare_with_gives_null(alert: dict[str, Any]) -> None:
    """Without an earlier detection, or without the values, the difference is null and no failure."""
    assert ANNOTATORS["delta_mag"].compute(alert) == {"delta_mag": None, "delta_days": None}


def test_annotators_give_what_they_declare() -> None:
    """What is declared is what is computed: expressions over annotations are checked against it."""
    for annotator in ANNOTATORS.values():
        assert set(annotator.compute({})) == set(annotator.gives)
