"""Stamps and identifiers."""

from __future__ import annotations

import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from platformd.core.clock import parse_rfc3339, rfc3339
from platformd.core.ids import is_name, uuid7


class FixedClock:
    def __init__(self, now: int) -> None:
        self.now = now

    def time_ns(self) -> int:
        return self.now

    def monotonic(self) -> float:
        return self.now / 1e9


@given(st.integers(min_value=0, max_value=4_102_444_800_000_000))
def test_stamps_can_be_read_again(microseconds: int) -> None:
    """A stamp keeps its microseconds."""
    assert parse_rfc3339(rfc3339(microseconds * 1000)) == microseconds * 1000


def test_a_stamp_without_a_zone_is_refused() -> None:
    """Local times are ambiguous, so they are no stamps."""
    with pytest.raises(ValueError, match="no time zone"):
        parse_rfc3339("2026-01-01T00:00:00")


def test_ids_are_version_7_and_sort_by_time() -> None:
    """An id says when it was made, so ids sort by creation."""
    clock = FixedClock(1_700_000_000_000_000_000)
    new = uuid7(clock, random_bytes=lambda n: b"\xff" * n)
    first = uuid.UUID(new())
    clock.now += 1_000_000
    second = uuid.UUID(new())
    assert first.version == 7
    assert first.variant == uuid.RFC_4122
    assert str(first) < str(second)


@pytest.mark.parametrize("name", ["a", "alerts", "a.b-c_d", "0x", "a" * 63])
def test_names(name: str) -> None:
    """Lower-case letters, digits and inner signs make a name."""
    assert is_name(name)


@pytest.mark.parametrize("name", ["", "A", "-a", "a-", "a/b", "a b", "a" * 64, "..", "a..b", "ä", "a\n"])
def test_what_is_no_name(name: str) -> None:
    """What could leave its place in a path or a key is no name."""
    assert not is_name(name)
